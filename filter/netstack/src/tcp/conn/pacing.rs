//! When the next segment may leave: a window goes out spread over a round trip, not in one burst.

use std::time::Duration;

use crate::Instant;

/// What may leave together. Real machines wake up one to two milliseconds late, and a burst of equal segments is sealed and
/// sent in one go.
const BURST: Duration = Duration::from_millis(2);
/// Bytes that may always leave together.
const LEAST_BURST: u64 = 10 * 1460;

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

    /// `len` bytes leave. `window` bytes are allowed in a round trip of `smoothed`; in slow start the pace is twice that, so
    /// that the window can grow, and else a fifth more, so that pacing is never what limits.
    pub(super) fn sent(&mut self, now: Instant, len: u32, window: u32, smoothed: Duration, slow_start: bool) {
        let smoothed = u64::try_from(smoothed.as_micros()).unwrap_or(u64::MAX).max(1);
        let tenths = if slow_start { 20 } else { 12 };
        let rate = (u64::from(window) * tenths).max(1);
        let time =
            |bytes: u64| Duration::from_micros(bytes.saturating_mul(10).saturating_mul(smoothed) / rate);
        let credit = BURST.max(time(LEAST_BURST));
        let earliest = Instant::from_micros(now.as_micros().saturating_sub(micros(credit)));
        self.next = self.next.max(earliest) + time(len.into());
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
