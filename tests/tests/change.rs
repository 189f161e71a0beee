//! Rules that change while connections are open: nothing is lost, and what is removed ends when it should. The first of
//! these is heavy, so it runs alone.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::{
    Identity, Node, Pattern, Server, UdpClient, UdpServer, connect, echo, eventually, free_port, free_ports,
    http, http_get, measured, need, products, raise_file_limit, within,
};

const CONNECTIONS: usize = 200;
const CHANGES: usize = 200;
/// How often a dead destination comes and goes in each direction.
const DEAD_ONES: usize = 40;

/// A flag of `nexctl nexd proxy add|remove` and its rule.
type Change = (&'static str, String);

/// Tells the clients to stop, also when the test fails: nobody would wait for them otherwise.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends a stream and takes its echo, piece by piece, until told to stop; then ends in order. How many bytes came back.
fn transfer(mut stream: TcpStream, seed: u64, stop: &AtomicBool) -> io::Result<u64> {
    let (mut sent, mut received) = (Pattern::new(seed), Pattern::new(seed));
    let (mut out, mut back) = ([0; 4096], [0; 4096]);
    while !stop.load(Ordering::Relaxed) {
        sent.fill(&mut out);
        stream.write_all(&out)?;
        stream.read_exact(&mut back)?;
        received.check(&back)?;
        // Slow enough that all of them together leave the machine room for the changes.
        thread::sleep(Duration::from_millis(50));
    }
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut back)? {
        0 => Ok(received.position()),
        more => Err(io::Error::other(format!("{more} bytes that nobody sent"))),
    }
}

