//! The real Envoy, when there is one.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

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
    let said = String::from_utf8_lossy(&output.stderr);
    // A warning, of a deprecated field for example, is a failure too; but `udp_proxy` has no other way to its cluster.
    let known = |line: &&str| line.contains("UdpProxyConfig.matcher' is marked as work-in-progress");
    let said: String = said.lines().filter(|line| !known(line)).collect::<Vec<_>>().join("\n");
    if output.status.success() && said.is_empty() { Ok(()) } else { Err(said) }
}

/// An Envoy that gets everything from the ADS server at `<directory>/ads.sock`.
pub struct Envoy {
    process: Child,
    directory: PathBuf,
}

impl Envoy {
    pub fn start(binary: &Path, directory: &Path, delta: bool) -> Self {
        let bootstrap = directory.join("bootstrap.json");
        fs::write(&bootstrap, serde_json::to_vec_pretty(&with_ads(directory, delta)).unwrap()).unwrap();
        let log = fs::File::create(directory.join("envoy.log")).unwrap();
        let process = Command::new(binary)
            .arg("-c")
            .arg(&bootstrap)
            .args(["--disable-hot-restart", "--drain-time-s", "1", "--drain-strategy", "immediate"])
            .args(["--log-level", "warning", "--concurrency", "2", "--file-flush-interval-msec", "100"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, directory: directory.to_owned() }
    }

    /// What Envoy has logged: warnings and errors.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("envoy.log")).unwrap()
    }

    /// The answer of Envoy's admin interface, headers and all.
    pub fn admin(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.directory.join("admin.sock")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A counter or gauge.
    pub fn stat(&self, name: &str) -> u64 {
        let answer = self.admin(&format!("/stats?filter=^{}$", name.replace('.', "\\.")));
        let prefix = format!("{name}: ");
        let value = answer.lines().find_map(|line| line.strip_prefix(&prefix));
        value.unwrap_or_else(|| panic!("no {name} in {answer}")).parse().unwrap()
    }

    /// Waits for something; Envoy opens a listener a moment after it has accepted it.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(start.elapsed() < Duration::from_secs(15), "not {what} in time\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn with_ads(directory: &Path, delta: bool) -> Value {
    let pipe = |name: &str| json!({"pipe": {"path": directory.join(name), "mode": 0o600}});
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": pipe("admin.sock")},
        "dynamic_resources": {
            "ads_config": {
                "api_type": if delta { "DELTA_GRPC" } else { "GRPC" },
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": [{
            "name": "ads",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {
                "cluster_name": "ads",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": pipe("ads.sock")}}]}],
            },
        }]},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"},
        }],
        "overload_manager": {"resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": 10_000,
            },
        }]},
    })
}
