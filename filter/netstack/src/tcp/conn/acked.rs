//! What an acknowledgement tells the sender.

use std::time::Duration;

use super::congestion::{Acked, CongestionControl};
use super::options::Block;
use super::recovery::Mode;
use super::scoreboard::{Fate, Sent};
use super::segment::Segment;
use super::seq::Seq;
use super::{Connection, Stage, timestamp};
use crate::Instant;

/// What has newly arrived.
#[derive(Default)]
struct News {
    bytes: u32,
    /// When the first and the last of the segments were sent that went out once.
    first: Option<Instant>,
    last: Option<Instant>,
    /// There was one that was sent again: its round trip is anybody's guess (Karn's algorithm).
    again: bool,
    /// One that was sent once, before the timeout (RFC 5682).
    original: bool,
}

impl News {
    fn add(&mut self, sent: &Sent, point: Seq) {
        self.bytes += sent.len();
        if sent.again {
            self.again = true;
            return;
        }
        self.first = Some(self.first.map_or(sent.at, |first| first.min(sent.at)));
        self.last = self.last.max(Some(sent.at));
        self.original |= !sent.end.is_after(point);
    }
}

impl Connection {
    /// Takes the acknowledgement, window and SACK blocks of a segment. False: the segment must not be looked at any further.
    /// `stray`: it lies outside of our window.
    pub(super) fn take_acknowledgement(&mut self, now: Instant, segment: &Segment<'_>, stray: bool) -> bool {
        let ack = segment.ack;
        // RFC 5961, section 5.
        if ack.is_after(self.nxt) || (ack.is_before(self.una) && self.una - ack > self.max_wnd) {
            self.counters.bad_acks += 1;
            if !stray {
                self.answer_stray(now, segment);
            }
            return false;
        }
        let window_before = (self.wnd, self.usable());
        self.update_window(segment);
        let plain = segment.payload.is_empty() && !segment.is_fin();
        if ack == self.una
            && !plain
            && self.wnd == window_before.0
            && segment.options.blocks().is_empty()
            && self.recovery.mode == Mode::Open
        {
            // The peer sends, and says nothing new of what was sent to it.
            return true;
        }
        if self.board.is_empty() && self.usable() > window_before.1 {
            // The window that was probed has opened.
            self.rtt.progress();
        }
        let advanced = ack.is_after(self.una);
        let flying_before = self.board.flying();
        let echo = segment.options.timestamps.filter(|_| self.timestamps).map(|(_, echo)| echo);
        let mut news = News::default();
        // What the number acknowledges was there before what the blocks tell of: the other way round it looks like reordering.
        self.advance(now, ack.latest(self.una), echo, &mut news);
        let duplicate = self.take_blocks(now, segment, echo, &mut news);
        let repeats = !advanced && plain && ack == self.una && window_before.0 == self.wnd;
        if !self.sack {
            self.guess_blocks(now, advanced, repeats, &mut news);
        }
        self.sample_round_trip(now, advanced, echo, &news);
        if advanced {
            self.rtt.progress();
            self.timers.rto_base = now;
            self.timers.probe_base = now;
        }
        if let Some(block) = duplicate {
            self.counters.duplicates += 1;
            self.rack.duplicate(self.una, self.nxt);
            if !block.0.is_before(self.una.back(self.max_wnd))
                && self.recovery.duplicate((block.1 - block.0).div_ceil(self.mss))
            {
                self.undo();
            }
        }
        self.check_tail_probe(now, duplicate, repeats);
        if advanced {
            self.check_spurious(echo, &news);
        }
        let lost_before = self.board.lost();
        self.detect_losses(now);
        let safe = advanced && self.board.lost() <= lost_before;
        self.steer(now, &news, flying_before, advanced, safe);
        true
    }

    pub(super) fn update_window(&mut self, segment: &Segment<'_>) {
        // One that acknowledges more is newer than all before, also when it repeats old bytes: the window counts from there.
        let newer = segment.ack.is_after(self.una)
            || segment.seq.is_after(self.wl1)
            || (segment.seq == self.wl1 && !segment.ack.is_before(self.wl2))
            // A window that grows is welcome in any order.
            || (segment.ack == self.una && u32::from(segment.window) << self.shift > self.wnd);
        if !newer || segment.ack.is_before(self.una) {
            return;
        }
        let shift = if segment.is_syn() { 0 } else { self.shift };
        self.wnd = u32::from(segment.window) << shift;
        self.max_wnd = self.max_wnd.max(self.wnd);
        self.wl1 = segment.seq.latest(self.wl1);
        self.wl2 = segment.ack;
    }