/// The lines of the access logs that say why something failed.
fn unserved(nodes: &[&Node<'_>]) -> String {
    let logs = nodes.iter().map(|node| node.log()).collect::<String>();
    let lines =
        logs.lines().filter(|line| line.contains(" flags=") && !line.contains(" flags=- reason=\"-\""));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn two_hundred_changes_under_two_hundred_connections_lose_nothing() {
    let products = need!(products());
    raise_file_limit();
    let (server, second) = (Server::local(echo), Server::local(echo));
    let datagrams = UdpServer::mirror();
    let to = server.address();
    let [one, two] = Identity::several();
    let [still, busy, udp, other, other_udp]: [u16; 5] = free_ports();
    let mut ingress = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("tcp:8080:{to}"))
        .ingress(format!("tcp:8081:{to}"))
        .ingress(format!("tcp:8083:{to}"))
        .ingress(format!("udp:53:{}", datagrams.address()))
        .build();
    ingress.launch();
    let egress = Node::with(&products, &two)
        .peer(&one)
        .egress(format!("tcp:{still}:{}:8080", one.v4))
        .egress(format!("tcp:{busy}:{}:8080", one.v4))
        .egress(format!("udp:{udp}:{}:53", one.v4))
        .start();
    ingress.wait_ready();

    // In turn on either side: another destination of a port in use, a weight, a port of its own, UDP.
    let on_ingress: [Change; 4] = [
        ("--ingress", format!("tcp:8080:{}", second.address())),
        ("--ingress", format!("tcp:8083:{to},weight=2")),
        ("--ingress", format!("tcp:8082:{to}")),
        ("--ingress", format!("udp:54:{}", datagrams.address())),
    ];
    let on_egress: [Change; 4] = [
        ("--egress", format!("tcp:{busy}:[{}]:8080", one.v6)),
        ("--egress", format!("tcp:{busy}:{}:8081,weight=3", one.v4)),
        ("--egress", format!("tcp:{other}:{}:8081", one.v4)),
        ("--egress", format!("udp:{other_udp}:{}:54", one.v4)),
    ];

    let stop = AtomicBool::new(false);
    let (opened, answered) = (AtomicU64::new(0), AtomicU64::new(0));
    let (slowest, transferred) = thread::scope(|scope| {
        let long: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let port = [still, busy][number % 2];
                let stream = connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
                let stop = &stop;
                scope.spawn(move || transfer(stream, number as u64, stop))
            })
            .collect();
        // New connections all the time, to a rule that nobody touches and to one whose destinations change.
        let short: Vec<_> = [still, busy]
            .map(|port| {
                let (stop, opened) = (&stop, &opened);
                scope.spawn(move || -> io::Result<()> {
                    while !stop.load(Ordering::Relaxed) {
                        let mut stream = connect((Ipv4Addr::LOCALHOST, port))?;
                        stream.write_all(b"ping")?;
                        stream.read_exact(&mut [0; 4])?;
                        opened.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(5));
                    }
                    Ok(())
                })
            })
            .into();
        let flow = {
            let (stop, answered) = (&stop, &answered);
            scope.spawn(move || -> io::Result<()> {
                let client = UdpClient::of((Ipv4Addr::LOCALHOST, udp));
                let source = client.ask(b"?")?;
                while !stop.load(Ordering::Relaxed) {
                    if client.ask(b"?")? != source {
                        return Err(io::Error::other("the flow has another source"));
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            })
        };

        let end = Stop(&stop);
        let mut slowest = Duration::ZERO;
        let mut change = |node: &Node<'_>, action: &str, (direction, rule): &Change| {
            let start = Instant::now();
            node.nexctl_ok(&["proxy", action, direction, rule]);
            slowest = slowest.max(start.elapsed());
        };
        let mut done = 0;
        for round in 0.. {
            if done >= CHANGES {
                break;
            }
            let number = round % on_ingress.len();
            // Four changes: both sides there and back. Ingress first, so that what egress leads to is there.
            if number == 1 {
                // The one change that takes the place of what is there.
                change(&ingress, "remove", &(on_ingress[1].0, format!("tcp:8083:{to}")));
                change(&ingress, "add", &on_ingress[1]);
            } else {
                change(&ingress, "add", &on_ingress[number]);
            }
            change(&egress, "add", &on_egress[number]);
            change(&egress, "remove", &on_egress[number]);
            if number != 1 {
                change(&ingress, "remove", &on_ingress[number]);
            }
            done += 4;
        }
        drop(end);
        let mut transferred = 0;
        for (number, connection) in long.into_iter().enumerate() {
            let result = connection.join().expect("a client");
            transferred += result.unwrap_or_else(|error| panic!("connection {number}: {error}"));
        }
        for client in short {
            if let Err(error) = client.join().expect("a client") {
                panic!("a new connection was not served: {error}\n{}", unserved(&[&egress, &ingress]));
            }
        }
        flow.join().expect("a client").expect("no datagram is lost");
        (slowest, transferred)
    });
    let (opened, answered) = (opened.into_inner(), answered.into_inner());
    measured(&format!(
        "{CHANGES} changes, the slowest took {slowest:.1?}; meanwhile {} MiB through {CONNECTIONS} connections, {opened} \
         new connections, {answered} datagrams: nothing lost",
        transferred >> 20
    ));
    assert!(transferred > 4096 * CONNECTIONS as u64 && opened > CHANGES as u64 && answered > 0);
}

/// An echo connection that is asked now and then.
struct Live(TcpStream);

impl Live {
    fn to(address: impl Into<IpAddr>, port: u16) -> Live {
        let mut live = Live(connect((address.into(), port)).expect("a connection"));
        assert!(live.works(), "a new connection does not work");
        live
    }

    fn works(&mut self) -> bool {
        self.0.write_all(b"ping").and_then(|()| self.0.read_exact(&mut [0; 4])).is_ok()
    }
}

