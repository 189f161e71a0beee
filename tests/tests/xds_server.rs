//! `xds-server` by itself, with envoy-config/xds.yaml and an Envoy that is not nexd's.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use e2e::{
    Envoy, Identity, Node, Pattern, Place, Process, Products, Server, connect, echo, eventually, free_port,
    free_ports, http, http_get, need, products, receive, send,
};
use rustix::process::Signal;

/// An Envoy that has its rules from an `xds-server` with a rules file. Fields in the order in which they have to end.
struct Pair {
    _envoy: Envoy,
    server: Process,
    place: Place,
}

impl Pair {
    fn start(products: &Products, own: &Identity, peer: &Identity, rules: &str) -> Pair {
        let place = Place::new(own, peer);
        fs::write(place.path("rules.yaml"), rules).expect("written");
        let mut command = Command::new(products.program("xds-server"));
        command.args(["--ads-socket", &place.path("run/ads.sock"), "--runtime-dir", &place.path("run")]);
        command.args(["--rules", &place.path("rules.yaml")]);
        let server = Process::start("xds-server", &command, place.path("xds-server.log").as_ref());
        eventually("the server's socket", || fs::exists(place.path("run/ads.sock")).unwrap_or(false));
        let envoy = Envoy::start(products, &place.configuration("xds.yaml", &[]), place.admin());
        Pair { _envoy: envoy, server, place }
    }

    /// Replaces the rules as a config map is replaced: by renaming a link.
    fn rules(&self, version: &str, rules: &str) {
        fs::write(self.place.path(version), rules).expect("written");
        std::os::unix::fs::symlink(version, self.place.path("new")).expect("a link");
        fs::rename(self.place.path("new"), self.place.path("rules.yaml")).expect("renamed");
    }
}

fn refuses(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn an_envoy_of_ones_own_carries_transfers_both_ways() {
    const LENGTH: u64 = 16 << 20;
    let products = need!(products());
    let (mirror, pages) = (Server::local(echo), Server::local(http("at the xds-server's side")));
    let [one, two] = Identity::several();
    let [at_envoy, at_node] = free_ports();
    let mut node = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("tcp:81:{}", mirror.address()))
        .egress(format!("tcp:{at_node}:{}:443", two.v4))
        .build();
    node.launch();
    let rules = format!(
        "egress:\n- tcp:{at_envoy}:{}:81\ningress:\n- {{protocol: tcp, port: 443, destination: '{}'}}\n",
        one.v4,
        pages.address()
    );
    let _pair = Pair::start(&products, &two, &one, &rules);
    node.wait_ready();

    let stream = connect((Ipv4Addr::LOCALHOST, at_envoy)).expect("a connection");
    let back = std::thread::scope(|scope| {
        let back = scope.spawn(|| receive(&stream, 5));
        send(&stream, 5, LENGTH).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("an open connection");
        back.join().expect("a thread").expect("what was sent")
    });
    assert_eq!(back, LENGTH);
    assert_eq!(http_get(at_node).expect("a page"), "at the xds-server's side");
}

#[test]
fn the_server_follows_its_rules_file() {
    let products = need!(products());
    let (mirror, pages) = (Server::local(echo), Server::local(http("page")));
    let [one, two] = Identity::several();
    let mut node = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("tcp:81:{}", mirror.address()))
        .ingress(format!("tcp:82:{}", pages.address()))
        .build();
    node.launch();
    let [stays, goes, comes] = free_ports();
    let base = format!("egress:\n- tcp:{stays}:{}:81\n", one.v4);
    let rule = |port: u16| format!("- tcp:{port}:{}:82\n", one.v4);
    let mut pair = Pair::start(&products, &two, &one, &(base.clone() + &rule(goes)));
    node.wait_ready();
    assert_eq!(http_get(goes).expect("a page"), "page");

    let mut live = connect((Ipv4Addr::LOCALHOST, stays)).expect("a connection");
    let (mut sent, mut received) = (Pattern::new(3), Pattern::new(3));
    let mut exchange = || {
        let mut buffer = vec![0; 64 * 1024];
        sent.fill(&mut buffer);
        live.write_all(&buffer).expect("the connection lives");
        live.read_exact(&mut buffer).expect("the connection lives");
        received.check(&buffer).expect("what was sent");
    };
    exchange();
    pair.rules("second", &(base.clone() + &rule(comes)));
    eventually("the new rule", || {
        exchange();
        http_get(comes).is_ok()
    });
    eventually("the end of the old one", || {
        exchange();
        refuses(goes)
    });

    let bad = format!("{base}{}- tcp:{}:nowhere\n", rule(comes), free_port());
    pair.rules("third", &bad);
    let problem = format!("rules file {}: line 4, column 3: ", pair.place.path("rules.yaml"));
    eventually("the problem in the log", || pair.server.log().contains(&problem));
    exchange();
    assert_eq!(http_get(comes).expect("a page"), "page");

    // Nothing changed, but somebody asks.
    pair.rules("fourth", &(base.clone() + &rule(comes)));
    let served = || pair.server.log().matches("serving 2 rules").count();
    eventually("the repaired file", || served() == 2);
    pair.server.signal(Signal::HUP);
    eventually("an answer to SIGHUP", || pair.server.log().matches("serving 2 rules").count() == 3);
    exchange();
}
