//! The rules of one node.

mod index;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use envoy_config::is_host_name;

use self::index::Index;
use super::{Direction, Protocol, Rule, RuleKey};
use crate::duration;

/// The most rules a [`RuleSet`] holds.
pub const MAX_RULES: usize = 10_000;

/// The longest destination host, in bytes: DNS names end at 253, addresses long before.
pub const MAX_HOST_BYTES: usize = 255;

/// Upstream's words for a rule that is there already.
pub(super) const DUPLICATE: &str = "port already in use by another proxy rule";

/// Where a rule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A command line flag: not persisted, comes back with the flag.
    Flag,
    /// The rules file: not persisted, comes back with the file.
    File,
    /// Added at run time: persisted.
    Stored,
}

/// One rule of a [`RuleSet`]. Displays as the flag that gives it: `--egress tcp:80:100.64.0.2:8080`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

/// A bounded, insertion-ordered set of rules, every one of which this node can carry.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    entries: Vec<Entry>,
    /// Of the entries.
    index: Index,
    /// The node's overlay addresses, where they are known.
    addresses: Option<Vec<IpAddr>>,
}

impl RuleSet {
    /// An empty set, for a node whose overlay addresses nobody here knows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty set, for the node with these overlay addresses: ingress rules can be bound to them and to no others.
    #[must_use]
    pub fn of_node(addresses: Vec<IpAddr>) -> Self {
        Self { addresses: Some(addresses), ..Self::default() }
    }

    /// Adds a rule behind all others.
    ///
    /// # Errors
    /// [`RuleSetError`], and the set is unchanged. A rule is a duplicate whatever the sources: upstream accepts a rule once
    /// by flag and once more at run time, then lists it twice.
    pub fn add(&mut self, direction: Direction, rule: Rule, source: Source) -> Result<(), RuleSetError> {
        self.check(direction, &rule)?;
        self.index.insert(direction, &rule);
        self.entries.push(Entry { direction, rule, source });
        Ok(())
    }

    /// Whether a rule can be added.
    ///
    /// # Errors
    /// Those of [`RuleSet::add`].
    pub fn check(&self, direction: Direction, rule: &Rule) -> Result<(), RuleSetError> {
        if rule.host.len() > MAX_HOST_BYTES {
            return Err(RuleSetError::LongHost);
        }
        check_protocol(rule)?;
        self.check_bind(direction, rule)?;
        check_egress_host(direction, rule)?;
        if self.index.contains(direction, rule) {
            return Err(RuleSetError::Duplicate);
        }
        if self.entries.len() >= MAX_RULES {
            return Err(RuleSetError::Full);
        }
        self.check_neighbours(RuleKey::of(direction, rule), rule)
    }

    /// Removes a rule, whatever its source, and says what that was.
    ///
    /// # Errors
    /// [`RuleSetError::NotFound`].
    pub fn remove(&mut self, direction: Direction, rule: &Rule) -> Result<Source, RuleSetError> {
        let position = self.position(direction, rule).ok_or_else(|| RuleSetError::NotFound {
            direction,
            rule: rule.clone(),
            similar: self.similar(direction, rule).map(Box::new),
        })?;
        let source = self.entries.remove(position).source;
        self.index = Index::of(&self.entries);
        Ok(source)
    }

    /// Where a rule of the set comes from; none for one that is not in it.
    #[must_use]
    pub fn source(&self, direction: Direction, rule: &Rule) -> Option<Source> {
        self.position(direction, rule).map(|position| self.entries[position].source)
    }

