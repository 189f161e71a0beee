//! Active health checkers: one session for each host of a cluster that names the checker.
//!
//! Envoy keeps the time: it calls [`HealthCheckerSession::on_interval`], waits for the [`Reporter`] until the
//! check's timeout, and applies the thresholds.

mod envoy;
mod hooks;

use crate::abi::envoy_dynamic_module_type_host_health as Health;
pub use envoy::{HealthCheckHost, Reporter};

/// What a check found, or what Envoy knows of a host.
///
/// Source: `envoy_dynamic_module_type_host_health`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostHealth {
    /// The host gets no traffic.
    Unhealthy,
    /// The host gets traffic if there is no healthy one.
    Degraded,
    /// The host gets traffic.
    Healthy,
}

impl HostHealth {
    fn to_abi(self) -> Health {
        match self {
            Self::Unhealthy => Health::Unhealthy,
            Self::Degraded => Health::Degraded,
            Self::Healthy => Health::Healthy,
        }
    }

    /// A number that this ABI version does not know is unhealthy.
    fn from_abi(health: u32) -> Self {
        match Health::try_from(health) {
            Ok(Health::Healthy) => Self::Healthy,
            Ok(Health::Degraded) => Self::Degraded,
            Ok(Health::Unhealthy) | Err(_) => Self::Unhealthy,
        }
    }
}

/// The configuration of a health checker, on the module's side; `Drop` is the place for cleanup. Main thread.
pub trait HealthCheckerConfig: Send + Sync {
    /// Creates the session of a host. A panic leaves the host without checks, so it is unhealthy.
    ///
    /// Source: `envoy_dynamic_module_on_health_checker_session_new`.
    fn new_session(&self, host: &HealthCheckHost) -> Box<dyn HealthCheckerSession>;
}

/// The checks of one host, on the module's side. Its hooks and `Drop` run on the main thread; `Drop` comes when
/// the host or its cluster is removed.
pub trait HealthCheckerSession: Send {
    /// It is time for a check: the reporter, which may go to another thread, takes its result.
    ///
    /// Source: `envoy_dynamic_module_on_health_checker_session_on_interval`.
    fn on_interval(&mut self, host: &HealthCheckHost, reporter: Reporter);

    /// The check took too long; Envoy counts it as failed.
    ///
    /// Source: `envoy_dynamic_module_on_health_checker_session_on_timeout`.
    fn on_timeout(&mut self) {}
}
