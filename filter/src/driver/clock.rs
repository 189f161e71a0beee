//! The netstack's time, and its randomness.

use nexodus_netstack::Instant;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

/// Starts late enough that subtractions of an hour stay positive.
const EPOCH: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy)]
pub(super) struct Clock {
    start: std::time::Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    pub(super) fn now(&self) -> Instant {
        Instant::from_micros(0) + EPOCH + self.start.elapsed()
    }

    /// When `instant` was, in seconds since 1970.
    pub(super) fn unix_seconds(&self, instant: Instant) -> u64 {
        let age = self.now().saturating_since(instant);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(age).as_secs()
    }
}

/// 64 bits from the operating system, by way of the standard library's hash keys.
pub(super) fn seed() -> u64 {
    RandomState::new().hash_one(0)
}
