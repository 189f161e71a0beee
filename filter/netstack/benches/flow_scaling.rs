//! What one flow's segments cost beside 10 and beside 10,000 idle flows. Fails when the ratio is above 1.3.
//!
//! Also prints the throughput of two stacks joined in memory: WireGuard and TCP of both ends on one core.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use nexodus_netstack::{Config, Event, FlowId, Instant, Limits, Netstack, PeerConfig};

const MOST: f64 = 1.3;
const ROUNDS: usize = 9;
const BYTES: usize = 4 << 20;

fn main() -> ExitCode {
    // `cargo test --benches` runs this too; it is quick enough for that.
    let small = Limits {
        flow_send_buffer: 16 << 10,
        flow_recv_buffer: 16 << 10,
        max_pending: 20_000,
        ..Limits::default()
    };
    let mut few = Rig::new(small, 10);
    let mut many = Rig::new(small, 10_000);
    few.transfer(BYTES);
    many.transfer(BYTES);
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            // Whoever goes first has the colder cache.
            let (a, b) = if round % 2 == 0 {
                let a = few.transfer(BYTES);
                (a, many.transfer(BYTES))
            } else {
                let b = many.transfer(BYTES);
                (few.transfer(BYTES), b)
            };
            println!(
                "10 idle flows: {:5.0} ns per segment, 10,000 idle flows: {:5.0}, ratio {:.3}",
                a,
                b,
                b / a
            );
            b / a
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ROUNDS / 2];
    println!("median ratio {median:.3}, at most {MOST}");

    let mut pair = Rig::new(Limits::default(), 0);
    pair.transfer(BYTES);
    let nanos = pair.transfer(64 << 20);
    println!("two stacks in memory, both ends on one core: {:.2} Gbit/s", 1380.0 * 8.0 / nanos);
    if median <= MOST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Two stacks, some idle flows, and one that is used.
struct Rig {
    stacks: [Netstack; 2],
    now: Instant,
    active: [FlowId; 2],
    buffer: Vec<u8>,
    data: Vec<u8>,
}

impl Rig {
    fn new(limits: Limits, idle: usize) -> Self {
        let now = Instant::from_micros(1_000_000);
        let mut rig = Self {
            stacks: [stack(0, limits, now), stack(1, limits, now)],
            now,
            active: [id(), id()],
            buffer: Vec::new(),
            data: vec![7; 64 << 10],
        };
        rig.stacks[1].listen(80);
        let remote: SocketAddr = "100.64.0.2:80".parse().unwrap();
        for n in 0..=idle {
            let flow = rig.stacks[0].connect(rig.now, remote).unwrap();
            rig.active[0] = flow;
            if n % 100 == 0 || n == idle {
                rig.exchange();
                rig.exchange();
            }
        }
        assert_eq!(rig.stacks[1].stats().flows, idle + 1);
        assert_eq!(rig.stacks[1].stats().pending, 0);
        rig
    }

    /// Nanoseconds per full segment.
    fn transfer(&mut self, bytes: usize) -> f64 {
        let start = std::time::Instant::now();
        let (mut sent, mut received) = (0, 0);
        let mut out = vec![0; 64 << 10];
        while received < bytes {
            let want = (bytes - sent).min(self.data.len());
            let before = sent + received;
            sent += self.stacks[0].send(self.now, self.active[0], &self.data[..want]);
            self.exchange();
            loop {
                let read = self.stacks[1].recv(self.now, self.active[1], &mut out);
                received += read;
                if read == 0 {
                    break;
                }
            }
            if sent + received == before {
                // Both wait for a timer, a delayed acknowledgement say.
                let next = self.stacks.iter().filter_map(Netstack::poll_timeout).min();
                self.now = self.now.max(next.unwrap());
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
        let per_segment = start.elapsed().as_nanos() as f64 / (bytes as f64 / 1380.0);
        per_segment
    }

    /// Events and datagrams until both have nothing more to say.
    fn exchange(&mut self) {
        loop {
            let mut quiet = true;
            self.now = self.now + Duration::from_micros(50);
            for end in 0..2 {
                let due = self.stacks[end].poll_timeout().is_some_and(|at| at <= self.now);
                if due {
                    self.stacks[end].handle_timeout(self.now);
                }
                while let Some(event) = self.stacks[end].poll_event() {
                    if let Event::Incoming { flow, .. } = event {
                        self.active[1] = flow;
                        self.stacks[end].accept(self.now, flow);
                    }
                    assert!(!matches!(event, Event::Closed { .. }), "{event:?}");
                }
                while let Some(transmit) = self.stacks[end].poll_transmit(self.now, &mut self.buffer) {
                    quiet = false;
                    for datagram in self.buffer.chunks(transmit.segment_size.unwrap_or(self.buffer.len())) {
                        self.stacks[1 - end].handle_datagram(self.now, udp(end), datagram);
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }
}

fn id() -> FlowId {
    // Any handle will do until the real one is there.
    let now = Instant::from_micros(0);
    let mut stack = stack(0, Limits::default(), now);
    stack.connect(now, "100.64.0.1:1".parse().unwrap()).unwrap()
}

fn udp(end: usize) -> SocketAddr {
    format!("192.0.2.{}:51820", end + 1).parse().unwrap()
}

fn stack(end: usize, limits: Limits, now: Instant) -> Netstack {
    let key = |end: usize| [u8::try_from(end).unwrap() + 11; 32];
    let config = Config {
        private_key: key(end),
        addresses: vec![format!("100.64.0.{}/32", end + 1).parse().unwrap()],
        mtu: 1420,
        limits,
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
    };
    let mut stack = Netstack::new(config, now).unwrap();
    stack.set_peers(now, vec![peer]).unwrap();
    stack
}
