//! UDP rules, between two real nodes and against the kernel's UDP behind wireguard-go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use e2e::{
    Identity, Namespace, Node, WgPeer, eventually, free_ports, ipv6_loopback, namespaces, need, products,
};

const WAIT: Duration = Duration::from_secs(2);

/// Answers each datagram with its name and what came.
struct Echo {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn on(socket: UdpSocket, name: &'static str) -> Echo {
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let address = socket.local_addr().expect("an address");
        let ended = Arc::new(AtomicBool::new(false));
        let stop = ended.clone();
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    // As much of the answer as one datagram holds.
                    let mut answer = name.as_bytes().to_vec();
                    answer.extend_from_slice(&buffer[..length.min(65_507 - name.len())]);
                    // The client may be gone.
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        Echo { address, ended, thread: Some(thread) }
    }

    fn local(name: &'static str) -> Echo {
        Echo::on(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"), name)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the echo's thread");
        }
    }
}

/// One datagram from a fresh socket and its answer.
fn ask(to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).expect("a socket");
    ask_from(&socket, to, payload)
}

fn ask_from(socket: &UdpSocket, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(WAIT)).expect("a timeout");
    socket.send_to(payload, to).expect("a datagram on its way");
    let mut buffer = vec![0; 70_000];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    assert_eq!(from.port(), to.port(), "an answer from somewhere else");
    buffer.truncate(length);
    Some(buffer)
}

/// The module's own page, at most a second old while anything happens.
fn status(node: &Node<'_>) -> String {
    node.admin().get("/nexodus/status").unwrap_or_default()
}

#[test]
fn datagrams_travel_in_every_combination_of_address_families() {
    let products = need!(products());
    need!(ipv6_loopback());
    let over_v4 = Echo::local("v4 ");
    let over_v6 = Echo::on(UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("a port"), "v6 ");
    let [one, two] = Identity::several();
    let mut ingress = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("udp:4242:127.0.0.1:{}", over_v4.address.port()))
        .ingress(format!("udp:4243:[::1]:{}", over_v6.address.port()))
        .build();
    ingress.launch();
    let ports: [u16; 4] = free_ports();
    let _egress = Node::with(&products, &two)
        .peer(&one)
        .egress(format!("udp:{}:{}:4242", ports[0], one.v4))
        .egress(format!("udp:{}:{}:4243", ports[1], one.v4))
        .egress(format!("udp:{}:[{}]:4242", ports[2], one.v6))
        .egress(format!("udp:{}:[{}]:4243", ports[3], one.v6))
        .start();
    ingress.wait_ready();
    for client in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        for (port, name) in ports.into_iter().zip(["v4 ", "v6 "].into_iter().cycle()) {
            let answer = ask((client, port).into(), b"ping").expect("a pong");
            assert_eq!(String::from_utf8_lossy(&answer), format!("{name}ping"), "from {client} to {port}");
        }
    }
}

#[test]
fn a_datagram_of_any_size_arrives_whole_and_its_flow_keeps_its_source() {
    let products = need!(products());
    let server = Echo::local("");
    let [one, two] = Identity::several();
    let mut ingress =
        Node::with(&products, &one).peer(&two).ingress(format!("udp:53:{}", server.address)).build();
    ingress.launch();
    let [port] = free_ports();
    let egress = Node::with(&products, &two).peer(&one).egress(format!("udp:{port}:{}:53", one.v4)).start();
    ingress.wait_ready();

    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for size in [1, 0, 1392, 1393, 1472, 9000, 65_507] {
        let payload: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let answer = ask_from(&client, to, &payload);
        assert!(answer.as_deref() == Some(&payload[..]), "{size} bytes: {:?}", answer.map(|a| a.len()));
    }
    eventually("one flow for one client", || status(&egress).contains("\"udp_flows_connected\": 1,"));
}

