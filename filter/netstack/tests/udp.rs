//! UDP flows in both directions, through the tunnel and to ourselves.
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

mod sim;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nexodus_netstack::{ConnectError, Event, Limits, Stats, UdpCloseReason, UdpFlowId};
use sim::{Link, Pair, World, pattern, secs, v4, v6};

const MTU: usize = 1420;
/// Around every boundary: nothing, one fragment exactly in IPv4 and IPv6, one byte more, Ethernet, jumbo, the most.
const SIZES: [usize; 12] =
    [0, 1, MTU - 48, MTU - 47, MTU - 28, MTU - 27, 1472, 2772, 2773, 9000, 65_506, 65_507];

fn stats(world: &World, node: usize) -> &Stats {
    world.nodes[node].stack.stats()
}

/// Node 1 sends back what comes to port 53.
fn echo(pair: &Pair) -> World {
    let mut world = World::pair(pair);
    world.nodes[1].stack.udp_listen(53);
    world.nodes[1].udp_echo = true;
    world
}

fn open(world: &mut World, node: usize, to: IpAddr) -> UdpFlowId {
    let now = world.now;
    world.nodes[node].stack.udp_connect(now, SocketAddr::new(to, 53)).unwrap()
}

fn send(world: &mut World, node: usize, flow: UdpFlowId, payload: &[u8]) {
    let now = world.now;
    assert!(world.nodes[node].stack.udp_send(now, flow, payload));
}

/// Sends, and waits for the echo.
fn ask(world: &mut World, flow: UdpFlowId, payload: &[u8]) {
    send(world, 0, flow, payload);
    assert!(world.run_until(secs(1), |world| !world.nodes[0].datagrams.is_empty()));
    let (from, answer) = world.nodes[0].datagrams.remove(0);
    assert!(from == flow && answer == payload, "{} of {} bytes", answer.len(), payload.len());
}

fn closed(world: &World, node: usize, flow: UdpFlowId) -> Option<UdpCloseReason> {
    world.nodes[node].events.iter().find_map(|event| match event {
        Event::UdpClosed { flow: closed, reason } if *closed == flow => Some(*reason),
        _ => None,
    })
}

/// The remote ends of the flows that others opened on node 1.
fn callers(world: &World) -> Vec<SocketAddr> {
    let caller = |event: &Event| match event {
        Event::UdpIncoming { local, remote, .. } => {
            assert_eq!(local.port(), 53);
            Some(*remote)
        }
        _ => None,
    };
    world.nodes[1].events.iter().filter_map(caller).collect()
}

#[test]
fn datagrams_of_every_size_go_and_come_back() {
    for to in [v4(1), v6(1)] {
        let mut world = echo(&Pair::default());
        let flow = open(&mut world, 0, to);
        for (seed, size) in SIZES.into_iter().enumerate() {
            ask(&mut world, flow, &pattern(size, seed as u64));
        }
        assert_eq!(callers(&world).len(), 1);
        assert_eq!(callers(&world)[0].ip(), if to.is_ipv4() { v4(0) } else { v6(0) });
        assert!((32_768..=60_999).contains(&callers(&world)[0].port()));
        let [caller, called] = [stats(&world, 0), stats(&world, 1)];
        let larger = SIZES.iter().filter(|&&size| size > if to.is_ipv4() { MTU - 28 } else { MTU - 48 });
        assert_eq!(caller.reassembled, larger.count() as u64);
        assert_eq!(caller.fragments_received, called.fragments_sent);
        for stats in [caller, called] {
            assert_eq!((stats.udp_sent, stats.udp_received), (SIZES.len() as u64, SIZES.len() as u64));
            assert_eq!((stats.reassembly_bytes, stats.bad_checksum, stats.bad_packet), (0, 0, 0));
        }
        assert_eq!((caller.udp_flows_connected, called.udp_flows_accepted), (1, 1));
    }
}

#[test]
fn other_mtus() {
    for mtu in [1280, 1281, 1287, 9000, 65_475] {
        let mut world = echo(&Pair { mtu, ..Pair::default() });
        for to in [v4(1), v6(1)] {
            let flow = open(&mut world, 0, to);
            for size in [1232, 1233, 8972, 65_000, 65_507] {
                ask(&mut world, flow, &pattern(size, 7));
            }
        }
    }
}

