//! The aggregated discovery service: one gRPC endpoint that delivers the latest published snapshot to every Envoy.

use tokio::time::Instant;

use crate::snapshot::{ResourceName, Snapshot};

/// A handle on the server. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Ads {}

impl Ads {
    /// A server with an empty snapshot that nobody is connected to.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the snapshot; connected streams get what changed.
    pub fn publish(&self, _snapshot: Snapshot) {}

    /// Waits until every connected stream has accepted the published version of these resources, or their removal.
    ///
    /// # Errors
    /// [`ApplyError`] as soon as a stream rejects one of them, or at the deadline.
    #[expect(clippy::unused_async, reason = "stub")]
    pub async fn applied(&self, _names: &[ResourceName], _deadline: Instant) -> Result<(), ApplyError> {
        Ok(())
    }

    /// What is connected and what it has accepted.
    #[must_use]
    pub fn status(&self) -> AdsStatus {
        AdsStatus::default()
    }

    /// Serves until `shutdown` resolves, then ends every stream.
    ///
    /// # Errors
    /// [`ServeError`] when the listener fails.
    #[expect(clippy::unused_async, reason = "stub")]
    pub async fn serve(
        self,
        _listener: impl Into<Listener>,
        _shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        Ok(())
    }
}

/// What [`Ads::serve`] listens on.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket.
    Unix(tokio::net::UnixListener),
    /// A TCP port.
    Tcp(tokio::net::TcpListener),
}

impl From<tokio::net::UnixListener> for Listener {
    fn from(listener: tokio::net::UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl From<tokio::net::TcpListener> for Listener {
    fn from(listener: tokio::net::TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// The state of the server for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdsStatus {
    /// How many streams are connected.
    pub connected: usize,
    /// The last rejection that is still the answer to what is published.
    pub last_nack: Option<Nack>,
}

/// A rejection by an Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The rejected resource, when it is known; otherwise the rejection holds for some resource of the type.
    pub resource: String,
    /// Envoy's own text.
    pub detail: String,
}

/// Why a change is not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// An Envoy rejected it.
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

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("the ADS listener failed: {0}")]
    Transport(String),
}
