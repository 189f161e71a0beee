//! Properties: any schedule delivers exactly the bytes that were sent; nothing from the wire makes the stack panic.
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

mod sim;

use std::net::SocketAddr;
use std::time::Duration;

use nexodus_netstack::{CloseReason, Event, Limits, Netstack};
use proptest::prelude::*;
use sim::raw::{Raw, ip};
use sim::{App, Link, Pair, World, config, pattern, peer, secs, udp, v4, v6};

/// One end of a flow: how much it sends, in which pieces, when it finishes.
fn end() -> impl Strategy<Value = (usize, usize, bool)> {
    let len = prop_oneof![Just(0), 1..2000_usize, 2000..120_000_usize];
    let chunk = prop_oneof![Just(0), 1..50_usize, 50..5000_usize];
    (len, chunk, any::<bool>())
}

fn link() -> impl Strategy<Value = Link> {
    let faults = (0..500_u64, 0..500_u64, 0..2000_u64, 0..200_u64);
    let rate = prop_oneof![Just(0), 50_000..2_000_000_u64];
    (faults, 0..60_u64, rate).prop_map(|((loss, duplicate, reorder, corrupt), delay, rate)| Link {
        delay: Duration::from_millis(delay),
        loss,
        duplicate,
        reorder,
        corrupt,
        rate,
        queue: 200_000,
    })
}

fn buffer() -> impl Strategy<Value = usize> {
    prop_oneof![2000..9000_usize, Just(65_536), Just(262_144)]
}

/// More with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_in_are_bytes_out(
        seed: u64, link in link(), client in end(), server in end(), buffers in (buffer(), buffer()), six: bool,
    ) {
        // No bad luck with the wire is too much.
        let limits = |buffer| Limits {
            flow_send_buffer: buffer,
            flow_recv_buffer: buffer,
            connect_timeout: secs(4000),
            user_timeout: secs(4000),
            ..Limits::default()
        };
        let mut world = World::pair(&Pair { link, seed, limits: [limits(buffers.0), limits(buffers.1)], ..Pair::default() });
        let app = |(len, chunk, wait): (usize, usize, bool), seed: u64| App {
            send: pattern(len, seed),
            chunk,
            finish: true,
            reply_after_finish: wait,
            ..App::default()
        };
        let client_app = app((client.0, client.1, false), seed);
        let server_app = app(server, seed ^ 1);
        world.serve(80, server_app);
        let remote = SocketAddr::new(if six { v6(1) } else { v4(1) }, 80);
        let flow = world.connect_to(0, remote, client_app);
        let ends = |world: &World| {
            let server = world.nodes[1].apps.values().next().and_then(|app| app.closed);
            [world.app(0, flow).closed, server]
        };
        let _ = world.run_until(secs(20_000), |world| ends(world).iter().any(Option::is_some));
        let (first, at) = (ends(&world), world.now);
        let done = world.run_until(secs(20_000), |world| ends(world).iter().all(Option::is_some));
        prop_assert!(done, "client {:?} of {}", world.app(0, flow).sent, client.0);
        for (now, first) in ends(&world).into_iter().zip(first) {
            // Only when the wire loses every answer to one end's FIN until the other, which is done, has left TIME_WAIT
            // (30 s), an RST is what is left to tell it. Everything has been delivered by then.
            let forgotten = first.is_none() && world.now - at >= secs(30) && now == Some(CloseReason::Reset);
            prop_assert!(now == Some(CloseReason::Done) || forgotten, "{now:?} {:?} after {first:?}", world.now - at);
        }
        prop_assert!(world.app(0, flow).received == pattern(server.0, seed ^ 1));
        prop_assert!(world.only(1).1.received == pattern(client.0, seed));
        world.run(secs(60));
        for node in &world.nodes {
            let stats = node.stack.stats();
            prop_assert_eq!((stats.flows, stats.pending, stats.buffer_bytes, stats.time_wait), (0, 0, 0, 0));
        }
    }

    #[test]
    fn random_datagrams(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..50), kind in 0..6_u8) {
        let mut stack = Netstack::new(config(1, Limits::default(), 1, 1420), sim::START).unwrap();
        stack.set_peers(sim::START, vec![peer(0)]).unwrap();
        for mut datagram in datagrams {
            if let Some(header) = datagram.get_mut(..4) {
                header.copy_from_slice(&[kind, 0, 0, 0]);
            }
            for len in [148, 92, 64] {
                datagram.resize(len, 1);
                stack.handle_datagram(sim::START, udp(0), &datagram);
            }
        }
        prop_assert!(stack.poll_event().is_none());
    }

    #[test]
    fn random_inner_packets(packets in prop::collection::vec((any::<u8>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)), 1..100)) {
        let mut raw = Raw::new(Limits::default());
        raw.stack.listen(80);
        for (protocol, six, payload) in packets {
            let protocol = [1, 6, 17, 58, protocol][usize::from(protocol % 5)];
            raw.send(&ip(if six { v6(1) } else { v4(1) }, protocol, &payload));
            raw.send(&payload);
        }
        raw.replies();
    }

    /// A peer that knows the flow's numbers and lies with them.
    #[test]
    fn mutated_segments(steps in prop::collection::vec(step(), 1..150), recv in 2000..70_000_usize, accept_first: bool) {
        let limits = Limits { flow_recv_buffer: recv, flow_send_buffer: 4000, ..Limits::default() };
        let mut raw = Raw::new(limits);
        raw.stack.listen(80);
        let mut liar = Liar { seq: 1000, ack: 0 };
        raw.send(&liar.segment(&Step { flags: 0x02, ..Step::default() }));
        liar.seq += 1;
        let mut flow = None;
        let mut accepted = false;
        for step in &steps {
            while let Some(event) = raw.stack.poll_event() {
                if let Event::Incoming { flow: incoming, .. } = event {
                    flow = Some(incoming);
                }
            }
            if let Some(flow) = flow && (accept_first || step.accept) && !accepted {
                raw.stack.accept(raw.now, flow);
                accepted = true;
            }
            if let Some(flow) = flow {
                match step.act {
                    0 => { raw.stack.recv(raw.now, flow, &mut [0; 1000]); }
                    1 => { raw.stack.send(raw.now, flow, &[1; 3000]); }
                    2 => raw.stack.finish(raw.now, flow),
                    3 if step.late => raw.stack.release(raw.now, flow),
                    4 if step.late => raw.stack.abort(raw.now, flow),
                    _ => {}
                }
            }
            if step.act % 2 == 0 {
                for reply in raw.replies() {
                    let at = usize::from(reply[0] & 0xf) * 4;
                    if reply[9] == 6 && reply.len() >= at + 20 {
                        let seq = u32::from_be_bytes([reply[at + 4], reply[at + 5], reply[at + 6], reply[at + 7]]);
                        liar.ack = seq.wrapping_add(u32::from(reply[at + 13] & 3 != 0));
                    }
                }
            }
            raw.send(&liar.segment(step));
            liar.seq = liar.seq.wrapping_add(step.advance);
            raw.now = raw.now + Duration::from_millis(step.millis);
            raw.stack.handle_timeout(raw.now);
        }
        raw.replies();
        raw.now = raw.now + secs(4000);
        raw.stack.handle_timeout(raw.now);
        raw.replies();
    }
}

