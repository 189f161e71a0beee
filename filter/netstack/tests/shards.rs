//! One interface of several stacks: every peer belongs to one, and it does not matter where its datagrams arrive.
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

mod sim;

use std::net::SocketAddr;

use nexodus_netstack::{
    CloseReason, Config, ConfigError, Event, Handover, Limits, Netstack, PeerConfig, Shard, Stats,
};
use sim::raw::{Raw, ip};
use sim::{App, Link, START, World, config, pattern, peer, secs, v4, v6};

const COUNT: usize = 3;
const LEN: usize = 300_000;

fn shard(index: usize) -> Config {
    Config { shard: Shard { index, count: COUNT }, ..config(0, Limits::default(), 1, 1420) }
}

/// Peers `1..=peers` of interface 0, dealt to its stacks in turn.
fn dealt(peers: usize) -> Vec<PeerConfig> {
    (1..=peers).map(|node| PeerConfig { shard: (node - 1) % COUNT, ..peer(node) }).collect()
}

/// Interface 0 with its stacks, and its peers behind them, in order.
fn world(peers: usize, link: Link) -> World {
    let mut world = World::new(link, 7);
    for index in 0..COUNT {
        world.add(0, shard(index));
        world.nodes[index].stack.set_peers(START, dealt(peers)).unwrap();
    }
    for node in 1..=peers {
        world.add(node, config(node, Limits::default(), 1, 1420));
        let place = COUNT + node - 1;
        world.nodes[place].stack.set_peers(START, vec![peer(0)]).unwrap();
    }
    world
}

fn sum(world: &World, of: impl Fn(&Stats) -> u64) -> u64 {
    world.nodes[..COUNT].iter().map(|node| of(node.stack.stats())).sum()
}

/// Every peer has opened a flow to port 80 and one from there, and everything came back.
fn transfer(world: &mut World, peers: usize) {
    let data = pattern(LEN, 3);
    let mut flows = Vec::new();
    for node in &mut world.nodes {
        node.stack.listen(80);
        node.server = Some(App::echo());
    }
    for peer in 1..=peers {
        let (place, home) = (COUNT + peer - 1, (peer - 1) % COUNT);
        flows.push((place, world.connect_to(place, SocketAddr::new(v4(0), 80), App::sending(data.clone()))));
        flows.push((home, world.connect_to(home, SocketAddr::new(v6(peer), 80), App::sending(data.clone()))));
    }
    let is_done = |world: &World| {
        flows.iter().all(|&(node, flow)| world.app(node, flow).closed == Some(CloseReason::Done))
    };
    assert!(world.run_until(secs(60), is_done));
    assert!(flows.iter().all(|&(node, flow)| world.app(node, flow).received == data));
}

#[test]
fn each_stack_carries_the_tcp_of_its_peers() {
    let mut world = world(5, Link::default());
    transfer(&mut world, 5);
    // Two peers each, and one: a flow from each and one to each.
    let flows: Vec<_> = world.nodes[..COUNT]
        .iter()
        .map(|node| (node.stack.stats().flows_accepted, node.stack.stats().flows_connected))
        .collect();
    assert_eq!(flows, [(2, 2), (2, 2), (1, 1)]);
    // Whom an initiation is from shows only when it is read; everything else names its stack.
    let initiations = sum(&world, |stats| stats.handed_over);
    assert!(initiations <= 3 * 2, "{initiations}");
    assert_eq!(sum(&world, |stats| stats.unknown_peer + stats.handover_full + stats.queue_full), 0);
    let peers: Vec<_> = world.nodes[..COUNT].iter().map(|node| node.stack.peers().count()).collect();
    assert_eq!(peers, [2, 2, 1]);
}

#[test]
fn it_does_not_matter_where_datagrams_arrive() {
    let link = Link { loss: 100, reorder: 200, duplicate: 100, ..Link::default() };
    let mut world = world(4, link);
    world.steered = false;
    transfer(&mut world, 4);
    assert!(sum(&world, |stats| stats.handed_over) > 1000);
    assert_eq!(sum(&world, |stats| stats.unknown_peer + stats.handover_full + stats.queue_full), 0);
}