    /// SACK blocks. Returns the one that reports a duplicate (RFC 2883, section 4).
    fn take_blocks(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        echo: Option<u32>,
        news: &mut News,
    ) -> Option<Block> {
        let mut blocks = segment.options.blocks();
        if !self.sack || blocks.is_empty() {
            return None;
        }
        let una = segment.ack.latest(self.una);
        let within = |inner: Block, outer: Block| !inner.0.is_before(outer.0) && !inner.1.is_after(outer.1);
        let mut duplicate = None;
        if let [first, rest @ ..] = blocks
            && (!first.1.is_after(segment.ack) || rest.first().is_some_and(|second| within(*first, *second)))
        {
            duplicate = Some(*first).filter(|block| block.0.is_before(block.1));
            blocks = rest;
        }
        for &(start, end) in blocks {
            if !start.is_before(end) || end.is_after(self.nxt) || !start.is_after(una) {
                continue;
            }
            let (offset, point) = (self.timestamp_of(), self.recovery.point);
            let Self { board, rack, rtt, .. } = self;
            board.sack((start, end), |sent| {
                news.add(sent, point);
                rack.delivered(now, sent, rtt, is_early(echo, offset, sent.at));
            });
        }
        duplicate
    }

    /// Everything before `una` has arrived.
    fn advance(&mut self, now: Instant, una: Seq, echo: Option<u32>, news: &mut News) {
        let (offset, point) = (self.timestamp_of(), self.recovery.point);
        let Self { board, rack, rtt, .. } = self;
        board.acknowledge(una, |sent| {
            if sent.fate != Fate::Sacked {
                news.add(sent, point);
                rack.delivered(now, sent, rtt, is_early(echo, offset, sent.at));
            }
        });
        self.una = una;
        let bytes = una.earliest(self.write_end()).beyond(self.front);
        self.front = self.front + bytes;
        self.buffered -= bytes;
        if self.buffered == 0 {
            self.buffer.clear();
        } else {
            self.buffer.consume(bytes as usize);
        }
    }

    /// For a peer without SACK: an acknowledgement that repeats the one before says that something has arrived.
    fn guess_blocks(&mut self, now: Instant, advanced: bool, repeats: bool, news: &mut News) {
        if advanced {
            self.board.forget_sacked(Fate::Flying);
            if self.recovery.mode != Mode::Open && self.una.is_before(self.recovery.point) {
                // A partial acknowledgement (RFC 6582, section 3.2): the next hole begins here.
                let una = self.una;
                self.board.lose(|sent| if sent.start == una { Some(!sent.again) } else { None });
            }
        } else if repeats && let Some(sent) = self.board.sack_any() {
            news.bytes += sent.len();
            self.rack.delivered(now, &sent, &mut self.rtt, false);
        }
    }

    fn sample_round_trip(&mut self, now: Instant, advanced: bool, echo: Option<u32>, news: &News) {
        if let Some(first) = news.first.filter(|_| !news.again) {
            self.rtt.sample(now.saturating_since(first));
        } else if advanced && let Some(echo) = echo {
            self.sample_timestamp(now, echo);
        }
    }

    /// RFC 7323, section 4.1.
    pub(super) fn sample_timestamp(&mut self, now: Instant, echo: u32) {
        let millis = self.timestamp(now).wrapping_sub(echo);
        if echo != 0 && millis.cast_signed() >= 0 && millis < 60_000 {
            self.rtt.sample(Duration::from_millis(millis.max(1).into()));
        }
    }

    /// RFC 8985, section 7.4.2.
    fn check_tail_probe(&mut self, now: Instant, duplicate: Option<Block>, repeats: bool) {
        let Some((end, again)) = self.timers.tail else { return };
        if self.una.is_before(end) {
            return;
        }
        let arrived_twice = duplicate.is_some_and(|block| block.1 == end) || repeats;
        if !again || arrived_twice {
            self.timers.tail = None;
        } else if self.una.is_after(end) {
            // Without the probe it would have been lost.
            self.timers.tail = None;
            if self.recovery.mode == Mode::Open {
                self.congestion.on_loss(now, self.nxt - self.una);
                self.congestion.set_window(self.congestion.threshold());
            }
        }
    }

