//! The commands nexd and nexctl, as far as they go without an Envoy.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, UdpSocket},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::PathBuf,
    process::{Command, Stdio},
};

use tempfile::TempDir;

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const PUBLIC: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";

/// A node's directories, and what it needs, in a temporary place.
struct Place {
    directory: TempDir,
}

struct Outcome {
    code: Option<i32>,
    out: String,
    error: String,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let config = format!(
            "[Interface]\nPrivateKey = {KEY}\nAddress = 100.64.0.1/32\n[Peer]\nPublicKey = {PUBLIC}\nAllowedIPs = 100.64.0.2/32\n"
        );
        place.write("wg0.conf", &config, 0o600);
        place.envoy("1.40.0");
        place.write("libnexodus.so", "", 0o644);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Puts a program in Envoy's place that says it is this version, and that Envoy's configuration is bad.
    fn envoy(&self, version: &str) {
        let script = format!(
            "#!/bin/sh\ncase $1 in --version) echo \"$0  version: 0/{version}/Clean/RELEASE/BoringSSL\";; \
             *) echo '[critical][main] the cause' >&2; exit 3;; esac\n"
        );
        self.write("envoy", &script, 0o755);
    }

    /// nexd with flags for all its places, but for those that are given here.
    fn nexd(&self, arguments: &[&str]) -> Outcome {
        let mut command = bare_nexd();
        for (flag, name) in [
            ("--wg-config", "wg0.conf"),
            ("--state-dir", "state"),
            ("--runtime-dir", "run"),
            ("--unix-socket", "nexd.sock"),
            ("--envoy", "envoy"),
            ("--module-dir", ""),
        ] {
            if !arguments.contains(&flag) {
                command.arg(flag).arg(self.path(name));
            }
        }
        run(command.args(arguments))
    }
}

fn bare_nexd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexd"));
    for name in [
        "NEXD_WG_CONFIG",
        "NEXD_STATE_DIR",
        "NEXD_RUNTIME_DIR",
        "NEXD_LISTEN_PORT",
        "NEXD_RULES",
        "ENVOY_BIN",
    ] {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), out: text(output.stdout), error: text(output.stderr) }
}

/// Ends with this code and one line that says all of this.
#[track_caller]
fn refused(outcome: &Outcome, code: i32, words: &[&str]) {
    let Outcome { code: found, out, error } = outcome;
    assert_eq!(*found, Some(code), "{error}");
    assert_eq!(out, "");
    let lines: Vec<_> = error.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect();
    assert_eq!(lines.len(), 1, "one line with {words:?}:\n{error}");
    assert!(!error.contains("panicked") && !error.contains(KEY), "{error}");
}

#[test]
fn check_prints_the_canonical_rules_and_touches_nothing() {
    let place = Place::new();
    let rules = [
        "proxy",
        "--ingress",
        "TCP:0443:10.10.100.152:8443",
        "--check",
        "-egress",
        "tcp:80:[fd00::2]:80, tcp:81:100.64.0.2:81",
    ];
    let outcome = place.nexd(&rules);
    assert_eq!(outcome.code, Some(0), "{}", outcome.error);
    assert_eq!(
        outcome.out,
        "--egress tcp:80:[fd00::2]:80\n--egress tcp:81:100.64.0.2:81\n--ingress tcp:443:10.10.100.152:8443\n"
    );
    for name in ["state", "run", "nexd.sock"] {
        assert!(!place.path(name).exists(), "{name}");
    }
}