#[test]
fn the_first_stack_carries_all_datagrams() {
    let mut world = world(3, Link::default());
    for place in COUNT..COUNT + 3 {
        world.nodes[place].stack.udp_listen(53);
        world.nodes[place].udp_echo = true;
    }
    world.nodes[0].stack.udp_listen(53);
    world.nodes[0].udp_echo = true;
    let now = world.now;
    for to in [v4(1), v4(2), v6(3)] {
        let flow = world.nodes[0].stack.udp_connect(now, SocketAddr::new(to, 53)).unwrap();
        for len in [0, 1372, 65_507] {
            let payload = pattern(len, 9);
            let now = world.now;
            assert!(world.nodes[0].stack.udp_send(now, flow, &payload));
            assert!(world.run_until(secs(2), |world| !world.nodes[0].datagrams.is_empty()));
            assert_eq!(world.nodes[0].datagrams.remove(0), (flow, payload));
        }
    }
    for place in COUNT..COUNT + 3 {
        let now = world.now;
        let flow = world.nodes[place].stack.udp_connect(now, SocketAddr::new(v4(0), 53)).unwrap();
        let payload = pattern(9000, 5);
        assert!(world.nodes[place].stack.udp_send(now, flow, &payload));
        assert!(world.run_until(secs(2), |world| !world.nodes[place].datagrams.is_empty()));
        assert_eq!(world.nodes[place].datagrams.remove(0), (flow, payload));
    }
    assert_eq!(world.nodes[0].stack.stats().udp_flows_accepted, 3);
    assert_eq!(sum(&world, |stats| stats.udp_flows_accepted + stats.udp_flows_connected), 6);
    assert_eq!(
        sum(&world, |stats| stats.queue_full + stats.unroutable + stats.bad_source + stats.not_ours),
        0
    );
}

#[test]
fn a_closed_port_and_an_echo_are_answered_by_peers_of_every_stack() {
    let mut world = world(3, Link::default());
    for (seq, to) in (0..).zip([v4(1), v6(2), v4(3)]) {
        let now = world.now;
        let stack = &mut world.nodes[0].stack;
        stack.ping(now, to, 7, seq).unwrap();
        let flow = stack.udp_connect(now, SocketAddr::new(to, 9)).unwrap();
        assert!(stack.udp_send(now, flow, b"anybody?"));
        world.run(secs(1));
        let events = &world.nodes[0].events;
        let is_pong = |event: &Event| matches!(event, Event::Pong { remote, .. } if *remote == to);
        let is_end =
            |event: &Event| matches!(event, Event::UdpClosed { flow: closed, .. } if *closed == flow);
        assert!(events.iter().any(is_pong) && events.iter().any(is_end), "{to}: {events:?}");
    }
    // And those who ask us.
    for place in COUNT..COUNT + 3 {
        let now = world.now;
        world.nodes[place].stack.ping(now, v4(0), 8, 0).unwrap();
        world.run(secs(1));
        assert!(world.nodes[place].events.iter().any(|event| matches!(event, Event::Pong { .. })));
    }
    assert_eq!(sum(&world, |stats| stats.unhandled), 0);
}

#[test]
fn nobody_speaks_for_a_peer_of_another_stack() {
    let mut world = world(3, Link::default());
    // Peer 2, with the address of peer 1.
    let place = COUNT + 1;
    let forger = Config {
        addresses: config(1, Limits::default(), 1, 1420).addresses,
        ..config(2, Limits::default(), 1, 1420)
    };
    world.restart(place, forger, vec![peer(0)]);
    let now = world.now;
    world.nodes[place].stack.ping(now, v4(0), 1, 1).unwrap();
    let flow = world.nodes[place].stack.udp_connect(now, SocketAddr::new(v4(0), 53)).unwrap();
    assert!(world.nodes[place].stack.udp_send(now, flow, b"it is me"));
    world.nodes[0].stack.udp_listen(53);
    world.run(secs(2));
    assert_eq!(world.nodes[1].stack.stats().bad_source, 2);
    assert!(world.nodes[0].events.is_empty());
    // Handed over all the same, it would not be taken.
    let before = world.nodes[0].stack.stats().bad_source;
    let mut forged = ip(v4(0), 17, &[0, 1, 0, 53, 0, 8, 0, 0]);
    forged[12..16].copy_from_slice(&[100, 64, 0, 2]);
    let now = world.now;
    world.nodes[0].stack.handle_handover(now, 1, Handover::Received(forged.clone()));
    assert_eq!(world.nodes[0].stack.stats().bad_source, before + 1);
    // From the stack that has that peer, it would be.
    forged[15] = 3;
    world.nodes[0].stack.handle_handover(now, 1, Handover::Received(forged));
    assert_eq!(world.nodes[0].stack.stats().bad_source, before + 1);
    assert_eq!(world.nodes[0].stack.stats().udp_flows_accepted, 1);
}

