//! The incremental protocol (`DeltaAggregatedResources`).
//!
//! Every response holds either new resources or the names of removed ones, so a rejection leaves no doubt about what the
//! client has. A rejected group goes again in halves, down to single resources. Envoy applies the good part of a
//! rejected group but does not remember its versions, so this also keeps what it claims after a reconnect true.

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wire,
};

use super::{
    Counters, Interest, MAX_NAMES, Observe, Rejection, Subscription, Verdict, Violation,
    ledger::{Answer, Ledger},
    truncated,
};
use crate::snapshot::{Resource, ResourceName, ResourceType, Snapshot, Version};

const WILDCARD: &str = "*";

/// A stream of the incremental protocol.
#[derive(Debug, Default)]
pub struct Delta {
    snapshot: Option<Snapshot>,
    types: [Type; 4],
    nonce: u64,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Type {
    /// Whether the client has asked for this type on this stream.
    asked: bool,
    /// It waits for a first response, be it an empty one: Envoy is not ready before it has all listeners and clusters.
    first_is_due: bool,
    interest: Interest,
    ledger: Ledger,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Updates with more room for destinations.
    Grow(ResourceType),
    Update(ResourceType),
    /// That what the client waits for is not there.
    Miss(ResourceType),
    Remove(ResourceType),
}

/// Make before break. A listener goes before the one that takes its address comes.
const STEPS: [Step; 10] = [
    Step::Grow(ResourceType::ExtensionConfig),
    // A cluster without endpoints is warm when it knows that it has none, and holds up every other change until then.
    Step::Miss(ResourceType::Endpoints),
    Step::Update(ResourceType::Cluster),
    Step::Update(ResourceType::Endpoints),
    Step::Remove(ResourceType::Listener),
    Step::Update(ResourceType::Listener),
    Step::Update(ResourceType::ExtensionConfig),
    Step::Remove(ResourceType::ExtensionConfig),
    Step::Remove(ResourceType::Cluster),
    Step::Remove(ResourceType::Endpoints),
];

impl Subscription for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn handle_request(&mut self, request: DeltaDiscoveryRequest) -> Result<Option<Rejection>, Violation> {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            self.counters.unknown_type += 1;
            return Ok(None);
        };
        let rejection = self.handle_answer(kind, &request);
        self.handle_interest(kind, request)?;
        Ok(rejection)
    }

    fn handle_snapshot(&mut self, snapshot: Snapshot) {
        let before = self.snapshot.replace(snapshot);
        let Some(after) = &self.snapshot else { return };
        for kind in ResourceType::ALL {
            let Type { interest, ledger, .. } = &mut self.types[kind as usize];
            let known: Vec<String> = ledger.names().cloned().collect();
            let before = before.iter().flat_map(|snapshot| snapshot.resources(kind)).map(|r| r.name());
            let now = after.resources(kind).map(|r| r.name());
            for name in known.iter().map(String::as_str).chain(before).chain(now) {
                ledger.reconcile(name, wanted(Some(after), interest, kind, name));
            }
        }
    }

    fn poll_response(&mut self) -> Option<DeltaDiscoveryResponse> {
        self.snapshot.as_ref()?;
        let step = STEPS.into_iter().find(|step| self.is_due(*step))?;
        self.nonce += 1;
        Some(match step {
            Step::Grow(kind) | Step::Update(kind) => self.update(kind),
            Step::Miss(kind) => self.response(kind, Vec::new(), |ledger, nonce| ledger.send_missing(nonce)),
            Step::Remove(kind) => {
                self.response(kind, Vec::new(), |ledger, nonce| ledger.send_removals(nonce))
            }
        })
    }
}

