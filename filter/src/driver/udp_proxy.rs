//! UDP on the network thread: datagrams between the overlay's UDP flows and the loopback sockets that Envoy's
//! `udp_proxy` speaks to.
//!
//! * Egress: one socket for each overlay destination. `udp_proxy` sends there from one socket per client, so (relay,
//!   sender) is a flow.
//! * Ingress: one socket for each flow, connected to the listener's loopback address.

mod burst;
mod sockets;

use super::Driver;
use super::held::{Held, Place};
use super::udp::Inbox;
use crate::names;
use crate::network::{self, FoundName, Network, RelayTo};
use burst::Burst;
use mio::Token;
use mio::net::UdpSocket;
use nexodus_netstack::{Instant, Local, UdpFlowId};
use quinn_udp::{Transmit, UdpSocketState};
use slab::Slab;
use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Receive system calls of one socket per turn (each brings up to `quinn_udp::BATCH_SIZE` buffers).
const READ_BUDGET: usize = 8;
/// Datagrams from the overlay per turn.
const DATAGRAM_BUDGET: usize = 1024;
/// Tokens of these sockets have this bit; those of the TCP relays count from below.
const TOKEN_BIT: usize = 1 << (usize::BITS - 2);

/// The loopback sockets of a network and their flows.
pub(super) struct UdpProxy {
    sockets: Slab<Loopback>,
    /// Egress relays by their address.
    relays: BTreeMap<SocketAddr, usize>,
    /// Those that could not be opened.
    missing: BTreeMap<SocketAddr, RelayTo>,
    /// Ingress listeners: where in the overlay, and the listener's loopback address.
    listeners: BTreeMap<Local, SocketAddr>,
    flows: HashMap<UdpFlowId, Owner>,
    /// Egress flows by relay and sender.
    egress: HashMap<(usize, SocketAddr), UdpFlowId>,
    ready: Vec<usize>,
    /// Datagrams that wait until a name is looked up, by relay and client.
    held: Held<(SocketAddr, SocketAddr)>,
    payload: Vec<u8>,
    outgoing: Burst,
    /// Where datagrams from sockets pass through.
    inbox: Inbox,
}

/// Counted here, published with the thread's other numbers.
#[derive(Clone, Copy, Default)]
pub(crate) struct UdpStats {
    /// Datagrams for which no flow could be made.
    pub(crate) refused: u64,
    /// Datagrams that a loopback socket did not take.
    pub(crate) not_delivered: u64,
    /// Relay or flow sockets that could not be opened.
    pub(crate) socket_errors: u64,
}

struct Loopback {
    socket: UdpSocket,
    state: UdpSocketState,
    /// `None`: a relay.
    flow: Option<UdpFlowId>,
    address: SocketAddr,
    /// Of a relay: the overlay destinations, which new flows take in turn; one unless they are those of a name. Of a flow: the
    /// listener's address.
    destinations: Vec<SocketAddr>,
    next: usize,
    /// Of a relay without those: the name that is looked up for each new flow.
    name: Option<(String, u16)>,
}

#[derive(Clone, Copy)]
enum Owner {
    Egress { relay: usize, client: SocketAddr },
    Ingress { socket: usize },
}

impl Default for UdpProxy {
    fn default() -> Self {
        Self {
            sockets: Slab::new(),
            relays: BTreeMap::new(),
            missing: BTreeMap::new(),
            listeners: BTreeMap::new(),
            flows: HashMap::new(),
            egress: HashMap::new(),
            ready: Vec::new(),
            held: Held::default(),
            payload: Vec::new(),
            outgoing: Burst::default(),
            inbox: Inbox::default(),
        }
    }
}

impl UdpProxy {
    /// Whether the token is that of one of these sockets, which then has something to read.
    pub(super) fn ready(&mut self, token: Token) -> bool {
        let ours = token.0 & TOKEN_BIT != 0;
        if ours {
            self.ready.push(token.0 & !TOKEN_BIT);
        }
        ours
    }

