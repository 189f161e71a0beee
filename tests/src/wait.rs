//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

/// Asks until there is an answer.
///
/// # Panics
/// When there is none within the limit.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        // Long enough to leave the machine to what is being waited for.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the condition holds, with the limit that suits most things.
///
/// # Panics
/// When it does not hold within ten seconds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    within(Duration::from_secs(10), what, || condition().then_some(()));
}
