//! nexctl at a running node: what it shows and measures, between our own nodes and against wireguard-go.

use std::time::{Duration, Instant};

use e2e::{
    Identity, Namespace, Node, Server, Tunnel, WgPeer, circle, free_port, http, http_get, namespaces, need,
    products, run_ok, within,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);

/// The peers as nexctl gives them to programs.
#[track_caller]
fn peers(node: &Node<'_>) -> Vec<Value> {
    let json = node.nexctl_ok(&["peers", "list", "--output", "json"]);
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// Waits until the only peer of this node is healthy.
#[track_caller]
fn healthy_peer(node: &Node<'_>) -> Value {
    within(LIMIT, "a healthy peer", || {
        // None before the network thread's first turn.
        let [peer] = <[Value; 1]>::try_from(peers(node)).ok()?;
        (peer["Healthy"] == true).then_some(peer)
    })
}

#[test]
fn status_version_and_addresses() {
    let products = need!(products());
    let identity = Identity::new(7);
    let node = Node::with(&products, &identity).start();
    assert_eq!(node.nexctl_ok(&["status"]), "Status: Running\n");
    let version = node.nexctl_ok(&["version"]);
    let lines: Vec<_> =
        version.lines().map(|line| line.split_once(": ").expect("a name and a version")).collect();
    assert_eq!((lines[0].0, lines[1].0, lines[0].1), ("nexctl version", "nexd version", lines[1].1));
    assert_eq!(node.nexctl_ok(&["get", "tunnelip"]), format!("{}\n", identity.v4));
    for flag in ["--ipv6", "-6"] {
        assert_eq!(node.nexctl_ok(&["get", "tunnelip", flag]), format!("{}\n", identity.v6));
    }
}

#[test]
fn the_status_tells_of_an_envoy_that_does_not_answer() {
    let products = need!(products());
    let node = Node::with(&products, &Identity::new(7)).start();
    let envoy = node.envoy_id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let envoy = envoy.expect("a running Envoy");
    kill_process(envoy, Signal::STOP).expect("a running process");
    let status = node.nexctl_ok(&["status"]);
    kill_process(envoy, Signal::CONT).expect("a running process");
    assert!(status.contains("Envoy's admin interface does not answer"), "{status}");
    within(LIMIT, "nothing to say", || (node.nexctl_ok(&["status"]) == "Status: Running\n").then_some(()));
}

#[test]
fn peers_of_our_own_are_listed() {
    let products = need!(products());
    let server = Server::local(http("hello"));
    let tunnel = Tunnel::to(&products, server.address());
    // They have made themselves known when they started.
    healthy_peer(&tunnel.two);
    assert_eq!(http_get(tunnel.port).expect("a page"), "hello");
    // Each knows the other, with the numbers of the connection that has just been.
    let busy_peer = |node| {
        within(LIMIT, "a peer that more than a handshake was exchanged with", || {
            let peer = healthy_peer(node);
            ["Tx", "Rx"].iter().all(|count| peer[count].as_u64() > Some(400)).then_some(peer)
        })
    };
    let (one, two) = (busy_peer(&tunnel.one), busy_peer(&tunnel.two));
    assert_ne!(one["PublicKey"], two["PublicKey"]);
    for (peer, addresses) in [(&one, "100.64.0.2/32 fd64::2/128"), (&two, "100.64.0.1/32 fd64::1/128")] {
        let allowed: Vec<_> =
            peer["AllowedIPs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert_eq!(allowed.join(" "), addresses);
        assert!(peer["Endpoint"].as_str().is_some_and(|text| text.starts_with("127.0.0.1:")), "{peer}");
    }
    let table = tunnel.two.nexctl_ok(&["peers", "list"]);
    assert!(table.starts_with("|") && table.contains("seconds ago") && table.contains("true"), "{table}");
}

#[test]
fn a_peer_that_is_not_there_is_listed_as_such() {
    let products = need!(products());
    let [own, mut absent] = Identity::several();
    let silence = e2e::silent_udp_socket();
    absent.endpoint = silence.local_addr().expect("bound");
    let node = Node::with(&products, &own).peer(&absent).start();
    let [peer] = within(LIMIT, "a peer", || <[Value; 1]>::try_from(peers(&node)).ok());
    assert_eq!(
        (&peer["Healthy"], &peer["LatestHandshake"], &peer["Rx"]),
        (&false.into(), &"0".into(), &0.into())
    );
}

#[test]
fn wireguard_go_as_a_peer_is_listed() {
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let [own, peer] = Identity::several();
    let (own, peer) = (own.at(Namespace::NEAR), peer.at(Namespace::FAR));
    let far_peer = WgPeer::start(&far, &peer, &[&own]);
    let section = peer.peer_section() + "PersistentKeepalive = 20\n";
    let node = Node::with(&products, &own).peer_section(section).within(&near).start();
    // The keepalive alone makes the handshake.
    let shown = healthy_peer(&node);
    assert_eq!(shown["PublicKey"], peer.public_key);
    assert_eq!(
        (&shown["Endpoint"], &shown["PersistentKeepalive"]),
        (&peer.endpoint.to_string().into(), &20.into())
    );
    let number = |text: &str, field| -> u64 {
        text.split_whitespace()
            .nth(field)
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{text}"))
    };
    let theirs = number(&far_peer.show(&far, "latest-handshakes"), 1);
    let ours: u64 = shown["LatestHandshake"].as_str().and_then(|text| text.parse().ok()).expect("seconds");
    // Theirs may be when the first packet came.
    assert!(ours.abs_diff(theirs) <= 5, "{ours} here, {theirs} there");
    run_ok(far.command("ping").args(["-c", "3", "-i", "0.2", "-W", "5", &own.v4.to_string()]));
    within(LIMIT, "the same numbers of bytes here and there", || {
        let here = peers(&node)[0].clone();
        // The key, what it received, what it sent.
        let there = far_peer.show(&far, "transfer");
        (here["Rx"] == number(&there, 2) && here["Tx"] == number(&there, 1)).then_some(())
    });
}

/// What was logged at debug level from this byte of the log on: by nexd itself, and by Envoy.
fn debug_lines(node: &Node<'_>, from: usize) -> [usize; 2] {
    let log = node.log();
    ["DEBUG xds_server", "DEBUG envoy"]
        .map(|mark| log.get(from..).unwrap_or_default().lines().filter(|line| line.contains(mark)).count())
}

#[test]
fn debug_is_switched_at_run_time_and_outlives_envoy() {
    let products = need!(products());
    let server = Server::local(http("hello"));
    let identity = Identity::new(1);
    let port = free_port();
    let node = circle(&products, &identity, port, server.address())
        // nexd says that Envoy ended: somebody should know.
        .expect_complaint("nvoy")
        .start();
    let page = || http_get(port).ok();
    assert_eq!(page().as_deref(), Some("hello"));
    // Something that Envoy and nexd have to say something about.
    let both = |from: usize| {
        http_get(port).ok().zip(Some(node.nexctl_ok(&["version"])))?;
        debug_lines(&node, from).iter().all(|count| *count > 0).then_some(())
    };
    assert_eq!(node.nexctl_ok(&["get", "debug"]), "off\n");
    assert_eq!(debug_lines(&node, 0), [0, 0], "{}", node.log());

    assert_eq!(node.nexctl_ok(&["set", "debug", "on"]), "Debug logging enabled\n");
    assert_eq!(node.nexctl_ok(&["get", "debug"]), "on\n");
    let from = node.log().len();
    within(LIMIT, "debug messages of both", || both(from));

    let first = node.envoy_id().expect("a running Envoy");
    let id = i32::try_from(first).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, Signal::KILL).expect("a running process");
    within(LIMIT, "another Envoy", || node.envoy_id().filter(|envoy| *envoy != first));
    within(LIMIT, "a page from it", page);
    assert_eq!(node.nexctl_ok(&["get", "debug"]), "on\n");
    let from = node.log().len();
    within(LIMIT, "debug messages of the new Envoy", || both(from));

    assert_eq!(node.nexctl_ok(&["set", "debug", "off"]), "Debug logging disabled\n");
    assert_eq!(node.nexctl_ok(&["get", "debug"]), "off\n");
    within(LIMIT, "silence about a page and a question", || {
        // What was said before may still be on its way.
        let from = node.log().len();
        page().expect("a page");
        both(from);
        (debug_lines(&node, from) == [0, 0]).then_some(())
    });
}

#[test]
fn a_node_that_starts_with_debug_has_it_in_envoy_too() {
    let products = need!(products());
    let identity = Identity::new(1);
    let mut node = Node::with(&products, &identity).variable("NEXD_LOGLEVEL", "debug").build();
    node.start();
    assert_eq!(node.nexctl_ok(&["get", "debug"]), "on\n");
    within(LIMIT, "debug messages of both", || {
        debug_lines(&node, 0).iter().all(|count| *count > 0).then_some(())
    });
    assert_eq!(node.nexctl_ok(&["set", "debug", "off"]), "Debug logging disabled\n");
    assert_eq!(node.nexctl_ok(&["get", "debug"]), "off\n");
}

/// The results of a ping as nexctl gives them to programs, and whether it succeeded.
#[track_caller]
fn ping(node: &Node<'_>, arguments: &[&str]) -> (bool, Vec<Value>) {
    let all = [&["peers"], arguments, &["--output", "json-raw"]].concat();
    let (status, out, error) = node.nexctl(&all);
    let results = serde_json::from_str(&out).unwrap_or_else(|parse| panic!("{parse}: {out}{error}"));
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    (status.success(), results)
}

/// Upstream's TestProxyNexctlConnections: two proxy nodes, no rules.
#[test]
fn two_proxy_nodes_ping_each_other() {
    let products = need!(products());
    let [one, two] = Identity::several();
    let mut first = Node::with(&products, &one).peer(&two).build();
    first.launch();
    let second = Node::with(&products, &two).peer(&one).start();
    first.wait_ready();
    for node in [&first, &second] {
        for command in ["ping", "ping6"] {
            let table = node.nexctl_ok(&["peers", command]);
            assert!(table.contains("✓ Reachable") && !table.contains("Unreachable"), "{table}");
            assert!(table.starts_with("|") && table.contains("WIREGUARD ADDRESS"), "{table}");
        }
    }
    let (success, results) = ping(&first, &["ping", &two.v4.to_string()]);
    assert!(success);
    assert_eq!(results[0]["wg_ip"], two.v4.to_string());
    assert_eq!(results[0]["hostname"], two.public_key);
    assert_eq!((&results[0]["is_reachable"], &results[0]["reason"]), (&true.into(), &Value::Null));
    assert!(results[0]["Latency"].as_str().is_some_and(|text| text.ends_with("ms")), "{results:?}");
    // Its own address, which needs nobody.
    assert!(ping(&first, &["ping6", &one.v6.to_string()]).0);
}

#[test]
fn an_address_that_does_not_answer_is_a_failure_with_a_reason() {
    let products = need!(products());
    let [one, two, absent] = Identity::several();
    let calls_only =
        format!("\n[Peer]\nPublicKey = {}\nAllowedIPs = 100.64.0.9/32\n", Identity::new(9).public_key);
    let net_only =
        format!("\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.9.0.0/16\n", Identity::new(10).public_key);
    let mut second = Node::with(&products, &two).peer(&one).build();
    second.launch();
    let first = Node::with(&products, &one)
        .peer(&two)
        .peer(&absent)
        .peer_section(calls_only)
        .peer_section(net_only)
        .start();
    second.wait_ready();
    let (success, results) = ping(&first, &["ping", "--timeout", "1s"]);
    assert!(!success);
    let reachable: Vec<_> =
        results.iter().map(|result| (&result["wg_ip"], &result["is_reachable"])).collect();
    let expected =
        [two.v4, absent.v4, [100, 64, 0, 9].into()].map(|address| Value::from(address.to_string()));
    let (yes, no) = (Value::from(true), Value::from(false));
    assert_eq!(reachable, [(&expected[0], &yes), (&expected[1], &no), (&expected[2], &no)]);
    let silent = results[1]["reason"].as_str().unwrap_or_default();
    assert!(
        silent.starts_with("no answer within 1s, nor ever a handshake: check both public keys"),
        "{silent}"
    );
    assert_eq!(results[2]["reason"], "the peer has no endpoint, and has not called yet");
    // The fourth has no address to ask.
    let (status, out, error) = first.nexctl(&["peers", "ping", "--timeout", "1s"]);
    assert_eq!(status.code(), Some(1));
    assert!(out.contains("x Unreachable: no answer within 1s"), "{out}");
    assert!(error.contains("1 of the peers have no single address"), "{error}");

    let start = Instant::now();
    let (success, results) = ping(&first, &["ping6", "--timeout", "5s", "fd64::77"]);
    assert!(!success && start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(results[0]["reason"], "no peer has a route to the destination");
    for (arguments, reason) in [
        (&["ping", "fd64::2"][..], "not an IPv4 address"),
        (&["ping6", "100.64.0.2"], "not an IPv6 address"),
        (&["ping", "somewhere"], "invalid IP address"),
        (&["ping", "--timeout", "1h"], "write it like"),
        (&["ping", "--timeout", "6s"], "from 1ms to 5s"),
    ] {
        let (status, out, error) = first.nexctl(&[&["peers"], arguments].concat());
        assert!(!status.success() && out.is_empty() && error.contains(reason), "{arguments:?}: {out}{error}");
    }

    // It is called at the start, and again after five seconds.
    let complaint =
        format!("Peer {} at {} has never answered: check both", absent.public_key, absent.endpoint);
    within(LIMIT, "the status to tell of the peer that is not there", || {
        let status = first.nexctl_ok(&["status"]);
        assert!(!status.contains(&two.public_key), "{status}");
        status.contains(&complaint).then_some(())
    });
}

#[test]
fn wireguard_go_answers_until_it_is_gone() {
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let [own, peer] = Identity::several();
    let (own, peer) = (own.at(Namespace::NEAR), peer.at(Namespace::FAR));
    let far_peer = WgPeer::start(&far, &peer, &[&own]);
    let node = Node::with(&products, &own).peer(&peer).within(&near).start();
    for command in ["ping", "ping6"] {
        let (success, results) = ping(&node, &[command]);
        assert!(success && results[0]["is_reachable"] == true, "{results:?}");
    }
    // Else the reason would be that there never was a handshake: what is told is a second old.
    healthy_peer(&node);
    drop(far_peer);
    for command in ["ping", "ping6"] {
        let (success, results) = ping(&node, &[command]);
        assert!(!success && results[0]["is_reachable"] == false, "{results:?}");
        assert_eq!(results[0]["reason"], "no answer within 1200ms");
    }
}

#[test]
fn pings_are_bounded_and_counted() {
    let products = need!(products());
    let [one, absent] = Identity::several();
    // Envoy says that a page was asked for by GET that is not for it.
    let node = Node::with(&products, &one).peer(&absent).expect_complaint("mutates state").start();
    let admin = node.admin();
    let start = |addresses: usize| {
        let query = format!("&address={}", absent.v4).repeat(addresses);
        admin.post(&format!("/nexodus/ping?timeout=10000{query}")).expect("an answer")
    };
    assert!(start(128).contains("\"id\""));
    let refused = start(1);
    assert!(refused.contains("more than 128 echo requests are under way"), "{refused}");
    // nexctl passes it on.
    let (status, _, error) = node.nexctl(&["peers", "ping"]);
    assert_eq!(status.code(), Some(1));
    assert!(error.contains("more than 128 echo requests are under way"), "{error}");
    within(LIMIT, "the count of what was refused", || {
        (admin.stat("dynamicmodulescustom.nexodus.default.pings_refused") == 2).then_some(())
    });
    for (path, reason) in [
        ("/nexodus/ping", "name 1 to 128 addresses"),
        ("/nexodus/ping?address=host", "address=host: expected an IP address"),
        ("/nexodus/ping?address=fd64::2&timeout=x", "timeout=x: expected milliseconds"),
        ("/nexodus/ping?address=fd64::2&network=other", "other"),
        ("/nexodus/ping/results?id=77", "no results with id 77"),
        ("/nexodus/ping/results", "id=: expected a number"),
    ] {
        let answer = admin.post(path).expect("an answer");
        assert!(answer.contains(reason) && !answer.contains("\"id\""), "{path}: {answer}");
    }
    // A page that sends something is not for GET.
    assert!(!admin.get("/nexodus/ping?address=fd64::2").expect("an answer").contains("\"id\""));
}
