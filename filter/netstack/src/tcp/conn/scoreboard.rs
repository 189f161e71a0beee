//! What was sent and is not acknowledged: one entry per segment, with when it was sent and what became of it.

use std::collections::VecDeque;

use super::options::Block;
use super::seq::Seq;
use crate::Instant;

/// Entries for which memory is kept while nothing is on the way.
const KEPT: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// On the way, as far as anybody knows.
    Flying,
    /// Arrived (SACK).
    Sacked,
    /// Taken for lost and not sent again yet.
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) start: Seq,
    pub(super) end: Seq,
    /// When it was sent last.
    pub(super) at: Instant,
    pub(super) fate: Fate,
    /// Sent more than once.
    pub(super) again: bool,
    /// Of one that has arrived: this many entries from it on have arrived, or more.
    run: u16,
}

impl Sent {
    pub(super) fn len(&self) -> u32 {
        self.end - self.start
    }
}

#[derive(Default)]
pub(super) struct Scoreboard {
    entries: VecDeque<Sent>,
    /// Bytes of each fate.
    flying: u32,
    lost: u32,
    sacked: u32,
    /// Segments that were SACKed.
    sacked_segments: u32,
    /// No entry before this one is lost.
    lost_from: Seq,
    /// The block of the last acknowledgement that reached furthest: it is in the entries already.
    known: Option<Block>,
}

impl Scoreboard {
    /// Bytes on the way: sent, not known to have arrived, not taken for lost.
    pub(super) fn flying(&self) -> u32 {
        self.flying
    }

    pub(super) fn lost(&self) -> u32 {
        self.lost
    }

