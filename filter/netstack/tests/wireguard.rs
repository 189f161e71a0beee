//! WireGuard: handshakes, keys, roaming, keepalives, and what is not let in.
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

mod sim;

use nexodus_netstack::{CloseReason, Limits};
use sim::{App, Link, Pair, World, config, pattern, peer, public_key, secs, udp, v4};
use std::net::SocketAddr;
use std::time::Duration;

fn echo(world: &mut World, seed: u64) -> bool {
    let data = pattern(20_000, seed);
    let flow = world.connect(80, App::sending(data.clone()));
    let done = world.run_until(secs(60), |world| world.app(0, flow).is_done());
    done && world.app(0, flow).received == data
}

#[test]
fn a_preshared_key_that_both_have() {
    let psk = Some([7; 32]);
    let mut world = World::pair(&Pair { psk: [psk; 2], ..Pair::default() });
    world.serve(80, App::echo());
    assert!(echo(&mut world, 1));
}

#[test]
fn a_preshared_key_that_differs() {
    let mut world = World::pair(&Pair { psk: [Some([7; 32]), Some([8; 32])], ..Pair::default() });
    world.serve(80, App::echo());
    let flow = world.connect(80, App::idle());
    assert!(world.run_until(secs(60), |world| world.app(0, flow).closed.is_some()));
    assert_eq!(world.app(0, flow).closed, Some(CloseReason::TimedOut));
    assert!(world.nodes[0].stack.stats().decrypt_failed > 0);
    assert!(world.nodes[1].events.is_empty());
}

#[test]
fn a_lost_handshake_is_repeated() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    world.wire.dead = vec![udp(0)];
    let flow = world.connect(80, App::sending(b"x".to_vec()));
    world.run(secs(4));
    world.wire.dead.clear();
    assert!(world.run_until(secs(10), |world| world.app(0, flow).is_done()));
    assert!(world.nodes[0].stack.stats().handshakes_initiated >= 2);
}

/// wireguard-go that takes an initiation and a response at once may mix the two up, and then opens nothing that is sent to it.
#[test]
fn an_initiation_and_a_response_never_leave_together() {
    for delay in [0, 100, 5_000, 50_000] {
        for later in [0, 50, 100, 101, 3_000, 5_000, 5_001, 12_000, 20_000, 50_000, 50_001] {
            let link = Link { delay: Duration::from_micros(delay), ..Link::default() };
            let mut world = World::pair(&Pair { link, ..Pair::default() });
            world.serve_at(0, 80, App::echo());
            world.serve_at(1, 80, App::echo());
            let there = world.connect(80, App::sending(pattern(20_000, 1)));
            world.run(Duration::from_micros(later));
            let back = world.connect_to(1, SocketAddr::new(v4(0), 80), App::sending(pattern(20_000, 2)));
            let both = |world: &World| world.app(0, there).is_done() && world.app(1, back).is_done();
            assert!(world.run_until(secs(2), both), "{delay} us, {later} us later");
            for node in 0..2 {
                let sent: Vec<_> =
                    world.wire.handshakes.iter().filter(|&&(_, from, _)| from == udp(node)).collect();
                for pair in sent.windows(2) {
                    let apart = pair[1].0 - pair[0].0;
                    assert!(
                        pair[0].2 == pair[1].2 || apart >= Duration::from_millis(20),
                        "{delay} us, {later} us later: node {node}: {sent:?}"
                    );
                }
            }
            if delay > later {
                let held: u64 = world.nodes.iter().map(|node| node.stack.stats().handshakes_held).sum();
                assert!(
                    held > 0 || delay - later >= 20_000 || later >= 20_000,
                    "{delay} us, {later} us later"
                );
            }
        }
    }
}

/// The peer never saw our initiation: the response that waits because of it has to leave all the same.
#[test]
fn a_response_that_is_held_back_is_enough_for_a_session() {
    let mut world = World::simple();
    world.serve_at(0, 80, App::echo());
    world.serve(80, App::echo());
    // Node 0's initiation is lost, node 1's crosses it.
    world.wire.dead = vec![udp(0)];
    let there = world.connect(80, App::sending(pattern(20_000, 1)));
    let back = world.connect_to(1, SocketAddr::new(v4(0), 80), App::sending(pattern(20_000, 2)));
    world.run(Duration::from_millis(1));
    world.wire.dead.clear();
    let both = |world: &World| world.app(0, there).is_done() && world.app(1, back).is_done();
    assert!(world.run_until(secs(2), both));
    assert_eq!(world.nodes[0].stack.stats().handshakes_held, 1);
}