    /// The socket of a flow, and where its datagrams go.
    fn way(&self, flow: UdpFlowId) -> Option<(&Loopback, SocketAddr)> {
        match *self.flows.get(&flow)? {
            Owner::Egress { relay, client } => Some((self.sockets.get(relay)?, client)),
            Owner::Ingress { socket } => {
                let loopback = self.sockets.get(socket)?;
                Some((loopback, *loopback.destinations.first()?))
            }
        }
    }

    /// Datagrams of a flow for one system call.
    fn most_at_once(&self, flow: UdpFlowId) -> usize {
        self.way(flow).map_or(1, |(loopback, _)| loopback.state.max_gso_segments())
    }

    /// Sends what is in `outgoing`; `false` when it was refused or there is nobody any more.
    fn send_burst(&self) -> bool {
        let Some(flow) = self.outgoing.flow() else { return true };
        let Some((loopback, destination)) = self.way(flow) else { return false };
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: self.outgoing.bytes(),
            segment_size: self.outgoing.segment_size(),
            src_ip: None,
        };
        loopback.state.try_send((&loopback.socket).into(), &transmit).is_ok()
    }

    /// The flow has ended in the netstack.
    pub(super) fn closed(&mut self, flow: UdpFlowId, network: &Network) {
        match self.flows.remove(&flow) {
            // Unless another flow has taken its place.
            Some(Owner::Egress { relay, client }) if self.egress.get(&(relay, client)) == Some(&flow) => {
                self.egress.remove(&(relay, client));
            }
            Some(Owner::Ingress { socket }) => {
                if let Some(loopback) = self.sockets.try_remove(socket) {
                    network.remove_udp_source(loopback.address);
                }
            }
            Some(Owner::Egress { .. }) | None => {}
        }
    }
}

