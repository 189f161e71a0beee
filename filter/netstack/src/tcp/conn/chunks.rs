//! The bytes to send, in the chunks in which they came.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Less than this is put together with what comes before and after it: a chunk costs more than its bytes.
const LITTLE: usize = 4 << 10;
/// Bytes that are put together.
const TOGETHER: usize = 16 << 10;

/// A queue of bytes: taken in chunks at its end, read anywhere, gone from its front.
#[derive(Default)]
pub(super) struct Chunks {
    /// From the first byte on, until [`Chunks::release`] finds it empty: an idle connection has none.
    held: Option<Box<Held>>,
}

#[derive(Default)]
struct Held {
    chunks: VecDeque<Chunk>,
    /// Positions of the first byte that is left and of the next one to come.
    front: u64,
    end: u64,
    /// Bytes of memory that the chunks and the spare one hold.
    memory: usize,
    /// What bytes were put together in, for the next ones.
    spare: Vec<u8>,
}

/// Where a byte is, until the queue changes.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    index: usize,
    within: usize,
}

struct Chunk {
    /// Position of its first byte.
    start: u64,
    bytes: Kind,
}

enum Kind {
    /// As it came.
    Taken(BytesMut),
    Together(Vec<u8>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Kind::Taken(bytes) => bytes,
            Kind::Together(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.bytes {
            Kind::Taken(bytes) => bytes,
            Kind::Together(bytes) => bytes,
        }
    }
}

impl Chunks {
    /// Takes a chunk without copying it, unless it is a small one.
    pub(super) fn take(&mut self, chunk: BytesMut) {
        if chunk.len() < LITTLE {
            self.copy(&chunk);
            return;
        }
        let held = self.held.get_or_insert_default();
        held.memory += chunk.len();
        let start = held.end;
        held.end += chunk.len() as u64;
        held.chunks.push_back(Chunk { start, bytes: Kind::Taken(chunk) });
    }

    pub(super) fn copy(&mut self, mut data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let held = self.held.get_or_insert_default();
        while !data.is_empty() {
            let Some(Chunk { bytes: Kind::Together(last), .. }) =
                held.chunks.back_mut().filter(|chunk| chunk.bytes().len() < TOGETHER)
            else {
                held.begin(data.len());
                continue;
            };
            let (part, rest) = data.split_at(data.len().min(TOGETHER - last.len()));
            held.memory -= last.capacity();
            if last.capacity() - last.len() < part.len() {
                let grown = (last.len() + part.len()).next_power_of_two().min(TOGETHER);
                last.reserve_exact(grown - last.len());
            }
            last.extend_from_slice(part);
            held.memory += last.capacity();
            held.end += part.len() as u64;
            data = rest;
        }
    }

    /// Where the byte at `offset` from the front is.
    pub(super) fn place(&self, offset: usize) -> Place {
        let Some(held) = &self.held else { return Place::default() };
        let at = held.front + offset as u64;
        let index = held.chunks.partition_point(|chunk| chunk.start <= at).saturating_sub(1);
        let start = held.chunks.get(index).map_or(at, |chunk| chunk.start);
        #[expect(clippy::cast_possible_truncation, reason = "less than a chunk's length")]
        let within = (at - start) as usize;
        Place { index, within }
    }

    /// The `len` bytes from a place on, in pieces; and the place after them.
    pub(super) fn read(&self, mut place: Place, len: usize, mut piece: impl FnMut(&[u8])) -> Place {
        let Some(held) = &self.held else { return place };
        let mut left = len;
        while let Some(chunk) = held.chunks.get(place.index) {
            let rest = chunk.bytes().get(place.within..).unwrap_or_default();
            let some = &rest[..rest.len().min(left)];
            piece(some);
            left -= some.len();
            if left == 0 {
                place.within += some.len();
                break;
            }
            place = Place { index: place.index + 1, within: 0 };
        }
        place
    }

    /// The `len` bytes from a place on with `before` and `after` bytes around them, if all lie in one chunk. Those around are
    /// lent: they may still be wanted.
    pub(super) fn around(
        &mut self,
        place: Place,
        before: usize,
        len: usize,
        after: usize,
    ) -> Option<&mut [u8]> {
        let chunk = self.held.as_mut()?.chunks.get_mut(place.index)?;
        chunk.bytes_mut().get_mut(place.within.checked_sub(before)?..place.within + len + after)
    }

    /// Moves the front on.
    pub(super) fn consume(&mut self, len: usize) {
        let Some(held) = &mut self.held else { return };
        held.front += len as u64;
        while let Some(chunk) = held.chunks.front()
            && chunk.start + chunk.bytes().len() as u64 <= held.front
        {
            let Some(chunk) = held.chunks.pop_front() else { break };
            held.forget(chunk);
        }
    }

    /// Nothing in the queue is wanted any more.
    pub(super) fn clear(&mut self) {
        if let Some(held) = &self.held {
            #[expect(clippy::cast_possible_truncation, reason = "what is in memory can be counted")]
            let len = (held.end - held.front) as usize;
            self.consume(len);
        }
    }

