//! Egress flows on the network thread: bytes between a flow's queues and the netstack.

use super::{Driver, Owner};
use crate::flow::{Flow, FlowState};
use crate::greeting::Outcome;
use bytes::BytesMut;
use nexodus_netstack::{CloseReason, ConnectError, Event, FlowId, Instant, Netstack};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How long one address of a name may take while another is left: less than the connect timeouts that people set.
const ATTEMPT: Duration = Duration::from_secs(1);

/// The attempts with such a limit, by its end.
pub(super) type Attempts = VecDeque<(Instant, FlowId)>;

/// The network thread's part of a flow.
pub(super) struct Egress {
    flow: Arc<Flow>,
    id: FlowId,
    /// A chunk that the netstack took in part.
    in_hand: BytesMut,
    /// The netstack was told that no byte follows.
    finished: bool,
}

impl Driver {
    /// Serves the flows that Envoy's workers touched.
    pub(super) fn serve_egress(&mut self, now: Instant) {
        self.shard.take_work(&mut self.work);
        while let Some(flow) = self.work.pop_front() {
            if flow.shard() != self.shard.index {
                // It was passed on while somebody had it looked at here.
                self.network.work(&flow);
                continue;
            }
            let state = flow.lock().network_side;
            match state {
                FlowState::New => self.open(now, &flow),
                FlowState::Open(id) => self.serve(now, id),
                FlowState::Gone => {}
            }
        }
    }

    /// Connects to the next of the flow's destinations that can be tried. There are several when it was given a name.
    fn open(&mut self, now: Instant, flow: &Arc<Flow>) {
        let mut state = flow.lock();
        if state.aborted {
            state.network_side = FlowState::Gone;
            return;
        }
        let mut failure = None;
        while let Some(destination) = state.destinations.pop_front() {
            if let Some(shard) = self.elsewhere(destination) {
                state.destinations.push_front(destination);
                // There may have been an attempt here before.
                state.network_side = FlowState::New;
                drop(state);
                self.pass_on(flow, shard);
                return;
            }
            match self.stack.connect(now, destination) {
                Ok(id) => {
                    flow.set_shard(self.shard.index);
                    state.network_side = FlowState::Open(id);
                    if !state.destinations.is_empty() {
                        self.limit_attempt(now, id);
                    }
                    let egress = Egress { flow: flow.clone(), id, in_hand: BytesMut::new(), finished: false };
                    self.owners.insert(id, Owner::Egress(egress));
                    return;
                }
                Err(error) => failure = Some(outcome(error)),
            }
        }
        if let Some(outcome) = failure {
            state.network_side = FlowState::Gone;
            state.outcome = Some(outcome);
            state.wake_worker();
            self.stats.egress_failed += 1;
        }
    }

    /// Leaves a flow, which is not open here, to another thread of the network.
    fn pass_on(&self, flow: &Arc<Flow>, shard: usize) {
        flow.set_shard(shard);
        self.network.work(flow);
    }

    /// Has an attempt given up after a while: another destination is left.
    pub(super) fn limit_attempt(&mut self, now: Instant, id: FlowId) {
        self.attempts.push_back((now + ATTEMPT, id));
    }

    /// Gives up the attempts whose time is over.
    pub(super) fn serve_attempts(&mut self, now: Instant) {
        while let Some((_, id)) = self.attempts.pop_front_if(|(deadline, _)| *deadline <= now) {
            match self.owners.get(&id) {
                Some(Owner::Egress(egress)) if !egress.is_opening() => continue,
                Some(Owner::Egress(_) | Owner::Check(_)) => {}
                Some(Owner::Ingress(_)) | None => continue,
            }
            self.stack.abort(now, id);
            match self.owners.remove(&id) {
                Some(Owner::Egress(egress)) => self.open(now, &egress.flow),
                Some(Owner::Check(check)) => self.start_check(now, check),
                Some(Owner::Ingress(_)) | None => {}
            }
        }
    }

    /// The netstack has ended the flow; its id is gone.
    pub(super) fn egress_closed(&mut self, now: Instant, egress: Egress, reason: CloseReason) {
        self.stats.overlay_resets += u64::from(reason != CloseReason::Done);
        if egress.is_opening() && !egress.flow.lock().destinations.is_empty() {
            self.open(now, &egress.flow);
        } else {
            egress.closed(reason);
        }
    }

