//! The stack itself.

use std::net::SocketAddr;

use crate::{
    Config, ConfigError, ConnectError, Event, FlowId, Instant, PeerConfig, PeerStatus, Stats, Transmit,
};

/// One WireGuard interface with its TCP/IP stack.
pub struct Netstack {
    stats: Stats,
}

#[expect(
    unused_variables,
    clippy::needless_pass_by_value,
    clippy::needless_pass_by_ref_mut,
    reason = "the interface comes first"
)]
impl Netstack {
    /// A stack without peers.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        Ok(Self { stats: Stats::default() })
    }

    /// Replaces the set of peers. A peer that stays (same public and preshared key) keeps its sessions.
    ///
    /// # Errors
    /// When the list contradicts itself; nothing is changed then.
    pub fn set_peers(&mut self, now: Instant, peers: Vec<PeerConfig>) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Accepts SYNs for a TCP port from now on.
    pub fn listen(&mut self, port: u16) {}

    /// Answers new SYNs for a TCP port with RST from now on; live flows stay.
    pub fn unlisten(&mut self, port: u16) {}

    /// Opens a flow. One of our own addresses loops back inside the stack.
    ///
    /// # Errors
    /// When no flow can be made.
    pub fn connect(&mut self, now: Instant, remote: SocketAddr) -> Result<FlowId, ConnectError> {
        Err(ConnectError::NoRoute)
    }

    /// Answers a held SYN with SYN|ACK.
    pub fn accept(&mut self, now: Instant, flow: FlowId) {}

    /// Answers a held SYN with RST and forgets the flow.
    pub fn reject(&mut self, now: Instant, flow: FlowId) {}

    /// Takes bytes to send. 0: full or not open for sending; `Writable` follows when there is room.
    pub fn send(&mut self, now: Instant, flow: FlowId, data: &[u8]) -> usize {
        0
    }

    /// How many bytes `send` would take.
    #[must_use]
    pub fn send_capacity(&self, flow: FlowId) -> usize {
        0
    }

    /// Bytes taken by `send` that the peer has not acknowledged.
    #[must_use]
    pub fn unsent(&self, flow: FlowId) -> usize {
        0
    }

    /// Hands out received bytes; reading opens the window.
    pub fn recv(&mut self, now: Instant, flow: FlowId, out: &mut [u8]) -> usize {
        0
    }

    /// How many bytes `recv` would hand out.
    #[must_use]
    pub fn recv_available(&self, flow: FlowId) -> usize {
        0
    }

    /// Sends FIN after everything that was taken (half-close).
    pub fn finish(&mut self, now: Instant, flow: FlowId) {}

    /// Sends RST (when synchronized) and forgets the flow: no event follows.
    pub fn abort(&mut self, now: Instant, flow: FlowId) {}

    /// The owner is done with the handle: no event follows. TCP lives on inside until it is through.
    pub fn release(&mut self, now: Instant, flow: FlowId) {}

    /// Takes one UDP datagram.
    pub fn handle_datagram(&mut self, now: Instant, remote: SocketAddr, datagram: &[u8]) {}

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) {}

    /// When to call `handle_timeout` at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Fills `buffer` (cleared first) with one or more datagrams for one destination: at most 64 of one size and
    /// 64 KiB together.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The state of every peer.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        std::iter::empty()
    }
}
