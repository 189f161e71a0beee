//! The state-of-the-world protocol (`StreamAggregatedResources`).
//!
//! A response with clusters or listeners holds all of them, and what is missing is removed. To remove listeners before
//! their clusters, clusters are sent twice: first the new ones together with those that have to go, then, when the
//! listeners are answered, without these. Responses of the other types hold what has changed.
//!
//! A rejection covers the whole response. Envoy applies the good part of clusters and listeners and names the bad ones
//! in its text, so what the text does not name counts as accepted; if it names nothing, everything new is rejected.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

use super::{
    Counters, Interest, MAX_NAMES, Observe, Rejection, Subscription, Verdict, Violation,
    delta::rejections,
    ledger::{Answer, Ledger},
    truncated,
};
use crate::snapshot::{Resource, ResourceName, ResourceType, Snapshot, Version};

const WILDCARD: &str = "*";

/// A stream of the state-of-the-world protocol.
#[derive(Debug, Default)]
pub struct StateOfTheWorld {
    snapshot: Option<Snapshot>,
    types: [Type; 4],
    nonce: u64,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Type {
    /// Whether the client has asked for this type on this stream.
    asked: bool,
    /// Whether it has ever named something: from then on naming nothing means nothing, and no longer everything.
    named: bool,
    interest: Interest,
    ledger: Ledger,
    /// Whether a response has been answered: before, the client may have anything from an earlier stream.
    answered: bool,
    /// Clusters and listeners only: the latest response.
    told: BTreeMap<String, Arc<Resource>>,
    /// Clusters and listeners only: the version of the latest response.
    version: Option<Version>,
    /// Clusters and listeners only: the next response may differ from the latest.
    dirty: bool,
}

/// Make before break, after what has more room for destinations. The second look at the clusters is for those that waited for
/// the listeners.
const STEPS: [ResourceType; 5] = [
    ResourceType::Cluster,
    ResourceType::Endpoints,
    ResourceType::Listener,
    ResourceType::ExtensionConfig,
    ResourceType::Cluster,
];

impl Subscription for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn handle_request(&mut self, request: DiscoveryRequest) -> Result<Option<Rejection>, Violation> {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            self.counters.unknown_type += 1;
            return Ok(None);
        };
        let is_first = !std::mem::replace(&mut self.types[kind as usize].asked, true);
        // The first request of a stream may carry the nonce of an earlier one.
        let nonce = if is_first { "" } else { request.response_nonce.as_str() };
        let rejection = match self.types[kind as usize].ledger.answer(nonce, request.error_detail.is_some()) {
            Answer::None => None,
            Answer::Accepted => {
                self.types[kind as usize].answered = true;
                None
            }
            Answer::Stale => {
                self.counters.stale_nonce += 1;
                None
            }
            Answer::Rejected { new, size, removed } => {
                self.counters.rejected += 1;
                let detail = request.error_detail.map(|status| status.message).unwrap_or_default();
                self.handle_rejection(kind, new, size, &removed, truncated(detail))
            }
        };
        self.handle_interest(kind, request.resource_names)?;
        Ok(rejection)
    }

    fn handle_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
        let Some(snapshot) = &self.snapshot else { return };
        for kind in ResourceType::ALL {
            let Type { interest, ledger, dirty, .. } = &mut self.types[kind as usize];
            *dirty = true;
            if kind.is_full_state() {
                continue;
            }
            // There is no message for "gone": it just stops being sent.
            let gone: Vec<_> =
                ledger.names().filter(|name| snapshot.get(kind, name).is_none()).cloned().collect();
            for name in gone {
                ledger.forget(&name);
            }
            for resource in snapshot.resources(kind).filter(|r| interest.includes(r.name())) {
                ledger.reconcile(resource.name(), Some(resource));
            }
        }
    }

    fn poll_response(&mut self) -> Option<DiscoveryResponse> {
        self.snapshot.as_ref()?;
        let resources =
            |kind: ResourceType, version, resources: Vec<Arc<Resource>>, nonce: u64| DiscoveryResponse {
                version_info: Version::to_string(&version),
                resources: resources.iter().map(|resource| resource.body().clone()).collect(),
                type_url: kind.type_url().to_owned(),
                nonce: nonce.to_string(),
                ..Default::default()
            };
        let extensions = &self.types[ResourceType::ExtensionConfig as usize].ledger;
        let growth = extensions.has_growth().then_some(ResourceType::ExtensionConfig);
        for kind in growth.into_iter().chain(STEPS) {
            if self.must_wait(kind) {
                continue;
            }
            if kind.is_full_state() {
                if let Some((version, all)) = self.full(kind) {
                    return Some(resources(kind, version, all, self.nonce));
                }
            } else if self.types[kind as usize].ledger.has_updates() {
                let some = self.partial(kind);
                return Some(resources(kind, Version::of_set(&some), some, self.nonce));
            }
        }
        None
    }
}