    pub(super) fn sacked_segments(&self) -> u32 {
        self.sacked_segments
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn front(&self) -> Option<&Sent> {
        self.entries.front()
    }

    pub(super) fn back(&self) -> Option<&Sent> {
        self.entries.back()
    }

    /// Gives back what is kept for entries to come.
    pub(super) fn release(&mut self) {
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    pub(super) fn push(&mut self, start: Seq, end: Seq, now: Instant) {
        self.entries.push_back(Sent { start, end, at: now, fate: Fate::Flying, again: false, run: 1 });
        self.flying += end - start;
    }

    /// Everything before `una` has arrived. Tells of each entry that this finishes.
    pub(super) fn acknowledge(&mut self, una: Seq, mut tell: impl FnMut(&Sent)) {
        while let Some(front) = self.entries.front_mut() {
            if una.is_before(front.end) {
                if una.is_after(front.start) {
                    // A part of a segment: the rest counts as before.
                    let part = una - front.start;
                    front.start = una;
                    let fate = front.fate;
                    *self.bytes_of(fate) -= part;
                }
                break;
            }
            let front = *front;
            tell(&front);
            *self.bytes_of(front.fate) -= front.len();
            self.sacked_segments -= u32::from(front.fate == Fate::Sacked);
            self.entries.pop_front();
        }
        if self.known.is_some_and(|(_, to)| !to.is_after(una)) {
            self.known = None;
        }
        if self.entries.is_empty() && self.entries.capacity() > KEPT {
            self.entries = VecDeque::new();
        }
    }

    /// The peer has received `block`. Tells of each entry that is news.
    pub(super) fn sack(&mut self, block: Block, mut tell: impl FnMut(&Sent)) {
        let (start, end) = block;
        // Most of a block stood in the last acknowledgement too. Looking at that again would cost every acknowledgement the
        // whole window.
        match self.known {
            Some((from, to)) if !from.is_before(start) && !to.is_after(end) && from.is_before(to) => {
                self.sack_range(start, from, &mut tell);
                self.sack_range(to, end, &mut tell);
            }
            _ => self.sack_range(start, end, &mut tell),
        }
        if self.known.is_none_or(|(_, to)| !to.is_after(end)) {
            // Blocks can end inside an entry of ours; that one has to be looked at again.
            let whole = self.entries.partition_point(|sent| !sent.end.is_after(end));
            let to = self.entries.get(whole).map_or(end, |sent| sent.start.earliest(end));
            let first = self.entries.partition_point(|sent| sent.start.is_before(start));
            let from = self.entries.get(first).map_or(start, |sent| sent.start);
            self.known = Some((from, to.latest(from)));
        }
    }

    fn sack_range(&mut self, start: Seq, end: Seq, tell: &mut impl FnMut(&Sent)) {
        let first = self.entries.partition_point(|sent| sent.start.is_before(start));
        for index in first..self.entries.len() {
            let sent = self.entries[index];
            if sent.end.is_after(end) {
                break;
            }
            if sent.fate != Fate::Sacked {
                tell(&sent);
                self.set_fate(index, Fate::Sacked);
            }
        }
    }

    /// The peer does not say what arrived, but something did: the first entry behind the hole stands for it.
    pub(super) fn sack_any(&mut self) -> Option<Sent> {
        let index = (1..self.entries.len()).find(|&index| self.entries[index].fate == Fate::Flying)?;
        let sent = self.entries[index];
        self.set_fate(index, Fate::Sacked);
        Some(sent)
    }

    /// Takes back what [`Self::sack_any`] has guessed.
    pub(super) fn forget_sacked(&mut self, fate: Fate) {
        self.known = None;
        for index in 0..self.entries.len() {
            if self.entries[index].fate == Fate::Sacked {
                self.set_fate(index, fate);
            }
        }
    }

    /// Takes those of the entries on the way for lost that `is_lost` says so of. It sees them in order, and ends the walk
    /// with `None`. Returns the bytes.
    pub(super) fn lose(&mut self, mut is_lost: impl FnMut(&Sent) -> Option<bool>) -> u32 {
        let mut bytes = 0;
        let mut index = 0;
        // Nothing behind the last one on the way is looked at: after a timeout most of a window waits to be sent again.
        let mut unseen = self.flying;
        while unseen > 0
            && let Some(&sent) = self.entries.get(index)
        {
            match sent.fate {
                Fate::Sacked => {
                    index = self.after_run(index);
                    continue;
                }
                Fate::Lost => {}
                Fate::Flying => {
                    unseen = unseen.saturating_sub(sent.len());
                    match is_lost(&sent) {
                        None => break,
                        Some(false) => {}
                        Some(true) => {
                            self.set_fate(index, Fate::Lost);
                            bytes += sent.len();
                        }
                    }
                }
            }
            index += 1;
        }
        bytes
    }

    /// The first entry from this one on that has not arrived. The next walk steps over those before it at once: else every
    /// acknowledgement of a recovery would look at all of a window that has mostly arrived.
    fn after_run(&mut self, first: usize) -> usize {
        let mut index = first;
        while let Some(Sent { fate: Fate::Sacked, run, .. }) = self.entries.get(index) {
            index += usize::from(*run);
        }
        self.entries[first].run = u16::try_from(index - first).unwrap_or(u16::MAX);
        index
    }

    /// Nothing was lost after all.
    pub(super) fn find_again(&mut self) {
        for index in 0..self.entries.len() {
            if self.entries[index].fate == Fate::Lost {
                self.set_fate(index, Fate::Flying);
            }
        }
    }

    /// The first lost entry.
    pub(super) fn next_lost(&mut self) -> Option<Sent> {
        if self.lost == 0 {
            return None;
        }
        let from = self.entries.partition_point(|sent| sent.start.is_before(self.lost_from));
        let found = self.entries.range(from..).find(|sent| sent.fate == Fate::Lost).copied();
        if let Some(sent) = found {
            self.lost_from = sent.start;
        }
        found
    }

    /// The entry that starts at `start` goes out again.
    pub(super) fn resend(&mut self, start: Seq, now: Instant) {
        let index = self.entries.partition_point(|sent| sent.start.is_before(start));
        if self.entries.get(index).is_some_and(|sent| sent.start == start) {
            if self.entries[index].fate == Fate::Sacked {
                // A probe repeats what is last, arrived or not. Runs that reach over it are none any more.
                self.entries.iter_mut().for_each(|sent| sent.run = 1);
            }
            self.set_fate(index, Fate::Flying);
            self.entries[index].again = true;
            self.entries[index].at = now;
        }
    }

    fn set_fate(&mut self, index: usize, fate: Fate) {
        let Sent { start, fate: before, .. } = self.entries[index];
        let len = self.entries[index].len();
        *self.bytes_of(before) -= len;
        *self.bytes_of(fate) += len;
        self.sacked_segments -= u32::from(before == Fate::Sacked);
        self.sacked_segments += u32::from(fate == Fate::Sacked);
        if fate == Fate::Lost && (self.lost == len || start.is_before(self.lost_from)) {
            self.lost_from = start;
        }
        self.entries[index].fate = fate;
        self.entries[index].run = 1;
    }

    fn bytes_of(&mut self, fate: Fate) -> &mut u32 {
        match fate {
            Fate::Flying => &mut self.flying,
            Fate::Sacked => &mut self.sacked,
            Fate::Lost => &mut self.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(count: u32) -> Scoreboard {
        let mut board = Scoreboard::default();
        for n in 0..count {
            board.push(Seq(n * 10), Seq(n * 10 + 10), Instant::from_micros(n.into()));
        }
        board
    }

    fn sums(board: &Scoreboard) -> (u32, u32, u32) {
        let of = |fate| board.entries.iter().filter(|sent| sent.fate == fate).map(Sent::len).sum();
        let counted = (board.flying, board.sacked, board.lost);
        assert_eq!(counted, (of(Fate::Flying), of(Fate::Sacked), of(Fate::Lost)));
        counted
    }

    #[test]
    fn growing_blocks_are_told_once() {
        let mut board = board(100);
        let mut told = Vec::new();
        for end in [21, 30, 55, 60, 300, 1000] {
            board.sack((Seq(10), Seq(end)), |sent| told.push(sent.start.0));
        }
        board.sack((Seq(0), Seq(400)), |sent| told.push(sent.start.0));
        told.sort_unstable();
        assert_eq!(told, (0..100).map(|n| n * 10).collect::<Vec<_>>());
        assert_eq!((sums(&board), board.sacked_segments()), ((0, 1000, 0), 100));
        board.acknowledge(Seq(505), |_| {});
        assert_eq!((sums(&board), board.sacked_segments()), ((0, 495, 0), 50));
    }

    #[test]
    fn a_block_that_starts_within_a_segment_hides_nothing() {
        let mut board = board(10);
        board.sack((Seq(15), Seq(60)), |_| {});
        assert_eq!(sums(&board), (60, 40, 0));
        board.sack((Seq(0), Seq(60)), |_| {});
        assert_eq!(sums(&board), (40, 60, 0));
    }

    #[test]
    fn a_walk_steps_over_what_has_arrived_and_over_nothing_else() {
        let mut board = board(1000);
        board.sack((Seq(10), Seq(5000)), |_| {});
        board.lose(|_| Some(false));
        assert_eq!(board.entries[1].run, 499);
        let mut random = 7_u32;
        let mut below = |bound: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % bound
        };
        let mut una = 0;
        for turn in 0..3000 {
            let at = (una + below(10_000 - una)) / 10 * 10;
            match below(20) {
                0 => board.forget_sacked(Fate::Flying),
                1..=3 => board.resend(Seq(at), Instant::from_micros(turn)),
                4 if una < 9000 => {
                    una += below(20) * 10;
                    board.acknowledge(Seq(una), |_| {});
                }
                _ => board.sack((Seq(at), Seq(at + below(900))), |_| {}),
            }
            let flying: Vec<Seq> = board
                .entries
                .iter()
                .filter(|sent| sent.fate == Fate::Flying)
                .map(|sent| sent.start)
                .collect();
            let mut seen = Vec::new();
            board.lose(|sent| {
                seen.push(sent.start);
                Some(sent.start.0 % 70 == 0)
            });
            assert_eq!(seen, flying);
            sums(&board);
        }
    }

    #[test]
    fn the_lost_are_sent_again_in_order() {
        let mut board = board(10);
        board.sack((Seq(50), Seq(60)), |_| {});
        assert_eq!(board.lose(|sent| Some(sent.start.0 >= 20)), 70);
        let mut order = Vec::new();
        while let Some(sent) = board.next_lost() {
            order.push(sent.start.0);
            board.resend(sent.start, Instant::from_micros(99));
        }
        assert_eq!(order, [20, 30, 40, 60, 70, 80, 90]);
        assert_eq!(sums(&board), (90, 10, 0));
        assert_eq!(board.lose(|sent| (sent.start.0 < 40).then_some(sent.start.0 == 0)), 10);
        assert_eq!(board.next_lost().map(|sent| sent.start.0), Some(0));
        board.find_again();
        assert_eq!(board.next_lost().map(|sent| sent.start.0), None);
    }
}
