//! HyStart++ (RFC 9406): leaves slow start when round trips grow, before the queue overflows.

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
        }
    }

    pub(super) fn on_acked(&mut self, _now: Instant, rtt: Option<Duration>, una: Seq, nxt: Seq) -> Advice {
        if let Some(rtt) = rtt {
            let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
            self.minimum = self.minimum.min(rtt);
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
        }
        if self.baseline.is_some() { Advice::GrowSlowly } else { Advice::Grow }
    }
}
