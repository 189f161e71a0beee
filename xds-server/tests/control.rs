//! The control socket, spoken to as upstream's nexctl does and as nobody should.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use xds_server::control::{
    Method,
    client::Client,
    rpc::MAX_REQUEST_BYTES,
    server::{self, Limits, Refusals, Service},
    socket::{self, BindError, Owner, SocketFile},
};

const OWNER: Owner = Owner { program: "nexd", flag: "--unix-socket" };

/// Says what it was asked; refuses to remove anything.
#[derive(Clone)]
struct Echo;

impl Service for Echo {
    async fn call(&self, method: Method, argument: String) -> Result<String, String> {
        match method {
            Method::ProxyRemoveIngress => Err(format!("no: {argument}")),
            Method::Unsupported(name) => Err(format!("{name} is not supported by this nexd")),
            _ => Ok(format!("{} {argument}\n", method.as_str())),
        }
    }
}

struct Server {
    path: PathBuf,
    refusals: Arc<Refusals>,
    // In the order in which they must go.
    _runtime: tokio::runtime::Runtime,
    _file: SocketFile,
    _directory: TempDir,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nexd.sock");
        let runtime = runtime();
        let (listener, file) = runtime.block_on(socket::bind(&path, OWNER)).unwrap();
        let refusals = Arc::<Refusals>::default();
        runtime.spawn(server::serve(listener, Echo, limits, Arc::clone(&refusals)));
        Self { path, refusals, _runtime: runtime, _file: file, _directory: directory }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Reads until the other end closes.
fn rest(mut stream: &UnixStream) -> String {
    let mut text = String::new();
    // A reset is an end too.
    let _ = stream.read_to_string(&mut text);
    text
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn upstreams_requests_get_upstreams_replies() {
    let server = Server::start(Limits::default());
    let stream = server.connect();
    let mut replies = BufReader::new(&stream);
    let cases = [
        (
            r#"{"method":"NexdCtl.ProxyList","params":[""],"id":0}"#,
            r#"{"id":0,"result":"ProxyList \n","error":null}"#,
        ),
        (
            r#"{"method":"NexdCtl.Status","params":[null],"id":1}"#,
            r#"{"id":1,"result":"Status \n","error":null}"#,
        ),
        (
            r#"{"method":"NexdCtl.Status","params":null,"id":1}"#,
            r#"{"id":1,"result":"Status \n","error":null}"#,
        ),
        (
            r#"{"method":"NexdCtl.ProxyAddIngress","params":["tcp:80:[::1]:80"],"id":"a"}"#,
            r#"{"id":"a","result":"ProxyAddIngress tcp:80:[::1]:80\n","error":null}"#,
        ),
        (
            r#"{"method":"NexdCtl.ProxyRemoveIngress","params":["x"],"id":2}"#,
            r#"{"id":2,"result":null,"error":"no: x"}"#,
        ),
        (
            r#"{"method":"NexdCtl.X","params":[""],"id":3}"#,
            r#"{"id":3,"result":null,"error":"rpc: can't find method NexdCtl.X"}"#,
        ),
        (
            r#"{"method":"NexdCtl.ListExitNodes","params":[""],"id":4}"#,
            r#"{"id":4,"result":null,"error":"ListExitNodes is not supported by this nexd"}"#,
        ),
        (
            r#"{"method":"NexdCtl.Status","params":[5],"id":5}"#,
            r#"{"id":5,"result":null,"error":"the parameter must be a string"}"#,
        ),
    ];
    // On one connection, one after another; with and without a newline after the request.
    for (number, (request, reply)) in cases.iter().enumerate() {
        (&stream).write_all(request.as_bytes()).unwrap();
        if number % 2 == 0 {
            (&stream).write_all(b"\n").unwrap();
        }
        let mut line = String::new();
        replies.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{reply}\n"));
    }
    // All at once: answered in order.
    let requests: String = cases.iter().map(|(request, _)| format!("{request}\n")).collect();
    (&stream).write_all(requests.as_bytes()).unwrap();
    for (_, reply) in &cases {
        let mut line = String::new();
        replies.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{reply}\n"));
    }
}

#[test]
fn what_is_no_request_closes_its_connection_only() {
    let server = Server::start(Limits::default());
    let good = server.connect();
    let endless = format!("{{\"method\":\"{}", "x".repeat(2 * MAX_REQUEST_BYTES));
    for (number, bytes) in
        [b"no json\n".as_slice(), b"{]", b"[1,2]", endless.as_bytes()].into_iter().enumerate()
    {
        let stream = server.connect();
        // The other end may close before everything is written.
        let _ = (&stream).write_all(bytes);
        assert_eq!(rest(&stream), "");
        eventually("counted", || server.refusals.requests() == number as u64 + 1);
    }
    (&good).write_all(br#"{"method":"NexdCtl.Status","params":[""],"id":1}"#).unwrap();
    let mut line = String::new();
    BufReader::new(&good).read_line(&mut line).unwrap();
    assert!(line.contains("Status"), "{line}");
}

#[test]
fn connections_are_bounded() {
    let server = Server::start(Limits { connections: 3, idle: Duration::from_secs(60) });
    let client = Client::new(vec![server.path.clone()]);
    let held: Vec<_> = (0..3).map(|_| server.connect()).collect();
    assert_eq!(rest(&server.connect()), "");
    assert_eq!(server.refusals.connections(), 1);
    client.call(Method::Status, "").unwrap_err();
    drop(held);
    eventually("room again", || client.call(Method::Status, "").is_ok());
}

#[test]
fn idle_connections_are_closed() {
    let server = Server::start(Limits { connections: 3, idle: Duration::from_secs(1) });
    let stream = server.connect();
    // The beginning of a request is no request.
    (&stream).write_all(b"{\"method\"").unwrap();
    assert_eq!(rest(&stream), "");
    eventually("counted", || server.refusals.idle() == 1);
}

#[test]
fn the_client_tries_each_socket_and_names_them_all() {
    let server = Server::start(Limits::default());
    let absent = PathBuf::from("/nonexistent/nexd.sock");
    let client = Client::new(vec![absent.clone(), server.path.clone()]);
    assert_eq!(client.call(Method::ProxyAddEgress, "r").unwrap(), "ProxyAddEgress r\n");
    let error = client.call(Method::ProxyRemoveIngress, "r").unwrap_err().to_string();
    assert_eq!(error, "Failed to execute method (ProxyRemoveIngress): no: r");
    let error = Client::new(vec![absent.clone(), absent]).call(Method::Status, "").unwrap_err().to_string();
    assert_eq!(error.matches("/nonexistent/nexd.sock: No such file").count(), 2, "{error}");
}

#[test]
fn sockets_are_for_their_owner_alone_and_a_dead_one_is_replaced() {
    let runtime = runtime();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead socket lies there");
    let (_listener, file) = runtime.block_on(socket::bind(&path, OWNER)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(names(directory.path()), ["s"]);
    UnixStream::connect(&path).unwrap();
    drop(file);
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_live_socket_is_left_alone() {
    let server = Server::start(Limits::default());
    let error = runtime().block_on(socket::bind(&server.path, OWNER)).unwrap_err();
    assert!(matches!(error, BindError::Live { .. }));
    let said = error.to_string();
    assert!(said.starts_with("existing nexd service already running on "), "{said}");
    assert!(said.ends_with("; give this one another path with --unix-socket"), "{said}");
    Client::new(vec![server.path.clone()]).call(Method::Status, "").unwrap();
}

#[test]
fn other_things_in_a_sockets_place_are_left_alone() {
    let runtime = runtime();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(runtime.block_on(socket::bind(&path, OWNER)), Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let long = directory.path().join("x".repeat(100));
    assert!(matches!(runtime.block_on(socket::bind(&long, OWNER)), Err(BindError::TooLong { .. })));
}

#[test]
fn a_socket_file_that_is_not_ours_any_more_stays() {
    let runtime = runtime();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let (listener, file) = runtime.block_on(socket::bind(&path, OWNER)).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop((listener, file));
    UnixStream::connect(&path).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
