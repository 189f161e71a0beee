//! Destinations that refuse, are unreachable, or do neither.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use e2e::{
    ClosedPort, Identity, Node, Products, Server, accepted_and_ended, free_port, http, http_get, measured,
    need, products, silent_udp_socket, within,
};

/// How long a client waits at most, over all attempts.
const DEADLINE: Duration = Duration::from_secs(10);
/// Without waiting for it, on a machine that may stand still for seconds.
const SOON: Duration = Duration::from_secs(8);
const AT_ONCE: usize = 32;

/// A node whose peer runs one server at overlay port 8080 and refuses every other port.
struct Overlay {
    _server: Server,
    live_node: Node<'static>,
    live: Identity,
    /// A peer that is known and not there.
    absent: Identity,
    _silence: std::net::UdpSocket,
    own: Identity,
}

impl Overlay {
    fn new(products: &Products) -> Overlay {
        let server = Server::local(http("alive"));
        let [live, own, mut absent] = Identity::several();
        let silence = silent_udp_socket();
        absent.endpoint = silence.local_addr().expect("bound");
        let node =
            Node::with(products, &live).peer(&own).ingress(format!("tcp:8080:{}", server.address())).start();
        Overlay { _server: server, live_node: node, live, absent, _silence: silence, own }
    }

    /// A node with an egress port to these destinations.
    fn node(&self, products: &Products, destinations: &[String]) -> (Node<'static>, u16) {
        let port = free_port();
        let node = Node::with(products, &self.own).peer(&self.live).peer(&self.absent);
        let node = destinations.iter().fold(node, |node, to| node.egress(format!("tcp:{port}:{to}")));
        (node.start(), port)
    }

    fn alive(&self) -> String {
        format!("{}:8080", self.live.v4)
    }

    /// The peer is there, the port is closed.
    fn refusing(&self, port: u16) -> String {
        format!("{}:{port}", self.live.v4)
    }

    /// The peer is not there.
    fn blackholed(&self, port: u16) -> String {
        format!("{}:{port}", self.absent.v4)
    }
}

#[test]
fn a_refusing_overlay_destination_ends_the_client_at_once() {
    let products = need!(products());
    let overlay = Overlay::new(&products);
    let (node, port) = overlay.node(&products, &[overlay.refusing(9)]);
    for _ in 0..2 {
        let start = Instant::now();
        let end = accepted_and_ended((Ipv4Addr::LOCALHOST, port));
        assert!(
            !matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "the client was left waiting"
        );
        assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
    }
    assert_eq!(node.admin().stat(&format!("cluster.egress/tcp/{port}.upstream_cx_connect_timeout")), 0);
    assert!(node.admin().stat(&format!("cluster.egress/tcp/{port}.upstream_cx_connect_fail")) >= 2);
}

#[test]
fn every_refusal_has_its_reason() {
    let products = need!(products());
    let overlay = Overlay::new(&products);
    let (node, port) = overlay.node(&products, &[overlay.refusing(9)]);
    // Many at once: a refusal can come before Envoy has looked at the connection that it belongs to.
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                for _ in 0..20 {
                    let _ = accepted_and_ended((Ipv4Addr::LOCALHOST, port));
                }
            });
        }
    });
    let log = node.access_log(&format!("egress/tcp/{port}"), AT_ONCE * 20);
    for line in &log {
        assert!(line.contains("refused"), "not the reason: {line}");
    }
}

#[test]
fn an_unreachable_overlay_destination_ends_the_client_after_ten_seconds() {
    let products = need!(products());
    let overlay = Overlay::new(&products);
    let (node, port) = overlay.node(&products, &[overlay.blackholed(80)]);
    let start = Instant::now();
    let end = accepted_and_ended((Ipv4Addr::LOCALHOST, port));
    let took = start.elapsed();
    measured(&format!(
        "the client of an unreachable destination was closed after {:.1} s",
        took.as_secs_f64()
    ));
    assert!(
        !matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "the client was left waiting"
    );
    // One attempt is shorter, for the sake of other destinations; there are none.
    assert!(took >= DEADLINE - Duration::from_millis(100), "gave up after {took:?}");
    assert!(took < DEADLINE + Duration::from_secs(5), "took {took:?}");
    let log = node.access_log(&format!("egress/tcp/{port}"), 1);
    assert!(
        log[0].contains("timeout") || log[0].contains("UF"),
        "the access log does not say why: {}",
        log[0]
    );
}