#[test]
fn a_reset_after_the_session_has_expired_arrives() {
    // With keepalives there would be a session.
    let limits = Limits { keepalive: secs(36_000), ..Limits::default() };
    let mut world = World::pair(&Pair { limits: [limits; 2], ..Pair::default() });
    world.serve(80, App::idle());
    let flow = world.connect(80, App::idle());
    assert!(world.run_until(secs(5), |world| world.app(0, flow).connected));
    world.run(secs(600));
    let now = world.now;
    world.nodes[0].stack.abort(now, flow);
    assert!(world.run_until(secs(5), |world| world.only(1).1.closed.is_some()));
    assert_eq!(world.only(1).1.closed, Some(CloseReason::Reset));
    assert_eq!(world.nodes[0].stack.stats().unroutable, 0);
}

#[test]
fn nobody_answers() {
    let mut world = World::simple();
    world.wire.dead = vec![udp(0)];
    let flow = world.connect(80, App::idle());
    assert!(world.run_until(secs(60), |world| world.app(0, flow).closed.is_some()));
    assert_eq!(world.app(0, flow).closed, Some(CloseReason::TimedOut));
    // The handshake is given up and the stack sleeps.
    world.run(secs(200));
    assert_eq!(world.nodes[0].stack.stats().handshakes_expired, 1);
    assert_eq!(world.nodes[0].stack.poll_timeout(), None);
    let sent = world.wire.sent;
    world.run(secs(3600));
    assert_eq!(world.wire.sent, sent);
    // And it wakes up: boringtun alone would stay expired.
    world.wire.dead.clear();
    world.serve(80, App::echo());
    assert!(echo(&mut world, 1));
}

#[test]
fn keys_are_renewed_during_a_transfer() {
    let link = Link { rate: 20_000, ..Link::default() };
    let mut world = World::pair(&Pair { link, ..Pair::default() });
    world.serve(80, App::sink());
    let data = pattern(6 << 20, 1);
    let flow = world.connect(80, App::sending(data.clone()));
    assert!(world.run_until(secs(2000), |world| world.app(0, flow).is_done()));
    assert!(world.now - sim::START > secs(300), "{:?}", world.now - sim::START);
    assert!(world.only(1).1.received == data);
    assert!(world.nodes[0].stack.stats().handshakes >= 3);
    assert_eq!(world.nodes[1].stack.stats().decrypt_failed, 0);
}

#[test]
fn an_idle_session_sleeps_and_wakes() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    assert!(echo(&mut world, 1));
    world.run(secs(30));
    let sent = world.wire.sent;
    world.run(secs(600));
    // At most one renewal and one sign of life each way, then silence.
    assert!(world.wire.sent - sent < 8, "{}", world.wire.sent - sent);
    assert_eq!(world.nodes[0].stack.poll_timeout(), None, "nothing to do, nothing to wake for");
    assert!(echo(&mut world, 2));
}

#[test]
fn an_established_flow_survives_a_long_silence() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    let flow = world.connect(80, App { send: b"one".to_vec(), ..App::default() });
    world.run(secs(1200));
    assert_eq!(world.app(0, flow).closed, None);
    world.app_mut(0, flow).send.extend_from_slice(b"two");
    world.pump(0, flow);
    assert!(world.run_until(secs(30), |world| world.app(0, flow).received == b"onetwo"));
}

#[test]
fn a_vanished_peer_does_not_hold_a_flow_for_ever() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    let flow = world.connect(80, App::idle());
    assert!(world.run_until(secs(5), |world| world.app(0, flow).connected));
    world.wire.dead = vec![udp(1)];
    assert!(world.run_until(secs(400), |world| world.app(0, flow).closed.is_some()));
    assert_eq!(world.app(0, flow).closed, Some(CloseReason::TimedOut));
    assert!(world.now - sim::START < secs(300));
}

