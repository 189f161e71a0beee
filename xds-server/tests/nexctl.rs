//! The command nexctl against a control socket that answers as nexd does, for what needs no Envoy.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    process::{Command, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

struct Outcome {
    code: Option<i32>,
    out: String,
    error: String,
}

fn nexctl(arguments: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_nexctl"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), out: text(output.stdout), error: text(output.stderr) }
}

/// A control socket that gives these results, one for each connection, and hands back what it was asked.
struct Nexd {
    directory: TempDir,
    server: JoinHandle<Vec<Value>>,
}

impl Nexd {
    fn answering(results: Vec<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let server = std::thread::spawn(move || {
            let serve = |result: String| {
                let (stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                let reply = json!({"id": 0, "result": result, "error": null});
                writeln!(&stream, "{reply}").unwrap();
                serde_json::from_str(&line).unwrap()
            };
            results.into_iter().map(serve).collect()
        });
        Self { directory, server }
    }

    fn nexctl(&self, before: &[&str], after: &[&str]) -> Outcome {
        let socket = self.directory.path().join("s");
        let nexd = ["nexd", "--unix-socket", socket.to_str().unwrap()];
        nexctl(&[before, &nexd, after].concat())
    }
}

fn peers() -> String {
    let peer = |key: &str| {
        json!({"PublicKey": key, "Endpoint": "192.0.2.1:51820", "AllowedIPs": ["100.64.0.2/32"],
            "LatestHandshake": "0", "Tx": 148, "Rx": 0, "Healthy": false})
    };
    json!({"relay-present": false, "relay-required": false, "peers": {"b": peer("b"), "a": peer("a")}})
        .to_string()
}

#[test]
fn peers_are_listed_in_every_format() {
    let show = |format: &str| {
        let nexd = Nexd::answering(vec![peers()]);
        // Upstream's place for the flag, and a place of clap's.
        let shown = match format {
            "" => nexd.nexctl(&[], &["peers", "list"]),
            "yaml" => nexd.nexctl(&[], &["peers", "list", "--full", "--output", format]),
            _ => nexd.nexctl(&["--output", format], &["peers", "list"]),
        };
        assert_eq!((shown.code, shown.error.as_str()), (Some(0), ""), "{format}");
        assert_eq!(nexd.server.join().unwrap()[0]["method"], "NexdCtl.ListPeers");
        shown.out
    };
    let table = show("");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].starts_with("| PUBLIC KEY |") && lines[2].starts_with("| a "), "{table}");
    assert_eq!(show("column"), table);
    assert_eq!(show("no-header").lines().count(), 2);

    let pretty = show("json");
    let list: Value = serde_json::from_str(&pretty).unwrap();
    assert_eq!((&list[0]["PublicKey"], &list[1]["Tx"]), (&json!("a"), &json!(148)));
    assert!(pretty.contains("\n  {\n    \"PublicKey\": \"a\",\n"), "{pretty}");
    let raw = show("json-raw");
    assert_eq!((raw.lines().count(), serde_json::from_str::<Value>(&raw).unwrap()), (1, list));
    assert!(show("yaml").starts_with("- PublicKey: a\n  Endpoint: 192.0.2.1:51820\n"));
}

#[test]
fn rules_are_listed_as_flags_or_as_objects() {
    let lines = "--egress tcp:80:[fd00::2]:80\n--ingress udp:53:dns:53,bind=100.64.0.1\n";
    let show = |format: &str| {
        let nexd = Nexd::answering(vec![lines.to_owned()]);
        nexd.nexctl(&["--output", format], &["proxy", "list"]).out
    };
    for format in ["column", "no-header"] {
        assert_eq!(show(format), lines);
    }
    let list: Value = serde_json::from_str(&show("json")).unwrap();
    let egress = json!({"direction": "egress", "rule": "tcp:80:[fd00::2]:80"});
    let ingress = json!({"direction": "ingress", "rule": "udp:53:dns:53,bind=100.64.0.1"});
    assert_eq!(list, json!([egress, ingress]));
    assert_eq!(serde_json::from_str::<Value>(&show("json-raw")).unwrap(), list);
    assert!(show("yaml").starts_with("- direction: egress\n  rule: "));
}

#[test]
fn an_unknown_format_is_refused() {
    let outcome = nexctl(&["--output", "xml", "nexd", "peers", "list"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(2), ""));
    for format in ["column", "json", "json-raw", "yaml", "no-header"] {
        assert!(outcome.error.contains(format), "{}", outcome.error);
    }
}

