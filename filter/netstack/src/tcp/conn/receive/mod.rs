//! The receiving side: what has arrived, in order and ahead of it.

mod window;

use bytes::Bytes;

use super::duplicates::Duplicates;
use super::options::{Block, MAX_BLOCKS};
use super::pages::{PAGE, Pages};
use super::seq::{Seq, count};

/// Separate ranges ahead of a hole. A sender that loses every other segment of a window needs more, and sends what does not
/// fit again.
pub(super) const MAX_RANGES: usize = 256;

/// Bytes ahead of a hole.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: Seq,
    end: Seq,
    /// Grows with every arrival: reports begin with the newest (RFC 2018, section 4).
    news: u32,
}

/// The bytes of a segment that goes on with the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next<'a> {
    Bytes(&'a [u8]),
    /// So many, which are in their place: see [`Connection::space_for_next`](super::Connection::space_for_next).
    InPlace(usize),
}

impl Next<'_> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::InPlace(len) => len,
        }
    }
}

/// What a segment has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// The stream has grown by bytes or by its end.
    pub(super) advanced: bool,
    /// The sender has to know at once: something is missing, was missing, or came twice.
    pub(super) urgent: bool,
    /// No room for one more range.
    pub(super) dropped: bool,
}

pub(super) struct Receiver {
    /// The next number expected.
    pub(super) nxt: Seq,
    /// The first byte that was not handed out.
    read: Seq,
    /// The furthest end of a window that was announced. It never comes back (RFC 9293, section 3.8.6.2.1), although what a
    /// header can say of it is rounded down (RFC 7323, section 2.4).
    edge: Seq,
    /// Of the windows in headers; zero where the peer has not agreed to it.
    pub(super) shift: u8,
    /// Size of the buffer.
    pub(super) limit: u32,
    /// Memory is scarce: the window does not move on while more than a page waits.
    pub(super) pressed: bool,
    pages: Pages,
    ranges: Vec<Range>,
    news: u32,
    duplicates: Duplicates,
    /// Where the peer's stream ends.
    fin: Option<Seq>,
    /// Everything up to the end has arrived.
    pub(super) finished: bool,
    /// The largest payload so far: what a full segment is.
    pub(super) mss: u32,
}

impl Receiver {
    /// `shift`: of the windows to announce, if the peer agrees.
    pub(super) fn new(limit: u32, shift: u8) -> Self {
        Self {
            nxt: Seq(0),
            read: Seq(0),
            edge: Seq(0),
            shift,
            limit,
            pressed: false,
            pages: Pages::default(),
            ranges: Vec::new(),
            news: 0,
            duplicates: Duplicates::default(),
            fin: None,
            finished: false,
            mss: 536,
        }
    }

    /// The peer's SYN.
    pub(super) fn open(&mut self, irs: Seq) {
        self.nxt = irs + 1;
        self.read = self.nxt;
        // What a SYN of ours has announced, or the answer will.
        self.edge = self.nxt + self.limit.min(u16::MAX.into());
    }

    pub(super) fn available(&self) -> u32 {
        (self.nxt - self.read).wrapping_sub(u32::from(self.finished))
    }

    /// Gives back the memory that is kept for bytes to come.
    pub(super) fn release(&mut self) {
        self.pages.release();
    }

    /// Nothing more will come: what waits ahead of a hole is of no use.
    pub(super) fn close(&mut self) {
        self.ranges = Vec::new();
        if self.available() == 0 {
            self.pages.clear();
        }
        self.pages.release();
    }

    pub(super) fn memory(&self) -> usize {
        self.pages.memory()
    }

    /// Whether bytes at `start` need memory that is not held, and begin more than `most` pages behind what was read.
    pub(super) fn grows_beyond(&self, most: usize, start: Seq, len: u32) -> bool {
        let end = (start + len).earliest(self.edge);
        self.pages.grow_beyond(most, start.beyond(self.read) as usize, end.beyond(self.read) as usize)
    }

    /// Whether the next `len` bytes are nothing to think about.
    fn is_simple(&self, len: u32) -> bool {
        len <= self.window_left() && self.ranges.is_empty() && self.fin.is_none()
    }

    /// The next bytes. False, and nothing has happened: there is more to think about.
    pub(super) fn take_next(&mut self, payload: Next<'_>) -> bool {
        let len = count(payload.len());
        if !self.is_simple(len) {
            return false;
        }
        if let Next::Bytes(bytes) = payload {
            self.pages.write(self.available() as usize, bytes);
        }
        self.mss = self.mss.max(len);
        self.nxt = self.nxt + len;
        true
    }

