//! Against wireguard-go with the kernel's TCP in another namespace, with plain curl and nc over there.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use e2e::{
    CLIENT_LIMIT, Identity, Namespace, Node, Products, Server, WgPeer, connect, free_port, free_ports, http,
    is_reset, measured, namespaces, need, products, read_end, receive, reset, run_ok, send, within,
};

const MIB: u64 = 1 << 20;

/// A near namespace for the node and its clients, a far one with wireguard-go; the two cannot reach each other but by cable.
struct World {
    near: Namespace,
    far: Namespace,
    own: Identity,
    peer: Identity,
}

impl World {
    fn new() -> World {
        let (near, far) = Namespace::pair();
        let [own, peer] = Identity::several();
        World { near, far, own: own.at(Namespace::NEAR), peer: peer.at(Namespace::FAR) }
    }

    fn far_peer(&self) -> WgPeer {
        WgPeer::start(&self.far, &self.peer, &[&self.own])
    }

    fn node(&self, products: &Products) -> e2e::NodeBuilder<'_> {
        Node::with(products, &self.own).peer(&self.peer).within(&self.near)
    }

    /// A listening socket over there, on every address.
    fn listen_far(&self, port: u16) -> TcpListener {
        self.far.run(|| TcpListener::bind(("::", port))).expect("a port in a fresh namespace")
    }

    /// A connection from the near side's loopback.
    fn connect_near(&self, port: u16) -> TcpStream {
        self.near.run(|| connect((Ipv4Addr::LOCALHOST, port))).expect("a connection")
    }

    /// A connection from the far side into the overlay.
    fn connect_far(&self, to: impl Into<IpAddr>, port: u16) -> TcpStream {
        let to = to.into();
        self.far.run(|| connect((to, port))).expect("a connection")
    }
}

fn curl(namespace: &Namespace, url: &str) -> String {
    run_ok(namespace.command("curl").args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "20",
        "--globoff",
        url,
    ]))
}

fn reporting<T: Send + 'static>(
    work: impl Fn(TcpStream) -> T + Send + Sync + 'static,
) -> (impl Fn(TcpStream) + Send + Sync, Receiver<T>) {
    let (results, received) = mpsc::channel();
    // The test may have ended.
    let report = move |stream| drop(results.send(work(stream)));
    (report, received)
}

#[test]
fn egress_reaches_a_server_in_another_namespace_over_both_families() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let _peer = world.far_peer();
    let _server = Server::on(world.listen_far(8080), http("from the far kernel"));
    let ports: [u16; 2] = free_ports();
    let node = world
        .node(&products)
        .egress(format!("tcp:{}:{}:8080", ports[0], world.peer.v4))
        .egress(format!("tcp:{}:[{}]:8080", ports[1], world.peer.v6))
        .start();
    for port in ports {
        for host in ["127.0.0.1", "[::1]"] {
            assert_eq!(curl(&world.near, &format!("http://{host}:{port}/")), "from the far kernel");
        }
        node.access_log(&format!("egress/tcp/{port}"), 2);
    }
}

#[test]
fn egress_reaches_plain_nc() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let _peer = world.far_peer();
    let port = free_port();
    let mut nc = world
        .far
        .command("nc")
        .args(["-l", "-N", "8080"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nc");
    let listens = || run_ok(world.far.command("ss").args(["-ltn"])).contains(":8080");
    e2e::eventually("nc to listen", listens);
    let _node = world.node(&products).egress(format!("tcp:{port}:{}:8080", world.peer.v4)).start();
    let mut client = world.connect_near(port);
    client.write_all(b"to nc\n").expect("sent");
    let mut line = [0; 6];
    nc.stdout.as_mut().expect("piped").read_exact(&mut line).expect("nc prints it");
    assert_eq!(&line, b"to nc\n");
    let mut input = nc.stdin.take().expect("piped");
    input.write_all(b"from nc\n").expect("nc reads it");
    // nc -N ends its sending side when its input ends.
    drop(input);
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("nc's answer and its half-close");
    assert_eq!(answer, "from nc\n");
    drop(client);
    assert!(nc.wait().expect("nc ends with its client").success());
}

#[test]
fn ingress_serves_a_client_in_another_namespace_over_both_families() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let _peer = world.far_peer();
    let local = world.near.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let server = Server::on(local, http("from the near loopback"));
    let node = world.node(&products).ingress(format!("tcp:80:127.0.0.1:{}", server.port())).start();
    for url in [format!("http://{}/", world.own.v4), format!("http://[{}]/", world.own.v6)] {
        assert_eq!(curl(&world.far, &url), "from the near loopback");
    }
    let log = node.access_log("ingress/tcp/80", 2);
    // In whatever order: each worker writes its own.
    for source in [world.peer.v4.to_string(), world.peer.v6.to_string()] {
        assert!(log.iter().any(|line| line.contains(&source)), "no {source} in {log:?}");
    }
}

#[test]
fn the_nodes_overlay_addresses_answer_pings() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let peer = world.far_peer();
    let _node = world.node(&products).start();
    for address in [world.own.v4.to_string(), world.own.v6.to_string()] {
        for size in ["56", "1300"] {
            run_ok(world.far.command("ping").args(["-c", "3", "-i", "0.2", "-W", "5", "-s", size, &address]));
        }
    }
    assert!(peer.show(&world.far, "latest-handshakes").contains(&world.own.public_key));
}

