#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::nexd::cli::EnvoyLogLevel;

#[test]
fn versions() {
    let of =
        |build: &str| parse_version(&format!("\n/usr/bin/envoy  version: {build}\n\n")).map(str::to_owned);
    let hash = "9e5580933739775e8bce696a57a2e1bc99368f23";
    assert_eq!(of(&format!("{hash}/1.40.0/Clean/RELEASE/BoringSSL")), Some("1.40.0".to_owned()));
    assert_eq!(of(&format!("{hash}/1.41.0-dev/Modified/DEBUG/BoringSSL")), Some("1.41.0-dev".to_owned()));
    assert_eq!(of("1.2"), None);
    assert_eq!(parse_version("GNU bash, version 5.2.37"), None);
    // A path with something like a version in it.
    assert_eq!(parse_version("/opt/1.39.0/envoy  version: a/1.40.1/Clean/RELEASE/BoringSSL"), Some("1.40.1"));
}

#[test]
fn binaries() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "").unwrap();
    let envoy = directory.path().join("envoy");
    fs::write(&envoy, "").unwrap();
    fs::set_permissions(&envoy, fs::Permissions::from_mode(0o755)).unwrap();
    let path = Some(directory.path().as_os_str());

    assert_eq!(find_binary(None, path).unwrap(), envoy);
    assert_eq!(find_binary(Some(&envoy), None).unwrap(), envoy);
    assert!(matches!(find_binary(Some(Path::new("plain")), path), Err(EnvoyError::NotInPath { .. })));
    assert!(matches!(find_binary(None, None), Err(EnvoyError::NotInPath { .. })));
    for wrong in [&plain, directory.path(), &directory.path().join("absent")] {
        assert!(matches!(find_binary(Some(wrong), path), Err(EnvoyError::NotExecutable { .. })), "{wrong:?}");
    }
}

#[test]
fn modules() {
    let prefix = tempfile::tempdir().unwrap();
    let executable = prefix.path().join("bin/nexd");
    let error = find_module(None, &executable).unwrap_err().to_string();
    assert!(error.contains("/bin or ") && error.contains("--module-dir"), "{error}");
    let library = prefix.path().join("lib/nexodus");
    fs::create_dir_all(&library).unwrap();
    fs::write(library.join(MODULE), "").unwrap();
    assert_eq!(find_module(None, &executable).unwrap(), library);
    assert!(find_module(Some(prefix.path()), &executable).is_err());
    assert_eq!(find_module(Some(&library), &executable).unwrap(), library);
}

#[test]
fn arguments() {
    let command = EnvoyCommand {
        binary: "/usr/bin/envoy".into(),
        module_dir: "/usr/lib".into(),
        bootstrap: "/run/nexd/bootstrap.json".into(),
        drain_time: Duration::from_millis(1500),
        debug: Debug::new(false, EnvoyLogLevel::Warning, |_| Ok(())),
        concurrency: 2,
    };
    let arguments: Vec<_> =
        command.arguments().into_iter().map(|argument| argument.into_string().unwrap()).collect();
    let text = arguments.join(" ");
    assert!(text.starts_with("-c /run/nexd/bootstrap.json --disable-hot-restart"), "{text}");
    assert!(text.contains("--drain-time-s 2 ") && text.ends_with("--concurrency 2"), "{text}");
}
