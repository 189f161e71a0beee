//! Rules at run time: nexctl, the control socket, and what is stored.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use e2e::{
    Identity, Node, Products, Server, connect, echo, free_port, http, http_get, need, products, within,
};
use rustix::process::Signal;
use serde_json::{Value, json};

fn lone_node(products: &Products) -> (Identity, Node<'static>) {
    let identity = Identity::new(1);
    // nexd's own log tells of changes it refused.
    let node = Node::with(products, &identity).expect_complaint("nexd::changes").start();
    (identity, node)
}

fn stored(protocol_port_destination: &[&str]) -> Value {
    if protocol_port_destination.is_empty() { Value::Null } else { json!(protocol_port_destination) }
}

#[test]
fn rules_added_by_nexctl_work_are_listed_stored_and_survive_restarts() {
    let products = need!(products());
    let server = Server::local(http("round trip"));
    let (identity, mut node) = lone_node(&products);
    let port = free_port();
    let ingress = format!("tcp:4242:127.0.0.1:{}", server.port());
    let egress = format!("tcp:{port}:{}:4242", identity.v4);
    assert_eq!(node.nexctl_ok(&["proxy", "list"]), "");
    http_get(port).expect_err("no rule yet");

    let added = node.nexctl_ok(&["proxy", "add", "--ingress", &ingress, "--egress", &egress]);
    assert!(added.contains(&format!("Added ingress proxy rule: {ingress}\n")), "{added}");
    assert!(added.contains(&format!("Added egress proxy rule: {egress}\n")), "{added}");
    // Added means active: no waiting.
    assert_eq!(http_get(port).expect("a page at once"), "round trip");

    let check = |node: &Node<'_>, when: &str| {
        let mut list: Vec<String> = node.nexctl_ok(&["proxy", "list"]).lines().map(str::to_owned).collect();
        list.sort_unstable();
        assert_eq!(list, [format!("--egress {egress}"), format!("--ingress {ingress}")], "{when}");
        let rules = node.stored_rules();
        assert_eq!(rules, json!({"egress": stored(&[&egress]), "ingress": stored(&[&ingress])}), "{when}");
        assert_eq!(http_get(port).expect("a page"), "round trip", "{when}");
    };
    check(&node, "when added");
    for signal in [Signal::TERM, Signal::KILL] {
        node.stop(signal);
        node.start();
        // Stored rules have no flags that the harness could wait for.
        within(Duration::from_secs(10), "the stored rules' listeners", || {
            (node.admin().listeners().len() >= 3).then_some(())
        });
        check(&node, &format!("after {signal:?}"));
    }

    let removed = node.nexctl_ok(&["proxy", "remove", "--ingress", &ingress, "--egress", &egress]);
    assert!(removed.contains(&format!("proxy rule: {ingress}")) && removed.contains(&egress), "{removed}");
    assert_eq!(node.nexctl_ok(&["proxy", "list"]), "");
    assert_eq!(node.stored_rules(), json!({"egress": null, "ingress": null}));
    http_get(port).expect_err("the rule is gone");
}

#[test]
fn an_acknowledged_rule_survives_kill_at_any_moment() {
    let products = need!(products());
    let (_, mut node) = lone_node(&products);
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for number in 0..2 {
            let rule = format!("tcp:{}:127.0.0.1:9", 7000 + round * 10 + number);
            node.nexctl_ok(&["proxy", "add", "--ingress", &rule]);
            acknowledged.push(format!("--ingress {rule}"));
        }
        node.stop(Signal::KILL);
        node.start();
        let mut list: Vec<String> = node.nexctl_ok(&["proxy", "list"]).lines().map(str::to_owned).collect();
        list.sort_unstable();
        assert_eq!(list, acknowledged);
    }
}

#[test]
fn a_refused_rule_says_why_fails_and_harms_nothing() {
    let products = need!(products());
    let server = Server::local(http("unharmed"));
    let (identity, node) = lone_node(&products);
    let port = free_port();
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a port");
    let taken_port = taken.local_addr().expect("bound").port();
    node.nexctl_ok(&["proxy", "add", "--ingress", &format!("tcp:4242:127.0.0.1:{}", server.port())]);
    node.nexctl_ok(&["proxy", "add", "--egress", &format!("tcp:{port}:{}:4242", identity.v4)]);
    let before = (node.nexctl_ok(&["proxy", "list"]), node.stored_rules());

    let refused = [
        ("--egress", format!("tcp:{taken_port}:{}:4242", identity.v4), taken_port.to_string()),
        (
            "--egress",
            format!("tcp:{port}:{}:4242", identity.v4),
            "port already in use by another proxy rule".into(),
        ),
        ("--ingress", "tcpa:8080:127.0.0.1:80".into(), "invalid protocol (tcpa)".into()),
        ("--ingress", "tcp:8080".into(), "must specify 4 colon-separated values (tcp:8080)".into()),
        ("--ingress", "tcp:8080::80".into(), "host cannot be empty".into()),
        ("--egress", "tcp:90000:100.64.0.9:80".into(), "invalid port (90000)".into()),
    ];
    for (direction, rule, reason) in refused {
        let (status, out, error) = node.nexctl(&["proxy", "add", direction, &rule]);
        assert!(!status.success(), "{rule} was accepted: {out}");
        assert!((out + &error).contains(&reason), "{rule}: no {reason:?} in: {error}");
        assert_eq!((node.nexctl_ok(&["proxy", "list"]), node.stored_rules()), before, "after {rule}");
    }
    let (status, out, error) = node.nexctl(&["proxy", "remove", "--ingress", "tcp:99:127.0.0.1:99"]);
    assert!(!status.success());
    assert!((out + &error).contains("no matching ingress proxy rule found: tcp:99:127.0.0.1:99"), "{error}");
    assert_eq!(http_get(port).expect("a page"), "unharmed");
}

