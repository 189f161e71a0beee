//! How often opening a connection failed, and why: counted by Envoy's workers.

use crate::greeting::Outcome;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of a network.
#[derive(Default)]
pub(crate) struct Failures {
    attempts: [AtomicU64; Outcome::ALL.len()],
    deadline: AtomicU64,
    unserved: AtomicU64,
}

/// A copy of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct FailureCounts {
    attempts: [u64; Outcome::ALL.len()],
    /// Clients, of either direction, whose time was over before there was a destination.
    pub(crate) deadline: u64,
    /// Clients, of either direction, that were closed without a destination; those included.
    pub(crate) unserved: u64,
}

impl FailureCounts {
    /// Attempts in the overlay that ended like this.
    pub(crate) fn attempts(&self, outcome: Outcome) -> u64 {
        self.attempts[outcome as usize]
    }
}

impl Failures {
    pub(crate) fn count(&self, outcome: Outcome) {
        self.attempts[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_deadline(&self) {
        self.deadline.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_unserved(&self) {
        self.unserved.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> FailureCounts {
        FailureCounts {
            attempts: self.attempts.each_ref().map(|count| count.load(Ordering::Relaxed)),
            deadline: self.deadline.load(Ordering::Relaxed),
            unserved: self.unserved.load(Ordering::Relaxed),
        }
    }
}