#[test]
fn several_destinations_take_turns_and_a_dead_one_recovers() {
    let products = need!(products());
    let first = Echo::local("first");
    let second = Echo::local("second");
    let [one, two] = Identity::several();
    let mut ingress = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("udp:42:{}", first.address))
        .ingress(format!("udp:42:{}", second.address))
        .build();
    ingress.launch();
    let [port] = free_ports();
    let _egress = Node::with(&products, &two).peer(&one).egress(format!("udp:{port}:{}:42", one.v4)).start();
    ingress.wait_ready();

    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let answers: Vec<Vec<u8>> = (0..10).map(|_| ask(to, b"").expect("an answer")).collect();
    for name in ["first", "second"] {
        let count = answers.iter().filter(|answer| *answer == name.as_bytes()).count();
        assert!(count >= 3, "{name} answered {count} of 10");
    }

    // Gone, and back on the same port: new clients reach it again.
    let address = second.address;
    drop(second);
    let _back = Echo::on(UdpSocket::bind(address).expect("its port again"), "back");
    eventually("the destination that came back", || ask(to, b"").as_deref() == Some(b"back"));
}

#[test]
fn a_foreign_process_reaches_nothing_through_the_listener_on_loopback() {
    let products = need!(products());
    let server = Echo::local("private ");
    let [one, two] = Identity::several();
    let node = Node::with(&products, &one).peer(&two).ingress(format!("udp:53:{}", server.address)).start();
    let listeners = node.admin().get("/listeners").expect("Envoy answers");
    let listener: SocketAddr = listeners
        .lines()
        .find_map(|line| line.strip_prefix("ingress/udp/53::"))
        .expect("the listener's address")
        .parse()
        .expect("an address");
    assert!(listener.ip().is_loopback(), "{listener} can be reached by other hosts");
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    stranger.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    stranger.send_to(b"let me in", listener).expect("a datagram on its way");
    assert!(stranger.recv_from(&mut [0; 100]).is_err(), "a stranger got an answer");
    // The numbers are those of the network thread's last turn: have it take one.
    eventually("the count of foreign datagrams", || {
        stranger.send_to(b"still not", listener).expect("a datagram on its way");
        node.admin().stat("dynamicmodulescustom.nexodus.default.udp_foreign") > 0
    });
}

#[test]
fn datagrams_go_to_and_come_from_the_kernel_behind_wireguard_go() {
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let [own, peer] = Identity::several();
    let (own, peer) = (own.at(Namespace::NEAR), peer.at(Namespace::FAR));
    let _peer = WgPeer::start(&far, &peer, &[&own]);
    let _far = Echo::on(far.run(|| UdpSocket::bind(("::", 4242))).expect("a port"), "far ");
    let local = Echo::on(near.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port"), "near ");
    let ports: [u16; 2] = free_ports();
    let _node = Node::with(&products, &own)
        .peer(&peer)
        .within(&near)
        .egress(format!("udp:{}:{}:4242", ports[0], peer.v4))
        .egress(format!("udp:{}:[{}]:4242", ports[1], peer.v6))
        .ingress(format!("udp:53:{}", local.address))
        .start();
    // Over the tunnel's MTU the kernel and the netstack put each other's fragments together.
    for size in [5, 1400, 4000, 40_000] {
        let payload = vec![7; size];
        for port in ports {
            let answer = near.run(|| ask((Ipv4Addr::LOCALHOST, port).into(), &payload)).expect("an answer");
            assert!(answer.starts_with(b"far ") && answer.len() == size + 4, "{} bytes back", answer.len());
        }
        for to in [IpAddr::from(own.v4), IpAddr::from(own.v6)] {
            let answer = far.run(|| ask((to, 53).into(), &payload)).expect("an answer");
            assert!(answer.starts_with(b"near ") && answer.len() == size + 5, "{} bytes back", answer.len());
        }
    }
    // A port without a rule.
    let refused = far.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        socket.connect((IpAddr::from(own.v4), 54)).expect("a route");
        socket.set_read_timeout(Some(WAIT)).expect("a timeout");
        socket.send(b"anybody?").expect("a datagram on its way");
        socket.recv(&mut [0; 10]).expect_err("nobody is there")
    });
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
}
