//! The part of Envoy's Rust SDK for dynamic modules that this project uses.
//!
//! The official SDK lies in Envoy's repository and not in the crate registry, and building it takes clang.
//! This crate has its package name and offers its traits, types, methods and macros under the same names
//! with the same signatures, so a module compiles with either. It is written against ABI v0.2.0, that of
//! Envoy 1.40.
//!
//! A module names what it offers in [`declare_all_init_functions!`]: [`bootstrap`] extensions, [`network`]
//! filters, [`transport_socket`]s, [`udp_listener`] filters, and [`health_checker`]s. Everything but the last
//! is re-exported here, so `use envoy_proxy_dynamic_modules_rust_sdk::*;` is enough.
//!
//! # Panics
//!
//! A panic in a hook is caught and its message logged. The object that panicked is dropped at once, and
//! none of its hooks is called again: do cleanup in `Drop`. Otherwise nothing but the matter at hand ends:
//!
//! | hook of | effect |
//! |---|---|
//! | a configuration's creation | the configuration is refused |
//! | a network filter | its connection is closed (`NoFlush`) |
//! | a transport socket | its connection is closed at the next read or write step |
//! | a UDP listener filter | this datagram and all later ones of its worker thread are dropped |
//! | a health check session | the host's checks time out, so it is unhealthy |
//! | a bootstrap extension | its later hooks are skipped; a shutdown counts as complete |
//! | a configuration, later | this call is without effect; an admin request is answered with 500 |
//!
//! So a module must never be compiled with `panic = "abort"`.
//!
//! # Re-entrancy
//!
//! A call into Envoy may call another hook of the same object before it returns: `close()` calls `on_event`,
//! `write()` calls `on_write` and, if the write buffer fills up, `on_above_write_buffer_high_watermark`. The
//! official SDK lets that hook run at once, with a second `&mut self`. Here it waits:
//!
//! * `on_event` and the watermark hooks run right after the hook on the stack has returned; a close event
//!   last. If both watermarks were passed in between, neither hook is called.
//! * `on_write` is not called for what the filter itself writes inside a hook; those bytes pass.
//! * `on_do_write` and `on_do_read` of a transport socket are called later, from the event loop.
//! * `on_close` of a transport socket runs right after the hook on the stack. The socket below is closed by
//!   then, so operations on it fail.
//! * `get_protocol` and `get_failure_reason` are taken as empty, `can_flush_close` as true.
//! * Hooks that Envoy calls from its event loop alone (`on_new_connection`, `on_read`, `on_scheduled`)
//!   never meet another one. Should it happen, it is logged, and the connection closed.
//!
//! A filter that is to work with either SDK therefore must not rely on a hook having run, or not having
//! run, when its call into Envoy returns. Envoy destroys a filter from its event loop, not inside a hook;
//! should that happen, the object lives until the hook returns.
//!
//! # Threads
//!
//! The hooks of one connection, and the drop of its objects, are on one worker thread. To keep it so, a
//! network filter's scheduler does nothing from the close event on (see `guard::Gate`); `on_scheduled` is
//! never called after it. Configurations are `Send + Sync`: Envoy drops them on any thread.
//!
//! # Tests
//!
//! The functions that Envoy offers exist only inside Envoy. A test binary links all the same, with no build
//! script and no flag, because the linker asks for a function only where code that is kept calls it. So
//! test filters against own implementations of [`EnvoyNetworkFilter`] and its like, and reach neither
//! [`EnvoyNetworkFilterImpl`] and its like nor the module's entry point. The `envoy_log_*` macros print to
//! standard error in the unit tests of the crate that uses them.

pub mod abi;
pub mod bootstrap;
pub mod buffer;
mod callback;
#[cfg(test)]
mod fake;
mod guard;
pub mod health_checker;
#[doc(hidden)]
pub mod init;
#[doc(hidden)]
pub mod log;
mod metrics;
pub mod network;
pub mod transport_socket;
pub mod udp_listener;

pub use bootstrap::*;
pub use buffer::*;
pub use init::{
    NewBootstrapExtensionConfigFunction, NewHealthCheckerConfigFunction, NewNetworkFilterConfigFunction,
    NewTransportSocketFactoryConfigFunction, NewUdpListenerFilterConfigFunction, ProgramInitFunction,
};
pub use metrics::{EnvoyCounterId, EnvoyGaugeId, EnvoyHistogramId};
pub use network::*;
pub use transport_socket::*;
pub use udp_listener::*;
