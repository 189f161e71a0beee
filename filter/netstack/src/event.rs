//! What the stack tells its owner.

use std::net::SocketAddr;

/// A handle of one TCP flow. It is never used again for another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Something happened. Events of a flow are coalesced: at most one of a kind is outstanding per flow, so the owner
/// reads (or writes) until the stack has no more (or takes no more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A SYN for a listening port. It is held until `accept` or `reject`, and expires by itself (`Closed` follows).
    Incoming {
        /// The new flow.
        flow: FlowId,
        /// The overlay address and port that was called.
        local: SocketAddr,
        /// The caller.
        remote: SocketAddr,
    },
    /// The TCP handshake is complete: SYN|ACK arrived (active open) or our SYN|ACK was acknowledged (passive open).
    Connected {
        /// The flow.
        flow: FlowId,
    },
    /// Bytes arrived.
    Readable {
        /// The flow.
        flow: FlowId,
    },
    /// There is room again (a quarter of the buffer) after `send` filled it or took less than it was given.
    Writable {
        /// The flow.
        flow: FlowId,
    },
    /// The peer's FIN arrived and `recv` has handed out every byte before it.
    Finished {
        /// The flow.
        flow: FlowId,
    },
    /// The flow is over and its id is gone.
    Closed {
        /// The flow.
        flow: FlowId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// RST in answer to our SYN.
    Refused,
    /// RST on a synchronized flow. Bytes not read yet are lost.
    Reset,
    /// No answer: to the SYN, to `Incoming` (by the owner), or no sign of life for the user timeout.
    TimedOut,
    /// ICMP destination unreachable in answer to our SYN.
    Unreachable,
    /// Both FINs are acknowledged.
    Done,
}

/// Why `connect` made no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ConnectError {
    /// No peer has an allowed IP for the destination.
    #[error("no peer has a route to the destination")]
    NoRoute,
    /// The interface has no address of the destination's family.
    #[error("no source address of the destination's family")]
    NoSourceAddress,
    /// The destination is not a unicast address with a port.
    #[error("the destination is not a unicast address with a port")]
    InvalidDestination,
    /// `Limits::max_flows` is reached.
    #[error("too many flows")]
    TooManyFlows,
    /// `Limits::buffer_bytes` is spent.
    #[error("the buffer budget is spent")]
    NoBuffers,
    /// No free port towards this destination was found.
    #[error("no free local port")]
    NoPorts,
}

/// What is in the buffer that `poll_transmit` filled: one UDP datagram, or several for generic segmentation offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to send.
    pub destination: SocketAddr,
    /// `None`: the buffer is one datagram. `Some(n)`: it is several of `n` bytes, the last may be shorter.
    pub segment_size: Option<usize>,
}
