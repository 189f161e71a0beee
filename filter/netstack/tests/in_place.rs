//! Packets that are sealed from, and opened into, the buffers of their streams: bytes that are wanted lie around them.
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

mod sim;

use nexodus_netstack::{FlowId, Limits};
use sim::{App, Link, Pair, Random, World, config, pattern, peer, v4, v6};
use std::net::SocketAddr;
use std::time::Duration;

/// Bytes of each stream.
const LEN: usize = 2 << 20;

/// Streams from node 0 to node 1, whose receivers stop reading now and then; every byte has to arrive as it was sent.
fn carry(mut world: World, seed: u64, streams: u64) -> World {
    let mut random = Random::new(seed);
    world.serve(80, App { finish: false, ..App::default() });
    for n in 0..streams {
        let address = if n % 2 == 0 { v4(1) } else { v6(1) };
        world.connect_to(0, SocketAddr::new(address, 80), App { send: pattern(LEN, n), ..App::default() });
    }
    let received = |world: &World| world.nodes[1].apps.values().map(|app| app.received.len()).sum::<usize>();
    let all = LEN * usize::try_from(streams).unwrap();
    for turn in 0.. {
        assert!(turn < 100_000, "{} of {all}", received(&world));
        if received(&world) == all {
            break;
        }
        world.run(Duration::from_micros(random.below(3000)));
        let flows: Vec<FlowId> = world.nodes[1].apps.keys().copied().collect();
        for flow in flows {
            let app = world.app_mut(1, flow);
            app.deaf = !app.deaf && random.chance(1, 2);
            world.pump(1, flow);
        }
    }
    for app in world.nodes[1].apps.values() {
        let whose = (0..streams).find(|&n| app.received[..32] == pattern(32, n));
        assert!(app.received == pattern(LEN, whose.unwrap()));
    }
    world
}

#[test]
fn a_stream_is_sealed_and_opened_in_place() {
    let world = carry(World::simple(), 1, 1);
    let [sender, receiver] = [0, 1].map(|node| *world.nodes[node].stack.stats());
    let segments = u64::try_from(LEN / 1368).unwrap();
    // Not those that lie across two chunks or pages: one of twelve each.
    assert!(sender.tx_in_place * 100 > segments * 88, "{} of {segments}", sender.tx_in_place);
    assert!(receiver.rx_in_place * 100 > segments * 80, "{} of {segments}", receiver.rx_in_place);
}

#[test]
fn what_comes_in_between_leaves_the_streams_as_they_are() {
    for seed in 1..12 {
        let link = Link { loss: 20, reorder: 50, duplicate: 50, corrupt: 200, ..Link::default() };
        // Segments that need padding, too.
        let mtu = [1420, 1401, 1280].into_iter().cycle().nth(seed.try_into().unwrap()).unwrap();
        let world = World::pair(&Pair { link, seed, mtu, ..Pair::default() });
        let world = carry(world, seed, seed % 4 + 1);
        let stats = world.nodes[1].stack.stats();
        assert!(stats.rx_in_place > 100 && stats.decrypt_failed > 10, "{stats:?}");
    }
}

/// A peer pads by its own MTU: to 1424 bytes, what ours would leave at 1420.
#[test]
fn a_peer_with_a_larger_mtu_is_no_exception() {
    let mut world = World::new(Link::default(), 1);
    for (node, mtu) in [1500, 1420].into_iter().enumerate() {
        world.add(node, config(node, Limits::default(), 1, mtu));
        let now = world.now;
        world.nodes[node].stack.set_peers(now, vec![peer(1 - node)]).unwrap();
    }
    let world = carry(world, 1, 1);
    assert!(world.nodes[1].stack.stats().rx_in_place > 1000);
}