#[test]
fn bad_rules() {
    let place = Place::new();
    // TestProxyInvalidConfig without the four cases that load balancing made legal.
    let cases = [
        ("ingress", "tcp:90000:127.0.0.1:80", "invalid port (90000): out of range 1-65535"),
        ("egress", "tcp:90000:127.0.0.1:80", "invalid port (90000): out of range 1-65535"),
        ("ingress", "udp:90000:127.0.0.1:80", "invalid port (90000): out of range 1-65535"),
        ("egress", "udp:0:100.10j0.0.1:4242", "invalid port (0): out of range 1-65535"),
        ("ingress", "tcp:8080:127.0.0.1:90000", "invalid port (90000): out of range 1-65535"),
        ("egress", "tcp:8080:127.0.0.1:0", "invalid port (0): out of range 1-65535"),
        ("ingress", "udp:8080:127.0.0.1:90000", "invalid port (90000): out of range 1-65535"),
        ("egress", "udp:8080:127.0.0.1:0", "invalid port (0): out of range 1-65535"),
        ("ingress", "tcpa:8080:127.0.0.1:80", "invalid protocol (tcpa)"),
        ("egress", "tcpa:8080:127.0.0.1:80", "invalid protocol (tcpa)"),
        (
            "ingress",
            "tcp:8080",
            "invalid proxy rule format, must specify 4 colon-separated values (tcp:8080)",
        ),
        ("egress", "tcp:8080", "invalid proxy rule format, must specify 4 colon-separated values (tcp:8080)"),
        ("ingress", "tcp:8080::80", "invalid destination host:port (:80): host cannot be empty"),
    ];
    for (direction, rule, reason) in cases {
        let outcome = place.nexd(&["proxy", &format!("--{direction}"), rule]);
        refused(&outcome, 2, &[&format!("Failed to add {direction} proxy rule ({rule}): {reason}")]);
    }
    let twice = ["proxy", "--ingress", "tcp:1:h:1", "--ingress", "tcp:1:h:1"];
    refused(
        &place.nexd(&twice),
        2,
        &["port already in use by another proxy rule (this rule exists already)"],
    );
}

#[test]
fn without_a_control_plane_the_remedy_is_named() {
    refused(&run(bare_nexd().arg("proxy")), 2, &["--wg-config"]);
    for flag in ["--service-url", "-service-url", "--reg-key", "--request-ip", "--username"] {
        let outcome = run(bare_nexd().args([flag, "SECRET", "proxy", "--egress", "tcp:80:100.100.0.1:80"]));
        refused(&outcome, 2, &["--wg-config", flag.trim_start_matches('-')]);
        assert!(!outcome.error.contains("SECRET"), "{}", outcome.error);
    }
    assert_eq!(run(&mut bare_nexd()).code, Some(2));
    assert_eq!(run(bare_nexd().arg("router")).code, Some(2));
}

#[test]
fn wireguard_configurations() {
    let place = Place::new();
    place.write("wg0.conf", "[Interface]\nPrivateKey = short\nAddress = 100.64.0.1/32\n", 0o600);
    refused(&place.nexd(&["proxy", "--check"]), 3, &["wg0.conf", "key"]);
    place.write("wg0.conf", &format!("[Interface]\nPrivateKey = {KEY}\nAddress = 100.64.0.1/32\n"), 0o640);
    refused(&place.nexd(&["proxy", "--check"]), 3, &["wg0.conf", "0640", "chmod 600"]);
    fs::remove_file(place.path("wg0.conf")).unwrap();
    refused(&place.nexd(&["proxy", "--check"]), 3, &["wg0.conf", "No such file"]);
}

