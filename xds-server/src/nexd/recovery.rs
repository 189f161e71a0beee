//! Rules that should be active and are not: after a start with a busy port, after Envoy was started again.
//!
//! They are taken out of what Envoy should have, so that they harm no other, and tried again until they work.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    time::Duration,
};

use super::{
    activation::{ActivationError, Target},
    changes::{ChangeError, Changes},
    ports::PortError,
    view::Phase,
};
use crate::{
    ads::ApplyError,
    rules::{Direction, Entry, Rule, RuleKey, RuleSet, RuleSetError, Source},
    translate::translate,
};

/// How long Envoy and the module may take to their first open listeners. The module resolves peers' names in it.
pub(super) const START_LIMIT: Duration = Duration::from_secs(30);

/// A rule that is not active and may become so. Displays as its flag and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Ingress or egress.
    pub direction: Direction,
    /// The rule.
    pub rule: Rule,
    /// Where it comes from.
    pub source: Source,
    /// Why it is not active.
    pub reason: String,
}

impl Waiting {
    /// A stored rule that does not get along with others: it can be active when these are gone. None when it is active as
    /// theirs.
    pub(super) fn stored(direction: Direction, rule: &Rule, error: &RuleSetError) -> Option<Self> {
        if *error == RuleSetError::Duplicate {
            return None;
        }
        tracing::warn!("stored {direction} proxy rule {rule} is not active: {error}");
        Some(Self { direction, rule: rule.clone(), source: Source::Stored, reason: error.to_string() })
    }

    pub(super) fn is(&self, direction: Direction, rule: &Rule) -> bool {
        self.direction == direction && self.rule.identity() == rule.identity()
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {}: {}", self.direction, self.rule, self.reason)
    }
}

impl Changes {
    /// Whether there is something to try again.
    pub(super) fn is_incomplete(&self) -> bool {
        !self.waiting.is_empty() || matches!(self.view.borrow().phase, Phase::Degraded(_))
    }

    /// Tries again what is not as it should be, until somebody asks for a change. When to go on, if the regular time is not
    /// right.
    pub(super) async fn retry(&mut self, is_asked: impl Fn() -> bool) -> Option<Duration> {
        if matches!(self.view.borrow().phase, Phase::Degraded(_)) {
            self.recover().await;
        }
        let mut sooner = None;
        let mut untried = VecDeque::from(std::mem::take(&mut self.waiting));
        while let Some(Waiting { direction, rule, source, .. }) = untried.pop_front() {
            match self.activate(direction, &rule, source).await {
                Ok(()) => tracing::info!("{direction} proxy rule {rule} is active now"),
                // It was added meanwhile.
                Err(ChangeError::Rules(RuleSetError::Duplicate)) => {}
                Err(error) => {
                    tracing::debug!("{direction} proxy rule {rule}: {error}");
                    if let ChangeError::Port(PortError::Draining { seconds, .. }) = error {
                        let free = Duration::from_secs(seconds);
                        sooner = Some(sooner.map_or(free, |sooner: Duration| sooner.min(free)));
                    }
                    self.waiting.push(Waiting { direction, rule, source, reason: error.to_string() });
                }
            }
            // Each may take seconds.
            if is_asked() {
                break;
            }
        }
        if !untried.is_empty() {
            sooner = Some(Duration::ZERO);
            // It is their turn.
            self.waiting.splice(0..0, untried);
        }
        self.show();
        sooner
    }

    /// Brings an Envoy that was started again to everything that can be active.
    pub(super) async fn recover(&mut self) {
        match self.settle(START_LIMIT, &RuleSet::new()).await {
            Ok(()) => tracing::info!("Envoy is back"),
            Err(detail) => tracing::warn!("Envoy is back, but not as it should be: {detail}"),
        }
    }

    /// Waits until Envoy has all that it should have, without what it rejects, and shows how that ends. Of the rules of a
    /// rejected key those that were active `before` stay, and their connections with them, unless these are rejected too.
    ///
    /// # Errors
    /// Why it has not.
    pub(super) async fn settle(&mut self, limit: Duration, before: &RuleSet) -> Result<(), String> {
        loop {
            let target = Target::all(&self.view.borrow().published);
            let mut envoys = self.envoys.clone();
            let outcome = tokio::select! {
                outcome = self.reached(&target, limit) => outcome,
                Ok(()) = envoys.changed() => {
                    if *envoys.borrow() {
                        // It ended, and the next one is here: it has the whole time again.
                        self.envoys.mark_unchanged();
                        continue;
                    }
                    // The next one is brought up to date when it is here.
                    return Err("it ended again".to_owned());
                }
            };
            let outcome = match outcome {
                Ok(()) => Ok(()),
                Err(ActivationError::Apply(error @ ApplyError::Nacked { .. })) => {
                    let before: HashSet<&Entry> = before.iter().collect();
                    if self.set_aside(&error, |entry| before.contains(entry))
                        || self.set_aside(&error, |_| false)
                    {
                        continue;
                    }
                    Err(error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            self.view.send_modify(|view| match (&view.phase, &outcome) {
                // Who ends it, or starts it again, knows more.
                (Phase::Stopping, _) | (Phase::Restarting(_), Err(_)) => {}
                (_, Ok(())) => view.phase = Phase::Running,
                (_, Err(detail)) => view.phase = Phase::Degraded(detail.clone()),
            });
            return outcome;
        }
    }

    /// At the first start: takes out what Envoy rejects, but for what a flag asks for. Gives back what is left to reach; none when
    /// the error is another, or a flag's.
    pub(super) fn without_rejected(&mut self, error: &ActivationError) -> Option<Target> {
        let ActivationError::Apply(error) = error else { return None };
        let set_aside = self.set_aside(error, |entry| entry.source == Source::Flag);
        set_aside.then(|| Target::all(&self.view.borrow().published))
    }

    /// Takes the rules that Envoy rejects out of what it should have, but for those that stay; says whether there were any.
    fn set_aside(&mut self, error: &ApplyError, stays: impl Fn(&Entry) -> bool) -> bool {
        let ApplyError::Nacked { resource, .. } = error else { return false };
        // "listener egress/tcp/80"
        let is_rejected = |key: &RuleKey| resource.split(' ').next_back() == Some(&key.to_string());
        let Some(key) = self.rules.keys().into_iter().find(is_rejected) else { return false };
        let set_aside = set_aside(&mut self.rules, key, &error.to_string(), stays);
        if set_aside.is_empty() {
            return false;
        }
        self.waiting.extend(set_aside);
        match translate(&self.rules, &self.names.resolved(), &self.settings) {
            Ok(snapshot) => self.publish(snapshot),
            // More of them could be.
            Err(error) => tracing::error!("{error}"),
        }
        self.show();
        true
    }
}

/// Takes the rules of a key out of those that Envoy should have, but for those that stay.
pub(super) fn set_aside(
    rules: &mut RuleSet,
    key: RuleKey,
    reason: &str,
    stays: impl Fn(&Entry) -> bool,
) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    rules.retain(|entry| {
        let goes = entry.key() == key && !stays(entry);
        if goes {
            let Entry { direction, rule, source } = entry;
            tracing::warn!("{direction} proxy rule {rule} is not active: {reason}");
            let (direction, rule, reason) = (*direction, rule.clone(), reason.to_owned());
            waiting.push(Waiting { direction, rule, source: *source, reason });
        }
        !goes
    });
    waiting
}
