//! Whole packets that wait to be sent, outside of any TCP flow's turn.

use std::collections::VecDeque;

use crate::Stats;

/// Answers wait here until `poll_transmit`. A flood of requests must not become a flood of memory.
const MAX_PACKETS: usize = 1024;
const MAX_BYTES: usize = 1 << 20;

pub(crate) struct Outbox {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
    max_packets: usize,
    max_bytes: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new(MAX_PACKETS, MAX_BYTES)
    }
}

impl Outbox {
    pub(crate) const fn new(max_packets: usize, max_bytes: usize) -> Self {
        Self { packets: VecDeque::new(), bytes: 0, max_packets, max_bytes }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.packets.len() >= self.max_packets || self.bytes >= self.max_bytes
    }

    /// False (and counted) when there is no room.
    pub(crate) fn push(&mut self, packet: Vec<u8>, stats: &mut Stats) -> bool {
        if self.is_full() {
            stats.queue_full += 1;
            return false;
        }
        self.bytes += packet.len();
        self.packets.push_back(packet);
        true
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    /// Puts back what `pop` gave.
    pub(crate) fn unpop(&mut self, packet: Vec<u8>) {
        self.bytes += packet.len();
        self.packets.push_front(packet);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}
