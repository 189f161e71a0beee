//! An implementation of WireGuard that is not ours.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::identity::Identity;
use crate::namespace::Namespace;
use crate::process::{Process, run_ok};
use crate::wait::eventually;

/// `wireguard-go` with a TUN device in a namespace: the kernel's TCP behind somebody else's WireGuard.
pub struct WgPeer {
    interface: String,
    process: Process,
    _directory: TempDir,
}

impl WgPeer {
    /// Starts it with this identity, knowing these peers.
    ///
    /// # Panics
    /// When it cannot be set up.
    pub fn start(namespace: &Namespace, identity: &Identity, peers: &[&Identity]) -> WgPeer {
        // The control sockets of all namespaces share one directory.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let interface = format!("wg{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = namespace.command("wireguard-go");
        command.args(["-f", &interface]).env("LOG_LEVEL", "error");
        let process = Process::start("wireguard-go", &command, &directory.path().join("log"));
        let control = format!("/var/run/wireguard/{interface}.sock");
        // `wg` removes a socket that nobody listens at, and it is bound a moment before.
        eventually("wireguard-go's control socket", || UnixStream::connect(&control).is_ok());

        let peers: String = peers.iter().map(|peer| peer.peer_section()).collect();
        let configuration = directory.path().join("wg.conf");
        fs::write(&configuration, identity.interface_section() + &peers).expect("a configuration file");
        fs::set_permissions(&configuration, fs::Permissions::from_mode(0o600)).expect("an own file");
        run_ok(namespace.command("wg").args(["setconf", &interface]).arg(&configuration));
        let ip = |arguments: &[&str]| run_ok(namespace.command("ip").args(arguments));
        ip(&["address", "add", &format!("{}/24", identity.v4), "dev", &interface]);
        // No duplicate address detection: the address is usable at once.
        ip(&["address", "add", &format!("{}/64", identity.v6), "dev", &interface, "nodad"]);
        ip(&["link", "set", &interface, "up"]);
        WgPeer { interface, process, _directory: directory }
    }

    /// Sends and receives on another UDP port from here on.
    pub fn move_to_port(&self, namespace: &Namespace, port: u16) {
        run_ok(namespace.command("wg").args(["set", &self.interface, "listen-port", &port.to_string()]));
    }

    /// The process id of wireguard-go.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// What `wg show` says, such as for `latest-handshakes`.
    pub fn show(&self, namespace: &Namespace, what: &str) -> String {
        run_ok(namespace.command("wg").args(["show", &self.interface, what]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_peers_ping_each_other() {
        crate::need!(crate::namespaces());
        let (near, far) = Namespace::pair();
        let [one, two] = Identity::several();
        let (one, two) = (one.at(Namespace::NEAR), two.at(Namespace::FAR));
        let _near_peer = WgPeer::start(&near, &one, &[&two]);
        let far_peer = WgPeer::start(&far, &two, &[&one]);
        run_ok(near.command("ping").args(["-c", "1", "-W", "5", &two.v4.to_string()]));
        run_ok(far.command("ping").args(["-c", "1", "-W", "5", &one.v6.to_string()]));
        assert!(far_peer.show(&far, "latest-handshakes").contains(&one.public_key));
    }
}
