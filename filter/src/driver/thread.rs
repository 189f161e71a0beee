//! Who runs a network: its thread, and for a moment an Envoy worker that has little to say while the thread sleeps.
//!
//! To wake a thread takes longer than to encrypt and send a small segment, so the worker that read a request sends it
//! itself: it locks the driver if nobody has, and wakes the thread otherwise. The thread holds the lock while it works and not while it
//! sleeps. Larger amounts are the thread's, so that the worker can go on reading meanwhile.

use super::{
    Driver, Socket, StartError, UDP, UdpProxy, UdpStats, WAKER, checks, clock, egress, ingress, pings,
    resolve,
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

/// Opens the network's socket and starts its thread.
///
/// # Errors
/// When the socket cannot be opened, the configuration contradicts itself, or a peer's name does not resolve.
pub(crate) fn start(
    network: Arc<Network>,
    config: envoy_config::Network,
) -> Result<JoinHandle<()>, StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let poll = Poll::new().map_err(system("epoll"))?;
    let waker = Waker::new(poll.registry(), WAKER).map_err(system("eventfd"))?;
    let port = config.listen_port.unwrap_or(0);
    let socket =
        Socket::open(port, poll.registry(), UDP).map_err(|source| StartError::Socket { port, source })?;
    let clock = Clock::start();
    let mut stack = Netstack::new(
        Config {
            private_key: *config.private_key.as_bytes(),
            addresses: config.addresses.clone(),
            mtu: config.mtu,
            limits: Limits {
                max_flows: config.limits.max_flows,
                buffer_bytes: config.limits.buffer_bytes,
                max_udp_flows: config.limits.max_udp_flows,
                udp_idle: config.limits.udp_idle(),
                ..Limits::default()
            },
            seed: clock::seed(),
        },
        clock.now(),
    )?;
    stack.set_peers(clock.now(), resolve(&config.peers)?)?;
    *network::lock(&network.status) = NetworkStatus {
        public_key: config.public_key.to_string(),
        addresses: config.addresses.iter().map(ToString::to_string).collect(),
        listen_port: socket.port(),
        ..NetworkStatus::default()
    };
    network.set_waker(waker);
    network.set_phase(Phase::Running);
    let driver = Arc::new(Mutex::new(Driver {
        network: network.clone(),
        stack,
        socket,
        registry: poll.registry().try_clone().map_err(system("epoll"))?,
        clock,
        owners: HashMap::new(),
        attempts: egress::Attempts::new(),
        relays: ingress::Relays::default(),
        checks: checks::Checks::default(),
        udp: UdpProxy::default(),
        pings: pings::Pings::default(),
        udp_stats: UdpStats::default(),
        work: VecDeque::new(),
        listening: BTreeSet::new(),
        stats: ThreadStats::default(),
        status_due: clock.now(),
        status_stale: true,
        sleeps_until: None,
    }));
    // Weak: what the driver owns goes with its thread.
    let visited = Arc::downgrade(&driver);
    network.set_visit(Box::new(move || visited.upgrade().is_some_and(|driver| visit(&driver))));
    std::thread::Builder::new()
        .name(format!("nexodus:{}", network.name))
        .spawn(move || run(&network, &driver, poll))
        .map_err(system("thread"))
}

/// The thread. A panic ends this network alone: its flows are closed, its gauge says so, Envoy lives on.
fn run(network: &Arc<Network>, driver: &Mutex<Driver>, poll: Poll) {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| turns(network, driver, poll)));
    let failure = match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(PANIC.to_owned()),
    };
    if let Some(failure) = failure {
        envoy_log_error!("network {} failed: {}", network.name, failure);
        network::lock(&network.status).failure = Some(failure);
        network.set_phase(Phase::Failed);
    }
    // Whatever state a panic has left it in: its flows have to end.
    driver.lock().unwrap_or_else(PoisonError::into_inner).close_all();
}

const PANIC: &str = "internal error (a panic; please report it)";

fn turns(network: &Network, driver: &Mutex<Driver>, mut poll: Poll) -> io::Result<()> {
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
        network.awake();
        sleep = driver.turn()?;
    }
    // What the ends of the flows still have to say.
    let mut driver = driver.lock().map_err(|_| io::Error::other(PANIC))?;
    driver.close_all();
    let now = driver.clock.now();
    driver.transmit(now);
    Ok(())
}

/// Runs the network on this thread, for what is in its work list; `false` when it runs already, or has failed.
fn visit(driver: &Mutex<Driver>) -> bool {
    let Ok(mut driver) = driver.try_lock() else { return false };
    if driver.network.phase() != Phase::Running {
        return false;
    }
    let _wake = WakeIfPanicking(driver.network.clone());
    driver.visit();
    true
}

/// The thread finds what a panic in a visitor has left, and ends the network.
struct WakeIfPanicking(Arc<Network>);

impl Drop for WakeIfPanicking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.wake();
        }
    }
}
