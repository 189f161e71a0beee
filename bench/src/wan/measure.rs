//! One run of one cell.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::kernel::Kernel;
use super::link::{Counters, Fault, Shape};
use super::ours::Ours;
use super::rig::{End, Host, Rig};
use super::rows::{Column, Pair, Path, Row, Whose};
use super::smoltcp::Smoltcp;
use super::stack::{Role, Spec, Stack};
use crate::Result;

/// As on most of the internet.
const MTU: u16 = 1500;
const PORT: u16 = 5201;
const LEFT: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 1);
const SERVER: SocketAddrV4 = SocketAddrV4::new(RIGHT, PORT);

/// smoltcp's buffers do not grow: as large as Linux's become by default.
const FIXED_BUFFER: usize = 4 << 20;

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) time: Duration,
    pub(super) seed: u64,
}

/// Goodput in Mbit/s over the whole time, slow start included, and what the link did to the data.
pub(super) fn cell(row: &Row, column: Column, effort: Effort) -> Result<(f64, Counters)> {
    let left = sender(column.from, LEFT[0], Duration::ZERO, effort.seed)?;
    let mut rig = rig(vec![left], receiver(column.to, effort.seed)?, row.path, row.fault, effort.seed);
    rig.run(effort.time)?;
    Ok((mbps(rig.received()[0], effort.time), rig.counters()))
}

/// Goodput of two senders through one queue, in Mbit/s.
pub(super) fn pair(pair: &Pair, effort: Effort) -> Result<[f64; 2]> {
    let mut left = Vec::new();
    for (index, (whose, further)) in pair.senders.into_iter().zip(pair.further_ms).enumerate() {
        // All of it on the way to the receiver: the sum of both ways is what counts.
        left.push(sender(whose, LEFT[index], Duration::from_millis(further), effort.seed + index as u64)?);
    }
    let mut rig = rig(left, receiver(Whose::Linux, effort.seed)?, pair.path, Fault::None, effort.seed);
    rig.run(effort.time)?;
    let received = rig.received();
    Ok([mbps(received[0], effort.time), mbps(received[1], effort.time)])
}

fn rig(left: Vec<Host>, right: Host, path: Path, fault: Fault, seed: u64) -> Rig {
    let back = Shape {
        rate: path.rate_mbps * 1_000_000,
        queue_bytes: path.queue_bytes(),
        delay: path.one_way(),
        fault: Fault::None,
    };
    Rig::new(left, right, Shape { fault, ..back }, back, seed)
}

fn sender(whose: Whose, address: Ipv4Addr, further: Duration, seed: u64) -> Result<Host> {
    let end = match whose {
        Whose::Linux => {
            let mut kernel = Kernel::new(address, MTU)?;
            kernel.start_source(SERVER)?;
            End::Kernel(kernel)
        }
        _ => End::Stack(stack(whose, address, Role::Source(SERVER), seed)),
    };
    Ok(Host { address, further, end })
}

fn receiver(whose: Whose, seed: u64) -> Result<Host> {
    let end = match whose {
        Whose::Linux => {
            let mut kernel = Kernel::new(RIGHT, MTU)?;
            kernel.start_sink(PORT)?;
            End::Kernel(kernel)
        }
        _ => End::Stack(stack(whose, RIGHT, Role::Sink(PORT), !seed)),
    };
    Ok(Host { address: RIGHT, further: Duration::ZERO, end })
}

fn stack(whose: Whose, address: Ipv4Addr, role: Role, seed: u64) -> Box<dyn Stack> {
    let spec = Spec { address, role, seed, mtu: MTU, buffer: FIXED_BUFFER };
    match whose {
        Whose::Smoltcp => Box::new(Smoltcp::new(&spec)),
        Whose::Ours | Whose::Linux => Box::new(Ours::new(&spec)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate to be read")]
fn mbps(bytes: u64, time: Duration) -> f64 {
    bytes as f64 * 8.0 / 1e6 / time.as_secs_f64()
}
