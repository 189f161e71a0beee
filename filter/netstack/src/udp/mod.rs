//! UDP (RFC 768): all flows of a stack. A flow is what passes between one local and one remote address and port; it
//! lives until nothing has passed for a while, because UDP has no other end.

mod header;
mod received;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use slab::Slab;

use crate::ip::{Address, Packet};
use crate::listen::Listening;
use crate::seed::{Seeded, next_random};
use crate::tcp::segment::Tuple;
use crate::timers::Timers;
use crate::{ConnectError, Event, Instant, Limits, Local, Stats, UdpCloseReason, UdpFlowId};
use header::Header;
use received::Received;

pub(crate) use header::compose;

/// The largest payload: what an IPv4 packet can carry (IPv6 could carry 20 bytes more).
pub(crate) const MAX_PAYLOAD: usize = 65_535 - 20 - 8;
/// Local ports of our own calls (Linux's default range).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// Ports tried before giving up. With nine in ten taken towards one destination this fails once in 700,000 times.
const PORT_TRIES: usize = 128;

pub(crate) struct Udp {
    flows: Slab<Flow>,
    generation: u32,
    table: HashMap<Tuple, UdpFlowId, Seeded>,
    listening: Listening,
    timers: Timers<UdpFlowId>,
    /// Each flow stands here at most twice: incoming and closed.
    events: VecDeque<UdpFlowId>,
    received: Received,
    limits: Limits,
    random: u64,
}

struct Flow {
    generation: u32,
    tuple: Tuple,
    /// The owner knows of it.
    told: bool,
    /// The last datagram in either direction.
    active: Instant,
    ended: Option<UdpCloseReason>,
    /// Datagrams that the owner has not taken: they come before the end.
    unread: usize,
    /// Where its timer entry is (see `Timers`).
    timer: Option<Instant>,
}

impl Udp {
    pub(crate) fn new(seed: u64, limits: Limits) -> Self {
        let mut random = seed;
        Self {
            flows: Slab::new(),
            generation: 0,
            table: HashMap::with_hasher(Seeded(next_random(&mut random))),
            listening: Listening::default(),
            timers: Timers::new(),
            events: VecDeque::new(),
            received: Received::default(),
            limits,
            random,
        }
    }

    pub(crate) fn listen(&mut self, local: Local) {
        self.listening.insert(local);
    }

    pub(crate) fn unlisten(&mut self, local: Local) {
        self.listening.remove(local);
    }

    pub(crate) fn connect(
        &mut self,
        now: Instant,
        local: IpAddr,
        remote: SocketAddr,
        stats: &mut Stats,
    ) -> Result<UdpFlowId, ConnectError> {
        if self.flows.len() >= self.limits.max_udp_flows {
            stats.udp_too_many_flows += 1;
            return Err(ConnectError::TooManyFlows);
        }
        let Some(tuple) = self.free_tuple(local, remote.into()) else {
            stats.no_ports += 1;
            return Err(ConnectError::NoPorts);
        };
        stats.udp_flows_connected += 1;
        Ok(self.insert(now, tuple, true, stats))
    }

    /// Takes a datagram. False: it belongs to no flow, and nobody listens.
    pub(crate) fn receive(&mut self, now: Instant, packet: &Packet<'_>, stats: &mut Stats) -> bool {
        let Some((header, payload)) = Header::parse(packet.payload) else {
            stats.bad_packet += 1;
            return true;
        };
        let tuple = Tuple {
            local: Address::new(packet.destination, header.destination_port),
            remote: Address::new(packet.source, header.source_port),
        };
        let id = match self.table.get(&tuple) {
            Some(&id) => id,
            None if !self.listening.contains(tuple.local.into()) => return false,
            None if self.flows.len() >= self.limits.max_udp_flows => {
                stats.udp_too_many_flows += 1;
                return true;
            }
            None => {
                stats.udp_flows_accepted += 1;
                let id = self.insert(now, tuple, false, stats);
                self.events.push_back(id);
                id
            }
        };
        self.touch(now, id);
        if self.received.push(id, payload) {
            stats.udp_received += 1;
            if let Some(flow) = self.flow_mut(id) {
                flow.unread += 1;
            }
        } else {
            stats.udp_receive_full += 1;
        }
        true
    }

    /// Both ends of a flow that is not over.
    pub(crate) fn tuple(&self, id: UdpFlowId) -> Option<Tuple> {
        self.flow(id).filter(|flow| flow.ended.is_none()).map(|flow| flow.tuple)
    }

    /// A datagram of the flow passes.
    pub(crate) fn touch(&mut self, now: Instant, id: UdpFlowId) {
        // Its timer finds out when it fires: that is once per idle time, not per datagram.
        if let Some(flow) = self.flow_mut(id) {
            flow.active = now;
        }
    }

