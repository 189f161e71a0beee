//! Whether Envoy can have the port of a new rule, asked where the answer can name a remedy.

use std::{collections::HashMap, time::Duration};

use tokio::time::{Instant, sleep};

use super::ports::{self, PortError};
use crate::{
    rules::{Direction, Protocol, RuleKey},
    snapshot::{ResourceType, Snapshot},
};

/// Envoy counts whole seconds, and takes a moment.
const MARGIN: Duration = Duration::from_secs(2);

/// How long Envoy may take to close the socket of a TCP listener that it lists no more: it does so when the last of its
/// workers has stopped to listen.
const CLOSING_LIMIT: Duration = Duration::from_secs(10);

/// How often to ask meanwhile.
const POLL: Duration = Duration::from_millis(20);

/// Asks the system for the port of a new egress rule, unless Envoy itself has it still: the sockets of a removed UDP
/// listener stay open while it drains, and a new listener at their address takes them over.
#[derive(Debug)]
pub struct Probe {
    enabled: bool,
    ipv6: bool,
    drain_time: Duration,
    /// Removed listeners, and when they were removed.
    removed: HashMap<String, Instant>,
}

impl Probe {
    /// `enabled`: an Envoy with rights of its own may bind what this process may not, then only its own answer counts.
    #[must_use]
    pub fn new(enabled: bool, ipv6: bool, drain_time: Duration) -> Self {
        Self { enabled, ipv6, drain_time, removed: HashMap::new() }
    }

    /// Envoy is given something else to have.
    pub fn published(&mut self, now: Instant, before: &Snapshot, after: &Snapshot) {
        let gone = self.drain_time + MARGIN;
        self.removed.retain(|_, removed| *removed + gone > now);
        let names = |snapshot: &Snapshot| -> Vec<String> {
            snapshot.resources(ResourceType::Listener).map(|resource| resource.name().to_owned()).collect()
        };
        let after = names(after);
        for name in &after {
            self.removed.remove(name);
        }
        for name in names(before).into_iter().filter(|name| !after.contains(name)) {
            self.removed.insert(name, now);
        }
    }

    /// Whether the port of a rule that is new can be bound. Waits for the end of a TCP listener that was removed just now
    /// and had that port, at this address or another.
    ///
    /// # Errors
    /// [`PortError`].
    pub async fn check(&self, key: RuleKey) -> Result<(), PortError> {
        loop {
            let now = Instant::now();
            let outcome = self.ask(now, key);
            if !matches!(outcome, Err(PortError::InUse { .. })) || !self.is_closing(now, key) {
                return outcome;
            }
            sleep(POLL).await;
        }
    }

    fn ask(&self, now: Instant, key: RuleKey) -> Result<(), PortError> {
        if !self.enabled || key.direction != Direction::Egress || self.is_draining(now, key) {
            return Ok(());
        }
        ports::probe(key, self.ipv6).map_err(|error| match (error, self.drained_in(now, key)) {
            (PortError::InUse { what }, Some(seconds)) => PortError::Draining { what, seconds },
            (error, _) => error,
        })
    }

    /// How many seconds Envoy may have a UDP port still, for a removed listener at this address or another.
    fn drained_in(&self, now: Instant, key: RuleKey) -> Option<u64> {
        if key.protocol != Protocol::Udp {
            return None;
        }
        let removed =
            self.removed.iter().filter(|(name, _)| has_port(name, key)).map(|(_, removed)| *removed);
        let left = (removed.max()? + self.drain_time + MARGIN).checked_duration_since(now)?;
        Some(left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)).filter(|seconds| *seconds > 0)
    }

    /// Whether Envoy has the very sockets still, and gives them to the new listener.
    fn is_draining(&self, now: Instant, key: RuleKey) -> bool {
        let drained = |removed: &Instant| *removed + self.drain_time + MARGIN <= now;
        key.protocol == Protocol::Udp
            && self.removed.get(&key.to_string()).is_some_and(|removed| !drained(removed))
    }

    /// Whether Envoy may be closing a listener with this port.
    fn is_closing(&self, now: Instant, key: RuleKey) -> bool {
        key.protocol == Protocol::Tcp
            && self
                .removed
                .iter()
                .any(|(name, removed)| now < *removed + CLOSING_LIMIT && has_port(name, key))
    }
}

