//! Active health checks: destinations are tried without a client.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use e2e::{
    Identity, Node, Products, Server, eventually, free_port, free_ports, http, http_get, need, products,
    silent_udp_socket, within,
};

/// How many requests find out whether a destination is in use: round robin asks each in turn.
const REQUESTS: usize = 12;

/// Every request is answered by one of these, and all of these answer.
#[track_caller]
fn served_by(port: u16, expected: &[&str]) {
    let mut pages: Vec<String> =
        (0..REQUESTS).map(|_| http_get(port).expect("no client meets a dead destination")).collect();
    pages.sort();
    pages.dedup();
    assert_eq!(pages, expected);
}

/// The number of connections that Envoy has tried and failed to make for clients.
fn failed_attempts(node: &Node, cluster: &str) -> u64 {
    node.admin().stat(&format!("cluster.{cluster}.upstream_cx_connect_fail"))
}

/// How many destinations pass their checks.
fn healthy(node: &Node, cluster: &str) -> u64 {
    node.admin().stat(&format!("cluster.{cluster}.membership_healthy"))
}

/// A node that reaches its own ingress rules through the overlay.
fn circle(products: &Products, identity: &Identity, ingress: &[String], egress: &[String]) -> Node<'static> {
    let node = Node::with(products, identity);
    let node = ingress.iter().fold(node, |node, rule| node.ingress(rule.clone()));
    egress.iter().fold(node, |node, rule| node.egress(rule.clone())).start()
}

#[test]
fn an_overlay_destination_that_fails_its_checks_is_out_before_a_client_meets_it() {
    let products = need!(products());
    let servers = [Server::local(http("one")), Server::local(http("two"))];
    let [own, mut absent] = Identity::several();
    let silence = silent_udp_socket();
    absent.endpoint = silence.local_addr().expect("bound");
    let (v4, v6, port) = (own.v4, own.v6, free_port());
    let rule = |to: String| format!("tcp:{port}:{to},health-check=500ms");
    let second = format!("tcp:82:{}", servers[1].address());
    let node = Node::with(&products, &own)
        .peer(&absent)
        .ingress(format!("tcp:81:{}", servers[0].address()))
        .ingress(second.clone())
        .egress(rule(format!("{v4}:81")))
        .egress(rule(format!("[{v6}]:82")))
        // Nobody is there; nobody listens; nobody has the address.
        .egress(rule(format!("{}:80", absent.v4)))
        .egress(rule(format!("{v4}:9")))
        .egress(rule("100.64.0.77:80".to_owned()))
        .start();
    let cluster = format!("egress/tcp/{port}");
    // The first checks are over before this node's own ingress ports are there.
    eventually("both to pass", || healthy(&node, &cluster) == 2);
    served_by(port, &["one", "two"]);
    assert_eq!(failed_attempts(&node, &cluster), 0, "a client's connection found out");
    let clusters = node.admin().get("/clusters").expect("Envoy's admin page");
    let failing =
        |to: &str| format!("{cluster}::envoy://tunnel/default/{to}::health_flags::/failed_active_hc");
    for dead in [format!("{}:80", absent.v4), format!("{v4}:9"), "100.64.0.77:80".to_owned()] {
        assert!(clusters.contains(&failing(&dead)), "{dead} is in use:\n{clusters}");
    }
    let result = |to: &str| {
        let status = node.admin().get("/nexodus/status").expect("the module's admin page");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let rows = status["networks"][0]["health_checks"].as_array().cloned().unwrap_or_default();
        assert_eq!(rows.len(), 5, "{rows:?}");
        let row = rows.into_iter().find(|row| row["destination"] == to);
        row.and_then(|row| Some(row["last"].as_str()?.to_owned())).unwrap_or_default()
    };
    for (to, expected) in [
        (format!("{v4}:81"), "connected"),
        (format!("[{v6}]:82"), "connected"),
        (format!("{v4}:9"), "refused"),
        ("100.64.0.77:80".to_owned(), "no_peer"),
        (format!("{}:80", absent.v4), "timeout"),
    ] {
        // A check that the machine held up is followed by another.
        eventually(&format!("{to} to be {expected}"), || result(&to) == expected);
    }

    // One goes, and comes back by itself.
    node.nexctl_ok(&["proxy", "remove", "--ingress", &second]);
    eventually("the second to be left out", || healthy(&node, &cluster) == 1);
    served_by(port, &["one"]);
    assert_eq!(failed_attempts(&node, &cluster), 0, "a client's connection found out");
    node.nexctl_ok(&["proxy", "add", "--ingress", &second]);
    eventually("the second to be back", || healthy(&node, &cluster) == 2);
    served_by(port, &["one", "two"]);
}

