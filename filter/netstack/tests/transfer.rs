//! Streams: bytes in are bytes out, whatever the wire does and whoever closes first.

mod sim;

use nexodus_netstack::{CloseReason, Event, Limits};
use sim::raw::{Raw, ip};
use sim::{App, Link, Pair, World, pattern, secs, v4, v6};
use std::net::SocketAddr;
use std::time::Duration;

#[test]
fn echo_over_v4() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    let flow = world.connect(80, App::sending(b"hello".to_vec()));
    assert!(world.run_until(secs(5), |world| world.app(0, flow).is_done()));
    assert_eq!(world.app(0, flow).received, b"hello");
    assert!(world.run_until(secs(1), |world| world.only(1).1.is_done()));
    // Nothing is left but the tuple in TIME_WAIT, and that goes too.
    assert_eq!(world.nodes[0].stack.stats().flows, 0);
    assert_eq!(world.nodes[0].stack.stats().buffer_bytes, 0);
    assert_eq!(world.nodes[1].stack.stats().buffer_bytes, 0);
    assert_eq!(world.nodes[0].stack.stats().time_wait + world.nodes[1].stack.stats().time_wait, 1);
    world.run(secs(35));
    assert_eq!(world.nodes[0].stack.stats().time_wait + world.nodes[1].stack.stats().time_wait, 0);
    assert_eq!(world.nodes[0].stack.stats().rst_sent + world.nodes[1].stack.stats().rst_sent, 0);
}

#[test]
fn echo_over_v6() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    let flow = world.connect_to(0, SocketAddr::new(v6(1), 80), App::sending(pattern(100_000, 3)));
    assert!(world.run_until(secs(20), |world| world.app(0, flow).is_done()));
    assert_eq!(world.app(0, flow).received, pattern(100_000, 3));
    let incoming = world.nodes[1].events.iter().find_map(|event| match event {
        Event::Incoming { local, remote, .. } => Some((local.ip(), remote.ip())),
        _ => None,
    });
    assert_eq!(incoming, Some((v6(1), sim::v6(0))));
}

#[test]
fn a_port_that_rests_at_the_other_end_is_not_used_again_soon() {
    let mut world = World::simple();
    world.serve(80, App::sending(b"bye".to_vec()));
    // With ports drawn at random, about three of so many would meet one of those before.
    for count in 0..600 {
        let flow = world.connect(80, App::sink());
        assert!(world.run_until(secs(2), |world| world.app(0, flow).is_done()), "connection {count}");
    }
    let resting = world.nodes[1].stack.stats().time_wait;
    assert!(resting > 100, "{resting}");
}

fn both_ways(link: Link, limit: Duration) -> World {
    let mut world = World::pair(&Pair { link, ..Pair::default() });
    let size = 4 << 20;
    world.serve(80, App::sending(pattern(size, 2)));
    let flow = world.connect(80, App::sending(pattern(size, 1)));
    let done = world.run_until(limit, |world| world.app(0, flow).is_done() && world.only(1).1.is_done());
    let (up, down) = (world.only(1).1.received.len(), world.app(0, flow).received.len());
    assert!(done, "up {up}, down {down} of {size}");
    assert!(world.app(0, flow).received == pattern(size, 2));
    assert!(world.only(1).1.received == pattern(size, 1));
    // Every packet has left, also those of a burst behind an acknowledgement, which do not fit to it in size.
    let sealed: u64 = world.nodes.iter().map(|node| node.stack.stats().tx_packets).sum();
    assert!(world.wire.sent >= sealed, "{sealed} packets in {} datagrams", world.wire.sent);
    world
}

#[test]
fn four_mebibytes_each_way_over_a_clean_wire() {
    let world = both_ways(Link::default(), secs(60));
    assert!(world.now - sim::START < secs(10), "{:?}", world.now - sim::START);
    // MSS-sized segments dominate: 8 MiB in 1380-byte segments, and acknowledgements.
    assert!(world.wire.sent < 12_000, "{} datagrams", world.wire.sent);
}