    /// Where the next `len` bytes belong, with `before` bytes ahead of them that may be wanted, and `after` bytes behind them
    /// that are free.
    pub(super) fn space_for_next(&mut self, before: usize, len: usize, after: usize) -> Option<&mut [u8]> {
        let at = self.available() as usize;
        if self.is_simple(count(len)) { self.pages.around(at, before, len, after) } else { None }
    }

    /// Bytes at `seq`, and `fin` behind them.
    pub(super) fn take(&mut self, seq: Seq, mut payload: &[u8], fin: bool) -> Taken {
        let mut taken = Taken::default();
        self.mss = self.mss.max(count(payload.len()));
        let end = seq + count(payload.len());
        // One that comes in order is the peer's, whatever came ahead of it.
        let counts = self.fin.is_none() || !seq.is_after(self.nxt);
        if fin && counts && !end.is_before(self.nxt) && !end.is_after(self.edge) {
            self.fin = Some(end);
        }
        let last = self.fin.unwrap_or(self.edge).earliest(self.edge);
        // What is there already, and what is too much.
        let start = seq.latest(self.nxt.earliest(end));
        if start != seq {
            self.duplicates.push((seq, start));
            taken.urgent = true;
            payload = payload.get((start - seq) as usize..).unwrap_or_default();
        }
        let room = last.beyond(start) as usize;
        payload = &payload[..payload.len().min(room)];
        if payload.is_empty() {
            taken.urgent |= end.is_after(last);
        } else if start == self.nxt {
            self.append(payload, &mut taken);
        } else {
            self.keep(start, payload, &mut taken);
        }
        if let Some(fin) = self.fin.filter(|&fin| !self.finished && !self.nxt.is_before(fin)) {
            self.nxt = fin + 1;
            self.edge = self.edge.latest(self.nxt);
            self.finished = true;
            // Nothing comes after the end.
            self.ranges = Vec::new();
            taken.advanced = true;
            taken.urgent = true;
        } else if fin && !self.finished {
            taken.urgent = true;
        }
        taken
    }

    fn append(&mut self, payload: &[u8], taken: &mut Taken) {
        self.pages.write(self.available() as usize, payload);
        self.nxt = self.nxt + count(payload.len());
        taken.advanced = true;
        if self.ranges.is_empty() {
            return;
        }
        taken.urgent = true;
        let reached = self.ranges.partition_point(|range| !range.start.is_after(self.nxt));
        for range in self.ranges.drain(..reached) {
            self.nxt = self.nxt.latest(range.end);
        }
        if self.ranges.is_empty() {
            self.ranges = Vec::new();
        }
    }

    fn keep(&mut self, start: Seq, payload: &[u8], taken: &mut Taken) {
        let end = start + count(payload.len());
        taken.urgent = true;
        // Ranges that this one touches become one with it.
        let first = self.ranges.partition_point(|range| range.end.is_before(start));
        let after = self.ranges.partition_point(|range| !range.start.is_after(end));
        if first == after && self.ranges.len() >= MAX_RANGES {
            taken.dropped = true;
            return;
        }
        self.news = self.news.wrapping_add(1);
        let mut range = Range { start, end, news: self.news };
        if let Some(touched) = self.ranges.get(first..after) {
            for other in touched {
                if !start.is_before(other.start) && !end.is_after(other.end) {
                    self.duplicates.push((start, end));
                }
                range.start = range.start.earliest(other.start);
                range.end = range.end.latest(other.end);
            }
        }
        self.ranges.splice(first..after, [range]);
        self.pages.write((start - self.read) as usize, payload);
    }

    /// A segment that lies before the window.
    pub(super) fn repeated(&mut self, start: Seq, end: Seq) {
        if !end.is_after(self.nxt) && start != end {
            self.duplicates.push((start, end));
        }
    }

    /// Nothing to tell but how far the stream has come.
    pub(super) fn has_blocks(&self) -> bool {
        !self.ranges.is_empty() || self.has_duplicates()
    }

    /// Something came twice, and the sender does not know.
    pub(super) const fn has_duplicates(&self) -> bool {
        !self.duplicates.is_empty()
    }

    /// What to report, most important first; how many of it are there.
    pub(super) fn blocks(&mut self) -> ([Block; MAX_BLOCKS], usize) {
        let mut blocks = [(Seq(0), Seq(0)); MAX_BLOCKS];
        let mut filled = 0;
        // What came twice stands first (RFC 2883, section 4), and is told once.
        if let Some(duplicate) = self.duplicates.pop() {
            blocks[0] = duplicate;
            filled = 1;
        }
        let mut below = None;
        while filled < MAX_BLOCKS {
            let older = self.ranges.iter().filter(|range| below.is_none_or(|news| range.news < news));
            let Some(newest) = older.max_by_key(|range| range.news) else { break };
            below = Some(newest.news);
            blocks[filled] = (newest.start, newest.end);
            filled += 1;
        }
        (blocks, filled)
    }

