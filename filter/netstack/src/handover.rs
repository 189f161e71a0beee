//! What the stacks of one interface give to each other, when it has several ([`Shard`](crate::Shard)).
//!
//! * WireGuard datagrams that arrived at another stack than that of their peer. The kernel chooses by the receiver index, as far
//!   as it can be told to; a handshake initiation has none, so the first stack reads whom it is from.
//! * Inner packets that are not TCP: UDP and echo belong to the first stack, for all peers. They are whole: the stack of the
//!   peer puts their fragments together, so that its share of that memory stays its peers' own.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::Stats;

/// Bounds of what waits to be fetched: more than the datagrams of one system call.
const MAX_COUNT: usize = 4096;
const MAX_BYTES: usize = 4 << 20;

/// Something for another stack of the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handover {
    /// A WireGuard datagram from one of its peers.
    Datagram {
        /// Where it came from.
        remote: SocketAddr,
        /// Its bytes.
        datagram: Vec<u8>,
    },
    /// A whole inner packet from a peer of the stack that hands it over, which has checked its source.
    Received(Vec<u8>),
    /// A whole inner packet to one of its peers.
    Send(Vec<u8>),
}

impl Handover {
    /// Its bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Datagram { datagram: bytes, .. } | Self::Received(bytes) | Self::Send(bytes) => bytes.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What waits to be fetched, and for which stack it is.
#[derive(Default)]
pub(crate) struct Handovers {
    queue: VecDeque<(usize, Handover)>,
    bytes: usize,
}

impl Handovers {
    pub(crate) fn push(&mut self, shard: usize, handover: Handover, stats: &mut Stats) {
        if self.queue.len() >= MAX_COUNT || self.bytes + handover.len() > MAX_BYTES {
            stats.handover_full += 1;
            return;
        }
        stats.handed_over += 1;
        self.bytes += handover.len();
        self.queue.push_back((shard, handover));
    }

    pub(crate) fn pop(&mut self) -> Option<(usize, Handover)> {
        let (shard, handover) = self.queue.pop_front()?;
        self.bytes -= handover.len();
        Some((shard, handover))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_fetches_is_bounded() {
        for (len, most) in [(10, MAX_COUNT), (65_000, MAX_BYTES / 65_000)] {
            let (mut handovers, mut stats) = (Handovers::default(), Stats::default());
            for _ in 0..MAX_COUNT + 10 {
                handovers.push(1, Handover::Send(vec![0; len]), &mut stats);
            }
            assert_eq!(stats.handed_over, most as u64);
            assert_eq!(stats.handover_full, (MAX_COUNT + 10 - most) as u64);
            assert_eq!(std::iter::from_fn(|| handovers.pop()).count(), most);
            assert_eq!(handovers.bytes, 0);
        }
    }
}
