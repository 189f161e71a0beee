//! `nexodus.health`: the health checker of clusters whose endpoints are in the overlay. A check opens a TCP connection to
//! the destination in the metadata `nexodus.destination` and resets it once it is open: nothing of it is left, here or there.
//!
//! Envoy's own TCP checker cannot do that. It runs on the main thread, where internal listeners do not exist.
//!
//! Envoy keeps the time and asks on its main thread; the network thread connects and answers. Between the two stands, for
//! each endpoint, what is wanted of it now ([`Wanted`]), so there is at most one check of each at a time.

use crate::greeting::Outcome;
use crate::names;
use crate::network::{self, Network};
use envoy_config::{Destination, HealthConfig};
use envoy_proxy_dynamic_modules_rust_sdk::health_checker::*;
use envoy_proxy_dynamic_modules_rust_sdk::{envoy_log_error, envoy_log_info};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Tells the endpoints of a process apart.
pub(crate) type SessionId = u64;

/// What the network thread should do about an endpoint.
pub(crate) enum Wanted {
    /// Try it.
    Check(Check),
    /// Stop trying: Envoy waits no longer, or the endpoint is gone.
    Nothing,
}

/// One check under way. Dropped without a result, it fails when Envoy's time for it is over.
pub(crate) struct Check {
    pub(crate) session: SessionId,
    /// Envoy waits no longer. A name may be found, or another thread have the destination, after that.
    pub(crate) ended: Arc<AtomicBool>,
    /// In the order of trying; the network thread takes each out.
    pub(crate) destinations: VecDeque<SocketAddr>,
    /// What the endpoint was before.
    standing: HostHealth,
    /// Not a [`Reporter`]: unit tests have no Envoy that one belongs to.
    report: Box<dyn FnOnce(HostHealth) + Send>,
}

impl Check {
    fn of(self, destinations: impl Into<VecDeque<SocketAddr>>) -> Self {
        Self { destinations: destinations.into(), ..self }
    }

    pub(crate) fn end(self, network: &Network, outcome: Outcome) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        network.health.found(&network.name, self.session, outcome);
        (self.report)(match outcome {
            Outcome::Connected => HostHealth::Healthy,
            // A limit of this node says nothing about the destination.
            Outcome::Overloaded => self.standing,
            _ => HostHealth::Unhealthy,
        });
    }
}

/// The health checks of a network, as Envoy's main thread and the network thread share them.
#[derive(Default)]
pub(crate) struct HealthBoard {
    results: Results,
}

impl HealthBoard {
    /// Checks that ended, and those of them that found no destination that answers.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.results.done.load(Ordering::Relaxed), self.results.failed.load(Ordering::Relaxed))
    }

    /// A row for each endpoint.
    pub(crate) fn to_json(&self) -> Vec<Value> {
        self.results.to_json()
    }

    /// Records a result. A change is worth a line in the log.
    fn found(&self, network: &str, session: SessionId, outcome: Outcome) {
        if let Some(destination) = self.results.found(session, outcome) {
            let found = if outcome == Outcome::Connected { "it answers" } else { outcome.reason() };
            envoy_log_info!("network {}: health check of {}: {}", network, destination, found);
        }
    }
}

/// For each endpoint what was said last, until it is taken: never more entries than endpoints.
pub(crate) struct Latest<T>(Mutex<BTreeMap<SessionId, T>>);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Latest<T> {
    pub(crate) fn set(&self, session: SessionId, what: T) {
        network::lock(&self.0).insert(session, what);
    }

    /// Unless it is too late for it, which is asked while nobody else says anything.
    pub(crate) fn set_unless(&self, too_late: &AtomicBool, session: SessionId, what: T) {
        let mut latest = network::lock(&self.0);
        if !too_late.load(Ordering::Acquire) {
            latest.insert(session, what);
        }
    }

    pub(crate) fn take(&self) -> BTreeMap<SessionId, T> {
        std::mem::take(&mut *network::lock(&self.0))
    }
}

/// What the checks have found.
#[derive(Default)]
struct Results {
    rows: Mutex<BTreeMap<SessionId, Row>>,
    done: AtomicU64,
    failed: AtomicU64,
}

/// An endpoint on the status page.
struct Row {
    destination: String,
    last: Option<Outcome>,
}

impl Results {
    fn show(&self, session: SessionId, destination: &str) {
        let mut rows = network::lock(&self.rows);
        let row = rows.entry(session).or_insert_with(|| Row { destination: String::new(), last: None });
        if row.destination != destination {
            *row = Row { destination: destination.to_owned(), last: None };
        }
    }

    fn remove(&self, session: SessionId) {
        network::lock(&self.rows).remove(&session);
    }

    /// The destination, when the result is another one than the last.
    fn found(&self, session: SessionId, outcome: Outcome) -> Option<String> {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(outcome != Outcome::Connected), Ordering::Relaxed);
        let mut rows = network::lock(&self.rows);
        let row = rows.get_mut(&session)?;
        (row.last.replace(outcome) != Some(outcome)).then(|| row.destination.clone())
    }

    fn to_json(&self) -> Vec<Value> {
        let shown = |row: &Row| json!({"destination": row.destination, "last": row.last.map(Outcome::label)});
        network::lock(&self.rows).values().map(shown).collect()
    }
}

