//! What a network tells about itself: the admin page `/nexodus/status` and the module's metrics.

use crate::driver::UdpStats;
use crate::failures::FailureCounts;
use crate::greeting::Outcome;
use nexodus_netstack::{Local, Stats};
use serde_json::{Map, Value, json};

/// What a network thread has published, at most a second ago.
#[derive(Clone, Default)]
pub(crate) struct ShardStatus {
    pub(crate) listeners: Vec<Local>,
    pub(crate) udp_listeners: Vec<Local>,
    pub(crate) peers: Vec<PeerStatus>,
    pub(crate) counts: Counts,
}

/// What a network is, and how it is.
#[derive(Clone, Default)]
pub(crate) struct NetworkStatus {
    pub(crate) public_key: String,
    pub(crate) addresses: Vec<String>,
    /// The WireGuard UDP port; 0 before the socket is open.
    pub(crate) listen_port: u16,
    pub(crate) listeners: Vec<Local>,
    pub(crate) udp_listeners: Vec<Local>,
    pub(crate) peers: Vec<PeerStatus>,
    /// Of each of its threads, and of Envoy's: their sum counts.
    pub(crate) counts: Vec<Counts>,
    /// The last health check of each endpoint that has them.
    pub(crate) health_checks: Vec<Value>,
    /// What hinders some of the peers: endpoints whose names are not found.
    pub(crate) unresolved: Vec<String>,
    /// Bytes in a packet inside the tunnel.
    pub(crate) mtu: u16,
    /// Why the network is not running.
    pub(crate) failure: Option<String>,
}

#[derive(Clone)]
pub(crate) struct PeerStatus {
    pub(crate) public_key: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) allowed_ips: Vec<String>,
    /// Unix seconds.
    pub(crate) latest_handshake: Option<u64>,
    pub(crate) transmitted: u64,
    pub(crate) received: u64,
    /// Seconds; 0 for none.
    pub(crate) persistent_keepalive: u16,
}

/// The netstack's numbers, and those of the network thread around it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) stack: Stats,
    pub(crate) thread: ThreadStats,
    pub(crate) udp: UdpStats,
    /// Datagrams for UDP ingress listeners that did not come out of the overlay.
    pub(crate) udp_foreign: u64,
    /// Clients' datagrams that were not handed to the network thread: its queue is full, it has ended, or they cannot be answered.
    pub(crate) udp_inbound_refused: u64,
    /// Destinations of static configurations whose names were not looked up: too many waited for that.
    pub(crate) names_refused: u64,
    /// Health checks of overlay destinations that ended.
    pub(crate) health_checks: u64,
    /// Those of them that found no destination that answers.
    pub(crate) health_checks_failed: u64,
    pub(crate) failures: FailureCounts,
    /// Requests to ping over the bound.
    pub(crate) pings_refused: u64,
}

/// What the network thread counts itself.
#[derive(Clone, Copy, Default)]
pub(crate) struct ThreadStats {
    /// Dropped: what another thread of the network should have done and had no room for.
    pub(crate) handover_refused: u64,
    /// Waits for work that ended.
    pub(crate) wakeups: u64,
    /// Times a worker ran it instead.
    pub(crate) visits: u64,
    /// System calls that received datagrams.
    pub(crate) udp_receives: u64,
    /// System calls that sent datagrams.
    pub(crate) udp_sends: u64,
    /// Batches of datagrams that the system refused to send.
    pub(crate) udp_send_errors: u64,
    /// Overlay connections refused because Envoy's listener did not take them.
    pub(crate) ingress_refused: u64,
    /// Egress connections for which no flow could be made.
    pub(crate) egress_failed: u64,
    /// Flows that the overlay ended other than by both sides finishing: refused, reset, timed out, unreachable.
    pub(crate) overlay_resets: u64,
    /// Aborts in Envoy passed on to the overlay as RST.
    pub(crate) resets_out: u64,
}

