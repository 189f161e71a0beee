//! The real Envoy, when there is one.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The Envoy binary of `ENVOY_BIN`; without it says that the test is skipped.
pub fn binary(test: &str) -> Option<PathBuf> {
    let binary = env::var_os("ENVOY_BIN").map(PathBuf::from);
    if binary.is_none() {
        eprintln!("{test}: skipped, ENVOY_BIN is not set");
    }
    binary
}

/// Whether the module can be loaded: then `ENVOY_DYNAMIC_MODULES_SEARCH_PATH` is set, and Envoy inherits it.
pub fn has_module() -> bool {
    env::var_os("ENVOY_DYNAMIC_MODULES_SEARCH_PATH")
        .is_some_and(|directory| Path::new(&directory).join("libnexodus.so").exists())
}

/// Runs `envoy --mode validate`; what Envoy says on failure is the error.
pub fn validate(binary: &Path, bootstrap: &Value) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bootstrap.json");
    fs::write(&file, serde_json::to_vec_pretty(bootstrap).unwrap()).unwrap();
    let output = Command::new(binary)
        .args(["--mode", "validate", "--disable-hot-restart", "--log-level", "warning", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // A warning, of a deprecated field for example, is a failure too.
    if output.status.success() && said.is_empty() { Ok(()) } else { Err(said) }
}
