//! The rules of one node.

use std::{collections::HashMap, fmt, net::IpAddr};

use super::{Direction, Rule, RuleKey};

/// The most rules a [`RuleSet`] holds.
pub const MAX_RULES: usize = 10_000;

/// The longest destination host, in bytes: DNS names end at 253, addresses long before.
pub const MAX_HOST_BYTES: usize = 255;

/// Where a rule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A command line flag: not persisted, comes back with the flag.
    Flag,
    /// Added at run time: persisted.
    Stored,
}

/// One rule of a [`RuleSet`]. Displays as the flag that gives it: `--egress tcp:80:100.64.0.2:8080`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Ingress or egress.
    pub direction: Direction,
    /// The rule.
    pub rule: Rule,
    /// Where it comes from.
    pub source: Source,
}

impl Entry {
    /// The listener and cluster that carry this rule.
    #[must_use]
    pub const fn key(&self) -> RuleKey {
        RuleKey::of(self.direction, &self.rule)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {}", self.direction, self.rule)
    }
}

/// A bounded, insertion-ordered set of rules, every one of which this release can carry.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    entries: Vec<Entry>,
}

impl RuleSet {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule behind all others.
    ///
    /// # Errors
    /// [`RuleSetError::LongHost`], [`RuleSetError::Unsupported`], [`RuleSetError::Duplicate`] (whatever the source: upstream accepts a rule once
    /// by flag and once more at run time, then lists it twice) or [`RuleSetError::Full`]; the set is unchanged.
    pub fn add(&mut self, direction: Direction, rule: Rule, source: Source) -> Result<(), RuleSetError> {
        if rule.host.len() > MAX_HOST_BYTES {
            return Err(RuleSetError::LongHost);
        }
        supported(direction, &rule)?;
        if self.position(direction, &rule).is_some() {
            return Err(RuleSetError::Duplicate);
        }
        if self.entries.len() >= MAX_RULES {
            return Err(RuleSetError::Full);
        }
        self.entries.push(Entry { direction, rule, source });
        Ok(())
    }

    /// Removes a rule, whatever its source, and says what that was.
    ///
    /// # Errors
    /// [`RuleSetError::NotFound`].
    pub fn remove(&mut self, direction: Direction, rule: &Rule) -> Result<Source, RuleSetError> {
        let position = self
            .position(direction, rule)
            .ok_or_else(|| RuleSetError::NotFound { direction, rule: rule.clone() })?;
        Ok(self.entries.remove(position).source)
    }

    /// All rules in the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The rules by key: keys in the order of their first rule, the rules of a key in the order of adding, which is
    /// the order of load balancing.
    #[must_use]
    pub fn by_key(&self) -> Vec<(RuleKey, Vec<&Rule>)> {
        let mut index = HashMap::new();
        let mut groups: Vec<(RuleKey, Vec<&Rule>)> = Vec::new();
        for entry in &self.entries {
            let position = *index.entry(entry.key()).or_insert(groups.len());
            if position == groups.len() {
                groups.push((entry.key(), Vec::new()));
            }
            groups[position].1.push(&entry.rule);
        }
        groups
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, direction: Direction, rule: &Rule) -> Option<usize> {
        self.entries.iter().position(|entry| entry.direction == direction && entry.rule == *rule)
    }
}

/// What this release does not carry yet. Each check here stands alone: a release that learns to carry something
/// deletes its check and its [`Unsupported`] variant.
fn supported(direction: Direction, rule: &Rule) -> Result<(), Unsupported> {
    if direction == Direction::Egress && rule.host.parse::<IpAddr>().is_err() {
        return Err(Unsupported::EgressHostname(rule.clone()));
    }
    Ok(())
}

/// Why a rule cannot be added or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleSetError {
    /// The same rule is in the set. The text is upstream's.
    #[error("port already in use by another proxy rule")]
    Duplicate,
    /// The set holds [`MAX_RULES`].
    #[error("too many proxy rules: the limit is {MAX_RULES}")]
    Full,
    /// The destination's host is no host.
    #[error("destination host is longer than {MAX_HOST_BYTES} bytes")]
    LongHost,
    /// No such rule. The text is upstream's.
    #[error("no matching {direction} proxy rule found: {rule}")]
    NotFound {
        /// Ingress or egress.
        direction: Direction,
        /// The rule that was asked for.
        rule: Rule,
    },
    /// The rule is correct, but this release cannot carry it.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// A correct rule that this release cannot carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// An egress destination that is a hostname.
    #[error("egress destinations must be IP addresses in this release: {0}")]
    EgressHostname(Rule),
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