/// A number of [`Counts`] under its metric name.
type Named = (&'static str, fn(&Counts) -> u64);

/// Every counter, in the order of the status page. Closed: Envoy takes no new metric after the configuration.
pub(crate) const COUNTERS: &[Named] = &[
    ("rx_datagrams", |c| c.stack.rx_datagrams),
    ("rx_bytes", |c| c.stack.rx_bytes),
    ("tx_datagrams", |c| c.stack.tx_datagrams),
    ("tx_bytes", |c| c.stack.tx_bytes),
    ("rx_packets", |c| c.stack.rx_packets),
    ("rx_in_place", |c| c.stack.rx_in_place),
    ("tx_packets", |c| c.stack.tx_packets),
    ("tx_in_place", |c| c.stack.tx_in_place),
    ("handshakes", |c| c.stack.handshakes),
    ("handshakes_initiated", |c| c.stack.handshakes_initiated),
    ("handshakes_expired", |c| c.stack.handshakes_expired),
    ("handshakes_held", |c| c.stack.handshakes_held),
    ("cookies_sent", |c| c.stack.cookies_sent),
    ("drop_bad_datagram", |c| c.stack.bad_datagram),
    ("drop_unknown_peer", |c| c.stack.unknown_peer),
    ("drop_decrypt_failed", |c| c.stack.decrypt_failed),
    ("drop_replayed", |c| c.stack.replayed),
    ("drop_no_session", |c| c.stack.no_session),
    ("drop_bad_packet", |c| c.stack.bad_packet),
    ("drop_bad_source", |c| c.stack.bad_source),
    ("drop_not_ours", |c| c.stack.not_ours),
    ("drop_fragment", |c| c.stack.fragment),
    ("drop_unhandled", |c| c.stack.unhandled),
    ("drop_queue_full", |c| c.stack.queue_full),
    ("drop_unroutable", |c| c.stack.unroutable),
    ("drop_icmp_limited", |c| c.stack.icmp_limited),
    ("refused_pending_full", |c| c.stack.pending_full),
    ("refused_too_many_flows", |c| c.stack.too_many_flows),
    ("refused_budget", |c| c.stack.budget_refused),
    ("drop_budget", |c| c.stack.budget_dropped),
    ("refused_no_ports", |c| c.stack.no_ports),
    ("refused_accept_expired", |c| c.stack.accept_expired),
    ("time_wait_evicted", |c| c.stack.time_wait_evicted),
    ("time_wait_reused", |c| c.stack.time_wait_reused),
    ("rst_sent", |c| c.stack.rst_sent),
    ("echo_replies", |c| c.stack.echo_replies),
    ("unreachable_sent", |c| c.stack.unreachable_sent),
    ("flows_connected", |c| c.stack.flows_connected),
    ("flows_accepted", |c| c.stack.flows_accepted),
    ("fragments_sent", |c| c.stack.fragments_sent),
    ("fragments_received", |c| c.stack.fragments_received),
    ("reassembled", |c| c.stack.reassembled),
    ("drop_reassembly_timeout", |c| c.stack.reassembly_timeout),
    ("drop_reassembly_full", |c| c.stack.reassembly_full),
    ("drop_reassembly_overlap", |c| c.stack.reassembly_overlap),
    ("drop_bad_checksum", |c| c.stack.bad_checksum),
    ("udp_received", |c| c.stack.udp_received),
    ("udp_sent", |c| c.stack.udp_sent),
    ("udp_flows_connected", |c| c.stack.udp_flows_connected),
    ("udp_flows_accepted", |c| c.stack.udp_flows_accepted),
    ("refused_too_many_udp_flows", |c| c.stack.udp_too_many_flows),
    ("udp_idle", |c| c.stack.udp_idle),
    ("udp_unreachable", |c| c.stack.udp_unreachable),
    ("drop_udp_receive_full", |c| c.stack.udp_receive_full),
    ("drop_udp_unread", |c| c.stack.udp_unread),
    ("drop_udp_send_full", |c| c.stack.udp_send_full),
    ("drop_session_wait_full", |c| c.stack.session_wait_full),
    ("drop_session_wait_expired", |c| c.stack.session_wait_expired),
    ("pings_sent", |c| c.stack.pings_sent),
    ("pongs_received", |c| c.stack.pongs_received),
    ("handed_over", |c| c.stack.handed_over),
    ("drop_handover_full", |c| c.stack.handover_full + c.thread.handover_refused),
    ("wakeups", |c| c.thread.wakeups),
    ("visits", |c| c.thread.visits),
    ("udp_receives", |c| c.thread.udp_receives),
    ("udp_sends", |c| c.thread.udp_sends),
    ("udp_send_errors", |c| c.thread.udp_send_errors),
    ("ingress_refused", |c| c.thread.ingress_refused),
    ("egress_failed", |c| c.thread.egress_failed),
    ("overlay_resets", |c| c.thread.overlay_resets),
    ("resets_out", |c| c.thread.resets_out),
    ("connect_failed_refused", |c| c.failures.attempts(Outcome::Refused)),
    ("connect_failed_timeout", |c| c.failures.attempts(Outcome::TimedOut)),
    ("connect_failed_unreachable", |c| c.failures.attempts(Outcome::Unreachable)),
    ("connect_failed_no_peer", |c| c.failures.attempts(Outcome::NoRoute)),
    ("connect_failed_no_source_address", |c| c.failures.attempts(Outcome::NoSourceAddress)),
    ("connect_failed_limit", |c| c.failures.attempts(Outcome::Overloaded)),
    ("connect_failed_bad_destination", |c| c.failures.attempts(Outcome::BadDestination)),
    ("connect_failed_network_down", |c| c.failures.attempts(Outcome::NetworkDown)),
    ("connect_failed_no_greeting", |c| c.failures.attempts(Outcome::NoGreeting)),
    ("connect_failed_name_not_resolved", |c| c.failures.attempts(Outcome::NotResolved)),
    ("clients_deadline", |c| c.failures.deadline),
    ("clients_unserved", |c| c.failures.unserved),
    ("health_checks", |c| c.health_checks),
    ("health_checks_failed", |c| c.health_checks_failed),
    ("udp_refused", |c| c.udp.refused),
    ("udp_not_delivered", |c| c.udp.not_delivered),
    ("udp_socket_errors", |c| c.udp.socket_errors),
    ("udp_direct_full", |c| c.udp.direct_full),
    ("udp_foreign", |c| c.udp_foreign),
    ("drop_udp_inbound", |c| c.udp_inbound_refused),
    ("names_refused", |c| c.names_refused),
    ("pings_refused", |c| c.pings_refused),
];

/// Every gauge.
pub(crate) const GAUGES: &[Named] = &[
    ("flows", |c| c.stack.flows as u64),
    ("pending", |c| c.stack.pending as u64),
    ("time_wait", |c| c.stack.time_wait as u64),
    ("buffer_bytes", |c| c.stack.buffer_bytes as u64),
    ("udp_flows", |c| c.stack.udp_flows as u64),
    ("udp_direct", |c| c.udp.direct as u64),
    ("reassembly_bytes", |c| c.stack.reassembly_bytes as u64),
];

impl NetworkStatus {
    /// A number of the whole network.
    pub(crate) fn sum(&self, number: fn(&Counts) -> u64) -> u64 {
        self.counts.iter().map(number).sum()
    }

    pub(crate) fn to_json(&self, name: &str, running: bool) -> Value {
        let peers: Vec<Value> = self
            .peers
            .iter()
            .map(|peer| {
                json!({
                    "public_key": peer.public_key,
                    "endpoint": peer.endpoint,
                    "allowed_ips": peer.allowed_ips,
                    "latest_handshake": peer.latest_handshake,
                    "transmitted_bytes": peer.transmitted,
                    "received_bytes": peer.received,
                    "persistent_keepalive": peer.persistent_keepalive,
                })
            })
            .collect();
        let numbers: Map<String, Value> = COUNTERS
            .iter()
            .chain(GAUGES)
            .map(|(name, number)| ((*name).to_owned(), self.sum(*number).into()))
            .collect();
        json!({
            "name": name,
            "running": running,
            "failure": self.failure,
            "unresolved": self.unresolved,
            "mtu": self.mtu,
            "public_key": self.public_key,
            "addresses": self.addresses,
            "listen_port": self.listen_port,
            "listening_tcp": listening(&self.listeners),
            "listening_udp": listening(&self.udp_listeners),
            "health_checks": self.health_checks,
            "peers": peers,
            "numbers": numbers,
        })
    }
}

/// A port of all own addresses is a number, one of a single address a text such as `100.64.0.1:443`.
fn listening(locals: &[Local]) -> Vec<Value> {
    let shown =
        |local: &Local| if local.address.is_none() { local.port.into() } else { local.to_string().into() };
    locals.iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failures::Failures;

    #[test]
    fn every_reason_of_a_failed_attempt_has_a_counter_of_its_name() {
        for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Connected) {
            let failures = Failures::default();
            failures.count(outcome);
            let counts = Counts { failures: failures.counts(), ..Counts::default() };
            let counted: Vec<_> =
                COUNTERS.iter().filter(|(_, count)| count(&counts) > 0).map(|(name, _)| *name).collect();
            assert_eq!(counted, [format!("connect_failed_{}", outcome.label())]);
        }
    }
}