pub(crate) struct HealthChecker {
    network: String,
}

impl HealthChecker {
    /// Only parses: a static cluster is made before the networks are.
    pub(crate) fn new(config: &[u8]) -> Result<Self, envoy_config::ConfigError> {
        Ok(Self { network: HealthConfig::from_json(config)?.network })
    }
}

impl HealthCheckerConfig for HealthChecker {
    fn new_session(&self, _host: &HealthCheckHost) -> Box<dyn HealthCheckerSession> {
        Box::new(Session {
            id: network::unique(),
            name: self.network.clone(),
            network: None,
            ended: Arc::default(),
        })
    }
}

/// The checks of one endpoint.
struct Session {
    id: SessionId,
    name: String,
    /// Known since the first check.
    network: Option<Arc<Network>>,
    /// Of its last check.
    ended: Arc<AtomicBool>,
}

impl HealthCheckerSession for Session {
    fn on_interval(&mut self, host: &HealthCheckHost, reporter: Reporter) {
        if self.network.is_none() {
            self.network = Network::find(&self.name)
                .inspect_err(|error| envoy_log_error!("nexodus.health: {}", error))
                .ok();
        }
        let Some(network) = &self.network else {
            reporter.report(HostHealth::Unhealthy);
            return;
        };
        let Some(destination) = destination(host) else {
            network.health.results.show(self.id, "?");
            network.health.found(&network.name, self.id, Outcome::BadDestination);
            reporter.report(HostHealth::Unhealthy);
            return;
        };
        network.health.results.show(self.id, &destination.to_string());
        self.ended.store(true, Ordering::Release);
        self.ended = Arc::default();
        let check = Check {
            session: self.id,
            ended: self.ended.clone(),
            destinations: VecDeque::new(),
            standing: host.health(),
            report: Box::new(move |health| reporter.report(health)),
        };
        match destination {
            Destination::Address(address) => network.check(check.of([address])),
            Destination::Name { host, port } => look_up(network, &host, port, check),
        }
    }

    fn on_timeout(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(network) = &self.network {
            network.end_check(self.id);
            network.health.found(&network.name, self.id, Outcome::TimedOut);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(network) = &self.network {
            network.end_check(self.id);
            network.health.results.remove(self.id);
        }
    }
}

/// Has the network thread try a name's addresses once they are known.
fn look_up(network: &Arc<Network>, host: &str, port: u16, check: Check) {
    // Refused, it gets no result, which is a failure when its time is over.
    let of = network.clone();
    let found = move |addresses: Vec<SocketAddr>| {
        if addresses.is_empty() {
            check.end(&of, Outcome::NotResolved);
        } else {
            of.check(check.of(addresses));
        }
    };
    if names::look_up(host, port, Box::new(found)).is_err() {
        network.count_refused_name();
    }
}

fn destination(host: &HealthCheckHost) -> Option<Destination> {
    let text = host.metadata_string("nexodus", "destination")?;
    std::str::from_utf8(text.as_slice()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_of_an_endpoint_takes_the_place_of_what_was() {
        let wanted = Latest::default();
        for number in 0..1000 {
            wanted.set(number % 3, number);
        }
        assert_eq!(wanted.take(), BTreeMap::from([(0, 999), (1, 997), (2, 998)]));
        assert!(wanted.take().is_empty());
    }

    // A name may be found when Envoy has given up the check, and asked for the next one.
    #[test]
    fn what_comes_too_late_takes_nobodys_place() {
        let (wanted, ended) = (Latest::default(), AtomicBool::new(false));
        wanted.set_unless(&ended, 1, "first");
        ended.store(true, Ordering::Release);
        wanted.set(1, "second");
        wanted.set_unless(&ended, 1, "first, once more");
        assert_eq!(wanted.take(), BTreeMap::from([(1, "second")]));
    }

    #[test]
    fn an_endpoint_shows_its_last_result_and_none_of_another_destination() {
        let results = Results::default();
        results.show(1, "100.64.0.2:80");
        assert_eq!(results.to_json(), [json!({"destination": "100.64.0.2:80", "last": null})]);
        assert_eq!(results.found(1, Outcome::Connected).as_deref(), Some("100.64.0.2:80"));
        assert_eq!(results.found(1, Outcome::Connected), None);
        assert_eq!(results.found(1, Outcome::Refused).as_deref(), Some("100.64.0.2:80"));
        results.show(1, "100.64.0.2:80");
        assert_eq!(results.to_json(), [json!({"destination": "100.64.0.2:80", "last": "refused"})]);
        results.show(1, "100.64.0.3:80");
        assert_eq!(results.to_json(), [json!({"destination": "100.64.0.3:80", "last": null})]);
        results.remove(1);
        assert_eq!(results.found(1, Outcome::Refused), None);
        assert!(results.to_json().is_empty());
        assert_eq!((results.done.into_inner(), results.failed.into_inner()), (4, 2));
    }
}
