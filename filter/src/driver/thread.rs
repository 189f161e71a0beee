//! Who runs a network: its threads, and for a moment an Envoy worker that has little to say while the thread sleeps.
//!
//! To wake a thread takes longer than to encrypt and send a small segment, so the worker that read a request sends it
//! itself: it locks the driver if nobody has, and wakes the thread otherwise. The thread holds the lock while it works and not while it
//! sleeps. Larger amounts are the thread's, so that the worker can go on reading meanwhile.

use super::udp::Bound;
use super::{
    AT_ONCE, Datagrams, Driver, Shard, Socket, StartError, UDP, UdpStats, WAKER, checks, clock, egress,
    ingress, path_mtu, peer_configs, pings,
};
use crate::network::{self, Network, Phase};
use crate::status::{NetworkStatus, ThreadStats};
use clock::Clock;
use envoy_proxy_dynamic_modules_rust_sdk::*;
use mio::{Events, Poll, Waker};
use nexodus_netstack::{Config, Limits, Netstack};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Room for some datagrams of the largest size, in fragments.
const MIN_REASSEMBLY: usize = 512 << 10;

/// Opens the network's port and starts its threads.
///
/// # Errors
/// When the port cannot be opened, or the configuration contradicts itself.
pub(crate) fn start(
    network: &Arc<Network>,
    config: &envoy_config::Network,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let port = config.listen_port.unwrap_or(0);
    let sockets = Bound::open_several(port, network.shards().len())
        .map_err(|source| StartError::Socket { port, source })?;
    network.look_up_endpoints();
    let endpoints = network.peers();
    let endpoints = endpoints.iter().filter_map(|(peer, _)| super::address(peer.endpoint.as_ref()?));
    let mtu = config.mtu.unwrap_or_else(|| path_mtu::tunnel_mtu(endpoints));
    let prepare = |(shard, socket)| prepare(network, config, mtu, shard, socket);
    let prepared = network.shards().iter().zip(sockets).map(prepare).collect::<Result<Vec<_>, _>>()?;
    *network::lock(&network.status) = NetworkStatus {
        public_key: config.public_key.to_string(),
        addresses: config.addresses.iter().map(ToString::to_string).collect(),
        mtu,
        listen_port: prepared.first().map_or(0, |(driver, _)| driver.socket.port()),
        ..NetworkStatus::default()
    };
    network.set_phase(Phase::Running);
    let mut threads = Vec::with_capacity(prepared.len());
    for (driver, poll) in prepared {
        match spawn(network, driver, poll) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                network.end(Phase::Failed);
                // None of them is left alone, whatever it ends with.
                threads.into_iter().for_each(|thread: JoinHandle<()>| drop(thread.join()));
                return Err(error);
            }
        }
    }
    Ok(threads)
}

/// Everything that a thread needs.
fn prepare(
    network: &Arc<Network>,
    config: &envoy_config::Network,
    mtu: u16,
    shard: &Arc<Shard>,
    socket: Bound,
) -> Result<(Driver, Poll), StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let poll = Poll::new().map_err(system("epoll"))?;
    shard.set_waker(Waker::new(poll.registry(), WAKER).map_err(system("eventfd"))?);
    let socket = Socket::new(socket, poll.registry(), UDP).map_err(system("UDP socket"))?;
    let clock = Clock::start();
    let count = network.shards().len();
    let defaults = Limits::default();
    let mut stack = Netstack::new(
        Config {
            private_key: *config.private_key.as_bytes(),
            addresses: config.addresses.clone(),
            mtu,
            // What many peers use together is shared out; datagrams are the first one's alone.
            limits: Limits {
                max_flows: config.limits.max_flows.div_ceil(count),
                max_time_wait: defaults.max_time_wait.div_ceil(count),
                buffer_bytes: config.limits.buffer_bytes.div_ceil(count),
                reassembly_bytes: defaults.reassembly_bytes.div_ceil(count).max(MIN_REASSEMBLY),
                max_udp_flows: config.limits.max_udp_flows,
                udp_idle: config.limits.udp_idle(),
                ..defaults
            },
            shard: nexodus_netstack::Shard { index: shard.index, count },
            seed: clock::seed(),
        },
        clock.now(),
    )?;
    let peers = network.peers();
    stack.set_peers(clock.now(), peer_configs(&peers, shard.index))?;
    stack.introduce(clock.now());
    let driver = Driver {
        network: network.clone(),
        shard: shard.clone(),
        stack,
        peers,
        socket,
        registry: poll.registry().try_clone().map_err(system("epoll"))?,
        clock,
        owners: HashMap::new(),
        attempts: egress::Attempts::new(),
        relays: ingress::Relays::default(),
        checks: checks::Checks::default(),
        udp: Datagrams::default(),
        pings: pings::Pings::default(),
        udp_stats: UdpStats::default(),
        work: VecDeque::new(),
        listening: BTreeSet::new(),
        stats: ThreadStats::default(),
        status_due: clock.now(),
        status_stale: true,
        sleeps_until: None,
    };
    Ok((driver, poll))
}