    /// Gives back what is kept for later.
    pub(super) fn release(&mut self) {
        let Some(held) = &mut self.held else { return };
        held.memory -= held.spare.capacity();
        held.spare = Vec::new();
        if held.chunks.is_empty() {
            self.held = None;
        }
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.memory)
    }
}

impl Held {
    /// A chunk in which `len` bytes and what follows are put together.
    fn begin(&mut self, len: usize) {
        let mut bytes = std::mem::take(&mut self.spare);
        self.memory -= bytes.capacity();
        // The first one grows with what comes: most messages are short.
        let many =
            len >= LITTLE || matches!(self.chunks.back(), Some(Chunk { bytes: Kind::Together(_), .. }));
        if many {
            bytes.reserve_exact(TOGETHER);
        }
        self.memory += bytes.capacity();
        self.chunks.push_back(Chunk { start: self.end, bytes: Kind::Together(bytes) });
    }

    fn forget(&mut self, chunk: Chunk) {
        match chunk.bytes {
            Kind::Taken(bytes) => self.memory -= bytes.len(),
            Kind::Together(mut bytes) if bytes.capacity() > self.spare.capacity() => {
                self.memory -= self.spare.capacity();
                bytes.clear();
                self.spare = bytes;
            }
            Kind::Together(bytes) => self.memory -= bytes.capacity(),
        }
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failure is a failed test")]
mod tests {
    use super::*;

    fn contents(chunks: &Chunks, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let half = chunks.read(chunks.place(offset), len / 2, |piece| bytes.extend_from_slice(piece));
        chunks.read(half, len - len / 2, |piece| bytes.extend_from_slice(piece));
        bytes
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect()
    }

    #[test]
    fn bytes_come_out_as_they_went_in_however_they_were_cut() {
        let bytes = pattern(100_000);
        let mut chunks = Chunks::default();
        let (mut at, mut gone) = (0, 0);
        for len in [1, 5000, 4095, 4096, 3, 20_000, 16_384, 1, 1, 40_000].into_iter().cycle() {
            let len = len.min(bytes.len() - at);
            if len == 0 {
                break;
            }
            if len % 2 == 0 {
                chunks.take(BytesMut::from(&bytes[at..at + len]));
            } else {
                chunks.copy(&bytes[at..at + len]);
            }
            at += len;
            for (offset, len) in [(0, at - gone), (at - gone - 1, 1), ((at - gone) / 3, (at - gone) / 2)] {
                assert_eq!(contents(&chunks, offset, len), bytes[gone + offset..gone + offset + len]);
            }
            chunks.consume((at - gone) / 4);
            gone += (at - gone) / 4;
        }
        assert_eq!(contents(&chunks, 0, at - gone), bytes[gone..at]);
        chunks.consume(at - gone);
        chunks.release();
        assert_eq!(chunks.memory(), 0);
    }

    #[test]
    fn a_large_chunk_is_not_copied_and_counts_until_its_last_byte_is_gone() {
        let chunk = BytesMut::from(&pattern(10_000)[..]);
        let there = chunk[9000..].as_ptr();
        let mut chunks = Chunks::default();
        chunks.take(chunk);
        chunks.read(chunks.place(9000), 10, |piece| assert_eq!(piece.as_ptr(), there));
        chunks.consume(9999);
        assert_eq!(chunks.memory(), 10_000);
        chunks.consume(1);
        assert_eq!(chunks.memory(), 0);
    }

    #[test]
    fn bytes_are_lent_with_those_around_them_if_they_are_in_one_chunk() {
        let bytes = pattern(20_000);
        let mut chunks = Chunks::default();
        chunks.take(BytesMut::from(&bytes[..10_000]));
        chunks.take(BytesMut::from(&bytes[10_000..]));
        chunks.consume(100);
        let mut around = |offset: usize, before, len, after| {
            chunks.around(chunks.place(offset), before, len, after).map(|bytes| bytes.to_vec())
        };
        assert_eq!(
            around(200, 300, 1000, 10).unwrap(),
            bytes[..1310],
            "what is gone is there to be written over"
        );
        assert_eq!(around(200, 301, 1000, 10), None);
        assert_eq!(around(9000, 72, 890, 10).unwrap(), bytes[9028..10_000]);
        assert_eq!(around(9000, 72, 890, 11), None);
        assert_eq!(around(9000, 72, 1000, 0), None, "of two chunks");
        assert_eq!(around(9900, 1, 1000, 0), None, "the first of a chunk");
        assert_eq!(around(9900, 0, 1000, 15).unwrap(), bytes[10_000..11_015]);
    }

    #[test]
    fn small_ones_hold_little_more_than_their_bytes() {
        let mut chunks = Chunks::default();
        chunks.copy(&[1; 100]);
        assert!((100..300).contains(&chunks.memory()), "{}", chunks.memory());
        for _ in 0..10_000 {
            chunks.take(BytesMut::from(&[1; 10][..]));
        }
        let (held, memory) = (100_100, chunks.memory());
        assert!(memory >= held && memory <= held + 2 * TOGETHER, "{memory} bytes for {held}");
        chunks.clear();
        assert_eq!(chunks.memory(), TOGETHER, "one is kept");
        chunks.release();
        assert_eq!(chunks.memory(), 0);
    }
}