#[test]
fn a_restarted_peer_is_found_again() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    let old = world.connect(80, App::idle());
    assert!(echo(&mut world, 1));
    world.run(secs(10));
    world.restart(1, config(1, Limits::default(), 99, 1420), vec![peer(0)]);
    world.serve(80, App::echo());
    // Within seconds: the survivor notices that nobody answers and shakes hands anew.
    assert!(echo(&mut world, 2));
    // The old flow is unknown there: the next segment is answered with RST.
    world.app_mut(0, old).send.extend_from_slice(b"still there?");
    world.pump(0, old);
    assert!(world.run_until(secs(30), |world| world.app(0, old).closed.is_some()));
    assert_eq!(world.app(0, old).closed, Some(CloseReason::Reset));
}

/// Without that, what the other end says goes to sessions that are gone, for 15 s.
#[test]
fn a_restarted_peer_that_introduces_itself_is_found_at_once() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    assert!(echo(&mut world, 1));
    world.run(secs(5));
    world.restart(1, config(1, Limits::default(), 99, 1420), vec![peer(0)]);
    world.serve(80, App::echo());
    let now = world.now;
    world.nodes[1].stack.introduce(now);
    world.run(Duration::from_millis(100));
    let flow = world.connect(80, App::sending(b"x".to_vec()));
    assert!(world.run_until(secs(1), |world| world.app(0, flow).is_done()));
}

#[test]
fn a_peer_that_came_after_the_introduction_is_called_again_when_it_is_needed() {
    for later in [20, 1_000, 4_000] {
        let mut world = World::simple();
        world.serve(80, App::echo());
        world.wire.dead = vec![udp(1)];
        let now = world.now;
        world.nodes[0].stack.introduce(now);
        world.run(Duration::from_millis(later));
        world.wire.dead.clear();
        let flow = world.connect(80, App::sending(b"x".to_vec()));
        let done = world.run_until(secs(1), |world| world.app(0, flow).is_done());
        assert!(done, "{later} ms later");
        // And no more than that.
        assert!(world.nodes[0].stack.stats().handshakes_initiated <= 2);
    }
}

#[test]
fn a_restarted_peer_can_call_first() {
    let mut world = World::simple();
    world.nodes[0].stack.listen(80);
    world.nodes[0].server = Some(App::echo());
    let from_one = |world: &mut World| {
        let flow = world.connect_to(1, SocketAddr::new(v4(0), 80), App::sending(b"x".to_vec()));
        world.run_until(secs(30), |world| world.app(1, flow).is_done())
    };
    assert!(from_one(&mut world));
    world.run(secs(20));
    world.restart(1, config(1, Limits::default(), 99, 1420), vec![peer(0)]);
    assert!(from_one(&mut world));
}

#[test]
fn roaming_during_a_transfer() {
    let link = Link { rate: 1_000_000, ..Link::default() };
    let mut world = World::pair(&Pair { link, ..Pair::default() });
    world.serve(80, App::sending(pattern(2 << 20, 2)));
    let flow = world.connect(80, App::sending(pattern(2 << 20, 1)));
    world.run(secs(1));
    let there: SocketAddr = "203.0.113.9:4242".parse().unwrap();
    world.nodes[0].address = there;
    assert!(world.run_until(secs(60), |world| world.app(0, flow).is_done()));
    assert!(world.only(1).1.received == pattern(2 << 20, 1));
    assert_eq!(world.nodes[1].stack.peers().next().unwrap().endpoint, Some(there));
    // The same configuration again does not take the endpoint back.
    let now = world.now;
    world.nodes[1].stack.set_peers(now, vec![peer(0)]).unwrap();
    assert_eq!(world.nodes[1].stack.peers().next().unwrap().endpoint, Some(there));
}

#[test]
fn an_unauthenticated_datagram_moves_nobody() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    assert!(echo(&mut world, 1));
    let now = world.now;
    let stranger: SocketAddr = "203.0.113.66:1".parse().unwrap();
    // A data message for the right session, and a cookie reply: neither is authenticated.
    let mut forged = vec![4, 0, 0, 0, 1, 0, 0, 0];
    forged.resize(96, 0x55);
    world.nodes[1].stack.handle_datagram(now, stranger, &forged);
    let mut cookie = vec![3, 0, 0, 0, 1, 0, 0, 0];
    cookie.resize(64, 0x55);
    world.nodes[1].stack.handle_datagram(now, stranger, &cookie);
    assert_eq!(world.nodes[1].stack.peers().next().unwrap().endpoint, Some(udp(0)));
    assert!(echo(&mut world, 2));
}