#[test]
fn a_longer_datagram_is_not_taken() {
    let mut world = echo(&Pair::default());
    let flow = open(&mut world, 0, v6(1));
    let now = world.now;
    assert!(!world.nodes[0].stack.udp_send(now, flow, &[0; 65_508]));
    ask(&mut world, flow, b"still here");
}

/// What arrives is what was sent, however the way treats it; what does not arrive is the way's own loss.
#[test]
fn a_bad_way_loses_and_never_spoils() {
    let link = Link { loss: 100, duplicate: 200, reorder: 2000, ..Link::default() };
    for to in [v4(1), v6(1)] {
        let mut world = echo(&Pair { link, seed: 3, ..Pair::default() });
        let flow = open(&mut world, 0, to);
        let sent: Vec<Vec<u8>> =
            (0..300).map(|seed| pattern([3, 1472, 9000, 30_000][seed % 4], seed as u64)).collect();
        for payload in &sent {
            send(&mut world, 0, flow, payload);
            world.run(Duration::from_millis(10));
        }
        world.run(secs(40));
        let known: HashSet<&[u8]> = sent.iter().map(Vec::as_slice).collect();
        let received = &world.nodes[0].datagrams;
        assert!(received.iter().all(|(from, payload)| *from == flow && known.contains(payload.as_slice())));
        let different: HashSet<&[u8]> = received.iter().map(|(_, payload)| payload.as_slice()).collect();
        assert!((180..300).contains(&different.len()), "{}", different.len());
        for node in 0..2 {
            assert!(stats(&world, node).reassembly_timeout > 0);
            assert_eq!(
                (stats(&world, node).reassembly_bytes, stats(&world, node).reassembly_overlap),
                (0, 0)
            );
        }
    }
}

#[test]
fn flows_do_not_mix() {
    let mut world = echo(&Pair::default());
    let flows: Vec<UdpFlowId> = (0..20).map(|node| open(&mut world, 0, [v4(1), v6(1)][node % 2])).collect();
    for round in 0..3 {
        for (index, &flow) in flows.iter().enumerate() {
            send(&mut world, 0, flow, &pattern(3000 + index, round * 100 + index as u64));
        }
    }
    world.run(secs(1));
    for (index, flow) in flows.iter().enumerate() {
        let of_flow = world.nodes[0].datagrams.iter().filter(|(from, _)| from == flow);
        let expected = (0..3).map(|round| pattern(3000 + index, round * 100 + index as u64));
        assert!(of_flow.map(|(_, payload)| payload.clone()).eq(expected));
    }
    assert_eq!(callers(&world).iter().collect::<HashSet<_>>().len(), 20);
}

#[test]
fn both_ends_keep_a_flow_through_a_gap_of_55_seconds() {
    let mut world = echo(&Pair::default());
    let flow = open(&mut world, 0, v4(1));
    for _ in 0..4 {
        ask(&mut world, flow, b"again");
        world.run(secs(55));
    }
    assert_eq!((callers(&world).len(), closed(&world, 0, flow)), (1, None));
}

#[test]
fn both_ends_end_a_flow_in_a_gap_of_65_seconds() {
    let mut world = echo(&Pair::default());
    let flow = open(&mut world, 0, v4(1));
    ask(&mut world, flow, b"first");
    world.run(secs(65));
    assert_eq!(closed(&world, 0, flow), Some(UdpCloseReason::Idle));
    let served = world.nodes[1].udp_incoming[0];
    assert_eq!(closed(&world, 1, served), Some(UdpCloseReason::Idle));
    let now = world.now;
    assert!(!world.nodes[0].stack.udp_send(now, flow, b"late"));
    let flow = open(&mut world, 0, v4(1));
    ask(&mut world, flow, b"second");
    let [first, second] = callers(&world)[..] else { unreachable!("two flows") };
    assert_ne!(first.port(), second.port());
    for node in 0..2 {
        assert_eq!((stats(&world, node).udp_idle, stats(&world, node).udp_flows), (1, 1));
    }
}

/// The called side ends its flow alone when its limit is shorter; the next datagram from the same port is a new one.
#[test]
fn the_same_caller_after_a_gap_is_a_new_flow() {
    let short = Limits { udp_idle: secs(5), ..Limits::default() };
    let mut world = echo(&Pair { limits: [Limits::default(), short], ..Pair::default() });
    let flow = open(&mut world, 0, v6(1));
    ask(&mut world, flow, b"first");
    world.run(secs(6));
    ask(&mut world, flow, b"second");
    let [first, second] = callers(&world)[..] else { unreachable!("two flows") };
    assert_eq!(first, second);
    assert_ne!(world.nodes[1].udp_incoming[0], world.nodes[1].udp_incoming[1]);
}

