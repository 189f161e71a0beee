//! The aggregated discovery service: one gRPC endpoint that delivers the latest published snapshot to every Envoy.
//!
//! [`Ads`] is the handle: it takes snapshots and says what became of them. [`Ads::serve`] runs the endpoint, with one
//! task for each stream. A task owns nothing but its stream: what the client wants and has is a
//! [`Subscription`](crate::subscription::Subscription) behind a mutex, which is never held across an await.

mod service;
mod stream;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch, time::Instant};

pub use service::{Listener, ServeError};

use crate::{
    snapshot::{ResourceName, ResourceType, Snapshot},
    subscription::{Counters, Observe, Rejection, Verdict},
};

/// The most streams at a time; a further one is refused with `RESOURCE_EXHAUSTED`.
pub const MAX_STREAMS: usize = 64;

/// A handle on the server. Clones share one state.
#[derive(Clone, Debug)]
pub struct Ads {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts publications: wakes the streams.
    published: watch::Sender<u64>,
    /// Counts whatever a stream did: wakes who waits for an outcome.
    progress: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// None: nothing is known, so nothing is sent, and clients keep what they have.
    snapshot: Option<Snapshot>,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    refused: u64,
    /// What streams that have ended did not understand.
    past: Counters,
}

#[derive(Debug)]
struct Stream {
    client: Client,
    subscription: Arc<Mutex<dyn Observe + Send>>,
}

/// Who is at the other end of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The node's id, as the client's bootstrap has it; empty until its first request.
    pub node: String,
    /// Whether it speaks the incremental protocol.
    pub delta: bool,
}

impl Default for Ads {
    fn default() -> Self {
        Self::new()
    }
}

