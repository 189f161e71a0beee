//! TCP options (RFC 9293 section 3.2, RFC 7323, RFC 2018).

use super::seq::Seq;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// The largest shift of a window (RFC 7323, section 2.3).
pub(super) const MAX_SHIFT: u8 = 14;
/// Bytes of the timestamps option with its padding.
pub(super) const TIMESTAMPS_LEN: u32 = 12;
/// Ranges that one segment can report.
pub(super) const MAX_BLOCKS: usize = 4;

/// A range of sequence numbers: first, and one past the last.
pub(super) type Block = (Seq, Seq);

/// What a received segment's options say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    /// Largest segment the peer takes. In SYNs only.
    pub(super) mss: Option<u16>,
    /// Shift of the peer's windows. In SYNs only.
    pub(super) shift: Option<u8>,
    /// In SYNs only.
    pub(super) sack_permitted: bool,
    /// Value and echo.
    pub(super) timestamps: Option<(u32, u32)>,
    blocks: [Block; MAX_BLOCKS],
    block_count: u8,
}

impl Options {
    pub(super) fn parse(mut bytes: &[u8], syn: bool) -> Self {
        let mut options = Self::default();
        // What nearly every segment carries, in the layout that RFC 7323 (appendix A) recommends.
        if let [NOP, NOP, TIMESTAMPS, 10, v0, v1, v2, v3, e0, e1, e2, e3] = *bytes {
            options.timestamps =
                Some((u32::from_be_bytes([v0, v1, v2, v3]), u32::from_be_bytes([e0, e1, e2, e3])));
            return options;
        }
        while let [kind, rest @ ..] = bytes {
            match *kind {
                END => break,
                NOP => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let Some(len) = rest.first().map(|&len| usize::from(len)).filter(|&len| len >= 2) else { break };
            let Some(value) = bytes.get(2..len) else { break };
            options.take(*kind, value, syn);
            bytes = &bytes[len..];
        }
        options
    }

    fn take(&mut self, kind: u8, value: &[u8], syn: bool) {
        match (kind, value) {
            (MSS, &[high, low]) if syn => self.mss = Some(u16::from_be_bytes([high, low])),
            (WINDOW_SCALE, &[shift]) if syn => self.shift = Some(shift.min(MAX_SHIFT)),
            (SACK_PERMITTED, []) if syn => self.sack_permitted = true,
            (TIMESTAMPS, &[v0, v1, v2, v3, e0, e1, e2, e3]) => {
                self.timestamps =
                    Some((u32::from_be_bytes([v0, v1, v2, v3]), u32::from_be_bytes([e0, e1, e2, e3])));
            }
            (SACK, blocks) if blocks.len() % 8 == 0 => {
                for (slot, block) in self.blocks.iter_mut().zip(blocks.chunks_exact(8)) {
                    let word = |at: usize| {
                        u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
                    };
                    *slot = (Seq(word(0)), Seq(word(4)));
                }
                self.block_count = u8::try_from((blocks.len() / 8).min(MAX_BLOCKS)).unwrap_or_default();
            }
            _ => {}
        }
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks[..usize::from(self.block_count)]
    }
}

/// Options of a segment to send, padded to words.
pub(super) struct Written {
    bytes: [u8; 40],
    len: usize,
}

impl Written {
    pub(super) fn new() -> Self {
        Self { bytes: [NOP; 40], len: 0 }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn mss(&mut self, mss: u16) {
        let [high, low] = mss.to_be_bytes();
        self.push(&[MSS, 4, high, low]);
    }

    pub(super) fn shift(&mut self, shift: u8) {
        self.push(&[NOP, WINDOW_SCALE, 3, shift]);
    }

    pub(super) fn sack_permitted(&mut self) {
        self.push(&[NOP, NOP, SACK_PERMITTED, 2]);
    }

    pub(super) fn timestamps(&mut self, value: u32, echo: u32) {
        self.push(&[NOP, NOP, TIMESTAMPS, 10]);
        self.push(&value.to_be_bytes());
        self.push(&echo.to_be_bytes());
    }

    /// As many of the blocks as fit.
    pub(super) fn sack(&mut self, blocks: impl ExactSizeIterator<Item = Block>) {
        let room = (self.bytes.len() - self.len).saturating_sub(4) / 8;
        let fits = blocks.len().min(room);
        if fits == 0 {
            return;
        }
        self.push(&[NOP, NOP, SACK, u8::try_from(2 + 8 * fits).unwrap_or_default()]);
        for (start, end) in blocks.take(fits) {
            self.push(&start.0.to_be_bytes());
            self.push(&end.0.to_be_bytes());
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(space) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            space.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut written = Written::new();
        written.mss(1380);
        written.sack_permitted();
        written.timestamps(7, 9);
        written.shift(5);
        let read = Options::parse(written.as_slice(), true);
        assert_eq!(
            (read.mss, read.shift, read.sack_permitted, read.timestamps),
            (Some(1380), Some(5), true, Some((7, 9)))
        );
        let read = Options::parse(written.as_slice(), false);
        assert_eq!(
            (read.mss, read.shift, read.sack_permitted, read.timestamps),
            (None, None, false, Some((7, 9)))
        );
        let blocks = [(Seq(1), Seq(2)), (Seq(5), Seq(9)), (Seq(11), Seq(12)), (Seq(20), Seq(30))];
        let mut written = Written::new();
        written.timestamps(1, 2);
        written.sack(blocks.into_iter());
        assert_eq!(
            (written.as_slice().len(), Options::parse(written.as_slice(), false).blocks()),
            (40, &blocks[..3])
        );
        let mut written = Written::new();
        written.sack(blocks.into_iter());
        assert_eq!(Options::parse(written.as_slice(), false).blocks(), blocks);
    }

    #[test]
    fn nonsense_is_as_good_as_nothing() {
        for bytes in [
            &[MSS][..],
            &[MSS, 0],
            &[MSS, 1, 0, 0],
            &[MSS, 3, 1],
            &[MSS, 200, 1, 1],
            &[TIMESTAMPS, 3, 1],
            &[SACK, 9, 1, 1, 1, 1, 1, 1, 1],
            &[END, MSS, 4, 1, 1],
            &[254, 4, 1, 1],
        ] {
            let read = Options::parse(bytes, true);
            assert_eq!((read.mss, read.timestamps, read.blocks().len()), (None, None, 0), "{bytes:?}");
        }
        assert_eq!(Options::parse(&[WINDOW_SCALE, 3, 200], true).shift, Some(MAX_SHIFT));
    }
}
