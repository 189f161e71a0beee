//! Listening on one of several own addresses.
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

mod sim;

use std::net::SocketAddr;

use nexodus_netstack::{CloseReason, Event, Local, UdpCloseReason};
use sim::{App, World, secs, v4, v6};

#[test]
fn a_tcp_port_of_one_address_is_closed_on_the_others() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    world.nodes[1].stack.unlisten(80);
    world.nodes[1].stack.listen(SocketAddr::new(v6(1), 80));
    let reached = world.connect_to(0, SocketAddr::new(v6(1), 80), App::idle());
    let refused = world.connect_to(0, SocketAddr::new(v4(1), 80), App::idle());
    world.run(secs(1));
    assert!(world.app(0, reached).connected && world.app(0, reached).closed.is_none());
    assert_eq!(world.app(0, refused).closed, Some(CloseReason::Refused), "by RST, not by silence");
}

#[test]
fn a_port_of_one_address_and_of_all_are_two_matters() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    world.nodes[1].stack.listen(SocketAddr::new(v4(1), 80));
    world.nodes[1].stack.unlisten(80);
    let one = world.connect_to(0, SocketAddr::new(v4(1), 80), App::idle());
    let other = world.connect_to(0, SocketAddr::new(v6(1), 80), App::idle());
    world.run(secs(1));
    assert!(world.app(0, one).connected);
    assert_eq!(world.app(0, other).closed, Some(CloseReason::Refused));

    world.nodes[1].stack.listen(80);
    world.nodes[1].stack.unlisten(SocketAddr::new(v4(1), 80));
    let again = world.connect_to(0, SocketAddr::new(v4(1), 80), App::idle());
    world.run(secs(1));
    assert!(world.app(0, again).connected, "all addresses are still listened on");
}

#[test]
fn a_udp_port_of_one_address_is_unreachable_on_the_others() {
    let mut world = World::simple();
    world.nodes[1].stack.udp_listen(SocketAddr::new(v4(1), 53));
    world.nodes[1].udp_echo = true;
    let now = world.now;
    let mut ask = |to| {
        let stack = &mut world.nodes[0].stack;
        let flow = stack.udp_connect(now, SocketAddr::new(to, 53)).unwrap();
        assert!(stack.udp_send(now, flow, b"x"));
        flow
    };
    let (reached, refused) = (ask(v4(1)), ask(v6(1)));
    world.run(secs(1));
    let answers: Vec<_> = world.nodes[0].datagrams.iter().map(|(flow, _)| *flow).collect();
    assert_eq!(answers, [reached]);
    let closed = Event::UdpClosed { flow: refused, reason: UdpCloseReason::Unreachable };
    assert!(world.nodes[0].events.contains(&closed));
}

#[test]
fn a_local_reads_like_what_it_stands_for() {
    for (local, text) in [
        (Local::from(443), "443"),
        (Local::from(SocketAddr::new(v4(1), 443)), "100.64.0.2:443"),
        (Local::from(SocketAddr::new(v6(1), 443)), "[fd00::2]:443"),
    ] {
        assert_eq!(local.to_string(), text);
    }
}
