//! What `nexodus.egress` tells `nexodus.connect` at the other end of an internal connection before the
//! first byte of the stream: how opening the overlay connection ended.
//!
//! An Envoy-internal connection counts as connected at once, so without this a dead overlay host would look
//! like a success to Envoy. The greeting is [`Greeting::LEN`] bytes: the [`Outcome`], then the flow's token,
//! by which `nexodus.connect` reports a close that the internal connection itself cannot express.

/// How opening an overlay connection ended. Closed: it ends up in access logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Outcome {
    /// The TCP handshake is done.
    Connected = 0,
    /// The destination answered the SYN with RST.
    Refused = 1,
    /// No answer to the SYN within the netstack's limit, or within Envoy's.
    TimedOut = 2,
    /// ICMP said that the destination cannot be reached.
    Unreachable = 3,
    /// No peer's allowed IPs contain the destination.
    NoRoute = 4,
    /// The network has no overlay address of the destination's family.
    NoSourceAddress = 5,
    /// A limit on flows, ports or buffers is reached.
    Overloaded = 6,
    /// The endpoint carries no `nexodus.destination` metadata, or it is neither `IP:port` nor `name:port`.
    BadDestination = 7,
    /// The network is not running: not started, stopped, or failed.
    NetworkDown = 8,
    /// There was no greeting, or something else in its place. No greeting says this.
    NoGreeting = 9,
    /// The destination is a name that has no address now.
    NotResolved = 10,
}

impl Outcome {
    pub(crate) const ALL: [Outcome; 11] = [
        Outcome::Connected,
        Outcome::Refused,
        Outcome::TimedOut,
        Outcome::Unreachable,
        Outcome::NoRoute,
        Outcome::NoSourceAddress,
        Outcome::Overloaded,
        Outcome::BadDestination,
        Outcome::NetworkDown,
        Outcome::NoGreeting,
        Outcome::NotResolved,
    ];

    /// The name in metrics and on the status page.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Outcome::Connected => "connected",
            Outcome::Refused => "refused",
            Outcome::TimedOut => "timeout",
            Outcome::Unreachable => "unreachable",
            Outcome::NoRoute => "no_peer",
            Outcome::NoSourceAddress => "no_source_address",
            Outcome::Overloaded => "limit",
            Outcome::BadDestination => "bad_destination",
            Outcome::NetworkDown => "network_down",
            Outcome::NoGreeting => "no_greeting",
            Outcome::NotResolved => "name_not_resolved",
        }
    }

    /// The text of `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Outcome::Connected => "",
            Outcome::Refused => "overlay: connection refused by the destination",
            Outcome::TimedOut => "overlay: no answer from the destination",
            Outcome::Unreachable => "overlay: destination unreachable (ICMP)",
            Outcome::NoRoute => "overlay: no peer's allowed IPs contain the destination",
            Outcome::NoSourceAddress => "overlay: this node has no address of the destination's family",
            Outcome::Overloaded => "overlay: this node's limit on connections or buffers is reached",
            Outcome::BadDestination => {
                "overlay: the endpoint's metadata nexodus.destination is missing or neither IP:port nor name:port"
            }
            Outcome::NetworkDown => "overlay: the network is not running on this node",
            Outcome::NoGreeting => {
                "overlay: the endpoint's internal listener is closed, or does not end in nexodus.egress"
            }
            Outcome::NotResolved => "overlay: name not resolved",
        }
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) outcome: Outcome,
    pub(crate) token: u64,
}

impl Greeting {
    pub(crate) const LEN: usize = 1 + size_of::<u64>();

    pub(crate) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.outcome as u8;
        bytes[1..].copy_from_slice(&self.token.to_le_bytes());
        bytes
    }

    /// `None` when the first byte is no [`Outcome`]: the other end is not `nexodus.egress`.
    pub(crate) fn decode(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [outcome, token @ ..] = bytes;
        let outcome = *Outcome::ALL.get(usize::from(outcome))?;
        if outcome == Outcome::NoGreeting {
            return None;
        }
        Some(Self { outcome, token: u64::from_le_bytes(token) })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_survives_the_wire_and_gives_a_reason() {
        for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::NoGreeting) {
            let greeting = Greeting { outcome, token: 0x0123_4567_89ab_cdef };
            assert_eq!(Greeting::decode(greeting.encode()).unwrap(), greeting);
            assert_eq!(outcome.reason().is_empty(), outcome == Outcome::Connected);
        }
    }

    #[test]
    fn a_foreign_first_byte_is_no_greeting() {
        assert_eq!(Greeting::decode([b'H'; Greeting::LEN]), None);
        assert_eq!(Greeting::decode([9; Greeting::LEN]), None);
        assert_eq!(Greeting::decode([11; Greeting::LEN]), None);
    }
}
