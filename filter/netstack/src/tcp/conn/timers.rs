//! Deadlines, and what happens at them. Each follows from when something was last done, so nothing is armed twice.

use std::time::Duration;

use super::congestion::CongestionControl;
use super::recovery::Mode;
use super::scoreboard::Fate;
use super::seq::Seq;
use super::{Connection, End, Stage};
use crate::Instant;

/// A tail loss probe's margin for the acknowledgement of a lone segment (RFC 8985, section 7.2).
const LONE_SEGMENT_DELAY: Duration = Duration::from_millis(200);
/// Answers to stray segments in a second (RFC 5961, section 7).
const ANSWERS: u8 = 10;
const ANSWER_PERIOD: Duration = Duration::from_secs(1);
/// A keepalive probe that is not answered is repeated after this part of the idle time.
const KEEPALIVE_DIVISOR: u32 = 4;

/// A segment that asks for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Tail,
    Window,
    Keepalive,
}

#[derive(Debug)]
pub(super) struct Timers {
    /// When the (next) SYN is due, how many went out, and when the first did.
    pub(super) syn_at: Option<Instant>,
    pub(super) syns: u8,
    pub(super) syn_sent: Instant,
    /// An RST with this number answers a segment that makes no sense.
    pub(super) stray_reset: Option<Seq>,
    /// The owner wants an RST.
    pub(super) abort: bool,

    /// An acknowledgement is due now, or at an instant.
    pub(super) ack_now: bool,
    pub(super) ack_at: Option<Instant>,
    /// Bytes received since the last one.
    pub(super) ack_bytes: u32,
    /// Full segments at the start that are acknowledged at once, because the sender's window depends on it.
    pub(super) quick_acks: u8,

    /// From when the retransmission timeout and the tail loss probe count.
    pub(super) rto_base: Instant,
    pub(super) probe_base: Instant,
    /// When RACK wants to look again.
    pub(super) reorder_at: Option<Instant>,
    pub(super) persist_at: Option<Instant>,
    pub(super) probe: Option<Probe>,
    /// A small window is used all the same.
    pub(super) push_on: bool,
    /// The probe in flight: its end, and whether it was sent before.
    pub(super) tail: Option<(Seq, bool)>,
    /// The pacer holds a segment back.
    pub(super) paced: bool,

    pub(super) last_sent: Instant,
    pub(super) last_heard: Instant,
    last_keepalive: Instant,
    /// Since when something waits for any answer.
    pub(super) unanswered: Option<Instant>,
    pub(super) time_wait_end: Instant,
    answers: u8,
    answers_from: Instant,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            syn_at: Some(now),
            syns: 0,
            syn_sent: now,
            stray_reset: None,
            abort: false,
            ack_now: false,
            ack_at: None,
            ack_bytes: 0,
            quick_acks: 16,
            rto_base: now,
            probe_base: now,
            reorder_at: None,
            persist_at: None,
            probe: None,
            push_on: false,
            tail: None,
            paced: false,
            last_sent: now,
            last_heard: now,
            last_keepalive: now,
            unanswered: None,
            time_wait_end: now,
            answers: 0,
            answers_from: now,
        }
    }

    /// The peer has given a sign of life, and nothing waits for another one.
    pub(super) fn answered(&mut self, now: Instant) {
        self.last_heard = now;
        self.unanswered = None;
    }

    /// Whether one more stray segment is answered.
    pub(super) fn may_answer(&mut self, now: Instant) -> bool {
        if now.saturating_since(self.answers_from) >= ANSWER_PERIOD {
            self.answers = 0;
            self.answers_from = now;
        }
        self.answers = self.answers.saturating_add(1);
        self.answers <= ANSWERS
    }
}

