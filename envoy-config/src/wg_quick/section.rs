//! The lines of one section, collected and then checked for completeness.

use std::str::FromStr;

use ipnet::IpNet;

use super::{ParseError, Reason};
use crate::value::{self, Shown};
use crate::warnings::Warnings;
use crate::{
    Endpoint, MAX_ADDRESSES, MAX_ALLOWED_IPS, Peer, PresharedKey, PrivateKey, Problem, PublicKey, network,
};

/// What `wg-quick` does to the host, and a userspace network does not.
const HOST_KEYS: [&str; 8] =
    ["dns", "fwmark", "postdown", "postup", "predown", "preup", "saveconfig", "table"];

/// Whether a key is one of `wg-quick`'s that mean nothing here.
fn is_of_the_host(key: &str) -> bool {
    HOST_KEYS.iter().any(|host| key.eq_ignore_ascii_case(host))
}

/// Remembers the first key that may be a misspelt one.
fn note_unknown(unknown: &mut Option<(usize, Shown)>, number: usize, key: &str) {
    if !is_of_the_host(key) {
        unknown.get_or_insert_with(|| (number, Shown::new(key)));
    }
}

/// The warning for a key that is not taken over.
pub(super) fn ignored(key: &str) -> String {
    let reason = if is_of_the_host(key) {
        "it configures the host, which a userspace network leaves alone"
    } else {
        "it is not a key of this section"
    };
    format!("{} is ignored: {reason}", Shown::new(key))
}

/// The lines of `[Interface]`.
#[derive(Default)]
pub(super) struct InterfaceLines {
    /// The line of the first `[Interface]`.
    pub(super) start: Option<usize>,
    /// The first key that is none, and its line.
    unknown: Option<(usize, Shown)>,
    private_key: Once<PrivateKey>,
    addresses: Vec<IpNet>,
    listen_port: Once<u16>,
    mtu: Once<u16>,
}

pub(super) struct Interface {
    pub(super) private_key: PrivateKey,
    pub(super) addresses: Vec<IpNet>,
    pub(super) listen_port: Option<u16>,
    pub(super) mtu: Option<u16>,
}

