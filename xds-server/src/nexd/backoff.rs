//! How long to wait before Envoy is started again. Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// A run this long is no failure to start: the next one is waited for as if it were the first.
const STABLE: Duration = Duration::from_secs(60);

/// Doubles from half a second to 30 seconds.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// What to wait after a run of this length.
    pub fn after(&mut self, run: Duration) -> Duration {
        if run >= STABLE {
            self.failures = 0;
        }
        let delay = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_starts_again_after_a_stable_run() {
        let mut backoff = Backoff::default();
        let mut after = |seconds| backoff.after(Duration::from_secs(seconds)).as_millis();
        let delays: Vec<_> = (0..8).map(|_| after(59)).collect();
        assert_eq!(delays, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(after(60), 500);
        assert_eq!(after(0), 1_000);
        for _ in 0..100 {
            after(0);
        }
        assert_eq!(after(0), 30_000);
    }
}