impl Driver {
    /// A caller's first datagram to a listening UDP port.
    pub(super) fn udp_incoming(&mut self, now: Instant, flow: UdpFlowId, local: SocketAddr) {
        let opened = match network::listener(&self.udp.listeners, local) {
            Some(listener) => {
                let any: IpAddr = match listener {
                    SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                self.udp.open(SocketAddr::new(any, 0), Some((flow, *listener)), &self.registry)
            }
            None => Err(ErrorKind::NotFound.into()),
        };
        match opened {
            Ok((socket, address)) => {
                // Before the first datagram leaves it.
                self.network.add_udp_source(address);
                self.udp.flows.insert(flow, Owner::Ingress { socket });
            }
            Err(_) => {
                self.udp_stats.socket_errors += 1;
                self.stack.udp_release(now, flow);
            }
        }
    }

    /// Datagrams from the overlay to Envoy; whether there may be more.
    pub(super) fn udp_to_envoy(&mut self) -> bool {
        let mut more = true;
        let mut most = 0;
        for _ in 0..DATAGRAM_BUDGET {
            let Some(flow) = self.stack.poll_datagram(&mut self.udp.payload) else {
                more = false;
                break;
            };
            if !self.udp.outgoing.takes(flow, &self.udp.payload, most) {
                self.send_burst();
                most = self.udp.most_at_once(flow);
            }
            self.udp.outgoing.push(flow, &self.udp.payload);
        }
        self.send_burst();
        more
    }

    fn send_burst(&mut self) {
        if !self.udp.send_burst() {
            self.udp_stats.not_delivered += self.udp.outgoing.count();
        }
        self.udp.outgoing.clear();
    }

    /// Datagrams from Envoy into the overlay; whether there may be more.
    pub(super) fn udp_to_overlay(&mut self, now: Instant) -> bool {
        let mut more = false;
        for key in std::mem::take(&mut self.udp.ready) {
            more |= self.udp_read(now, key);
        }
        more
    }

    fn udp_read(&mut self, now: Instant, key: usize) -> bool {
        let mut inbox = std::mem::take(&mut self.udp.inbox);
        let more = self.udp_read_into(now, key, &mut inbox);
        self.udp.inbox = inbox;
        more
    }

    fn udp_read_into(&mut self, now: Instant, key: usize, inbox: &mut Inbox) -> bool {
        for _ in 0..READ_BUDGET {
            let Some(loopback) = self.udp.sockets.get(key) else { return false };
            match inbox.receive(&loopback.socket, &loopback.state) {
                Ok(more) => {
                    for (client, datagram) in inbox.datagrams() {
                        self.udp_from_envoy(now, key, client, datagram);
                    }
                    if !more {
                        return false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // ICMP port unreachable of the loopback: Envoy's listener is gone.
                    if let Some(flow) = loopback.flow {
                        self.stack.udp_release(now, flow);
                        self.udp.closed(flow, &self.network);
                        return false;
                    }
                }
            }
        }
        // The rest of it in the next turn.
        self.udp.ready.push(key);
        true
    }

    fn udp_from_envoy(&mut self, now: Instant, key: usize, client: SocketAddr, datagram: &[u8]) {
        let Some(loopback) = self.udp.sockets.get(key) else { return };
        let flow = match loopback.flow {
            // What came between the socket's opening and its connecting can be anybody's.
            Some(_) if !loopback.destinations.contains(&client) => {
                self.network.count_foreign_datagram();
                return;
            }
            Some(flow) => Some(flow),
            None => self.udp_flow(now, key, client),
        };
        match flow {
            Some(flow) => {
                // What the netstack does not take it counts.
                self.stack.udp_send(now, flow, datagram);
            }
            None => self.hold(key, client, datagram),
        }
    }

    /// A datagram without a flow: it waits if a name has to be looked up for that, else it is refused.
    fn hold(&mut self, relay: usize, client: SocketAddr, payload: &[u8]) {
        let Some(Loopback { name: Some((host, port)), address, .. }) = self.udp.sockets.get(relay) else {
            self.udp_stats.refused += 1;
            return;
        };
        let relay = *address;
        match self.udp.held.hold((relay, client), payload) {
            Place::Behind => {}
            Place::None => self.udp_stats.refused += 1,
            Place::First => {
                let network = self.network.clone();
                let found = move |addresses| network.name_found(FoundName { relay, client, addresses });
                if names::look_up(host, *port, Box::new(found)).is_err() {
                    self.udp.held.take(&(relay, client));
                    self.network.count_refused_name();
                    self.udp_stats.refused += 1;
                }
            }
        }
    }

    /// Makes the flows whose names have been looked up.
    pub(super) fn serve_found_names(&mut self, now: Instant) {
        if !self.is_first() {
            return;
        }
        for FoundName { relay, client, addresses } in self.network.take_found_names() {
            let held = self.udp.held.take(&(relay, client));
            let key = self.udp.relays.get(&relay).copied();
            let flow = key.and_then(|key| {
                // The relay may have got addresses meanwhile, and the client a flow.
                if let Some(flow) = self.udp.egress.get(&(key, client)) {
                    return Some(*flow);
                }
                let flow = addresses.iter().find_map(|to| self.stack.udp_connect(now, *to).ok())?;
                self.udp.egress.insert((key, client), flow);
                self.udp.flows.insert(flow, Owner::Egress { relay: key, client });
                Some(flow)
            });
            match flow {
                Some(flow) => held.iter().for_each(|payload| {
                    self.stack.udp_send(now, flow, payload);
                }),
                None => self.udp_stats.refused += held.len() as u64,
            }
        }
    }

    /// The flow of a client of a relay; a new one if there is none.
    fn udp_flow(&mut self, now: Instant, relay: usize, client: SocketAddr) -> Option<UdpFlowId> {
        if let Some(flow) = self.udp.egress.get(&(relay, client)) {
            return Some(*flow);
        }
        let loopback = self.udp.sockets.get_mut(relay)?;
        // One without a way there is passed over.
        let flow = (0..loopback.destinations.len()).find_map(|_| {
            let destination = *loopback.destinations.get(loopback.next % loopback.destinations.len())?;
            loopback.next = loopback.next.wrapping_add(1);
            self.stack.udp_connect(now, destination).ok()
        })?;
        self.udp.egress.insert((relay, client), flow);
        self.udp.flows.insert(flow, Owner::Egress { relay, client });
        Some(flow)
    }
}
