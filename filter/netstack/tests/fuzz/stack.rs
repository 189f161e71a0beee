//! A whole stack and a peer with a session that sends any inner packets it likes, while the stack's owner does what owners do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nexodus_netstack::{Event, FlowId, Limits, UdpFlowId};

use crate::input::Input;
use crate::packet::{ACK, Segment, Sent, TCP, ip_packet, sum};
use crate::sim::raw::Raw;
use crate::sim::{udp, v4, v6};

const MTU: usize = 1420;
/// What every stream is made of, to the stack and from it: one may be to itself.
const DATA: u8 = 9;
/// One flow may be given this much when the budget is spent already, and fill what it was promised before.
const OVER_BUDGET: usize = 512 << 10;

/// So small that every bound is reached.
fn limits() -> Limits {
    Limits {
        max_flows: 6,
        max_pending: 3,
        max_time_wait: 2,
        buffer_bytes: 64 << 10,
        flow_send_buffer: 32 << 10,
        flow_recv_buffer: 32 << 10,
        max_udp_flows: 4,
        reassembly_bytes: 16 << 10,
        ..Limits::default()
    }
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut raw = Raw::new(limits());
    let gone = raw.stack.connect(raw.now, SocketAddr::new(them(false), 9)).unwrap();
    raw.stack.abort(raw.now, gone);
    let mut world = World {
        raw,
        flows: BTreeSet::new(),
        datagram_flows: BTreeSet::new(),
        seen: BTreeMap::new(),
        last: Vec::new(),
        gone,
    };
    world.raw.stack.listen(80);
    world.raw.stack.udp_listen(53);
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.drive();
    }
    world.finish();
}