    /// The next received datagram. One of a flow that the owner has not been told of keeps those behind it waiting.
    pub(crate) fn poll(&mut self, out: &mut Vec<u8>, stats: &mut Stats) -> Option<UdpFlowId> {
        out.clear();
        while let Some(id) = self.received.front() {
            match self.flow(id) {
                Some(flow) if !flow.told => return None,
                Some(_) => {
                    self.received.pop(Some(out));
                    self.was_taken(id);
                    return Some(id);
                }
                None => {
                    self.received.pop(None);
                    stats.udp_unread += 1;
                }
            }
        }
        None
    }

    fn was_taken(&mut self, id: UdpFlowId) {
        if let Some(flow) = self.flow_mut(id) {
            flow.unread -= 1;
            if flow.unread == 0 && flow.ended.is_some() {
                self.events.push_back(id);
            }
        }
    }

    pub(crate) fn release(&mut self, id: UdpFlowId, stats: &mut Stats) {
        if self.flow(id).is_some() {
            self.remove(id, stats);
        }
    }

    /// An ICMP message says that a datagram of this flow could not be delivered. False: there is no such flow.
    pub(crate) fn unreachable(&mut self, tuple: Tuple, stats: &mut Stats) -> bool {
        let Some(&id) = self.table.get(&tuple) else { return false };
        stats.udp_unreachable += 1;
        self.end(id, UdpCloseReason::Unreachable);
        true
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn poll_event(&mut self, stats: &mut Stats) -> Option<Event> {
        while let Some(id) = self.events.pop_front() {
            let Some(flow) = self.flow_mut(id) else { continue };
            if !std::mem::replace(&mut flow.told, true) {
                return Some(Event::UdpIncoming {
                    flow: id,
                    local: flow.tuple.local.into(),
                    remote: flow.tuple.remote.into(),
                });
            }
            // With something unread, it stands here again when that is taken.
            let Some(reason) = flow.ended.filter(|_| flow.unread == 0) else { continue };
            self.remove(id, stats);
            return Some(Event::UdpClosed { flow: id, reason });
        }
        None
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, stats: &mut Stats) {
        while let Some(id) = self.timers.pop_due(now) {
            let idle = self.limits.udp_idle;
            let Some(flow) = self.flows.get_mut(id.index as usize) else { continue };
            flow.timer = None;
            let end = flow.active + idle;
            if end > now {
                self.timers.at_latest(id, &mut flow.timer, end);
            } else {
                stats.udp_idle += 1;
                self.end(id, UdpCloseReason::Idle);
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn free_tuple(&mut self, local: IpAddr, remote: Address) -> Option<Tuple> {
        let span = u64::from(*EPHEMERAL.end() - *EPHEMERAL.start()) + 1;
        (0..PORT_TRIES).find_map(|_| {
            let offset = u16::try_from(next_random(&mut self.random) % span).unwrap_or_default();
            let tuple = Tuple { local: Address::new(local, EPHEMERAL.start() + offset), remote };
            let free = !self.table.contains_key(&tuple) && !self.listening.contains(tuple.local.into());
            // Towards ourselves, the other end must not be the same flow.
            (free && tuple.local != remote).then_some(tuple)
        })
    }

    fn insert(&mut self, now: Instant, tuple: Tuple, told: bool, stats: &mut Stats) -> UdpFlowId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let entry = self.flows.vacant_entry();
        // `max_udp_flows` is far below 2^32 in any memory that exists.
        let id = UdpFlowId { index: u32::try_from(entry.key()).unwrap_or(u32::MAX), generation };
        let mut flow = Flow { generation, tuple, told, active: now, ended: None, unread: 0, timer: None };
        self.timers.at_latest(id, &mut flow.timer, now + self.limits.udp_idle);
        entry.insert(flow);
        self.table.insert(tuple, id);
        stats.udp_flows = self.flows.len();
        id
    }

    /// The flow is over: its tuple is free now, its id goes when the owner has been told.
    fn end(&mut self, id: UdpFlowId, reason: UdpCloseReason) {
        let Some(flow) = self.flows.get_mut(id.index as usize) else { return };
        self.timers.remove(id, &mut flow.timer);
        flow.ended = Some(reason);
        self.table.remove(&flow.tuple);
        self.events.push_back(id);
    }

    fn remove(&mut self, id: UdpFlowId, stats: &mut Stats) {
        let mut flow = self.flows.remove(id.index as usize);
        self.timers.remove(id, &mut flow.timer);
        if flow.ended.is_none() {
            self.table.remove(&flow.tuple);
        }
        stats.udp_flows = self.flows.len();
    }

    fn flow(&self, id: UdpFlowId) -> Option<&Flow> {
        self.flows.get(id.index as usize).filter(|flow| flow.generation == id.generation)
    }

    fn flow_mut(&mut self, id: UdpFlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id.index as usize).filter(|flow| flow.generation == id.generation)
    }
}
