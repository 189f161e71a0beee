//! onetun, a peer of ours in userspace: boringtun and smoltcp behind local ports.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use e2e::{Identity, Namespace, Process};

use crate::Result;

/// Starts it in a namespace: what connects to `local` reaches `overlay` behind `peer`. It is not ready yet. Key and log go into
/// the directory.
pub(crate) fn start(
    namespace: &Namespace,
    directory: &Path,
    own: &Identity,
    peer: &Identity,
    local: SocketAddr,
    overlay: SocketAddr,
) -> Result<Process> {
    let key = directory.join("key");
    fs::write(&key, &own.private_key)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let mut command = namespace.command("onetun");
    command.arg(format!("{local}:{overlay}:TCP,UDP")).arg("--private-key-file").arg(&key);
    command.args(["--endpoint-public-key", &peer.public_key, "--log", "error"]);
    command.arg("--endpoint-addr").arg(peer.endpoint.to_string());
    command.arg("--source-peer-ip").arg(own.v4.to_string());
    Ok(Process::start("onetun", &command, &directory.join("log")))
}
