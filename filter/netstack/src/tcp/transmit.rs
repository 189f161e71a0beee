//! Segments to the overlay: flows take turns.

use std::time::Duration;

use super::conn::Outgoing;
use super::{Context, Tcp};
use crate::wireguard::PeerId;
use crate::{FlowId, Instant};
use std::net::IpAddr;

/// A flow without a way out looks at its engine's timers this often.
const PARKED_CHECK: Duration = Duration::from_secs(5);

impl Tcp {
    /// The next flow in the round, taken out of it.
    pub(crate) fn next_ready(&mut self) -> Option<FlowId> {
        while let Some(id) = self.ready.pop_front() {
            if let Some(flow) = self.flow_mut(id) {
                flow.ready = false;
                if flow.engine().is_some() {
                    return Some(id);
                }
            }
        }
        None
    }

    /// The flow has more to send: back to the end of the round.
    pub(crate) fn again(&mut self, id: FlowId) {
        self.make_ready(id);
    }

    /// The flow could not start its turn: first in the next round.
    pub(crate) fn again_first(&mut self, id: FlowId) {
        if let Some(flow) = self.flow_mut(id)
            && !flow.ready
        {
            flow.ready = true;
            self.ready.push_front(id);
        }
    }

    pub(crate) fn remote(&self, id: FlowId) -> Option<IpAddr> {
        self.flow(id).map(|flow| flow.tuple.remote.ip())
    }

    /// Gives `take` the flow's next segments as IP packets, `most` of them if that many are equal. Returns how many it gave;
    /// with none the flow's turn is over, and its timers are set.
    pub(crate) fn next_segments(
        &mut self,
        cx: &mut Context<'_>,
        id: FlowId,
        most: u32,
        take: &mut dyn FnMut(&mut Outgoing<'_>),
    ) -> u32 {
        let Some(flow) = self.flows.get_mut(id.index as usize) else { return 0 };
        let Some(engine) = flow.engine_mut() else { return 0 };
        engine.set_pressure(self.limits.pressure(cx.stats));
        let given = engine.transmit_burst(cx.now, most, take);
        if given == 0 {
            self.settle(cx, id);
        }
        given
    }

    /// No way out now: the flow waits for its peer's session (or, without a peer, for a route).
    pub(crate) fn park(&mut self, cx: &mut Context<'_>, id: FlowId, peer: Option<PeerId>) {
        let Some(flow) = self.flows.get_mut(id.index as usize) else { return };
        let Some(engine) = flow.engine_mut() else { return };
        // Its timers run all the same: a flow must not outlive its user timeout here.
        engine.tick(cx.now);
        self.update(cx, id);
        let check = cx.now + PARKED_CHECK;
        let Some(flow) = self.flow_mut(id) else { return };
        let at = flow.deadline.map_or(check, |deadline| deadline.min(check));
        if let Some(peer) = peer
            && flow.engine().is_some()
        {
            flow.parked = Some(peer);
            self.parked.entry(peer).or_default().insert(id);
        }
        self.schedule(id, at);
    }

    /// The peer has a session: its flows go on.
    pub(crate) fn unpark(&mut self, peer: PeerId) {
        for id in self.parked.remove(&peer).unwrap_or_default() {
            if let Some(flow) = self.flow_mut(id) {
                flow.parked = None;
                self.make_ready(id);
            }
        }
    }

    /// Routes have changed: every flow that waits looks again.
    pub(crate) fn unpark_all(&mut self) {
        let peers: Vec<PeerId> = self.parked.keys().copied().collect();
        for peer in peers {
            self.unpark(peer);
        }
        for id in self.flows() {
            self.make_ready(id);
        }
    }

    /// All there are.
    pub(crate) fn flows(&self) -> Vec<FlowId> {
        let id = |index, generation| FlowId { index: u32::try_from(index).unwrap_or(u32::MAX), generation };
        self.flows.iter().map(|(index, flow)| id(index, flow.generation)).collect()
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.table.expire(cx.now);
        cx.stats.time_wait = self.table.resting();
        while let Some(id) = self.timers.pop_due(cx.now) {
            let Some(flow) = self.flow_mut(id) else { continue };
            flow.timer = None;
            if flow.deadline.is_some_and(|deadline| deadline <= cx.now) {
                self.deadline_passed(cx, id);
            }
            let Some(flow) = self.flow_mut(id) else { continue };
            if let Some(deadline) = flow.deadline {
                self.schedule(id, deadline);
            }
            if let Some(peer) = self.flow(id).and_then(|flow| flow.parked) {
                self.park(cx, id, Some(peer));
            } else {
                self.make_ready(id);
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.timers.next(), self.table.next_expiry()].into_iter().flatten().min()
    }

    /// After a flow's last segment of this turn: what changed by timers, and when it is its turn again by itself.
    fn settle(&mut self, cx: &mut Context<'_>, id: FlowId) {
        self.update(cx, id);
        let Some(flow) = self.flows.get_mut(id.index as usize) else { return };
        if flow.generation != id.generation {
            return;
        }
        let (deadline, engine) = (flow.deadline, flow.engine_mut());
        let engine = engine.and_then(|engine| engine.deadline());
        if let Some(at) = [deadline, engine].into_iter().flatten().min() {
            // The engine has just had its turn, so nothing of it is due; should it be wrong, it must not spin.
            self.schedule(id, at.max(cx.now + Duration::from_micros(100)));
        }
    }

    fn schedule(&mut self, id: FlowId, at: Instant) {
        if let Some(flow) =
            self.flows.get_mut(id.index as usize).filter(|flow| flow.generation == id.generation)
        {
            self.timers.at_latest(id, &mut flow.timer, at);
        }
    }
}
