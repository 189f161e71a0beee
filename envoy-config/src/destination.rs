//! Where a connection or a datagram goes in the overlay.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Problem;
use crate::endpoint::is_host_name;
use crate::value::{self, Shown};

/// An overlay destination: `100.64.0.2:80`, `[fd00::2]:80` or `db.example:80`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// An address.
    Address(SocketAddr),
    /// A host name.
    Name {
        /// The name, as written.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Destination {
    /// The port; never 0 in a parsed destination.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

impl FromStr for Destination {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let bad = || Problem::Destination { value: Shown::new(text) };
        if let Ok(address) = text.parse::<SocketAddr>() {
            value::port(&address.port().to_string())?;
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        if !is_host_name(host) {
            return Err(bad());
        }
        Ok(Self::Name { host: host.to_owned(), port: value::port(port)? })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_read_back_as_they_are_written() {
        for text in ["100.64.0.2:80", "[fd00::2]:80", "db.example:5432", "db:1", "db.example.:1", "_x.y-z:9"]
        {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        assert!(matches!("1.2.3.4:5".parse(), Ok(Destination::Address(_))));
        assert!(matches!("1.2.3.x:5".parse(), Ok(Destination::Name { .. })));
    }

    #[test]
    fn what_is_neither_is_refused_with_a_reason() {
        for text in
            ["", "db", "db:", ":80", "db:x", "a b:80", "999.1.1.1:80", "1.2.3.04:80", "fd00::2:80", "-a:1"]
        {
            text.parse::<Destination>().unwrap_err();
        }
        assert!("db:0".parse::<Destination>().unwrap_err().to_string().contains("is not a port"));
        assert!("1.2.3.4:0".parse::<Destination>().unwrap_err().to_string().contains("is not a port"));
        let error = "a b:80".parse::<Destination>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"a b:80\" is no destination: give address:port, [IPv6 address]:port or name:port"
        );
    }
}
