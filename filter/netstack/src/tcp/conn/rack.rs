//! RACK (RFC 8985): what was sent before something that has arrived, and has had time to arrive, is lost.

use std::time::Duration;

use super::rtt::Rtt;
use super::scoreboard::{Scoreboard, Sent};
use super::seq::Seq;
use crate::Instant;

/// Section 6.2: rounds that a wider window for reordering is kept.
const PERSIST: u8 = 16;
const DUP_THRESH: u32 = 3;

#[derive(Debug)]
pub(super) struct Rack {
    /// The segment that was sent last of all that have arrived: when, its end, its round trip.
    newest: Option<(Instant, Seq)>,
    /// In microseconds.
    round_trip: u32,
    /// The end of the furthest segment that has arrived.
    furthest: Seq,
    reordering_seen: bool,
    /// The window for reordering, in quarters of the shortest round trip.
    quarters: u8,
    persist: u8,
    /// No second widening before this is acknowledged.
    widened: Option<Seq>,
}

impl Rack {
    pub(super) fn new(iss: Seq) -> Self {
        Self {
            newest: None,
            round_trip: 0,
            furthest: iss,
            reordering_seen: false,
            quarters: 1,
            persist: PERSIST,
            widened: None,
        }
    }

    /// An entry has arrived (section 6.2, steps 1 to 3). `echo`: when the segment was sent that the acknowledgement
    /// answers, if it says so.
    pub(super) fn delivered(&mut self, now: Instant, sent: &Sent, rtt: &mut Rtt, before_this: bool) {
        if sent.end.is_after(self.furthest) {
            self.furthest = sent.end;
        } else if !sent.again && sent.end.is_before(self.furthest) {
            self.reordering_seen = true;
        }
        let round_trip = now.saturating_since(sent.at);
        // Sent again, and acknowledged faster than anything can be: it was the original.
        if sent.again && (before_this || rtt.minimum().is_some_and(|least| round_trip < least)) {
            return;
        }
        rtt.shortest(now, round_trip);
        self.round_trip = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
        if self.newest.is_none_or(|newest| sent_after((sent.at, sent.end), newest)) {
            self.newest = Some((sent.at, sent.end));
        }
    }

    /// Something arrived twice: what was taken for lost was only late.
    pub(super) fn duplicate(&mut self, una: Seq, nxt: Seq) {
        if self.widened.is_some_and(|end| !una.is_before(end)) {
            self.widened = None;
        }
        if self.widened.is_none() {
            self.widened = Some(nxt);
            self.quarters = self.quarters.saturating_add(1);
            self.persist = PERSIST;
        }
    }

    pub(super) fn has_seen_reordering(&self) -> bool {
        self.reordering_seen
    }

    /// A loss was none.
    pub(super) fn reordered(&mut self) {
        self.reordering_seen = true;
    }

    /// A recovery is over.
    pub(super) fn recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.quarters = 1;
        }
    }

    fn reordering_window(&self, board: &Scoreboard, rtt: &Rtt, recovering: bool) -> Duration {
        if !self.reordering_seen && (recovering || board.sacked_segments() >= DUP_THRESH) {
            return Duration::ZERO;
        }
        let least = rtt.minimum().unwrap_or_default();
        (least / 4 * self.quarters.into()).min(rtt.smoothed().unwrap_or_default())
    }

    /// Marks what is lost by now (section 6.2, step 5); says when to look again.
    pub(super) fn detect(
        &self,
        now: Instant,
        board: &mut Scoreboard,
        rtt: &Rtt,
        recovering: bool,
    ) -> (u32, Option<Instant>) {
        let Some(newest) = self.newest else { return (0, None) };
        let patience =
            Duration::from_micros(self.round_trip.into()) + self.reordering_window(board, rtt, recovering);
        let mut look_again = None;
        let lost = board.lose(|sent| {
            if !sent_after(newest, (sent.at, sent.end)) {
                // First transmissions leave in order: what lies beyond one was sent after it, and so after `newest`.
                return if sent.again { Some(false) } else { None };
            }
            let due = sent.at + patience;
            if due <= now {
                return Some(true);
            }
            look_again = look_again.max(Some(due));
            Some(false)
        });
        (lost, look_again)
    }

    /// The retransmission timer has fired (section 6.3): the first segment is lost, and what is as old.
    pub(super) fn timed_out(&self, now: Instant, board: &mut Scoreboard, rtt: &Rtt) {
        let patience =
            Duration::from_micros(self.round_trip.into()) + self.reordering_window(board, rtt, true);
        let mut first = true;
        board.lose(|sent| Some(std::mem::take(&mut first) || sent.at + patience <= now));
    }
}

fn sent_after(a: (Instant, Seq), b: (Instant, Seq)) -> bool {
    a.0 > b.0 || (a.0 == b.0 && a.1.is_after(b.1))
}
