//! Plain counters: what passed, what was dropped and why.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::Instant;

/// Counters since the start, then gauges. Every drop and refusal has a counter of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// UDP datagrams given to the stack.
    pub rx_datagrams: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// UDP datagrams the stack produced.
    pub tx_datagrams: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Inner IP packets that were authenticated.
    pub rx_packets: u64,
    /// Those of them that were opened where the bytes of their stream are kept.
    pub rx_in_place: u64,
    /// Inner IP packets that were sealed.
    pub tx_packets: u64,
    /// Those of them that were sealed from where the bytes of their stream are kept.
    pub tx_in_place: u64,
    /// WireGuard handshakes completed.
    pub handshakes: u64,
    /// Handshake initiations sent, retries included.
    pub handshakes_initiated: u64,
    /// Handshakes given up after 90 s without an answer.
    pub handshakes_expired: u64,
    /// Handshake messages that waited because one of the other kind had just left for that peer.
    pub handshakes_held: u64,
    /// Cookie replies sent because of load.
    pub cookies_sent: u64,

    /// Dropped: not a WireGuard message, or a wrong MAC 1.
    pub bad_datagram: u64,
    /// Dropped: handshake of an unknown public key, or a receiver index of no peer.
    pub unknown_peer: u64,
    /// Dropped: does not decrypt.
    pub decrypt_failed: u64,
    /// Dropped: replayed data counter or handshake timestamp.
    pub replayed: u64,
    /// Dropped: data for no live session, or an answer to no handshake of ours.
    pub no_session: u64,
    /// Dropped: a malformed inner packet.
    pub bad_packet: u64,
    /// Dropped: the inner source address is not an allowed IP of the sending peer.
    pub bad_source: u64,
    /// Dropped: the inner destination is none of our addresses.
    pub not_ours: u64,
    /// Dropped: a malformed fragment (length, or past the largest packet).
    pub fragment: u64,
    /// Dropped: a reassembled packet whose transport checksum is wrong: fragments of different packets were mixed.
    pub bad_checksum: u64,
    /// Dropped: an inner protocol other than TCP, UDP and ICMP, or an ICMP message that concerns nothing here.
    pub unhandled: u64,
    /// Dropped: a bounded queue of outgoing packets was full.
    pub queue_full: u64,
    /// Handed to another stack of the interface.
    pub handed_over: u64,
    /// Dropped: what should have been handed over was not fetched in time.
    pub handover_full: u64,
    /// Dropped: an answer without a route or without a session to its peer.
    pub unroutable: u64,
    /// Not sent: ICMP errors over the rate limit.
    pub icmp_limited: u64,

    /// SYNs not held because `max_pending` was reached (no answer: the caller tries again).
    pub pending_full: u64,
    /// Flows refused because `max_flows` was reached.
    pub too_many_flows: u64,
    /// Flows refused because `buffer_bytes` was spent.
    pub budget_refused: u64,
    /// Dropped: segments whose bytes had no room in `buffer_bytes`. Their senders repeat them.
    pub budget_dropped: u64,
    /// `connect` calls that found no free port.
    pub no_ports: u64,
    /// SYNs that nobody accepted or rejected in time.
    pub accept_expired: u64,
    /// TIME_WAIT tuples forgotten early because `max_time_wait` was reached.
    pub time_wait_evicted: u64,
    /// Connections opened from a tuple that was in TIME_WAIT.
    pub time_wait_reused: u64,
    /// RST segments for a closed port, and for flows that are unknown, refused or aborted. Not counted: what answers a wrong
    /// acknowledgement while a flow opens.
    pub rst_sent: u64,
    /// Echo requests answered.
    pub echo_replies: u64,
    /// ICMP port unreachable messages sent.
    pub unreachable_sent: u64,
    /// Flows opened by `connect`.
    pub flows_connected: u64,
    /// Flows opened by `accept`.
    pub flows_accepted: u64,

    /// Fragments sent.
    pub fragments_sent: u64,
    /// Fragments received.
    pub fragments_received: u64,
    /// Packets put together from fragments.
    pub reassembled: u64,
    /// Dropped: packets whose missing fragments did not come in time.
    pub reassembly_timeout: u64,
    /// Dropped: packets (or single fragments) without room in `reassembly_bytes`, or in too many pieces.
    pub reassembly_full: u64,
    /// Dropped: packets whose fragments overlap or contradict each other (RFC 5722).
    pub reassembly_overlap: u64,

    /// UDP datagrams that reached a flow of ours.
    pub udp_received: u64,
    /// UDP datagrams taken by `udp_send`.
    pub udp_sent: u64,
    /// UDP flows opened by `udp_connect`.
    pub udp_flows_connected: u64,
    /// UDP flows opened by a first datagram to a listening port.
    pub udp_flows_accepted: u64,
    /// UDP flows refused because `max_udp_flows` was reached.
    pub udp_too_many_flows: u64,
    /// UDP flows that ended because nothing went either way.
    pub udp_idle: u64,
    /// UDP flows that ended because of an ICMP message.
    pub udp_unreachable: u64,
    /// Dropped: received datagrams, because those before them were not polled.
    pub udp_receive_full: u64,
    /// Dropped: received datagrams of flows that ended before they were polled.
    pub udp_unread: u64,
    /// Dropped: datagrams given to `udp_send` while too many waited to be sent.
    pub udp_send_full: u64,
    /// Dropped: datagrams that waited for a session with their peer and had to make room.
    pub session_wait_full: u64,
    /// Dropped: datagrams that waited for a session with their peer that did not come in time.
    pub session_wait_expired: u64,
    /// Echo requests sent by `ping`.
    pub pings_sent: u64,
    /// Answers to them.
    pub pongs_received: u64,

    /// Gauge: flows.
    pub flows: usize,
    /// Gauge: SYNs held, and passive opens not yet acknowledged.
    pub pending: usize,
    /// Gauge: tuples in TIME_WAIT.
    pub time_wait: usize,
    /// Gauge: bytes that TCP flows and their buffers hold.
    pub buffer_bytes: usize,
    /// Gauge: UDP flows.
    pub udp_flows: usize,
    /// Gauge: bytes of fragments that wait for the rest of their packets.
    pub reassembly_bytes: usize,
}

/// The state of one peer, for status output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer's public key.
    pub public_key: [u8; 32],
    /// Where its datagrams go now.
    pub endpoint: Option<SocketAddr>,
    /// Its allowed IPs.
    pub allowed_ips: Vec<IpNet>,
    /// Age of the newest handshake at the last instant the stack was told.
    pub latest_handshake: Option<Duration>,
    /// Instant of the newest handshake.
    pub latest_handshake_at: Option<Instant>,
    /// Bytes of UDP datagrams sent to it.
    pub tx_bytes: u64,
    /// Bytes of authenticated UDP datagrams received from it.
    pub rx_bytes: u64,
    /// Seconds between its keepalives; `None` and 0 are none.
    pub persistent_keepalive: Option<u16>,
}