#[test]
fn a_port_that_became_free_can_be_used_after_a_refusal() {
    let products = need!(products());
    let server = Server::local(http("second try"));
    let (identity, node) = lone_node(&products);
    node.nexctl_ok(&["proxy", "add", "--ingress", &format!("tcp:4242:127.0.0.1:{}", server.port())]);
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, free_port())).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let rule = format!("tcp:{port}:{}:4242", identity.v4);
    assert!(!node.nexctl(&["proxy", "add", "--egress", &rule]).0.success());
    drop(taken);
    node.nexctl_ok(&["proxy", "add", "--egress", &rule]);
    assert_eq!(http_get(port).expect("a page"), "second try");
}

#[test]
fn a_flag_rule_can_be_removed_and_comes_back_with_its_flag() {
    let products = need!(products());
    let identity = Identity::new(1);
    let rule = "tcp:4242:127.0.0.1:9";
    let mut node = Node::with(&products, &identity).ingress(rule).start();
    let removed = node.nexctl_ok(&["proxy", "remove", "--ingress", rule]);
    assert!(removed.contains("start"), "does not say that the rule comes back: {removed}");
    assert_eq!(node.nexctl_ok(&["proxy", "list"]), "");
    node.stop(Signal::TERM);
    node.start();
    assert_eq!(node.nexctl_ok(&["proxy", "list"]), format!("--ingress {rule}\n"));
}

#[test]
fn removing_a_rule_returns_although_a_connection_lives() {
    let products = need!(products());
    let server = Server::local(echo);
    let (identity, node) = lone_node(&products);
    let port = free_port();
    let egress = format!("tcp:{port}:{}:4242", identity.v4);
    node.nexctl_ok(&[
        "proxy",
        "add",
        "--ingress",
        &format!("tcp:4242:127.0.0.1:{}", server.port()),
        "--egress",
        &egress,
    ]);
    let mut client = connect(([127, 0, 0, 1], port)).expect("a connection");
    client.write_all(b"one\n").expect("sent");
    let mut reader = BufReader::new(client.try_clone().expect("a second handle"));
    reader.read_line(&mut String::new()).expect("echoed");
    // nexctl has a limit of its own in the harness.
    node.nexctl_ok(&["proxy", "remove", "--egress", &egress]);
    within(Duration::from_secs(5), "new connections to be refused", || {
        connect(([127, 0, 0, 1], port)).is_err().then_some(())
    });
    assert_eq!(node.nexctl_ok(&["proxy", "list"]).lines().count(), 1);
}

#[test]
fn the_control_socket_speaks_upstreams_protocol() {
    let products = need!(products());
    let (_, node) = lone_node(&products);
    let stream = UnixStream::connect(node.control_socket()).expect("the control socket");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("an open socket");
    let mut replies = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut call = |request: &str| -> Value {
        (&stream).write_all(request.as_bytes()).expect("sent");
        let mut reply = String::new();
        replies.read_line(&mut reply).expect("a line");
        serde_json::from_str(&reply).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
    };
    let list = call(r#"{"method":"NexdCtl.ProxyList","params":[""],"id":0}"#);
    assert_eq!(list, json!({"id": 0, "result": "", "error": null}));
    let status = call(r#"{"method":"NexdCtl.Status","params":[null],"id":1}"#);
    assert!(status["result"].as_str().is_some_and(|text| text.starts_with("Status: Running\n")), "{status}");
    let unknown = call(r#"{"method":"NexdCtl.X","params":[""],"id":2}"#);
    assert_eq!(unknown, json!({"id": 2, "result": null, "error": "rpc: can't find method NexdCtl.X"}));
    // Upstream's nexd ends itself on this one.
    let typo = call(r#"{"method":"NexdCtl.ProxyAddIngress","params":["tcp:80"],"id":3}"#);
    assert!(typo["error"].as_str().is_some_and(|text| text.contains("4 colon-separated values")), "{typo}");
    let added = call(r#"{"method":"NexdCtl.ProxyAddIngress","params":["tcp:80:127.0.0.1:9"],"id":4}"#);
    assert_eq!(added["result"], "Added ingress proxy rule: tcp:80:127.0.0.1:9\n");
    let address = call(r#"{"method":"NexdCtl.GetTunnelIPv4","params":[""],"id":5}"#);
    assert_eq!(address["result"], "100.64.0.1");
}

#[test]
fn status_and_peers_are_shown() {
    let products = need!(products());
    let (_, node) = lone_node(&products);
    assert!(node.nexctl_ok(&["status"]).starts_with("Status: Running\n"));
}