impl Delta {
    /// A stream whose client has not said anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn handle_answer(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest) -> Option<Rejection> {
        let Type { interest, ledger, .. } = &mut self.types[kind as usize];
        let (names, size) = match ledger.answer(&request.response_nonce, request.error_detail.is_some()) {
            Answer::None | Answer::Accepted => return None,
            Answer::Stale => {
                self.counters.stale_nonce += 1;
                return None;
            }
            Answer::Rejected { new, size, removed } => {
                // Dropping something cannot fail.
                ledger.removed(&removed);
                (new, size)
            }
        };
        self.counters.rejected += 1;
        if size > 1 {
            ledger.split(&names, size, |name| wanted(self.snapshot.as_ref(), interest, kind, name));
            return None;
        }
        let detail = truncated(request.error_detail.as_ref()?.message.clone());
        for name in &names {
            ledger.judge(name, Verdict::Rejected(detail.clone()));
        }
        Some(Rejection { kind, names, detail })
    }

    fn handle_interest(
        &mut self,
        kind: ResourceType,
        request: DeltaDiscoveryRequest,
    ) -> Result<(), Violation> {
        let Type { asked, first_is_due, interest, ledger } = &mut self.types[kind as usize];
        let snapshot = self.snapshot.as_ref();
        let first = !std::mem::replace(asked, true);
        *first_is_due |= first && kind.is_full_state();
        let claims = if first { request.initial_resource_versions.len() } else { 0 };
        if interest.names.len().max(claims) + request.resource_names_subscribe.len() > MAX_NAMES {
            return Err(Violation::TooManyNames);
        }

        for name in request.resource_names_unsubscribe {
            if name == WILDCARD {
                interest.wildcard = false;
                let gone: Vec<_> = ledger.names().filter(|name| !interest.includes(name)).cloned().collect();
                let due = snapshot.iter().flat_map(|s| s.resources(kind)).map(|r| r.name().to_owned());
                for name in gone.into_iter().chain(due.filter(|name| !interest.includes(name))) {
                    ledger.forget(&name);
                }
                continue;
            }
            interest.names.remove(&name);
            if interest.includes(&name) {
                // The wildcard still wants it, and the client cannot know whether that includes it.
                ledger.doubt(&name, wanted(snapshot, interest, kind, &name));
            } else {
                ledger.forget(&name);
            }
        }
        let before = interest.wildcard;
        // Who names nothing in the first request of such a type wants everything.
        interest.wildcard |= first && request.resource_names_subscribe.is_empty() && kind.is_full_state();
        for name in request.resource_names_subscribe {
            if name == WILDCARD {
                interest.wildcard = true;
            } else {
                // Also when it is subscribed already: the client may have dropped it and come back.
                interest.names.insert(name.clone());
                ledger.ask(&name, wanted(snapshot, interest, kind, &name));
            }
        }
        if first {
            for (name, version) in request.initial_resource_versions {
                if interest.includes(&name) {
                    ledger.claim(name.clone(), version.parse().ok());
                    ledger.reconcile(&name, wanted(snapshot, interest, kind, &name));
                }
            }
        }
        if interest.wildcard && !before {
            for resource in snapshot.iter().flat_map(|snapshot| snapshot.resources(kind)) {
                ledger.reconcile(resource.name(), Some(resource));
            }
        }
        Ok(())
    }

    fn is_due(&self, step: Step) -> bool {
        let ledger = |kind| &self.types[kind as usize].ledger;
        let (Step::Grow(kind) | Step::Update(kind) | Step::Miss(kind) | Step::Remove(kind)) = step;
        let has_something = match step {
            Step::Grow(_) => ledger(kind).has_growth(),
            Step::Update(_) => ledger(kind).has_updates() || self.types[kind as usize].first_is_due,
            Step::Miss(_) => ledger(kind).has_missing(),
            Step::Remove(_) => ledger(kind).has_removals(),
        };
        let clusters = ledger(ResourceType::Cluster);
        let listeners = ledger(ResourceType::Listener);
        let waits = match step {
            // Clusters and endpoints wait for no answer about each other: Envoy accepts clusters only when it has their
            // endpoints.
            Step::Update(ResourceType::Cluster | ResourceType::Endpoints) => {
                ledger(ResourceType::ExtensionConfig).has_growth()
            }
            // What has less room counts when the destinations are gone.
            Step::Update(ResourceType::Listener | ResourceType::ExtensionConfig) => {
                clusters.is_waiting() || ledger(ResourceType::Endpoints).is_waiting()
            }
            Step::Remove(ResourceType::Cluster) => {
                listeners.is_waiting() || listeners.has_removals() || listeners.has_updates()
            }
            Step::Remove(ResourceType::Endpoints) => clusters.is_waiting() || clusters.has_removals(),
            _ => false,
        };
        has_something && !waits && !ledger(kind).is_waiting()
    }

    fn update(&mut self, kind: ResourceType) -> DeltaDiscoveryResponse {
        let Type { first_is_due, interest, ledger, .. } = &mut self.types[kind as usize];
        *first_is_due = false;
        let snapshot = self.snapshot.as_ref();
        let resources = ledger.send_updates(self.nonce, |name| wanted(snapshot, interest, kind, name));
        if kind == ResourceType::Cluster {
            // A changed cluster is a new one to Envoy, and waits for its endpoints.
            let Type { interest, ledger, .. } = &mut self.types[ResourceType::Endpoints as usize];
            for name in resources.iter().map(|r| r.name()).filter(|name| interest.includes(name)) {
                match wanted(snapshot, interest, ResourceType::Endpoints, name) {
                    Some(endpoints) => ledger.ask(name, Some(endpoints)),
                    // It looks names up now.
                    None => ledger.doubt(name, None),
                }
            }
        }
        let wire = |resource: &Arc<Resource>| Wire {
            name: resource.name().to_owned(),
            version: resource.version().to_string(),
            resource: Some(resource.body().clone()),
            ..Default::default()
        };
        self.response(kind, resources.iter().map(wire).collect(), |_, _| Vec::new())
    }

    fn response(
        &mut self,
        kind: ResourceType,
        resources: Vec<Wire>,
        removed: impl FnOnce(&mut Ledger, u64) -> Vec<String>,
    ) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            resources,
            removed_resources: removed(&mut self.types[kind as usize].ledger, self.nonce),
            nonce: self.nonce.to_string(),
            ..Default::default()
        }
    }
}

impl Observe for Delta {
    fn verdict(&self, name: &ResourceName, version: Option<Version>) -> Verdict {
        let Type { asked, ledger, .. } = &self.types[name.kind as usize];
        // Before the client has said what it has, it may have anything from an earlier stream.
        let unknown = version.is_none() && name.kind.is_full_state() && !asked;
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

pub(super) fn rejections<'a>(ledger: impl Fn(ResourceType) -> &'a Ledger) -> Vec<Rejection> {
    let of_type = |kind| {
        ledger(kind).rejected().map(move |(name, detail)| Rejection {
            kind,
            names: vec![name.clone()],
            detail: detail.clone(),
        })
    };
    ResourceType::ALL.into_iter().flat_map(of_type).collect()
}
