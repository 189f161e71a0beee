//! What can be wrong with a configuration, in words for the person who wrote it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use thiserror::Error;

use crate::limits::{MAX_JSON_BYTES, MAX_SOCKET_PATH_BYTES};
use crate::value::Shown;
use crate::{FileError, PublicKey, wg_quick};

/// A configuration that Envoy carries is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// More than [`MAX_JSON_BYTES`].
    #[error(
        "the configuration has {bytes} bytes, at most {MAX_JSON_BYTES} are allowed: shorten the list of peers"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not a JSON object.
    #[error("the configuration is not a JSON object: {reason}")]
    Syntax {
        /// Where and why.
        reason: String,
    },
    /// A field that is missing, unknown, of the wrong type or not parseable.
    #[error("{path}: {reason}")]
    Field {
        /// The field, like `networks[0].peers[1].endpoint`; `.` is the whole configuration.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that breaks a rule.
    #[error("{path}: {problem}")]
    Rule {
        /// The field, like `networks[0].mtu`.
        path: String,
        /// The rule.
        problem: Problem,
    },
}

impl ConfigError {
    pub(crate) fn rule(path: impl Into<String>, problem: Problem) -> Self {
        Self::Rule { path: path.into(), problem }
    }
}

/// A network cannot be loaded: its configuration, or a file that it names, is refused.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The configuration itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be read, or others could read it too.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that holds one key holds something else.
    #[error("{}: the key {problem}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// What is wrong with the key.
        problem: Problem,
    },
    /// A wg-quick file has an error.
    #[error("{}: {error}", file.display())]
    WgQuick {
        /// The file.
        file: PathBuf,
        /// The line and what is wrong with it.
        error: wg_quick::ParseError,
    },
}

