//! Destinations that are host names.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::{
    DnsServer, Envoy, Identity, Node, NodeBuilder, Place, Products, Server, connect, echo, eventually,
    free_port, free_ports, http, http_get, measured, mounts, need, products, read_end, silent_udp_socket,
};
use tempfile::TempDir;

/// A name server, and an `/etc/resolv.conf` that names it.
struct Dns {
    server: DnsServer,
    directory: TempDir,
}

impl Dns {
    /// On port 53, because `/etc/resolv.conf` knows no other.
    fn start() -> Dns {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed));
        let server = DnsServer::at((address, 53).into()).expect("root may listen on port 53");
        let dns = Dns { server, directory: tempfile::tempdir().expect("a temporary directory") };
        dns.write("resolv.conf", &format!("nameserver {address}\n"));
        dns.write("hosts", "127.0.0.1 localhost\n");
        dns
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path(file), text).expect("a file");
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        Path::new(self.directory.path()).join(file)
    }

    fn set(&self, name: &str, ttl: u32, addresses: &[IpAddr]) {
        self.server.set(name, ttl, addresses);
    }

    /// A node whose system asks this server.
    fn node(&self, products: &Products, identity: &Identity) -> NodeBuilder<'static> {
        Node::with(products, identity)
            .mount(self.path("resolv.conf"), "/etc/resolv.conf")
            .mount(self.path("hosts"), "/etc/hosts")
            // One worker, so that rotation is exact.
            .flag("--concurrency=1")
    }

    /// Who is asked, as errors say it.
    fn address(&self) -> IpAddr {
        self.server.address().ip()
    }
}

/// A UDP server that answers every datagram with its name, as long as the test program runs.
fn udp_server(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = socket.local_addr().expect("bound");
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            // It may be gone.
            let _ = socket.send_to(name.as_bytes(), client);
        }
    });
    address
}

/// A client of a port of 127.0.0.1.
fn udp_client(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.connect((Ipv4Addr::LOCALHOST, port)).expect("loopback");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    socket
}

/// How long a client waits that has to be served.
const PATIENCE: Duration = Duration::from_secs(10);

