//! A queue of bytes in pages: it holds about as much memory as it holds bytes, and nothing when it is empty.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

/// Bytes per page: a dozen segments for one allocation.
pub(super) const PAGE: usize = 16 << 10;

/// Bytes from a front that moves on, written at any distance from it.
#[derive(Default)]
pub(super) struct Pages {
    /// From the first byte on, until [`Pages::release`] finds it empty: an idle connection has none.
    held: Option<Box<Held>>,
}

#[derive(Default)]
struct Held {
    pages: VecDeque<Vec<u8>>,
    /// Bytes of the first page that are gone.
    skip: usize,
    /// The page that was freed last, for the next one that is needed.
    spare: Option<Vec<u8>>,
    /// A page was taken, so that much comes: the next one is a whole one from the start.
    much: bool,
}

impl Pages {
    /// Writes at `offset` from the front. What lies between older bytes and these is undefined until it is written.
    pub(super) fn write(&mut self, offset: usize, mut data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let held = self.held.get_or_insert_default();
        let mut at = held.skip + offset;
        while !data.is_empty() {
            let (index, within) = (at / PAGE, at % PAGE);
            while held.pages.len() <= index {
                held.add();
            }
            let (part, rest) = data.split_at(data.len().min(PAGE - within));
            let page = &mut held.pages[index];
            let needed = within + part.len();
            if page.capacity() < needed {
                // By powers of two: by itself it would grow past a page.
                page.reserve_exact(needed.next_power_of_two() - page.len());
            }
            if page.len() < within {
                page.resize(within, 0);
            }
            let over = part.len().min(page.len() - within);
            page[within..within + over].copy_from_slice(&part[..over]);
            page.extend_from_slice(&part[over..]);
            data = rest;
            at += part.len();
        }
    }

    /// The `len` bytes from `offset` on with `before` and `after` bytes around them, to be written in place. `None`: they are
    /// not all in a page that is there at its full size.
    pub(super) fn around(
        &mut self,
        offset: usize,
        before: usize,
        len: usize,
        after: usize,
    ) -> Option<&mut [u8]> {
        let held = self.held.as_mut()?;
        let at = held.skip + offset;
        let (start, end) = ((at % PAGE).checked_sub(before)?, at % PAGE + len + after);
        let page = held.pages.get_mut(at / PAGE).filter(|page| page.capacity() >= PAGE && end <= PAGE)?;
        if page.len() < end {
            page.resize(end, 0);
        }
        page.get_mut(start..end)
    }

    /// The bytes from `offset` on for `len`, in pieces.
    pub(super) fn read(&self, offset: usize, len: usize, mut take: impl FnMut(&[u8])) {
        let Some(held) = &self.held else { return };
        let (mut at, mut left) = (held.skip + offset, len);
        while left > 0 {
            let within = at % PAGE;
            let some = left.min(PAGE - within);
            let Some(piece) = held.pages.get(at / PAGE).and_then(|page| page.get(within..within + some))
            else {
                return;
            };
            take(piece);
            at += some;
            left -= some;
        }
    }

    /// Takes bytes from the front, of which the first `len` count: as they lie in a page if it can go with them, else a copy.
    /// `last`: nothing in the queue lies beyond `len`.
    pub(super) fn take(&mut self, len: usize, last: bool) -> Bytes {
        let Some(held) = &mut self.held else { return Bytes::new() };
        let skip = held.skip;
        let some = len.min(PAGE - skip);
        // A page that other bytes will come to stays, and one that is mostly empty holds too much for its bytes.
        let goes = skip + some == PAGE || (last && some == len && some >= PAGE / 2);
        if goes && let Some(page) = held.pages.pop_front() {
            held.skip = 0;
            held.much = true;
            let mut bytes = Bytes::from(page);
            bytes.truncate(skip + some);
            bytes.advance(skip);
            return bytes;
        }
        let page = held.pages.front().map(Vec::as_slice).unwrap_or_default();
        let bytes = Bytes::copy_from_slice(page.get(skip..skip + some).unwrap_or_default());
        self.consume(bytes.len());
        bytes
    }

    /// Moves the front on.
    pub(super) fn consume(&mut self, len: usize) {
        let Some(held) = &mut self.held else { return };
        held.skip += len;
        while held.skip >= PAGE {
            held.skip -= PAGE;
            if let Some(mut page) = held.pages.pop_front() {
                page.clear();
                held.spare = Some(page);
            }
        }
    }