#[test]
fn four_mebibytes_each_way_over_a_bad_wire() {
    both_ways(Link { loss: 200, reorder: 500, duplicate: 200, ..Link::default() }, secs(6000));
}

/// An echo that reads only what it can send back fills both directions to the brim, and a lossy wire leaves each end with
/// segments that the other has no room for.
#[test]
fn an_echo_with_both_directions_full_never_stalls() {
    for seed in 1..20 {
        let link = Link { loss: 5, reorder: 50, ..Link::default() };
        let mut world = World::pair(&Pair { link, seed, ..Pair::default() });
        world.serve(80, App { echo_limit: 300_000, ..App::echo() });
        let size = 8 << 20;
        let flow = world.connect(80, App::sending(pattern(size, seed)));
        assert!(
            world.run_until(secs(120), |world| world.app(0, flow).is_done()),
            "seed {seed}: {} of {size}",
            world.app(0, flow).received.len()
        );
        assert!(world.app(0, flow).received == pattern(size, seed));
    }
}

#[test]
fn half_close_by_the_client_then_the_reply() {
    let mut world = World::simple();
    world.serve(80, App { send: pattern(300_000, 2), ..App::sink() });
    let flow = world.connect(80, App::sending(pattern(300_000, 1)));
    assert!(world.run_until(secs(30), |world| world.app(0, flow).is_done()));
    assert_eq!(world.app(0, flow).received, pattern(300_000, 2));
    assert_eq!(world.only(1).1.received, pattern(300_000, 1));
}

#[test]
fn half_close_by_the_server_then_the_rest_of_the_request() {
    let mut world = World::simple();
    world.serve(80, App::sending(b"enough".to_vec()));
    let flow = world.connect(80, App { send: pattern(300_000, 1), ..App::sink() });
    assert!(world.run_until(secs(30), |world| world.app(0, flow).is_done() && world.only(1).1.is_done()));
    assert_eq!(world.app(0, flow).received, b"enough");
    assert_eq!(world.only(1).1.received, pattern(300_000, 1));
}

#[test]
fn a_flow_without_a_byte_in_either_direction() {
    let mut world = World::simple();
    world.serve(80, App::sending(Vec::new()));
    let flow = world.connect(80, App::sending(Vec::new()));
    // Asked for before the handshake: it has to wait.
    world.pump(0, flow);
    assert!(world.run_until(secs(5), |world| world.app(0, flow).is_done() && world.only(1).1.is_done()));
}

#[test]
fn a_slow_reader_stops_the_sender() {
    let limits = Limits { flow_send_buffer: 65_536, flow_recv_buffer: 65_536, ..Limits::default() };
    let mut world = World::pair(&Pair { limits: [limits; 2], ..Pair::default() });
    world.serve(80, App { deaf: true, ..App::sink() });
    let flow = world.connect(80, App::sending(pattern(1 << 20, 1)));
    world.run(secs(120));
    let server = world.only(1).0;
    // One buffer at either end and nothing more; the zero window is probed, and nobody dies.
    // (What a scaled window cannot say, and no segment is sent for, stays at the sender.)
    assert!((65_534..=65_536).contains(&world.nodes[1].stack.recv_available(server)));
    // (The sender is woken when a quarter of its buffer is free, so the last of it may be empty.)
    assert!((2 * 65_536 - 16_384..=2 * 65_536).contains(&world.app(0, flow).sent));
    world.pump(0, flow);
    assert!((2 * 65_536 - 2..=2 * 65_536).contains(&world.app(0, flow).sent));
    assert_eq!(world.nodes[0].stack.send_capacity(flow), 0);
    let now = world.now;
    assert_eq!(world.nodes[0].stack.send(now, flow, b"more"), 0);
    world.run(secs(600));
    assert_eq!(world.app(0, flow).closed, None);
    world.app_mut(1, server).deaf = false;
    world.pump(1, server);
    assert!(
        world.run_until(secs(200), |world| world.app(0, flow).is_done()),
        "{:?}",
        world.app(0, flow).sent
    );
    assert_eq!(world.only(1).1.received, pattern(1 << 20, 1));
}