impl StateOfTheWorld {
    /// A stream whose client has not said anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn handle_rejection(
        &mut self,
        kind: ResourceType,
        new: Vec<String>,
        size: usize,
        removed: &[String],
        detail: String,
    ) -> Option<Rejection> {
        let Type { interest, ledger, told, answered, .. } = &mut self.types[kind as usize];
        if !kind.is_full_state() {
            if size > 1 {
                let snapshot = self.snapshot.as_ref();
                ledger.split(&new, size, |name| wanted(snapshot, interest, kind, name));
                return None;
            }
            for name in &new {
                ledger.judge(name, Verdict::Rejected(detail.clone()));
            }
            return Some(Rejection { kind, names: new, detail });
        }
        let mut culprits: Vec<String> = told.keys().filter(|name| blames(&detail, name)).cloned().collect();
        if culprits.is_empty() {
            // The response was rejected as a whole, so what it would have removed is still there.
            for name in removed {
                ledger.judge(name, Verdict::Rejected(detail.clone()));
            }
            culprits = new;
        } else {
            for name in new {
                ledger.judge(&name, Verdict::Accepted);
            }
            ledger.removed(removed);
            *answered = true;
        }
        for name in &culprits {
            ledger.judge(name, Verdict::Rejected(detail.clone()));
        }
        Some(Rejection { kind, names: culprits, detail })
    }

    fn handle_interest(&mut self, kind: ResourceType, names: Vec<String>) -> Result<(), Violation> {
        if names.len() > MAX_NAMES {
            return Err(Violation::TooManyNames);
        }
        let Type { named, interest, ledger, dirty, .. } = &mut self.types[kind as usize];
        *named |= !names.is_empty();
        let mut names: BTreeSet<String> = names.into_iter().collect();
        let wildcard = names.remove(WILDCARD) || (kind.is_full_state() && !*named);
        if wildcard == interest.wildcard && names == interest.names {
            return Ok(());
        }
        let before = std::mem::replace(interest, Interest { wildcard, names });
        *dirty = true;
        if kind.is_full_state() {
            return Ok(());
        }
        for name in before.names.iter().filter(|name| !interest.includes(name)) {
            ledger.forget(name);
        }
        let Some(snapshot) = &self.snapshot else { return Ok(()) };
        let is_new = |name: &&String| !before.includes(name);
        for name in interest.names.iter().filter(is_new) {
            // The client may have dropped it since it was last sent.
            ledger.doubt(name, snapshot.get(kind, name));
        }
        if wildcard && !before.wildcard {
            for resource in snapshot.resources(kind) {
                ledger.reconcile(resource.name(), Some(resource));
            }
        }
        Ok(())
    }

    fn must_wait(&self, kind: ResourceType) -> bool {
        let is_waiting = |kind| self.types[kind as usize].ledger.is_waiting();
        let extensions = &self.types[ResourceType::ExtensionConfig as usize].ledger;
        let destinations_wait = is_waiting(ResourceType::Cluster) || is_waiting(ResourceType::Endpoints);
        is_waiting(kind)
            || match kind {
                ResourceType::Cluster | ResourceType::Endpoints => extensions.has_growth(),
                ResourceType::Listener => destinations_wait,
                // What has less room counts when the destinations are gone.
                ResourceType::ExtensionConfig => destinations_wait && !extensions.has_growth(),
            }
    }

    /// The next response of a type of which every response holds everything, if it differs from the latest.
    fn full(&mut self, kind: ResourceType) -> Option<(Version, Vec<Arc<Resource>>)> {
        let listeners = &self.types[ResourceType::Listener as usize];
        let listeners_lag =
            !listeners.interest.is_none() && (listeners.dirty || listeners.ledger.is_waiting());
        let snapshot = self.snapshot.as_ref()?;
        let this = &mut self.types[kind as usize];
        if !this.dirty || !this.asked {
            return None;
        }
        let mut all: BTreeMap<String, Arc<Resource>> = snapshot
            .resources(kind)
            .filter(|resource| this.interest.includes(resource.name()))
            .map(|resource| (resource.name().to_owned(), Arc::clone(resource)))
            .collect();
        this.dirty = false;
        if kind == ResourceType::Cluster && listeners_lag {
            let keep = this.told.iter().filter(|(name, _)| this.interest.includes(name));
            for (name, resource) in keep {
                all.entry(name.clone()).or_insert_with(|| {
                    this.dirty = true;
                    Arc::clone(resource)
                });
            }
        }
        let version = Version::of_set(all.values());
        if this.version == Some(version) {
            return None;
        }
        self.nonce += 1;
        this.version = Some(version);
        let changed = this.ledger.send_full(self.nonce, &all);
        this.told.clone_from(&all);
        if kind == ResourceType::Cluster {
            self.resend_endpoints(&changed);
        }
        Some((version, all.into_values().collect()))
    }

    /// The next response of a type of which a response holds what has changed.
    fn partial(&mut self, kind: ResourceType) -> Vec<Arc<Resource>> {
        self.nonce += 1;
        let snapshot = self.snapshot.as_ref();
        let Type { interest, ledger, .. } = &mut self.types[kind as usize];
        ledger.send_updates(self.nonce, |name| wanted(snapshot, interest, kind, name))
    }

    /// A changed cluster is a new one to Envoy, and waits for its endpoints.
    fn resend_endpoints(&mut self, clusters: &[String]) {
        let kind = ResourceType::Endpoints;
        let snapshot = self.snapshot.as_ref();
        let Type { interest, ledger, .. } = &mut self.types[kind as usize];
        for name in clusters.iter().filter(|name| interest.includes(name)) {
            ledger.doubt(name, wanted(snapshot, interest, kind, name));
        }
    }
}

impl Observe for StateOfTheWorld {
    fn verdict(&self, name: &ResourceName, version: Option<Version>) -> Verdict {
        let Type { ledger, answered, .. } = &self.types[name.kind as usize];
        let unknown = version.is_none() && name.kind.is_full_state() && !answered;
        if unknown { Verdict::Pending } else { ledger.verdict(&name.name, version) }
    }

    fn rejections(&self) -> Vec<Rejection> {
        rejections(|kind| &self.types[kind as usize].ledger)
    }

    fn accepted(&self, kind: ResourceType) -> usize {
        self.types[kind as usize].ledger.accepted()
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

/// What the client should have under this name.
fn wanted<'a>(
    snapshot: Option<&'a Snapshot>,
    interest: &Interest,
    kind: ResourceType,
    name: &str,
) -> Option<&'a Arc<Resource>> {
    snapshot.filter(|_| interest.includes(name)).and_then(|snapshot| snapshot.get(kind, name))
}

/// Whether Envoy's text blames a resource of this name. It says `NAME: REASON` for each; a reason may contain other
/// names, and `egress/tcp/80` is not `egress/tcp/8080`.
fn blames(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '/' | '_' | '-');
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(is_part) && text[at + name.len()..].starts_with(": "))
}