#[derive(Clone, Debug, Default)]
struct Step {
    flags: u8,
    seq_offset: i32,
    ack_offset: i32,
    len: usize,
    window: u16,
    advance: u32,
    act: u8,
    accept: bool,
    late: bool,
    millis: u64,
    header: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || prop_oneof![4 => Just(0), 2 => -3..3_i32, 1 => -70_000..70_000_i32, 1 => any::<i32>()];
    let flags = prop_oneof![6 => Just(0x10_u8), 2 => Just(0x11), 1 => Just(0x02), 1 => Just(0x12), 1 => Just(0x04), 1 => any::<u8>()];
    let window = prop_oneof![Just(0), Just(65_535), any::<u16>()];
    let len = prop_oneof![Just(0), Just(1), 1..1380_usize];
    let advance = prop_oneof![Just(0), Just(1), 0..3000_u32];
    let millis = prop_oneof![Just(0), 0..50_u64, 0..5000_u64];
    let header = prop_oneof![9 => Just(5_u8), 1 => 0..16_u8];
    (
        (flags, offset(), offset(), len, window),
        (advance, 0..8_u8, any::<bool>(), prop::bool::weighted(0.05), millis, header),
    )
        .prop_map(
            |((flags, seq_offset, ack_offset, len, window), (advance, act, accept, late, millis, header))| {
                Step {
                    flags,
                    seq_offset,
                    ack_offset,
                    len,
                    window,
                    advance,
                    act,
                    accept,
                    late,
                    millis,
                    header,
                }
            },
        )
}

struct Liar {
    seq: u32,
    ack: u32,
}

impl Liar {
    fn segment(&self, step: &Step) -> Vec<u8> {
        let mut segment = vec![0x30, 0x39, 0, 80];
        segment.extend_from_slice(&self.seq.wrapping_add_signed(step.seq_offset).to_be_bytes());
        segment.extend_from_slice(&self.ack.wrapping_add_signed(step.ack_offset).to_be_bytes());
        segment.extend_from_slice(&[step.header.max(u8::from(step.header == 0) * 5) << 4, step.flags]);
        segment.extend_from_slice(&step.window.to_be_bytes());
        segment.extend_from_slice(&[0; 4]);
        segment.extend(std::iter::repeat_n(7, step.len));
        ip(v4(1), 6, &segment)
    }
}
