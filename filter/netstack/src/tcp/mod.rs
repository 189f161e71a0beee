//! TCP: all flows of a stack, from listening ports to TIME_WAIT.
//!
//! [`engine`] is the boundary behind which one flow's TCP runs; everything else here is about many flows.

pub mod conn;
mod engine;
mod flow;
mod life;
mod receive;
mod run;
pub(crate) mod segment;
mod table;
mod transmit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::BuildHasher as _;
use std::net::SocketAddr;

use bytes::{Buf as _, Bytes, BytesMut};
use slab::Slab;

use crate::ip::{Address, Outbox};
use crate::listen::Listening;
use crate::seed::{Seeded, next_random};
use crate::timers::Timers;
use crate::wireguard::PeerId;
use crate::{ConnectError, Event, FlowId, Instant, Limits, Local, Stats};
pub(crate) use conn::Next;
use engine::{Engine, Shared};
use flow::{Flow, FlowState, Kind};
pub(crate) use run::{RUN_HEADERS, Run};
use segment::Tuple;
use table::{Table, Vacancy};

/// Local ports for active opens (Linux's default range).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// Ports tried before giving up. With nine in ten taken towards one destination this fails once in 700,000 times.
const PORT_TRIES: usize = 128;

/// What every operation needs beside the flows.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) stats: &'a mut Stats,
}

pub(crate) struct Tcp {
    shared: Shared,
    /// Boxed: the slab doubles, and half of it may be empty.
    flows: Slab<Box<Flow>>,
    generation: u32,
    table: Table,
    listening: Listening,
    /// Flows that may have something to send, each once.
    ready: VecDeque<FlowId>,
    timers: Timers<FlowId>,
    events: VecDeque<(FlowId, Kind)>,
    /// Flows that wait for a peer's session.
    parked: BTreeMap<PeerId, BTreeSet<FlowId>>,
    limits: Limits,
    random: u64,
    port_secret: u64,
    /// Counts active opens.
    port_turn: u64,
}