struct World {
    raw: Raw,
    /// Flows that the owner has a handle of.
    flows: BTreeSet<FlowId>,
    datagram_flows: BTreeSet<UdpFlowId>,
    /// By the stack's and the peer's end: the next number of the stack, and what it acknowledges.
    seen: BTreeMap<(SocketAddr, SocketAddr), (u32, u32)>,
    /// The last packet that the stack has sent.
    last: Vec<u8>,
    /// A handle that means nothing any more.
    gone: FlowId,
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        let order = input.u8();
        let v6 = order & 0x80 != 0;
        let now = self.raw.now;
        match order & 0x1f {
            0..=5 => self.segment(v6, input),
            6 => self.datagram(v6, input),
            7 => self.fragment(v6, input),
            8 => self.icmp(v6, input),
            9 => {
                let len = usize::from(input.u8());
                let protocol = input.u8();
                self.raw.send(&ip_packet(them(v6), us(v6), protocol, input.bytes(len)));
            }
            10 => {
                // Not even an IP packet, perhaps.
                let len = usize::from(input.u8());
                let packet = input.bytes(len).to_vec();
                self.raw.send(&packet);
            }
            11 => {
                let len = usize::from(input.u8());
                self.raw.stack.handle_datagram(now, udp(0), input.bytes(len));
            }
            12 => {
                let port = [80, 81][usize::from(input.u8() & 1)];
                if v6 { self.raw.stack.unlisten(port) } else { self.raw.stack.listen(port) }
            }
            13 => {
                let remote = [them(v6), us(v6), "100.64.0.9".parse().unwrap()][usize::from(input.u8() % 3)];
                let port = [80, 81, 4000][usize::from(input.u8() % 3)];
                if let Ok(flow) = self.raw.stack.connect(now, SocketAddr::new(remote, port)) {
                    assert!(self.flows.insert(flow), "a handle that is in use");
                }
            }
            14..=16 => self.raw.stack.accept(now, self.pick(input)),
            17 => {
                let flow = self.pick(input);
                let held = self.raw.stack.stats().flows;
                self.raw.stack.reject(now, flow);
                if self.raw.stack.stats().flows < held {
                    self.flows.remove(&flow);
                }
            }
            18 => {
                let (flow, len) = (self.pick(input), usize::from(input.u8()) * 100);
                let taken = self.raw.stack.send(now, flow, &vec![DATA; len]);
                assert!(taken == len || self.raw.stack.send_capacity(flow) == 0, "there was room for more");
            }
            19 => {
                let (flow, len) = (self.pick(input), usize::from(input.u8()) * 100);
                let available = self.raw.stack.recv_available(flow);
                let mut bytes = vec![0; len.min(available)];
                assert_eq!(self.raw.stack.recv(now, flow, &mut bytes), bytes.len());
                assert!(bytes.iter().all(|&byte| byte == DATA), "nobody has sent anything else");
            }
            20 => self.raw.stack.finish(now, self.pick(input)),
            21 => {
                let flow = self.pick(input);
                self.raw.stack.abort(now, flow);
                self.flows.remove(&flow);
            }
            22 => {
                let flow = self.pick(input);
                self.raw.stack.release(now, flow);
                self.flows.remove(&flow);
            }
            23 => {
                let remote = SocketAddr::new([them(v6), us(v6)][usize::from(input.u8() & 1)], 53);
                self.datagram_flows.extend(self.raw.stack.udp_connect(now, remote));
            }
            24 => {
                let flow = self.datagram_flows.iter().next().copied();
                let len = usize::from(input.u8()) * 40;
                if let Some(flow) = flow {
                    self.raw.stack.udp_send(now, flow, &vec![7; len]);
                }
            }
            25 => {
                if let Some(flow) = self.datagram_flows.pop_first() {
                    self.raw.stack.udp_release(now, flow);
                }
            }
            26 => drop(self.raw.stack.ping(now, [them(v6), us(v6)][usize::from(input.u8() & 1)], 7, 1)),
            27..=28 => self.raw.now = now + Duration::from_millis(input.u8().into()),
            29 => self.raw.now = now + Duration::from_secs(input.u8().into()),
            30 => self.train(input),
            _ => self.raw.now = self.raw.stack.poll_timeout().map_or(now, |at| at.max(now)),
        }
    }

    /// A flow, or one that is gone.
    fn pick(&self, input: &mut Input<'_>) -> FlowId {
        self.flows.iter().nth(usize::from(input.u8() & 7)).copied().unwrap_or(self.gone)
    }

    /// A TCP segment whose numbers are near those of a connection.
    fn segment(&mut self, v6: bool, input: &mut Input<'_>) {
        let (flags, which, options) = (input.u8() ^ ACK, input.u8(), input.u8());
        let known = usize::from(which & 7);
        let (ours, theirs, seq, ack) = match self.seen.iter().nth(known) {
            Some((&(ours, theirs), &(next, ack))) => (ours, theirs, ack, next),
            None => {
                let ports = ([80, 81, 0][usize::from(which >> 3) % 3], 1000 + u16::from(which >> 5));
                (SocketAddr::new(us(v6), ports.0), SocketAddr::new(them(v6), ports.1), 5000, 0)
            }
        };
        let len = if options & 16 != 0 { usize::from(input.u8()) * 5 } else { 0 };
        let segment = Segment {
            seq: seq.wrapping_add_signed(input.u8().cast_signed().into()),
            ack: ack.wrapping_add_signed(input.u8().cast_signed().into()),
            flags,
            window: u16::from(input.u8()) << 8,
            mss: (options & 1 != 0).then(|| input.u16()),
            shift: (options & 2 != 0).then_some(7),
            sack_ok: options & 4 != 0,
            ts: (options & 8 != 0).then(|| (input.u8().into(), 0)),
            sack: if options & 32 != 0 { vec![(ack, ack.wrapping_add(1000))] } else { Vec::new() },
            data: vec![DATA; len],
        };
        self.raw.send(&segment.packet(theirs, ours));
    }

    /// Segments of a connection, one like the other, of which one does not arrive as it was sealed, and one comes again.
    fn train(&mut self, input: &mut Input<'_>) {
        let (which, count, wrong, again) = (input.u8(), input.u8() & 31, input.u8() & 31, input.u8() & 31);
        let len = input.u16() % 1400;
        let Some((&(ours, theirs), &(next, ack))) = self.seen.iter().nth(usize::from(which & 7)) else {
            return;
        };
        let mut segment = Segment {
            seq: ack,
            ack: next,
            flags: ACK,
            window: u16::from(which) << 8,
            ts: (which & 8 != 0).then_some(((which >> 4).into(), 0)),
            data: vec![DATA; len.into()],
            ..Segment::default()
        };
        for n in 0..count {
            let packet = segment.packet(theirs, ours);
            if n == wrong {
                self.raw.send_spoiled(&packet);
            }
            self.raw.send(&packet);
            if n != again {
                segment.seq = segment.seq.wrapping_add(len.into());
            }
        }
    }

    fn datagram(&mut self, v6: bool, input: &mut Input<'_>) {
        let port: u16 = [53, 54, 0][usize::from(input.u8() % 3)];
        let source = 2000 + u16::from(input.u8() & 7);
        let len = usize::from(input.u8()) * 4;
        let mut bytes = vec![0; 8 + len];
        bytes[0..2].copy_from_slice(&source.to_be_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        let wrong = u16::from(input.u8() & 1);
        bytes[4..6].copy_from_slice(&(8 + len as u16 + wrong).to_be_bytes());
        let sum = sum(them(v6), us(v6), 17, &bytes);
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        self.raw.send(&ip_packet(them(v6), us(v6), 17, &bytes));
    }

    fn fragment(&mut self, v6: bool, input: &mut Input<'_>) {
        let id = input.u8() & 3;
        let place = u16::from(input.u8());
        let more = input.u8() & 1 != 0;
        let len = usize::from(input.u8());
        // Of a datagram whose checksum is never wrong: it has none.
        let payload = [&[0x07, 0xd0, 0, 53, 0, 0, 0, 0], input.bytes(len)].concat();
        let packet = if v6 {
            let mut bytes = vec![17, 0, 0, 0, 0, 0, 0, id];
            bytes[2..4].copy_from_slice(&(place << 3 | u16::from(more)).to_be_bytes());
            bytes.extend_from_slice(&payload);
            ip_packet(them(true), us(true), 44, &bytes)
        } else {
            let mut packet = ip_packet(them(false), us(false), 17, &payload);
            packet[5] = id;
            packet[6..8].copy_from_slice(&(place | u16::from(more) << 13).to_be_bytes());
            packet
        };
        self.raw.send(&packet);
    }

    /// An ICMP message; one in two quotes what the stack has sent last.
    fn icmp(&mut self, v6: bool, input: &mut Input<'_>) {
        let (kind, code) = (input.u8(), input.u8());
        let mut bytes = vec![kind, code, 0, 0, 0, 0, 0, 0];
        if code & 1 != 0 {
            bytes.extend_from_slice(&self.last[..self.last.len().min(64)]);
        } else {
            let len = usize::from(input.u8());
            bytes.extend_from_slice(input.bytes(len));
        }
        self.raw.send(&ip_packet(them(v6), us(v6), if v6 { 58 } else { 1 }, &bytes));
    }

    /// As a driver does: what is due, events, datagrams, packets; until there is nothing more.
    fn drive(&mut self) {
        for round in 0.. {
            assert!(round < 1000, "the stack does not come to rest");
            let now = self.raw.now;
            let mut quiet = true;
            if self.raw.stack.poll_timeout().is_some_and(|at| at <= now) {
                self.raw.stack.handle_timeout(now);
            }
            while let Some(event) = self.raw.stack.poll_event() {
                quiet = false;
                self.told(event);
            }
            let mut datagram = Vec::new();
            while let Some(flow) = self.raw.stack.poll_datagram(&mut datagram) {
                assert!(self.datagram_flows.contains(&flow), "a datagram of no flow");
            }
            for packet in self.raw.replies() {
                quiet = false;
                self.sent(packet);
            }
            if quiet && self.raw.stack.poll_timeout().is_none_or(|at| at > now) {
                break;
            }
        }
        let (stats, limits) = (self.raw.stack.stats(), limits());
        assert!(stats.flows <= limits.max_flows && stats.pending <= limits.max_pending, "{stats:?}");
        assert!(stats.time_wait <= limits.max_time_wait, "{stats:?}");
        assert!(stats.udp_flows <= limits.max_udp_flows, "{stats:?}");
        assert!(stats.reassembly_bytes <= limits.reassembly_bytes, "{stats:?}");
        assert!(stats.buffer_bytes <= limits.buffer_bytes + OVER_BUDGET, "{stats:?}");
    }

    fn told(&mut self, event: Event) {
        match event {
            Event::Incoming { flow, .. } => assert!(self.flows.insert(flow), "a handle that is in use"),
            Event::Connected { flow } | Event::Finished { flow } | Event::Writable { flow } => {
                assert!(self.flows.contains(&flow), "{event:?} of no flow");
            }
            Event::Readable { flow } => {
                assert!(self.flows.contains(&flow), "{event:?} of no flow");
                assert!(self.raw.stack.recv_available(flow) > 0);
            }
            Event::Closed { flow, .. } => assert!(self.flows.remove(&flow), "{event:?} of no flow"),
            Event::UdpIncoming { flow, .. } => assert!(self.datagram_flows.insert(flow)),
            Event::UdpClosed { flow, .. } => {
                assert!(self.datagram_flows.remove(&flow), "{event:?} of no flow")
            }
            Event::Pong { ident, seq, .. } => assert_eq!((ident, seq), (7, 1)),
        }
    }

    fn sent(&mut self, packet: Vec<u8>) {
        assert!(packet.len() <= MTU, "{} bytes", packet.len());
        let sent = Sent::read(&packet);
        assert!([us(false), us(true)].contains(&sent.from), "from {}", sent.from);
        if sent.protocol == TCP {
            let segment = sent.segment();
            let port = |at: usize| u16::from_be_bytes([sent.payload[at], sent.payload[at + 1]]);
            let ends = (SocketAddr::new(sent.from, port(0)), SocketAddr::new(sent.to, port(2)));
            if self.seen.len() < 8 || self.seen.contains_key(&ends) {
                self.seen.insert(ends, (segment.end(), segment.ack));
            }
        }
        self.last = packet;
    }

    /// The owner gives everything back, and the peer is gone: nothing is left after a while.
    fn finish(mut self) {
        let now = self.raw.now;
        for flow in std::mem::take(&mut self.flows) {
            self.raw.stack.release(now, flow);
        }
        for flow in std::mem::take(&mut self.datagram_flows) {
            self.raw.stack.udp_release(now, flow);
        }
        self.raw.stack.unlisten(80);
        self.raw.stack.unlisten(81);
        self.raw.stack.udp_unlisten(53);
        self.drive();
        self.raw.stack.set_peers(now, Vec::new()).unwrap();
        let end = self.raw.now + Duration::from_secs(600);
        for round in 0.. {
            assert!(round < 100_000, "deadlines without end");
            let Some(next) = self.raw.stack.poll_timeout().filter(|&at| at <= end) else { break };
            self.raw.now = next.max(self.raw.now);
            self.drive();
        }
        let stats = self.raw.stack.stats();
        let left = [stats.flows, stats.pending, stats.time_wait, stats.buffer_bytes];
        assert_eq!((left, stats.udp_flows, stats.reassembly_bytes), ([0; 4], 0, 0));
    }
}

fn us(ipv6: bool) -> IpAddr {
    if ipv6 { v6(1) } else { v4(1) }
}

fn them(ipv6: bool) -> IpAddr {
    if ipv6 { v6(0) } else { v4(0) }
}
