//! What a test needs from the machine, and what it says when that is missing.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Something a test needs and the machine does not have.
#[derive(Debug)]
pub struct Missing(pub String);

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The built products and the Envoy to run them in.
#[derive(Clone, Debug)]
pub struct Products {
    /// The directory with nexd, nexctl, xds-server and libnexodus.so.
    pub directory: PathBuf,
    /// The Envoy binary.
    pub envoy: PathBuf,
}

impl Products {
    /// One of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The products, where `cargo xtask test` says they are.
///
/// # Errors
/// When the tests were started in another way.
pub fn products() -> Result<Products, Missing> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    match (variable("NEXODUS_BIN_DIR"), variable("ENVOY_BIN")) {
        (Some(directory), Some(envoy)) => Ok(Products { directory, envoy }),
        _ => Err(Missing("the built products and an Envoy: run `cargo xtask test`".into())),
    }
}

/// Whether network namespaces can be created and wireguard-go is there to run in them.
///
/// # Errors
/// Names what is missing.
pub fn namespaces() -> Result<(), Missing> {
    if !rustix::process::geteuid().is_root() {
        return Err(Missing("root, to create network namespaces".into()));
    }
    for program in ["wireguard-go", "wg", "ip", "curl", "nc", "ping", "unshare", "nsenter"] {
        let found = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        found.map_err(|_| Missing(format!("the program {program}")))?;
    }
    let unshared = Command::new("unshare").args(["--net", "true"]).output();
    match unshared {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Missing("a machine that lets root create network namespaces".into())),
    }
}

/// Whether a node can be given system files of its own, see [`NodeBuilder::mount`](crate::NodeBuilder::mount).
///
/// # Errors
/// Names what is missing.
pub fn mounts() -> Result<(), Missing> {
    let script = "mount --bind /dev/null /etc/resolv.conf";
    let mounted = Command::new("unshare").args(["--mount", "--", "sh", "-c", script]).output();
    match mounted {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Missing("root, to give a node its own /etc/resolv.conf".into())),
    }
}

/// A command prefix that drops root's rights, for tests of what an ordinary user sees; it can read the products.
///
/// # Errors
/// When not root, or when another user cannot reach the products.
pub fn as_nobody(products: &Products) -> Result<Vec<String>, Missing> {
    if !rustix::process::geteuid().is_root() {
        return Err(Missing("root, to become another user".into()));
    }
    let prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    for file in [products.program("nexd"), products.program("libnexodus.so"), products.envoy.clone()] {
        let readable = |path: &Path| {
            let test = Command::new(prefix[0]).args(&prefix[1..]).args(["test", "-r"]).arg(path).status();
            test.is_ok_and(|status| status.success())
        };
        if !readable(&file) {
            return Err(Missing(format!("{} readable for other users", file.display())));
        }
    }
    Ok(prefix.map(str::to_owned).to_vec())
}

/// Whether `::1` exists.
///
/// # Errors
/// When this machine has no IPv6 loopback address.
pub fn ipv6_loopback() -> Result<(), Missing> {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0))
        .map(|_| ())
        .map_err(|_| Missing("the IPv6 loopback address".into()))
}

/// Ends a test that cannot run here: says so, for the runner's report too. See [`need!`](crate::need).
///
/// # Panics
/// In CI, where nothing may be missing.
pub fn skipped(missing: &Missing) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "needs {missing}");
    note(&format!("skipped: {}: needs {missing}", test_name()));
}

/// Writes a measured number into the run's report.
pub fn measured(what: &str) {
    note(&format!("measured: {}: {what}", test_name()));
}

fn note(line: &str) {
    println!("{line}");
    if let Some(path) = std::env::var_os("NEXODUS_TEST_NOTES") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        // One write per line, so that tests in other processes cannot tear it.
        file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
            .expect("the notes file is writable");
    }
}

/// The runners name a test's thread after the test.
fn test_name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}
