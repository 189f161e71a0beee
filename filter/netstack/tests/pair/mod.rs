//! Two stacks, each the other's peer, joined by nothing: a datagram arrives when it is sent. For many flows, where the
//! simulation's own bookkeeping (`sim`) would be in the way.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "shared by tests and benchmarks, none of which uses all of it; a failure is a failed test"
)]

use std::net::SocketAddr;
use std::time::Duration;

use nexodus_netstack::{Config, Event, FlowId, Instant, Limits, Netstack, PeerConfig, Shard};

pub struct Pair {
    pub stacks: [Netstack; 2],
    pub now: Instant,
    /// Both ends of each flow, in the order in which they were opened.
    pub flows: Vec<[FlowId; 2]>,
    buffer: Vec<u8>,
}

impl Pair {
    pub fn new(limits: Limits) -> Self {
        let now = Instant::from_micros(1_000_000);
        let mut pair = Self {
            stacks: [stack(0, limits, now), stack(1, limits, now)],
            now,
            flows: Vec::new(),
            buffer: Vec::new(),
        };
        pair.stacks[1].listen(80);
        pair
    }

    /// Opens that many flows from the first stack to the second.
    pub fn connect(&mut self, count: usize) {
        let remote: SocketAddr = "100.64.0.2:80".parse().unwrap();
        for _ in 0..count {
            let flow = self.stacks[0].connect(self.now, remote).unwrap();
            let accepted = self.exchange();
            assert_eq!(accepted.len(), 1);
            self.flows.push([flow, accepted[0]]);
        }
        // Who has nothing to say acknowledges the last SYN|ACK after a while.
        self.rest(Duration::from_millis(1));
        assert_eq!(self.stacks[1].stats().pending, 0);
        assert_eq!(self.stacks.each_ref().map(|stack| stack.stats().flows), [self.flows.len(); 2]);
    }

    /// Events and datagrams until both have nothing more to say; what was accepted.
    pub fn exchange(&mut self) -> Vec<FlowId> {
        let mut accepted = Vec::new();
        while self.turn(&mut accepted) {}
        accepted
    }

    /// One turn of each: what is to be sent is sent, and handled by the other. False: nobody had anything to say.
    pub fn turn(&mut self, accepted: &mut Vec<FlowId>) -> bool {
        let mut spoke = false;
        self.now = self.now + Duration::from_micros(50);
        for end in 0..2 {
            if self.stacks[end].poll_timeout().is_some_and(|at| at <= self.now) {
                self.stacks[end].handle_timeout(self.now);
            }
            while let Some(event) = self.stacks[end].poll_event() {
                if let Event::Incoming { flow, .. } = event {
                    accepted.push(flow);
                    self.stacks[end].accept(self.now, flow);
                }
                assert!(!matches!(event, Event::Closed { .. }), "{event:?}");
            }
            while let Some(transmit) = self.stacks[end].poll_transmit(self.now, &mut self.buffer) {
                spoke = true;
                for datagram in self.buffer.chunks(transmit.segment_size.unwrap_or(self.buffer.len())) {
                    self.stacks[1 - end].handle_datagram(self.now, udp(end), datagram);
                }
            }
        }
        spoke
    }

    /// Carries bytes of a flow from the first stack to the second.
    pub fn send(&mut self, flow: usize, bytes: usize) {
        self.carry(flow, 0, bytes);
    }

    /// Carries bytes of a flow, one way and then the other.
    pub fn transfer(&mut self, flow: usize, bytes: usize) {
        self.carry(flow, 0, bytes);
        self.carry(flow, 1, bytes);
    }

    fn carry(&mut self, flow: usize, from: usize, bytes: usize) {
        let data = [7; 64 << 10];
        let mut scratch = [0; 64 << 10];
        let [sender, receiver] = [self.flows[flow][from], self.flows[flow][1 - from]];
        let (mut sent, mut received) = (0, 0);
        while received < bytes {
            let before = (sent, received);
            let want = data.len().min(bytes - sent);
            sent += self.stacks[from].send(self.now, sender, &data[..want]);
            self.exchange();
            loop {
                let read = self.stacks[1 - from].recv(self.now, receiver, &mut scratch);
                received += read;
                if read == 0 {
                    break;
                }
            }
            if before == (sent, received) {
                // Both wait for a timer, a pacer's say.
                let next = self.stacks.iter().filter_map(Netstack::poll_timeout).min();
                self.now = self.now.max(next.unwrap());
            }
        }
    }

    /// Time passes, and nobody does anything.
    pub fn rest(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let next = self.stacks.iter().filter_map(Netstack::poll_timeout).min().unwrap_or(end);
            self.now = self.now.max(next.min(end));
            self.exchange();
        }
    }
}

/// Where the datagrams of a stack come from. Asked for each of them: no text is parsed for it.
pub fn udp(end: usize) -> SocketAddr {
    ([192, 0, 2, u8::try_from(end).unwrap() + 1], 51820).into()
}

/// The first stack or the second, with the other one as its peer.
pub fn stack(end: usize, limits: Limits, now: Instant) -> Netstack {
    let key = |end: usize| [u8::try_from(end).unwrap() + 11; 32];
    let config = Config {
        private_key: key(end),
        addresses: vec![format!("100.64.0.{}/32", end + 1).parse().unwrap()],
        mtu: 1420,
        limits,
        shard: Shard::default(),
        seed: end as u64,
    };
    let other = 1 - end;
    let secret = boringtun::x25519::StaticSecret::from(key(other));
    let peer = PeerConfig {
        public_key: boringtun::x25519::PublicKey::from(&secret).to_bytes(),
        preshared_key: None,
        endpoint: Some(udp(other)),
        allowed_ips: vec![format!("100.64.0.{}/32", other + 1).parse().unwrap()],
        persistent_keepalive: None,
        shard: 0,
    };
    let mut stack = Netstack::new(config, now).unwrap();
    stack.set_peers(now, vec![peer]).unwrap();
    stack
}
