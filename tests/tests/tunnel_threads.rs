//! A node whose peers are spread over several threads (`--tunnel-threads`).

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};

use e2e::{
    Identity, Namespace, Node, Products, Server, UdpClient, UdpServer, WgPeer, connect, eventually,
    free_port, free_ports, http, http_get, namespaces, need, products, receive, run_ok, send,
};

const MIB: u64 = 1 << 20;

/// What the spokes say, from number 2 on.
const SPOKES: [&str; 4] = ["two", "three", "four", "five"];

/// A node with three threads, and as many with one as there are `spokes`, each of which it and that have rules for.
struct Star {
    hub: Identity,
    spokes: Vec<Spoke>,
    page: Server,
    echo: UdpServer,
}

struct Spoke {
    own: Identity,
    page: Server,
    echo: UdpServer,
    /// The hub's rules to this spoke, for TCP and UDP.
    to_it: [u16; 2],
    /// Its own ones to the hub.
    from_it: [u16; 2],
}

impl Star {
    fn new() -> Self {
        let spoke = |(number, name)| Spoke {
            own: Identity::new(number),
            page: Server::local(http(name)),
            echo: UdpServer::echo(name),
            to_it: free_ports(),
            from_it: free_ports(),
        };
        Self {
            hub: Identity::new(1),
            spokes: (2..).zip(SPOKES).map(spoke).collect(),
            page: Server::local(http("hub")),
            echo: UdpServer::echo("hub"),
        }
    }

    fn hub(&self, products: &Products) -> Node<'static> {
        let mut hub = Node::with(products, &self.hub)
            .flag("--tunnel-threads=3")
            .ingress(format!("tcp:81:{}", self.page.address()))
            .ingress(format!("udp:82:{}", self.echo.address()));
        for Spoke { own, to_it: [tcp, udp], .. } in &self.spokes {
            hub = hub
                .peer(own)
                .egress(format!("tcp:{tcp}:[{}]:81", own.v6))
                .egress(format!("udp:{udp}:{}:82", own.v4));
        }
        hub.build()
    }

    fn nodes(&self, products: &Products) -> Vec<Node<'static>> {
        let node = |Spoke { own, page, echo, from_it: [tcp, udp], .. }: &Spoke| {
            Node::with(products, own)
                .peer(&self.hub)
                .ingress(format!("tcp:81:{}", page.address()))
                .ingress(format!("udp:82:{}", echo.address()))
                .egress(format!("tcp:{tcp}:{}:81", self.hub.v4))
                .egress(format!("udp:{udp}:[{}]:82", self.hub.v6))
                .start()
        };
        self.spokes.iter().map(node).collect()
    }
}

/// The names of the threads that encrypt, of which Linux keeps 15 bytes.
fn tunnel_threads(node: &Node<'_>) -> Vec<String> {
    let envoy = node.envoy_id().expect("a running Envoy");
    let threads = fs::read_dir(format!("/proc/{envoy}/task")).expect("a process");
    let name = |thread: io::Result<fs::DirEntry>| fs::read_to_string(thread.ok()?.path().join("comm")).ok();
    let mut names: Vec<_> = threads.filter_map(name).map(|name| name.trim_end().to_owned()).collect();
    names.retain(|name| name.starts_with("nexodus"));
    names.sort();
    names
}

fn ask(port: u16, question: &[u8]) -> String {
    UdpClient::of((Ipv4Addr::LOCALHOST, port)).ask_text(question).expect("an answer")
}

