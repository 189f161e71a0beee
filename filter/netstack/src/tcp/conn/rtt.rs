//! Round-trip times: the retransmission timeout (RFC 6298) and the minimum that RACK works with (RFC 8985, section 6.2).

use std::time::Duration;

use crate::Instant;

/// Before the first measurement (RFC 6298, section 2.1).
const INITIAL_RTO: u32 = 1_000_000;
/// After a SYN that had to be repeated, while nothing is measured (RFC 6298, section 5.7).
const RTO_AFTER_SYN: u32 = 3_000_000;
const MAX_RTO: u32 = 60_000_000;
/// 200 ms << 9 is beyond [`MAX_RTO`].
const MAX_BACKOFF: u8 = 9;
/// A minimum is believed for one to two of these: paths change.
const MINIMUM_LIFE: Duration = Duration::from_secs(150);

/// All times in microseconds.
#[derive(Debug)]
pub(super) struct Rtt {
    smoothed: u32,
    variation: u32,
    rto: u32,
    backoff: u8,
    min_rto: u32,
    /// Of the running and of the last period.
    minimum: [u32; 2],
    period_end: Instant,
}

impl Rtt {
    pub(super) fn new(now: Instant, min_rto: Duration) -> Self {
        Self {
            smoothed: 0,
            variation: 0,
            rto: INITIAL_RTO,
            backoff: 0,
            min_rto: micros(min_rto),
            minimum: [u32::MAX; 2],
            period_end: now + MINIMUM_LIFE,
        }
    }

    /// A round trip of a segment that was sent once (Karn's algorithm is the caller's).
    pub(super) fn sample(&mut self, round_trip: Duration) {
        let sample = micros(round_trip).max(1);
        if self.smoothed == 0 {
            self.smoothed = sample;
            self.variation = sample / 2;
        } else {
            let off = sample.abs_diff(self.smoothed);
            self.variation = self.variation - self.variation / 4 + off / 4;
            self.smoothed = self.smoothed - self.smoothed / 8 + sample / 8;
        }
        // The minimum belongs to the margin, not to the sum: 200 ms in all would be less than a delayed acknowledgement
        // leaves on a path of 180 ms. (Linux does the same.)
        self.rto = self.smoothed.saturating_add((4 * self.variation).max(self.min_rto)).min(MAX_RTO);
        self.backoff = 0;
    }

    /// The shortest time that anything delivered has taken.
    pub(super) fn shortest(&mut self, now: Instant, round_trip: Duration) {
        if now >= self.period_end {
            self.minimum = [u32::MAX, self.minimum[0]];
            self.period_end = now + MINIMUM_LIFE;
        }
        self.minimum[0] = self.minimum[0].min(micros(round_trip).max(1));
    }

    pub(super) fn minimum(&self) -> Option<Duration> {
        let least = self.minimum[0].min(self.minimum[1]);
        (least < u32::MAX).then(|| Duration::from_micros(least.into()))
    }

    pub(super) fn smoothed(&self) -> Option<Duration> {
        (self.smoothed > 0).then(|| Duration::from_micros(self.smoothed.into()))
    }

    /// With the back-off of the timeouts since the last sign of progress.
    pub(super) fn timeout(&self) -> Duration {
        let backed_off = u64::from(self.rto) << self.backoff.min(MAX_BACKOFF);
        Duration::from_micros(backed_off.min(MAX_RTO.into()))
    }

    pub(super) fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(MAX_BACKOFF);
    }

    pub(super) fn progress(&mut self) {
        self.backoff = 0;
    }

    /// The handshake is through, and its SYN had to be repeated.
    pub(super) fn syn_was_repeated(&mut self) {
        self.backoff = 0;
        if self.smoothed == 0 {
            self.rto = RTO_AFTER_SYN;
        }
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(MAX_RTO).min(MAX_RTO)
}
