//! What one UDP flow's datagrams cost beside 10 and beside 16,000 idle flows. Fails when the ratio is above 1.3.
//!
//! Both ends are in it: composing, WireGuard, demultiplexing, handing out.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to measure")]

#[path = "../tests/pair/mod.rs"]
mod pair;

use std::net::SocketAddr;
use std::process::ExitCode;

use nexodus_netstack::{Instant, Limits, Netstack, UdpFlowId};
use pair::{stack, udp};

const MOST: f64 = 1.3;
const ROUNDS: usize = 9;
const DATAGRAMS: u32 = 20_000;
const NOW: Instant = Instant::from_micros(1_000_000);

fn main() -> ExitCode {
    let (mut few, mut many) = (Rig::new(10), Rig::new(16_000));
    few.transfer(100);
    many.transfer(100);
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            // Whoever goes first has the colder cache.
            let (a, b) = if round % 2 == 0 {
                let a = few.transfer(100);
                (a, many.transfer(100))
            } else {
                let b = many.transfer(100);
                (few.transfer(100), b)
            };
            println!("10 idle flows: {a:5.0} ns per datagram, 16,000: {b:5.0}, ratio {:.3}", b / a);
            b / a
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ROUNDS / 2];
    println!("median ratio {median:.3}, at most {MOST}");
    println!("1,392 bytes: {:.0} ns, 9,000 bytes: {:.0} ns", few.transfer(1392), few.transfer(9000));
    if median <= MOST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Two stacks, some idle flows between them, and one that is used.
struct Rig {
    stacks: [Netstack; 2],
    flow: UdpFlowId,
    buffer: Vec<u8>,
    payload: Vec<u8>,
}

impl Rig {
    fn new(idle: usize) -> Self {
        let mut stacks = [0, 1].map(|end| stack(end, Limits::default(), NOW));
        stacks[1].udp_listen(53);
        let remote: SocketAddr = "100.64.0.2:53".parse().unwrap();
        let flow = stacks[0].udp_connect(NOW, remote).unwrap();
        let mut rig = Self { stacks, flow, buffer: Vec::new(), payload: Vec::new() };
        rig.deliver(b"handshake");
        for _ in 0..idle {
            rig.flow = rig.stacks[0].udp_connect(NOW, remote).unwrap();
            assert_eq!(rig.deliver(b"idle"), 1);
        }
        assert_eq!(rig.stacks[1].stats().udp_flows, idle + 1);
        rig
    }

    /// Nanoseconds per datagram of `len` bytes.
    fn transfer(&mut self, len: usize) -> f64 {
        let data = vec![7; len];
        let start = std::time::Instant::now();
        let received: usize = (0..DATAGRAMS).map(|_| self.deliver(&data)).sum();
        let time = start.elapsed();
        assert_eq!(received, DATAGRAMS as usize);
        time.as_secs_f64() * 1e9 / f64::from(DATAGRAMS)
    }

    fn deliver(&mut self, data: &[u8]) -> usize {
        assert!(self.stacks[0].udp_send(NOW, self.flow, data));
        let mut received = 0;
        let mut quiet = false;
        while !quiet {
            quiet = true;
            for end in 0..2 {
                while self.stacks[end].poll_event().is_some() {}
                while self.stacks[end].poll_datagram(&mut self.payload).is_some() {
                    received += 1;
                }
                while let Some(transmit) = self.stacks[end].poll_transmit(NOW, &mut self.buffer) {
                    quiet = false;
                    for datagram in self.buffer.chunks(transmit.segment_size.unwrap_or(self.buffer.len())) {
                        self.stacks[1 - end].handle_datagram(NOW, udp(end), datagram);
                    }
                }
            }
        }
        received
    }
}
