//! No destination: how soon its clients know, and where the reason stands.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use e2e::{
    ClosedPort, Identity, Node, Products, Server, accepted_and_ended, connect, echo, eventually, free_port,
    free_ports, http, http_get, measured, need, products, reset, silent_udp_socket,
};
use socket2::{Domain, Socket, Type};

/// How long a client waits at most, over all attempts.
const DEADLINE: Duration = Duration::from_secs(10);
/// The default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What a busy machine may add: it may stand still for seconds.
const MARGIN: Duration = Duration::from_secs(4);
/// Half of the deadline: whatever waits for an answer takes all of it.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A number of the only network on the module's status page.
#[track_caller]
fn number(node: &Node, name: &str) -> u64 {
    let status = node.admin().get("/nexodus/status").expect("the module's admin page");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    status["networks"][0]["numbers"][name].as_u64().unwrap_or_else(|| panic!("no {name}"))
}

/// The same number among Envoy's statistics, where it arrives within a second.
#[track_caller]
fn metric(node: &Node, name: &str, expected: u64) {
    let name = format!("dynamicmodulescustom.nexodus.default.{name}");
    eventually(&format!("{name} to be {expected}"), || node.admin().stat(&name) == expected);
}

/// The reason in a line of the access log, in which Envoy writes `_` for a space.
#[track_caller]
fn reason(line: &str) -> String {
    let (_, rest) = line.split_once("reason=\"").unwrap_or_else(|| panic!("no reason: {line}"));
    rest.split('"').next().unwrap_or_default().replace('_', " ")
}

/// How long a client lives that gets no answer.
#[track_caller]
fn closed_after(port: u16) -> Duration {
    let start = Instant::now();
    let end = accepted_and_ended((Ipv4Addr::LOCALHOST, port));
    assert!(
        !matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "the client was left waiting"
    );
    start.elapsed()
}

/// A node with a peer that is not there.
struct Lonely {
    own: Identity,
    absent: Identity,
    _silence: std::net::UdpSocket,
}

impl Lonely {
    fn new() -> Lonely {
        let [own, mut absent] = Identity::several();
        let silence = silent_udp_socket();
        absent.endpoint = silence.local_addr().expect("bound");
        Lonely { own, absent, _silence: silence }
    }

    fn node(&self, products: &Products, ingress: &[String], egress: &[String]) -> Node<'static> {
        let node = Node::with(products, &self.own).peer(&self.absent);
        let node = ingress.iter().fold(node, |node, rule| node.ingress(rule.clone()));
        egress.iter().fold(node, |node, rule| node.egress(rule.clone())).start()
    }
}

/// A local port that answers nothing: its queue of new connections is full.
struct Blackhole {
    listener: Socket,
    _queued: Vec<TcpStream>,
}

impl Blackhole {
    fn new() -> Blackhole {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        listener.listen(0).expect("listening");
        let mut hole = Blackhole { listener, _queued: Vec::new() };
        let address = hole.address();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            hole._queued.push(stream);
            assert!(hole._queued.len() < 10, "the queue does not fill");
        }
        hole
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound").as_socket().expect("an IP address")
    }
}

#[test]
fn when_every_overlay_destination_refuses_the_client_is_closed_at_once() {
    let products = need!(products());
    let lonely = Lonely::new();
    let port = free_port();
    let rules = [7, 8, 9].map(|closed| format!("tcp:{port}:{}:{closed}", lonely.own.v4));
    let node = lonely.node(&products, &[], &rules);
    for client in 1..=3 {
        let took = closed_after(port);
        assert!(took < AT_ONCE, "client {client} was closed after {took:?}");
    }
    let log = node.access_log(&format!("egress/tcp/{port}"), 3);
    assert_eq!(reason(&log[0]), "overlay: connection refused by the destination");
    let refused = number(&node, "connect_failed_refused");
    // Three by the first client; how many by the others depends on which are left out by then.
    assert!((5..=15).contains(&refused), "{refused} refusals");
    metric(&node, "connect_failed_refused", refused);
    metric(&node, "clients_unserved", 3);
    metric(&node, "clients_deadline", 0);
    metric(&node, "connect_failed_timeout", 0);
}

