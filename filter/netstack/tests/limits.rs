//! Every bound is reached once, and what is refused is counted.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failure is a failed test")]

mod sim;

use nexodus_netstack::{CloseReason, ConnectError, Event, Limits, Netstack, Stats};
use sim::raw::{Raw, ip};
use sim::{App, Pair, World, pattern, secs, v4};
use std::net::SocketAddr;
use std::time::Duration;

fn stats(world: &World, node: usize) -> &Stats {
    world.nodes[node].stack.stats()
}

fn limited(limits: Limits) -> World {
    World::pair(&Pair { limits: [Limits::default(), limits], ..Pair::default() })
}

#[test]
fn max_pending() {
    let mut world = limited(Limits { max_pending: 3, ..Limits::default() });
    world.nodes[1].stack.listen(80);
    let flows: Vec<_> = (0..5).map(|_| world.connect(80, App::idle())).collect();
    world.run(secs(2));
    assert_eq!((world.nodes[1].incoming.len(), stats(&world, 1).pending), (3, 3));
    assert!(stats(&world, 1).pending_full >= 2);
    // The others were not refused: they get in when there is room.
    world.nodes[1].server = Some(App::idle());
    let now = world.now;
    for held in std::mem::take(&mut world.nodes[1].incoming) {
        world.nodes[1].stack.accept(now, held);
    }
    assert!(world.run_until(secs(10), |world| flows.iter().all(|&flow| world.app(0, flow).connected)));
}

#[test]
fn max_flows() {
    let mut world = limited(Limits { max_flows: 2, ..Limits::default() });
    world.serve(80, App::idle());
    let flows: Vec<_> = (0..3).map(|_| world.connect(80, App::idle())).collect();
    world.run(secs(2));
    let refused =
        flows.iter().filter(|&&flow| world.app(0, flow).closed == Some(CloseReason::Refused)).count();
    assert_eq!((refused, stats(&world, 1).too_many_flows, stats(&world, 1).flows), (1, 1, 2));
    let now = world.now;
    let refused = world.nodes[1].stack.connect(now, SocketAddr::new(v4(0), 80));
    assert_eq!(refused, Err(ConnectError::TooManyFlows));
}

/// An idle flow counts 1 KiB.
#[test]
fn buffer_bytes_bound_the_number_of_flows() {
    let mut world = limited(Limits { buffer_bytes: 10 << 10, ..Limits::default() });
    world.serve(80, App::idle());
    let mut flows = Vec::new();
    for _ in 0..12 {
        flows.push(world.connect(80, App::idle()));
        world.run(secs(1));
    }
    let refused =
        flows.iter().filter(|&&flow| world.app(0, flow).closed == Some(CloseReason::Refused)).count();
    assert_eq!((refused, stats(&world, 1).budget_refused, stats(&world, 1).buffer_bytes), (2, 2, 10 << 10));
    let now = world.now;
    let refused = world.nodes[1].stack.connect(now, SocketAddr::new(v4(0), 80));
    assert_eq!(refused, Err(ConnectError::NoBuffers));
}

#[test]
fn the_default_budget_carries_all_flows_while_they_are_idle() {
    let limits = Limits::default();
    assert!(limits.max_flows * 1024 < limits.buffer_bytes / 4);
}

/// Many flows whose readers do not read: windows close early, what was promised is dropped, nothing is lost in the end.
#[test]
fn buffer_bytes_bound_what_waits_for_readers() {
    let budget = 4 << 20;
    let mut world = limited(Limits { buffer_bytes: budget, ..Limits::default() });
    world.serve(80, App { deaf: true, ..App::sink() });
    let size = 200_000;
    let flows: Vec<_> = (0..50).map(|n| world.connect(80, App::sending(pattern(size, n)))).collect();
    // 10 MB for 4 MiB, and nobody reads.
    for _ in 0..60 {
        world.run(secs(1));
        let held = stats(&world, 1).buffer_bytes;
        assert!(held <= budget + 50 * (64 << 10), "{held}");
    }
    assert!(stats(&world, 1).buffer_bytes > budget / 2);
    assert!(stats(&world, 1).budget_dropped > 0);
    let servers: Vec<_> = world.nodes[1].apps.keys().copied().collect();
    for server in servers {
        world.app_mut(1, server).deaf = false;
        world.pump(1, server);
    }
    assert!(world.run_until(secs(900), |world| flows.iter().all(|&flow| world.app(0, flow).is_done())));
    let mut received: Vec<_> = world.nodes[1].apps.values().map(|app| app.received.clone()).collect();
    let mut sent: Vec<_> = (0..50).map(|n| pattern(size, n)).collect();
    received.sort();
    sent.sort();
    assert!(received == sent);
    world.run(secs(1));
    assert_eq!(stats(&world, 1).buffer_bytes, 0);
}