impl Ads {
    /// A server that has nothing to say and nobody to say it to.
    #[must_use]
    pub fn new() -> Self {
        let shared = Shared {
            state: Mutex::default(),
            published: watch::Sender::new(0),
            progress: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Replaces the snapshot; connected streams get what changed.
    pub fn publish(&self, snapshot: Snapshot) {
        self.shared.lock().snapshot = Some(snapshot);
        self.shared.published.send_modify(|count| *count += 1);
        self.shared.progress();
    }

    /// Waits until every connected stream has accepted these resources as they are published, or, of those that are not
    /// published, their absence.
    ///
    /// # Errors
    /// [`ApplyError::Nacked`] as soon as a stream rejects one of them; at the deadline [`ApplyError::TimedOut`], or
    /// [`ApplyError::NotConnected`] if then there is no stream.
    pub async fn applied(&self, names: &[ResourceName], deadline: Instant) -> Result<(), ApplyError> {
        let mut progress = self.shared.progress.subscribe();
        let mut known = Known::default();
        loop {
            progress.mark_unchanged();
            let outcome = self.shared.lock().outcome(names, &mut known);
            let waiting = match outcome {
                Ok(()) => return Ok(()),
                Err(error @ ApplyError::Nacked { .. }) => return Err(error),
                Err(waiting) => waiting,
            };
            // The sender lives as long as `self`.
            if !matches!(tokio::time::timeout_at(deadline, progress.changed()).await, Ok(Ok(()))) {
                return Err(waiting);
            }
        }
    }

    /// Who is connected, and what they have accepted and rejected.
    #[must_use]
    pub fn status(&self) -> AdsStatus {
        let state = self.shared.lock();
        let streams: Vec<_> = state
            .streams
            .values()
            .map(|stream| {
                let subscription = lock(&stream.subscription);
                StreamStatus {
                    client: stream.client.clone(),
                    accepted: ResourceType::ALL.map(|kind| subscription.accepted(kind)),
                    rejections: subscription.rejections(),
                }
            })
            .collect();
        let last_nack = streams.iter().flat_map(|stream| &stream.rejections).last().map(Nack::from);
        AdsStatus {
            connected: streams.len(),
            streams,
            last_nack,
            refused: state.refused,
            counters: state.counters(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn progress(&self) {
        self.progress.send_modify(|count| *count += 1);
    }
}

/// A panic while the state is locked leaves it as it was between two steps.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of some names from the last look: with thousands of them, most looks find nothing new.
#[derive(Debug, Default)]
struct Known {
    /// One that was pending: the last, because resources are sent in the order of their names.
    pending: Option<usize>,
    /// How many responses had been rejected.
    rejected: u64,
}

impl State {
    /// What became of these resources: accepted, rejected, or not known yet.
    fn outcome(&self, names: &[ResourceName], known: &mut Known) -> Result<(), ApplyError> {
        if self.streams.is_empty() {
            return Err(ApplyError::NotConnected);
        }
        let rejected = self.counters().rejected;
        let is_pending =
            |index: usize| names.get(index).is_some_and(|name| self.verdict(name) == Verdict::Pending);
        if rejected == known.rejected && known.pending.is_some_and(is_pending) {
            return Err(ApplyError::TimedOut);
        }
        *known = Known { pending: None, rejected };
        for (index, name) in names.iter().enumerate() {
            match self.verdict(name) {
                Verdict::Accepted => {}
                Verdict::Pending => known.pending = Some(index),
                Verdict::Rejected(detail) => {
                    return Err(ApplyError::Nacked { resource: name.to_string(), detail });
                }
            }
        }
        if known.pending.is_some() || self.snapshot.is_none() { Err(ApplyError::TimedOut) } else { Ok(()) }
    }

    /// What the streams think of a resource as it is published: the worst counts.
    fn verdict(&self, name: &ResourceName) -> Verdict {
        let published = self.snapshot.as_ref().and_then(|snapshot| snapshot.get(name.kind, &name.name));
        let mut worst = Verdict::Accepted;
        for stream in self.streams.values() {
            match lock(&stream.subscription).verdict(name, published.map(|resource| resource.version())) {
                Verdict::Accepted => {}
                Verdict::Pending => worst = Verdict::Pending,
                rejected @ Verdict::Rejected(_) => return rejected,
            }
        }
        worst
    }

    fn counters(&self) -> Counters {
        let of_streams = self.streams.values().map(|stream| lock(&stream.subscription).counters());
        of_streams.fold(self.past, |sum, counters| sum + counters)
    }
}

/// The state of the server for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdsStatus {
    /// How many streams are connected.
    pub connected: usize,
    /// Each of them.
    pub streams: Vec<StreamStatus>,
    /// A rejection that is still the answer to what is published.
    pub last_nack: Option<Nack>,
    /// Streams that were refused because there were [`MAX_STREAMS`].
    pub refused: u64,
    /// What all streams so far have ignored or rejected.
    pub counters: Counters,
}

/// One stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamStatus {
    /// Who it is.
    pub client: Client,
    /// How many resources it has accepted, in the order of [`ResourceType::ALL`].
    pub accepted: [usize; 4],
    /// What it has rejected and what has not been replaced since.
    pub rejections: Vec<Rejection>,
}

/// A rejection by an Envoy, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The rejected resource or resources: `listener egress/tcp/80`.
    pub resource: String,
    /// Envoy's own text.
    pub detail: String,
}

impl From<&Rejection> for Nack {
    fn from(rejection: &Rejection) -> Self {
        let Rejection { kind, names, detail } = rejection;
        Self { resource: format!("{kind} {}", names.join(", ")), detail: detail.clone() }
    }
}

/// Why a change is not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// An Envoy rejected it. It keeps what it had of this resource.
    #[error("Envoy rejected {resource}: {detail}")]
    Nacked {
        /// The rejected resource.
        resource: String,
        /// Envoy's own text.
        detail: String,
    },
    /// An Envoy is connected and has not answered.
    #[error("Envoy has not applied the change in time")]
    TimedOut,
    /// No Envoy is connected.
    #[error("no Envoy is connected")]
    NotConnected,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
