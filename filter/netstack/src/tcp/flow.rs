//! One flow: its phase, what its owner was told, and where it waits.

use std::collections::VecDeque;

use bytes::Bytes;

use super::engine::Engine;
use super::segment::Tuple;
use crate::wireguard::PeerId;
use crate::{CloseReason, Instant, Stats};

/// What an open flow holds beside its buffers: the connection, its entries in the tables and queues. `tests/idle.rs` measures it.
pub(super) const FLOW_BYTES: usize = 1024;

pub(super) struct Flow {
    pub(super) generation: u32,
    pub(super) tuple: Tuple,
    pub(super) state: FlowState,
    /// We sent the SYN.
    pub(super) active: bool,
    /// The TCP handshake is complete.
    pub(super) established: bool,
    /// The owner gave the handle back: no events, no reader.
    pub(super) released: bool,
    /// `send` took less than it was given: the owner waits for `Writable`.
    pub(super) send_blocked: bool,
    pub(super) finished_told: bool,
    /// Kinds of events that are queued, one bit each.
    pub(super) queued: u8,
    /// In the ready queue.
    pub(super) ready: bool,
    /// Waits for this peer's session.
    pub(super) parked: Option<PeerId>,
    /// The stack's own deadline: accept, connect or linger timeout, by phase.
    pub(super) deadline: Option<Instant>,
    /// For the linger timeout: bytes not acknowledged when it was last looked at.
    pub(super) lingering: u32,
    /// Where the timer entry is (see `Timers`).
    pub(super) timer: Option<Instant>,
    /// Bytes of the buffer budget that the flow is counted with.
    pub(super) counted: usize,
}

#[expect(clippy::large_enum_variant, reason = "nearly all flows are live; a flow is boxed as a whole")]
pub(super) enum FlowState {
    /// A SYN that the owner was told of. The IP packet is kept: it holds the options.
    Held {
        syn: Vec<u8>,
        seq: u32,
    },
    Live(Engine),
    /// TCP is through; the owner has not read everything yet.
    Drained(VecDeque<Bytes>),
    /// Over; the owner is about to be told.
    Ended(CloseReason),
}

/// Kinds of flow events, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Incoming = 1,
    Connected = 2,
    Readable = 4,
    Writable = 8,
    Finished = 16,
    Closed = 32,
}

impl Flow {
    pub(super) fn new(
        generation: u32,
        tuple: Tuple,
        state: FlowState,
        active: bool,
        deadline: Instant,
    ) -> Self {
        Self {
            generation,
            tuple,
            state,
            active,
            established: false,
            released: false,
            send_blocked: false,
            finished_told: false,
            queued: 0,
            ready: false,
            parked: None,
            deadline: Some(deadline),
            lingering: 0,
            timer: None,
            counted: 0,
        }
    }

    pub(super) fn engine(&self) -> Option<&Engine> {
        match &self.state {
            FlowState::Live(engine) => Some(engine),
            _ => None,
        }
    }

    pub(super) fn engine_mut(&mut self) -> Option<&mut Engine> {
        match &mut self.state {
            FlowState::Live(engine) => Some(engine),
            _ => None,
        }
    }

    /// Counts the memory that the flow holds now.
    pub(super) fn account(&mut self, stats: &mut Stats) {
        let holds = match &self.state {
            FlowState::Live(engine) => FLOW_BYTES + engine.memory(),
            FlowState::Held { syn, .. } => FLOW_BYTES + syn.len(),
            FlowState::Drained(rest) => FLOW_BYTES + rest.iter().map(Bytes::len).sum::<usize>(),
            FlowState::Ended(_) => 0,
        };
        stats.buffer_bytes = stats.buffer_bytes - self.counted + holds;
        self.counted = holds;
    }

    pub(super) fn recv_available(&self) -> usize {
        match &self.state {
            FlowState::Live(engine) => engine.recv_available(),
            FlowState::Drained(rest) => rest.iter().map(Bytes::len).sum(),
            _ => 0,
        }
    }

    /// Counts against `max_pending`: nobody has confirmed yet that the caller exists.
    pub(super) fn is_pending(&self) -> bool {
        !self.active && !self.established && matches!(self.state, FlowState::Held { .. } | FlowState::Live(_))
    }

    /// Room enough to wake the owner for.
    pub(super) fn is_writable(&self) -> bool {
        self.engine().is_some_and(|engine| {
            let room = engine.send_room();
            room > 0 && room >= engine.send_buffer() / 4
        })
    }
}