#[test]
fn persistent_keepalive_needs_no_traffic() {
    let mut world = World::pair(&Pair { keepalive: [Some(25), None], one_way: true, ..Pair::default() });
    world.run(secs(1));
    // Node 1 learned where node 0 is, and can call it.
    assert_eq!(world.nodes[1].stack.peers().next().unwrap().endpoint, Some(udp(0)));
    assert_eq!(world.nodes[0].stack.stats().handshakes, 1);
    let sent = world.wire.sent;
    world.run(secs(100));
    let keepalives = world.wire.sent - sent;
    assert!((4..=6).contains(&keepalives), "{keepalives}");
    // A long outage: it goes on trying, and recovers by itself.
    world.wire.dead = vec![udp(0)];
    world.run(secs(1000));
    world.wire.dead.clear();
    let rx = world.nodes[1].stack.peers().next().unwrap().rx_bytes;
    world.run(secs(60));
    assert!(world.nodes[1].stack.peers().next().unwrap().rx_bytes > rx);
    world.nodes[0].stack.listen(80);
    let flow = world.connect_to(1, SocketAddr::new(v4(0), 80), App::idle());
    world.nodes[0].server = Some(App::echo());
    assert!(world.run_until(secs(5), |world| world.app(1, flow).connected));
}

#[test]
fn an_unknown_peer_is_dropped_and_counted() {
    let mut world = World::simple();
    world.add(2, config(2, Limits::default(), 1, 1420));
    let mut one = peer(1);
    one.allowed_ips = vec!["100.64.0.2/32".parse().unwrap()];
    let now = world.now;
    world.nodes[2].stack.set_peers(now, vec![one]).unwrap();
    let flow = world.connect_to(2, SocketAddr::new(v4(1), 80), App::idle());
    assert!(world.run_until(secs(60), |world| world.app(2, flow).closed.is_some()));
    assert!(world.nodes[1].stack.stats().unknown_peer >= 4);
    assert_eq!(world.nodes[1].stack.stats().handshakes, 0);
}

#[test]
fn a_source_address_that_is_not_the_peers_is_dropped_and_counted() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    // Node 1 believes that node 0 is somebody else.
    let mut zero = peer(0);
    zero.allowed_ips = vec!["100.64.9.9/32".parse().unwrap()];
    let now = world.now;
    world.nodes[1].stack.set_peers(now, vec![zero]).unwrap();
    let flow = world.connect(80, App::idle());
    world.run(secs(10));
    assert!(world.nodes[1].stack.stats().bad_source >= 3);
    assert!(world.nodes[1].events.is_empty());
    // The right allowed IPs arrive: the session is kept and the SYN's repetition gets through.
    let handshakes = world.nodes[1].stack.stats().handshakes;
    let now = world.now;
    world.nodes[1].stack.set_peers(now, vec![peer(0)]).unwrap();
    assert!(world.run_until(secs(10), |world| world.app(0, flow).connected));
    assert_eq!(world.nodes[1].stack.stats().handshakes, handshakes);
}

#[test]
fn a_peer_that_is_taken_away_and_given_back() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    let flow = world.connect(80, App::idle());
    // At both ends: the second one would give up while there is no way to it.
    assert!(world.run_until(secs(5), |world| world.nodes[1].apps.values().any(|app| app.connected)));
    let now = world.now;
    world.nodes[0].stack.set_peers(now, Vec::new()).unwrap();
    assert_eq!(world.nodes[0].stack.peers().count(), 0);
    let refused = world.nodes[0].stack.connect(now, SocketAddr::new(v4(1), 80));
    assert_eq!(refused, Err(nexodus_netstack::ConnectError::NoRoute));
    world.app_mut(0, flow).send.extend_from_slice(b"hello");
    world.pump(0, flow);
    world.run(secs(20));
    let now = world.now;
    world.nodes[0].stack.set_peers(now, vec![peer(1)]).unwrap();
    assert!(world.run_until(secs(30), |world| world.app(0, flow).received == b"hello"));
}

