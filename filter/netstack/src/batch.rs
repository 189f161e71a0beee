//! Datagrams of one size for one destination, for generic segmentation offload.

use std::net::SocketAddr;

use crate::Transmit;

/// Linux takes at most this many segments in one send.
const MAX_SEGMENTS: usize = 64;
/// Largest payload of one UDP send over IPv4.
const MAX_BYTES: usize = 65_507;

pub(crate) struct Batch<'a> {
    buffer: &'a mut Vec<u8>,
    destination: Option<SocketAddr>,
    segment_size: usize,
    segments: usize,
    closed: bool,
}

impl<'a> Batch<'a> {
    /// An empty batch; clears the buffer.
    pub(crate) fn new(buffer: &'a mut Vec<u8>) -> Self {
        buffer.clear();
        Self { buffer, destination: None, segment_size: 0, segments: 0, closed: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments == 0
    }

    /// Nothing more may be added.
    pub(crate) fn is_full(&self) -> bool {
        self.closed || self.segments >= MAX_SEGMENTS || self.buffer.len() + self.segment_size > MAX_BYTES
    }

    /// How many datagrams of up to `largest` bytes may be added, and one in any case. Those of a batch are of one size.
    pub(crate) fn room(&self, largest: usize) -> u32 {
        let bytes = MAX_BYTES.saturating_sub(self.buffer.len()) / largest.max(1);
        u32::try_from(bytes.min(MAX_SEGMENTS.saturating_sub(self.segments)).max(1)).unwrap_or(1)
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn goes_to(&self, destination: SocketAddr) -> bool {
        self.destination.is_none_or(|ours| ours == destination)
    }

    /// The first datagram.
    pub(crate) fn add(&mut self, destination: SocketAddr, datagram: &[u8]) {
        self.add_with(destination, |buffer| {
            buffer.extend_from_slice(datagram);
            true
        });
    }

    /// Lets `write` append one datagram, unless it declines. A datagram that does not fit to those before it is taken out
    /// again and returned: it starts the next batch.
    pub(crate) fn add_with(
        &mut self,
        destination: SocketAddr,
        write: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> Option<Vec<u8>> {
        let start = self.buffer.len();
        if !write(self.buffer) {
            self.buffer.truncate(start);
            return None;
        }
        let len = self.buffer.len() - start;
        let fits = !self.closed && len <= self.segment_size && self.buffer.len() <= MAX_BYTES;
        if self.segments > 0 && !fits {
            self.closed = true;
            return Some(self.buffer.split_off(start));
        }
        if self.segments == 0 {
            self.segment_size = len;
            self.destination = Some(destination);
        }
        self.segments += 1;
        // Only the last one may be shorter.
        self.closed |= len < self.segment_size;
        None
    }

    /// Datagrams, bytes, and how to send them.
    pub(crate) fn finish(self) -> Option<(usize, usize, Transmit)> {
        let segment_size = (self.segments > 1).then_some(self.segment_size);
        let transmit = Transmit { destination: self.destination?, segment_size };
        Some((self.segments, self.buffer.len(), transmit))
    }
}