#[test]
fn upstreams_flags_for_its_control_plane_harm_nothing() {
    let nexd = Nexd::answering(vec!["Status: Running\n".to_owned()]);
    let flags =
        ["--host", "https://h", "--service-url=https://s", "-username", "u", "--password", "p", "--debug"];
    let outcome = nexd.nexctl(&flags, &["status"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(0), "Status: Running\n"), "{}", outcome.error);
}

#[test]
fn commands_without_a_control_plane_say_so_on_one_line() {
    let commands: [&[&str]; 5] = [
        &["organization", "list"],
        &["reg-key", "create", "--vpc-id", "x", "--single-use"],
        &["vpc", "--help"],
        &["--output", "json", "service-network", "list"],
        &["nexd", "exit-node", "disable", "--client", "x"],
    ];
    for command in commands {
        let outcome = nexctl(command);
        assert_eq!((outcome.code, outcome.out.as_str()), (Some(2), ""), "{command:?}");
        let remedy = if command[0] == "nexd" { "it has rules" } else { "`nexctl nexd`" };
        assert!(outcome.error.contains(remedy), "{command:?}: {}", outcome.error);
        assert_eq!(outcome.error.lines().count(), 1, "{}", outcome.error);
    }
    for command in [&["organisation"][..], &["nexd", "peer"]] {
        let outcome = nexctl(command);
        assert_eq!(outcome.code, Some(2));
        let name = command[command.len() - 1];
        assert_eq!(outcome.error.trim(), format!("unrecognized subcommand '{name}'; see nexctl --help"));
    }
}

#[test]
fn versions() {
    assert_eq!(nexctl(&["version"]).out, format!("version: {}\n", env!("CARGO_PKG_VERSION")));
    let nexd = Nexd::answering(vec!["2024.07.23-f9f7919".to_owned()]);
    let expected =
        format!("nexctl version: {}\nnexd version: 2024.07.23-f9f7919\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(nexd.nexctl(&[], &["version"]).out, expected);
}

#[test]
fn an_answer_that_is_none_is_a_failure() {
    let nexd = Nexd::answering(vec!["{".to_owned()]);
    let outcome = nexd.nexctl(&[], &["peers", "list"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(1), ""));
    assert!(outcome.error.starts_with("nexd's answer is not understood: "), "{}", outcome.error);
}

#[test]
fn completions_offer_what_there_is_and_parse() {
    for shell in ["bash", "zsh", "fish"] {
        let script = nexctl(&["completion", shell]);
        assert_eq!(script.code, Some(0), "{}", script.error);
        for word in ["nexd", "tunnelip", "json-raw", "genkey"] {
            assert!(script.out.contains(word), "{shell}: {word}");
        }
        for word in ["service-url", "insecure", "organization"] {
            assert!(!script.out.contains(word), "{shell}: {word}");
        }
        // The others are not installed everywhere.
        if shell == "bash" {
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.out.as_bytes()).unwrap();
            assert!(bash.wait().unwrap().success());
            // And it completes.
            let complete =
                "COMP_WORDS=(nexctl nexd pe); COMP_CWORD=2; _nexctl nexctl pe nexd; echo ${COMPREPLY[@]}";
            let out =
                Command::new("bash").args(["-c", &format!("{}\n{complete}", script.out)]).output().unwrap();
            assert_eq!(
                String::from_utf8_lossy(&out.stdout),
                "peers\n",
                "{}",
                String::from_utf8_lossy(&out.stderr)
            );
        }
    }
    assert_eq!(nexctl(&["completion", "csh"]).code, Some(2));
}

#[test]
fn every_rule_is_tried_when_nobody_reads_what_is_said() {
    let nexd = Nexd::answering(vec!["Added\n".to_owned(); 3]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexctl"));
    command.args(["nexd", "--unix-socket"]).arg(nexd.directory.path().join("s"));
    command.args(["proxy", "add", "--ingress", "a,b", "--egress=c"]);
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("Broken pipe"), "{error}");
    // It waits for what was never asked.
    let finished = (0..3000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        nexd.server.is_finished()
    });
    assert!(finished, "not every rule was tried");
    let asked = nexd.server.join().unwrap();
    let rules: Vec<_> = asked.iter().map(|request| &request["params"][0]).collect();
    assert_eq!(rules, ["a", "b", "c"]);
}