#[test]
fn data_unread_at_the_end_is_kept_for_the_reader() {
    let mut world = World::simple();
    world.serve(80, App { deaf: true, ..App::sending(b"x".to_vec()) });
    let flow = world.connect(80, App::sending(pattern(50_000, 1)));
    // Both FINs are through and TIME_WAIT is over before anybody reads.
    world.run(secs(60));
    let server = world.only(1).0;
    assert_eq!(world.only(1).1.closed, None);
    assert_eq!(world.nodes[1].stack.recv_available(server), 50_000);
    world.app_mut(1, server).deaf = false;
    world.pump(1, server);
    world.run(secs(1));
    assert!(world.only(1).1.is_done() && world.only(1).1.peer_finished);
    assert_eq!(world.only(1).1.received, pattern(50_000, 1));
    assert!(world.app(0, flow).is_done());
}

#[test]
fn to_ourselves() {
    let mut world = World::simple();
    world.nodes[0].stack.listen(80);
    world.nodes[0].server = Some(App::echo());
    let remote = SocketAddr::new(sim::v4(0), 80);
    let flow = world.connect_to(0, remote, App::sending(pattern(1 << 20, 1)));
    assert!(world.run_until(secs(60), |world| world.app(0, flow).is_done()));
    assert!(world.app(0, flow).received == pattern(1 << 20, 1));
    assert_eq!(world.wire.sent, 0, "nothing of it was on the wire");
    let refused = world.connect_to(0, SocketAddr::new(v6(0), 81), App::idle());
    assert!(world.run_until(secs(1), |world| world.app(0, refused).closed.is_some()));
    assert_eq!(world.app(0, refused).closed, Some(CloseReason::Refused));
}

#[test]
fn a_thousand_flows_at_once() {
    let limits = Limits { flow_send_buffer: 16_384, flow_recv_buffer: 16_384, ..Limits::default() };
    let mut world = World::pair(&Pair { limits: [limits; 2], ..Pair::default() });
    world.serve(80, App::echo());
    let flows: Vec<_> = (0..1000).map(|n| world.connect(80, App::sending(pattern(5000, n)))).collect();
    assert!(world.run_until(secs(60), |world| flows.iter().all(|&flow| world.app(0, flow).is_done())));
    for (n, &flow) in flows.iter().enumerate() {
        assert_eq!(world.app(0, flow).received, pattern(5000, n as u64));
    }
}

#[test]
fn released_flows_end_by_themselves() {
    let mut world = World::simple();
    world.serve(80, App::sink());
    let flow = world.connect(80, App::idle());
    assert!(world.run_until(secs(5), |world| world.app(0, flow).connected));
    let now = world.now;
    assert_eq!(world.nodes[0].stack.send(now, flow, &pattern(100_000, 1)), 100_000);
    world.nodes[0].stack.release(now, flow);
    let told = world.nodes[0].events.len();
    assert!(world.run_until(secs(10), |world| world.only(1).1.is_done()));
    assert_eq!(world.only(1).1.received, pattern(100_000, 1));
    world.run(secs(1));
    assert_eq!(world.nodes[0].events.len(), told, "no event after release");
    assert_eq!(world.nodes[0].stack.stats().flows, 0);
}

#[test]
fn a_released_flow_whose_peer_never_closes_is_aborted() {
    let mut world = World::simple();
    world.serve(80, App::idle());
    let flow = world.connect(80, App::idle());
    assert!(world.run_until(secs(5), |world| world.app(0, flow).connected));
    let now = world.now;
    world.nodes[0].stack.release(now, flow);
    world.run(Limits::default().linger + secs(5));
    assert_eq!(world.nodes[0].stack.stats().flows, 0);
    assert_eq!(world.only(1).1.closed, Some(CloseReason::Reset));
}

#[test]
fn bytes_for_a_released_flow_are_answered_with_a_reset() {
    let mut world = World::simple();
    world.serve(80, App { reply_after_finish: true, send: b"late".to_vec(), ..App::default() });
    let flow = world.connect(80, App::idle());
    assert!(world.run_until(secs(5), |world| world.app(0, flow).connected));
    let now = world.now;
    world.nodes[0].stack.release(now, flow);
    assert!(world.run_until(secs(5), |world| world.only(1).1.closed.is_some()));
    assert_eq!(world.only(1).1.closed, Some(CloseReason::Reset));
    assert_eq!(world.nodes[0].stack.stats().flows, 0);
}

