//! Every bound around datagrams is reached once, and what is refused is counted. Also: what peers must not be able to do.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failure is a failed test")]

mod sim;

use std::net::{IpAddr, SocketAddr};

use nexodus_netstack::{Event, Limits, Netstack, Stats, UdpCloseReason, UdpFlowId};
use sim::raw::{Raw, ip};
use sim::{Pair, World, pattern, peer, secs, v4, v6};

fn stats(raw: &Raw) -> Stats {
    *raw.stack.stats()
}

/// A UDP datagram from node 0 without a checksum.
fn datagram(to: IpAddr, source_port: u16, port: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let header = [source_port.to_be_bytes(), port.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    ip(to, 17, &[&header, payload].concat())
}

fn listening() -> Raw {
    let mut raw = Raw::new(Limits::default());
    raw.stack.udp_listen(53);
    raw
}

fn drain(raw: &mut Raw) -> usize {
    let mut payload = Vec::new();
    (0..).take_while(|_| raw.stack.poll_datagram(&mut payload).is_some()).count()
}

#[test]
fn received_datagrams_are_bounded_in_number_and_bytes() {
    for (len, most) in [(0, 16_384), (1000, (4 << 20) / 1000), (1392, (4 << 20) / 1392)] {
        let mut raw = listening();
        for _ in 0..most + 100 {
            raw.send(&datagram(v4(1), 9, 53, &vec![1; len]));
        }
        assert_eq!((stats(&raw).udp_received, stats(&raw).udp_receive_full), (most as u64, 100));
        assert!(matches!(raw.stack.poll_event(), Some(Event::UdpIncoming { .. })));
        assert_eq!(drain(&mut raw), most);
        raw.send(&datagram(v4(1), 9, 53, b"room again"));
        assert_eq!(drain(&mut raw), 1);
    }
}

#[test]
fn datagrams_to_send_are_bounded_in_number_and_bytes() {
    for (len, most) in [(0, 4096), (65_507, (4 << 20) / 65_535 + 1)] {
        let mut raw = Raw::new(Limits::default());
        let flow = raw.stack.udp_connect(raw.now, SocketAddr::new(v4(0), 53)).unwrap();
        let payload = vec![1; len];
        let taken = (0..5000).filter(|_| raw.stack.udp_send(raw.now, flow, &payload)).count();
        assert_eq!(
            (taken, stats(&raw).udp_sent, stats(&raw).udp_send_full),
            (most, most as u64, 5000 - most as u64)
        );
        raw.replies();
        assert!(raw.stack.udp_send(raw.now, flow, &payload));
    }
}

#[test]
fn a_flow_is_told_before_its_datagrams() {
    let mut raw = listening();
    raw.send(&datagram(v4(1), 9, 53, b"first"));
    assert_eq!(drain(&mut raw), 0);
    let Some(Event::UdpIncoming { flow, local, remote }) = raw.stack.poll_event() else { panic!("no flow") };
    assert_eq!((local, remote), (SocketAddr::new(v4(1), 53), SocketAddr::new(v4(0), 9)));
    let mut payload = Vec::new();
    assert_eq!((raw.stack.poll_datagram(&mut payload), &payload[..]), (Some(flow), &b"first"[..]));
}

#[test]
fn datagrams_that_nobody_took_go_with_their_flow() {
    let mut raw = listening();
    raw.send(&datagram(v4(1), 9, 53, b"first"));
    let Some(Event::UdpIncoming { flow, .. }) = raw.stack.poll_event() else { panic!("no flow") };
    raw.stack.udp_release(raw.now, flow);
    raw.stack.udp_release(raw.now, flow);
    raw.send(&datagram(v4(1), 9, 53, b"a new flow"));
    assert_eq!(drain(&mut raw), 0);
    assert_eq!((stats(&raw).udp_unread, stats(&raw).udp_flows), (1, 1));
    assert!(
        matches!(raw.stack.poll_event(), Some(Event::UdpIncoming { flow: second, .. }) if second != flow)
    );
    assert_eq!((drain(&mut raw), raw.stack.poll_event()), (1, None));
}

#[test]
fn malformed_datagrams_are_counted() {
    let mut raw = listening();
    let mut broken = [7, 8, 9, 30].map(|len| {
        let mut packet = datagram(v4(1), 9, 53, &[1; 10]);
        packet[25] = len;
        packet
    });
    broken[1][20..22].fill(0); // source port
    broken[2].truncate(27);
    broken[2][3] = 27;
    broken.iter().for_each(|packet| raw.send(packet));
    assert_eq!((stats(&raw).bad_packet, stats(&raw).udp_flows), (4, 0));
    // Bytes behind the datagram do not belong to it.
    let mut packet = datagram(v4(1), 9, 53, &[1; 10]);
    packet[25] = 12;
    raw.send(&packet);
    assert!(raw.stack.poll_event().is_some());
    let mut payload = Vec::new();
    raw.stack.poll_datagram(&mut payload).unwrap();
    assert_eq!(payload, [1; 4]);
}

/// What the port unreachable message of node 0 looks like for a datagram of ours.
fn port_unreachable(sent: &[u8]) -> Vec<u8> {
    let six = sent[0] >> 4 == 6;
    let (protocol, kind, code) = if six { (58, 1, 4) } else { (1, 3, 3) };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(sent);
    ip(if six { v6(1) } else { v4(1) }, protocol, &message)
}

#[test]
fn an_unreachable_message_has_to_fit_the_flow() {
    for to in [v4(0), v6(0)] {
        let mut raw = Raw::new(Limits::default());
        let flow = raw.stack.udp_connect(raw.now, SocketAddr::new(to, 53)).unwrap();
        raw.stack.udp_send(raw.now, flow, &[1; 3000]);
        let sent = raw.replies().remove(0);
        let ports = if to.is_ipv4() { 20 } else { 48 };
        let mut wrong = [sent.clone(), sent.clone(), sent.clone(), sent.clone()];
        wrong[0][ports] ^= 1;
        wrong[1][ports + 3] ^= 1;
        wrong[2][if to.is_ipv4() { 9 } else { 40 }] = 6;
        // Not the first fragment: what looks like ports is data.
        wrong[3][if to.is_ipv4() { 7 } else { 43 }] |= 8;
        for wrong in wrong {
            raw.send(&port_unreachable(&wrong));
            raw.send(&port_unreachable(&wrong[..ports + 4]));
        }
        assert_eq!(raw.stack.poll_event(), None);
        raw.send(&port_unreachable(&sent[..ports + 8]));
        let closed = Event::UdpClosed { flow, reason: UdpCloseReason::Unreachable };
        assert_eq!((raw.stack.poll_event(), raw.stack.poll_event()), (Some(closed), None));
        assert_eq!(stats(&raw).udp_unreachable, 1);
    }
}

#[test]
fn another_peer_cannot_end_a_flow() {
    let mut raw = Raw::new(Limits::default());
    raw.stack.set_peers(raw.now, vec![peer(0), peer(2)]).unwrap();
    let flow = raw.stack.udp_connect(raw.now, SocketAddr::new(v4(2), 53)).unwrap();
    let ports = (32_768..=60_999_u16).map(|port| {
        let mut quote = datagram(v4(2), port, 53, b"");
        quote[15] = 2; // from node 1
        port_unreachable(&quote)
    });
    ports.for_each(|message| raw.send(&message));
    assert_eq!((raw.stack.poll_event(), stats(&raw).udp_unreachable), (None, 0));
    assert!(raw.stack.udp_send(raw.now, flow, b"alive"));
}

/// Node 0 with peers 1 (does not exist) and 2 (as well).
fn lonely() -> (Netstack, [UdpFlowId; 2]) {
    let mut stack = Netstack::new(sim::config(0, Limits::default(), 1, 1420), sim::START).unwrap();
    stack.set_peers(sim::START, vec![peer(1), peer(2)]).unwrap();
    let flows = [1, 2].map(|node| stack.udp_connect(sim::START, SocketAddr::new(v4(node), 53)).unwrap());
    (stack, flows)
}

fn flush(stack: &mut Netstack) {
    while stack.poll_transmit(sim::START, &mut Vec::new()).is_some() {}
}

#[test]
fn datagrams_without_a_session_are_bounded_and_expire() {
    for (len, most) in [(0, 128), (65_507, 4)] {
        let (mut stack, [flow, other]) = lonely();
        // Who comes first is not pushed out by who sends more.
        assert!(stack.udp_send(sim::START, other, b"patient"));
        for _ in 0..300 {
            assert!(stack.udp_send(sim::START, flow, &vec![1; len]));
            flush(&mut stack);
        }
        let full = 301 - most;
        assert_eq!((stack.stats().session_wait_full, stack.stats().session_wait_expired), (full, 0));
        assert_eq!(stack.stats().handshakes_initiated, 2);
        let due = stack.poll_timeout().unwrap();
        assert!(due > sim::START, "waiting is no work");
        stack.handle_timeout(sim::START + secs(30));
        assert_eq!(stack.stats().session_wait_expired, most);
        stack.handle_timeout(sim::START + secs(200));
        assert_eq!(stack.stats().session_wait_expired, most);
    }
}

#[test]
fn the_first_datagrams_wait_for_the_handshake() {
    let mut world = World::simple();
    world.nodes[1].stack.udp_listen(53);
    let now = world.now;
    let flow = world.nodes[0].stack.udp_connect(now, SocketAddr::new(v6(1), 53)).unwrap();
    let payloads: Vec<Vec<u8>> = (0..20).map(|seed| pattern(3000, seed)).collect();
    for payload in &payloads {
        assert!(world.nodes[0].stack.udp_send(now, flow, payload));
    }
    world.run(secs(1));
    assert!(world.nodes[1].datagrams.iter().map(|(_, payload)| payload).eq(&payloads));
}

#[test]
fn a_peer_that_calls_us_gets_what_waited() {
    let mut world = World::pair(&Pair { one_way: true, ..Pair::default() });
    world.nodes[0].stack.udp_listen(53);
    let now = world.now;
    // Node 1 does not know where node 0 is.
    let flow = world.nodes[1].stack.udp_connect(now, SocketAddr::new(v4(0), 53)).unwrap();
    assert!(world.nodes[1].stack.udp_send(now, flow, b"where are you"));
    world.run(secs(5));
    assert!(world.nodes[0].datagrams.is_empty());
    let now = world.now;
    world.nodes[0].stack.ping(now, v4(1), 1, 1).unwrap();
    world.run(secs(1));
    assert_eq!(world.nodes[0].datagrams.len(), 1);
}

#[test]
fn a_peer_that_never_calls_costs_one_wake_up() {
    let mut world = World::pair(&Pair { one_way: true, ..Pair::default() });
    let now = world.now;
    let flow = world.nodes[1].stack.udp_connect(now, SocketAddr::new(v4(0), 53)).unwrap();
    assert!(world.nodes[1].stack.udp_send(now, flow, b"where are you"));
    let end = now + secs(59);
    assert_eq!((0..).take_while(|_| world.step(end)).count(), 1);
    assert_eq!((world.now, world.nodes[1].stack.stats().session_wait_expired), (now + secs(30), 1));
}

#[test]
fn a_peer_that_goes_leaves_its_datagrams_to_the_next() {
    let (mut stack, [flow, _]) = lonely();
    assert!(stack.udp_send(sim::START, flow, b"x"));
    flush(&mut stack);
    stack.set_peers(sim::START, vec![peer(2)]).unwrap();
    flush(&mut stack);
    assert_eq!(stack.stats().unroutable, 1);
    assert!(stack.udp_send(sim::START, flow, b"x"));
    flush(&mut stack);
    assert_eq!(stack.stats().unroutable, 2);
}
