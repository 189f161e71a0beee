//! When the next segment may leave: a window goes out spread over a round trip, not in one burst.

use std::time::Duration;

use crate::Instant;

/// What may leave together, in microseconds. Real machines wake up one to two milliseconds late, and a burst of equal segments
/// is sealed and sent in one go.
const BURST: u64 = 2_000;
/// Bytes that may always leave together.
const LEAST_BURST: u32 = 10 * 1460;

/// How fast bytes may leave: `window` of them in a round trip of `smoothed`; in slow start twice as fast, so that the window
/// can grow, and else a fifth faster, so that pacing is never what limits.
pub(super) struct Pace {
    pub(super) window: u32,
    pub(super) smoothed: Duration,
    pub(super) slow_start: bool,
}

impl Pace {
    /// Microseconds that `len` bytes take.
    fn time(&self, len: u32) -> u64 {
        let smoothed = u64::try_from(self.smoothed.as_micros()).unwrap_or(u64::MAX).max(1);
        let tenths = if self.slow_start { 20 } else { 12 };
        (u64::from(len) * 10).saturating_mul(smoothed) / (u64::from(self.window) * tenths).max(1)
    }
}

#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// When everything sent so far would have left at the pace.
    next: Instant,
}

impl Pacer {
    /// Whether a segment may leave.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.next <= now
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// How many segments of `len` bytes may leave now, one after the other.
    pub(super) fn room(&self, now: Instant, len: u32, pace: &Pace) -> u32 {
        let Some(lead) = now.as_micros().checked_sub(self.start(now, pace)) else { return 0 };
        match lead.checked_div(pace.time(len)) {
            Some(gaps) => u32::try_from(gaps).unwrap_or(u32::MAX).saturating_add(1),
            None => u32::MAX,
        }
    }

    /// So many segments of `len` bytes leave.
    pub(super) fn sent(&mut self, now: Instant, len: u32, segments: u32, pace: &Pace) {
        let time = pace.time(len).saturating_mul(segments.into());
        self.next = Instant::from_micros(self.start(now, pace).saturating_add(time));
    }

    /// From when the pace counts: what was not used for long is lost.
    fn start(&self, now: Instant, pace: &Pace) -> u64 {
        let credit = BURST.max(pace.time(LEAST_BURST));
        self.next.as_micros().max(now.as_micros().saturating_sub(credit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 segments of 1,000 bytes in 100 ms, a fifth faster: one in 833 µs, and 14 of them are the least burst.
    #[test]
    fn so_many_leave_together_as_one_by_one() {
        let pace = Pace { window: 100_000, smoothed: Duration::from_millis(100), slow_start: false };
        let (mut one_by_one, mut together) = (Pacer::default(), Pacer::default());
        for now in [1_000_000, 1_000_400, 1_000_900, 1_005_000, 2_000_000, 2_000_833] {
            let now = Instant::from_micros(now);
            let room = together.room(now, 1000, &pace);
            let mut left = 0;
            while one_by_one.allows(now) {
                assert!(left < room, "{now:?}");
                one_by_one.sent(now, 1000, 1, &pace);
                left += 1;
            }
            assert_eq!(left, room, "{now:?}");
            together.sent(now, 1000, room, &pace);
            assert_eq!(one_by_one.next(), together.next());
        }
        assert_eq!(Pacer::default().room(Instant::from_micros(1_000_000), 1000, &pace), 15);
    }
}
