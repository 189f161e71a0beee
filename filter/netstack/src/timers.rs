//! Deadlines of many things, at most one entry for each.

use std::collections::BTreeSet;

use crate::Instant;

/// Deadlines ordered by time. Each key keeps the instant of its entry in a slot of its own, so that an entry is
/// found again. An entry only ever moves to an earlier instant: one that fires too early costs a look, while moving it
/// with every packet would cost every packet.
pub(crate) struct Timers<K> {
    entries: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { entries: BTreeSet::new() }
    }

    /// Makes sure that `key` fires at `at` or earlier.
    pub(crate) fn at_latest(&mut self, key: K, slot: &mut Option<Instant>, at: Instant) {
        if slot.is_some_and(|set| set <= at) {
            return;
        }
        self.remove(key, slot);
        self.entries.insert((at, key));
        *slot = Some(at);
    }

    pub(crate) fn remove(&mut self, key: K, slot: &mut Option<Instant>) {
        if let Some(set) = slot.take() {
            self.entries.remove(&(set, key));
        }
    }

    /// Takes out the earliest entry that is due. The caller clears the key's slot.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let &(at, key) = self.entries.first()?;
        if at > now {
            return None;
        }
        self.entries.pop_first();
        Some(key)
    }

    /// The earliest key for which `wanted` holds. Looks at one after the other.
    pub(crate) fn find(&self, wanted: impl Fn(&K) -> bool) -> Option<K> {
        self.entries.iter().map(|&(_, key)| key).find(wanted)
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.entries.first().map(|&(at, _)| at)
    }
}