/// Whether a listener of this name has the port of the key, at whatever address.
fn has_port(name: &str, key: RuleKey) -> bool {
    let anywhere = RuleKey { bind: None, ..key }.to_string();
    name.split('@').next() == Some(anywhere.as_str())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::{
        names::ResolvedNames,
        rules::{RuleSet, Source},
        translate::{Settings, translate},
    };

    fn key(rule: &str) -> RuleKey {
        RuleKey::of(Direction::Egress, &rule.parse().unwrap())
    }

    fn snapshot(rules: &[&str]) -> Snapshot {
        let mut set = RuleSet::new();
        for rule in rules {
            set.add(Direction::Egress, rule.parse().unwrap(), Source::Flag).unwrap();
        }
        translate(&set, &ResolvedNames::default(), &Settings::default()).unwrap()
    }

    #[test]
    fn a_port_that_envoy_still_has_is_not_in_use() {
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let rule = format!("udp:{}:100.64.0.2:53", taken.local_addr().unwrap().port());
        let (key, with, without) = (key(&rule), snapshot(&[&rule]), snapshot(&[]));

        let now = Instant::now();
        let mut probe = Probe::new(true, false, Duration::from_secs(10));
        assert!(probe.ask(now, key).is_err());
        probe.published(now, &without, &with);
        assert!(probe.ask(now, key).is_err());
        probe.published(now, &with, &without);
        assert!(probe.ask(now, key).is_ok());
        assert!(probe.ask(now + Duration::from_secs(13), key).is_err());
        // It is no removed one any more.
        probe.published(now, &without, &with);
        assert!(probe.ask(now, key).is_err());
        // Nothing is kept for ever.
        probe.published(now, &with, &without);
        probe.published(now + Duration::from_secs(13), &without, &without);
        assert!(probe.removed.is_empty());
    }

    #[test]
    fn a_port_that_envoy_drains_at_another_address_is_free_in_a_while() {
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let rule = format!("udp:{}:100.64.0.2:53", taken.local_addr().unwrap().port());
        let here = key(&format!("{rule},bind=127.0.0.1"));
        let now = Instant::now();
        let mut probe = Probe::new(true, false, Duration::from_secs(10));
        probe.published(now, &snapshot(&[&rule]), &snapshot(&[]));
        let error = probe.ask(now + Duration::from_millis(2500), here).unwrap_err().to_string();
        assert!(error.contains("at 127.0.0.1 is in use by Envoy itself"), "{error}");
        assert!(error.ends_with("try again in 10 s"), "{error}");
        // It is somebody else's then.
        let error = probe.ask(now + Duration::from_secs(13), here).unwrap_err();
        assert!(matches!(error, PortError::InUse { .. }), "{error}");
    }

    /// Envoy lists a removed listener no more before its workers have closed the socket.
    #[tokio::test]
    async fn a_listener_that_closes_at_another_address_is_waited_for() {
        let closing = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = closing.local_addr().unwrap().port();
        let anywhere = format!("tcp:{port}:100.64.0.2:80");
        // An address that nobody else uses: hardly anybody is given the port when it is free.
        let here = key(&format!("{anywhere},bind=127.77.0.1"));
        let mut probe = Probe::new(true, false, Duration::from_secs(10));
        // Somebody else's.
        let asked = Instant::now();
        assert!(matches!(probe.check(here).await, Err(PortError::InUse { .. })));
        assert!(asked.elapsed() < CLOSING_LIMIT / 2);
        // Envoy's, and it stays.
        let long_ago = Instant::now() - CLOSING_LIMIT + POLL * 2;
        probe.published(long_ago, &snapshot(&[&anywhere]), &snapshot(&[]));
        assert!(matches!(probe.check(here).await, Err(PortError::InUse { .. })));
        // Envoy's, and it goes.
        probe.published(Instant::now(), &snapshot(&[&anywhere]), &snapshot(&[]));
        let end = tokio::spawn(async move {
            sleep(POLL * 3).await;
            drop(closing);
        });
        probe.check(here).await.unwrap();
        end.await.unwrap();
    }
}