#[test]
fn a_local_destination_that_fails_its_checks_is_out_before_a_client_meets_it() {
    let products = need!(products());
    let one = Server::local(http("one"));
    // Not one that the kernel gives out meanwhile: it comes back at this port.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let two = Server::on(TcpListener::bind(address).expect("a free port"), http("two"));
    let closed = free_port();
    let (identity, port) = (Identity::new(1), free_port());
    let rule = |to: String| format!("tcp:80:{to},health-check=500ms");
    let node = circle(
        &products,
        &identity,
        &[rule(one.address().to_string()), rule(address.to_string()), rule(format!("127.0.0.1:{closed}"))],
        &[format!("tcp:{port}:{}:80", identity.v4)],
    );
    let cluster = "ingress/tcp/80";
    served_by(port, &["one", "two"]);
    drop(two);
    eventually("the second to be left out", || healthy(&node, cluster) == 1);
    served_by(port, &["one"]);
    let _two = Server::on(TcpListener::bind(address).expect("the port is free again"), http("two"));
    eventually("the second to be back", || healthy(&node, cluster) == 2);
    served_by(port, &["one", "two"]);
    assert_eq!(failed_attempts(&node, cluster), 0, "a client's connection found out");
}

#[test]
fn checks_leave_nothing_behind_and_end_with_their_rule() {
    let products = need!(products());
    let server = Server::local(http("page"));
    let [own, mut absent] = Identity::several();
    let silence = silent_udp_socket();
    absent.endpoint = silence.local_addr().expect("bound");
    let port = free_port();
    let ingress = format!("tcp:81:{}", server.address());
    let rules = [format!("{}:81", own.v4), format!("{}:80", absent.v4)]
        .map(|to| format!("tcp:{port}:{to},health-check=100ms"));
    let node = Node::with(&products, &own).peer(&absent).ingress(ingress);
    let node = rules.iter().fold(node, |node, rule| node.egress(rule.clone())).start();
    let number = |name: &str| {
        let status = node.admin().get("/nexodus/status").expect("the module's admin page");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        status["networks"][0]["numbers"][name].as_u64().unwrap_or_else(|| panic!("no {name}"))
    };
    eventually("twenty checks", || number("health_checks") >= 20 && number("health_checks_failed") >= 5);
    // Two checks, and the other ends of those that loop back.
    assert!(number("flows") <= 4, "{} flows", number("flows"));
    assert_eq!(number("time_wait"), 0);

    // A destination that passes its checks is gone with its rule all the same.
    node.nexctl_ok(&["proxy", "remove", "--egress", &rules[0]]);
    within(Duration::from_secs(5), "the destination to be gone", || http_get(port).is_err().then_some(()));
    node.nexctl_ok(&["proxy", "remove", "--egress", &rules[1]]);
    eventually("no flow", || number("flows") == 0);
    let done = number("health_checks");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(number("health_checks"), done, "the checks go on without a rule");
}

#[test]
fn a_rule_with_checks_serves_as_soon_as_it_is_added() {
    let products = need!(products());
    let server = Server::local(http("page"));
    let identity = Identity::new(1);
    let [egress, second] = free_ports();
    let node = circle(&products, &identity, &[], &[]);
    node.nexctl_ok(&["proxy", "add", "--ingress", &format!("tcp:80:{},health-check=10s", server.address())]);
    for port in [egress, second] {
        let rule = format!("tcp:{port}:{}:80,health-check=10s", identity.v4);
        let start = Instant::now();
        node.nexctl_ok(&["proxy", "add", "--egress", &rule]);
        assert_eq!(http_get((Ipv4Addr::LOCALHOST, port)).expect("added means that it serves"), "page");
        // Who waits in vain for a first check waits for six seconds.
        assert!(start.elapsed() < Duration::from_millis(5500), "took {:?}", start.elapsed());
    }
}

#[test]
fn rules_with_checks_apply_when_the_first_checks_are_over() {
    let products = need!(products());
    let server = Server::local(http("page"));
    let [own, mut absent] = Identity::several();
    let silence = silent_udp_socket();
    absent.endpoint = silence.local_addr().expect("bound");
    let port = free_port();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("rules.yaml");
    let ingress = format!("ingress:\n- tcp:80:{}\n", server.address());
    std::fs::write(&file, &ingress).expect("written");
    let node = Node::with(&products, &own).peer(&absent).flag(format!("--rules={}", file.display())).start();
    let rule = |to| format!("- tcp:{port}:{to},health-check=20s\n");
    let egress = format!("egress:\n{}{}", rule(format!("{}:80", own.v4)), rule(format!("{}:80", absent.v4)));
    let start = Instant::now();
    std::fs::write(&file, ingress + &egress).expect("written");
    within(Duration::from_secs(15), "the rules to apply", || {
        node.nexctl_ok(&["status"]).contains("3 rules").then_some(())
    });
    // The one that does not answer takes 5 s to be found out; until then the other one is not in use either.
    assert_eq!(http_get(port).expect("what applies serves"), "page", "after {:?}", start.elapsed());
}