/// One broken rule. The text starts with the verb, so that it reads on after the name of the field.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// A key of the wrong length.
    #[error(
        "has {characters} characters; a WireGuard key has 44, base64 of 32 bytes: copy it whole, or make one with `nexctl genkey`"
    )]
    KeyLength {
        /// The length found.
        characters: usize,
    },
    /// 44 characters that are not base64 of 32 bytes.
    #[error("is not base64 of 32 bytes: copy it whole, or make one with `nexctl genkey`")]
    KeyEncoding,
    /// The key of zeros.
    #[error("is all zeros, which is no key: make one with `nexctl genkey`")]
    KeyZero,
    /// A key in the JSON.
    #[error(
        "keys do not belong into Envoy's configuration, which is shown in /config_dump: write the key into a file with mode 600 and name it in `{instead}`"
    )]
    InlineKey {
        /// The field that names a file.
        instead: &'static str,
    },
    /// A key where a file's path is expected.
    #[error(
        "holds a key, and wants the path of a file: write the key into a file with mode 600 and name that"
    )]
    KeyAsPath,
    /// An unusable path.
    #[error("{value} is not the path of a file")]
    Path {
        /// The path.
        value: Shown,
    },
    /// Not an address or network.
    #[error("{value} is neither an address nor address/length, like 100.64.0.1/32 or fd00::1/128")]
    Net {
        /// The text.
        value: Shown,
    },
    /// An address that no host can have.
    #[error("{address} is not an address that one host can have: give the node's own overlay address")]
    Address {
        /// The address.
        address: IpAddr,
    },
    /// A network without an address.
    #[error("give at least one overlay address, like 100.64.0.1/32")]
    NoAddress,
    /// Neither an address nor a name with a port.
    #[error("{value} is no destination: give address:port, [IPv6 address]:port or name:port")]
    Destination {
        /// The text.
        value: Shown,
    },
    /// Addresses of a destination that is one itself.
    #[error("are for a destination that is a name, and {address} is an address: leave them out")]
    AddressesOfAddress {
        /// The destination.
        address: SocketAddr,
    },
    /// A loopback address with two meanings.
    #[error("{relay} stands for another destination already: give each destination a relay of its own")]
    RepeatedRelay {
        /// The address.
        relay: SocketAddr,
    },
    /// A name of two routes.
    #[error("{name} is the name of another route already: give each route one of its own")]
    RepeatedRoute {
        /// The name.
        name: Shown,
    },
    /// A route's name that is empty or too long.
    #[error("has {bytes} bytes, give 1 to {limit}")]
    RouteName {
        /// Its length.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// An address that other hosts can reach.
    #[error(
        "{address} is not a loopback address, and other hosts could reach it: give one in 127.0.0.0/8, or ::1"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// An empty list of networks.
    #[error("give at least one network")]
    NoNetwork,
    /// A list longer than its bound.
    #[error("has {found} {what}, at most {limit} are allowed")]
    TooMany {
        /// What the list holds.
        what: &'static str,
        /// Entries found.
        found: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// Not a port.
    #[error("{value} is not a port: give a number from 1 to 65535")]
    Port {
        /// The text.
        value: Shown,
    },
    /// Not a number in a wg-quick file.
    #[error("{value} is not {expected}")]
    Number {
        /// The text.
        value: Shown,
        /// The range.
        expected: &'static str,
    },
    /// An MTU out of range.
    #[error(
        "is {mtu}, give {minimum} to {maximum} (1420 fits most networks; 1280 is the least with IPv6 addresses)"
    )]
    Mtu {
        /// The MTU.
        mtu: u16,
        /// The least for the network's addresses.
        minimum: u16,
        /// The most that a UDP datagram can carry.
        maximum: u16,
    },
    /// An endpoint that is none.
    #[error("{value} {reason}")]
    Endpoint {
        /// The text.
        value: Shown,
        /// Why not.
        reason: &'static str,
    },
    /// A host name where only an address is possible.
    #[error(
        "{value} is a host name; here only IP:port is possible: resolve it first, or write the peer into a wg-quick file (`wg_config_file`)"
    )]
    EndpointHost {
        /// The text.
        value: Shown,
    },
    /// Two peers with one public key.
    #[error("peer {public_key} appears twice (first at {first}): merge the two")]
    DuplicatePeer {
        /// The peer.
        public_key: PublicKey,
        /// The other place.
        first: String,
    },
    /// Two networks with one name.
    #[error("network {value} appears twice (first at {first}): rename one")]
    DuplicateNetwork {
        /// The name.
        value: Shown,
        /// The other place.
        first: String,
    },
    /// Two networks with one UDP port.
    #[error("port {port} is taken already by {first}: give each network its own, or 0 for any")]
    DuplicateListenPort {
        /// The port.
        port: u16,
        /// The other place.
        first: String,
    },
    /// An identity twice.
    #[error("excludes `{other}`, which the wg-quick file gives: remove one of the two")]
    Exclusive {
        /// The other field.
        other: &'static str,
    },
    /// No identity.
    #[error(
        "has no identity: name a wg-quick file in `wg_config_file`, or a file with the private key in `private_key_file`"
    )]
    NoIdentity,
    /// A network name with other characters.
    #[error("{value} is not a network name: 1 to 63 letters, digits, `-` and `_`")]
    NetworkName {
        /// The name.
        value: Shown,
    },
    /// A relative socket path.
    #[error("{} is not an absolute path: start it with /", path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
    },
    /// A socket path that the system cannot hold.
    #[error(
        "{} has {bytes} bytes, a Unix socket's path has at most {MAX_SOCKET_PATH_BYTES}: use a shorter directory",
        path.display()
    )]
    SocketPathLength {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// UDP, where only TCP is possible.
    #[error("is udp, and a network filter carries only tcp: use \"tcp\"")]
    Udp,
    /// A limit out of range.
    #[error("is {value}, give {minimum} to {maximum}")]
    Limit {
        /// The limit given.
        value: usize,
        /// The least.
        minimum: usize,
        /// The most.
        maximum: usize,
    },
}