#[test]
fn a_closed_overlay_port_is_refused_at_once() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let _peer = world.far_peer();
    let _node = world.node(&products).start();
    let to = (IpAddr::from(world.own.v4), 81);
    let refused = world.far.run(|| connect(to)).expect_err("nothing listens there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn data_crosses_unchanged_in_every_direction() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let _peer = world.far_peer();
    // Takes a stream, then answers with another one.
    let exchange = |mut stream: TcpStream| {
        let taken = receive(&mut stream, 1);
        send(&stream, 2, 64 * MIB).and(taken)
    };
    let (work, results) = reporting(exchange);
    let far_server = Server::on(world.listen_far(9000), work);
    let (work, near_results) = reporting(exchange);
    let near = world.near.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let near_server = Server::on(near, work);
    let port = free_port();
    let _node = world
        .node(&products)
        .egress(format!("tcp:{port}:{}:{}", world.peer.v4, far_server.port()))
        .ingress(format!("tcp:9001:127.0.0.1:{}", near_server.port()))
        .start();
    for (name, client, results) in [
        ("egress", world.connect_near(port), &results),
        ("ingress", world.connect_far(world.own.v4, 9001), &near_results),
    ] {
        let start = std::time::Instant::now();
        send(&client, 1, 64 * MIB).expect("sent");
        client.shutdown(std::net::Shutdown::Write).expect("an open connection");
        let there = start.elapsed();
        assert_eq!(receive(&client, 2).expect("unchanged data"), 64 * MIB, "{name}");
        assert_eq!(
            results.recv_timeout(CLIENT_LIMIT).expect("through").expect("unchanged data"),
            64 * MIB,
            "{name}"
        );
        measured(&format!(
            "{name}, 64 MiB there {:.2} s, and back {:.2} s",
            there.as_secs_f64(),
            (start.elapsed() - there).as_secs_f64()
        ));
    }
}

#[test]
fn resets_cross_in_every_direction() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let _peer = world.far_peer();
    // 'r': reset from here; anything else: wait for the other side's end.
    let work = |mut stream: TcpStream| {
        let mut order = [0];
        stream.read_exact(&mut order)?;
        stream.write_all(b"ready")?;
        if order == *b"r" {
            reset(stream);
            return Ok(0);
        }
        read_end(&mut stream)
    };
    let (far_work, far_results) = reporting(work);
    let far_server = Server::on(world.listen_far(9000), far_work);
    let (near_work, near_results) = reporting(work);
    let near = world.near.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let near_server = Server::on(near, near_work);
    let port = free_port();
    let _node = world
        .node(&products)
        .egress(format!("tcp:{port}:{}:{}", world.peer.v4, far_server.port()))
        .ingress(format!("tcp:9001:127.0.0.1:{}", near_server.port()))
        .start();
    let egress = || world.connect_near(port);
    let ingress = || world.connect_far(world.own.v4, 9001);
    let ways: [(&str, &dyn Fn() -> TcpStream, _); 2] =
        [("egress", &egress, far_results), ("ingress", &ingress, near_results)];
    let mut wrong = Vec::new();
    for (name, connect, results) in ways {
        let mut client = connect();
        client.write_all(b"w").expect("sent");
        client.read_exact(&mut [0; 5]).expect("the whole way is open");
        client.write_all(&[1; 50_000]).expect("sent");
        reset(client);
        let end = results.recv_timeout(CLIENT_LIMIT).expect("the server saw an end");
        if !is_reset(&end) {
            wrong.push(format!("{name}: the client reset, the server saw {end:?}"));
        }
        let mut client = connect();
        client.write_all(b"r").expect("sent");
        let end = read_end(&mut client);
        if !is_reset(&end) {
            wrong.push(format!("{name}: the server reset, the client saw {end:?}"));
        }
        results.recv_timeout(CLIENT_LIMIT).expect("the server is through").expect("it was told to reset");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn half_closes_cross_in_every_direction() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let _peer = world.far_peer();
    let work = |mut stream: TcpStream| {
        let mut question = String::new();
        // A client that does not end its question in order gets no answer.
        if stream.read_to_string(&mut question).is_ok() {
            let _ = write!(stream, "answer to {question}");
        }
    };
    let far_server = Server::on(world.listen_far(9000), work);
    let near = world.near.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let near_server = Server::on(near, work);
    let port = free_port();
    let _node = world
        .node(&products)
        .egress(format!("tcp:{port}:{}:{}", world.peer.v4, far_server.port()))
        .ingress(format!("tcp:9001:127.0.0.1:{}", near_server.port()))
        .start();
    for (name, mut client) in
        [("egress", world.connect_near(port)), ("ingress", world.connect_far(world.own.v6, 9001))]
    {
        client.write_all(b"question").expect("sent");
        client.shutdown(std::net::Shutdown::Write).expect("an open connection");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("the answer to its end");
        assert_eq!(answer, "answer to question", "{name}");
    }
}

#[test]
fn a_roaming_peer_is_followed() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let peer = world.far_peer();
    let server = Server::on(world.listen_far(8080), http("still here"));
    let port = free_port();
    let _node =
        world.node(&products).egress(format!("tcp:{port}:{}:{}", world.peer.v4, server.port())).start();
    let page = || curl(&world.near, &format!("http://127.0.0.1:{port}/"));
    assert_eq!(page(), "still here");
    // The far side moves to another port, and speaks from there first.
    peer.move_to_port(&world.far, free_port());
    run_ok(world.far.command("ping").args(["-c", "1", "-W", "10", &world.own.v4.to_string()]));
    within(Duration::from_secs(10), "a page from the peer's new port", || {
        let output: std::process::Output = fetch(&world.near, port);
        output.status.success().then_some(())
    });
}

fn fetch(namespace: &Namespace, port: u16) -> std::process::Output {
    let mut curl: Command = namespace.command("curl");
    curl.args(["--silent", "--fail", "--max-time", "5", &format!("http://127.0.0.1:{port}/")])
        .output()
        .expect("curl")
}
