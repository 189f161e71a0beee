//! What the client of one stream has been told about one type.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use super::Verdict;
use crate::snapshot::{Resource, Version};

/// The resources of one type: by name, what the client was told last and what it said to that; and from this, what it
/// has to be told next.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: BTreeMap<String, Entry>,
    /// Resources that the client has to get.
    updates: BTreeSet<String>,
    /// The same of those that have more room than what the client was told.
    growth: BTreeSet<String>,
    /// Resources that the client has to drop.
    removals: BTreeSet<String>,
    /// Resources of which the client waits to hear, be it that they are not there. All are among the entries.
    awaited: BTreeSet<String>,
    in_flight: Option<InFlight>,
    /// The nonce of the latest response; `in_flight` until it is answered.
    nonce: String,
    /// How many resources the next response may hold: halved by a rejection, doubled by an acknowledgement.
    batch: usize,
}

#[derive(Debug)]
struct Entry {
    /// None: the client may have any version, or none.
    version: Option<Version>,
    /// Of this version; 0 when it is not known.
    room: u32,
    verdict: Verdict,
}

impl Entry {
    /// Of something that the client may have, or may not.
    const fn unknown() -> Self {
        Self { version: None, room: 0, verdict: Verdict::Pending }
    }
}

#[derive(Debug)]
struct InFlight {
    updates: BTreeMap<String, Version>,
    removals: Vec<String>,
}

/// What an answer was about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not about a response: the stream's first request, or a change of the subscription.
    None,
    /// About an earlier response than the latest.
    Stale,
    /// The latest response was accepted.
    Accepted,
    /// The latest response was rejected. What becomes of its resources is for the caller to say.
    Rejected {
        /// The resources that were new in it, without those that the client has unsubscribed from since.
        new: Vec<String>,
        /// How many there were.
        size: usize,
        /// Those that it removed.
        removed: Vec<String>,
    },
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            updates: BTreeSet::new(),
            growth: BTreeSet::new(),
            removals: BTreeSet::new(),
            awaited: BTreeSet::new(),
            in_flight: None,
            nonce: String::new(),
            batch: usize::MAX,
        }
    }
}

impl Ledger {
    pub(super) fn is_waiting(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(super) fn has_updates(&self) -> bool {
        !self.updates.is_empty() || self.has_growth()
    }

    /// Whether something has to come before the destinations.
    pub(super) fn has_growth(&self) -> bool {
        !self.growth.is_empty()
    }

    pub(super) fn has_removals(&self) -> bool {
        !self.removals.is_empty()
    }

    /// Whether the client waits for something that is not there.
    pub(super) fn has_missing(&self) -> bool {
        self.awaited.iter().any(|name| self.removals.contains(name))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }

    pub(super) fn verdict(&self, name: &str, wanted: Option<Version>) -> Verdict {
        match (wanted, self.entries.get(name)) {
            (None, None) => Verdict::Accepted,
            (Some(wanted), Some(entry)) if entry.version == Some(wanted) => entry.verdict.clone(),
            // A removal that went down with the whole response.
            (None, Some(Entry { verdict: Verdict::Rejected(detail), version: None, .. })) => {
                Verdict::Rejected(detail.clone())
            }
            _ => Verdict::Pending,
        }
    }

    pub(super) fn accepted(&self) -> usize {
        self.entries.values().filter(|entry| entry.verdict == Verdict::Accepted).count()
    }

    pub(super) fn rejected(&self) -> impl Iterator<Item = (&String, &String)> {
        self.entries.iter().filter_map(|(name, entry)| match &entry.verdict {
            Verdict::Rejected(detail) => Some((name, detail)),
            _ => None,
        })
    }

    /// The client says by itself that it has this.
    pub(super) fn claim(&mut self, name: String, version: Option<Version>) {
        self.awaited.remove(&name);
        self.entries.insert(name, Entry { version, room: 0, verdict: Verdict::Accepted });
    }

    /// The client may have this, or have lost it: it is sent again, or removed.
    pub(super) fn doubt(&mut self, name: &str, wanted: Option<&Arc<Resource>>) {
        let may_have = |in_flight: &InFlight| in_flight.updates.contains_key(name);
        if self.entries.contains_key(name) || self.in_flight.as_ref().is_some_and(may_have) {
            self.entries.insert(name.to_owned(), Entry::unknown());
        }
        self.reconcile(name, wanted);
    }

    /// The client waits to hear of this: it is sent, or removed even if the client was never told of it.
    pub(super) fn ask(&mut self, name: &str, wanted: Option<&Arc<Resource>>) {
        self.entries.insert(name.to_owned(), Entry::unknown());
        self.awaited.insert(name.to_owned());
        self.reconcile(name, wanted);
    }

    /// The client wants no news of this.
    pub(super) fn forget(&mut self, name: &str) {
        self.entries.remove(name);
        for set in [&mut self.updates, &mut self.growth, &mut self.removals, &mut self.awaited] {
            set.remove(name);
        }
    }

    /// Compares what the client was told with what it should have.
    pub(super) fn reconcile(&mut self, name: &str, wanted: Option<&Arc<Resource>>) {
        let told = self.entries.get(name);
        let update = wanted.is_some_and(|r| told.is_none_or(|entry| entry.version != Some(r.version())));
        let growth = update && wanted.map_or(0, |r| r.room()) > told.map_or(0, |entry| entry.room);
        let removal = wanted.is_none() && told.is_some();
        let sets = [
            (&mut self.updates, update && !growth),
            (&mut self.growth, growth),
            (&mut self.removals, removal),
        ];
        for (set, is_member) in sets {
            if !is_member {
                set.remove(name);
            } else if !set.contains(name) {
                set.insert(name.to_owned());
            }
        }
    }

    /// As many updates as the next response may hold: those with more room, or any when there are none. They wait for an
    /// answer from now on.
    pub(super) fn send_updates<'a>(
        &mut self,
        nonce: u64,
        wanted: impl Fn(&str) -> Option<&'a Arc<Resource>>,
    ) -> Vec<Arc<Resource>> {
        let mut resources = Vec::new();
        let due = if self.growth.is_empty() { &mut self.updates } else { &mut self.growth };
        while resources.len() < self.batch
            && let Some(name) = due.pop_first()
        {
            resources.extend(wanted(&name).cloned());
        }
        self.send(nonce, &resources, Vec::new());
        resources
    }