    /// Nothing in the queue is wanted any more. After more than a page has passed, one stays for what comes next:
    /// [`Self::release`] gives it back.
    pub(super) fn clear(&mut self) {
        let Some(held) = &mut self.held else { return };
        while let Some(mut page) = held.pages.pop_front() {
            page.clear();
            // The largest one: a page that was never filled is a small one.
            if held.spare.as_ref().map_or(PAGE / 2, Vec::capacity) < page.capacity() {
                held.spare = Some(page);
            }
        }
        held.skip = 0;
        if held.spare.is_none() {
            held.pages = VecDeque::new();
        }
    }

    /// Gives back what is kept for later.
    pub(super) fn release(&mut self) {
        let Some(held) = &mut self.held else { return };
        held.spare = None;
        held.much = false;
        if held.pages.is_empty() {
            self.held = None;
        }
    }

    /// Whether bytes from `start` to `end` need a page that is not held, and begin behind the first `most` pages.
    pub(super) fn grow_beyond(&self, most: usize, start: usize, end: usize) -> bool {
        let (pages, skip) = self.held.as_ref().map_or((0, 0), |held| (held.pages.len(), held.skip));
        (skip + end).div_ceil(PAGE) > pages && (skip + start) / PAGE >= most
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.held.as_ref().map_or(0, |held| (held.pages.len() + usize::from(held.spare.is_some())) * PAGE)
    }
}

impl Held {
    fn add(&mut self) {
        let page = match self.spare.take() {
            Some(page) => page,
            // A first page grows with what comes: most messages are short.
            None if self.pages.is_empty() && !self.much => Vec::new(),
            None => Vec::with_capacity(PAGE),
        };
        self.pages.push_back(page);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failure is a failed test")]
mod tests {
    use super::*;

    fn contents(pages: &Pages, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        pages.read(offset, len, |piece| bytes.extend_from_slice(piece));
        bytes
    }

    #[test]
    fn bytes_around_are_those_of_one_large_page() {
        let mut pages = Pages::default();
        assert!(pages.around(0, 0, 10, 0).is_none(), "no page");
        pages.write(0, &[1; 100]);
        assert!(pages.around(100, 10, 10, 0).is_none(), "a small page");
        pages.write(100, &[1; PAGE]);
        pages.around(200, 72, 990, 10).unwrap().fill(2);
        assert_eq!(contents(&pages, 127, 1074), [vec![1], vec![2; 1072], vec![1]].concat());
        assert!(pages.around(71, 72, 1000, 0).is_none() && pages.around(72, 72, 1000, 0).is_some());
        pages.consume(50);
        assert!(pages.around(22, 72, 1000, 0).is_some(), "what is gone is still there");
        assert!(
            pages.around(PAGE - 1050, 72, 1000, 0).is_some()
                && pages.around(PAGE - 1049, 72, 999, 1).is_none()
        );
        // The second page has but the bytes that were written: more appear when asked for.
        assert_eq!(pages.around(PAGE + 50, 72, 999, 1).unwrap().len(), 1072);
    }

    #[test]
    fn no_page_is_larger_than_one_and_after_much_the_next_is_as_large() {
        let mut pages = Pages::default();
        let capacity = |pages: &Pages| pages.held.as_ref().unwrap().pages[0].capacity();
        for n in 0..17 {
            pages.write(n * 1023, &[7; 1023]);
            assert!(capacity(&pages) <= PAGE, "{}", capacity(&pages));
        }
        assert_eq!(pages.take(17 * 1023, true).len(), PAGE);
        assert_eq!(pages.take(17 * 1023 - PAGE, true).len(), 17 * 1023 - PAGE);
        pages.clear();
        pages.release();
        pages.write(0, &[1; 100]);
        assert_eq!(capacity(&pages), 128);
        pages.write(100, &[1; 9000]);
        assert_eq!(pages.take(9100, true).len(), 9100);
        pages.write(0, &[1; 100]);
        assert_eq!(capacity(&pages), PAGE);
    }

    #[test]
    fn what_is_written_out_of_order_is_read_in_order() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let mut pages = Pages::default();
        for start in (0..bytes.len()).step_by(1000).rev() {
            pages.write(start, &bytes[start..start + 1000]);
            pages.write(start.saturating_sub(300), &bytes[start.saturating_sub(300)..start]);
        }
        assert_eq!(contents(&pages, 0, bytes.len()), bytes);
        pages.consume(40_001);
        assert_eq!(contents(&pages, 17, 50_000), bytes[40_018..90_018]);
        assert_eq!(pages.memory(), 6 * PAGE, "five and the spare one");
        pages.clear();
        assert_eq!(pages.memory(), PAGE);
        pages.release();
        assert_eq!(pages.memory(), 0);
    }
}
