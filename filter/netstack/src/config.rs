//! What a stack is made from.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::Stats;
use crate::conn::Pressure;

/// The smallest tunnel MTU: IPv6 asks for 1280 bytes on every link (RFC 8200, section 5).
pub const MIN_MTU: u16 = 1280;
/// The largest tunnel MTU: a WireGuard data message adds 32 bytes and has to fit into one UDP datagram.
pub const MAX_MTU: u16 = 65_475;

/// Which part of an interface's work a stack does. A node with many peers has several stacks with one key and the same addresses, each
/// run by a thread of its own: every peer belongs to one of them, with its sessions and its TCP flows. What is not TCP is the
/// first one's. [`Handover`](crate::Handover) is what they give to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// This stack's number, from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

/// Identity and limits of one WireGuard interface. It has no `Debug`, because it holds the private key.
#[derive(Clone)]
pub struct Config {
    /// The interface's Curve25519 private key.
    pub private_key: [u8; 32],
    /// The interface's overlay addresses. The prefix lengths only help to choose a source address.
    pub addresses: Vec<IpNet>,
    /// Largest inner IP packet, [`MIN_MTU`] to [`MAX_MTU`] bytes; the TCP MSS follows from it.
    pub mtu: u16,
    /// Bounds of tables and buffers.
    pub limits: Limits,
    /// Its part, when the interface has several stacks.
    pub shard: Shard,
    /// Seeds initial sequence numbers, ports and hash tables. Take it from the operating system's random source.
    pub seed: u64,
}

/// Bounds of tables, buffers and waiting times. Reaching one refuses the new thing and counts it in
/// [`Stats`](crate::Stats); what lives already is never harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows with a handle or a TCP state machine (TIME_WAIT is not counted: it holds no buffers).
    pub max_flows: usize,
    /// SYNs waiting for accept or reject, plus passive opens whose SYN|ACK is not answered yet.
    pub max_pending: usize,
    /// Tuples in TIME_WAIT; past it the oldest is forgotten early.
    pub max_time_wait: usize,
    /// Bytes that TCP flows and their buffers may hold together. From three quarters of it on a flow is given no more than
    /// 16 KiB each way; what had been promised to its peer before then still has room, until all of it is spent.
    pub buffer_bytes: usize,
    /// Largest send buffer of one flow in bytes. It grows with the congestion window.
    pub flow_send_buffer: usize,
    /// Largest receive buffer of one flow in bytes, and so its largest window. It grows with what its reader takes.
    pub flow_recv_buffer: usize,
    /// How long an active or passive open may take. Owners usually give up earlier.
    pub connect_timeout: Duration,
    /// How long a SYN waits for accept or reject before it is answered with RST.
    pub accept_timeout: Duration,
    /// An idle flow asks its peer for a sign of life after this time.
    pub keepalive: Duration,
    /// A flow ends when something waits for an answer for this time and none makes progress (RFC 5482). An idle flow asks after
    /// `keepalive`, so a peer that has vanished is noticed after both together.
    pub user_timeout: Duration,
    /// A released flow that makes no progress is aborted after this time.
    pub linger: Duration,
    /// UDP flows, of both directions together.
    pub max_udp_flows: usize,
    /// A UDP flow ends when no datagram went either way for this time.
    pub udp_idle: Duration,
    /// Bytes of fragments (and of their bookkeeping) that wait for the rest of their packets.
    pub reassembly_bytes: usize,
}

impl Limits {
    pub(crate) fn pressure(&self, stats: &Stats) -> Pressure {
        if stats.buffer_bytes >= self.buffer_bytes {
            Pressure::Full
        } else if stats.buffer_bytes >= self.buffer_bytes / 4 * 3 {
            Pressure::High
        } else {
            Pressure::None
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_flows: 65_536,
            max_pending: 1024,
            max_time_wait: 65_536,
            buffer_bytes: 1 << 30,
            // 320 Mbit/s over 100 ms.
            flow_send_buffer: 4 << 20,
            flow_recv_buffer: 4 << 20,
            connect_timeout: Duration::from_secs(20),
            accept_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(60),
            user_timeout: Duration::from_secs(200),
            linger: Duration::from_secs(60),
            max_udp_flows: 16_384,
            udp_idle: Duration::from_secs(60),
            reassembly_bytes: 4 << 20,
        }
    }
}

/// One WireGuard peer. It has no `Debug`, because it may hold a preshared key.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// The peer's Curve25519 public key; it names the peer.
    pub public_key: [u8; 32],
    /// Optional preshared key, mixed into every handshake.
    pub preshared_key: Option<[u8; 32]>,
    /// Where to send the first datagram. Afterwards the peer's last authenticated source address counts (roaming).
    pub endpoint: Option<SocketAddr>,
    /// Overlay networks behind the peer: the way out, and the only accepted source addresses.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives that are sent without traffic too. `None` and 0 switch it off.
    pub persistent_keepalive: Option<u16>,
    /// The stack it belongs to ([`Shard::index`]); always the same while the peer is there.
    pub shard: usize,
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Choose an MTU from [`MIN_MTU`] to [`MAX_MTU`].
    #[error("MTU {0} is out of range {MIN_MTU}-{MAX_MTU}")]
    Mtu(u16),
    /// Give the interface at least one address.
    #[error("the interface has no address")]
    NoAddress,
    /// An interface address has to be a unicast address.
    #[error("{0} is not a unicast address")]
    Address(std::net::IpAddr),
    /// Make the named limit larger.
    #[error("limit {0} is too small")]
    Limit(&'static str),
    /// A public key stands in two peers of the list (index of the second).
    #[error("peer {0} has the public key of an earlier peer")]
    DuplicatePeer(usize),
    /// A peer has the interface's own public key (index of the peer).
    #[error("peer {0} has the public key of the interface itself")]
    OwnKey(usize),
    /// More peers than receiver indices can tell apart (2^24).
    #[error("too many peers: {0}")]
    TooManyPeers(usize),
    /// A stack, or the stack of a peer, that the interface does not have.
    #[error("there is no stack {index} among {count}")]
    NoShard {
        /// Its number.
        index: usize,
        /// How many there are, at most 2^16.
        count: usize,
    },
}