    /// All removals. They wait for an answer from now on.
    pub(super) fn send_removals(&mut self, nonce: u64) -> Vec<String> {
        let names: Vec<_> = mem::take(&mut self.removals).into_iter().collect();
        self.send(nonce, &[], names.clone());
        names
    }

    /// All that the client waits for and that is not there. They wait for an answer from now on.
    pub(super) fn send_missing(&mut self, nonce: u64) -> Vec<String> {
        let names: Vec<_> = self.awaited.intersection(&self.removals).cloned().collect();
        for name in &names {
            self.removals.remove(name);
        }
        self.send(nonce, &[], names.clone());
        names
    }

    /// A response with all resources: everything else is to be dropped. Returns the names of those that the client does
    /// not have yet.
    pub(super) fn send_full(
        &mut self,
        nonce: u64,
        resources: &BTreeMap<String, Arc<Resource>>,
    ) -> Vec<String> {
        let is_new = |resource: &&Arc<Resource>| {
            self.entries.get(resource.name()).is_none_or(|entry| {
                entry.version != Some(resource.version()) || matches!(entry.verdict, Verdict::Rejected(_))
            })
        };
        let updates: Vec<_> = resources.values().filter(is_new).cloned().collect();
        let removals = self.entries.keys().filter(|name| !resources.contains_key(*name)).cloned().collect();
        self.send(nonce, &updates, removals);
        updates.iter().map(|resource| resource.name().to_owned()).collect()
    }

    fn send(&mut self, nonce: u64, updates: &[Arc<Resource>], removals: Vec<String>) {
        for resource in updates {
            let version = Some(resource.version());
            let entry = Entry { version, room: resource.room(), verdict: Verdict::Pending };
            self.entries.insert(resource.name().to_owned(), entry);
        }
        for name in &removals {
            self.entries.insert(name.clone(), Entry::unknown());
        }
        for name in updates.iter().map(|resource| resource.name()).chain(removals.iter().map(String::as_str))
        {
            self.awaited.remove(name);
        }
        let updates = updates.iter().map(|r| (r.name().to_owned(), r.version())).collect();
        self.in_flight = Some(InFlight { updates, removals });
        self.nonce = nonce.to_string();
    }

    /// Takes the answer to a response.
    pub(super) fn answer(&mut self, nonce: &str, is_rejection: bool) -> Answer {
        if nonce.is_empty() {
            return Answer::None;
        }
        if nonce != self.nonce {
            return Answer::Stale;
        }
        let Some(in_flight) = self.in_flight.take() else { return Answer::None };
        if is_rejection {
            let size = in_flight.updates.len();
            let new = in_flight.updates.into_iter().filter(|(name, version)| self.is_told(name, *version));
            return Answer::Rejected {
                new: new.map(|(name, _)| name).collect(),
                size,
                removed: in_flight.removals,
            };
        }
        self.batch = self.batch.saturating_mul(2);
        for (name, version) in in_flight.updates {
            if self.is_told(&name, version) {
                self.judge(&name, Verdict::Accepted);
            }
        }
        self.removed(&in_flight.removals);
        Answer::Accepted
    }

    /// Whether the client was told this version, and nothing has put that in doubt since.
    fn is_told(&self, name: &str, version: Version) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.version == Some(version))
    }

    /// The client has these no more.
    pub(super) fn removed(&mut self, names: &[String]) {
        for name in names {
            // Unless it was sent again in the meantime, or asked for.
            let is_gone = self.entries.get(name).is_some_and(|entry| entry.version.is_none());
            if is_gone && !self.awaited.contains(name) {
                self.entries.remove(name);
                self.removals.remove(name);
            }
        }
    }

    pub(super) fn judge(&mut self, name: &str, verdict: Verdict) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.verdict = verdict;
        }
    }

    /// A rejected group of this size goes again in smaller ones.
    pub(super) fn split<'a>(
        &mut self,
        names: &[String],
        size: usize,
        wanted: impl Fn(&str) -> Option<&'a Arc<Resource>>,
    ) {
        self.batch = (size / 2).max(1);
        for name in names {
            self.doubt(name, wanted(name));
        }
    }
}