impl Connection {
    /// When [`Self::poll_packet`] is due again if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = &self.timers;
        let give_up = timers.unanswered.map(|since| since + self.settings.user_timeout);
        match self.stage {
            Stage::Closed => None,
            Stage::TimeWait => Some(timers.time_wait_end),
            Stage::SynSent | Stage::SynReceived => [timers.syn_at, give_up].into_iter().flatten().min(),
            Stage::Open => {
                let deadlines = [
                    give_up,
                    timers.ack_at,
                    self.rto_at(),
                    self.tail_probe_at(),
                    timers.reorder_at,
                    timers.persist_at,
                    self.keepalive_at(),
                    timers.paced.then(|| self.pacer.next()),
                ];
                deadlines.into_iter().flatten().min()
            }
        }
    }

    fn rto_at(&self) -> Option<Instant> {
        (!self.board.is_empty()).then(|| self.timers.rto_base + self.rtt.timeout())
    }

    /// RFC 8985, section 7.2.
    fn tail_probe_at(&self) -> Option<Instant> {
        let wanted = self.sack
            && self.recovery.mode == Mode::Open
            && self.board.sacked_segments() == 0
            && self.board.lost() == 0
            && self.timers.tail.is_none();
        let smoothed = self.rtt.smoothed().filter(|_| wanted)?;
        let alone = if self.board.len() == 1 { LONE_SEGMENT_DELAY } else { Duration::ZERO };
        let at = self.timers.probe_base + smoothed * 2 + alone;
        // In place of a timeout that would come first.
        self.rto_at().map(|rto| rto.min(at))
    }

    /// RFC 1122, section 4.2.3.6.
    fn keepalive_at(&self) -> Option<Instant> {
        if !self.board.is_empty() || self.timers.persist_at.is_some() {
            return None;
        }
        let keepalive = self.settings.keepalive;
        let idle = self.timers.last_heard + keepalive;
        Some(idle.max(self.timers.last_keepalive + keepalive / KEEPALIVE_DIVISOR))
    }

    /// Does what is due.
    pub(crate) fn run_timers(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.stage != Stage::TimeWait
            && due(self.timers.unanswered.map(|since| since + self.settings.user_timeout))
        {
            self.close(End::TimedOut);
        }
        if self.stage == Stage::TimeWait && self.timers.time_wait_end <= now {
            self.close(End::Done);
        }
        if self.stage != Stage::Open {
            return;
        }
        if due(self.timers.ack_at) {
            self.timers.ack_now = true;
        }
        if due(self.timers.reorder_at) {
            self.timers.reorder_at = None;
            self.look_for_losses(now);
        }
        if due(self.tail_probe_at()) {
            // The timeout counts from when it leaves.
            self.timers.probe = Some(Probe::Tail);
        } else if due(self.rto_at()) {
            self.retransmission_timeout(now);
        }
        // A question waits for its answer from now on, also when there is no way out for it.
        if due(self.timers.persist_at) {
            self.timers.unanswered.get_or_insert(now);
            self.rtt.back_off();
            self.timers.persist_at = Some(now + self.rtt.timeout());
            if self.usable() > 0 {
                self.timers.push_on = true;
            } else {
                self.timers.probe = Some(Probe::Window);
            }
        }
        if due(self.keepalive_at()) {
            self.timers.unanswered.get_or_insert(now);
            self.timers.last_keepalive = now;
            self.rest_buffers();
            self.timers.probe = Some(Probe::Keepalive);
        }
    }

    /// Nothing has passed for a while: gives back the memory that is kept for more of it.
    pub(super) fn rest_buffers(&mut self) {
        self.buffer.release();
        self.rcv.release();
        self.board.release();
    }

    /// The peer has given a sign of life; `before` was the oldest number not acknowledged. However much a peer talks that
    /// acknowledges nothing, its time is over some day (RFC 9293, section 3.8.3), unless it has closed its window.
    pub(super) fn answered(&mut self, now: Instant, before: Seq) {
        if self.board.is_empty() {
            self.timers.answered(now);
            return;
        }
        self.timers.last_heard = now;
        if self.una != before || self.wnd == 0 {
            self.timers.unanswered = Some(now);
        }
    }

    /// RFC 6298, section 5.
    fn retransmission_timeout(&mut self, now: Instant) {
        self.counters.timeouts += 1;
        // The window is reduced once for what was sent before (RFC 5681, section 3.1, equation 4).
        let again = self.recovery.mode != Mode::Open && self.una.is_before(self.recovery.point);
        self.congestion.on_timeout(now, self.nxt - self.una, again);
        if self.board.front().is_some_and(|front| front.fate == Fate::Sacked) {
            // The peer has thrown away what it had reported (RFC 2018, section 8).
            self.board.forget_sacked(Fate::Lost);
        }
        self.rack.timed_out(now, &mut self.board, &self.rtt);
        let outstanding = self.board.flying() + self.board.lost();
        let first_resent = self.recovery.first_resent.filter(|_| again);
        self.recovery.begin(Mode::Timeout, self.nxt, outstanding);
        self.recovery.first_resent = first_resent;
        self.recovery.probing &= !again;
        self.rtt.back_off();
        self.timers.rto_base = now;
        self.timers.tail = None;
        self.timers.reorder_at = None;
    }

    /// After everything that can be sent was sent: a window that stays closed has to be probed.
    pub(super) fn settle(&mut self, now: Instant) {
        let stuck = self.stage == Stage::Open
            && self.board.is_empty()
            && (self.waiting() > 0 || (self.fin && !self.fin_sent()))
            && !self.timers.paced;
        if !stuck {
            self.timers.persist_at = None;
        } else if self.timers.persist_at.is_none() {
            self.timers.persist_at = Some(now + self.rtt.timeout());
        }
    }
}
