//! How a flow moves through its life, and what its owner is told about it.

use super::conn::End;
use super::engine::{Engine, Phase};
use super::flow::{Flow, FlowState, Kind};
use super::segment::{self, Segment};
use super::{Context, Tcp};
use crate::ip::Packet;
use crate::{CloseReason, FlowId, Stats};

impl Tcp {
    /// Compares a flow with what its owner knows.
    pub(super) fn update(&mut self, cx: &mut Context<'_>, id: FlowId) {
        let Some(flow) = self.flow_mut(id) else { return };
        flow.account(cx.stats);
        let available = flow.recv_available();
        let FlowState::Live(engine) = &flow.state else {
            if matches!(flow.state, FlowState::Drained(_)) && available == 0 {
                self.end(cx, id, CloseReason::Done);
            }
            return;
        };
        let phase = engine.phase();
        let finished = engine.peer_finished() && available == 0 && !flow.finished_told;
        if !flow.established && matches!(phase, Phase::Open | Phase::TimeWait) {
            let pending = usize::from(flow.is_pending());
            flow.established = true;
            flow.deadline = None;
            cx.stats.pending -= pending;
            self.tell(id, Kind::Connected);
        }
        match phase {
            Phase::Opening | Phase::Open => {
                if let Some(flow) = self.flow_mut(id)
                    && flow.send_blocked
                    && flow.is_writable()
                {
                    flow.send_blocked = false;
                    self.tell(id, Kind::Writable);
                }
                if finished {
                    self.finished(id);
                }
            }
            Phase::TimeWait => self.rest(cx, id),
            Phase::Closed => {
                let Some(flow) = self.flow(id) else { return };
                let reason = match flow.engine().and_then(Engine::end) {
                    Some(End::Refused) => CloseReason::Refused,
                    Some(End::Done) => return self.complete(cx, id),
                    Some(End::TimedOut) => CloseReason::TimedOut,
                    Some(End::Reset | End::Aborted) | None => CloseReason::Reset,
                };
                self.end(cx, id, reason);
            }
        }
    }

    /// Both directions are closed in good order.
    pub(super) fn complete(&mut self, cx: &mut Context<'_>, id: FlowId) {
        let Some(flow) = self.flow_mut(id) else { return };
        let Some(engine) = flow.engine_mut() else { return };
        let rest = engine.drain(cx.now);
        if flow.released {
            self.forget(cx, id);
            return;
        }
        flow.deadline = None;
        flow.state = FlowState::Drained(rest);
        flow.account(cx.stats);
        let tuple = flow.tuple;
        self.table.remove(tuple, id);
        self.update(cx, id);
    }

    /// Moves the tuple to TIME_WAIT, where it needs no buffers; acknowledges the peer's FIN.
    fn rest(&mut self, cx: &mut Context<'_>, id: FlowId) {
        let Some(flow) = self.flow_mut(id) else { return };
        let tuple = flow.tuple;
        let Some(engine) = flow.engine_mut() else { return };
        let rest = engine.rest();
        let mut packet = Vec::new();
        while engine.transmit(cx.now, &mut packet) {
            cx.outbox.push(std::mem::take(&mut packet), cx.stats);
        }
        self.table.rest(cx.now, tuple, rest, cx.stats);
        cx.stats.time_wait = self.table.resting();
        self.complete(cx, id);
    }

    fn finished(&mut self, id: FlowId) {
        if let Some(flow) = self.flow_mut(id)
            && !flow.finished_told
        {
            flow.finished_told = true;
            self.tell(id, Kind::Finished);
        }
    }

    /// The flow is over: its resources go now, its id when the owner has been told.
    pub(super) fn end(&mut self, cx: &mut Context<'_>, id: FlowId, reason: CloseReason) {
        if reason == CloseReason::Done {
            self.finished(id);
        }
        let Some(flow) = self.flow_mut(id) else { return };
        if flow.released {
            self.forget(cx, id);
            return;
        }
        cx.stats.pending -= usize::from(flow.is_pending());
        flow.deadline = None;
        flow.state = FlowState::Ended(reason);
        flow.account(cx.stats);
        let tuple = flow.tuple;
        self.table.remove(tuple, id);
        self.tell(id, Kind::Closed);
    }

    /// Ends a flow without telling anybody.
    pub(super) fn forget(&mut self, cx: &mut Context<'_>, id: FlowId) {
        self.remove(cx.stats, id);
    }

    pub(super) fn remove(&mut self, stats: &mut Stats, id: FlowId) {
        if self.flow(id).is_none() {
            return;
        }
        let mut flow = self.flows.remove(id.index as usize);
        self.timers.remove(id, &mut flow.timer);
        self.table.remove(flow.tuple, id);
        if let Some(waiting) = flow.parked.and_then(|peer| self.parked.get_mut(&peer)) {
            waiting.remove(&id);
        }
        stats.pending -= usize::from(flow.is_pending());
        stats.buffer_bytes -= flow.counted;
        stats.flows = self.flows.len();
    }

    /// Sends the engine's RST now: the flow will not get another turn.
    pub(super) fn send_reset(&mut self, cx: &mut Context<'_>, id: FlowId) {
        let mut packet = Vec::new();
        let Some(flow) = self.flows.get_mut(id.index as usize) else { return };
        let Some(engine) = flow.engine_mut() else { return };
        engine.abort();
        if engine.transmit(cx.now, &mut packet) && cx.outbox.push(packet, cx.stats) {
            cx.stats.rst_sent += 1;
        }
    }

    /// Answers a SYN (a whole IP packet) with RST.
    pub(super) fn refuse(cx: &mut Context<'_>, syn: &[u8]) {
        if let Ok(packet) = Packet::parse(syn)
            && let Some(segment) = Segment::parse(packet.payload)
        {
            Self::answer_reset(cx, &packet, &segment);
        }
    }

    pub(super) fn answer_reset(cx: &mut Context<'_>, packet: &Packet<'_>, segment: &Segment) {
        if cx.outbox.push(segment::reset(packet, segment), cx.stats) {
            cx.stats.rst_sent += 1;
        }
    }

    /// The flow's way is another stack's now.
    pub(crate) fn moved(&mut self, cx: &mut Context<'_>, id: FlowId) {
        let Some(flow) = self.flow(id).filter(|flow| flow.engine().is_some()) else { return };
        let reason = if flow.established { CloseReason::Reset } else { CloseReason::Unreachable };
        self.end(cx, id, reason);
    }

    /// An ICMP message says that a segment of this flow could not be delivered.
    pub(crate) fn unreachable(&mut self, cx: &mut Context<'_>, tuple: super::Tuple, seq: u32) {
        let Some(super::table::Entry::Flow(id)) = self.table.get(tuple) else { return };
        // Only for a SYN of ours, and only for that very SYN: a flow that works is not ended by a message that any router
        // could send (RFC 5927, section 5.2).
        if self.flow(id).and_then(Flow::engine).and_then(Engine::syn_seq) == Some(seq) {
            self.end(cx, id, CloseReason::Unreachable);
        }
    }
}
