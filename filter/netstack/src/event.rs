//! What the stack tells its owner.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A handle of one TCP flow. It is never used again for another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A handle of one UDP flow: the datagrams between one local and one remote address and port. It is never used again
/// for another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UdpFlowId {
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
    /// The first datagram from a new remote address and port to a listening UDP port made a flow. `poll_datagram` hands
    /// out its datagrams only after this was told.
    UdpIncoming {
        /// The new flow.
        flow: UdpFlowId,
        /// The overlay address and port that was called.
        local: SocketAddr,
        /// The caller.
        remote: SocketAddr,
    },
    /// The UDP flow is over and its id is gone, with the datagrams that were not polled yet.
    UdpClosed {
        /// The flow.
        flow: UdpFlowId,
        /// Why.
        reason: UdpCloseReason,
    },
    /// The answer to a `ping`.
    Pong {
        /// Who was asked and has answered.
        remote: IpAddr,
        /// The identifier given to `ping`.
        ident: u16,
        /// The sequence number given to `ping`.
        seq: u16,
        /// The time since `ping` was called; a WireGuard handshake that had to come first is in it.
        round_trip: Duration,
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

/// Why a UDP flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UdpCloseReason {
    /// No datagram went either way for `Limits::udp_idle`.
    Idle,
    /// ICMP destination unreachable (RFC 792 type 3, RFC 4443 type 1) in answer to a datagram of the flow.
    Unreachable,
    /// The owner called `udp_release`. No event tells that; the reason is here for owners who log why a flow ended.
    Released,
}

/// Why `connect`, `udp_connect` or `ping` failed.
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
    /// `Limits::max_flows` or `Limits::max_udp_flows` is reached, or too many echo requests wait for their answers.
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