#[test]
fn what_is_said_about_tcp_stays() {
    let mut raw =
        Raw::with(Config { shard: Shard { index: 1, count: 2 }, ..config(1, Limits::default(), 1, 1420) });
    let flow = raw.stack.connect(raw.now, SocketAddr::new(v4(0), 80)).unwrap();
    let syn = raw.replies().remove(0);
    let mut message = vec![3, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&syn[..28]);
    raw.send(&ip(v4(1), 1, &message));
    assert_eq!(raw.stack.poll_event(), Some(Event::Closed { flow, reason: CloseReason::Unreachable }));
    assert_eq!(raw.stack.poll_handover(), None);
    // Of a fragmented datagram, the whole is handed over.
    let mut piece = ip(v4(1), 17, &[0, 7, 0, 53, 0, 32, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    piece[6] = 0x20;
    raw.send(&piece);
    assert_eq!(raw.stack.poll_handover(), None);
    let mut piece = ip(v4(1), 17, &[8; 16]);
    piece[7] = 2;
    raw.send(&piece);
    let Some((0, Handover::Received(whole))) = raw.stack.poll_handover() else { unreachable!("handed over") };
    assert_eq!((whole.len(), &whole[28..36]), (52, &[1, 2, 3, 4, 5, 6, 7, 8][..]));
}

#[test]
fn a_peer_that_stays_keeps_its_session_and_one_that_goes_is_unknown_to_all() {
    let mut world = world(4, Link::default());
    transfer(&mut world, 4);
    let handshakes = sum(&world, |stats| stats.handshakes);
    let now = world.now;
    // The second stack's only peer goes.
    let left: Vec<_> = dealt(4).into_iter().filter(|peer| peer.shard != 1).collect();
    for index in 0..COUNT {
        world.nodes[index].stack.set_peers(now, left.clone()).unwrap();
    }
    for (node, answers) in [(1, true), (2, false), (3, true), (4, true)] {
        let now = world.now;
        let place = COUNT + node - 1;
        world.nodes[place].events.clear();
        world.nodes[place].stack.ping(now, v4(0), 1, 1).unwrap();
        world.run(secs(1));
        let answered = world.nodes[place].events.iter().any(|event| matches!(event, Event::Pong { .. }));
        assert_eq!(answered, answers, "peer {node}");
    }
    assert_eq!(sum(&world, |stats| stats.handshakes), handshakes);
    assert!(sum(&world, |stats| stats.unknown_peer) > 0);
}

#[test]
fn flows_to_an_address_that_moves_to_another_stack_end_at_once() {
    let mut world = world(2, Link::default());
    for place in COUNT..COUNT + 2 {
        world.serve_at(place, 80, App::echo());
    }
    let open = world.connect_to(0, SocketAddr::new(v4(1), 80), App::idle());
    let stays = world.connect_to(1, SocketAddr::new(v4(2), 80), App::idle());
    world.run(secs(1));
    world.wire.dead = vec![sim::udp(1)];
    let opening = world.connect_to(0, SocketAddr::new(v6(1), 80), App::idle());
    // Peer 2 has all addresses of peer 1.
    let mut peers = dealt(2);
    let addresses = peers.remove(0).allowed_ips;
    peers[0].allowed_ips.extend(addresses);
    let now = world.now;
    for index in 0..COUNT {
        world.nodes[index].stack.set_peers(now, peers.clone()).unwrap();
    }
    world.run(secs(1));
    assert_eq!(world.nodes[0].closed.get(&open), Some(&CloseReason::Reset));
    assert_eq!(world.nodes[0].closed.get(&opening), Some(&CloseReason::Unreachable));
    assert_eq!((world.nodes[1].closed.get(&stays), world.nodes[0].stack.stats().flows), (None, 0));
    // What one stack still believes to be another's is not handed back.
    let datagram = ip(v4(1), 17, &[0, 1, 0, 53, 0, 8, 0, 0]);
    let now = world.now;
    world.nodes[0].stack.handle_handover(now, 2, Handover::Send(datagram));
    assert_eq!((world.nodes[0].stack.poll_handover(), world.nodes[0].stack.stats().unroutable), (None, 1));
}

#[test]
fn a_stack_that_there_is_not_is_refused() {
    let of = |index, count| {
        let config = Config { shard: Shard { index, count }, ..shard(0) };
        Netstack::new(config, START).map(|_| ())
    };
    assert_eq!(of(2, 2), Err(ConfigError::NoShard { index: 2, count: 2 }));
    assert!(of(0, 1 << 17).is_err() && of(0, 1 << 16).is_ok());
    let mut stack = Netstack::new(shard(0), START).unwrap();
    let peers = vec![PeerConfig { shard: COUNT, ..peer(1) }];
    assert_eq!(stack.set_peers(START, peers), Err(ConfigError::NoShard { index: COUNT, count: COUNT }));
    let now = START + secs(1);
    stack.set_peers(now, dealt(2)).unwrap();
    assert!(stack.connect(now, SocketAddr::new(v4(2), 80)).is_err(), "its peer is another stack's");
}
