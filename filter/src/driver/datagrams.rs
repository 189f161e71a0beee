//! UDP on the network thread: datagrams between the overlay's UDP flows and Envoy.
//!
//! * Egress: clients' datagrams come from the filter `nexodus.udp_egress`, or to a loopback socket that stands for an overlay
//!   destination, a relay ([`clients`]). Answers to the former leave by sockets at the listeners' ports ([`answers`]), and a busy
//!   client gets one of its own there, for both directions.
//! * Ingress: one socket for each flow, connected to the loopback address of a listener with `udp_proxy` ([`sockets`]).

mod answers;
mod burst;
mod clients;
mod sockets;
mod ways;

use super::Driver;
use super::path_mtu::Narrow;
use super::udp::Inbox;
use crate::network::{self, Client, Desired, Entrance, Inbound, Network};
use answers::Answers;
use burst::Burst;
use clients::Clients;
use envoy_config::Destination;
use mio::{Registry, Token};
use nexodus_netstack::{Instant, Local, UdpFlowId};
use sockets::{Of, Socket, Sockets};
use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

/// Receive system calls of one socket per turn (each brings up to `quinn_udp::BATCH_SIZE` buffers).
const READ_BUDGET: usize = 8;
/// Datagrams from the overlay per turn, and from Envoy's workers.
const DATAGRAM_BUDGET: usize = 1024;

/// A network's flows and what they are tied to.
#[derive(Default)]
pub(super) struct Datagrams {
    sockets: Sockets,
    /// Ingress listeners: where in the overlay, and the listener's loopback address.
    listeners: BTreeMap<Local, SocketAddr>,
    clients: Clients,
    answers: Answers,
    /// Clients that take no bursts.
    narrow: Narrow,
    flows: HashMap<UdpFlowId, Owner>,
    payload: Vec<u8>,
    outgoing: Burst,
    /// Where datagrams from sockets pass through.
    inbox: Inbox,
    /// What Envoy's workers have left, as far as it is not served yet.
    inbound: Inbound,
}

/// Counted here, published with the thread's other numbers.
#[derive(Clone, Copy, Default)]
pub(crate) struct UdpStats {
    /// Datagrams for which no flow could be made.
    pub(crate) refused: u64,
    /// Datagrams that the system did not take.
    pub(crate) not_delivered: u64,
    /// Sockets that could not be opened.
    pub(crate) socket_errors: u64,
    /// Busy clients that got no socket of their own, because as many as may be have one.
    pub(crate) direct_full: u64,
    /// Those that have one.
    pub(crate) direct: usize,
}

enum Owner {
    /// `direct`: the client's own socket.
    Egress {
        client: Client,
        to: Arc<Destination>,
        direct: Option<usize>,
    },
    Ingress {
        socket: usize,
    },
}

/// How datagrams of a flow leave.
enum Way<'a> {
    Socket(&'a Socket, SocketAddr),
    Answer { local: SocketAddr, client: SocketAddr },
}

impl Datagrams {
    pub(super) fn ready(&mut self, token: Token) -> bool {
        self.sockets.ready(token)
    }

    /// Where in the overlay is listened.
    pub(super) fn listening(&self) -> Vec<Local> {
        self.listeners.keys().copied().collect()
    }

    /// Clients that have a socket of their own.
    pub(super) fn direct(&self) -> usize {
        self.sockets.direct()
    }

    /// See [`Sockets::open_missing`].
    pub(super) fn open_missing(&mut self, registry: &Registry) -> bool {
        self.sockets.open_missing(registry)
    }

    fn way(&self, flow: UdpFlowId) -> Option<Way<'_>> {
        match self.flows.get(&flow)? {
            Owner::Ingress { socket } | Owner::Egress { direct: Some(socket), .. } => {
                let socket = self.sockets.get(*socket)?;
                let to = match &socket.of {
                    Of::Relay => return None,
                    Of::Ingress { listener, .. } => *listener,
                    Of::Direct { client, .. } => client.address,
                };
                Some(Way::Socket(socket, to))
            }
            Owner::Egress { client: Client { entrance, address }, .. } => match entrance {
                Entrance::Relay(relay) => Some(Way::Socket(self.sockets.relay(*relay)?, *address)),
                Entrance::Route { local, .. } => Some(Way::Answer { local: *local, client: *address }),
            },
        }
    }

    /// Datagrams of a flow for one system call.
    fn most_at_once(&self, flow: UdpFlowId) -> usize {
        match self.way(flow) {
            Some(Way::Socket(_, to) | Way::Answer { client: to, .. }) if self.narrow.contains(to.ip()) => 1,
            Some(Way::Socket(socket, _)) => socket.most_at_once,
            Some(Way::Answer { local, .. }) => self.answers.most_at_once(local),
            None => 1,
        }
    }

    /// Sends what is in `outgoing`, which is empty then; how many were refused, or had nobody any more to go to.
    fn send_burst(&mut self) -> u64 {
        let Some(flow) = self.outgoing.flow() else { return 0 };
        let burst = &self.outgoing;
        let (sent, to) = match self.way(flow) {
            Some(Way::Socket(Socket { socket, state, .. }, to)) => (burst.send(socket, state, to, None), to),
            Some(Way::Answer { local, client }) => (self.answers.send(local, client, burst), client),
            None => {
                let refused = burst.count();
                self.outgoing.clear();
                return refused;
            }
        };
        if sent.narrow {
            self.narrow.insert(to.ip());
        }
        self.outgoing.clear();
        sent.refused
    }

    /// The flow has ended in the netstack.
    pub(super) fn closed(&mut self, flow: UdpFlowId, network: &Network) {
        match self.flows.remove(&flow) {
            Some(Owner::Egress { client, direct, .. }) => {
                self.clients.closed(&client, flow);
                direct.and_then(|socket| self.sockets.close(socket));
                if let Entrance::Route { local, .. } = client.entrance {
                    self.answers.end(local);
                }
            }
            Some(Owner::Ingress { socket }) => {
                if let Some(socket) = self.sockets.close(socket) {
                    network.remove_udp_source(socket.address);
                }
            }
            None => {}
        }
    }
}

