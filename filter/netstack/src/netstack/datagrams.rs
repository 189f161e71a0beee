//! The commands for UDP and echo.

use std::net::{IpAddr, SocketAddr};

use super::{Netstack, Route};
use crate::ip::{self, icmp};
use crate::udp::{self, MAX_PAYLOAD};
use crate::{ConnectError, Instant, Local, UdpFlowId};

impl Netstack {
    /// Makes flows of datagrams to a UDP port from now on, at all own addresses (a port) or at one (an address and port).
    pub fn udp_listen(&mut self, local: impl Into<Local>) {
        self.udp.listen(local.into());
    }

    /// Answers datagrams to a UDP port that belong to no flow with ICMP port unreachable from now on; live flows stay.
    pub fn udp_unlisten(&mut self, local: impl Into<Local>) {
        self.udp.unlisten(local.into());
    }

    /// Opens a UDP flow from a free local port. One of our own addresses loops back inside the stack.
    ///
    /// # Errors
    /// When no flow can be made.
    pub fn udp_connect(&mut self, now: Instant, remote: SocketAddr) -> Result<UdpFlowId, ConnectError> {
        self.advance(now);
        if remote.port() == 0 {
            return Err(ConnectError::InvalidDestination);
        }
        let local = self.local_for(remote.ip())?;
        self.udp.connect(self.now, local, remote, &mut self.stats)
    }

    /// Sends one datagram of 0 to 65,507 bytes. False: it was not taken, because the flow is gone, the payload too long
    /// or the queue full (counted); nothing tells of room, a datagram may always be lost.
    pub fn udp_send(&mut self, now: Instant, flow: UdpFlowId, payload: &[u8]) -> bool {
        self.advance(now);
        let Some(tuple) = self.udp.tuple(flow).filter(|_| payload.len() <= MAX_PAYLOAD) else { return false };
        if self.datagrams.is_full() {
            self.stats.udp_send_full += 1;
            return false;
        }
        self.stats.udp_sent += 1;
        self.udp.touch(self.now, flow);
        self.datagrams.push(udp::compose(tuple, payload), &mut self.stats)
    }

    /// The next received datagram: whose it is; `out` is replaced by its payload, which may be empty. Call until `None`
    /// after the events: a flow's first datagram follows its `UdpIncoming`.
    pub fn poll_datagram(&mut self, out: &mut Vec<u8>) -> Option<UdpFlowId> {
        self.udp.poll(out, &mut self.stats)
    }

    /// The owner is done with the flow: it is forgotten and no event follows. What `udp_send` took is still sent.
    pub fn udp_release(&mut self, now: Instant, flow: UdpFlowId) {
        self.advance(now);
        self.udp.release(flow, &mut self.stats);
    }

    /// Sends an ICMP echo request; `Event::Pong` tells of the answer. Without one, nothing is told: the caller knows how
    /// long it wants to wait. At most 256 are unanswered; after 60 s they do not count any more.
    ///
    /// # Errors
    /// When it cannot be sent: no route, no source address, no unicast address, or too many are unanswered.
    pub fn ping(&mut self, now: Instant, remote: IpAddr, ident: u16, seq: u16) -> Result<(), ConnectError> {
        self.advance(now);
        let local = self.local_for(remote)?;
        if self.datagrams.is_full() || !self.pings.ask(self.now, remote, ident, seq) {
            return Err(ConnectError::TooManyFlows);
        }
        self.stats.pings_sent += 1;
        self.datagrams.push(icmp::echo_request(local, remote, ident, seq), &mut self.stats);
        Ok(())
    }

    /// Forgets an echo request: an answer that comes later is none, and its place is free.
    pub fn forget_ping(&mut self, remote: IpAddr, ident: u16, seq: u16) {
        self.pings.forget(remote, ident, seq);
    }

    /// The address of ours that talks to `remote`.
    pub(super) fn local_for(&self, remote: IpAddr) -> Result<IpAddr, ConnectError> {
        if !ip::is_host(remote) {
            return Err(ConnectError::InvalidDestination);
        }
        match self.route(remote).ok_or(ConnectError::NoRoute)? {
            Route::Own => Ok(remote),
            Route::Peer(_) | Route::Elsewhere(_) => {
                self.source_for(remote).ok_or(ConnectError::NoSourceAddress)
            }
        }
    }
}
