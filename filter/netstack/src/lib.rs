//! WireGuard and TCP/IP without I/O: datagrams, bytes and deadlines in; datagrams, bytes and events out.
#![forbid(unsafe_code)]

mod config;
mod event;
mod netstack;
mod stats;
mod time;

pub use config::{Config, ConfigError, Limits, MAX_MTU, MIN_MTU, PeerConfig};
pub use event::{CloseReason, ConnectError, Event, FlowId, Transmit};
pub use netstack::Netstack;
pub use stats::{PeerStatus, Stats};
pub use time::Instant;
