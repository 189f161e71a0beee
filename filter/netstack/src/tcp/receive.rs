//! Segments from the overlay.

use super::conn::{self, Next};
use super::engine::Phase;
use super::flow::{FlowState, Kind};
use super::segment::{Segment, Tuple};
use super::table::{Entry, TimeWait};
use super::{Context, Tcp};
use crate::ip::{Address, Packet};
use crate::{CloseReason, FlowId, Stats};

impl Tcp {
    /// Takes a segment. Returns its flow if the like of it would say nothing new but its bytes: [`Self::receive_more`] is for
    /// those that follow.
    pub(crate) fn receive(&mut self, cx: &mut Context<'_>, packet: &Packet<'_>) -> Option<FlowId> {
        let Some(segment) = Segment::parse(packet.payload) else {
            cx.stats.bad_packet += 1;
            return None;
        };
        let tuple = Tuple {
            local: Address::new(packet.destination, segment.destination_port),
            remote: Address::new(packet.source, segment.source_port),
        };
        match self.table.get(tuple) {
            Some(Entry::Flow(id)) => return self.receive_for(cx, id, packet, &segment).then_some(id),
            Some(Entry::TimeWait(rest)) => self.receive_resting(cx, tuple, rest, packet, &segment),
            None => self.receive_unmatched(cx, tuple, packet, &segment),
        }
        None
    }

    /// Takes a segment of which [`Run`](super::Run) says that it continues the last one. False, and nothing has happened: it has
    /// to be received like any other.
    pub(crate) fn receive_more(
        &mut self,
        cx: &mut Context<'_>,
        id: FlowId,
        seq: u32,
        payload: Next<'_>,
    ) -> bool {
        let pressure = self.limits.pressure(cx.stats);
        let Some(flow) = self.flow_mut(id).filter(|flow| !flow.released) else { return false };
        let Some(engine) = flow.engine_mut() else { return false };
        engine.set_pressure(pressure);
        if !engine.receive_more(cx.now, seq, payload) {
            return false;
        }
        flow.account(cx.stats);
        self.tell(id, Kind::Readable);
        self.make_ready(id);
        true
    }

    /// Where the packet of such a segment can be opened; see [`conn::Connection::space_for_next`]. If it has the number that
    /// comes with the space, [`Self::receive_more`] takes it.
    pub(crate) fn space_for_next(
        &mut self,
        stats: &mut Stats,
        id: FlowId,
        before: usize,
        len: usize,
        after: usize,
    ) -> Option<(u32, &mut [u8])> {
        let pressure = self.limits.pressure(stats);
        let flow = self.flow_mut(id).filter(|flow| !flow.released)?;
        flow.engine_mut()?.set_pressure(pressure);
        flow.account(stats);
        flow.engine_mut()?.space_for_next(before, len, after)
    }

    /// True: the like of it would say nothing new but its bytes.
    fn receive_for(
        &mut self,
        cx: &mut Context<'_>,
        id: FlowId,
        packet: &Packet<'_>,
        segment: &Segment,
    ) -> bool {
        let Some(flow) = self.flows.get_mut(id.index as usize) else { return false };
        let engine = match &mut flow.state {
            FlowState::Live(engine) => engine,
            FlowState::Held { syn, seq } => {
                if segment.is_rst() {
                    self.end(cx, id, CloseReason::Reset);
                } else if segment.opens() && segment.seq != *seq {
                    // The caller started anew; the old SYN would get an answer that it has to reset.
                    *seq = segment.seq;
                    syn.clear();
                    syn.extend_from_slice(packet.bytes);
                }
                return false;
            }
            FlowState::Drained(_) | FlowState::Ended(_) => return false,
        };
        let Some(whole) = conn::segment::Segment::parse(packet.payload) else { return false };
        let available = engine.recv_available();
        // All data is acknowledged and only the answer to our FIN is missing: a peer that has forgotten the flow by now
        // says with its RST that it has had everything.
        let last_ack = engine.is_last_ack();
        engine.set_pressure(self.limits.pressure(cx.stats));
        let simple = engine.receive(cx.now, &whole);
        cx.stats.budget_dropped += u64::from(engine.take_starved());
        let more = engine.recv_available() > available;
        let closed = engine.phase() == Phase::Closed
            && (engine.end() == Some(conn::End::Done) || (last_ack && segment.is_rst()));
        let unwanted = more && flow.released;
        if closed {
            self.complete(cx, id);
            return false;
        }
        if unwanted {
            self.abort(cx, id);
            return false;
        }
        self.update(cx, id);
        if more {
            self.tell(id, Kind::Readable);
        }
        self.make_ready(id);
        simple
    }

