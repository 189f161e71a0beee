//! A network at work, or a part of it that has some of its peers: it owns the netstack, the WireGuard socket and the sockets
//! towards Envoy's ingress listeners, all by value. [`thread`] says who runs it.
//!
//! One turn: receive datagrams in batches; serve the egress flows that Envoy's workers touched; run timers; pass on
//! what the netstack reports; send datagrams in batches. Every step has a budget, so none starves the others.

mod checks;
mod clock;
mod datagrams;
mod egress;
mod held;
mod ingress;
mod path_mtu;
mod pings;
mod proxy_protocol;
mod steering;
mod thread;
mod udp;

use crate::flow::Flow;
use crate::greeting::Outcome;
use crate::health::{Check, Wanted};
use crate::network::{self, Network, Placed, Shard};
use crate::status::{Counts, PeerStatus, ShardStatus, ThreadStats};
use clock::Clock;
use datagrams::Datagrams;
pub(crate) use datagrams::UdpStats;
use envoy_config::{Endpoint, Peer};
use envoy_proxy_dynamic_modules_rust_sdk::*;
use mio::{Events, Registry, Token};
use nexodus_netstack::{Event, FlowId, Instant, Local, Netstack, PeerConfig};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
pub(crate) use thread::start;
use udp::Socket;

const WAKER: Token = Token(0);
const UDP: Token = Token(1);
/// Sockets towards Envoy's ingress listeners count from here.
const FIRST_RELAY: usize = 2;

/// Receive system calls per turn (each brings up to `quinn_udp::BATCH_SIZE` buffers).
const RECEIVE_BUDGET: usize = 8;
/// Send system calls per turn (each takes up to 64 KiB).
const SEND_BUDGET: usize = 64;
/// Netstack events per turn: few enough that a burst of new connections does not keep datagrams waiting until the
/// socket's buffer is full.
const EVENT_BUDGET: usize = 256;
/// Until when a thread sleeps that goes on at once: its budgets have left something. Before any other instant.
const AT_ONCE: Instant = Instant::from_micros(0);
/// The status is at most this old.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Why a network cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(
        "UDP port {port} for WireGuard cannot be opened: {source}; free it, which is waited for, or choose another listen_port"
    )]
    Socket { port: u16, source: io::Error },
    #[error(transparent)]
    Netstack(#[from] nexodus_netstack::ConfigError),
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
}

struct Driver {
    network: Arc<Network>,
    /// The part of it that is at work here.
    shard: Arc<Shard>,
    stack: Netstack,
    /// The network's peers, of which the stack was told.
    peers: Arc<Vec<Placed>>,
    socket: Socket,
    registry: Registry,
    clock: Clock,
    owners: HashMap<FlowId, Owner>,
    attempts: egress::Attempts,
    relays: ingress::Relays,
    checks: checks::Checks,
    udp: Datagrams,
    pings: pings::Pings,
    udp_stats: UdpStats,
    work: VecDeque<Arc<Flow>>,
    listening: BTreeSet<Local>,
    stats: ThreadStats,
    status_due: Instant,
    /// Something may have changed since the status was published.
    status_stale: bool,
    /// Until when its thread sleeps, if nothing wakes it; none for ever.
    sleeps_until: Option<Instant>,
}

/// Who a flow of the netstack belongs to.
enum Owner {
    Egress(egress::Egress),
    Ingress(ingress::RelayId),
    Check(Check),
}

impl Driver {
    /// Everything that is to do now. How long the thread may sleep then; none for ever.
    fn turn(&mut self) -> io::Result<Option<Duration>> {
        let now = self.clock.now();
        self.stats.wakeups += 1;
        self.apply_changes(now);
        let mut more = self.receive(now)?;
        self.take_handovers(now);
        self.serve_egress(now);
        self.serve_attempts(now);
        self.serve_pings(now);
        self.serve_relays(now);
        self.serve_checks(now);
        self.serve_found_names(now);
        more |= self.udp_to_overlay(now);
        self.stack.handle_timeout(now);
        more |= self.dispatch(now);
        more |= self.udp_from_overlay();
        more |= self.transmit(now);
        self.hand_over();
        self.publish_status(now);
        self.sleeps_until = if more { Some(AT_ONCE) } else { self.deadline() };
        let now = self.clock.now();
        Ok(self.sleeps_until.map(|deadline| deadline.saturating_since(now)))
    }

