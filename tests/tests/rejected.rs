//! Rules that Envoy rejects: they wait, and harm no other.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use e2e::{
    Identity, Node, Server, UdpClient, UdpServer, connect, echo, eventually, free_port, http, http_get, need,
    products, within,
};

/// An address in a zone that this host has not: right in form, and known to be wrong by Envoy alone.
const NOWHERE: &str = "tcp:81:[fe80::1%nowhere]:80";

fn waits(node: &Node<'_>, rule: &str) -> bool {
    node.nexctl_ok(&["status"]).contains(&format!("Not active: --{rule}: "))
}

#[test]
fn one_that_comes_with_a_reload_leaves_its_port_and_the_connections_there_alone() {
    let products = need!(products());
    let server = Server::local(echo);
    let identity = Identity::new(1);
    let port = free_port();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("rules.yaml");
    let base =
        format!("egress: ['tcp:{port}:{}:81']\ningress:\n- tcp:81:{}\n", identity.v4, server.address());
    fs::write(&file, &base).expect("written");
    let rules = format!("--rules={}", file.display());
    let node = Node::with(&products, &identity).flag(rules).expect_complaint("").start();
    let mut stream = connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
    let mut echoes = |text: &[u8; 4]| {
        let mut back = [0; 4];
        stream.write_all(text).expect("the connection lives");
        stream.read_exact(&mut back).expect("the connection lives");
        assert_eq!(&back, text);
    };
    echoes(b"once");

    fs::write(&file, format!("{base}- {NOWHERE}\n")).expect("written");
    eventually("the rejected rule to wait", || waits(&node, &format!("ingress {NOWHERE}")));
    assert_eq!(node.nexctl_ok(&["proxy", "list"]).lines().count(), 2);
    // A listener that was closed would end its connections after the drain time.
    std::thread::sleep(Node::DRAIN_TIME + Duration::from_secs(1));
    echoes(b"more");

    fs::write(&file, &base).expect("written");
    eventually("the file without it", || !node.nexctl_ok(&["status"]).contains("Not active"));
    echoes(b"last");
}

#[test]
fn one_that_is_stored_waits_at_the_start_and_can_be_removed() {
    let products = need!(products());
    let server = Server::local(http("served"));
    let identity = Identity::new(1);
    let port = free_port();
    let mut node = Node::with(&products, &identity)
        .ingress(format!("tcp:82:{}", server.address()))
        .egress(format!("tcp:{port}:{}:82", identity.v4))
        .expect_complaint("")
        .build();
    node.store(&[], &[NOWHERE]);
    node.start();
    assert_eq!(http_get(port).expect("a page"), "served");
    eventually("the rejected rule to wait", || waits(&node, &format!("ingress {NOWHERE}")));
    node.nexctl_ok(&["proxy", "remove", "--ingress", NOWHERE]);
    assert!(!node.nexctl_ok(&["status"]).contains("Not active"));
}

#[test]
fn one_that_a_flag_asks_for_ends_the_start() {
    let products = need!(products());
    let identity = Identity::new(1);
    let mut node = Node::with(&products, &identity).ingress(NOWHERE).expect_complaint("").build();
    let (status, said) = node.run_to_end();
    assert_eq!(status.code(), Some(8), "{said}");
    assert!(said.contains("ingress/tcp/81"), "{said}");
}

#[test]
fn one_that_does_not_get_along_with_others_any_more_goes_on_waiting() {
    let products = need!(products());
    let server = Server::local(http("served"));
    let identity = Identity::new(1);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("rules.yaml");
    let rule = format!("tcp:{port}:{}:81", identity.v4);
    fs::write(&file, format!("ingress: ['tcp:81:{}']\negress: ['{rule}']\n", server.address()))
        .expect("written");
    let rules = format!("--rules={}", file.display());
    let node = Node::with(&products, &identity).flag(rules).expect_complaint("").start();
    let reason = |part: &str| {
        let status = node.nexctl_ok(&["status"]);
        status
            .lines()
            .any(|line| line.starts_with(&format!("Not active: --egress {rule}: ")) && line.contains(part))
    };
    assert!(reason("already in use"), "{}", node.nexctl_ok(&["status"]));
    let bound = format!("{rule},bind=127.0.0.2");
    node.nexctl_ok(&["proxy", "add", "--egress", &bound]);
    within(Duration::from_secs(20), "the new reason", || reason("cannot both be").then_some(()));
    node.nexctl_ok(&["proxy", "remove", "--egress", &bound]);
    drop(taken);
    let page = within(Duration::from_secs(20), "the rule", || http_get(port).ok());
    assert_eq!(page, "served");
}