fn word(packet: &[u8], at: usize) -> u32 {
    packet[at..at + 4].iter().fold(0, |n, &byte| n << 8 | u32::from(byte))
}

/// RFC 7323, section 4.3, where packets continue the stream of the one before, two at each tick of the peer's clock, and every
/// second one is acknowledged, the first of each tick.
#[test]
fn an_echoed_timestamp_does_not_lag() {
    let mut raw = Raw::new(Limits::default());
    raw.stack.listen(80);
    let segment = |raw: &mut Raw, seq: u32, ack: u32, clock: u32, len: usize| {
        let mut segment = vec![0x30, 0x39, 0, 80];
        segment.extend_from_slice(&seq.to_be_bytes());
        segment.extend_from_slice(&ack.to_be_bytes());
        let flags = if ack == 0 { 0x02 } else { 0x10 };
        segment.extend_from_slice(&[8 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend_from_slice(&[1, 1, 8, 10]);
        segment.extend_from_slice(&clock.to_be_bytes());
        segment.extend_from_slice(&[0; 4]);
        segment.resize(32 + len, 7);
        raw.send(&ip(v4(1), 6, &segment));
        raw.replies()
    };
    segment(&mut raw, 0, 0, 100, 0);
    let Some(Event::Incoming { flow, .. }) = raw.stack.poll_event() else { unreachable!("no flow") };
    raw.stack.accept(raw.now, flow);
    let ack = word(&raw.replies()[0], 24) + 1;
    let mut seq = 1;
    let mut echoes = |raw: &mut Raw, clock: u32| {
        let answers = segment(raw, seq, ack, clock, 1300);
        seq += 1300;
        answers.iter().map(|packet| word(packet, 48)).collect::<Vec<_>>()
    };
    // The first ones are acknowledged each.
    for _ in 0..16 {
        assert_eq!(echoes(&mut raw, 100), [100]);
    }
    assert_eq!(echoes(&mut raw, 100), []);
    for tick in 101..130 {
        assert_eq!(echoes(&mut raw, tick), [tick - 1]);
        assert_eq!(echoes(&mut raw, tick), []);
    }
}

/// The owner hears of a connection with the SYN|ACK, whose acknowledgement leaves with what the owner then writes, or 1 ms later.
#[test]
fn the_first_request_acknowledges_the_handshake() {
    for request in [&b"GET /"[..], b""] {
        let mut raw = Raw::new(Limits::default());
        let Ok(flow) = raw.stack.connect(raw.now, SocketAddr::new(v4(0), 80)) else {
            unreachable!("no flow")
        };
        let syn = raw.replies().remove(0);
        let mut answer = vec![0, 80, syn[20], syn[21], 0, 0, 0, 0];
        answer.extend_from_slice(&(word(&syn, 24) + 1).to_be_bytes());
        answer.extend_from_slice(&[5 << 4, 0x12, 0xff, 0xff, 0, 0, 0, 0]);
        raw.send(&ip(v4(1), 6, &answer));
        assert_eq!(raw.stack.poll_event(), Some(Event::Connected { flow }));
        assert!(raw.replies().is_empty());
        assert_eq!(raw.stack.poll_timeout(), Some(raw.now + Duration::from_millis(1)));

        raw.now = raw.now + Duration::from_micros(300);
        assert_eq!(raw.stack.send(raw.now, flow, request), request.len());
        let mut sent = raw.replies();
        raw.now = raw.now + Duration::from_micros(700);
        raw.stack.handle_timeout(raw.now);
        let mut late = raw.replies();
        if request.is_empty() {
            std::mem::swap(&mut sent, &mut late);
        }
        assert_eq!((sent.len(), late.len()), (1, 0));
        assert_eq!((word(&sent[0], 24), word(&sent[0], 28)), (word(&syn, 24) + 1, 1));
        assert_eq!(&sent[0][40..], request);
    }
}
