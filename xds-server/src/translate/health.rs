//! Active health checks: destinations are tried without a client.

use std::time::Duration;

use envoy_config::HealthConfig;
use envoy_types::{
    pb::envoy::config::core::v3::{
        HealthCheck,
        health_check::{
            CustomHealthCheck, HealthChecker, TcpHealthCheck, custom_health_check::ConfigType as CustomConfig,
        },
    },
    util::pack_any,
};

use super::{Settings, duration, module, uint32};
use crate::rules::{Direction, Protocol, Rule, RuleKey, health_check};

/// A destination is left out after this many failed checks in a row: one SYN may be lost. What a client's own attempt finds
/// counts at once, by outlier detection.
const UNHEALTHY: u32 = 2;

/// It is back after one that succeeds.
const HEALTHY: u32 = 1;

/// Spreads the checks of many destinations, in percent of the interval.
const JITTER: u32 = 10;

/// The checks of a cluster: none unless its rules ask for them.
pub(super) fn health_checks(key: RuleKey, rules: &[&Rule], settings: &Settings) -> Vec<HealthCheck> {
    let Some(interval) = health_check(rules).filter(|_| key.protocol == Protocol::Tcp) else {
        return Vec::new();
    };
    let limit = settings.attempt(rules).min(interval).min(LONGEST);
    vec![HealthCheck {
        timeout: Some(duration(limit)),
        interval: Some(duration(interval)),
        // Envoy's default for a cluster that no client has used yet is a minute.
        no_traffic_interval: Some(duration(interval)),
        // Once a check has failed, the next one says whether the destination is left out.
        unhealthy_edge_interval: Some(duration(interval.min(EDGE))),
        interval_jitter_percent: JITTER,
        unhealthy_threshold: uint32(UNHEALTHY),
        healthy_threshold: uint32(HEALTHY),
        health_checker: Some(match key.direction {
            Direction::Egress => through_the_tunnel(settings),
            // Nothing to send or to read: it succeeds when the connection is there.
            Direction::Ingress => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
        }),
        ..Default::default()
    }]
}

/// A check takes at most this long: a new cluster is not in use before all its destinations had their first one, and Envoy
/// opens no listener before its first clusters are.
const LONGEST: Duration = Duration::from_secs(5);

/// The pause between the first and the second failure.
const EDGE: Duration = Duration::from_secs(1);

/// Envoy's own checker runs on the main thread, which has no way to an internal listener: every host would be dead.
fn through_the_tunnel(settings: &Settings) -> HealthChecker {
    let config = HealthConfig { network: settings.network.clone() };
    let checker = module::health_checker("nexodus.health", &config);
    HealthChecker::CustomHealthCheck(CustomHealthCheck {
        name: "envoy.health_checkers.dynamic_modules".to_owned(),
        config_type: Some(CustomConfig::TypedConfig(pack_any(checker))),
    })
}