/// Windows that were promised before memory was scarce, each with a hole in front that is filled last: nobody can read before
/// that, so what fills it must not be dropped.
#[test]
fn a_spent_budget_does_not_keep_holes_open() {
    let budget = 1 << 20;
    let mut raw = Raw::new(Limits { buffer_bytes: budget, ..Limits::default() });
    raw.stack.listen(80);
    let segment = |raw: &mut Raw, port: u16, seq: u32, ack: u32, payload: &[u8]| {
        let mut segment = [port.to_be_bytes(), 80_u16.to_be_bytes()].concat();
        segment.extend_from_slice(&seq.to_be_bytes());
        segment.extend_from_slice(&ack.to_be_bytes());
        segment.extend_from_slice(&[5 << 4, if ack == 0 { 0x02 } else { 0x10 }, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend_from_slice(payload);
        raw.send(&ip(v4(1), 6, &segment));
    };
    let mut flows = Vec::new();
    for port in 1000..1020 {
        segment(&mut raw, port, 0, 0, &[]);
        let Some(Event::Incoming { flow, .. }) = raw.stack.poll_event() else { panic!("no flow") };
        raw.stack.accept(raw.now, flow);
        let answer = raw.replies().remove(0);
        let ack = u32::from_be_bytes(answer[24..28].try_into().unwrap()) + 1;
        flows.push((flow, port, ack));
    }
    for &(_, port, ack) in &flows {
        for offset in (1000..65_000).step_by(1000).rev() {
            segment(&mut raw, port, 1 + offset, ack, &[7; 1000]);
        }
    }
    let stats = raw.stack.stats();
    assert!(stats.budget_dropped > 0 && stats.buffer_bytes >= budget, "{stats:?}");
    // Once all is spent, a segment at the far end does not bring a flow all the pages before it.
    assert!(stats.buffer_bytes <= budget + 5 * (48 << 10), "{stats:?}");
    let mut whole = 0;
    for &(flow, port, ack) in &flows {
        segment(&mut raw, port, 1, ack, &[7; 1000]);
        let read = raw.stack.recv(raw.now, flow, &mut [0; 70_000]);
        assert!(read > 0, "port {port}: {:?}", raw.stack.stats());
        whole += usize::from(read == 65_000);
    }
    assert!(whole > 10, "{whole}");
}

/// Many flows whose peers do not read: past three quarters of the budget a sender is given 16 KiB.
#[test]
fn buffer_bytes_bound_what_waits_to_be_sent() {
    let budget = 4 << 20;
    let limits = Limits { buffer_bytes: budget, ..Limits::default() };
    let mut world = World::pair(&Pair { limits: [limits, Limits::default()], ..Pair::default() });
    world.serve(80, App { deaf: true, ..App::sink() });
    let size = 300_000;
    let flows: Vec<_> = (0..50).map(|n| world.connect(80, App::sending(pattern(size, n)))).collect();
    for _ in 0..30 {
        world.run(secs(1));
        let held = stats(&world, 0).buffer_bytes;
        assert!(held <= budget + 50 * (20 << 10), "{held}");
    }
    let servers: Vec<_> = world.nodes[1].apps.keys().copied().collect();
    for server in servers {
        world.app_mut(1, server).deaf = false;
        world.pump(1, server);
    }
    assert!(world.run_until(secs(900), |world| flows.iter().all(|&flow| world.app(0, flow).is_done())));
}

#[test]
fn max_time_wait() {
    let limits = Limits { max_time_wait: 2, ..Limits::default() };
    let mut world = World::pair(&Pair { limits: [limits, Limits::default()], ..Pair::default() });
    world.serve(80, App::echo());
    for _ in 0..4 {
        let flow = world.connect(80, App::sending(b"x".to_vec()));
        assert!(world.run_until(secs(5), |world| world.app(0, flow).is_done()));
    }
    assert_eq!((stats(&world, 0).time_wait, stats(&world, 0).time_wait_evicted), (2, 2));
}

/// More connections to one destination than there are ports, in less time than a tuple rests.
#[test]
fn ports_that_rest_are_taken_again() {
    let limits = Limits { max_time_wait: 28_232, ..Limits::default() };
    let mut world = World::pair(&Pair { limits: [limits, Limits::default()], ..Pair::default() });
    world.serve(80, App::echo());
    for round in 0..31 {
        let flows: Vec<_> = (0..1000).map(|_| world.connect(80, App::sending(b"x".to_vec()))).collect();
        assert!(
            world.run_until(secs(2), |world| flows.iter().all(|&flow| world.app(0, flow).is_done())),
            "round {round}: {:?}",
            stats(&world, 0)
        );
        world.nodes[0].apps.clear();
        world.run(Duration::from_millis(50));
    }
    let stats = stats(&world, 0);
    assert!(world.now - sim::START < secs(30), "{:?}", world.now - sim::START);
    assert_eq!((stats.no_ports, stats.time_wait_evicted), (0, 0));
    assert!(stats.time_wait_reused > 2_000, "{stats:?}");
    // No more than there are ports, although the ends of 31,000 are less than 30 s ago.
    assert!(stats.time_wait <= 28_232, "{stats:?}");
    world.run(secs(31));
    assert_eq!(world.nodes[0].stack.stats().time_wait, 0);
}

#[test]
fn connect_says_why_not() {
    let mut world = World::simple();
    let now = world.now;
    let connect = |stack: &mut Netstack, to: &str| stack.connect(now, to.parse().unwrap());
    let stack = &mut world.nodes[0].stack;
    assert_eq!(connect(stack, "100.64.0.77:80"), Err(ConnectError::NoRoute));
    assert_eq!(connect(stack, "100.64.0.2:0"), Err(ConnectError::InvalidDestination));
    assert_eq!(connect(stack, "224.0.0.1:80"), Err(ConnectError::InvalidDestination));
    let mut only_v4 = sim::config(0, Limits::default(), 1, 1420);
    only_v4.addresses.truncate(1);
    let mut stack = Netstack::new(only_v4, now).unwrap();
    stack.set_peers(now, vec![sim::peer(1)]).unwrap();
    assert_eq!(connect(&mut stack, "[fd00::2]:80"), Err(ConnectError::NoSourceAddress));
}

#[test]
fn all_ports_towards_one_destination() {
    let limits = Limits { flow_recv_buffer: 2048, flow_send_buffer: 2048, ..Limits::default() };
    let mut stack = Netstack::new(sim::config(0, limits, 1, 1420), sim::START).unwrap();
    stack.set_peers(sim::START, vec![sim::peer(1)]).unwrap();
    let remote = SocketAddr::new(v4(1), 80);
    let mut flows = 0;
    while stack.connect(sim::START, remote).is_ok() {
        flows += 1;
        assert!(flows <= 28_232);
    }
    assert!(flows > 25_000, "{flows}");
    assert_eq!(stack.stats().no_ports, 1);
    assert!(stack.connect(sim::START, SocketAddr::new(v4(1), 81)).is_ok());
}

#[test]
fn a_flood_of_requests_is_bounded() {
    let mut raw = Raw::new(Limits::default());
    for _ in 0..1500 {
        raw.send(&ip(v4(1), 1, &[8, 0, 0, 0, 0, 0, 0, 0]));
    }
    assert_eq!((raw.stack.stats().echo_replies, raw.stack.stats().queue_full), (1024, 476));
    assert_eq!(raw.replies().len(), 1024);
}

/// The window of a SYN is not scaled, whatever is agreed on for those that follow.
#[test]
fn data_beyond_the_window_right_after_the_handshake_is_dropped() {
    let mut raw = Raw::new(Limits { flow_recv_buffer: 65_536 * 4, ..Limits::default() });
    raw.stack.listen(80);
    let mut segment = vec![0; 20];
    segment[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    segment[4..8].copy_from_slice(&1000_u32.to_be_bytes());
    segment[12] = 6 << 4;
    segment[13] = 0x02;
    segment[14..16].fill(0xff);
    segment.extend_from_slice(&[3, 3, 7, 1]);
    raw.send(&ip(v4(1), 6, &segment));
    let Some(Event::Incoming { flow, .. }) = raw.stack.poll_event() else { panic!("no flow") };
    raw.stack.accept(raw.now, flow);
    let answer = raw.replies().remove(0);
    let iss = u32::from_be_bytes(answer[24..28].try_into().unwrap());
    segment.truncate(20);
    segment[12] = 5 << 4;
    segment[13] = 0x10;
    segment[8..12].copy_from_slice(&(iss + 1).to_be_bytes());
    segment.extend_from_slice(&[9; 1000]);
    for offset in (0..600_000_u32).step_by(1000) {
        segment[4..8].copy_from_slice(&(1001 + offset).to_be_bytes());
        raw.send(&ip(v4(1), 6, &segment));
    }
    assert!(raw.stack.recv_available(flow) <= 65_536 * 4);
    raw.replies();
}

/// A peer whose buffer is full acknowledges the last byte and the FIN: there is nothing left to probe for.
#[test]
fn a_closed_window_at_the_end_is_not_probed_for_ever() {
    let mut raw = Raw::new(Limits::default());
    raw.stack.listen(80);
    let mut segment = vec![0; 20];
    segment[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    segment[4..8].copy_from_slice(&1000_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x02;
    raw.send(&ip(v4(1), 6, &segment));
    let Some(Event::Incoming { flow, .. }) = raw.stack.poll_event() else { panic!("no flow") };
    raw.stack.accept(raw.now, flow);
    let answer = raw.replies().remove(0);
    let iss = u32::from_be_bytes(answer[24..28].try_into().unwrap());
    let mut acknowledge = |raw: &mut Raw, bytes: u32, window: u16| {
        segment[4..8].copy_from_slice(&1001_u32.to_be_bytes());
        segment[8..12].copy_from_slice(&iss.wrapping_add(1 + bytes).to_be_bytes());
        segment[13] = 0x10;
        segment[14..16].copy_from_slice(&window.to_be_bytes());
        raw.send(&ip(v4(1), 6, &segment));
    };
    acknowledge(&mut raw, 0, 2);
    assert_eq!(raw.stack.send(raw.now, flow, b"x"), 1);
    raw.stack.finish(raw.now, flow);
    assert_eq!(raw.replies().len(), 1, "the byte and the FIN");
    acknowledge(&mut raw, 2, 0);
    let end = raw.now + secs(30);
    let mut packets = 0;
    while let Some(next) = raw.stack.poll_timeout().filter(|&next| next < end) {
        raw.now = raw.now.max(next);
        raw.stack.handle_timeout(raw.now);
        while raw.stack.poll_event().is_some() {}
        packets += raw.replies().len();
    }
    assert_eq!(packets, 0);
}

/// What `send_capacity` says is what `send` takes: the ingress relay reads that much from its socket.
#[test]
fn capacity_is_what_send_takes_when_pressure_rises() {
    let limits = Limits { buffer_bytes: 400_000, ..Limits::default() };
    let mut world = World::pair(&Pair { limits: [limits, Limits::default()], ..Pair::default() });
    world.serve(80, App { deaf: true, ..App::default() });
    let flows: Vec<_> = (0..20).map(|_| world.connect(80, App::idle())).collect();
    world.run(secs(1));
    let now = world.now;
    let stack = &mut world.nodes[0].stack;
    let (mut promised, mut taken) = (0, 0);
    for &flow in flows.iter().cycle().take(200) {
        let room = stack.send_capacity(flow).min(32 << 10);
        let count = stack.send(now, flow, &vec![7; room]);
        promised += room;
        taken += count;
    }
    assert_eq!(promised, taken, "bytes read from the socket and thrown away");
}

#[test]
fn capacity_is_what_send_takes_when_pressure_falls() {
    let limits = Limits { buffer_bytes: 400_000, ..Limits::default() };
    let mut world = World::pair(&Pair { limits: [limits, Limits::default()], ..Pair::default() });
    world.serve(80, App { deaf: true, ..App::default() });
    let flows: Vec<_> = (0..20).map(|_| world.connect(80, App::idle())).collect();
    world.run(secs(1));
    let now = world.now;
    let stack = &mut world.nodes[0].stack;
    for &flow in &flows {
        stack.send(now, flow, &vec![7; 32 << 10]);
    }
    // Under pressure, flow 0 has 32 KiB and room for none.
    assert_eq!(stack.send(now, flows[0], &[7]), 0);
    assert_eq!(stack.send_capacity(flows[0]), 0);
    for &flow in &flows[1..] {
        stack.abort(now, flow);
    }
    // Pressure is gone: what was refused before is taken now, and the capacity says so.
    let room = stack.send_capacity(flows[0]);
    assert!(room > 0);
    assert_eq!(stack.send(now, flows[0], &vec![7; 1 << 20]), room);
}