    /// Removes all rules but these.
    pub fn retain(&mut self, keep: impl FnMut(&Entry) -> bool) {
        self.entries.retain(keep);
        self.index = Index::of(&self.entries);
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

    /// The keys of the rules, each once, in no order.
    #[must_use]
    pub fn keys(&self) -> HashSet<RuleKey> {
        self.entries.iter().map(Entry::key).collect()
    }

    /// The host names among the egress destinations. Those of ingress are looked up by Envoy.
    #[must_use]
    pub fn egress_names(&self) -> BTreeSet<String> {
        let egress = self.entries.iter().filter(|entry| entry.direction == Direction::Egress);
        let hosts = egress.map(|entry| &entry.rule.host);
        hosts.filter(|host| host.parse::<IpAddr>().is_err()).cloned().collect()
    }

    /// Whether there are rules of this key.
    #[must_use]
    pub fn contains_key(&self, key: RuleKey) -> bool {
        self.index.contains_key(key)
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
        let same = |entry: &Entry| entry.direction == direction && entry.rule.identity() == rule.identity();
        self.entries.iter().position(same)
    }

    /// The same rule on another address.
    fn similar(&self, direction: Direction, rule: &Rule) -> Option<Rule> {
        let unbound = |rule: &Rule| {
            let mut rule = rule.clone();
            rule.options.bind = None;
            rule
        };
        let wanted = unbound(rule);
        let similar = |entry: &&Entry| {
            entry.direction == direction && unbound(&entry.rule).identity() == wanted.identity()
        };
        self.entries.iter().find(similar).map(|entry| entry.rule.clone())
    }

    /// Nothing arrives at an overlay address that is not the node's own.
    fn check_bind(&self, direction: Direction, rule: &Rule) -> Result<(), RuleSetError> {
        match (direction, rule.options.bind, &self.addresses) {
            (Direction::Ingress, Some(bind), Some(own)) if !own.contains(&bind) => {
                let own: Vec<_> = own.iter().map(ToString::to_string).collect();
                Err(RuleSetError::ForeignBind { bind, own: own.join(", ") })
            }
            _ => Ok(()),
        }
    }

    /// Whether a rule gets along with the others of its key, and its key with the others of its port.
    fn check_neighbours(&self, key: RuleKey, rule: &Rule) -> Result<(), RuleSetError> {
        for (other, shared) in self.index.neighbours(key) {
            if other == key {
                for ((option, new), (_, old)) in rule.options.shared().into_iter().zip(*shared) {
                    match (new, old) {
                        (Some(new), Some(old)) if new != old => {
                            return Err(RuleSetError::Disagree { key, option, new, old });
                        }
                        _ => {}
                    }
                }
            }
            if key.direction == Direction::Egress && key.bind.is_some() != other.bind.is_some() {
                return Err(RuleSetError::EveryAddress { key, other });
            }
        }
        Ok(())
    }
}

/// UDP has no connections that time out or could be tried.
fn check_protocol(rule: &Rule) -> Result<(), RuleSetError> {
    let given = rule.options.shared().into_iter().find(|(_, value)| value.is_some());
    match given {
        Some((option, _)) if rule.protocol == Protocol::Udp => Err(RuleSetError::Udp { option }),
        _ => Ok(()),
    }
}

/// The overlay is reached by addresses, and by names that are looked up. An ingress host is for Envoy to judge.
fn check_egress_host(direction: Direction, rule: &Rule) -> Result<(), RuleSetError> {
    let possible = rule.host.parse::<IpAddr>().is_ok() || is_host_name(&rule.host);
    if direction == Direction::Egress && !possible {
        return Err(RuleSetError::EgressHost { host: rule.host.clone() });
    }
    Ok(())
}

/// Why a rule cannot be added or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleSetError {
    /// The same rule is in the set. Upstream's text, which says port and means rule.
    #[error("{DUPLICATE} (this rule exists already)")]
    Duplicate,
    /// The set holds [`MAX_RULES`].
    #[error("too many proxy rules: the limit is {MAX_RULES}")]
    Full,
    /// The destination's host is no host.
    #[error("destination host is longer than {MAX_HOST_BYTES} bytes")]
    LongHost,
    /// No such rule. The text is upstream's.
    #[error("no matching {direction} proxy rule found: {rule}{}", hint(similar.as_deref()))]
    NotFound {
        /// Ingress or egress.
        direction: Direction,
        /// The rule that was asked for.
        rule: Rule,
        /// The same rule with another bind address, which is in the set.
        similar: Option<Box<Rule>>,
    },
    /// Rules of one key say different things about it.
    #[error(
        "{option}={} differs from {option}={} of another rule of {key}: rules that share a port share it, give all of them the same or only one",
        duration::text(*new), duration::text(*old)
    )]
    Disagree {
        /// The key.
        key: RuleKey,
        /// The option.
        option: &'static str,
        /// The refused rule's value.
        new: Duration,
        /// The value in the set.
        old: Duration,
    },
    /// An option that a UDP rule cannot have.
    #[error("UDP rules have no {option}: there are no connections; leave it out")]
    Udp {
        /// The option.
        option: &'static str,
    },
    /// An ingress rule for an address that this node does not have.
    #[error(
        "bind={bind} is no overlay address of this node, which has {own}: name one of these, or leave bind out to listen on all"
    )]
    ForeignBind {
        /// The address.
        bind: IpAddr,
        /// The node's.
        own: String,
    },
    /// The kernel gives a port to a socket for all addresses or to sockets for some, not to both.
    #[error(
        "{key} and {other} cannot both be: a rule without bind listens on all addresses of this host; give every rule of the port a bind, or none"
    )]
    EveryAddress {
        /// The refused rule's key.
        key: RuleKey,
        /// The key in the set.
        other: RuleKey,
    },
    /// An egress destination that is nothing one could reach.
    #[error(
        "egress destination {host} is neither an IP address nor a host name (letters, digits, `-`, `_` and `.`, at most 253 characters)"
    )]
    EgressHost {
        /// As written.
        host: String,
    },
}

fn hint(similar: Option<&Rule>) -> String {
    similar.map(|rule| format!("; did you mean {rule}?")).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