    fn receive_resting(
        &mut self,
        cx: &mut Context<'_>,
        tuple: Tuple,
        rest: TimeWait,
        packet: &Packet<'_>,
        segment: &Segment,
    ) {
        let beyond = segment.seq.wrapping_sub(rest.rcv_nxt).cast_signed() >= 0;
        // An RST is ignored: it would cut the rest short (RFC 1337).
        if segment.is_rst() {
            return;
        }
        // By the clock of the peer, or by its numbers (RFC 6191, section 2).
        let stamp = conn::segment::Segment::parse(packet.payload).and_then(|syn| syn.timestamp());
        let later = match (rest.stamps, stamp) {
            (Some(stamps), Some(value)) => {
                let ahead = value.wrapping_sub(stamps.recent).cast_signed();
                ahead > 0 || (ahead == 0 && beyond)
            }
            // What the old flow's segments lack tells them from the new one's.
            (None, Some(_)) => true,
            (_, None) => beyond,
        };
        if segment.opens() && later {
            // A new flow whose segments cannot be taken for the old one's (RFC 1122, section 4.2.2.13).
            self.table.wake(tuple);
            cx.stats.time_wait = self.table.resting();
            self.receive_unmatched(cx, tuple, packet, segment);
        } else if segment.end() != segment.seq {
            // A repeated FIN means that our last acknowledgement was lost. Nothing else is answered, so that two resting
            // ends do not talk for ever.
            let numbers = (rest.snd_nxt, rest.rcv_nxt);
            let answer = conn::acknowledgement(cx.now, tuple, numbers, rest.stamps);
            cx.outbox.push(answer, cx.stats);
        }
    }

    fn receive_unmatched(
        &mut self,
        cx: &mut Context<'_>,
        tuple: Tuple,
        packet: &Packet<'_>,
        segment: &Segment,
    ) {
        if segment.is_rst() {
            return;
        }
        if !(segment.opens() && self.listening.contains(tuple.local.into())) {
            Self::answer_reset(cx, packet, segment);
            return;
        }
        if cx.stats.pending >= self.limits.max_pending {
            cx.stats.pending_full += 1;
            return;
        }
        let Ok(()) = self.admit(cx.stats) else {
            Self::answer_reset(cx, packet, segment);
            return;
        };
        let state = FlowState::Held { syn: packet.bytes.to_vec(), seq: segment.seq };
        let deadline = cx.now + self.limits.accept_timeout;
        let id = self.insert(cx, tuple, state, false, deadline);
        self.tell(id, Kind::Incoming);
    }

    /// What a flow's own deadline means depends on how far it is.
    pub(super) fn deadline_passed(&mut self, cx: &mut Context<'_>, id: FlowId) {
        let linger = cx.now + self.limits.linger;
        let Some(flow) = self.flow_mut(id) else { return };
        match &mut flow.state {
            FlowState::Held { syn, .. } => {
                let syn = std::mem::take(syn);
                cx.stats.accept_expired += 1;
                Self::refuse(cx, &syn);
                self.end(cx, id, CloseReason::TimedOut);
            }
            FlowState::Live(_) if !flow.established => self.end(cx, id, CloseReason::TimedOut),
            FlowState::Live(engine) if flow.released => {
                let left = engine.left();
                if left < flow.lingering {
                    flow.lingering = left;
                    flow.deadline = Some(linger);
                } else {
                    self.abort(cx, id);
                }
            }
            _ => flow.deadline = None,
        }
    }
}