#[test]
fn removing_one_of_several_destinations_keeps_its_connections() {
    let products = need!(products());
    let servers = [Server::local(echo), Server::local(echo)];
    let [one, two] = Identity::several();
    let [port, ingress_port] = free_ports();
    let ingress_rules = [0, 1].map(|number: usize| format!("tcp:80:{}", servers[number].address()));
    let egress_rules = [81, 82].map(|to| format!("tcp:{port}:{}:{to}", one.v4));
    let node = Node::with(&products, &one).peer(&two);
    let mut ingress = ingress_rules
        .iter()
        .fold(node, |node, rule| node.ingress(rule))
        .ingress(format!("tcp:81:{}", servers[0].address()))
        .ingress(format!("tcp:82:{}", servers[1].address()))
        .build();
    ingress.launch();
    let node = Node::with(&products, &two).peer(&one);
    let egress = egress_rules
        .iter()
        .fold(node, |node, rule| node.egress(rule))
        .egress(format!("tcp:{ingress_port}:{}:80", one.v4))
        .start();
    ingress.wait_ready();

    for (node, direction, port, rules) in
        [(&egress, "--egress", port, egress_rules), (&ingress, "--ingress", ingress_port, ingress_rules)]
    {
        // Enough for either destination to have some, whichever worker takes them.
        let mut live: Vec<_> = (0..8).map(|_| Live::to(Ipv4Addr::LOCALHOST, port)).collect();
        node.nexctl_ok(&["proxy", "remove", direction, &rules[0]]);
        let mut later: Vec<_> = (0..4).map(|_| Live::to(Ipv4Addr::LOCALHOST, port)).collect();
        // Longer than a removed listener drains.
        thread::sleep(Node::DRAIN_TIME + Duration::from_secs(1));
        for (number, live) in live.iter_mut().chain(&mut later).enumerate() {
            assert!(live.works(), "{direction}: connection {number} was cut");
        }
    }
}

#[test]
fn removing_the_last_rule_of_a_port_refuses_at_once_and_drains() {
    let products = need!(products());
    let server = Server::local(echo);
    let [one, two] = Identity::several();
    let [port, stays] = free_ports();
    let ingress_rule = format!("tcp:80:{}", server.address());
    let egress_rule = format!("tcp:{port}:{}:80", one.v4);
    let mut ingress = Node::with(&products, &one).peer(&two).ingress(&ingress_rule).build();
    ingress.launch();
    let egress = Node::with(&products, &two)
        .peer(&one)
        .egress(&egress_rule)
        .egress(format!("tcp:{stays}:{}:80", one.v4))
        .start();
    ingress.wait_ready();

    for (node, direction, rule, live_at, probe) in [
        (&egress, "--egress", egress_rule.as_str(), port, port),
        (&ingress, "--ingress", ingress_rule.as_str(), stays, stays),
    ] {
        let mut live = Live::to(Ipv4Addr::LOCALHOST, live_at);
        let stop = AtomicBool::new(false);
        // Measured from here, a time can only be too long.
        let start = Instant::now();
        let took = thread::scope(|scope| {
            // Upstream deadlocks when somebody connects in this moment.
            for _ in 0..8 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok(mut stream) = connect((Ipv4Addr::LOCALHOST, probe)) {
                            let _ = stream.write_all(b"x").and_then(|()| stream.read(&mut [0; 1]));
                        }
                        thread::sleep(Duration::from_millis(2));
                    }
                });
            }
            let _end = Stop(&stop);
            thread::sleep(Duration::from_millis(100));
            let asked = Instant::now();
            let said = node.nexctl_ok(&["proxy", "remove", direction, rule]);
            let took = asked.elapsed();
            assert!(!said.contains("has not closed it"), "{direction}: {said}");
            assert!(!node.nexctl_ok(&["proxy", "list"]).contains(rule), "{direction}: still listed");
            took
        });
        measured(&format!("{direction}: the last rule of a port in use was removed in {took:.1?}"));
        // Refused: by this host, or by an RST in the overlay, which ends Envoy's client before it gets a byte.
        let refused = |_| match connect((Ipv4Addr::LOCALHOST, probe)) {
            Ok(mut stream) => {
                stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut [0; 4])).is_err()
            }
            Err(_) => true,
        };
        // Envoy says that it has no such listener a moment before its workers close the sockets.
        eventually("a refusal", || refused(0));
        assert!((0..3).all(refused), "{direction}: a new connection was served");
        assert!(
            live.works() || start.elapsed() >= Node::DRAIN_TIME,
            "{direction}: a live connection was cut at once"
        );
        within(Node::DRAIN_TIME + Duration::from_secs(3), "the live connection to end", || {
            thread::sleep(Duration::from_millis(100));
            (!live.works()).then_some(())
        });
        let drained = start.elapsed();
        measured(&format!("{direction}: its live connection went on for {drained:.1?}"));
        assert!(drained >= Node::DRAIN_TIME, "cut after {drained:?}");
    }
}