#[test]
fn an_address_no_peer_has_ends_the_client_at_once() {
    let products = need!(products());
    let overlay = Overlay::new(&products);
    let (_node, port) = overlay.node(&products, &["100.64.0.77:80".into()]);
    let start = Instant::now();
    let end = accepted_and_ended((Ipv4Addr::LOCALHOST, port));
    assert!(
        !matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "the client was left waiting"
    );
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
}

#[test]
fn a_refusing_local_destination_ends_the_overlay_client_at_once() {
    let products = need!(products());
    let identity = Identity::new(1);
    let closed = ClosedPort::any();
    let port = free_port();
    let _node = Node::with(&products, &identity)
        .ingress(format!("tcp:8080:{}", closed.address()))
        .egress(format!("tcp:{port}:{}:8080", identity.v4))
        .start();
    let start = Instant::now();
    let end = accepted_and_ended((Ipv4Addr::LOCALHOST, port));
    assert!(
        !matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "the client was left waiting"
    );
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
}

#[test]
fn two_of_three_destinations_refusing_no_client_sees_it() {
    let products = need!(products());
    let overlay = Overlay::new(&products);
    let to = [overlay.refusing(9), overlay.alive(), overlay.refusing(10)];
    everybody_is_served(&overlay, &products, &to, "two refusing");
}

#[test]
fn two_of_three_destinations_blackholed_no_client_sees_it() {
    let products = need!(products());
    let overlay = Overlay::new(&products);
    let to = [overlay.blackholed(9), overlay.blackholed(10), overlay.alive()];
    everybody_is_served(&overlay, &products, &to, "two blackholed");
}

#[test]
fn a_client_alone_finds_the_one_destination_of_five_that_is_not_blackholed() {
    let products = need!(products());
    let overlay = Overlay::new(&products);
    let mut to = [9, 10, 11, 12].map(|port| overlay.blackholed(port)).to_vec();
    to.push(overlay.alive());
    // Four of the default's two seconds leave little of the ten for a machine that stands still: that they suffice is arithmetic.
    let to: Vec<_> = to.iter().map(|to| format!("{to},connect-timeout=1s")).collect();
    let (_node, port) = overlay.node(&products, &to);
    // Whichever comes first: each new client starts with the next one of those that are not left out.
    let start = Instant::now();
    assert_eq!(http_get(port).expect("no client sees a dead destination"), "alive");
    measured(&format!(
        "four of five blackholed, one client: served after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
}

#[test]
fn one_destination_refusing_and_one_blackholed_no_client_sees_it() {
    let products = need!(products());
    let overlay = Overlay::new(&products);
    let to = [overlay.refusing(9), overlay.blackholed(9), overlay.alive()];
    everybody_is_served(&overlay, &products, &to, "one refusing, one blackholed");
}

#[test]
fn a_refusing_destination_is_passed_over_and_returns_by_itself() {
    let products = need!(products());
    let overlay = Overlay::new(&products);
    let (_node, port) = overlay.node(&products, &[overlay.refusing(9), overlay.alive()]);
    for _ in 0..10 {
        assert_eq!(http_get(port).expect("no client sees a dead destination"), "alive");
    }
    let server = Server::local(http("back"));
    overlay.live_node.nexctl_ok(&["proxy", "add", "--ingress", &format!("tcp:9:{}", server.address())]);
    let start = Instant::now();
    // It is left out for 5 s, for 10 s after the second failure in a row, and for 30 s at most.
    within(Duration::from_secs(35), "the destination that is back", || {
        (http_get(port).expect("no client sees a dead destination") == "back").then_some(())
    });
    measured(&format!(
        "a destination that came back had clients after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    // Both share the clients again.
    let pages: Vec<_> = (0..20).map(|_| http_get(port).expect("a page")).collect();
    for page in ["alive", "back"] {
        assert!(pages.iter().any(|other| other == page), "nobody came to {page}");
    }
}

/// Many clients at once, the first of which are the first ever.
fn everybody_is_served(overlay: &Overlay, products: &Products, destinations: &[String], what: &str) {
    let (_node, port) = overlay.node(products, destinations);
    for wave in ["cold", "warm"] {
        let start = Instant::now();
        let slowest = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    scope.spawn(|| {
                        let page = http_get(port).expect("no client sees a dead destination");
                        assert_eq!(page, "alive");
                        start.elapsed()
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().expect("served")).max()
        });
        measured(&format!(
            "{what}, {AT_ONCE} clients at once, {wave}: all served, the slowest after {:.1} s",
            slowest.unwrap_or_default().as_secs_f64()
        ));
    }
}
