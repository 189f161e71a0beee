//! Who is refused, reset or told by ICMP, and who is not.
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

mod sim;

use nexodus_netstack::{CloseReason, Event, Limits, Stats};
use sim::raw::{Raw, ip};
use sim::{App, World, secs, v4, v6};
use std::net::SocketAddr;

fn stats(world: &World, node: usize) -> &Stats {
    world.nodes[node].stack.stats()
}

#[test]
fn a_closed_port_is_refused() {
    let mut world = World::simple();
    let flow = world.connect(81, App::idle());
    assert!(world.run_until(secs(1), |world| world.app(0, flow).closed.is_some()));
    assert_eq!(world.app(0, flow).closed, Some(CloseReason::Refused));
    assert_eq!(stats(&world, 1).rst_sent, 1);
    assert_eq!(stats(&world, 0).flows, 0);
    assert_eq!(stats(&world, 0).buffer_bytes, 0);
}

#[test]
fn a_held_syn_is_rejected() {
    let mut world = World::simple();
    world.nodes[1].stack.listen(80);
    let flow = world.connect(80, App::idle());
    // Repetitions of the SYN are not a second flow.
    world.run(secs(5));
    assert_eq!((world.nodes[1].incoming.len(), stats(&world, 1).pending), (1, 1));
    let held = world.nodes[1].incoming[0];
    let now = world.now;
    world.nodes[1].stack.reject(now, held);
    assert!(world.run_until(secs(1), |world| world.app(0, flow).closed.is_some()));
    assert_eq!(world.app(0, flow).closed, Some(CloseReason::Refused));
    assert_eq!((stats(&world, 1).pending, stats(&world, 1).flows, stats(&world, 1).buffer_bytes), (0, 0, 0));
}

#[test]
fn a_held_syn_is_accepted_late() {
    let mut world = World::simple();
    world.nodes[1].stack.listen(80);
    let flow = world.connect(80, App::idle());
    world.run(secs(5));
    let held = world.nodes[1].incoming[0];
    let now = world.now;
    world.nodes[1].stack.accept(now, held);
    assert!(world.run_until(secs(1), |world| world.app(0, flow).connected));
    assert!(
        world.run_until(secs(1), |world| world.nodes[1].events.contains(&Event::Connected { flow: held }))
    );
    assert_eq!(stats(&world, 1).pending, 0);
}

#[test]
fn a_held_syn_that_nobody_answers_expires() {
    let mut world = World::simple();
    world.nodes[1].stack.listen(80);
    let flow = world.connect(80, App::idle());
    assert!(world.run_until(secs(15), |world| world.app(0, flow).closed.is_some()));
    assert_eq!(world.app(0, flow).closed, Some(CloseReason::Refused));
    assert_eq!(stats(&world, 1).accept_expired, 1);
    let held = world.nodes[1].incoming[0];
    assert_eq!(world.nodes[1].closed[&held], CloseReason::TimedOut);
    let now = world.now;
    world.nodes[1].stack.accept(now, held);
    assert_eq!(stats(&world, 1).flows, 0);
}

#[test]
fn a_caller_that_gives_up_takes_its_syn_back() {
    let mut world = World::simple();
    world.serve(80, App::idle());
    let first = world.connect(80, App::idle());
    assert!(world.run_until(secs(1), |world| world.app(0, first).connected));
    let now = world.now;
    world.nodes[0].stack.abort(now, first);
    world.run(secs(1));
    assert_eq!(world.only(1).1.closed, Some(CloseReason::Reset));
    assert_eq!(stats(&world, 0).flows, 0);
    assert!(!world.nodes[0].closed.contains_key(&first), "no event after abort");
}

#[test]
fn a_reset_by_the_server() {
    let mut world = World::simple();
    world.serve(80, App::idle());
    let flow = world.connect(80, App::idle());
    assert!(world.run_until(secs(1), |world| world.app(0, flow).connected));
    world.run(secs(1));
    let (server, _) = world.only(1);
    let now = world.now;
    world.nodes[1].stack.abort(now, server);
    world.run(secs(1));
    assert_eq!(world.app(0, flow).closed, Some(CloseReason::Reset));
    assert_eq!(stats(&world, 1).buffer_bytes + stats(&world, 0).buffer_bytes, 0);
}

