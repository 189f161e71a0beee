//! The bounds of a configuration, and the bounds a configuration sets.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Problem;

/// The largest configuration of one extension, in bytes of JSON.
pub const MAX_JSON_BYTES: usize = 8 << 20;
/// The largest wg-quick file, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// Networks in one tunnel configuration.
pub const MAX_NETWORKS: usize = 64;
/// Addresses of one network.
pub const MAX_ADDRESSES: usize = 64;
/// Peers of one network.
pub const MAX_PEERS: usize = 10_000;
/// Allowed IPs of one peer.
pub const MAX_ALLOWED_IPS: usize = 4096;
/// A Unix socket's path: `sun_path` has 108 bytes, the last is the terminating NUL.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

const MAX_THREADS: usize = 64;
const MAX_FLOWS: usize = 1 << 20;
const MIN_BUFFER_BYTES: usize = 1 << 20;
const MAX_BUFFER_BYTES: usize = 1 << 40;
const MIN_UDP_IDLE_MS: usize = 100;
const MAX_UDP_IDLE_MS: usize = 3_600_000;

/// What a network may use at most. A flow that would pass a limit is refused and counted. Several threads share the bounds of
/// TCP: each has its part of them for the peers it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// TCP flows at one time, from 1 to 1,048,576.
    pub max_flows: usize,
    /// Bytes in all TCP buffers together, from 1 MiB to 1 TiB.
    #[serde(deserialize_with = "large_number")]
    pub buffer_bytes: usize,
    /// UDP flows at one time, of both directions together, from 1 to 1,048,576.
    pub max_udp_flows: usize,
    /// A UDP flow ends when no datagram went either way for this time: milliseconds, from 100 to 3,600,000. As
    /// `udp_proxy`'s `idle_timeout` should be.
    pub udp_idle_ms: usize,
    /// Threads that encrypt and decrypt, from 1 to 64. Each has some of the peers.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_flows: 65_536,
            buffer_bytes: 1 << 30,
            max_udp_flows: 16_384,
            udp_idle_ms: 60_000,
            threads: 1,
        }
    }
}

impl Limits {
    pub(crate) fn check(&self) -> Result<(), (&'static str, Problem)> {
        range("max_flows", self.max_flows, 1, MAX_FLOWS)?;
        range("buffer_bytes", self.buffer_bytes, MIN_BUFFER_BYTES, MAX_BUFFER_BYTES)?;
        range("max_udp_flows", self.max_udp_flows, 1, MAX_FLOWS)?;
        range("udp_idle_ms", self.udp_idle_ms, MIN_UDP_IDLE_MS, MAX_UDP_IDLE_MS)?;
        range("threads", self.threads, 1, MAX_THREADS)
    }

    /// `udp_idle_ms` as a duration.
    #[must_use]
    pub const fn udp_idle(&self) -> Duration {
        Duration::from_millis(self.udp_idle_ms as u64)
    }
}

/// A number, or its digits as text: Envoy turns a number above 2,147,483,647 in a YAML file into text.
fn large_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    struct LargeNumber;
    impl Visitor<'_> for LargeNumber {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<usize, E> {
            usize::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<usize, E> {
            text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_any(LargeNumber)
}

fn range(
    name: &'static str,
    value: usize,
    minimum: usize,
    maximum: usize,
) -> Result<(), (&'static str, Problem)> {
    if (minimum..=maximum).contains(&value) {
        Ok(())
    } else {
        Err((name, Problem::Limit { value, minimum, maximum }))
    }
}