impl Driver {
    /// What the configuration asks for. Flows whose destination is not behind their entrance any more end.
    pub(super) fn apply_udp(&mut self, now: Instant, desired: &Desired) {
        let listeners = desired.udp_listeners.newest();
        for local in self.udp.listeners.keys().filter(|local| !listeners.contains_key(local)) {
            self.stack.udp_unlisten(*local);
        }
        for local in listeners.keys().filter(|local| !self.udp.listeners.contains_key(local)) {
            self.stack.udp_listen(*local);
        }
        self.udp.listeners = listeners;
        self.udp_stats.socket_errors +=
            self.udp.sockets.set_relays(desired.udp_relays.keys(), &self.registry);
        self.udp.clients.apply(desired);
        let clients = &self.udp.clients;
        let is_gone = |owner: &Owner| match owner {
            Owner::Egress { client, to, .. } => !clients.has(&client.entrance, to),
            Owner::Ingress { .. } => false,
        };
        let gone = self.udp.flows.iter().filter(|(_, owner)| is_gone(owner)).map(|(flow, _)| *flow);
        for flow in gone.collect::<Vec<_>>() {
            self.stack.udp_release(now, flow);
            self.udp.closed(flow, &self.network);
        }
    }

    /// A caller's first datagram to a listening UDP port.
    pub(super) fn udp_incoming(&mut self, now: Instant, flow: UdpFlowId, local: SocketAddr) {
        let opened = match network::listener(&self.udp.listeners, local) {
            Some(listener) => self.udp.sockets.open_ingress(flow, *listener, &self.registry),
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

    /// Datagrams from the overlay to Envoy and its clients; whether there may be more.
    pub(super) fn udp_from_overlay(&mut self) -> bool {
        let mut more = true;
        let mut most = 0;
        for _ in 0..DATAGRAM_BUDGET {
            let Some(flow) = self.stack.poll_datagram(&mut self.udp.payload) else {
                more = false;
                break;
            };
            if !self.udp.outgoing.takes(flow, &self.udp.payload, most) {
                self.udp_stats.not_delivered += self.udp.send_burst();
                most = self.udp.most_at_once(flow);
            }
            self.udp.outgoing.push(flow, &self.udp.payload);
        }
        self.udp_stats.not_delivered += self.udp.send_burst();
        more
    }

    /// Datagrams from Envoy into the overlay; whether there may be more.
    pub(super) fn udp_to_overlay(&mut self, now: Instant) -> bool {
        if !self.is_first() {
            return false;
        }
        let mut more = self.serve_clients(now);
        for key in std::mem::take(&mut self.udp.sockets.ready) {
            more |= self.udp_read(now, key);
        }
        more
    }

    /// What Envoy's workers have left.
    fn serve_clients(&mut self, now: Instant) -> bool {
        let mut inbound = std::mem::take(&mut self.udp.inbound);
        let mut more = true;
        for _ in 0..DATAGRAM_BUDGET {
            if let Some((client, datagram)) = inbound.pop() {
                self.client_datagram(now, client, datagram);
                continue;
            }
            self.network.take_datagrams(&mut inbound);
            if inbound.is_empty() {
                more = false;
                break;
            }
        }
        self.udp.inbound = inbound;
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
            let Some(socket) = self.udp.sockets.get(key) else { return false };
            match inbox.receive(&socket.socket, &socket.state) {
                Ok(more) => {
                    let (of, address) = (socket.of.clone(), socket.address);
                    for (from, datagram) in inbox.datagrams() {
                        self.udp_from_socket(now, &of, address, from, datagram);
                    }
                    if !more {
                        return false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // ICMP port unreachable: Envoy's listener is gone. A client that is gone may come back.
                    if let Of::Ingress { flow, .. } = socket.of {
                        self.stack.udp_release(now, flow);
                        self.udp.closed(flow, &self.network);
                        return false;
                    }
                }
            }
        }
        // The rest of it in the next turn.
        self.udp.sockets.ready.push(key);
        true
    }

    fn udp_from_socket(
        &mut self,
        now: Instant,
        of: &Of,
        address: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
    ) {
        // A connected socket may have something from before it was connected, from anybody.
        match of {
            Of::Direct { flow, client } if client.address == from => {
                self.stack.udp_send(now, *flow, datagram);
            }
            Of::Direct { client, .. } => {
                let entrance = client.entrance.clone();
                self.client_datagram(now, Client { entrance, address: from }, datagram);
            }
            Of::Ingress { flow, listener } if *listener == from => {
                self.stack.udp_send(now, *flow, datagram);
            }
            Of::Ingress { .. } => self.network.count_foreign_datagram(),
            Of::Relay => {
                let entrance = Entrance::Relay(address);
                self.client_datagram(now, Client { entrance, address: from }, datagram);
            }
        }
    }
}