#[test]
fn when_no_overlay_destination_answers_the_clients_are_closed_after_ten_seconds() {
    const CLIENTS: u64 = 32;
    let products = need!(products());
    let lonely = Lonely::new();
    let server = Server::local(echo);
    let [port, served] = free_ports();
    let mut rules = [6, 7, 8, 9].map(|dead| format!("tcp:{port}:{}:{dead}", lonely.absent.v4)).to_vec();
    rules.push(format!("tcp:{served}:{}:80", lonely.own.v4));
    let node = lonely.node(&products, &[format!("tcp:80:{}", server.address())], &rules);
    // It has its destination, and nothing to say for longer than the deadline.
    let mut silent = connect((Ipv4Addr::LOCALHOST, served)).expect("a connection");
    let took: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| closed_after(port))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let (first, last) = (took.iter().min().copied(), took.iter().max().copied());
    let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
    measured(&format!(
        "four blackholed destinations, {CLIENTS} clients: closed after {first:.1?} to {last:.1?}"
    ));
    assert!(
        first >= CONNECT_TIMEOUT,
        "one attempt takes {CONNECT_TIMEOUT:?}, and a client was closed after {first:?}"
    );
    assert!(last < DEADLINE + MARGIN, "a client was closed after {last:?}");
    let log = node.access_log(&format!("egress/tcp/{port}"), took.len());
    for line in &log {
        assert!(line.contains("details=\"nexodus.deadline: no destination within 10s\""), "{line}");
        assert_eq!(reason(line), "overlay: no answer from the destination");
    }
    metric(&node, "clients_deadline", CLIENTS);
    metric(&node, "clients_unserved", CLIENTS);
    let timeouts = number(&node, "connect_failed_timeout");
    assert!(timeouts >= CLIENTS, "{timeouts} timeouts");
    metric(&node, "connect_failed_timeout", timeouts);

    thread::sleep(Duration::from_millis(1500));
    silent.write_all(b"still here").expect("an open connection");
    let mut answer = [0; 10];
    silent.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"still here");
}

#[test]
fn a_client_that_leaves_ends_the_search_for_a_destination() {
    let products = need!(products());
    let lonely = Lonely::new();
    let port = free_port();
    let rules =
        [6, 7, 8, 9].map(|dead| format!("tcp:{port}:{}:{dead},connect-timeout=20s", lonely.absent.v4));
    let node = lonely.node(&products, &[], &rules);
    let mut client = connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
    client.write_all(b"what it asks for").expect("sent");
    let received = format!("tcp.egress/tcp/{port}.downstream_cx_rx_bytes_total");
    eventually("Envoy to have read it", || node.admin().stat(&received) == 16);
    reset(client);
    // Within ten seconds: the attempt would take twenty.
    let log = node.access_log(&format!("egress/tcp/{port}"), 1);
    assert!(log[0].contains("destination=- ") && log[0].contains("from_client=16 "), "{}", log[0]);
    metric(&node, "clients_deadline", 0);
}

#[test]
fn a_single_overlay_destination_without_an_answer_is_a_timeout() {
    let products = need!(products());
    let lonely = Lonely::new();
    let port = free_port();
    let rule = format!("tcp:{port}:{}:80,connect-timeout=3s", lonely.absent.v4);
    let node = lonely.node(&products, &[], &[rule]);
    let took = closed_after(port);
    assert!((Duration::from_millis(2900)..Duration::from_secs(3) + MARGIN).contains(&took), "took {took:?}");
    let log = node.access_log(&format!("egress/tcp/{port}"), 1);
    assert_eq!(reason(&log[0]), "overlay: no answer from the destination");
    assert!(!log[0].contains("nexodus.deadline"), "{}", log[0]);
    metric(&node, "connect_failed_timeout", 1);
    metric(&node, "clients_unserved", 1);
    metric(&node, "clients_deadline", 0);
}

#[test]
fn an_address_no_peer_has_is_that_reason_at_once() {
    let products = need!(products());
    let lonely = Lonely::new();
    let port = free_port();
    let node = lonely.node(&products, &[], &[format!("tcp:{port}:100.64.0.77:80")]);
    let took = closed_after(port);
    assert!(took < AT_ONCE, "took {took:?}");
    let log = node.access_log(&format!("egress/tcp/{port}"), 1);
    assert_eq!(reason(&log[0]), "overlay: no peer's allowed IPs contain the destination");
    // As often as a single destination is tried.
    metric(&node, "connect_failed_no_peer", 5);
    metric(&node, "connect_failed_timeout", 0);
}

#[test]
fn when_every_local_destination_refuses_the_overlay_client_is_closed_at_once() {
    let products = need!(products());
    let lonely = Lonely::new();
    let port = free_port();
    let closed = [(); 3].map(|()| ClosedPort::any());
    let ingress = closed.each_ref().map(|closed| format!("tcp:80:{}", closed.address()));
    let node = lonely.node(&products, &ingress, &[format!("tcp:{port}:{}:80", lonely.own.v4)]);
    let took = closed_after(port);
    assert!(took < AT_ONCE, "took {took:?}");
    let log = node.access_log("ingress/tcp/80", 1);
    assert_eq!(reason(&log[0]), "delayed connect error: Connection refused");
    // One of the ingress rule. When it gives up before the egress rule has heard of the connection, that one tries again.
    eventually("each client without a destination to be counted", || {
        let log = [node.access_log("ingress/tcp/80", 1), node.access_log(&format!("egress/tcp/{port}"), 0)]
            .concat();
        let unserved = log.iter().filter(|line| line.contains(" flags=UF")).count();
        unserved > 0 && number(&node, "clients_unserved") == unserved as u64
    });
    assert_eq!(node.admin().stat("cluster.ingress/tcp/80.upstream_cx_connect_timeout"), 0);
    metric(&node, "clients_deadline", 0);
}

