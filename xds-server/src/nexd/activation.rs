//! Waiting until Envoy does what was published: accepted is not enough, the listeners must be there.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::admin::{Admin, AdminError};
use crate::{
    ads::{Ads, ApplyError},
    rules::RuleKey,
    snapshot::{ResourceName, ResourceType, Snapshot},
    translate::{Settings, resource_names},
};

/// Envoy opens a listener within a few milliseconds after accepting it.
const POLL: Duration = Duration::from_millis(20);

/// How long to wait for clusters whose destinations are looked up or tried for the first time: a health check takes up to
/// 5 s. Clients are turned away until then, as they are when nothing is found.
const WARM_LIMIT: Duration = Duration::from_secs(6);

/// Why a change is not active.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// Envoy rejects it, or does not answer.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Envoy accepted it and has not opened, or not closed, this listener.
    #[error("listener {listener} is not {state} in time")]
    Listener {
        /// Its name.
        listener: String,
        /// What it should be.
        state: &'static str,
    },
    /// The workers do not run yet: most likely the module is not ready.
    #[error("Envoy is not ready in time")]
    NotLive,
    /// Envoy does not answer.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

impl ActivationError {
    /// Whether another process has the port: in Envoy's words, after its rejection.
    #[must_use]
    pub fn is_port_conflict(&self) -> bool {
        matches!(self, Self::Apply(ApplyError::Nacked { detail, .. }) if detail.contains("cannot bind"))
    }
}

/// What Envoy should come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    names: Vec<ResourceName>,
    listener: Vec<String>,
    no_listener: Vec<String>,
}

impl Target {
    /// Everything in a snapshot.
    #[must_use]
    pub fn all(snapshot: &Snapshot) -> Self {
        let of_type =
            |kind| snapshot.resources(kind).map(move |resource| ResourceName::new(kind, resource.name()));
        Self {
            names: ResourceType::ALL.into_iter().flat_map(of_type).collect(),
            listener: snapshot
                .resources(ResourceType::Listener)
                .map(|listener| listener.name().to_owned())
                .collect(),
            no_listener: Vec::new(),
        }
    }

    /// The rules of one key, which are there or are there no more.
    #[must_use]
    pub fn key(key: RuleKey, present: bool, settings: &Settings) -> Self {
        let name = key.to_string();
        let (listener, no_listener) =
            if present { (vec![name], Vec::new()) } else { (Vec::new(), vec![name]) };
        Self { names: resource_names(key, settings), listener, no_listener }
    }

    /// No rules of these keys.
    #[must_use]
    pub fn without(keys: &[RuleKey], settings: &Settings) -> Self {
        Self {
            names: keys.iter().flat_map(|key| resource_names(*key, settings)).collect(),
            listener: Vec::new(),
            no_listener: keys.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Waits until Envoy has come to the target.
///
/// # Errors
/// [`ActivationError`], at once when Envoy rejects something, else at the deadline.
pub async fn reached(
    ads: &Ads,
    admin: &Admin,
    target: &Target,
    deadline: Instant,
) -> Result<(), ActivationError> {
    loop {
        match ads.applied(&target.names, deadline).await {
            Ok(()) => break,
            // It is on its way.
            Err(ApplyError::NotConnected) if Instant::now() < deadline => sleep(POLL).await,
            Err(error) => return Err(error.into()),
        }
    }
    loop {
        let missing = match missing(admin, target).await {
            Ok(None) => break,
            Ok(Some(missing)) => missing,
            Err(error) => error.into(),
        };
        if Instant::now() >= deadline {
            return Err(missing);
        }
        sleep(POLL).await;
    }
    if !target.listener.is_empty() {
        warmed(admin, deadline.min(Instant::now() + WARM_LIMIT)).await;
    }
    Ok(())
}

/// Waits until Envoy uses every cluster that it has. One that takes too long is no failure: the listeners are there.
async fn warmed(admin: &Admin, deadline: Instant) {
    while Instant::now() < deadline && admin.warming_clusters().await.is_ok_and(|clusters| clusters > 0) {
        sleep(POLL).await;
    }
}

async fn missing(admin: &Admin, target: &Target) -> Result<Option<ActivationError>, AdminError> {
    if !admin.is_live().await? {
        return Ok(Some(ActivationError::NotLive));
    }
    let listeners = admin.listeners().await?;
    let absent = target.listener.iter().find(|name| !listeners.contains(*name));
    let still = target.no_listener.iter().find(|name| listeners.contains(*name));
    Ok(absent
        .map(|name| (name, "open"))
        .or(still.map(|name| (name, "closed")))
        .map(|(name, state)| ActivationError::Listener { listener: name.clone(), state }))
}
