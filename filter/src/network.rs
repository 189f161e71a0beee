//! The networks of this process, by name: what Envoy's threads and the network threads share.
//!
//! Configuration callbacks only *state* here what should be: peers, listening ports. The network thread reads
//! it when it runs; `envoy --mode validate` never starts one, so nothing is opened there.

mod datagrams;
mod desired;
mod endpoints;
mod links;
mod placement;
mod shard;
pub(crate) mod visits;

use crate::failures::Failures;
use crate::flow::{Flow, QueueBudget};
use crate::greeting::Outcome;
use crate::health::{Check, HealthBoard, SessionId, Wanted};
use crate::pings::{Echo, Pings, Report, TooMany};
use crate::status::{Counts, NetworkStatus};
pub(crate) use datagrams::{Client, Entrance, Inbound};
pub(crate) use desired::{Desired, OwnPeer, Placed, listener};
use envoy_config::{Destination, PublicKey};
pub(crate) use links::Links;
use nexodus_netstack::AllowedIps;
use placement::Placement;
pub(crate) use shard::Shard;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

static NETWORKS: Mutex<BTreeMap<String, Arc<Network>>> = Mutex::new(BTreeMap::new());
static FLOWS: OnceLock<Mutex<HashMap<u64, Weak<Flow>>>> = OnceLock::new();
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A number that no other flow or configuration of this process has.
pub(crate) fn unique() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A lock whose data stays meaningful after a panic: plain values, each written in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the network thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The server is not initialized yet, or only validates.
    Configured = 0,
    Running = 1,
    Stopped = 2,
    /// Its socket could not be opened, or its thread panicked.
    Failed = 3,
}

/// See the module.
pub(crate) struct Network {
    pub(crate) name: String,
    public_key: PublicKey,
    /// Its own addresses in the overlay.
    addresses: Vec<IpAddr>,
    pub(crate) queued_bytes: Arc<QueueBudget>,
    phase: AtomicU8,
    /// What each of its threads has to do; at least one. What is the whole network's is the first one's.
    shards: Vec<Arc<Shard>>,
    placement: Mutex<Placement>,
    /// Which shard an overlay address belongs to.
    routes: RwLock<AllowedIps<usize>>,
    desired: Mutex<Desired>,
    pub(crate) links: Links,
    /// The network thread's sockets towards Envoy's UDP ingress listeners.
    udp_sources: RwLock<HashSet<SocketAddr>>,
    foreign_datagrams: AtomicU64,
    inbound: Mutex<Inbound>,
    inbound_refused: AtomicU64,
    refused_names: AtomicU64,
    found_names: Mutex<Vec<FoundName>>,
    pings: Mutex<Pings>,
    pings_unsent: AtomicBool,
    pub(crate) health: HealthBoard,
    pub(crate) failures: Failures,
    pub(crate) status: Mutex<NetworkStatus>,
}

impl Network {
    /// Registers a network that the bootstrap names.
    pub(crate) fn register(config: &envoy_config::Network) -> Result<Arc<Self>, OwnPeer> {
        let network = Arc::new(Self {
            name: config.name.clone(),
            public_key: config.public_key,
            addresses: config.addresses.iter().map(|net| net.addr()).collect(),
            queued_bytes: Arc::new(QueueBudget::new(config.limits.buffer_bytes)),
            phase: AtomicU8::new(Phase::Configured as u8),
            shards: (0..config.limits.threads).map(|index| Arc::new(Shard::new(index))).collect(),
            placement: Mutex::default(),
            routes: RwLock::default(),
            desired: Mutex::default(),
            links: Links::default(),
            udp_sources: RwLock::default(),
            foreign_datagrams: AtomicU64::new(0),
            inbound: Mutex::default(),
            inbound_refused: AtomicU64::new(0),
            refused_names: AtomicU64::new(0),
            found_names: Mutex::default(),
            pings: Mutex::default(),
            pings_unsent: AtomicBool::new(false),
            health: HealthBoard::default(),
            failures: Failures::default(),
            status: Mutex::default(),
        });
        network.set_peers(config.peers.clone())?;
        lock(&NETWORKS).insert(config.name.clone(), network.clone());
        Ok(network)
    }

