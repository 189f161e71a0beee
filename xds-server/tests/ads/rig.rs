//! A server with a real Envoy, and what clients and destinations need.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Runtime, sync::oneshot, task::JoinHandle};
use xds_server::{
    ads::{Ads, ApplyError, ServeError},
    names::ResolvedNames,
    rules::{Direction, RuleKey, RuleSet, Source},
    snapshot::Snapshot,
    translate::{AccessLog, Settings, resource_names, translate},
};

use crate::common::{
    envoy::{self, Envoy},
    plain::plain,
};

/// What ends a server, and what becomes of it.
type Serving = (oneshot::Sender<()>, JoinHandle<Result<(), ServeError>>);

/// A server, its Envoy, and the rules.
pub(crate) struct Rig {
    pub(crate) runtime: Runtime,
    pub(crate) ads: Ads,
    pub(crate) serving: Option<Serving>,
    pub(crate) rules: RuleSet,
    pub(crate) settings: Settings,
    pub(crate) envoy: Envoy,
    pub(crate) directory: TempDir,
    pub(crate) protocol: &'static str,
}

impl Rig {
    pub(crate) fn start(binary: &Path, delta: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            runtime_dir: directory.path().to_owned(),
            access_log: AccessLog::File(directory.path().join("access.log")),
            connect_timeout: Some(Duration::from_secs(1)),
            ipv6: xds_server::translate::host_has_ipv6(),
            ..Settings::default()
        };
        let mut rig = Self {
            runtime: Runtime::new().unwrap(),
            ads: Ads::new(),
            serving: None,
            rules: RuleSet::new(),
            settings,
            envoy: Envoy::start(binary, directory.path(), delta),
            directory,
            protocol: if delta { "delta" } else { "state of the world" },
        };
        rig.serve();
        rig
    }

    pub(crate) fn serve(&mut self) {
        let _in_runtime = self.runtime.enter();
        let socket = self.directory.path().join("ads.sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = self.runtime.spawn(self.ads.clone().serve(listener, shutdown));
        self.serving = Some((stop, task));
    }

    pub(crate) fn stop_serving(&mut self) {
        let (stop, task) = self.serving.take().unwrap();
        stop.send(()).unwrap();
        self.runtime.block_on(task).unwrap().unwrap();
    }

    pub(crate) fn add(&mut self, direction: Direction, rule: &str) {
        self.rules.add(direction, rule.parse().unwrap(), Source::Flag).unwrap();
    }

    pub(crate) fn remove(&mut self, direction: Direction, rule: &str) {
        self.rules.remove(direction, &rule.parse().unwrap()).unwrap();
    }

    /// What the rules become.
    pub(crate) fn snapshot(&self) -> Snapshot {
        plain(&translate(&self.rules, &ResolvedNames::default(), &self.settings).unwrap())
    }

    pub(crate) fn publish(&self) {
        self.ads.publish(self.snapshot());
    }

    /// Publishes the rules and waits for what becomes of the resources of one key.
    pub(crate) fn apply(&self, key: &str) -> Result<(), ApplyError> {
        let (direction, port) = key.split_once("/tcp/").unwrap();
        let direction = if direction == "egress" { Direction::Egress } else { Direction::Ingress };
        let key = RuleKey {
            direction,
            protocol: xds_server::rules::Protocol::Tcp,
            port: port.parse().unwrap(),
            bind: None,
        };
        let start = Instant::now();
        self.publish();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let outcome = self.runtime.block_on(self.ads.applied(&resource_names(key, &self.settings), deadline));
        eprintln!("{}: {key} {outcome:?} after {:?}", self.protocol, start.elapsed());
        outcome
    }

    pub(crate) fn ingress_socket(&self, port: u16) -> PathBuf {
        self.directory.path().join(format!("ingress-tcp-{port}.sock"))
    }

    pub(crate) fn access_log(&self) -> String {
        fs::read_to_string(self.directory.path().join("access.log")).unwrap_or_default()
    }

    pub(crate) fn connect(&self, port: u16) -> TcpStream {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = self.envoy.until("listening", || TcpStream::connect(address).ok());
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Envoy has said nothing at warning level but this.
    pub(crate) fn assert_log(&self, expected: &[&str]) {
        let log = self.envoy.log();
        let unexpected: Vec<_> = log
            .lines()
            .filter(|line| !line.is_empty() && !expected.iter().any(|known| line.contains(known)))
            .collect();
        assert!(unexpected.is_empty(), "{unexpected:#?}");
    }
}

/// Runs a case with both protocols.
pub(crate) fn with_both(test: &str, case: impl Fn(Rig)) {
    let Some(binary) = envoy::binary(test) else { return };
    for delta in [false, true] {
        case(Rig::start(&binary, delta));
    }
}

/// A server that answers every connection with its name and then echoes.
pub(crate) fn echo_server(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let _ = stream.write_all(name.as_bytes());
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..length]);
                }
            });
        }
    });
    port
}

pub(crate) fn read(stream: &mut impl std::io::Read, length: usize) -> String {
    let mut text = vec![0; length];
    stream.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

pub(crate) fn echo(stream: &mut (impl std::io::Read + std::io::Write), text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(read(stream, text.len()), text);
}