#[test]
fn one_direction_is_activity_enough() {
    for quiet in 0..2 {
        let mut world = echo(&Pair::default());
        world.nodes[1].udp_echo = false;
        let flow = open(&mut world, 0, v4(1));
        send(&mut world, 0, flow, b"first");
        world.run(secs(1));
        let served = world.nodes[1].udp_incoming[0];
        for _ in 0..5 {
            world.run(secs(50));
            send(&mut world, 1 - quiet, [flow, served][1 - quiet], b"one way");
        }
        world.run(secs(1));
        assert_eq!((closed(&world, 0, flow), closed(&world, 1, served)), (None, None));
        assert_eq!(world.nodes[quiet].datagrams.len(), if quiet == 1 { 6 } else { 5 });
    }
}

/// A flow costs one look per idle time, and a stack without flows none.
#[test]
fn timers_are_quiet() {
    let mut world = echo(&Pair::default());
    let flow = open(&mut world, 0, v4(1));
    let wakes = |world: &mut World, time: Duration| {
        let end = world.now + time;
        (0..).take_while(|_| world.step(end)).count()
    };
    ask(&mut world, flow, b"x");
    wakes(&mut world, secs(600));
    assert_eq!((stats(&world, 0).udp_flows, stats(&world, 1).udp_flows), (0, 0));
    assert_eq!(wakes(&mut world, secs(3600)), 0);
}

#[test]
fn max_udp_flows() {
    let limits = Limits { max_udp_flows: 3, ..Limits::default() };
    let mut world = echo(&Pair { limits: [Limits::default(), limits], ..Pair::default() });
    let flows: Vec<UdpFlowId> = (0..5).map(|_| open(&mut world, 0, v4(1))).collect();
    for &flow in &flows {
        send(&mut world, 0, flow, b"x");
    }
    world.run(secs(1));
    let served = stats(&world, 1);
    assert_eq!((served.udp_flows, served.udp_too_many_flows, world.nodes[0].datagrams.len()), (3, 2, 3));
    assert_eq!(served.unreachable_sent, 0, "the port is not closed, there is only no room");
    let now = world.now;
    let stack = &mut world.nodes[1].stack;
    let to = SocketAddr::new(v4(0), 53);
    assert_eq!(stack.udp_connect(now, to), Err(ConnectError::TooManyFlows));
    assert_eq!(stack.stats().udp_too_many_flows, 3);
    let first = world.nodes[1].udp_incoming[0];
    let stack = &mut world.nodes[1].stack;
    stack.udp_release(now, first);
    assert!(stack.udp_connect(now, to).is_ok());
}

#[test]
fn a_port_without_listener_ends_the_flow_and_recovers() {
    for to in [v4(1), v6(1)] {
        for size in [10, 4000] {
            let mut world = World::simple();
            let flow = open(&mut world, 0, to);
            send(&mut world, 0, flow, &pattern(size, 1));
            assert!(world.run_until(secs(1), |world| closed(world, 0, flow).is_some()));
            assert_eq!(closed(&world, 0, flow), Some(UdpCloseReason::Unreachable));
            assert_eq!((stats(&world, 1).unreachable_sent, stats(&world, 0).udp_unreachable), (1, 1));
            assert_eq!(stats(&world, 0).udp_flows, 0);
            world.nodes[1].stack.udp_listen(53);
            world.nodes[1].udp_echo = true;
            let flow = open(&mut world, 0, to);
            ask(&mut world, flow, b"there you are");
        }
    }
}

/// The mirror image: we are called, and the caller has gone when we answer.
#[test]
fn a_caller_that_has_gone_ends_the_flow() {
    let mut world = echo(&Pair::default());
    world.nodes[1].udp_echo = false;
    let flow = open(&mut world, 0, v4(1));
    send(&mut world, 0, flow, b"x");
    world.run(secs(1));
    let now = world.now;
    world.nodes[0].stack.udp_release(now, flow);
    let served = world.nodes[1].udp_incoming[0];
    send(&mut world, 1, served, b"too late");
    world.run(secs(1));
    assert_eq!(closed(&world, 1, served), Some(UdpCloseReason::Unreachable));
    assert_eq!(closed(&world, 0, flow), None, "no event after release");
    assert_eq!((stats(&world, 0).udp_flows, stats(&world, 1).udp_flows), (0, 0));
}