    /// Whether the first acknowledgement of what was sent again answers the original.
    fn check_spurious(&mut self, echo: Option<u32>, news: &News) {
        if self.recovery.mode == Mode::Open {
            return;
        }
        let eifel = match (echo, self.recovery.first_resent) {
            (Some(echo), Some(resent)) => echo != 0 && echo.wrapping_sub(resent).cast_signed() < 0,
            _ => false,
        };
        // Without timestamps: after a timeout only the first segment went out again, so news of another one, that was sent
        // before, is news of an original.
        let forward = self.recovery.probing && !self.timestamps && news.original;
        self.recovery.probing = false;
        if eifel || forward {
            self.undo();
        }
    }

    fn undo(&mut self) {
        self.counters.undone += 1;
        if self.recovery.mode == Mode::Fast {
            self.rack.reordered();
        }
        self.congestion.undo();
        self.board.find_again();
        self.recovery.end();
        self.rtt.progress();
    }

    /// Something may be late enough to be lost.
    pub(super) fn look_for_losses(&mut self, now: Instant) {
        self.detect_losses(now);
        if self.recovery.mode == Mode::Open && self.board.lost() > 0 {
            self.begin_recovery(now);
            // Nothing has arrived: the fast retransmission leaves, and the rest of what was lost waits.
            self.reduce(0, false);
        }
    }

    fn detect_losses(&mut self, now: Instant) {
        let recovering = self.recovery.mode != Mode::Open;
        let (_, again) = self.rack.detect(now, &mut self.board, &self.rtt, recovering);
        self.timers.reorder_at = again;
    }

    fn begin_recovery(&mut self, now: Instant) {
        self.counters.recoveries += 1;
        let outstanding = self.board.flying() + self.board.lost();
        self.congestion.on_loss(now, self.nxt - self.una);
        self.recovery.begin(Mode::Fast, self.nxt, outstanding);
    }

    /// Proportional rate reduction (RFC 9937).
    fn reduce(&mut self, delivered: u32, safe: bool) {
        let (flying, threshold) = (self.board.flying(), self.congestion.threshold());
        let window = self.recovery.window(delivered, flying, threshold, self.mss, safe);
        self.congestion.set_window(window);
    }

    /// The congestion window after an acknowledgement.
    fn steer(&mut self, now: Instant, news: &News, flying_before: u32, advanced: bool, safe: bool) {
        if self.recovery.mode != Mode::Open && !self.una.is_before(self.recovery.point) {
            let fast = self.recovery.mode == Mode::Fast;
            self.recovery.end();
            self.rack.recovered();
            if fast {
                self.congestion.set_window(self.congestion.threshold());
                if self.board.lost() == 0 {
                    return;
                }
            }
        }
        if self.recovery.mode == Mode::Open && self.board.lost() > 0 {
            self.begin_recovery(now);
        }
        if self.recovery.mode == Mode::Fast {
            self.reduce(news.bytes, safe);
            return;
        }
        // What arrives ahead of a hole makes the window grow only where holes are no sign of loss (RFC 3042).
        let progress = advanced || self.rack.has_seen_reordering();
        if news.bytes == 0 || !progress || self.stage != Stage::Open {
            return;
        }
        let window = self.congestion.window();
        let acked = Acked {
            now,
            bytes: news.bytes,
            rtt: news.last.map(|last| now.saturating_since(last)),
            smoothed: self.rtt.smoothed().unwrap_or_default(),
            una: self.una,
            nxt: self.nxt,
            limited: self.limited || (self.congestion.in_slow_start() && window < 2 * flying_before),
            after_timeout: self.recovery.mode == Mode::Timeout,
        };
        self.congestion.on_acked(&acked);
    }

    fn timestamp_of(&self) -> Option<u32> {
        self.timestamps.then_some(self.ts_offset)
    }
}

/// Whether an acknowledgement answers something older than what went out at `at`.
fn is_early(echo: Option<u32>, offset: Option<u32>, at: Instant) -> bool {
    let (Some(echo), Some(offset)) = (echo, offset) else { return false };
    echo != 0 && echo.wrapping_sub(timestamp(at, offset)).cast_signed() < 0
}