#[test]
fn every_peer_is_reached_and_reaches_the_node_whichever_thread_has_it() {
    let products = need!(products());
    let star = Star::new();
    let mut hub = star.hub(&products);
    hub.start();
    let nodes = star.nodes(&products);
    for (name, spoke) in SPOKES.into_iter().zip(&star.spokes) {
        assert_eq!(http_get(spoke.to_it[0]).expect("the spoke's page"), name);
        assert_eq!(ask(spoke.to_it[1], b"?"), format!("{name}?"));
        assert_eq!(http_get(spoke.from_it[0]).expect("the hub's page"), "hub");
        let long = "!".repeat(9000);
        assert_eq!(ask(spoke.from_it[1], long.as_bytes()), format!("hub{long}"));
    }
    for node in nodes.iter().chain([&hub]) {
        for command in ["ping", "ping6"] {
            let table = node.nexctl_ok(&["peers", command]);
            assert!(table.contains("✓ Reachable") && !table.contains("Unreachable"), "{table}");
        }
    }
    let list = hub.nexctl_ok(&["peers", "list"]);
    assert!(star.spokes.iter().all(|spoke| list.matches(&spoke.own.public_key).count() == 1), "{list}");
    // More, if an attempt was repeated. Datagrams are the first thread's, and go through that of the peer.
    eventually("all connections and flows in the numbers", || {
        let flows = ["flows_connected", "flows_accepted", "udp_flows_connected", "udp_flows_accepted"];
        flows.iter().all(|flows| hub.number(flows) >= 4) && hub.number("handed_over") > 8
    });
    assert_eq!(tunnel_threads(&hub), ["nexodus1:defaul", "nexodus2:defaul", "nexodus:default"]);
    for drop in ["drop_unknown_peer", "drop_bad_source", "drop_handover_full", "drop_no_session"] {
        assert_eq!(hub.number(drop), 0, "{drop}");
    }
}

#[test]
fn tcp_stays_on_the_thread_of_its_peer() {
    let products = need!(products());
    let sinks: Vec<_> = (0..3)
        .map(|seed| {
            Server::local(move |mut stream| {
                let count =
                    receive(&mut stream, seed).map_or_else(|error| error.to_string(), |n| n.to_string());
                stream.write_all(count.as_bytes()).expect("the reply goes back");
            })
        })
        .collect();
    let hub = Identity::new(1);
    let spokes: Vec<_> = (2..5).map(Identity::new).collect();
    let ports: [u16; 3] = free_ports();
    let mut builder = Node::with(&products, &hub).flag("--tunnel-threads=3");
    for (spoke, port) in spokes.iter().zip(ports) {
        builder = builder.peer(spoke).egress(format!("tcp:{port}:{}:81", spoke.v4));
    }
    let node = builder.start();
    let _nodes: Vec<_> = spokes
        .iter()
        .zip(&sinks)
        .map(|(spoke, sink)| {
            Node::with(&products, spoke).peer(&hub).ingress(format!("tcp:81:{}", sink.address())).start()
        })
        .collect();
    std::thread::scope(|scope| {
        for (seed, port) in (0..).zip(ports) {
            scope.spawn(move || {
                let mut client = connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
                send(&client, seed, 32 * MIB).expect("sent");
                client.shutdown(Shutdown::Write).expect("an open connection");
                let mut report = String::new();
                client.read_to_string(&mut report).expect("the reply");
                assert_eq!(report, (32 * MIB).to_string());
            });
        }
    });
    eventually("all of it in the numbers", || node.number("tx_bytes") > 96 * MIB);
    // The kernel has steered the acknowledgements: handed over was what names no receiver.
    let handed_over = node.number("handed_over");
    assert!(handed_over <= 12, "{handed_over} of {} datagrams", node.number("rx_datagrams"));
}

#[test]
fn wireguard_go_is_a_peer_of_the_second_thread() {
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let [own, first, second] = Identity::several();
    let (own, second) = (own.at(Namespace::NEAR), second.at(Namespace::FAR));
    let _far_peer = WgPeer::start(&far, &second, &[&own]);
    let _far_page =
        Server::on(far.run(|| std::net::TcpListener::bind(("::", 80))).expect("a port"), http("far"));
    let near_page = near.run(|| Server::local(http("near")));
    let port = free_port();
    let node = Node::with(&products, &own)
        .flag("--tunnel-threads=2")
        .peer(&first)
        .peer(&second)
        .egress(format!("tcp:{port}:{}:80", second.v4))
        .ingress(format!("tcp:81:{}", near_page.address()))
        .within(&near)
        .start();
    let curl = |namespace: &Namespace, host: IpAddr, port: u16| {
        let url = format!("http://{host}:{port}/");
        run_ok(namespace.command("curl").args(["--silent", "--fail", "--max-time", "20", &url]))
    };
    assert_eq!(curl(&near, Ipv4Addr::LOCALHOST.into(), port), "far");
    assert_eq!(curl(&far, own.v4.into(), 81), "near");
    let pong = run_ok(far.command("ping").args(["-c", "1", "-W", "5", &own.v4.to_string()]));
    assert!(pong.contains(" 1 received"), "{pong}");
    let table = node.nexctl_ok(&["peers", "list"]);
    assert!(table.contains(&second.public_key), "{table}");
}
