//! What the benchmarks compare with: newer or other programs than the tests need, kept in the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{execute, note, output, step};
use crate::{Result, workspace};

/// With offloads, which the one in Debian 12 lacks: bookworm-backports has it.
const WIREGUARD_GO: &str = "0.0.20231211-1~bpo12+1";
const BACKPORTS: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                         http://deb.debian.org/debian bookworm-backports main\n";

/// From crates.io.
const ONETUN: &str = "0.3.10";

/// The peers' programs, in directories for PATH.
pub(crate) struct Peers {
    /// For the front of PATH.
    pub(crate) directories: Vec<PathBuf>,
    /// `wireguard-go 0.0.1, onetun 0.3.10`
    pub(crate) description: String,
}

/// The peers, downloaded and built at the first call.
pub(crate) fn get() -> Result<Peers> {
    step("peers");
    let peers = workspace::target()?.join("peers");
    let wireguard_go = peers.join(format!("wireguard-go-{WIREGUARD_GO}"));
    if !wireguard_go.exists() {
        get_wireguard_go(&peers, &wireguard_go)?;
    }
    let onetun = peers.join(format!("onetun-{ONETUN}"));
    if !onetun.exists() {
        get_onetun(&peers, &onetun)?;
    }
    let description = format!("wireguard-go {WIREGUARD_GO}, onetun {ONETUN}");
    note(&description);
    Ok(Peers { directories: vec![wireguard_go.join("usr/bin"), onetun.join("bin")], description })
}

/// The package's files, without installing it: the machine keeps the wireguard-go it has.
fn get_wireguard_go(peers: &Path, to: &Path) -> Result<()> {
    let version = output(Command::new("dpkg").arg("--print-architecture"));
    version.map_err(|error| format!("wireguard-go {WIREGUARD_GO} comes as a Debian package: {error}"))?;
    fs::create_dir_all(peers)?;
    // Beside its final place, so that the last step is an atomic rename.
    let work = tempfile::tempdir_in(peers)?;
    let path = |name: &str| work.path().join(name);
    for directory in ["lists/partial", "archives/partial", "files"] {
        fs::create_dir_all(path(directory))?;
    }
    fs::write(path("sources.list"), BACKPORTS)?;
    // Lists and caches of its own, so that nothing of the system's apt changes.
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        let options = [
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("Dir::State::lists", path("lists")),
            ("Dir::Cache", path("")),
            ("APT::Sandbox::User", "root".into()),
        ];
        for (name, value) in options {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        }
        command.arg("-qq").args(arguments).current_dir(work.path());
        command
    };
    execute("package lists of bookworm-backports", &mut apt(&["update"]))?;
    execute(
        &format!("download wireguard-go {WIREGUARD_GO}"),
        &mut apt(&["download", &format!("wireguard-go={WIREGUARD_GO}")]),
    )?;
    let package = fs::read_dir(work.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or("apt-get left no package behind")?;
    execute("unpack", Command::new("dpkg-deb").arg("--extract").arg(package).arg(path("files")))?;
    Ok(fs::rename(path("files"), to)?)
}

fn get_onetun(peers: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(peers)?;
    let work = tempfile::tempdir_in(peers)?;
    let mut cargo = workspace::cargo()?;
    cargo.args(["install", "onetun", "--version", ONETUN, "--locked", "--no-track", "--root"]);
    cargo.arg(work.path().join("files")).env("CARGO_TARGET_DIR", work.path().join("build"));
    execute(&format!("onetun {ONETUN}"), &mut cargo)?;
    Ok(fs::rename(work.path().join("files"), to)?)
}