fn patient(port: u16) -> UdpSocket {
    let socket = udp_client(port);
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

fn ask(client: &UdpSocket) -> Option<String> {
    client.send(b"who?").expect("sent");
    let mut answer = [0; 64];
    let length = client.recv(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn exchange(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("written");
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, text);
}

/// How many pages of each name come, of so many.
fn pages(port: u16, count: usize, name: &str) -> usize {
    (0..count).filter(|_| http_get(port).expect("a page") == name).count()
}

#[test]
fn an_egress_name_follows_its_records_and_live_connections_stay() {
    let products = need!(products());
    need!(mounts());
    let dns = Dns::start();
    let servers = [Server::local(http("over v4")), Server::local(http("over v6")), Server::local(echo)];
    let own = Identity::new(1);
    let (v4, v6) = (own.v4, own.v6);
    dns.set("web.test", 1, &[v4.into()]);
    dns.set("echo.test", 1, &[v4.into()]);
    dns.set("udp.test", 1, &[v4.into()]);
    let [web_port, echo_port, udp_port] = free_ports();
    let node = dns
        .node(&products, &own)
        .ingress(format!("tcp:80:{},bind={v4}", servers[0].address()))
        .ingress(format!("tcp:80:{},bind={v6}", servers[1].address()))
        .ingress(format!("tcp:7:{}", servers[2].address()))
        .ingress(format!("udp:53:{},bind={v4}", udp_server("over v4")))
        .ingress(format!("udp:53:{},bind={v6}", udp_server("over v6")))
        .egress(format!("tcp:{web_port}:web.test:80"))
        .egress(format!("tcp:{echo_port}:echo.test:7"))
        .egress(format!("udp:{udp_port}:udp.test:53"))
        // The questions for the two families are two datagrams, and a record may change in between.
        .expect_complaint("no address from")
        .start();
    // A node does not wait for names for more than a second.
    let echoes = || -> std::io::Result<()> {
        let mut stream = connect((Ipv4Addr::LOCALHOST, echo_port))?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])
    };
    eventually("the names", || {
        http_get(web_port).is_ok() && echoes().is_ok() && ask(&udp_client(udp_port)).is_some()
    });
    assert_eq!(pages(web_port, 4, "over v4"), 4);
    let mut live = connect((Ipv4Addr::LOCALHOST, echo_port)).expect("a connection");
    exchange(&mut live, b"before");
    let flow = patient(udp_port);
    assert_eq!(ask(&flow).as_deref(), Some("over v4"));
    let admin = node.admin();
    let rebuilt = || {
        let stats = ["listener_manager.listener_modified", "cluster_manager.cluster_modified"];
        stats.map(|name| admin.stat(name))
    };
    let before = rebuilt();

    let moved = Instant::now();
    for name in ["web.test", "echo.test", "udp.test"] {
        dns.set(name, 1, &[v6.into()]);
    }
    eventually("new connections at the new address", || http_get(web_port).expect("a page") == "over v6");
    measured(&format!("a name with a TTL of 1 s moved within {:.1} s", moved.elapsed().as_secs_f64()));
    eventually("new flows at the new address", || ask(&udp_client(udp_port)).as_deref() == Some("over v6"));
    eventually("all of them", || pages(web_port, 4, "over v6") == 4);
    exchange(&mut live, b"after");
    assert_eq!(ask(&flow).as_deref(), Some("over v4"), "a flow keeps its destination");
    assert_eq!(rebuilt(), before, "a name that moves is a matter of endpoints");

    // Both: every address takes its share.
    dns.set("web.test", 1, &[v4.into(), v6.into()]);
    dns.set("udp.test", 1, &[v4.into(), v6.into()]);
    eventually("connections at both addresses", || pages(web_port, 10, "over v4") == 5);
    eventually("flows at both addresses", || {
        let of_v4 = |_: &usize| ask(&udp_client(udp_port)).as_deref() == Some("over v4");
        (0..10).filter(of_v4).count() == 5
    });
    exchange(&mut live, b"still");
}

#[test]
fn a_name_that_does_not_resolve_is_told_and_works_once_it_does() {
    let products = need!(products());
    need!(mounts());
    let dns = Dns::start();
    let server = Server::local(http("late"));
    let own = Identity::new(1);
    let [port, shared, udp_port] = free_ports();
    let node = dns
        .node(&products, &own)
        .ingress(format!("tcp:80:{}", server.address()))
        .ingress(format!("udp:53:{}", udp_server("late")))
        .egress(format!("tcp:{shared}:{}:80", own.v4))
        .egress(format!("tcp:{shared}:late.test:80"))
        .expect_complaint("late.test")
        .start();
    let from = dns.address();
    let added = node.nexctl_ok(&["proxy", "add", "--egress", &format!("tcp:{port}:late.test:80")]);
    let expected =
        format!("Added egress proxy rule: tcp:{port}:late.test:80\nIts destination is unresolved: ");
    assert!(added.starts_with(&expected), "{added}");
    // When the next try is may have become "now".
    assert!(added.contains(&format!("late.test: NXDOMAIN from {from}, ")), "{added}");
    node.nexctl_ok(&["proxy", "add", "--egress", &format!("udp:{udp_port}:late.test:53")]);
    let status = || node.nexctl_ok(&["status"]);
    let line = format!("unresolved: late.test: NXDOMAIN from {from}, ");
    assert!(status().starts_with("Status: Running\n") && status().contains(&line), "{}", status());
    // Its clients are told at once, and other destinations of a port serve.
    let start = Instant::now();
    let mut client = connect((Ipv4Addr::LOCALHOST, port)).expect("Envoy accepts");
    assert_eq!(read_end(&mut client).expect("closed in order"), 0);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert!(node.access_log(&format!("egress/tcp/{port}"), 1)[0].contains("flags=UH"), "no healthy upstream");
    assert_eq!(pages(shared, 4, "late"), 4);
    assert_eq!(node.nexctl_ok(&["proxy", "list"]).matches("late.test").count(), 3);

    dns.set("late.test", 1, &[own.v4.into()]);
    let appeared = Instant::now();
    // At times the next try is ten seconds away.
    e2e::within(Duration::from_secs(20), "the name that came", || {
        http_get(port).is_ok_and(|page| page == "late").then_some(())
    });
    measured(&format!("a name that came served {:.1} s later", appeared.elapsed().as_secs_f64()));
    eventually("the name that came, over UDP", || ask(&udp_client(udp_port)).as_deref() == Some("late"));
    eventually("a status without it", || status() == "Status: Running\n");

    // Gone, or nobody there to ask: what was found stays, and the status says so.
    dns.server.remove("late.test");
    let gone =
        format!("not refreshed: late.test: NXDOMAIN from {from}, so it stays {}, next try in ", own.v4);
    eventually("the failure in the status", || status().contains(&gone));
    assert_eq!(pages(port, 2, "late"), 2);
    dns.server.set_silent(true);
    let silent = format!("not refreshed: late.test: no answer from {from}");
    e2e::within(Duration::from_secs(30), "the silence in the status", || {
        status().contains(&silent).then_some(())
    });
    assert_eq!(pages(port, 2, "late"), 2);
    dns.server.set_silent(false);
    dns.set("late.test", 60, &[own.v4.into()]);
    e2e::within(Duration::from_secs(20), "the recovery", || (status() == "Status: Running\n").then_some(()));
}