    fn serve(&mut self, now: Instant, id: FlowId) {
        let Some(Owner::Egress(egress)) = self.owners.get_mut(&id) else { return };
        if egress.flow.lock().aborted {
            egress.flow.lock().network_side = FlowState::Gone;
            self.owners.remove(&id);
            self.stack.abort(now, id);
            self.stats.resets_out += 1;
            return;
        }
        egress.push(now, &mut self.stack);
        egress.pull(now, &mut self.stack);
        if egress.is_released() {
            egress.flow.lock().network_side = FlowState::Gone;
            self.owners.remove(&id);
            self.stack.release(now, id);
        }
    }

    pub(super) fn egress_event(&mut self, now: Instant, id: FlowId, event: Event) {
        let Some(Owner::Egress(egress)) = self.owners.get_mut(&id) else { return };
        match event {
            Event::Connected { .. } => {
                let mut state = egress.flow.lock();
                state.outcome = Some(Outcome::Connected);
                state.wake_worker();
            }
            Event::Finished { .. } => {
                let mut state = egress.flow.lock();
                state.to_envoy.finish();
                state.wake_worker();
            }
            _ => self.serve(now, id),
        }
    }
}

impl Egress {
    /// Envoy's bytes into the overlay.
    fn push(&mut self, now: Instant, stack: &mut Netstack) {
        loop {
            if self.in_hand.is_empty() {
                let mut state = self.flow.lock();
                self.in_hand = state.to_overlay.pop().unwrap_or_default().into();
                if state.worker_paused && state.to_overlay.is_below_half() {
                    state.wake_worker();
                }
                if self.in_hand.is_empty() {
                    if state.to_overlay.is_finished() && !self.finished {
                        self.finished = true;
                        stack.finish(now, self.id);
                    }
                    return;
                }
            }
            if stack.send_chunk(now, self.id, &mut self.in_hand) == 0 {
                return;
            }
        }
    }

    /// The overlay's bytes towards Envoy, as far as the queue takes them; the rest holds the TCP window closed.
    fn pull(&mut self, now: Instant, stack: &mut Netstack) {
        loop {
            if stack.recv_available(self.id) == 0 {
                return;
            }
            {
                let mut state = self.flow.lock();
                state.network_paused = state.to_envoy.is_full();
                if state.network_paused {
                    return;
                }
            }
            let chunk = stack.recv_chunk(now, self.id);
            let mut state = self.flow.lock();
            state.to_envoy.push(chunk);
            state.wake_worker();
        }
    }

    /// Envoy is done with the connection, and all its bytes are in the netstack.
    fn is_released(&self) -> bool {
        self.finished && self.flow.lock().released
    }

    /// Nothing has answered yet, and Envoy waits.
    fn is_opening(&self) -> bool {
        let state = self.flow.lock();
        state.outcome.is_none() && !state.aborted
    }

    fn closed(self, reason: CloseReason) {
        let mut state = self.flow.lock();
        state.network_side = FlowState::Gone;
        if state.outcome.is_none() {
            state.outcome = Some(not_connected(reason));
        } else {
            state.reset |= reason != CloseReason::Done;
        }
        state.wake_worker();
    }

    /// The network has ended.
    pub(super) fn network_down(self) {
        self.flow.lock().network_down();
    }
}

/// Why a flow that has ended was never open.
pub(super) fn not_connected(reason: CloseReason) -> Outcome {
    match reason {
        CloseReason::Refused | CloseReason::Reset | CloseReason::Done => Outcome::Refused,
        CloseReason::TimedOut => Outcome::TimedOut,
        CloseReason::Unreachable => Outcome::Unreachable,
    }
}

/// Why no flow was made.
pub(super) fn outcome(error: ConnectError) -> Outcome {
    match error {
        ConnectError::NoRoute => Outcome::NoRoute,
        ConnectError::NoSourceAddress => Outcome::NoSourceAddress,
        ConnectError::InvalidDestination => Outcome::BadDestination,
        ConnectError::TooManyFlows | ConnectError::NoBuffers | ConnectError::NoPorts => Outcome::Overloaded,
    }
}
