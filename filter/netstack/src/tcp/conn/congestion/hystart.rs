//! HyStart++ (RFC 9406): leaves slow start when round trips grow, before the queue overflows.
//!
//! The shortest round trip of a round is that of its first packets, which have no queue of their own before them; where the
//! queue holds one bandwidth-delay product it is full a round before that shows. So trains of acknowledgements count too, as in
//! the first HyStart (Ha and Rhee, "Taming the elephants", 2011; Linux has it): a window leaves within half a round trip,
//! and when its acknowledgements take longer to come in, the path takes no more than it has. A train only leads to
//! the conservative phase, so that one which is stretched by chance costs little.

use std::time::Duration;

use super::super::seq::Seq;
use crate::Instant;

const MIN_RTT_THRESH: u32 = 4_000;
const MAX_RTT_THRESH: u32 = 16_000;
const MIN_RTT_DIVISOR: u32 = 8;
const SAMPLES: u8 = 8;
/// Growth in the conservative phase, as a divisor.
pub(super) const CSS_GROWTH_DIVISOR: u32 = 4;
const CSS_ROUNDS: u8 = 5;
/// A train that is longer than so many eighths of the shortest round trip was stretched by the path; ours take four.
const TRAIN_EIGHTHS: u32 = 5;
/// Acknowledgements that are further apart are no train. An eighth of the round trip, if that is less.
const TRAIN_SPACING: Duration = Duration::from_millis(2);

/// What an acknowledgement in slow start leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    Grow,
    /// Conservative slow start.
    GrowSlowly,
    /// On to congestion avoidance.
    Leave,
}

/// Times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct HyStart {
    /// A round ends when this is acknowledged.
    round_end: Option<Seq>,
    last_minimum: u32,
    minimum: u32,
    samples: u8,
    /// The baseline of the conservative phase, while in it.
    baseline: Option<u32>,
    rounds: u8,
    /// The shortest round trip of all.
    least: u32,
    /// When the round began, and the last acknowledgement of the train at its beginning.
    began: Instant,
    train: Instant,
}

impl HyStart {
    pub(super) fn new() -> Self {
        Self {
            round_end: None,
            last_minimum: u32::MAX,
            minimum: u32::MAX,
            samples: 0,
            baseline: None,
            rounds: 0,
            least: u32::MAX,
            began: Instant::default(),
            train: Instant::default(),
        }
    }

    pub(super) fn on_acked(&mut self, now: Instant, rtt: Option<Duration>, una: Seq, nxt: Seq) -> Advice {
        if let Some(rtt) = rtt {
            let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
            self.minimum = self.minimum.min(rtt);
            self.least = self.least.min(rtt);
            self.samples = self.samples.saturating_add(1);
        }
        if self.samples >= SAMPLES && self.minimum < u32::MAX {
            match self.baseline {
                None if self.last_minimum < u32::MAX => {
                    let threshold =
                        (self.last_minimum / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
                    if self.minimum >= self.last_minimum.saturating_add(threshold) {
                        self.baseline = Some(self.minimum);
                        self.rounds = 0;
                    }
                }
                // It was a hiccup: slow start goes on.
                Some(baseline) if self.minimum < baseline => self.baseline = None,
                _ => {}
            }
        }
        if self.is_long_train(now) && self.baseline.is_none() && self.samples >= SAMPLES {
            // No round trip is shorter: this is no hiccup.
            self.baseline = Some(self.least);
            self.rounds = 0;
        }
        if self.round_end.is_none_or(|end| una.is_after(end)) {
            if self.baseline.is_some() && self.round_end.is_some() {
                self.rounds += 1;
                if self.rounds >= CSS_ROUNDS {
                    return Advice::Leave;
                }
            }
            self.round_end = Some(nxt);
            self.last_minimum = self.minimum;
            self.minimum = u32::MAX;
            self.samples = 0;
            self.began = now;
            self.train = now;
        }
        if self.baseline.is_some() { Advice::GrowSlowly } else { Advice::Grow }
    }

    /// Whether acknowledgements have come in without a pause since the round began, for longer than they should.
    fn is_long_train(&mut self, now: Instant) -> bool {
        let eighth = Duration::from_micros((self.least / 8).into());
        if self.least == u32::MAX || now - self.train > TRAIN_SPACING.min(eighth) {
            return false;
        }
        self.train = now;
        now - self.began > eighth * TRAIN_EIGHTHS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of 20 ms with an acknowledgement each half millisecond of the first `busy` milliseconds: what is advised in the
    /// last of them.
    fn advice(rounds: u32, busy: u64, rtt: impl Fn(u32) -> u64) -> Vec<Advice> {
        let mut hystart = HyStart::new();
        let mut last = Vec::new();
        let mut una = 0;
        for round in 0..rounds {
            last.clear();
            let begin = 1_000_000 + u64::from(round) * 20_000;
            for n in 0..busy * 2 {
                una += 1;
                let nxt = Seq(una + 2 * u32::try_from(busy).unwrap_or(0) - 1);
                let rtt = Some(Duration::from_millis(rtt(round)));
                last.push(hystart.on_acked(Instant::from_micros(begin + n * 500), rtt, Seq(una), nxt));
            }
        }
        last
    }

    #[test]
    fn it_grows_while_neither_round_trips_nor_trains_do() {
        assert!(advice(9, 10, |_| 20).iter().all(|advice| *advice == Advice::Grow));
    }

    /// RFC 9406, section 4.2: 4 ms more than in the round before, seen eight times.
    #[test]
    fn longer_round_trips_end_slow_start_by_and_by() {
        let told = advice(4, 10, |round| if round < 3 { 20 } else { 24 });
        let slowly = told.iter().position(|advice| *advice == Advice::GrowSlowly);
        // The first acknowledgement still belongs to the round before.
        assert_eq!(slowly, Some(8), "{told:?}");
        assert!(advice(9, 10, |round| if round < 3 { 20 } else { 24 }).contains(&Advice::Leave));
        // A hiccup.
        assert!(!advice(5, 10, |round| if round == 3 { 24 } else { 20 }).contains(&Advice::Leave));
    }

    #[test]
    fn a_train_that_takes_most_of_a_round_trip_ends_it_too() {
        let told = advice(1, 16, |_| 20);
        let slowly = told.iter().position(|advice| *advice == Advice::GrowSlowly);
        // 12.5 ms.
        assert!(slowly.is_some_and(|at| (25..=26).contains(&at)), "{told:?}");
        assert!(advice(6, 16, |_| 20).contains(&Advice::Leave));
    }
}