#[test]
fn a_dns_server_in_the_overlay_is_asked_through_the_tunnel() {
    let products = need!(products());
    let dns = DnsServer::at((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let server = Server::local(http("inside"));
    let [one, two] = Identity::several();
    // More than fits into a datagram. The first in order is the one that is there, and many are not used at all.
    let many: Vec<IpAddr> = (0..60).map(|n| [100, 65, 0, n].into()).collect();
    dns.set("web.internal", 1, &[one.v4.into()]);
    dns.set("udp.internal", 1, &[one.v6.into()]);
    dns.set("many.internal", 60, &[&[one.v4.into()], &many[..]].concat());
    let [web, udp, crowd] = free_ports();
    let mut inside = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("udp:53:{}", dns.address()))
        .ingress(format!("tcp:53:{}", dns.address()))
        .ingress(format!("tcp:80:{}", server.address()))
        .ingress(format!("udp:7:{}", udp_server("inside")))
        .build();
    inside.launch();
    let outside = Node::with(&products, &two)
        .peer(&one)
        .flag(format!("--overlay-dns={}", one.v4))
        .egress(format!("tcp:{web}:web.internal:80"))
        .egress(format!("udp:{udp}:udp.internal:7"))
        .expect_complaint("many.internal")
        .expect_complaint("absent.internal")
        // Where the other node takes its time.
        .expect_complaint(".internal: no answer")
        .start();
    inside.wait_ready();
    eventually("the name from inside", || http_get(web).is_ok_and(|page| page == "inside"));
    eventually("the name from inside, over UDP", || ask(&udp_client(udp)).as_deref() == Some("inside"));
    assert_eq!(dns.over_tcp(), 0);
    outside.nexctl_ok(&["proxy", "add", "--egress", &format!("tcp:{crowd}:many.internal:80")]);
    assert!(dns.over_tcp() > 0, "a long answer comes over TCP");
    assert_eq!(http_get(crowd).expect("a page"), "inside");
    let absent =
        outside.nexctl_ok(&["proxy", "add", "--egress", &format!("tcp:{}:absent.internal:80", free_port())]);
    assert!(absent.contains(&format!("absent.internal: NXDOMAIN from {}, ", one.v4)), "{absent}");
    // The way to the server is nobody's rule.
    let list = outside.nexctl_ok(&["proxy", "list"]);
    assert_eq!((list.lines().count(), list.contains(":53")), (4, false), "{list}");
}

#[test]
fn the_systems_files_count_as_they_are_now() {
    let products = need!(products());
    need!(mounts());
    let dns = Dns::start();
    let server = Server::local(http("found"));
    let own = Identity::new(1);
    dns.write("hosts", &format!("127.0.0.1 localhost\n{} there\n", own.v4));
    let [first, second] = free_ports();
    let node = dns
        .node(&products, &own)
        .ingress(format!("tcp:80:{}", server.address()))
        .egress(format!("tcp:{first}:there:80"))
        .egress(format!("tcp:{second}:here:80"))
        .expect_complaint("unresolved: here")
        .start();
    assert_eq!(http_get(first).expect("a page"), "found");
    http_get(second).expect_err("it is not in the file");
    dns.write("hosts", &format!("127.0.0.1 localhost\n{} there here\n", own.v4));
    e2e::within(Duration::from_secs(20), "the new line of the file", || http_get(second).ok());
    eventually("a status without it", || node.nexctl_ok(&["status"]) == "Status: Running\n");
}

#[test]
fn ingress_names_are_looked_up_by_envoy_and_every_address_has_its_share() {
    let products = need!(products());
    need!(mounts());
    let dns = Dns::start();
    let own = Identity::new(1);
    // Two servers at two addresses with one port, as a name has it.
    let port = free_port();
    let at = |last: u8| IpAddr::from([127, 0, 77, last]);
    let [first, second] = [(1, "first"), (2, "second")].map(|(last, page)| {
        Server::on(std::net::TcpListener::bind((at(last), port)).expect("a port"), http(page))
    });
    dns.set("web.test", 1, &[at(1), at(2)]);
    dns.set("udp.test", 1, &[at(1)]);
    // Of eight addresses one answers.
    dns.set("many.test", 60, &[11, 12, 13, 14, 15, 16, 17, 1].map(at));
    dns.set("dead.test", 60, &[at(11)]);
    for (last, name) in [(1, "first"), (2, "second")] {
        let socket = UdpSocket::bind((at(last), port)).expect("a port");
        thread::spawn(move || {
            while let Ok((_, client)) = socket.recv_from(&mut [0; 64]) {
                let _ = socket.send_to(name.as_bytes(), client);
            }
        });
    }
    let [web, udp, many, dead] = free_ports();
    let _node = dns
        .node(&products, &own)
        .ingress(format!("tcp:80:web.test:{port}"))
        .ingress(format!("tcp:81:many.test:{port}"))
        .ingress(format!("tcp:82:dead.test:{port}"))
        .egress(format!("tcp:{many}:{}:81", own.v4))
        .egress(format!("tcp:{dead}:{}:82", own.v4))
        .ingress(format!("udp:53:udp.test:{port}"))
        .egress(format!("tcp:{web}:{}:80", own.v4))
        .egress(format!("udp:{udp}:{}:53", own.v4))
        .start();
    assert_eq!(pages(web, 10, "first"), 5);
    assert_eq!(pages(many, 4, "first"), 4);
    let start = Instant::now();
    assert!(http_get(dead).is_err());
    assert!(start.elapsed() < Duration::from_secs(8), "turned away after {:?}", start.elapsed());
    assert_eq!(ask(&patient(udp)).as_deref(), Some("first"));
    dns.set("web.test", 1, &[at(2)]);
    dns.set("udp.test", 1, &[at(2)]);
    eventually("the address that is left", || pages(web, 4, "second") == 4);
    eventually("the new address, over UDP", || ask(&udp_client(udp)).as_deref() == Some("second"));
    drop((first, second));
}

#[test]
fn a_static_destination_may_be_a_name() {
    static_name(1);
}

/// The peers are on different threads: of two addresses, the second is another thread's.
#[test]
fn a_static_name_may_have_addresses_behind_peers_of_several_threads() {
    static_name(2);
}

fn static_name(threads: usize) {
    let mut products = need!(products());
    need!(mounts());
    let server = Server::local(http("by name"));
    let [one, two, mut absent] = Identity::several();
    let silence = silent_udp_socket();
    absent.endpoint = silence.local_addr().expect("bound");
    let _ingress = Node::with(&products, &two)
        .peer(&one)
        .ingress(format!("tcp:443:{}", server.address()))
        .ingress(format!("udp:53:{}", udp_server("by name")))
        .start();

    let place = Place::new(&one, &absent);
    let config = fs::read_to_string(place.path("wg0.conf")).expect("a file") + &two.peer_section();
    fs::write(place.path("wg0.conf"), config).expect("a file");
    let port = free_port();
    let listen = format!("address: 127.0.0.1, port_value: {port}");
    let relay = free_port();
    let filter = "terminal_filter: true\n          filter_config:\n            \"@type\": type.googleapis.com/google.protobuf.Struct\n            value: {network: default";
    let with_relay =
        format!("{filter}, udp_relays: [{{relay: \"127.0.0.1:{relay}\", destination: \"web.overlay:53\"}}]");
    let wg_config = format!("wg_config_file: {}", place.path("wg0.conf"));
    let with_threads = format!("{wg_config}\n          limits: {{threads: {threads}}}");
    let edits = [
        (wg_config.as_str(), with_threads.as_str()),
        (filter, with_relay.as_str()),
        ("address: 127.0.0.1, port_value: 8080", listen.as_str()),
        ("endpoint_id: \"100.64.0.2:8080\"", "endpoint_id: \"web.overlay:443\""),
        ("destination: \"100.64.0.2:8080\"", "destination: \"web.overlay:443\""),
    ];
    let configuration = place.configuration("egress-static.yaml", &edits);
    // Nobody answers there: what is not in the file of hosts is not to be found.
    let resolv = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
    fs::write(place.path("resolv.conf"), resolv).expect("a file");
    let hosts = |addresses: &[IpAddr]| {
        let lines: String = addresses.iter().map(|address| format!("{address} web.overlay\n")).collect();
        fs::write(place.path("hosts"), format!("127.0.0.1 localhost\n{lines}")).expect("a file");
    };
    hosts(&[]);
    let files = ["hosts", "resolv.conf"].map(|file| format!("mount --bind {} /etc/{file}", place.path(file)));
    let script = format!(
        "#!/bin/sh\nexec unshare --mount -- sh -c '{} && exec \"$@\"' sh {} \"$@\"\n",
        files.join(" && "),
        products.envoy.display()
    );
    products.envoy = PathBuf::from(place.path("envoy"));
    fs::write(&products.envoy, script).expect("a file");
    fs::set_permissions(&products.envoy, fs::Permissions::from_mode(0o755)).expect("an own file");
    let egress = Envoy::start(&products, &configuration, place.admin());

    // The health check finds that nobody is there, and then that somebody is.
    eventually("the health check's result", || {
        egress.admin().get("/nexodus/status").is_some_and(|status| status.contains("name_not_resolved"))
    });
    http_get(port).expect_err("no such name");
    let early = udp_client(relay);
    early.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    assert_eq!(ask(&early), None);
    early.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    eventually("the count of what was refused", || {
        egress.admin().stat("dynamicmodulescustom.nexodus.default.udp_refused") == 1
    });
    // The first of two addresses refuses, being the node's own.
    hosts(&[one.v4.into(), two.v6.into()]);
    e2e::within(Duration::from_secs(25), "the name that came", || http_get(port).ok());
    for _ in 0..5 {
        assert_eq!(http_get(port).expect("a page"), "by name");
    }
    hosts(&[two.v4.into()]);
    assert_eq!(ask(&early).as_deref(), Some("by name"), "the next datagram asks again");
    assert_eq!(ask(&patient(relay)).as_deref(), Some("by name"));
    // One that does not answer is given up while another one is left.
    hosts(&[absent.v4.into(), two.v6.into()]);
    let start = Instant::now();
    assert_eq!(http_get(port).expect("a page"), "by name");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(8), "{took:?}");

    hosts(&[]);
    http_get(port).expect_err("the name is gone");
    eventually("the reason in the access log", || {
        egress.log().contains("reason=\"overlay:_name_not_resolved\"")
    });
    eventually("the count of it", || {
        egress.admin().stat("dynamicmodulescustom.nexodus.default.connect_failed_name_not_resolved") > 0
    });
}