    pub(crate) fn find(name: &str) -> Result<Arc<Self>, UnknownNetwork> {
        let networks = lock(&NETWORKS);
        networks.get(name).cloned().ok_or_else(|| UnknownNetwork {
            name: name.to_owned(),
            known: networks.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Configured,
            1 => Phase::Running,
            2 => Phase::Stopped,
            _ => Phase::Failed,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Asks the network's threads to stop; their owner joins them.
    pub(crate) fn stop(&self) {
        self.end(Phase::Stopped);
    }

    /// Nothing of the network runs any more.
    pub(crate) fn end(&self, phase: Phase) {
        self.set_phase(phase);
        self.wake();
    }

    pub(crate) fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// The shard of what is the whole network's: datagrams, echo.
    fn first(&self) -> &Shard {
        &self.shards[0]
    }

    /// The number of the shard that has the peer of an overlay address; the first one for our own addresses, and for those that
    /// nobody has.
    pub(crate) fn shard_of(&self, address: IpAddr) -> usize {
        if self.shards.len() == 1 || self.addresses.contains(&address) {
            return 0;
        }
        self.routes.read().unwrap_or_else(PoisonError::into_inner).lookup(address).unwrap_or(0)
    }

    /// Has the flow's shard look at it.
    pub(crate) fn work(&self, flow: &Arc<Flow>) {
        self.shards[flow.shard()].work(flow);
        self.tell_if_ended(flow);
    }

    /// Has the flow looked at by this worker, at the end of its event loop's turn: for what is little and urgent. True: somebody has to
    /// see to it that [`visits::run`] is called then.
    #[must_use]
    pub(crate) fn work_soon(&self, flow: &Arc<Flow>) -> bool {
        let due = self.shards[flow.shard()].work_soon(flow);
        self.tell_if_ended(flow);
        due
    }

    /// A thread that ends looks at its list once more, after its network's phase has changed: what comes later finds that here.
    fn tell_if_ended(&self, flow: &Flow) {
        if matches!(self.phase(), Phase::Stopped | Phase::Failed) {
            flow.lock().network_down();
        }
    }

    /// Has the network's threads look whether there is anything to do.
    pub(crate) fn wake(&self) {
        self.shards.iter().for_each(|shard| shard.wake());
    }

    pub(crate) fn add_udp_source(&self, source: SocketAddr) {
        self.udp_sources.write().unwrap_or_else(PoisonError::into_inner).insert(source);
    }

    pub(crate) fn remove_udp_source(&self, source: SocketAddr) {
        self.udp_sources.write().unwrap_or_else(PoisonError::into_inner).remove(&source);
    }

    pub(crate) fn is_udp_source(&self, source: SocketAddr) -> bool {
        self.udp_sources.read().unwrap_or_else(PoisonError::into_inner).contains(&source)
    }

    /// A datagram for a UDP ingress listener that did not come out of the overlay.
    pub(crate) fn count_foreign_datagram(&self) {
        self.foreign_datagrams.fetch_add(1, Ordering::Relaxed);
    }

    /// Hands the outcome of a lookup to the network thread.
    pub(crate) fn name_found(&self, found: FoundName) {
        lock(&self.found_names).push(found);
        self.first().wake();
    }

    /// Network thread: the lookups that ended; as many at most as it has asked for.
    pub(crate) fn take_found_names(&self) -> Vec<FoundName> {
        std::mem::take(&mut *lock(&self.found_names))
    }

    /// A destination whose name was not looked up: too many wait for that.
    pub(crate) fn count_refused_name(&self) {
        self.refused_names.fetch_add(1, Ordering::Relaxed);
    }

    /// What the network's threads published last, with what Envoy's threads count themselves.
    pub(crate) fn status(&self) -> NetworkStatus {
        let mut status = lock(&self.status).clone();
        for shard in &self.shards {
            let part = lock(&shard.status).clone();
            status.peers.extend(part.peers);
            status.counts.push(part.counts);
            if shard.index == 0 {
                (status.listeners, status.udp_listeners) = (part.listeners, part.udp_listeners);
            } else {
                // What every thread listens on.
                status.listeners.retain(|local| part.listeners.contains(local));
            }
        }
        let (health_checks, health_checks_failed) = self.health.counts();
        status.counts.push(Counts {
            udp_foreign: self.foreign_datagrams.load(Ordering::Relaxed),
            udp_inbound_refused: self.inbound_refused.load(Ordering::Relaxed),
            names_refused: self.refused_names.load(Ordering::Relaxed),
            pings_refused: lock(&self.pings).refused(),
            health_checks,
            health_checks_failed,
            failures: self.failures.counts(),
            ..Counts::default()
        });
        status.health_checks = self.health.to_json();
        status.unresolved = self.unresolved().iter().map(ToString::to_string).collect();
        status
    }

    /// Has the network thread try a destination.
    pub(crate) fn check(&self, check: Check) {
        match self.phase() {
            // Before it runs, the check waits for it.
            Phase::Configured | Phase::Running => {
                let (session, ended) = (check.session, check.ended.clone());
                let place = check.destinations.front().map_or(0, |to| self.shard_of(to.ip()));
                // The endpoint's destination may have been another shard's before.
                for shard in self.shards.iter().filter(|shard| shard.index != place) {
                    shard.checks.set_unless(&ended, session, Wanted::Nothing);
                }
                self.shards[place].checks.set_unless(&ended, session, Wanted::Check(check));
                self.shards[place].wake();
            }
            Phase::Stopped | Phase::Failed => check.end(self, Outcome::NetworkDown),
        }
    }

    /// Has the network thread give up the check of an endpoint, if there is one.
    pub(crate) fn end_check(&self, session: SessionId) {
        if matches!(self.phase(), Phase::Configured | Phase::Running) {
            for shard in &self.shards {
                shard.checks.set(session, Wanted::Nothing);
                shard.wake();
            }
        }
    }

    /// Has these addresses pinged; the id of the results.
    pub(crate) fn ping(&self, now: Instant, addresses: &[IpAddr], timeout: Duration) -> Result<u64, TooMany> {
        let id = lock(&self.pings).start(now, addresses, timeout)?;
        self.pings_unsent.store(true, Ordering::Release);
        self.first().wake();
        Ok(id)
    }

    /// What became of a [`Self::ping`].
    pub(crate) fn ping_report(&self, now: Instant, id: u64) -> Option<Report> {
        lock(&self.pings).report(now, id)
    }

    /// Network thread: the echo requests to be sent.
    pub(crate) fn take_pings(&self) -> Vec<Echo> {
        match self.pings_unsent.swap(false, Ordering::AcqRel) {
            true => lock(&self.pings).take_unsent(),
            false => Vec::new(),
        }
    }

    /// Network thread: what became of an echo request.
    pub(crate) fn ping_settled(&self, ident: u16, seq: u16, outcome: Result<Duration, String>) {
        lock(&self.pings).settle(ident, seq, outcome);
    }

    /// Has the network thread look at a relay: its filter is there.
    pub(crate) fn relay_attached(&self, shard: usize, relay: usize) {
        self.shards[shard].relay_attached(relay);
    }
}

/// What a name was found to stand for, for a client that has no UDP flow yet.
pub(crate) struct FoundName {
    pub(crate) client: Client,
    pub(crate) name: Arc<Destination>,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// A filter configuration names a network that the bootstrap extension `tunnel` does not have.
#[derive(Debug, thiserror::Error)]
#[error("network {name:?} is not configured in the bootstrap extension `tunnel` (configured: {known})")]
pub(crate) struct UnknownNetwork {
    name: String,
    known: String,
}

/// All networks, by name.
pub(crate) fn all() -> Vec<Arc<Network>> {
    lock(&NETWORKS).values().cloned().collect()
}

/// Makes `flow` known by its token, for `nexodus.connect`.
pub(crate) fn publish_flow(flow: &Arc<Flow>) {
    lock(FLOWS.get_or_init(Mutex::default)).insert(flow.token, Arc::downgrade(flow));
}

pub(crate) fn forget_flow(token: u64) {
    lock(FLOWS.get_or_init(Mutex::default)).remove(&token);
}

pub(crate) fn flow(token: u64) -> Option<Arc<Flow>> {
    lock(FLOWS.get_or_init(Mutex::default)).get(&token)?.upgrade()
}
