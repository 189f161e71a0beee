//! The state of one xDS stream: what its client wants, has been sent, and has accepted. Pure: requests and snapshots go
//! in, responses come out, no sockets and no clock.
//!
//! Call order: any number of `handle_request` and `handle_snapshot`, then `poll_response` until it is `None`.
//!
//! Both protocols ([`StateOfTheWorld`] and [`Delta`]) keep the same promises:
//!
//! * **Only changes are sent.** At most one response of a type waits for its answer.
//! * **A rejected response is never answered with the same content.** A rejected group is taken apart where the
//!   protocol allows it: halves, then single resources, so that only what is bad stays out and every rejection has a
//!   name. A single rejected resource is sent again only with other content.
//! * **Make before break.** Clusters, their endpoints, then listeners, then what listeners refer to; listeners go before
//!   their clusters. A new listener waits until the client has accepted the clusters: Envoy does so when they are warm,
//!   that is, when they have their endpoints and their names are looked up.
//! * **Room for the destinations there are.** An extension configuration that is made for more destinations than the client's
//!   ([`Resource::room`](crate::snapshot::Resource::room)) comes before them, one that is made for fewer when they have gone.
//! * **Bounded.** The types are four, the names of a subscription at most [`MAX_NAMES`].

mod delta;
mod ledger;
mod sotw;

use std::collections::BTreeSet;

pub use delta::Delta;
pub use sotw::StateOfTheWorld;

use crate::snapshot::{ResourceName, ResourceType, Snapshot, Version};

/// The most names that a client may ask for, or claim to have, in one type.
pub const MAX_NAMES: usize = 65_536;

/// How much of a client's own text is kept, in bytes.
pub const MAX_DETAIL: usize = 4096;

/// One protocol's stream.
pub trait Subscription: Observe {
    /// What the client sends.
    type Request;
    /// What the client is sent.
    type Response;

    /// Takes a request: a subscription, an acknowledgement, a rejection, or several at once. Says when it rejects
    /// resources for good.
    ///
    /// # Errors
    /// [`Violation`]: the stream must end.
    fn handle_request(&mut self, request: Self::Request) -> Result<Option<Rejection>, Violation>;

    /// From now on this is what the client should have. Before the first snapshot nothing is sent, so a client that
    /// knows more than a server that has just started keeps what it has.
    fn handle_snapshot(&mut self, snapshot: Snapshot);

    /// The next response that can be sent now.
    fn poll_response(&mut self) -> Option<Self::Response>;
}

/// What a stream says of its client.
pub trait Observe: std::fmt::Debug {
    /// What the client thinks of a resource in this version, or of its absence.
    fn verdict(&self, name: &ResourceName, wanted: Option<Version>) -> Verdict;

    /// Everything that was rejected and has not been replaced since.
    fn rejections(&self) -> Vec<Rejection>;

    /// How many resources of a type the client has accepted.
    fn accepted(&self, kind: ResourceType) -> usize;

    /// Counts of what was ignored.
    fn counters(&self) -> Counters;
}

/// What a client thinks of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has not been sent, or not been answered.
    Pending,
    /// The client has it, or has it no more.
    Accepted,
    /// The client's own text.
    Rejected(String),
}

/// Resources that a client has rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Their type.
    pub kind: ResourceType,
    /// Their names. In the state-of-the-world protocol these are the names that the client's text contains, or, if it
    /// contains none, everything that was new in the response.
    pub names: Vec<String>,
    /// The client's own text, at most [`MAX_DETAIL`] bytes of it.
    pub detail: String,
}

/// What a stream has ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests for types that this server does not have.
    pub unknown_type: u64,
    /// Answers to a response that is not the latest of its type.
    pub stale_nonce: u64,
    /// Rejected responses.
    pub rejected: u64,
}

impl std::ops::Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            unknown_type: self.unknown_type + other.unknown_type,
            stale_nonce: self.stale_nonce + other.stale_nonce,
            rejected: self.rejected + other.rejected,
        }
    }
}

/// Why a stream must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More than [`MAX_NAMES`].
    #[error("too many resource names in one subscription: the limit is {MAX_NAMES}")]
    TooManyNames,
}

/// The names that a client has subscribed to.
#[derive(Debug, Default)]
struct Interest {
    wildcard: bool,
    names: BTreeSet<String>,
}

impl Interest {
    fn includes(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn is_none(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }
}

/// At most [`MAX_DETAIL`] bytes of a client's text, which ends with a newline or does not.
fn truncated(mut detail: String) -> String {
    detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
    detail.truncate(detail.trim_end().len());
    detail
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]
mod tests;
