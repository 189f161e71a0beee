//! Two nodes on this machine, and one HTTP request through both.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::run::{execute, exists, note, output, step};
use crate::{Result, setup, workspace};

/// The node with the HTTP server, as in upstream's demo.
const SERVER_NODE: Ipv4Addr = Ipv4Addr::new(100, 100, 0, 1);
const CLIENT_NODE: Ipv4Addr = Ipv4Addr::new(100, 100, 0, 2);

const READY_LIMIT: Duration = Duration::from_secs(20);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Longer than a node's own drain time.
const STOP_LIMIT: Duration = Duration::from_secs(15);

pub(crate) fn run() -> Result<()> {
    let envoy = setup::envoy()?;
    let mut build = workspace::cargo()?;
    build.args(["build", "--release", "--locked", "--package", "nexodus-filter", "--package", "xds-server"]);
    execute("build", &mut build)?;

    let start = Instant::now();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    // Everything lives in here and in the two nodes' processes; both end with this function, however it ends.
    let directory = tempfile::Builder::new().prefix("nexodus-demo-").tempdir()?;
    let demo = Demo {
        directory: directory.path(),
        programs: workspace::target()?.join("release"),
        envoy,
        interrupted,
    };
    demo.run()?;
    step(format_args!("done in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

struct Demo<'a> {
    directory: &'a Path,
    /// Where nexd, nexctl and libnexodus.so are.
    programs: PathBuf,
    envoy: PathBuf,
    interrupted: Arc<AtomicBool>,
}

impl Demo<'_> {
    fn run(&self) -> Result<()> {
        step("two WireGuard key pairs (nexctl genkey | nexctl pubkey)");
        let (server_port, client_port) = free_udp_ports()?;
        let server = End { keys: self.keys()?, address: SERVER_NODE, port: server_port };
        let client = End { keys: self.keys()?, address: CLIENT_NODE, port: client_port };
        for (number, end) in [(1, &server), (2, &client)] {
            note(format_args!("node {number}: {}  {}", end.address, end.keys.public));
        }
        let server_config = self.wg_config(1, &server, &client)?;
        let client_config = self.wg_config(2, &client, &server)?;

        let http_port = self.serve_http()?;
        let egress_port = free_tcp_port()?;
        step("an HTTP server, known to node 1 only");
        note(format_args!("http://127.0.0.1:{http_port}/"));

        step("two nodes");
        let mut server_node =
            self.node(1, &server_config, "--ingress", &format!("tcp:80:127.0.0.1:{http_port}"))?;
        let mut client_node =
            self.node(2, &client_config, "--egress", &format!("tcp:{egress_port}:{SERVER_NODE}:80"))?;
        self.wait_ready(&mut server_node)?;
        self.wait_ready(&mut client_node)?;

        step("a request to node 2");
        let url = format!("http://127.0.0.1:{egress_port}/");
        note(format_args!("$ curl {url}"));
        let page = fetch(&url)?;

        step("its way: what the two Envoys logged about it");
        for (node, listener) in
            [(&client_node, format!("egress/tcp/{egress_port}")), (&server_node, "ingress/tcp/80".into())]
        {
            note(format_args!("node {}: {}", node.number, self.access_log_line(node, &listener)?));
        }
        step("the page, served through the tunnel");
        println!("{}", page.trim_end());
        Ok(())
    }

    fn nexctl(&self) -> Command {
        Command::new(self.programs.join("nexctl"))
    }

    fn keys(&self) -> Result<Keys> {
        let private = output(self.nexctl().arg("genkey"))?.trim().to_owned();
        let mut pubkey = self.nexctl().arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        // Through standard input: an argument would be visible to every user of the machine.
        pubkey.stdin.take().ok_or("nexctl pubkey has no standard input")?.write_all(private.as_bytes())?;
        let result = pubkey.wait_with_output()?;
        let public = String::from_utf8(result.stdout)?.trim().to_owned();
        if result.status.success() {
            Ok(Keys { private, public })
        } else {
            Err("nexctl pubkey failed".into())
        }
    }

    fn wg_config(&self, number: u8, own: &End, peer: &End) -> Result<PathBuf> {
        let directory = self.directory.join(format!("node{number}"));
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let path = directory.join("wg0.conf");
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        write!(
            file,
            "[Interface]\nPrivateKey = {}\nAddress = {}/32\nListenPort = {}\n\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = {}/32\nEndpoint = 127.0.0.1:{}\n",
            own.keys.private, own.address, own.port, peer.keys.public, peer.address, peer.port
        )?;
        Ok(path)
    }

    /// A web server with one page, on a thread that ends with the process.
    fn serve_http(&self) -> Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        std::thread::Builder::new().name("http".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(&stream).lines().map_while(std::result::Result::ok);
                if lines.any(|line| line.is_empty()) {
                    let page = "It works!\n";
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        page.len()
                    );
                    // A client that left early is no concern of the server.
                    let _ = (&stream).write_all(format!("{head}{page}").as_bytes());
                }
            }
        })?;
        Ok(port)
    }

    fn node(&self, number: u8, wg_config: &Path, direction: &str, rule: &str) -> Result<Node> {
        note(format_args!("$ nexd --wg-config node{number}/wg0.conf proxy {direction} {rule}"));
        let directory = self.directory.join(format!("node{number}"));
        let log = directory.join("nexd.log");
        let (out, socket) = (fs::File::create(&log)?, directory.join("nexd.sock"));
        let child = Command::new(self.programs.join("nexd"))
            .arg("--unix-socket")
            .arg(&socket)
            .arg("--state-dir")
            .arg(directory.join("state"))
            .arg("--runtime-dir")
            .arg(directory.join("run"))
            .arg("--wg-config")
            .arg(wg_config)
            .arg("--envoy")
            .arg(&self.envoy)
            .args(["proxy", direction, rule])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()?;
        Ok(Node { number, child, log, socket })
    }

    fn wait_ready(&self, node: &mut Node) -> Result<()> {
        let start = Instant::now();
        self.wait(&format!("node {} to be ready", node.number), READY_LIMIT, || {
            if let Some(status) = node.child.try_wait()? {
                return Err(format!(
                    "node {} ended with {status}:\n{}",
                    node.number,
                    fs::read_to_string(&node.log)?
                )
                .into());
            }
            let status =
                output(self.nexctl().args(["nexd", "--unix-socket"]).arg(&node.socket).arg("status"));
            Ok(status.is_ok_and(|status| status.contains("Running")).then_some(()))
        })?;
        note(format_args!("node {} is ready ({:.1} s)", node.number, start.elapsed().as_secs_f64()));
        Ok(())
    }

    fn access_log_line(&self, node: &Node, listener: &str) -> Result<String> {
        self.wait("the access log", REQUEST_LIMIT, || {
            let log = fs::read_to_string(&node.log)?;
            // An access log line begins with a time and the rule's listener.
            let line = log.lines().rfind(|line| line.split_whitespace().nth(1) == Some(listener));
            Ok(line.map(str::to_owned))
        })
    }

    /// Asks until there is an answer; ends early when the user interrupts.
    fn wait<T>(&self, what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
            if self.interrupted.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            if Instant::now() > deadline {
                return Err(format!("waited {} s for {what}", limit.as_secs()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One end of the tunnel.
struct End {
    keys: Keys,
    address: Ipv4Addr,
    port: u16,
}

struct Keys {
    private: String,
    public: String,
}

struct Node {
    number: u8,
    child: Child,
    log: PathBuf,
    socket: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        // The standard library ends children by SIGKILL only, which would leave Envoy's draining to chance.
        let terminated = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = Instant::now() + STOP_LIMIT;
        while terminated.is_ok() && Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("node {} did not end by itself", self.number);
        // Nothing more can be done about a failure here.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// The body of a page, by curl where there is one.
fn fetch(url: &str) -> Result<String> {
    let limit = REQUEST_LIMIT.as_secs().to_string();
    if exists("curl") {
        return output(Command::new("curl").args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            &limit,
            url,
        ]));
    }
    let python = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=int(sys.argv[2])).read().decode())";
    output(Command::new("python3").args(["-c", python, url, &limit]))
}

fn free_udp_ports() -> Result<(u16, u16)> {
    // Both held until both are known, so that they differ.
    let (one, two) = (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
    Ok((one.local_addr()?.port(), two.local_addr()?.port()))
}

fn free_tcp_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port())
}
