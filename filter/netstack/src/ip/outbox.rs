//! Packets that the stack makes by itself, outside of any flow's turn to send.

use std::collections::VecDeque;

use crate::Stats;

/// Answers wait here until `poll_transmit`. A flood of requests must not become a flood of memory.
const MAX_PACKETS: usize = 1024;
const MAX_BYTES: usize = 1 << 20;

#[derive(Default)]
pub(crate) struct Outbox {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Outbox {
    pub(crate) fn is_full(&self) -> bool {
        self.packets.len() >= MAX_PACKETS || self.bytes >= MAX_BYTES
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