    pub(super) fn read(&mut self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.available() as usize);
        let mut filled = 0;
        self.pages.read(0, len, |piece| {
            out[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        });
        self.read = self.read + count(filled);
        if self.available() == 0 && self.ranges.is_empty() {
            self.pages.clear();
        } else {
            self.pages.consume(filled);
        }
        filled
    }

    pub(super) fn read_chunk(&mut self) -> Bytes {
        let last = self.ranges.is_empty();
        let chunk = self.pages.take(self.available() as usize, last);
        self.read = self.read + count(chunk.len());
        if self.available() == 0 && last {
            self.pages.clear();
        }
        chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver() -> Receiver {
        let mut receiver = Receiver::new(10_000, 0);
        receiver.open(Seq(u32::MAX - 1000));
        receiver.announce();
        receiver
    }

    fn at(offset: u32) -> Seq {
        Seq(u32::MAX - 999) + offset
    }

    fn told(receiver: &mut Receiver) -> Vec<(u32, u32)> {
        let (blocks, filled) = receiver.blocks();
        blocks[..filled].iter().map(|&(start, end)| (start - at(0), end - at(0))).collect()
    }

    #[test]
    fn ranges_join_and_the_newest_is_told_first() {
        let mut receiver = receiver();
        for (start, len) in [(2000, 100), (4000, 100), (6000, 100), (2100, 100)] {
            assert!(receiver.take(at(start), &[1; 100][..len], false).urgent);
        }
        assert_eq!(told(&mut receiver), [(2000, 2200), (6000, 6100), (4000, 4100)]);
        receiver.take(at(4050), &[1; 20], false);
        assert_eq!(told(&mut receiver), [(4050, 4070), (4000, 4100), (2000, 2200), (6000, 6100)]);
        let taken = receiver.take(at(0), &[1; 2000], false);
        assert!(taken.advanced && taken.urgent);
        assert_eq!((receiver.available(), told(&mut receiver)), (2200, vec![(4000, 4100), (6000, 6100)]));
    }

    #[test]
    fn the_end_is_taken_when_everything_before_it_is_there() {
        let mut receiver = receiver();
        assert!(!receiver.take(at(100), &[2; 100], true).advanced);
        assert!(!receiver.finished);
        assert!(receiver.take(at(0), &[1; 150], false).advanced);
        assert!(receiver.finished);
        assert_eq!((receiver.available(), receiver.nxt), (200, at(201)));
        receiver.take(at(201), &[9; 100], false);
        assert_eq!((receiver.available(), receiver.nxt), (200, at(201)));
        let mut out = [0; 300];
        assert_eq!(receiver.read(&mut out), 200);
        assert_eq!((&out[..150], &out[150..200]), (&[1; 150][..], &[2; 50][..]));
        assert_eq!((receiver.available(), receiver.memory()), (0, 0));
    }

    #[test]
    fn the_window_ends_where_it_was_announced() {
        let mut receiver = receiver();
        receiver.take(at(0), &[1; 9000], false);
        assert_eq!(receiver.announce(), 1000);
        receiver.take(at(9000), &[1; 5000], false);
        assert_eq!((receiver.available(), receiver.announce()), (10_000, 0));
        assert!(receiver.accepts(at(10_000), at(10_000)) && !receiver.accepts(at(10_000), at(10_001)));
        receiver.read(&mut [0; 400]);
        assert_eq!((receiver.announce(), receiver.window_is_news()), (0, false));
        receiver.read(&mut [0; 9600]);
        assert!(receiver.window_is_news());
        assert_eq!((receiver.announce(), receiver.memory()), (10_000, PAGE));
        receiver.release();
        assert_eq!(receiver.memory(), 0);
    }

    #[test]
    fn ranges_are_bounded() {
        let mut receiver = Receiver::new(1 << 20, 5);
        receiver.open(Seq(0));
        receiver.announce();
        let ranges = count(MAX_RANGES);
        for n in 0..ranges {
            assert!(!receiver.take(Seq(100 + n * 10), &[1; 5], false).dropped);
        }
        assert!(receiver.take(Seq(100 + ranges * 10), &[1; 5], false).dropped);
        assert!(!receiver.take(Seq(105), &[1; 5], false).dropped, "joins two");
        assert!(!receiver.take(Seq(100 + ranges * 10), &[1; 5], false).dropped);
    }
}