#[test]
fn when_no_local_destination_answers_the_overlay_client_is_closed_after_ten_seconds() {
    let products = need!(products());
    let lonely = Lonely::new();
    let holes = [(); 4].map(|()| Blackhole::new());
    let port = free_port();
    let ingress = holes.each_ref().map(|hole| format!("tcp:80:{}", hole.address()));
    let node = lonely.node(&products, &ingress, &[format!("tcp:{port}:{}:80", lonely.own.v4)]);
    let took = closed_after(port);
    measured(&format!("four local destinations without an answer: the client was closed after {took:.1?}"));
    assert!((CONNECT_TIMEOUT..DEADLINE + MARGIN).contains(&took), "took {took:?}");
    let log = node.access_log("ingress/tcp/80", 1);
    assert!(log[0].contains("flags=UF "), "{}", log[0]);
    assert!(log[0].contains("details=\"nexodus.deadline: no destination within 10s\""), "{}", log[0]);
    metric(&node, "clients_deadline", 1);
    metric(&node, "clients_unserved", 1);
}

#[test]
fn a_single_local_destination_without_an_answer_is_a_timeout() {
    let products = need!(products());
    let lonely = Lonely::new();
    let hole = Blackhole::new();
    let port = free_port();
    let ingress = [format!("tcp:80:{},connect-timeout=2s", hole.address())];
    let node = lonely.node(&products, &ingress, &[format!("tcp:{port}:{}:80", lonely.own.v4)]);
    let took = closed_after(port);
    let least = CONNECT_TIMEOUT - Duration::from_millis(100);
    assert!((least..CONNECT_TIMEOUT + MARGIN).contains(&took), "took {took:?}");
    let log = node.access_log("ingress/tcp/80", 1);
    // Envoy has no text for it: a refusal would have one.
    assert!(log[0].contains(" flags=UF,URX reason=\"-\" "), "{}", log[0]);
    metric(&node, "clients_unserved", 1);
    metric(&node, "clients_deadline", 0);
}

/// The node there accepts, and finds that its destination is not there.
#[test]
fn a_destination_that_resets_at_once_blames_nobody_else() {
    let products = need!(products());
    let [own, other] = Identity::several();
    // One attempt: its reset comes right behind the SYN-ACK.
    let closed = ClosedPort::any();
    let rule = format!("tcp:80:{},connect-timeout=2s", closed.address());
    let _there = Node::with(&products, &other).peer(&own).ingress(rule).start();
    let port = free_port();
    let node = Node::with(&products, &own).peer(&other).egress(format!("tcp:{port}:{}:80", other.v4)).start();
    let mut took: Vec<_> = (0..100).map(|_| closed_after(port)).collect();
    took.sort();
    assert!(took[90] < Duration::from_secs(1) && took[99] < AT_ONCE, "{took:?}");
    assert_eq!(number(&node, "connect_failed_no_greeting"), 0);
    assert_eq!(number(&node, "connect_failed_timeout"), 0);
}

/// A server whose queue is full loses SYNs, and the second repetition comes after three seconds.
#[test]
fn a_single_destination_that_is_late_is_waited_for() {
    let products = need!(products());
    let lonely = Lonely::new();
    let Blackhole { listener, _queued: queued } = Blackhole::new();
    let address = listener.local_addr().expect("bound").as_socket().expect("an IP address");
    let port = free_port();
    let ingress = [format!("tcp:80:{address}")];
    let _node = lonely.node(&products, &ingress, &[format!("tcp:{port}:{}:80", lonely.own.v4)]);
    let mut client = connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
    client.write_all(b"early").expect("sent");
    thread::sleep(Duration::from_millis(2500));
    drop(queued);
    let _server = Server::on(listener.into(), echo);
    let mut answer = [0; 5];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"early");
}

#[test]
fn with_health_checks_no_client_meets_a_dead_destination_of_many() {
    const CLIENTS: usize = 32;
    let products = need!(products());
    let lonely = Lonely::new();
    let servers = [Server::local(http("one")), Server::local(http("two"))];
    let port = free_port();
    let ingress: Vec<String> =
        servers.iter().zip(81..).map(|(server, port)| format!("tcp:{port}:{}", server.address())).collect();
    let (own, absent) = (lonely.own.v4, lonely.absent.v4);
    let to = [
        format!("{absent}:1"),
        format!("{own}:81"),
        format!("{own}:2"),
        format!("{own}:82"),
        format!("{absent}:3"),
    ];
    let egress = to.map(|to| format!("tcp:{port}:{to},health-check=1s"));
    let node = lonely.node(&products, &ingress, &egress);
    let cluster = format!("cluster.egress/tcp/{port}");
    eventually("both to pass", || node.admin().stat(&format!("{cluster}.membership_healthy")) == 2);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| http_get(port).expect("no client sees a dead destination"));
        }
    });
    measured(&format!(
        "three of five destinations dead, with health checks, {CLIENTS} clients at once: all served within {:.2?}",
        start.elapsed()
    ));
    assert_eq!(node.admin().stat(&format!("{cluster}.upstream_cx_connect_fail")), 0);
    assert!(start.elapsed() < AT_ONCE, "took {:?}", start.elapsed());
}