#[test]
fn unlisten_refuses_new_flows_and_keeps_old_ones() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    let old = world.connect(80, App::idle());
    assert!(world.run_until(secs(1), |world| world.app(0, old).connected));
    world.nodes[1].stack.unlisten(80);
    let new = world.connect(80, App::idle());
    world.run(secs(1));
    assert_eq!(world.app(0, new).closed, Some(CloseReason::Refused));
    world.app_mut(0, old).send.extend_from_slice(b"still here");
    world.pump(0, old);
    assert!(world.run_until(secs(1), |world| world.app(0, old).received == b"still here"));
}

#[test]
fn echo_requests_are_answered() {
    let mut raw = Raw::new(Limits::default());
    raw.send(&ip(v4(1), 1, &[8, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g']));
    let replies = raw.replies();
    assert_eq!(replies.len(), 1);
    assert_eq!((replies[0][9], &replies[0][12..16], replies[0][20]), (1, &[100, 64, 0, 2][..], 0));
    assert_eq!(&replies[0][24..], [0, 7, 0, 1, b'p', b'i', b'n', b'g']);
    raw.send(&ip(v6(1), 58, &[128, 0, 0, 0, 0, 7, 0, 1, b'p']));
    let replies = raw.replies();
    assert_eq!((replies[0][6], replies[0][40], replies[0][48]), (58, 129, b'p'));
    assert_eq!(raw.stack.stats().echo_replies, 2);
}

#[test]
fn udp_is_unreachable_and_that_is_limited() {
    let mut raw = Raw::new(Limits::default());
    let udp = [0x30, 0x39, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
    for destination in [v4(1), v6(1)] {
        raw.send(&ip(destination, 17, &udp));
    }
    let replies = raw.replies();
    assert_eq!((replies[0][9], &replies[0][20..22], &replies[0][48..60]), (1, &[3, 3][..], &udp[..]));
    assert_eq!((replies[1][6], &replies[1][40..42], &replies[1][88..100]), (58, &[1, 4][..], &udp[..]));
    for _ in 0..150 {
        raw.send(&ip(v4(1), 17, &udp));
    }
    assert_eq!((raw.stack.stats().unreachable_sent, raw.stack.stats().icmp_limited), (100, 52));
    raw.now = raw.now + secs(1);
    raw.send(&ip(v4(1), 17, &udp));
    assert_eq!(raw.stack.stats().unreachable_sent, 101);
}

#[test]
fn what_is_not_for_us_is_dropped_and_counted() {
    let mut raw = Raw::new(Limits::default());
    raw.send(&ip("100.64.0.9".parse().unwrap(), 1, &[8, 0, 0, 0, 0, 0, 0, 0]));
    raw.send(&ip(v4(1), 132, &[1, 2, 3]));
    let mut fragment = ip(v4(1), 6, &[0; 20]);
    fragment[6] = 0x20;
    raw.send(&fragment);
    raw.send(&ip(v4(1), 6, &[0; 19]));
    assert_eq!(raw.replies(), Vec::<Vec<u8>>::new());
    let stats = raw.stack.stats();
    assert_eq!((stats.not_ours, stats.unhandled, stats.fragment, stats.bad_packet), (1, 1, 1, 1));
}

#[test]
fn a_segment_of_no_flow_is_reset_and_a_reset_is_not() {
    let mut raw = Raw::new(Limits::default());
    let mut segment = [0; 20];
    segment[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    segment[8..12].copy_from_slice(&77_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x10;
    raw.send(&ip(v4(1), 6, &segment));
    let replies = raw.replies();
    assert_eq!((replies.len(), replies[0][33], &replies[0][24..28]), (1, 0x04, &77_u32.to_be_bytes()[..]));
    segment[13] = 0x04;
    raw.send(&ip(v4(1), 6, &segment));
    assert!(raw.replies().is_empty());
}

#[test]
fn icmp_unreachable_ends_an_open_but_not_a_flow() {
    let mut raw = Raw::new(Limits::default());
    let flow = raw.stack.connect(raw.now, SocketAddr::new(v4(0), 80)).unwrap();
    let syn = raw.replies().remove(0);
    let mut message = vec![3, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&syn[..28]);
    let mut other = message.clone();
    other[8 + 27] ^= 1; // another sequence number
    raw.send(&ip(v4(1), 1, &other));
    assert_eq!(raw.stack.poll_event(), None);
    raw.send(&ip(v4(1), 1, &message));
    assert_eq!(raw.stack.poll_event(), Some(Event::Closed { flow, reason: CloseReason::Unreachable }));
    assert_eq!(raw.stack.poll_event(), None);
}
