//! Where a peer is reached from outside the tunnel.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::Problem;
use crate::value::{self, Shown};

/// A peer's UDP endpoint. This crate resolves nothing: whoever loads a network resolves the hosts in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address: `192.0.2.1:51820` or `[2001:db8::1]:51820`.
    Address(SocketAddr),
    /// A host name, possible in a wg-quick file only.
    Host {
        /// The name, as written.
        host: String,
        /// The UDP port.
        port: u16,
    },
}

impl FromStr for Endpoint {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let bad = |reason| Problem::Endpoint { value: Shown::new(text), reason };
        if let Ok(address) = text.parse::<SocketAddr>() {
            value::endpoint_address(address)?;
            return Ok(Self::Address(address));
        }
        if text.starts_with('[') {
            return Err(bad("is not [IPv6 address]:port"));
        }
        if text.parse::<Ipv6Addr>().is_ok() || text.matches(':').count() > 1 {
            return Err(bad("is an IPv6 address without brackets: write [address]:port"));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("has no port: write host:port"))?;
        let port = value::port(port)?;
        if is_numeric(host) {
            return Err(bad("is neither an IPv4 address nor a host name"));
        }
        if !is_host_name(host) {
            return Err(bad(
                "is not a host name (letters, digits, `-`, `_` and `.`, at most 253 characters)",
            ));
        }
        Ok(Self::Host { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

/// Whether this can be the name of a host: letters, digits, `-`, `_` and `.`, at most 253 characters (RFC 1123, section 2.1,
/// and `_`, which people use). What looks like an IPv4 address is none.
#[must_use]
pub fn is_host_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    name.len() <= 253 && name.split('.').all(is_label) && !is_numeric(name)
}

fn is_numeric(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}
