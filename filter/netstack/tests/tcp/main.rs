//! One TCP connection: scripts for each RFC in the manner of packetdrill, properties, and comparisons over a simulated link.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    unreachable_pub,
    dead_code,
    reason = "a failure is a failed test; numbers are small; not every helper is used by every build"
)]

mod bursts;
mod compare;
mod link;
mod properties;
mod script;
mod smol;
mod wire;

mod recovery;
mod rfc2018;
mod rfc5961;
mod rfc7323;
mod rfc8985;
mod rfc9293;
