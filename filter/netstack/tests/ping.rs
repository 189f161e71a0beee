//! Echo requests of ours.
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

mod sim;

use std::net::IpAddr;
use std::time::Duration;

use nexodus_netstack::{ConnectError, Event, Limits};
use sim::raw::{Raw, ip};
use sim::{Link, Pair, World, secs, v4, v6};

const RTT: Duration = Duration::from_millis(10);

/// Sequence numbers and round trips of the answers.
fn pongs(world: &World, from: IpAddr) -> Vec<(u16, Duration)> {
    let pong = |event: &Event| match *event {
        Event::Pong { remote, ident, seq, round_trip } if remote == from => {
            assert_eq!(ident, 77);
            Some((seq, round_trip))
        }
        _ => None,
    };
    world.nodes[0].events.iter().filter_map(pong).collect()
}

fn ping(world: &mut World, to: IpAddr, seq: u16) {
    let now = world.now;
    world.nodes[0].stack.ping(now, to, 77, seq).unwrap();
}

#[test]
fn a_peer_answers_and_the_time_is_right() {
    for to in [v4(1), v6(1)] {
        let mut world = World::simple();
        for seq in 0..3 {
            ping(&mut world, to, seq);
            world.run(secs(1));
        }
        // The first one waited for the handshake.
        assert_eq!(pongs(&world, to), [(0, RTT * 2), (1, RTT), (2, RTT)]);
        let stats = world.nodes[0].stack.stats();
        assert_eq!((stats.pings_sent, stats.pongs_received, stats.unhandled), (3, 3, 0));
    }
}

#[test]
fn we_answer_ourselves() {
    let mut world = World::simple();
    ping(&mut world, v4(0), 1);
    ping(&mut world, v6(0), 1);
    world.run(secs(1));
    assert_eq!((pongs(&world, v4(0)), pongs(&world, v6(0))), (vec![(1, secs(0))], vec![(1, secs(0))]));
    assert_eq!(world.wire.sent, 0);
}

#[test]
fn a_lost_one_is_not_answered_and_none_twice() {
    let link = Link { loss: 2000, duplicate: 5000, ..Link::default() };
    let mut world = World::pair(&Pair { link, ..Pair::default() });
    for seq in 0..200 {
        ping(&mut world, v4(1), seq);
        world.run(secs(1));
    }
    let mut answered: Vec<u16> = pongs(&world, v4(1)).iter().map(|&(seq, _)| seq).collect();
    let count = answered.len();
    answered.dedup();
    assert_eq!(answered.len(), count);
    assert!((90..170).contains(&count), "{count}");
}

#[test]
fn unanswered_ones_are_bounded() {
    let mut world = World::simple();
    world.wire.dead = vec![sim::udp(1)];
    for seq in 0..256 {
        ping(&mut world, v4(1), seq);
    }
    let now = world.now;
    assert_eq!(world.nodes[0].stack.ping(now, v4(1), 77, 256), Err(ConnectError::TooManyFlows));
    world.run(secs(60));
    ping(&mut world, v4(1), 257);
}

#[test]
fn a_forgotten_one_makes_room_and_its_answer_is_none() {
    let mut world = World::simple();
    // Without a session, few would be kept.
    ping(&mut world, v4(1), 999);
    world.run(secs(1));
    for seq in 0..256 {
        ping(&mut world, v4(1), seq);
    }
    world.nodes[0].stack.forget_ping(v4(1), 77, 5);
    world.nodes[0].stack.forget_ping(v4(1), 78, 6);
    ping(&mut world, v4(1), 256);
    let now = world.now;
    assert_eq!(world.nodes[0].stack.ping(now, v4(1), 77, 257), Err(ConnectError::TooManyFlows));
    world.run(secs(1));
    let answered: Vec<u16> = pongs(&world, v4(1)).iter().skip(1).map(|&(seq, _)| seq).collect();
    assert_eq!((answered.len(), answered.contains(&5), answered.contains(&6)), (256, false, true));
}

#[test]
fn a_ping_that_cannot_be_sent_says_why() {
    let mut world = World::simple();
    let now = world.now;
    let stack = &mut world.nodes[0].stack;
    assert_eq!(stack.ping(now, "100.64.0.77".parse().unwrap(), 1, 1), Err(ConnectError::NoRoute));
    assert_eq!(stack.ping(now, "ff02::1".parse().unwrap(), 1, 1), Err(ConnectError::InvalidDestination));
}

#[test]
fn an_answer_to_nothing_is_no_event() {
    let mut raw = Raw::new(Limits::default());
    raw.stack.ping(raw.now, v4(0), 1, 2).unwrap();
    for reply in [[0, 0, 0, 0, 0, 1, 0, 3], [0, 0, 0, 0, 0, 2, 0, 2], [0, 1, 0, 0, 0, 1, 0, 2]] {
        raw.send(&ip(v4(1), 1, &reply));
    }
    assert_eq!((raw.stack.poll_event(), raw.stack.stats().unhandled), (None, 3));
    raw.send(&ip(v4(1), 1, &[0, 0, 0, 0, 0, 1, 0, 2]));
    assert!(matches!(raw.stack.poll_event(), Some(Event::Pong { seq: 2, .. })));
}
