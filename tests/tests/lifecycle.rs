//! What happens when processes end, with and without warning.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use e2e::{
    Identity, Node, Process, Server, Tunnel, circle, connect, echo, eventually, free_port, http, http_get,
    need, products, within,
};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_killed_envoy_is_started_again_and_carries_traffic() {
    let products = need!(products());
    let server = Server::local(http("again"));
    let identity = Identity::new(1);
    let port = free_port();
    let mut node = circle(&products, &identity, port, server.address())
        // nexd says that Envoy ended: somebody should know.
        .expect_complaint("nvoy")
        .start();
    assert_eq!(http_get(port).expect("a page"), "again");

    let first = node.envoy_id().expect("a running Envoy");
    kill(first, Signal::KILL);
    within(Duration::from_secs(15), "another Envoy", || node.envoy_id().filter(|envoy| *envoy != first));
    within(Duration::from_secs(15), "traffic through the new Envoy", || http_get(port).ok());
    assert!(node.process().ended().is_none(), "nexd goes on");
    eventually("status Running", || node.nexctl_ok(&["status"]).contains("Running"));
}

/// The port is one that the kernel gives to others too.
#[test]
fn a_network_waits_for_its_port() {
    let products = need!(products());
    let server = Server::local(http("again"));
    let identity = Identity::new(1);
    let port = free_port();
    let node = circle(&products, &identity, port, server.address())
        .expect_complaint("nvoy")
        .expect_complaint("is not running")
        .start();
    let first = node.envoy_id().expect("a running Envoy");
    kill(first, Signal::KILL);
    let taken = within(Duration::from_secs(20), "the port of the Envoy that has ended", || {
        let taken = std::net::UdpSocket::bind(("0.0.0.0", identity.endpoint.port())).ok();
        if taken.is_none() {
            // The next one was faster; it may be gone by itself.
            let next = node.envoy_id().filter(|envoy| *envoy != first);
            let next = next.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            let _ = next.map(|id| kill_process(id, Signal::KILL));
        }
        taken
    });
    within(Duration::from_secs(15), "the status to say that the port is taken", || {
        node.nexctl_ok(&["status"]).contains("cannot be opened").then_some(())
    });
    assert!(http_get(port).is_err());
    drop(taken);
    within(Duration::from_secs(10), "traffic", || http_get(port).ok());
    let status = node.nexctl_ok(&["status"]);
    assert!(!status.contains("not running"), "{status}");
}

#[test]
fn sigterm_ends_a_node_within_the_drain_time_although_a_client_stays() {
    let products = need!(products());
    let server = Server::local(echo);
    let mut tunnel = Tunnel::to(&products, server.address());
    let mut client = connect(([127, 0, 0, 1], tunnel.port)).expect("a connection");
    client.write_all(b"hello").expect("sent");
    client.read_exact(&mut [0; 5]).expect("echoed");

    let start = Instant::now();
    let status = tunnel.two.stop(Signal::TERM);
    e2e::measured(&format!(
        "SIGTERM with a client that stays: ended after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    assert!(status.success(), "an ordered end is a success: {status}");
    // The default is ten seconds.
    assert!(start.elapsed() < Duration::from_secs(9), "took {:?}", start.elapsed());
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("an open socket");
    let mut rest = Vec::new();
    let end = client.read_to_end(&mut rest);
    assert!(
        !matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "the client was not told"
    );
}

#[test]
fn sigterm_ends_an_idle_node_at_once() {
    let products = need!(products());
    let mut node = Node::with(&products, &Identity::new(1)).ingress("tcp:8080:127.0.0.1:9").start();
    let start = Instant::now();
    assert!(node.stop(Signal::TERM).success());
    e2e::measured(&format!("SIGTERM when idle: ended after {:.1} s", start.elapsed().as_secs_f64()));
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

#[test]
fn a_killed_nexd_leaves_no_envoy_behind_and_can_be_started_again() {
    let products = need!(products());
    let server = Server::local(http("after the crash"));
    let identity = Identity::new(1);
    let port = free_port();
    let mut node = circle(&products, &identity, port, server.address()).start();
    // Waits for the Envoy too.
    node.stop(Signal::KILL);
    node.start();
    assert_eq!(http_get(port).expect("a page"), "after the crash");
}

/// The kernel does not end an Envoy with its nexd when the binary has capabilities.
#[test]
fn an_envoy_that_a_killed_nexd_left_behind_is_ended_by_the_next() {
    let products = need!(products());
    let identity = Identity::new(1);
    let port = free_port();
    let mut node = Node::with(&products, &identity)
        .egress(format!("tcp:{port}:{}:8080", identity.v4))
        .expect_complaint("left behind")
        .start();
    let kept = tempfile::tempdir().expect("a temporary directory");
    let bootstrap = kept.path().join("bootstrap.json");
    std::fs::copy(node.runtime_directory().join("bootstrap.json"), &bootstrap).expect("copied");
    node.stop(Signal::TERM);

    let mut envoy = std::process::Command::new(&products.envoy);
    envoy.arg("--config-path").arg(&bootstrap).args(["--concurrency", "1", "--use-dynamic-base-id"]);
    envoy.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", &products.directory);
    let mut leftover = Process::start("envoy", &envoy, &kept.path().join("log"));
    eventually("the leftover's admin interface", || node.admin().get("/ready").is_some());
    node.start();
    within(Duration::from_secs(5), "the leftover's end", || leftover.ended());
    assert!(
        node.log().contains("an Envoy was left behind by a nexd that was killed: ending it"),
        "{}",
        node.log()
    );
}

#[test]
fn a_hangup_without_a_rules_file_changes_nothing() {
    let products = need!(products());
    let identity = Identity::new(1);
    let mut node = Node::with(&products, &identity).start();
    node.process().signal(Signal::HUP);
    eventually("a word about it", || node.log().contains("SIGHUP: there is no rules file to read again"));
    assert!(node.process().ended().is_none());
    assert!(node.nexctl_ok(&["status"]).contains("Running"));
}

#[test]
fn traffic_resumes_when_the_other_node_comes_back() {
    let products = need!(products());
    let server = Server::local(http("back"));
    let mut tunnel = Tunnel::to(&products, server.address());
    assert_eq!(http_get(tunnel.port).expect("a page"), "back");
    tunnel.one.stop(Signal::KILL);
    tunnel.one.start();
    // The restarted node has no session, and says so: the other one would find out after 15 s.
    within(Duration::from_secs(8), "a page from the restarted node", || http_get(tunnel.port).ok());
}

fn kill(process: u32, signal: Signal) {
    let id = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, signal).expect("a running process");
}