impl Tcp {
    pub(crate) fn new(seed: u64, mtu: u16, limits: Limits) -> Self {
        let mut random = seed;
        Self {
            shared: Shared::new(&mut random, mtu, &limits),
            flows: Slab::new(),
            generation: 0,
            table: Table::new(next_random(&mut random), limits.max_time_wait),
            listening: Listening::default(),
            ready: VecDeque::new(),
            timers: Timers::new(),
            events: VecDeque::new(),
            parked: BTreeMap::new(),
            limits,
            port_secret: next_random(&mut random),
            port_turn: 0,
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
        cx: &mut Context<'_>,
        local: std::net::IpAddr,
        remote: SocketAddr,
    ) -> Result<FlowId, ConnectError> {
        self.admit(cx.stats)?;
        let Some((tuple, before)) = self.free_tuple(cx.now, local, remote.into()) else {
            cx.stats.no_ports += 1;
            return Err(ConnectError::NoPorts);
        };
        cx.stats.time_wait_reused += u64::from(before.is_some());
        let engine = Engine::connect(&self.shared, cx.now, tuple, before);
        cx.stats.flows_connected += 1;
        let deadline = cx.now + self.limits.connect_timeout;
        let id = self.insert(cx, tuple, FlowState::Live(engine), true, deadline);
        self.make_ready(id);
        Ok(id)
    }

    pub(crate) fn accept(&mut self, cx: &mut Context<'_>, id: FlowId) {
        let deadline = cx.now + self.limits.connect_timeout;
        let Some(flow) = self.flow_mut(id) else { return };
        let tuple = flow.tuple;
        let FlowState::Held { syn, .. } = &mut flow.state else { return };
        let syn = std::mem::take(syn);
        let Some(engine) = Engine::accept(&self.shared, cx.now, tuple, &syn) else { return };
        cx.stats.flows_accepted += 1;
        if let Some(flow) = self.flow_mut(id) {
            flow.state = FlowState::Live(engine);
            flow.deadline = Some(deadline);
        }
        self.update(cx, id);
        self.make_ready(id);
    }

    /// Answers a held SYN with RST.
    pub(crate) fn reject(&mut self, cx: &mut Context<'_>, id: FlowId) {
        if let Some(Flow { state: FlowState::Held { syn, .. }, .. }) = self.flow_mut(id) {
            let syn = std::mem::take(syn);
            Self::refuse(cx, &syn);
            self.forget(cx, id);
        }
    }

    pub(crate) fn send(&mut self, cx: &mut Context<'_>, id: FlowId, data: &[u8]) -> usize {
        let now = cx.now;
        self.send_by(cx, id, data.len(), |engine| engine.send(now, data))
    }

    pub(crate) fn send_chunk(&mut self, cx: &mut Context<'_>, id: FlowId, chunk: &mut BytesMut) -> usize {
        let now = cx.now;
        self.send_by(cx, id, chunk.len(), |engine| engine.send_chunk(now, chunk))
    }

    fn send_by(
        &mut self,
        cx: &mut Context<'_>,
        id: FlowId,
        len: usize,
        send: impl FnOnce(&mut Engine) -> usize,
    ) -> usize {
        let pressure = self.limits.pressure(cx.stats);
        let Some(flow) = self.flow_mut(id) else { return 0 };
        let Some(engine) = flow.engine_mut() else { return 0 };
        engine.set_pressure(pressure);
        let taken = send(engine);
        // Also for an owner who asks for the capacity first, and so never offers too much.
        flow.send_blocked = taken < len || engine.send_room() == 0;
        flow.account(cx.stats);
        if taken > 0 {
            self.make_ready(id);
        }
        taken
    }

    /// By the pressure of now, as `send` will find it.
    pub(crate) fn send_capacity(&mut self, stats: &Stats, id: FlowId) -> usize {
        let pressure = self.limits.pressure(stats);
        let Some(engine) = self.flow_mut(id).and_then(Flow::engine_mut) else { return 0 };
        engine.set_pressure(pressure);
        engine.send_room()
    }

    pub(crate) fn unsent(&self, id: FlowId) -> usize {
        self.flow(id).and_then(Flow::engine).map_or(0, Engine::unacknowledged)
    }

    pub(crate) fn recv(&mut self, cx: &mut Context<'_>, id: FlowId, out: &mut [u8]) -> usize {
        let pressure = self.limits.pressure(cx.stats);
        let Some(flow) = self.flow_mut(id) else { return 0 };
        let given = match &mut flow.state {
            FlowState::Live(engine) => {
                engine.set_pressure(pressure);
                engine.recv(cx.now, out)
            }
            FlowState::Drained(rest) => {
                let mut given = 0;
                while let Some(chunk) = rest.front_mut()
                    && given < out.len()
                {
                    let some = chunk.len().min(out.len() - given);
                    chunk.copy_to_slice(&mut out[given..given + some]);
                    given += some;
                    if chunk.is_empty() {
                        rest.pop_front();
                    }
                }
                given
            }
            _ => 0,
        };
        self.was_read(cx, id, given);
        given
    }

    pub(crate) fn recv_chunk(&mut self, cx: &mut Context<'_>, id: FlowId) -> Bytes {
        let pressure = self.limits.pressure(cx.stats);
        let Some(flow) = self.flow_mut(id) else { return Bytes::new() };
        let chunk = match &mut flow.state {
            FlowState::Live(engine) => {
                engine.set_pressure(pressure);
                engine.recv_chunk(cx.now)
            }
            FlowState::Drained(rest) => rest.pop_front().unwrap_or_default(),
            _ => Bytes::new(),
        };
        self.was_read(cx, id, chunk.len());
        chunk
    }

    fn was_read(&mut self, cx: &mut Context<'_>, id: FlowId, len: usize) {
        if len > 0 {
            self.update(cx, id);
            // The window may have to be announced.
            self.make_ready(id);
        }
    }

    pub(crate) fn recv_available(&self, id: FlowId) -> usize {
        self.flow(id).map_or(0, Flow::recv_available)
    }

    pub(crate) fn finish(&mut self, id: FlowId) {
        if let Some(engine) = self.flow_mut(id).and_then(Flow::engine_mut) {
            engine.finish();
            self.make_ready(id);
        }
    }

    pub(crate) fn abort(&mut self, cx: &mut Context<'_>, id: FlowId) {
        self.reject(cx, id);
        let Some(flow) = self.flow_mut(id) else { return };
        let half_open = flow.established || !flow.active;
        if half_open && self.flow(id).and_then(Flow::engine).is_some() {
            self.send_reset(cx, id);
        }
        self.forget(cx, id);
    }

    pub(crate) fn release(&mut self, cx: &mut Context<'_>, id: FlowId) {
        let linger = cx.now + self.limits.linger;
        let Some(flow) = self.flow_mut(id) else { return };
        let unread = flow.recv_available() > 0;
        match &mut flow.state {
            // Nobody will read what has arrived: the peer must not believe otherwise (RFC 1122, section 4.2.2.13).
            FlowState::Live(_) if unread || !flow.established => self.abort(cx, id),
            FlowState::Live(engine) => {
                engine.finish();
                flow.released = true;
                flow.lingering = engine.left();
                flow.deadline = Some(linger);
                self.make_ready(id);
            }
            FlowState::Held { .. } => self.reject(cx, id),
            FlowState::Drained(_) | FlowState::Ended(_) => self.forget(cx, id),
        }
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn poll_event(&mut self, stats: &mut Stats) -> Option<Event> {
        while let Some((id, kind)) = self.events.pop_front() {
            let Some(flow) = self.flow_mut(id) else { continue };
            flow.queued &= !(kind as u8);
            if flow.released {
                continue;
            }
            let ended = matches!(flow.state, FlowState::Ended(_));
            let event = match kind {
                Kind::Incoming => Event::Incoming {
                    flow: id,
                    local: flow.tuple.local.into(),
                    remote: flow.tuple.remote.into(),
                },
                Kind::Connected => Event::Connected { flow: id },
                // Told already, or too late.
                Kind::Readable if flow.recv_available() == 0 => continue,
                Kind::Readable => Event::Readable { flow: id },
                Kind::Writable if ended => continue,
                Kind::Writable => Event::Writable { flow: id },
                Kind::Finished => Event::Finished { flow: id },
                Kind::Closed => {
                    let FlowState::Ended(reason) = flow.state else { continue };
                    self.remove(stats, id);
                    Event::Closed { flow: id, reason }
                }
            };
            return Some(event);
        }
        None
    }

    /// Whether there is room for a new flow.
    fn admit(&self, stats: &mut Stats) -> Result<(), ConnectError> {
        if self.flows.len() >= self.limits.max_flows {
            stats.too_many_flows += 1;
            return Err(ConnectError::TooManyFlows);
        }
        if stats.buffer_bytes + flow::FLOW_BYTES > self.limits.buffer_bytes {
            stats.budget_refused += 1;
            return Err(ConnectError::NoBuffers);
        }
        Ok(())
    }

    /// A tuple for an active open, and where the numbers of the connection that rests there have ended.
    fn free_tuple(
        &mut self,
        now: Instant,
        local: std::net::IpAddr,
        remote: Address,
    ) -> Option<(Tuple, Option<u32>)> {
        let span = u64::from(*EPHEMERAL.end() - *EPHEMERAL.start()) + 1;
        // In turn, from a secret start (RFC 6056, section 3.3.3): a port drawn at random is soon one that rests in TIME_WAIT
        // at the other end, and with it half of all SYNs go unanswered. At random only past ports that are taken.
        let turn = Seeded(self.port_secret).hash_one((local, remote)).wrapping_add(self.port_turn);
        self.port_turn = self.port_turn.wrapping_add(1);
        (0..PORT_TRIES).find_map(|attempt| {
            let place = if attempt == 0 { turn } else { next_random(&mut self.random) };
            let offset = u16::try_from(place % span).unwrap_or_default();
            let tuple = Tuple { local: Address::new(local, EPHEMERAL.start() + offset), remote };
            match self.table.vacancy(now, tuple) {
                // Towards ourselves, the other end must not be the same flow.
                _ if tuple.local == remote => None,
                Vacancy::Free => Some((tuple, None)),
                Vacancy::Rested { snd_nxt } => Some((tuple, Some(snd_nxt))),
                Vacancy::Taken => None,
            }
        })
    }

    fn insert(
        &mut self,
        cx: &mut Context<'_>,
        tuple: Tuple,
        state: FlowState,
        active: bool,
        deadline: Instant,
    ) -> FlowId {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.flows.vacant_entry();
        // `max_flows` is far below 2^32 in any memory that exists.
        let id =
            FlowId { index: u32::try_from(entry.key()).unwrap_or(u32::MAX), generation: self.generation };
        let mut flow = Flow::new(self.generation, tuple, state, active, deadline);
        self.timers.at_latest(id, &mut flow.timer, deadline);
        cx.stats.pending += usize::from(flow.is_pending());
        flow.account(cx.stats);
        entry.insert(Box::new(flow));
        self.table.insert(tuple, id);
        cx.stats.time_wait = self.table.resting();
        cx.stats.flows = self.flows.len();
        id
    }

    fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(id.index as usize).map(|flow| &**flow).filter(|flow| flow.generation == id.generation)
    }

    fn flow_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        let flow = self.flows.get_mut(id.index as usize).map(|flow| &mut **flow);
        flow.filter(|flow| flow.generation == id.generation)
    }

    fn make_ready(&mut self, id: FlowId) {
        if let Some(flow) = self.flow_mut(id)
            && !flow.ready
            && flow.parked.is_none()
        {
            flow.ready = true;
            self.ready.push_back(id);
        }
    }

    fn tell(&mut self, id: FlowId, kind: Kind) {
        if let Some(flow) = self.flow_mut(id)
            && !flow.released
            && flow.queued & kind as u8 == 0
        {
            flow.queued |= kind as u8;
            self.events.push_back((id, kind));
        }
    }
}
