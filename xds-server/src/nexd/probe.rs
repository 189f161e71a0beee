//! Whether Envoy can have the port of a new rule, asked where the answer can name a remedy.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::ports::{self, PortError};
use crate::{
    rules::{Direction, RuleKey},
    snapshot::{ResourceType, Snapshot},
};

/// Envoy counts whole seconds, and takes a moment.
const MARGIN: Duration = Duration::from_secs(2);

/// Asks the system for the port of a new egress rule, unless Envoy itself has it still: the sockets of a removed UDP
/// listener stay open while it drains, and a new listener at their address takes them over.
#[derive(Debug)]
pub struct Probe {
    enabled: bool,
    ipv6: bool,
    drain_time: Duration,
    /// Removed listeners, and when they are gone for good.
    draining: HashMap<String, Instant>,
}

impl Probe {
    /// `enabled`: an Envoy with rights of its own may bind what this process may not, then only its own answer counts.
    #[must_use]
    pub fn new(enabled: bool, ipv6: bool, drain_time: Duration) -> Self {
        Self { enabled, ipv6, drain_time, draining: HashMap::new() }
    }

    /// Envoy is given something else to have.
    pub fn published(&mut self, now: Instant, before: &Snapshot, after: &Snapshot) {
        self.draining.retain(|_, gone| *gone > now);
        let names = |snapshot: &Snapshot| -> Vec<String> {
            snapshot.resources(ResourceType::Listener).map(|resource| resource.name().to_owned()).collect()
        };
        let after = names(after);
        for name in names(before).into_iter().filter(|name| !after.contains(name)) {
            self.draining.insert(name, now + self.drain_time + MARGIN);
        }
    }

    /// Whether the port of a rule that is new can be bound.
    ///
    /// # Errors
    /// [`PortError`].
    pub fn check(&self, now: Instant, key: RuleKey) -> Result<(), PortError> {
        let draining = || self.draining.get(&key.to_string()).is_some_and(|gone| *gone > now);
        if !self.enabled || key.direction != Direction::Egress || draining() {
            return Ok(());
        }
        ports::probe(key, self.ipv6)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::net::UdpSocket;

    use super::*;
    use crate::{
        names::ResolvedNames,
        rules::{RuleSet, Source},
        translate::{Settings, translate},
    };

    #[test]
    fn a_port_that_envoy_still_has_is_not_in_use() {
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let rule = format!("udp:{}:100.64.0.2:53", taken.local_addr().unwrap().port()).parse().unwrap();
        let mut rules = RuleSet::new();
        rules.add(Direction::Egress, rule, Source::Flag).unwrap();
        let [key] = rules.keys().into_iter().collect::<Vec<_>>()[..] else { unreachable!("one rule") };
        let settings = Settings::default();
        let with = translate(&rules, &ResolvedNames::default(), &settings).unwrap();
        let without = translate(&RuleSet::new(), &ResolvedNames::default(), &settings).unwrap();

        let now = Instant::now();
        let mut probe = Probe::new(true, false, Duration::from_secs(10));
        assert!(probe.check(now, key).is_err());
        probe.published(now, &without, &with);
        assert!(probe.check(now, key).is_err());
        probe.published(now, &with, &without);
        assert!(probe.check(now, key).is_ok());
        assert!(probe.check(now + Duration::from_secs(13), key).is_err());
        // Nothing is kept for ever.
        probe.published(now + Duration::from_secs(13), &without, &without);
        assert!(probe.draining.is_empty());
    }
}