#[test]
fn a_port_that_is_closed_keeps_its_flows() {
    let mut world = echo(&Pair::default());
    let old = open(&mut world, 0, v4(1));
    ask(&mut world, old, b"before");
    world.nodes[1].stack.udp_unlisten(53);
    ask(&mut world, old, b"after");
    let new = open(&mut world, 0, v4(1));
    send(&mut world, 0, new, b"refused");
    world.run(secs(1));
    assert_eq!((closed(&world, 0, old), closed(&world, 0, new)), (None, Some(UdpCloseReason::Unreachable)));
}

#[test]
fn our_own_address_loops_back() {
    for to in [v4(0), v6(0)] {
        let mut world = World::simple();
        world.nodes[0].stack.udp_listen(53);
        world.nodes[0].udp_echo = true;
        let flow = open(&mut world, 0, to);
        // More than waits inside at once.
        for size in SIZES.into_iter().chain([65_507; 50]) {
            send(&mut world, 0, flow, &pattern(size, 9));
        }
        world.run(secs(1));
        let sizes: Vec<usize> = world.nodes[0].datagrams.iter().map(|(_, payload)| payload.len()).collect();
        assert_eq!(sizes, SIZES.into_iter().chain([65_507; 50]).collect::<Vec<_>>());
        assert_eq!(world.wire.sent, 0);
    }
}

#[test]
fn udp_connect_says_why_not() {
    let mut world = World::simple();
    let now = world.now;
    let mut connect = |to: &str| world.nodes[0].stack.udp_connect(now, to.parse().unwrap());
    assert_eq!(connect("100.64.0.77:53"), Err(ConnectError::NoRoute));
    assert_eq!(connect("100.64.0.2:0"), Err(ConnectError::InvalidDestination));
    assert_eq!(connect("224.0.0.1:53"), Err(ConnectError::InvalidDestination));
}

/// A backlog of one protocol does not make the other wait until it is gone.
#[test]
fn udp_and_tcp_take_turns() {
    let mut world = World::simple();
    let third = sim::config(2, Limits::default(), 1, 1420);
    world.add(2, third);
    let now = world.now;
    world.nodes[0].stack.set_peers(now, vec![sim::peer(1), sim::peer(2)]).unwrap();
    world.nodes[2].stack.set_peers(now, vec![sim::peer(0)]).unwrap();
    world.nodes[1].stack.listen(80);
    world.nodes[1].server = Some(sim::App::sink());
    world.nodes[2].stack.udp_listen(53);
    let tcp = world.connect(80, sim::App::idle());
    let udp = open(&mut world, 0, v4(2));
    send(&mut world, 0, udp, b"handshake");
    world.run(secs(1));
    let now = world.now;
    let stack = &mut world.nodes[0].stack;
    let mut order = Vec::new();
    for _ in 0..100 {
        assert!(stack.udp_send(now, udp, &[1; 9000]));
    }
    stack.send(now, tcp, &pattern(10_000, 1));
    while let Some(transmit) = stack.poll_transmit(now, &mut Vec::new()) {
        order.push(transmit.destination);
    }
    let first = |node| order.iter().position(|&destination| destination == sim::udp(node)).unwrap();
    assert!(first(1) < 2 && first(2) < 2 && order.len() > 20, "{order:?}");
}

/// An answer and, right behind it, a message that the port is closed: both come in one system call.
#[test]
fn an_answer_before_unreachable_is_delivered() {
    let mut raw = sim::raw::Raw::new(Limits::default());
    raw.send(&[]);
    assert!(raw.replies().is_empty());
    let flow = raw.stack.udp_connect(raw.now, SocketAddr::new(v4(0), 53)).unwrap();
    raw.stack.udp_send(raw.now, flow, b"question");
    let question = raw.replies().remove(0);
    let mut answer = vec![question[22], question[23], question[20], question[21], 0, 14, 0, 0];
    answer.extend_from_slice(b"answer");
    raw.send(&sim::raw::ip(v4(1), 17, &answer));
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&question[..28]);
    raw.send(&sim::raw::ip(v4(1), 1, &message));
    raw.stack.handle_timeout(raw.now);
    assert_eq!(raw.stack.poll_event(), None, "there is something to read first");
    let mut payload = Vec::new();
    assert_eq!(raw.stack.poll_datagram(&mut payload), Some(flow));
    assert_eq!(payload, b"answer");
    assert!(matches!(raw.stack.poll_event(), Some(Event::UdpClosed { .. })));
}
