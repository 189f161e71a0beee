//! One TCP connection: scripts for each RFC in the manner of packetdrill, properties, and comparisons over a simulated link.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    unreachable_pub,
    dead_code,
    reason = "a failure is a failed test; numbers are small; not every helper is used by every build"
)]

mod bursts;
mod compare;
mod flows;
mod link;
mod properties;
mod script;
#[path = "../sim/mod.rs"]
mod sim;
mod smol;
mod wire;

mod checksums;
mod handshake;
mod recovery;
mod rfc2018;
mod rfc5961;
mod rfc6191;
mod rfc6528;
mod rfc7323;
mod rfc8985;
mod rfc9293;
