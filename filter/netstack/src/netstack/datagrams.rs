//! The commands for UDP and echo.

use std::net::{IpAddr, SocketAddr};

use super::Netstack;
use crate::{ConnectError, Instant, UdpFlowId};

impl Netstack {
    /// Makes flows of datagrams to a UDP port from now on.
    pub fn udp_listen(&mut self, port: u16) {
        let _ = port;
    }

    /// Answers datagrams to a UDP port that belong to no flow with ICMP port unreachable from now on; live flows stay.
    pub fn udp_unlisten(&mut self, port: u16) {
        let _ = port;
    }

    /// Opens a UDP flow from a free local port. One of our own addresses loops back inside the stack.
    ///
    /// # Errors
    /// When no flow can be made.
    pub fn udp_connect(&mut self, now: Instant, remote: SocketAddr) -> Result<UdpFlowId, ConnectError> {
        let _ = (now, remote);
        Err(ConnectError::NoRoute)
    }

    /// Sends one datagram of 0 to 65,507 bytes. False: it was not taken, because the flow is gone, the payload too long
    /// or the queue full (counted).
    pub fn udp_send(&mut self, now: Instant, flow: UdpFlowId, payload: &[u8]) -> bool {
        let _ = (now, flow, payload);
        false
    }

    /// The next received datagram: whose it is; `out` is replaced by its payload, which may be empty.
    pub fn poll_datagram(&mut self, out: &mut Vec<u8>) -> Option<UdpFlowId> {
        out.clear();
        None
    }

    /// The owner is done with the flow: it is forgotten and no event follows. What `udp_send` took is still sent.
    pub fn udp_release(&mut self, now: Instant, flow: UdpFlowId) {
        let _ = (now, flow);
    }

    /// Sends an ICMP echo request; `Event::Pong` tells of the answer. Without one, nothing is told: the caller knows how
    /// long it wants to wait.
    ///
    /// # Errors
    /// When it cannot be sent: no route, no source address, no unicast address, or too many are unanswered.
    pub fn ping(&mut self, now: Instant, remote: IpAddr, ident: u16, seq: u16) -> Result<(), ConnectError> {
        let _ = (now, remote, ident, seq);
        Err(ConnectError::NoRoute)
    }
}