impl InterfaceLines {
    /// Takes a line; `false` when the key is not known.
    pub(super) fn line(&mut self, number: usize, key: &str, value: &str) -> Result<bool, Reason> {
        match key.to_ascii_lowercase().as_str() {
            "privatekey" => self.private_key.set(number, "PrivateKey", value.parse())?,
            "address" => list("Address", value, MAX_ADDRESSES, &mut self.addresses, |text| {
                let net = value::net(text)?;
                value::overlay_address(net)?;
                Ok(net)
            })?,
            "listenport" => {
                self.listen_port.set(
                    number,
                    "ListenPort",
                    number_in(value, "a port from 0 (any) to 65535"),
                )?;
            }
            "mtu" => self.mtu.set(number, "MTU", number_in(value, "a number of bytes"))?,
            _ => {
                note_unknown(&mut self.unknown, number, key);
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn finish(self) -> Result<Interface, ParseError> {
        let line = self.start.unwrap_or(1);
        let missing = |key, example| {
            let unknown = self.unknown.clone();
            ParseError { line, reason: Reason::Missing { section: "Interface", key, example, unknown } }
        };
        let (_, private_key) =
            self.private_key.0.ok_or_else(|| missing("PrivateKey", "(made with `nexctl genkey`)"))?;
        if self.addresses.is_empty() {
            return Err(missing("Address", "100.64.0.1/32"));
        }
        let mtu = match self.mtu.0 {
            None => None,
            Some((line, mtu)) => value::mtu(Some(mtu))
                .map_err(|problem| ParseError { line, reason: Reason::Value { key: "MTU", problem } })?,
        };
        let listen_port = self.listen_port.into_value().filter(|port| *port != 0);
        Ok(Interface { private_key, addresses: self.addresses, listen_port, mtu })
    }
}

/// The lines of one `[Peer]`.
pub(super) struct PeerLines {
    start: usize,
    /// The first key that is none, and its line.
    unknown: Option<(usize, Shown)>,
    public_key: Once<PublicKey>,
    preshared_key: Once<PresharedKey>,
    endpoint: Once<Endpoint>,
    allowed_ips: Vec<IpNet>,
    persistent_keepalive: Once<u16>,
}

impl PeerLines {
    pub(super) fn new(start: usize) -> Self {
        Self {
            start,
            unknown: None,
            public_key: Once(None),
            preshared_key: Once(None),
            endpoint: Once(None),
            allowed_ips: Vec::new(),
            persistent_keepalive: Once(None),
        }
    }

    /// Takes a line; `false` when the key is not known.
    pub(super) fn line(
        &mut self,
        number: usize,
        key: &str,
        value: &str,
        warnings: &mut Warnings,
    ) -> Result<bool, Reason> {
        match key.to_ascii_lowercase().as_str() {
            "publickey" => self.public_key.set(number, "PublicKey", value.parse())?,
            "presharedkey" => self.preshared_key.set(number, "PresharedKey", value.parse())?,
            "endpoint" => self.endpoint.set(number, "Endpoint", value.parse())?,
            "allowedips" => list("AllowedIPs", value, MAX_ALLOWED_IPS, &mut self.allowed_ips, |text| {
                let net = value::net(text)?;
                if net != net.trunc() {
                    warnings.push(|| network::masked(&format!("line {number}"), net));
                }
                Ok(net.trunc())
            })?,
            "persistentkeepalive" => {
                let seconds = if value.eq_ignore_ascii_case("off") { "0" } else { value };
                let seconds = number_in(seconds, "`off` or a number of seconds from 0 to 65535");
                self.persistent_keepalive.set(number, "PersistentKeepalive", seconds)?;
            }
            _ => {
                note_unknown(&mut self.unknown, number, key);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The peer, and the line of its public key.
    pub(super) fn finish(self) -> Result<(usize, Peer), ParseError> {
        let (line, public_key) = self.public_key.0.ok_or(ParseError {
            line: self.start,
            reason: Reason::Missing {
                section: "Peer",
                key: "PublicKey",
                example: "(the other node's, from `nexctl pubkey`)",
                unknown: self.unknown,
            },
        })?;
        let peer = Peer {
            public_key,
            preshared_key: self.preshared_key.into_value().filter(|key| !key.is_zero()),
            endpoint: self.endpoint.into_value(),
            allowed_ips: self.allowed_ips,
            persistent_keepalive: self.persistent_keepalive.into_value().filter(|seconds| *seconds != 0),
        };
        Ok((line, peer))
    }
}

/// A key that a section may have once, with the line it stands in.
struct Once<T>(Option<(usize, T)>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Once<T> {
    fn set(&mut self, line: usize, key: &'static str, value: Result<T, Problem>) -> Result<(), Reason> {
        if let Some((first, _)) = self.0 {
            return Err(Reason::Repeated { key, first });
        }
        let value = value.map_err(|problem| Reason::Value { key, problem })?;
        self.0 = Some((line, value));
        Ok(())
    }

    fn into_value(self) -> Option<T> {
        self.0.map(|(_, value)| value)
    }
}

/// Appends the comma-separated items of `value`, which may be empty, to a list of at most `limit`.
fn list(
    key: &'static str,
    value: &str,
    limit: usize,
    items: &mut Vec<IpNet>,
    mut parse: impl FnMut(&str) -> Result<IpNet, Problem>,
) -> Result<(), Reason> {
    for text in value.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        if items.len() == limit {
            let problem = Problem::TooMany { what: "entries", found: limit + 1, limit };
            return Err(Reason::Value { key, problem });
        }
        items.push(parse(text).map_err(|problem| Reason::Value { key, problem })?);
    }
    Ok(())
}

fn number_in<T: FromStr>(text: &str, expected: &'static str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::Number { value: Shown::new(text), expected })
}
