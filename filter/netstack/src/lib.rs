//! WireGuard and TCP/IP without I/O: datagrams, bytes and deadlines in; datagrams, bytes and events out.
//!
//! A [`Netstack`] is one WireGuard interface and the TCP/IP stack on it. It has no sockets, threads, clock or random source:
//! time ([`Instant`]) and a seed are arguments, so a simulation runs the same code as production and repeats exactly.
//!
//! Order of calls: inputs (`handle_*` and the commands) in any number; [`Netstack::poll_event`] until `None`;
//! [`Netstack::poll_datagram`] until `None` (with UDP flows); [`Netstack::poll_transmit`] until `None`;
//! [`Netstack::poll_handover`] until `None` (with several stacks); then sleep until [`Netstack::poll_timeout`] and call
//! [`Netstack::handle_timeout`].
//!
//! * `wireguard`: peers, handshakes, allowed IPs, roaming, keepalives.
//! * `ip`: inner IP headers, ICMP, fragments.
//! * `udp`: flows of datagrams, ended by silence.
//! * `tcp`: flows. One flow's state machine is behind `tcp::engine`, so that it can be replaced alone.
#![forbid(unsafe_code)]

mod batch;
mod config;
mod event;
mod handover;
mod ip;
mod listen;
mod netstack;
mod seed;
mod stats;
mod tcp;
mod time;
mod timers;
mod udp;
mod wireguard;

pub use config::{Config, ConfigError, Limits, MAX_MTU, MIN_MTU, PeerConfig, Shard};
pub use event::{CloseReason, ConnectError, Event, FlowId, Transmit, UdpCloseReason, UdpFlowId};
pub use handover::Handover;
pub use listen::Local;
pub use netstack::Netstack;
pub use stats::{PeerStatus, Stats};
pub use tcp::conn;
pub use time::Instant;
pub use wireguard::AllowedIps;
