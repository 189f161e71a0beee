//! Proxy rules: `protocol:port:host:destination_port`, for example `tcp:443:10.10.100.152:8443`, and after it options, for
//! example `,bind=127.0.0.1,weight=2`.
//!
//! The grammar and its error texts are upstream's (nexodus `nexd proxy`), including what Go's `strconv.Atoi` and
//! `net.SplitHostPort` accept and say, because scripts and people know them. One text differs: upstream says
//! `out of range 0-65535` while it refuses port 0; here it says `out of range 1-65535`. Options are ours.

pub mod file;
mod go;
mod options;
mod set;

use std::{fmt, net::IpAddr, str::FromStr};

pub(crate) use options::is_option;
pub use options::{OptionError, RuleOptions, WEIGHTS, connect_timeout, health_check};
pub use set::{Entry, MAX_HOST_BYTES, MAX_RULES, RuleSet, RuleSetError, Source};

/// Which way connections travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the overlay to a destination on this side.
    Ingress,
    /// From this host into the overlay.
    Egress,
}

impl Direction {
    /// `ingress` or `egress`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The transport protocol of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.eq_ignore_ascii_case("tcp") {
            Ok(Self::Tcp)
        } else if text.eq_ignore_ascii_case("udp") {
            Ok(Self::Udp)
        } else {
            Err(RuleError::Protocol(text.to_owned()))
        }
    }
}

/// One proxy rule. [`FromStr`] reads the grammar, [`Display`](fmt::Display) writes the canonical form, which reads
/// back as the same rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port that is listened on; never 0 in a parsed rule.
    pub port: u16,
    /// The destination as written, without the brackets of an IPv6 address. The grammar asks only that it is not
    /// empty; what a release can carry is checked by [`RuleSet::add`].
    pub host: String,
    /// The destination's port; never 0 in a parsed rule.
    pub destination_port: u16,
    /// What else the rule says.
    pub options: RuleOptions,
}

/// What makes a rule the same rule: everything but the options, of which only the bind address counts.
pub type Identity<'a> = (Protocol, u16, Option<IpAddr>, &'a str, u16);

impl Rule {
    /// `host:port`, or `[host]:port` when the host contains a colon.
    #[must_use]
    pub fn destination(&self) -> String {
        go::join_host_port(&self.host, self.destination_port)
    }

    /// What this rule is found by. Two rules with one identity (and direction) are the same rule.
    #[must_use]
    pub fn identity(&self) -> Identity<'_> {
        (self.protocol, self.port, self.options.bind, &self.host, self.destination_port)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}{}", self.protocol, self.port, self.destination(), self.options)
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if is_option(text) {
            return Err(OptionError::NoRule(text.to_owned()).into());
        }
        let (text, options) = options::split(text);
        // Upstream's order, which decides the error that a doubly wrong rule gets: the number of parts, the protocol,
        // the port, the shape of the destination, its host, its port.
        let mut parts = text.splitn(3, ':');
        let (Some(protocol), Some(port), Some(destination)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(RuleError::Format(text.to_owned()));
        };
        if !destination.contains(':') {
            return Err(RuleError::Format(text.to_owned()));
        }
        let protocol = protocol.parse()?;
        let port = parse_port(port)?;
        let (host, destination_port) = parse_destination(destination)?;
        let options = options.map(RuleOptions::parse).transpose()?.unwrap_or_default();
        Ok(Self { protocol, port, host, destination_port, options })
    }
}

/// The host and the port of `host:port` and `[host]:port`.
fn parse_destination(text: &str) -> Result<(String, u16), RuleError> {
    let bad_destination = |reason: String| RuleError::Destination { text: text.to_owned(), reason };
    let (host, port) =
        go::split_host_port(text).map_err(|reason| bad_destination(format!("address {text}: {reason}")))?;
    if host.is_empty() {
        return Err(bad_destination("host cannot be empty".to_owned()));
    }
    Ok((host.to_owned(), parse_port(port)?))
}

fn parse_port(text: &str) -> Result<u16, RuleError> {
    let bad_port = |reason| RuleError::Port { text: text.to_owned(), reason };
    let number = go::atoi(text).map_err(|error| bad_port(PortError::Syntax(error.to_string())))?;
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(bad_port(PortError::Range)),
    }
}

/// Why a text is not a rule. But for those about options, the texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Fewer than four parts.
    #[error("invalid proxy rule format, must specify 4 colon-separated values ({0})")]
    Format(String),
    /// Neither `tcp` nor `udp`, in any case.
    #[error("invalid protocol ({0})")]
    Protocol(String),
    /// The listen port or the destination's port.
    #[error("invalid port ({text}): {reason}")]
    Port {
        /// The port as written.
        text: String,
        /// What is wrong with it.
        reason: PortError,
    },
    /// The destination is not `host:port`.
    #[error("invalid destination host:port ({text}): {reason}")]
    Destination {
        /// The destination as written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An option.
    #[error(transparent)]
    Option(#[from] OptionError),
}

/// Why a text is not a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a decimal number; carries Go's text.
    #[error("{0}")]
    Syntax(String),
    /// A number that is no port.
    #[error("out of range 1-65535")]
    Range,
}

/// What a listener and its cluster stand for: all rules with one key share them, as one list of destinations.
/// Displays as `egress/tcp/80` or `egress/tcp/80@127.0.0.1`, the name of both in Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// Ingress or egress.
    pub direction: Direction,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port that is listened on.
    pub port: u16,
    /// The one address that is listened on; none for all.
    pub bind: Option<IpAddr>,
}

impl RuleKey {
    /// The key under which a rule of this direction falls.
    #[must_use]
    pub const fn of(direction: Direction, rule: &Rule) -> Self {
        Self { direction, protocol: rule.protocol, port: rule.port, bind: rule.options.bind }
    }
}

impl fmt::Display for RuleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.direction, self.protocol, self.port)?;
        self.bind.map_or(Ok(()), |bind| write!(f, "@{bind}"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