#[test]
fn directories_and_state() {
    let place = Place::new();
    fs::create_dir(place.path("state")).unwrap();
    place.write("state/state.json", "{", 0o600);
    refused(&place.nexd(&["proxy"]), 4, &["state.json", "not JSON", "move it away"]);
    place.write("state/state.json", r#"{"proxy-rules-config":{"egress":["tcp:80"],"ingress":null}}"#, 0o600);
    refused(&place.nexd(&["proxy"]), 4, &["Failed to load the stored proxy rules", "(tcp:80)"]);
    fs::remove_file(place.path("state/state.json")).unwrap();

    fs::create_dir(place.path("run")).unwrap();
    fs::set_permissions(place.path("run"), fs::Permissions::from_mode(0o755)).unwrap();
    refused(&place.nexd(&["proxy"]), 4, &["run has mode 0755", "chmod 700"]);

    let outcome = place.nexd(&["proxy", "--unix-socket", "/proc/nowhere/nexd.sock"]);
    refused(&outcome, 4, &["socket /proc/nowhere/nexd.sock: ", "choose another path with --unix-socket"]);
}

#[test]
fn envoy_and_module() {
    let place = Place::new();
    place.envoy("1.39.3");
    refused(&place.nexd(&["proxy"]), 6, &["is Envoy 1.39.3", "1.40", "ENVOY_BIN"]);
    place.write("envoy", "#!/bin/sh\necho hello\n", 0o755);
    refused(&place.nexd(&["proxy"]), 6, &["not an Envoy"]);
    place.write("envoy", "", 0o644);
    refused(&place.nexd(&["proxy"]), 6, &["envoy: Permission denied"]);
    fs::remove_file(place.path("envoy")).unwrap();
    refused(&place.nexd(&["proxy"]), 6, &["envoy: No such file"]);
    place.envoy("1.40.7");
    fs::remove_file(place.path("libnexodus.so")).unwrap();
    refused(&place.nexd(&["proxy"]), 7, &["libnexodus.so is not in", "--module-dir"]);
}

#[test]
fn an_envoy_that_does_not_start_says_why() {
    let place = Place::new();
    refused(&place.nexd(&["proxy"]), 8, &["Envoy does not start: the cause (exit status: 3)"]);
    // Nothing is left behind.
    assert!(!place.path("nexd.sock").exists());
    let mut names: Vec<_> =
        fs::read_dir(place.path("run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["lock"]);
}

#[test]
fn busy_ports() {
    let place = Place::new();
    let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = tcp.local_addr().unwrap().port().to_string();
    let rule = format!("tcp:{port}:100.64.0.2:80");
    refused(&place.nexd(&["proxy", "--egress", &rule]), 5, &[&format!("TCP port {port} is already in use")]);
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = udp.local_addr().unwrap().port().to_string();
    refused(
        &place.nexd(&["proxy", "--listen-port", &port]),
        5,
        &[&format!("port {port} (UDP) is already in use")],
    );
}

#[test]
fn a_second_nexd_is_refused() {
    let place = Place::new();
    let _other = UnixListener::bind(place.path("nexd.sock")).unwrap();
    refused(
        &place.nexd(&["proxy"]),
        9,
        &["existing nexd service already running on", "nexd.sock;", "--unix-socket"],
    );
    assert!(place.path("nexd.sock").exists());
}

#[test]
fn nexctl_makes_keys() {
    let nexctl = env!("CARGO_BIN_EXE_nexctl");
    let pubkey = |key: &str| {
        let mut child = Command::new(nexctl)
            .arg("pubkey")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    // The vectors of RFC 7748, section 6.1.
    let output = pubkey("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n");
    assert_eq!(output.stdout, b"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n");
    let made = run(Command::new(nexctl).arg("genkey"));
    assert_eq!((made.code, made.out.len()), (Some(0), 45));
    assert_eq!(pubkey(&made.out).stdout.len(), 45);
    let bad = pubkey("not a key");
    assert_eq!((bad.status.code(), bad.stdout.len()), (Some(1), 0));
}

#[test]
fn nexctl_fails_when_a_rule_is_refused() {
    let place = Place::new();
    let nexctl = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nexctl"));
        run(command.args(["nexd", "--unix-socket"]).arg(place.path("nexd.sock")).args(arguments))
    };
    let none = nexctl(&["proxy", "add"]);
    assert_eq!((none.code, none.error.trim()), (Some(2), "No rules provided"));
    let nobody = nexctl(&["status"]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.error.starts_with("Failed to connect to nexd: "), "{}", nobody.error);

    let listener = UnixListener::bind(place.path("nexd.sock")).unwrap();
    let server = std::thread::spawn(move || {
        for reply in [r#"{"id":0,"result":null,"error":"no"}"#, r#"{"id":0,"result":"Added\n","error":null}"#]
        {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(format!("{reply}\n").as_bytes()).unwrap();
        }
    });
    let outcome = nexctl(&["proxy", "add", "-ingress", "a", "--egress=b"]);
    server.join().unwrap();
    assert_eq!(outcome.code, Some(1));
    assert_eq!(outcome.out, "Added\n");
    assert_eq!(
        outcome.error,
        "Error adding ingress rule (a): Failed to execute method (ProxyAddIngress): no\n"
    );
}

/// The help is read by people first; at least it must show what they look for.
#[test]
fn help_shows_flags_examples_and_exit_codes() {
    let help = run(bare_nexd().arg("--help"));
    assert_eq!(help.code, Some(0));
    for word in ["--wg-config", "--ingress", "--drain-time", "Examples:", "Exit codes:", "[env: ENVOY_BIN=]"]
    {
        assert!(help.out.contains(word), "{word}:\n{}", help.out);
    }
    assert!(!help.out.contains("--reg-key"));
}

#[test]
fn the_rules_of_a_file_are_checked_and_shown() {
    let place = Place::new();
    place.write("rules.yaml", "ingress:\n- {protocol: tcp, port: 1, destination: 'h:1', weight: 2}\n", 0o644);
    let file = place.path("rules.yaml");
    let check = |more: &[&str]| {
        place.nexd(&[&["proxy", "--check", "--rules", file.to_str().unwrap()], more].concat())
    };
    let outcome = check(&["--ingress", "tcp:2:h:2"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.error);
    assert_eq!(outcome.out, "--ingress tcp:2:h:2\n--ingress tcp:1:h:1,weight=2\n");
    let named = format!("rules file {}", file.display());
    refused(&check(&["--ingress", "tcp:1:h:1"]), 2, &[&named, "line 2, column 3", "given as a flag too"]);

    place.write("rules.yaml", "ingress:\n- tcp:1:h:1\n- tcp:0:h:1\n", 0o644);
    refused(&check(&[]), 2, &[&named, "line 3, column 3: invalid port (0)"]);
    // Not only --check.
    refused(&place.nexd(&["--rules", file.to_str().unwrap(), "proxy"]), 2, &[&named, "line 3"]);
    fs::remove_file(&file).unwrap();
    refused(&check(&[]), 2, &[&named, "No such file"]);
}

#[test]
fn the_examples_of_rules_are_good() {
    let place = Place::new();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rules");
    let files = fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    assert!(!files.is_empty());
    for file in files {
        let outcome = place.nexd(&["proxy", "--check", "--rules", file.to_str().unwrap()]);
        assert_eq!(outcome.code, Some(0), "{}: {}", file.display(), outcome.error);
        assert!(outcome.out.lines().count() >= 3, "{}", outcome.out);
    }
}

#[test]
fn an_access_log_is_tried_and_none_is_left_behind() {
    let place = Place::new();
    let check = |path: &str| {
        let path = place.path(path);
        place.nexd(&["proxy", "--check", "--access-log", path.to_str().unwrap()])
    };
    refused(&check("nowhere/x.log"), 2, &["--access-log", "nowhere/x.log: No such file", "`off`"]);
    refused(&check(""), 2, &["--access-log", "Is a directory"]);
    place.write("there.log", "a line\n", 0o600);
    for name in ["there.log", "new.log"] {
        let outcome = check(name);
        assert_eq!(outcome.code, Some(0), "{}", outcome.error);
    }
    assert_eq!(fs::read_to_string(place.path("there.log")).unwrap(), "a line\n");
    assert!(!place.path("new.log").exists());
    // Nobody reads it, and Envoy would wait for that.
    mkfifo(&place, "pipe");
    assert_eq!(check("pipe").code, Some(0));
}

fn mkfifo(place: &Place, name: &str) {
    assert!(Command::new("mkfifo").arg(place.path(name)).status().unwrap().success());
}

#[test]
fn a_pipe_in_the_place_of_the_state_is_refused() {
    let place = Place::new();
    fs::create_dir(place.path("state")).unwrap();
    mkfifo(&place, "state/state.json");
    refused(&place.nexd(&["proxy"]), 4, &["state.json", "not a regular file", "move it away"]);
}

#[test]
fn a_rule_whose_socket_has_too_long_a_path_is_named() {
    let place = Place::new();
    let base = place.directory.path().as_os_str().len() + 1;
    // As long as rules without an address allow.
    let run_dir = place.path(&"r".repeat(84 - base));
    let rule = "tcp:443:127.0.0.1:8443,bind=fd00::1";
    place.write(
        "wg0.conf",
        &format!("[Interface]\nPrivateKey = {KEY}\nAddress = 100.64.0.1/32, fd00::1/128\n"),
        0o600,
    );
    let run_dir = run_dir.to_str().unwrap();
    let by_flag = place.nexd(&["proxy", "--runtime-dir", run_dir, "--ingress", rule]);
    refused(&by_flag, 2, &["ingress", rule, "ingress-tcp-443@fd00::1.sock", "--runtime-dir"]);
    fs::create_dir(place.path("state")).unwrap();
    let stored = format!(r#"{{"proxy-rules-config":{{"egress":null,"ingress":["{rule}"]}}}}"#);
    place.write("state/state.json", &stored, 0o600);
    // As far as it gets with this Envoy.
    let outcome = place.nexd(&["proxy", "--runtime-dir", run_dir]);
    refused(&outcome, 8, &["Envoy does not start: the cause"]);
    assert!(
        outcome.error.contains(&format!("ingress proxy rule {rule} is not active: its socket ")),
        "{}",
        outcome.error
    );
}