#[test]
fn a_destination_is_replaced_without_a_gap() {
    let products = need!(products());
    let servers = [Server::local(http("old")), Server::local(http("new"))];
    let identity = Identity::new(1);
    let port = free_port();
    let rules = [0, 1].map(|number: usize| format!("tcp:80:{}", servers[number].address()));
    let node = Node::with(&products, &identity)
        .ingress(&rules[0])
        .egress(format!("tcp:{port}:{}:80", identity.v4))
        .start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = [(); 4].map(|()| {
            scope.spawn(|| {
                let mut pages = vec![];
                while !stop.load(Ordering::Relaxed) {
                    pages.push(http_get(port));
                }
                pages
            })
        });
        let end = Stop(&stop);
        for _ in 0..10 {
            for [from, to] in [[0, 1], [1, 0]] {
                node.nexctl_ok(&["proxy", "add", "--ingress", &rules[to]]);
                node.nexctl_ok(&["proxy", "remove", "--ingress", &rules[from]]);
                // A worker that is accepting one connection after the other hears of the change when it is through.
                let new = || http_get(port).expect("a page") == ["old", "new"][to];
                eventually("new connections to leave the removed destination", || (0..20).all(|_| new()));
            }
        }
        drop(end);
        for page in clients.into_iter().flat_map(|client| client.join().expect("a client")) {
            assert!(["old", "new"].contains(&page.expect("a page all the time").as_str()));
        }
    });
}

#[test]
fn a_dead_destination_comes_and_goes_and_no_client_sees_it() {
    let products = need!(products());
    let server = Server::local(http("alive"));
    let identity = Identity::new(1);
    let [port, closed]: [u16; 2] = free_ports();
    let node = Node::with(&products, &identity)
        .ingress(format!("tcp:80:{}", server.address()))
        .egress(format!("tcp:{port}:{}:80", identity.v4))
        .start();
    let dead = [
        ("--ingress", format!("tcp:80:127.0.0.1:{closed}")),
        ("--egress", format!("tcp:{port}:{}:9", identity.v4)),
    ];
    let stop = AtomicBool::new(false);
    let served = thread::scope(|scope| {
        let clients = [(); 4].map(|()| {
            scope.spawn(|| -> io::Result<u64> {
                let mut served = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(http_get(port)?, "alive");
                    served += 1;
                }
                Ok(served)
            })
        });
        let end = Stop(&stop);
        for (direction, rule) in [&dead[0], &dead[1]].repeat(DEAD_ONES) {
            node.nexctl_ok(&["proxy", "add", direction, rule]);
            node.nexctl_ok(&["proxy", "remove", direction, rule]);
        }
        drop(end);
        clients.map(|client| match client.join().expect("a client") {
            Ok(served) => served,
            Err(error) => panic!("a client was not served: {error}\n{}", unserved(&[&node])),
        })
    });
    let served: u64 = served.iter().sum();
    measured(&format!("{} dead destinations came and went under {served} clients", 2 * DEAD_ONES));
    assert!(served > DEAD_ONES as u64);
}

#[test]
fn a_udp_rule_that_comes_back_while_it_drains_works_at_once_and_goes_on() {
    let products = need!(products());
    let server = UdpServer::echo("there");
    let identity = Identity::new(1);
    let port = free_port();
    let rule = format!("udp:{port}:{}:53", identity.v4);
    let node = Node::with(&products, &identity)
        .ingress(format!("udp:53:{}", server.address()))
        .egress(&rule)
        .start();
    let ask = || UdpClient::of((Ipv4Addr::LOCALHOST, port)).ask_text(b"").expect("an answer");
    assert_eq!(ask(), "there");
    for _ in 0..3 {
        node.nexctl_ok(&["proxy", "remove", "--egress", &rule]);
        node.nexctl_ok(&["proxy", "add", "--egress", &rule]);
        // Several clients: the kernel spreads them over the sockets, and every one has a listener that reads.
        (0..10).for_each(|_| assert_eq!(ask(), "there"));
    }
    // The end of the removed listeners takes nothing with it.
    thread::sleep(Node::DRAIN_TIME + Duration::from_secs(1));
    (0..10).for_each(|_| assert_eq!(ask(), "there"));
}
