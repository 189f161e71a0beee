//! Received datagrams until their owners take them.

use std::collections::VecDeque;

use crate::UdpFlowId;

/// The owner takes everything at every turn, so this is what one turn may bring: with GRO, many small ones.
const MAX_DATAGRAMS: usize = 16_384;
const MAX_BYTES: usize = 4 << 20;
/// An empty queue does not keep more than this.
const KEPT_BYTES: usize = 128 << 10;

/// Payloads one behind the other, so that a datagram costs a copy and no allocation.
#[derive(Default)]
pub(super) struct Received {
    datagrams: VecDeque<(UdpFlowId, usize)>,
    bytes: VecDeque<u8>,
}

impl Received {
    /// False: there is no room.
    pub(super) fn push(&mut self, flow: UdpFlowId, payload: &[u8]) -> bool {
        if self.datagrams.len() >= MAX_DATAGRAMS || self.bytes.len() + payload.len() > MAX_BYTES {
            return false;
        }
        self.datagrams.push_back((flow, payload.len()));
        self.bytes.extend(payload);
        true
    }

    /// Whose datagram is next.
    pub(super) fn front(&self) -> Option<UdpFlowId> {
        self.datagrams.front().map(|&(flow, _)| flow)
    }

    /// Takes out the next datagram and appends it to `out`.
    pub(super) fn pop(&mut self, out: Option<&mut Vec<u8>>) {
        let Some((_, len)) = self.datagrams.pop_front() else { return };
        if let Some(out) = out {
            let (first, second) = self.bytes.as_slices();
            let split = len.min(first.len());
            out.extend_from_slice(&first[..split]);
            out.extend_from_slice(&second[..len - split]);
        }
        self.bytes.drain(..len);
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BYTES {
            *self = Self { datagrams: std::mem::take(&mut self.datagrams), bytes: VecDeque::new() };
        }
    }
}
