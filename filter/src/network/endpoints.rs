//! Peers' endpoints that are host names: looked up at the start, and again until they are found.
//!
//! One name that does not resolve, or a name server that is not there yet, is no reason to leave all other peers alone. Until
//! its name is found a peer has no endpoint, like one that is expected to call.

use super::{Network, Phase, lock};
use crate::names;
use envoy_config::{Endpoint, PublicKey};
use envoy_proxy_dynamic_modules_rust_sdk::{envoy_log_error, envoy_log_warn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long the start waits for names: Envoy's main thread does nothing else meanwhile.
const FIRST_LOOKUPS: Duration = Duration::from_secs(2);
/// Between two attempts, at first and at last.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How soon the end of the network is noticed.
const SLICE: Duration = Duration::from_millis(200);

/// A peer whose endpoint is a name that was not found yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unresolved {
    pub(crate) peer: PublicKey,
    host: String,
    port: u16,
}

impl std::fmt::Display for Unresolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "endpoint {}:{} of peer {} cannot be resolved", self.host, self.port, self.peer)
    }
}

impl Network {
    /// Looks up the names among the peers' endpoints, on a thread of its own for as long as one is missing. Returns when all have
    /// been tried once, or after a little while.
    pub(crate) fn look_up_endpoints(self: &Arc<Self>) {
        if self.unresolved().is_empty() {
            return;
        }
        let (tried, first) = sync_channel(1);
        let network = self.clone();
        let follow = move || network.follow_endpoints(&tried);
        match thread::Builder::new().name("nexodus:peers".to_owned()).spawn(follow) {
            // Not in time: they come later.
            Ok(_) => drop(first.recv_timeout(FIRST_LOOKUPS)),
            Err(error) => envoy_log_error!("a thread for the names of peers: {}", error),
        }
    }

    /// The peers whose names were not found yet.
    pub(crate) fn unresolved(&self) -> Vec<Unresolved> {
        let unresolved = |(peer, _): &super::Placed| match &peer.endpoint {
            Some(Endpoint::Host { host, port }) => {
                Some(Unresolved { peer: peer.public_key, host: host.clone(), port: *port })
            }
            Some(Endpoint::Address(_)) | None => None,
        };
        self.peers().iter().filter_map(unresolved).collect()
    }

    fn follow_endpoints(&self, tried: &SyncSender<()>) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            self.try_endpoints();
            // Nobody waits after the first time.
            let _ = tried.try_send(());
            let missing = self.unresolved();
            if missing.is_empty() {
                return;
            }
            for missing in &missing {
                envoy_log_warn!(
                    "network {}: {missing}; it is tried again in {} s",
                    self.name,
                    pause.as_secs()
                );
            }
            let next = Instant::now() + pause;
            while Instant::now() < next {
                if !matches!(self.phase(), Phase::Configured | Phase::Running) {
                    return;
                }
                thread::sleep(SLICE);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn try_endpoints(&self) {
        let (sender, answers) = channel();
        for missing in self.unresolved() {
            let (sender, host, port) = (sender.clone(), missing.host.clone(), missing.port);
            let found = move |addresses: Vec<SocketAddr>| drop(sender.send((missing, addresses)));
            // Too many at once: the next time.
            let _ = names::look_up(&host, port, Box::new(found));
        }
        drop(sender);
        for (missing, addresses) in answers {
            if let Some(address) = addresses.first() {
                self.set_endpoint(&missing, *address);
            }
        }
    }

    /// Gives a peer the address of its name, unless it has another endpoint meanwhile.
    fn set_endpoint(&self, found: &Unresolved, address: SocketAddr) {
        let mut desired = lock(&self.desired);
        let mut peers = (*desired.peers).clone();
        for (peer, _) in peers.iter_mut().filter(|(peer, _)| peer.public_key == found.peer) {
            if peer.endpoint == Some(Endpoint::Host { host: found.host.clone(), port: found.port }) {
                peer.endpoint = Some(Endpoint::Address(address));
            }
        }
        desired.peers = Arc::new(peers);
        drop(desired);
        self.changed();
    }
}
