//! The harness of the end-to-end tests: real nodes, real Envoys, independent WireGuard peers, and the TCP programs at
//! both ends.
//!
//! A test builds what it needs from these parts and drops it: a [`Node`] is a running `nexd` with directories of its own,
//! a [`WgPeer`] is `wireguard-go` with a TUN device in a [`Namespace`], a [`Server`] is a thread per connection with a
//! behaviour. Every wait has a limit, every process ends with its owner, and a namespace lives only as long as the test.
//!
//! `cargo xtask test` builds the products and says where they are (`NEXODUS_BIN_DIR`, `ENVOY_BIN`); without that the tests
//! say that they were skipped.
//!
//! Harness code panics where a program would return an error: a panic is how a test fails.

mod admin;
mod client;
mod datagrams;
mod dns;
mod envoy;
mod identity;
mod log;
mod namespace;
mod needs;
mod node;
mod pattern;
mod place;
mod ports;
mod process;
mod server;
mod tunnel;
mod wait;
mod wg_peer;

pub use admin::Admin;
pub use client::{CLIENT_LIMIT, accepted_and_ended, connect, http_get, is_reset, read_end, reset};
pub use datagrams::{MAX_DATAGRAM, UdpClient, UdpServer};
pub use dns::DnsServer;
pub use envoy::{Envoy, validate};
pub use identity::Identity;
pub use log::{Severity, access_log, complaints};
pub use namespace::Namespace;
pub use needs::{
    Missing, Products, as_nobody, ipv6_loopback, measured, mounts, namespaces, products, skipped,
};
pub use node::{Node, NodeBuilder};
pub use pattern::{Pattern, receive, send};
pub use place::Place;
pub use ports::{ClosedPort, free_port, free_ports, raise_file_limit, silent_udp_socket};
pub use process::{Process, memory_kib, run, run_ok};
pub use server::{Server, echo, http};
pub use tunnel::{Tunnel, circle};
pub use wait::{eventually, within};
pub use wg_peer::WgPeer;

/// The value, or the end of the test with a line that says what it would have needed.
///
/// In CI nothing may be missing: there it is a failure.
#[macro_export]
macro_rules! need {
    ($what:expr) => {
        match $what {
            Ok(value) => value,
            Err(missing) => return $crate::skipped(&missing),
        }
    };
}
