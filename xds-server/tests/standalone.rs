//! The command `xds-server`.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xds-server"));
    command.args(arguments).stdin(Stdio::null()).env_remove("XDS_SERVER_LOG").env_remove("NEXD_RULES");
    command
}

/// Runs a command that ends by itself: its exit code, and what it says.
fn run(arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = command(arguments).output().unwrap();
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code().unwrap(), said)
}

/// A server that has said where it serves; killed when dropped.
struct Server {
    process: Child,
    _stdout: BufReader<ChildStdout>,
    said: Vec<String>,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = command(arguments);
        // Empty is as good as not set.
        command.env("XDS_SERVER_LOG", "").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.starts_with("Serving")) {
            let mut line = String::new();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "{said:?}");
            said.push(line.trim_end().to_owned());
        }
        Self { process, _stdout: stdout, said }
    }

    /// Its exit code after a signal, and its standard error.
    fn end(mut self, signal: Signal) -> (i32, String) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
        let code = self.process.wait().unwrap().code().unwrap();
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn serves_on_a_private_socket_until_it_is_asked_to_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("ads.sock");
        let server = Server::start(&[
            "--ads-socket",
            path(&socket),
            "--ingress",
            "TCP:0443:[::1]:8443,tcp:80:localhost:80",
            "-egress=tcp:80:100.64.0.2:80",
        ]);
        let expected = [
            "--egress tcp:80:100.64.0.2:80",
            "--ingress tcp:443:[::1]:8443",
            "--ingress tcp:80:localhost:80",
            &format!("Serving 3 rules on {}", path(&socket)),
        ];
        assert_eq!(server.said, expected);
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let client = UnixStream::connect(&socket).unwrap();
        let (code, said) = server.end(signal);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("ended as asked"), "{said}");
        assert!(!socket.exists());
        drop(client);
    }
}

#[test]
fn exit_codes_tell_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ads.sock");
    let socket = path(&socket);
    let on_socket = |more: &[&str]| run(&[&["--ads-socket", socket], more].concat());
    let says = |(code, said): (i32, String), expected: (i32, &str)| {
        assert_eq!(code, expected.0, "{said}");
        assert!(said.contains(expected.1), "{said}");
    };

    says(run(&["--help"]), (0, "xds-server --ads-socket /run/nexodus/ads.sock"));
    says(run(&[]), (2, "required"));
    says(run(&["--ads-socket", socket, "--ads-listen", "127.0.0.1:0"]), (2, "cannot be used with"));
    says(
        on_socket(&["--egress", "tcp:0:100.64.0.2:80"]),
        (2, "--egress tcp:0:100.64.0.2:80: invalid port (0): out of range 1-65535"),
    );
    says(
        on_socket(&["--egress", "tcp:80:999.1.1.1:80"]),
        (2, "egress destination 999.1.1.1 is neither an IP address nor a host name"),
    );
    says(
        on_socket(&["--ingress", "tcp:80:h:80,tcp:80:h:80"]),
        (2, "port already in use by another proxy rule"),
    );
    says(on_socket(&["--network", "a b"]), (2, "tunnel/a b: network"));
    says(on_socket(&["--connect-timeout", "0s"]), (2, "the connect timeout must be more than 0"));
    says(
        run(&["--ads-socket", "/proc/nowhere/ads.sock"]),
        (
            4,
            "socket /proc/nowhere/ads.sock: No such file or directory (os error 2); choose another path with --ads-socket",
        ),
    );
    fs::write(directory.path().join("file"), "").unwrap();
    says(run(&["--ads-socket", path(&directory.path().join("file"))]), (4, "exists and is not a socket"));

    let _server = Server::start(&["--ads-socket", socket]);
    says(
        on_socket(&[]),
        (
            5,
            &format!(
                "existing xds-server service already running on {socket}; give this one another path with --ads-socket"
            ),
        ),
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    says(run(&["--ads-listen", &taken.local_addr().unwrap().to_string()]), (5, "--ads-listen 127.0.0.1:"));
}

#[test]
fn serves_on_a_tcp_address() {
    let server = Server::start(&["--ads-listen", "127.0.0.1:0"]);
    let address = server.said[0].strip_prefix("Serving 0 rules on ").unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok());
    assert_eq!(server.end(Signal::TERM).0, 0);
}

#[test]
fn rules_come_from_a_file_too() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, file) = (directory.path().join("ads.sock"), directory.path().join("rules.yaml"));
    let (socket, file) = (path(&socket), path(&file));
    let arguments = ["--ads-socket", socket, "--rules", file, "--ingress", "tcp:1:h:1"];
    let refused = |reason: &str| {
        let (code, said) = run(&arguments);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(&format!("rules file {file}: {reason}")), "{said}");
    };
    refused("No such file");
    fs::write(file, "ingress:\n- tcp:2:h:2\n- tcp:3:h\n").unwrap();
    refused("line 3, column 3: invalid proxy rule format");
    fs::write(file, "ingress:\n- tcp:2:h:2\n- tcp:1:h:1\n").unwrap();
    refused("line 3, column 3: ingress proxy rule tcp:1:h:1: port already in use");

    fs::write(file, "ingress:\n- tcp:2:h:2\n").unwrap();
    let server = Server::start(&arguments);
    let expected = ["--ingress tcp:1:h:1", "--ingress tcp:2:h:2", &format!("Serving 2 rules on {socket}")];
    assert_eq!(server.said, expected);
    assert_eq!(server.end(Signal::TERM).0, 0);
}