fn spawn(network: &Arc<Network>, driver: Driver, poll: Poll) -> Result<JoinHandle<()>, StartError> {
    let (network, shard) = (network.clone(), driver.shard.clone());
    let driver = Arc::new(Mutex::new(driver));
    // Weak: what the driver owns goes with its thread.
    let visited = Arc::downgrade(&driver);
    shard.set_visit(Box::new(move || visited.upgrade().is_some_and(|driver| visit(&driver))));
    let name = match shard.index {
        0 => format!("nexodus:{}", network.name),
        index => format!("nexodus{index}:{}", network.name),
    };
    std::thread::Builder::new()
        .name(name)
        .spawn(move || run(&network, &shard, &driver, poll))
        .map_err(|source| StartError::System { what: "thread", source })
}

/// The thread. A panic ends this network alone: its flows are closed, its gauge says so, Envoy lives on.
fn run(network: &Network, shard: &Shard, driver: &Mutex<Driver>, mut poll: Poll) {
    let ended =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| turns(network, shard, driver, &mut poll)));
    let failure = match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(PANIC.to_owned()),
    };
    if let Some(failure) = failure {
        envoy_log_error!("network {} failed: {}", network.name, failure);
        network::lock(&network.status).failure = Some(failure);
        // Its other threads end too: a node that reaches some of its peers is harder to find out about than one that reaches none.
        network.end(Phase::Failed);
    }
    // Whatever state a panic has left it in, its flows have to end; after an orderly stop those that came meanwhile.
    let mut driver = driver.lock().unwrap_or_else(PoisonError::into_inner);
    driver.close_all();
    driver.reset_relays(&mut poll);
}

const PANIC: &str = "internal error (a panic; please report it)";

fn turns(network: &Network, shard: &Shard, driver: &Mutex<Driver>, poll: &mut Poll) -> io::Result<()> {
    let mut events = Events::with_capacity(1024);
    let mut sleep = Some(Duration::ZERO);
    while network.phase() == Phase::Running {
        match poll.poll(&mut events, sleep) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        // A visitor may have panicked.
        let mut driver = driver.lock().map_err(|_| io::Error::other(PANIC))?;
        driver.ready(&events);
        shard.awake();
        sleep = driver.turn()?;
    }
    driver.lock().map_err(|_| io::Error::other(PANIC))?.stop();
    Ok(())
}

/// Runs the network on this thread, for what is in its work list; `false` when it runs already, is about to, or has failed.
fn visit(driver: &Mutex<Driver>) -> bool {
    let Ok(mut driver) = driver.try_lock() else { return false };
    // The thread reads what has changed, before anybody relies on it.
    if driver.network.phase() != Phase::Running || driver.shard.is_changed() {
        return false;
    }
    // What its last turn has left may be megabytes to encrypt.
    if driver.sleeps_until == Some(AT_ONCE) {
        return false;
    }
    let _wake = WakeIfPanicking(driver.shard.clone());
    driver.visit();
    true
}

/// The thread finds what a panic in a visitor has left, and ends the network.
struct WakeIfPanicking(Arc<Shard>);

impl Drop for WakeIfPanicking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.wake();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(super) mod tests;