/// With bytes that wait for a way out, or without.
#[test]
fn a_peer_that_is_taken_away_for_good() {
    for waiting in [&b""[..], b"hello"] {
        let mut world = World::simple();
        world.serve(80, App::echo());
        let flow = world.connect(80, App::idle());
        assert!(world.run_until(secs(5), |world| world.app(0, flow).connected));
        let now = world.now;
        world.nodes[0].stack.set_peers(now, Vec::new()).unwrap();
        world.app_mut(0, flow).send.extend_from_slice(waiting);
        world.pump(0, flow);
        // A keepalive that cannot leave is not answered either: 60 s, and 200 s.
        world.run(secs(255));
        assert_eq!(world.app(0, flow).closed, None);
        assert!(world.run_until(secs(15), |world| world.app(0, flow).closed.is_some()));
        assert_eq!(world.app(0, flow).closed, Some(CloseReason::TimedOut));
    }
}

#[test]
fn many_handshakes_at_once_ask_for_cookies() {
    let mut world = World::simple();
    // The same valid initiation again and again: beyond 100 in a second, MAC 2 is asked for.
    let mut buffer = Vec::new();
    let now = world.now;
    let _ = world.nodes[0].stack.connect(now, SocketAddr::new(v4(1), 80)).unwrap();
    assert!(world.nodes[0].stack.poll_transmit(now, &mut buffer).is_some());
    assert_eq!(buffer.len(), 148);
    for _ in 0..150 {
        world.nodes[1].stack.handle_datagram(now, udp(0), &buffer);
    }
    assert_eq!(world.nodes[1].stack.stats().cookies_sent, 50);
    assert_eq!(world.nodes[1].stack.stats().replayed, 99);
    world.run(secs(10));
    world.serve(80, App::echo());
    assert!(echo(&mut world, 1));
}

#[test]
fn peer_lists_that_contradict_themselves_change_nothing() {
    use nexodus_netstack::ConfigError;
    let mut world = World::simple();
    let now = world.now;
    let stack = &mut world.nodes[0].stack;
    assert_eq!(stack.set_peers(now, vec![peer(2), peer(2)]), Err(ConfigError::DuplicatePeer(1)));
    assert_eq!(stack.set_peers(now, vec![peer(0)]), Err(ConfigError::OwnKey(0)));
    assert_eq!(stack.peers().next().unwrap().public_key, public_key(1));
}

/// Node 1 waits for node 0, whose address it does not know; node 0 calls, and its confirmation is lost.
#[test]
fn a_lost_confirmation_does_not_hold_up_a_flow() {
    let mut world = World::pair(&Pair { one_way: true, ..Pair::default() });
    world.serve_at(0, 80, App::echo());
    let flow = world.connect_to(1, SocketAddr::new(v4(0), 80), App::sending(b"x".to_vec()));
    world.run(Duration::from_millis(100));
    let mut calling = peer(1);
    calling.persistent_keepalive = Some(25);
    let now = world.now;
    world.nodes[0].stack.set_peers(now, vec![calling]).unwrap();
    // The initiation arrives after 5 ms, the response after 10.
    world.run(Duration::from_millis(7));
    world.wire.dead = vec![udp(0)];
    world.run(Duration::from_millis(10));
    world.wire.dead.clear();
    let start = world.now;
    assert!(world.run_until(secs(60), |world| world.app(1, flow).is_done()));
    assert!(world.now - start < secs(7));
}

/// Both call at once. Node 0's initiation and the confirmation of node 1 are lost; node 1 has nothing to say.
#[test]
fn a_crossing_with_losses_does_not_hold_up_a_flow() {
    let mut world = World::simple();
    world.serve(80, App::echo());
    world.wire.dead = vec![udp(0)];
    let flow = world.connect(80, App::sending(b"x".to_vec()));
    world.run(Duration::from_millis(1));
    world.wire.dead.clear();
    // One that asks for nothing but a session.
    let now = world.now;
    let mut calling = peer(0);
    calling.persistent_keepalive = Some(25);
    world.nodes[1].stack.set_peers(now, vec![calling]).unwrap();
    // Response: held for 20 ms, arrives before 30.
    world.run(Duration::from_millis(15));
    world.wire.dead = vec![udp(1)];
    world.run(Duration::from_millis(30));
    world.wire.dead.clear();
    let start = world.now;
    assert!(world.run_until(secs(60), |world| world.app(0, flow).is_done()));
    assert!(world.now - start < secs(7));
}
