//! The parsers of single values, shared by the JSON configurations and the wg-quick file.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

use crate::Problem;
use crate::key::{is_base64_character, looks_like_key};
use crate::limits::MAX_SOCKET_PATH_BYTES;

/// Bytes that WireGuard, UDP and IPv6 add to a packet: no MTU above 65,535 less these can be sent.
const OVERHEAD: u16 = 80;
/// RFC 8200, section 5: IPv6 needs links of at least 1,280 bytes. Every tunnel may carry IPv6.
const MIN_MTU: u16 = 1280;
/// No value worth showing is longer.
const SHOWN_CHARACTERS: usize = 64;
/// A run of base64 characters of this length may be a key, or most of one, in the wrong place.
const SECRET_RUN: usize = 32;

/// A person's input as an error may repeat it: short, printable, and without anything that might be a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    pub(crate) fn new(text: &str) -> Self {
        if has_secret_run(text) {
            return Self("(hidden, looks like a key)".to_owned());
        }
        let mut shown: String = text.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect();
        if text.chars().nth(SHOWN_CHARACTERS).is_some() {
            shown.push('…');
        }
        Self(format!("\"{shown}\""))
    }
}

impl Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A message of another library, with anything in it that might be a key taken out.
pub(crate) fn redact(message: &str) -> String {
    let mut redacted = String::with_capacity(message.len());
    for word in message.split_inclusive(|c: char| !(c.is_ascii() && is_base64_character(c as u8))) {
        if has_secret_run(word) {
            redacted.push_str("(hidden)");
        } else {
            redacted.push_str(word);
        }
    }
    redacted
}

fn has_secret_run(text: &str) -> bool {
    text.as_bytes().split(|byte| !is_base64_character(*byte)).any(|run| run.len() >= SECRET_RUN)
}

/// Deserializes a string through its `FromStr`.
pub(crate) fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = Problem>,
{
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

/// A list of networks, each `address/length` or a bare address.
pub(crate) fn nets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    struct Net(IpNet);
    impl<'de> Deserialize<'de> for Net {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            net(&String::deserialize(deserializer)?).map(Net).map_err(de::Error::custom)
        }
    }
    Ok(Vec::<Net>::deserialize(deserializer)?.into_iter().map(|net| net.0).collect())
}

/// The endpoint of a peer in JSON, where a host name is refused: only who reads a wg-quick file may resolve.
pub(crate) fn endpoint_in_json<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    match text.parse().map_err(de::Error::custom)? {
        crate::Endpoint::Address(address) => Ok(Some(address)),
        crate::Endpoint::Host { .. } => {
            Err(de::Error::custom(Problem::EndpointHost { value: Shown::new(&text) }))
        }
    }
}

/// Parses `address/length`; without a length it is the one address.
pub(crate) fn net(text: &str) -> Result<IpNet, Problem> {
    let parsed = match text.split_once('/') {
        Some(_) => text.parse().ok(),
        None => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    parsed.ok_or_else(|| Problem::Net { value: Shown::new(text) })
}

pub(crate) fn port(text: &str) -> Result<u16, Problem> {
    match text.parse() {
        Ok(0) | Err(_) => Err(Problem::Port { value: Shown::new(text) }),
        Ok(port) => Ok(port),
    }
}

/// An address that a peer can be reached at.
pub(crate) fn endpoint_address(address: SocketAddr) -> Result<(), Problem> {
    let reason = if address.port() == 0 {
        "has port 0"
    } else if address.ip().is_unspecified() || address.ip().is_multicast() {
        "is not the address of one host"
    } else {
        return Ok(());
    };
    Err(Problem::Endpoint { value: Shown::new(&address.to_string()), reason })
}

/// An address that a host can have in the overlay.
pub(crate) fn overlay_address(net: IpNet) -> Result<(), Problem> {
    let address = net.addr();
    let is_host = match address {
        IpAddr::V4(v4) => !v4.is_broadcast(),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
    };
    if !is_host || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(Problem::Address { address });
    }
    Ok(())
}

/// The MTU of a network: 1,280 to 65,455.
pub(crate) fn mtu(mtu: Option<u16>) -> Result<Option<u16>, Problem> {
    let minimum = MIN_MTU;
    let maximum = u16::MAX - OVERHEAD;
    match mtu {
        Some(mtu) if !(minimum..=maximum).contains(&mtu) => Err(Problem::Mtu { mtu, minimum, maximum }),
        _ => Ok(mtu),
    }
}

/// A network's name becomes part of Envoy's names for listeners, resources and statistics.
pub(crate) fn network_name(name: &str) -> Result<(), Problem> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=63).contains(&name.len()) && name.bytes().all(safe) {
        Ok(())
    } else {
        Err(Problem::NetworkName { value: Shown::new(name) })
    }
}

/// The path of a file that holds a key: not the key itself.
pub(crate) fn key_path(path: &Path) -> Result<(), Problem> {
    let text = path.to_string_lossy();
    if looks_like_key(&text) {
        return Err(Problem::KeyAsPath);
    }
    if text.is_empty() || text.contains('\0') {
        return Err(Problem::Path { value: Shown::new(&text) });
    }
    Ok(())
}

pub(crate) fn socket_path(path: &Path) -> Result<(), Problem> {
    if looks_like_key(&path.to_string_lossy()) {
        return Err(Problem::KeyAsPath);
    }
    let bytes = path.as_os_str().len();
    if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Problem::SocketPath { path: path.to_owned() });
    }
    if bytes > MAX_SOCKET_PATH_BYTES {
        return Err(Problem::SocketPathLength { path: path.to_owned(), bytes });
    }
    Ok(())
}