    /// What an Envoy worker has to say to the overlay, and nothing else.
    fn visit(&mut self) {
        let now = self.clock.now();
        self.stats.visits += 1;
        self.serve_egress(now);
        let more = self.dispatch(now) | self.transmit(now);
        self.hand_over();
        let deadline = self.deadline();
        // The thread sleeps for what was due before.
        if more || deadline.is_some_and(|due| self.sleeps_until.is_none_or(|until| due < until)) {
            self.shard.wake();
        }
        if more {
            self.sleeps_until = Some(AT_ONCE);
        }
    }

    /// When there is something to do next.
    fn deadline(&self) -> Option<Instant> {
        let attempt = self.attempts.front().map(|(deadline, _)| *deadline);
        let status = self.status_stale.then_some(self.status_due);
        let (relays, pings) = (self.relays.deadline(), self.pings.deadline());
        [self.stack.poll_timeout(), relays, pings, attempt, status].into_iter().flatten().min()
    }

    fn ready(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                WAKER => {}
                UDP => self.socket.ready(event.is_readable(), event.is_writable()),
                token if self.udp.ready(token) => {}
                Token(token) => self.relays.ready(token - FIRST_RELAY, event),
            }
        }
    }

    fn apply_changes(&mut self, now: Instant) {
        let Some(desired) = self.network.take_changes(&self.shard) else { return };
        if self.is_first() {
            self.apply_udp(now, &desired);
        }
        if !Arc::ptr_eq(&desired.peers, &self.peers) {
            match self.stack.set_peers(now, peer_configs(&desired.peers, self.shard.index)) {
                Ok(()) => self.peers = desired.peers,
                Err(error) => {
                    envoy_log_error!("network {}: peers not changed: {}", self.network.name, error);
                }
            }
        }
        let listeners = desired.listeners.newest();
        let wanted: BTreeSet<Local> = listeners.keys().copied().collect();
        for local in self.listening.difference(&wanted) {
            self.stack.unlisten(*local);
        }
        for local in wanted.difference(&self.listening) {
            self.stack.listen(*local);
        }
        self.listening = wanted;
        self.relays.set_listeners(listeners);
        self.status_due = now;
    }

    /// Datagrams and echo are the first part's, for all peers.
    fn is_first(&self) -> bool {
        self.shard.index == 0
    }

    /// The part of the network that an address belongs to, if that is another one.
    fn elsewhere(&self, destination: SocketAddr) -> Option<usize> {
        Some(self.network.shard_of(destination.ip())).filter(|shard| *shard != self.shard.index)
    }

    /// What the network's other threads have received for this one, or want sent.
    fn take_handovers(&mut self, now: Instant) {
        for (from, handover) in self.shard.take_posts() {
            self.stack.handle_handover(now, from, handover);
        }
    }

    /// Gives the network's other threads what is theirs to do.
    fn hand_over(&mut self) {
        while let Some((to, handover)) = self.stack.poll_handover() {
            let taken =
                self.network.shards().get(to).is_some_and(|shard| shard.post(self.shard.index, handover));
            self.stats.handover_refused += u64::from(!taken);
        }
    }

    /// Whether there may be more to receive.
    fn receive(&mut self, now: Instant) -> io::Result<bool> {
        for _ in 0..RECEIVE_BUDGET {
            let stack = &mut self.stack;
            if !self.socket.receive(|remote, datagram| stack.handle_datagram(now, remote, datagram))? {
                return Ok(false);
            }
            self.stats.udp_receives += 1;
            // Each system call can bring as much as waits for other threads at most.
            self.hand_over();
        }
        Ok(true)
    }

    /// Passes on what the netstack reports; whether there is more.
    fn dispatch(&mut self, now: Instant) -> bool {
        for _ in 0..EVENT_BUDGET {
            let Some(event) = self.stack.poll_event() else { return false };
            match event {
                Event::Incoming { flow, local, remote } => self.incoming(now, flow, local, remote),
                Event::Connected { flow }
                | Event::Readable { flow }
                | Event::Writable { flow }
                | Event::Finished { flow } => match self.owners.get(&flow) {
                    Some(Owner::Egress(_)) => self.egress_event(now, flow, event),
                    Some(Owner::Ingress(relay)) => self.relay_event(now, *relay, event),
                    Some(Owner::Check(_)) => self.check_connected(now, flow),
                    None => {}
                },
                Event::Closed { flow, reason } => match self.owners.remove(&flow) {
                    Some(Owner::Egress(egress)) => self.egress_closed(now, egress, reason),
                    Some(Owner::Ingress(relay)) => self.relay_closed(now, relay, reason),
                    Some(Owner::Check(check)) => self.check_closed(now, check, reason),
                    None => {}
                },
                Event::UdpIncoming { flow, local, .. } => self.udp_incoming(now, flow, local),
                Event::UdpClosed { flow, .. } => self.udp.closed(flow, &self.network),
                Event::Pong { remote, ident, seq, round_trip } => self.pong(remote, ident, seq, round_trip),
            }
        }
        true
    }

    /// Sends what the netstack has; whether there is more.
    fn transmit(&mut self, now: Instant) -> bool {
        for _ in 0..SEND_BUDGET {
            if !self.socket.can_send() {
                return false;
            }
            let Some(transmit) = self.stack.poll_transmit(now, self.socket.send_buffer()) else {
                return false;
            };
            self.stats.udp_sends += 1;
            if !self.socket.send(transmit) {
                self.stats.udp_send_errors += 1;
            }
        }
        true
    }

    fn publish_status(&mut self, now: Instant) {
        if now < self.status_due {
            self.status_stale = true;
            return;
        }
        self.status_due = now + STATUS_INTERVAL;
        // As long as one is missing, it is tried again as often.
        self.status_stale = self.udp.open_missing(&self.registry);
        let peers = self
            .stack
            .peers()
            .map(|peer| PeerStatus {
                public_key: envoy_config::PublicKey::from_bytes(peer.public_key).to_string(),
                endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
                allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
                latest_handshake: peer.latest_handshake_at.map(|at| self.clock.unix_seconds(at)),
                transmitted: peer.tx_bytes,
                received: peer.rx_bytes,
                persistent_keepalive: peer.persistent_keepalive.unwrap_or(0),
            })
            .collect();
        *network::lock(&self.shard.status) = ShardStatus {
            peers,
            listeners: self.listening.iter().copied().collect(),
            udp_listeners: self.udp.listening(),
            counts: Counts {
                stack: *self.stack.stats(),
                thread: self.stats,
                udp: UdpStats { direct: self.udp.direct(), ..self.udp_stats },
                ..Counts::default()
            },
        };
    }

    /// Tells everybody who has a connection of this network that it has ended; what the netstack still has of these. It is not
    /// asked: it may be what has panicked, and to panic again would leave those who come next waiting.
    fn close_all(&mut self) -> Vec<FlowId> {
        let mut work = VecDeque::new();
        self.shard.take_work(&mut work);
        // A panic has left some.
        work.append(&mut self.work);
        for flow in work {
            flow.lock().network_down();
        }
        for wanted in self.shard.checks.take().into_values() {
            if let Wanted::Check(check) = wanted {
                self.end_check(check, Outcome::NetworkDown);
            }
        }
        let mut flows = Vec::with_capacity(self.owners.len());
        for (id, owner) in std::mem::take(&mut self.owners) {
            flows.push(id);
            match owner {
                Owner::Egress(egress) => egress.network_down(),
                // See `reset_relays`.
                Owner::Ingress(_) => {}
                Owner::Check(check) => self.end_check(check, Outcome::NetworkDown),
            }
        }
        flows
    }

    /// Ends every connection of this network, in the overlay too.
    fn stop(&mut self) {
        let flows = self.close_all();
        let now = self.clock.now();
        flows.into_iter().for_each(|flow| self.stack.abort(now, flow));
        self.transmit(now);
    }
}

/// Peers as the netstack of this shard takes them.
fn peer_configs(peers: &[Placed], shard: usize) -> Vec<PeerConfig> {
    peers.iter().map(|(peer, place)| peer_config(peer, *place, *place == shard)).collect()
}

fn peer_config(peer: &Peer, shard: usize, own: bool) -> PeerConfig {
    PeerConfig {
        public_key: *peer.public_key.as_bytes(),
        preshared_key: peer.preshared_key.as_ref().map(|key| *key.as_bytes()),
        // A name comes again as an address (`Network::look_up_endpoints`).
        endpoint: peer.endpoint.as_ref().filter(|_| own).and_then(address),
        allowed_ips: peer.allowed_ips.clone(),
        persistent_keepalive: peer.persistent_keepalive,
        shard,
    }
}

fn address(endpoint: &Endpoint) -> Option<SocketAddr> {
    match endpoint {
        Endpoint::Address(address) => Some(*address),
        Endpoint::Host { .. } => None,
    }
}