#[test]
fn one_that_comes_with_a_reload_that_also_frees_a_port_waits_and_its_neighbour_serves() {
    let products = need!(products());
    let servers = [Server::local(http("served")), Server::local(http("added"))];
    let identity = Identity::new(1);
    let port = free_port();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("rules.yaml");
    let base =
        format!("egress: ['tcp:{port}:{}:81']\ningress:\n- tcp:81:{}\n", identity.v4, servers[0].address());
    fs::write(&file, format!("{base}- tcp:82:127.0.0.1:9\n")).expect("written");
    let rules = format!("--rules={}", file.display());
    let node = Node::with(&products, &identity).flag(rules).expect_complaint("").start();
    assert_eq!(http_get(port).expect("a page"), "served");

    fs::write(&file, format!("{base}- {NOWHERE}\n- tcp:81:{}\n", servers[1].address())).expect("written");
    eventually("the rejected rule to wait", || waits(&node, &format!("ingress {NOWHERE}")));
    within(Duration::from_secs(20), "the rule beside it", || {
        (http_get(port).expect("a page") == "added").then_some(())
    });
    eventually("three rules in the list", || node.nexctl_ok(&["proxy", "list"]).lines().count() == 3);
    assert!(waits(&node, &format!("ingress {NOWHERE}")), "{}", node.nexctl_ok(&["status"]));
}

#[test]
fn a_stored_one_that_a_flag_is_in_the_way_of_comes_when_the_flag_s_is_removed() {
    let products = need!(products());
    let server = Server::local(http("served"));
    let identity = Identity::new(1);
    let port = free_port();
    let by_flag = format!("tcp:{port}:100.64.0.9:80,connect-timeout=2s");
    let rule = format!("tcp:{port}:{}:81,connect-timeout=3s", identity.v4);
    let mut node = Node::with(&products, &identity)
        .ingress(format!("tcp:81:{}", server.address()))
        .egress(&by_flag)
        .expect_complaint("is not active")
        .build();
    node.store(&[&rule], &[]);
    node.start();
    let status = node.nexctl_ok(&["status"]);
    assert_eq!(status.matches(&format!("Not active: --egress {rule}: ")).count(), 1, "{status}");
    assert!(status.contains("connect-timeout=3s differs from connect-timeout=2s"), "{status}");
    node.nexctl_ok(&["proxy", "remove", "--egress", &by_flag]);
    // Sooner than the next regular try, and served by Envoy before nexd has heard that it is.
    let page = within(Duration::from_secs(8), "the stored rule", || http_get(port).ok());
    assert_eq!(page, "served");
    eventually("a status without it", || !node.nexctl_ok(&["status"]).contains("Not active"));
}

#[test]
fn a_stored_one_comes_as_soon_as_envoy_lets_go_of_the_port_of_a_removed_one() {
    let products = need!(products());
    let server = UdpServer::echo("served");
    let identity = Identity::new(1);
    let port = free_port();
    let everywhere = format!("udp:{port}:{}:53", identity.v4);
    let rule = format!("{everywhere},bind=127.0.0.1");
    let mut node = Node::with(&products, &identity)
        .ingress(format!("udp:53:{}", server.address()))
        .egress(&everywhere)
        .expect_complaint("is not active")
        .build();
    node.store(&[&rule], &[]);
    node.start();
    assert!(node.nexctl_ok(&["status"]).contains(&format!("Not active: --egress {rule}: ")));
    let removed = Instant::now();
    node.nexctl_ok(&["proxy", "remove", "--egress", &everywhere]);
    // Envoy drains it for two seconds, and nexd gives it four more; the next regular try is after ten.
    within(Duration::from_secs(20), "the stored rule", || {
        (!node.nexctl_ok(&["status"]).contains("Not active")).then_some(())
    });
    let took = removed.elapsed();
    assert!(took < Duration::from_millis(9500), "{took:?}");
    let client = UdpClient::of((Ipv4Addr::LOCALHOST, port));
    assert_eq!(client.ask_text(b"").expect("an answer"), "served");
}
