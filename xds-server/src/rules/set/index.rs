//! What a set of rules is asked for with every rule that is added, so that ten thousand of them take no time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use super::{Direction, Entry, Protocol, Rule, RuleKey};

/// The options that the rules of a key share: by name, as [`RuleOptions::shared`](super::super::RuleOptions::shared)
/// lists them, what the first rule says that says anything.
type Shared = [(&'static str, Option<Duration>); 2];

/// An owned [`Identity`](super::super::Identity) with its direction.
type Owned = (Direction, Protocol, u16, Option<IpAddr>, String, u16);

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    rules: HashSet<Owned>,
    /// The keys by port; of a port in order.
    ports: HashMap<(Direction, Protocol, u16), BTreeMap<Option<IpAddr>, Shared>>,
}

impl Index {
    pub(super) fn of(entries: &[Entry]) -> Self {
        let mut index = Self::default();
        entries.iter().for_each(|entry| index.insert(entry.direction, &entry.rule));
        index
    }

    pub(super) fn insert(&mut self, direction: Direction, rule: &Rule) {
        self.rules.insert(owned(direction, rule));
        let key = RuleKey::of(direction, rule);
        let keys = self.ports.entry(port(key)).or_default();
        let shared = keys.entry(key.bind).or_insert_with(|| rule.options.shared());
        for ((_, known), (_, new)) in shared.iter_mut().zip(rule.options.shared()) {
            *known = known.or(new);
        }
    }

    /// Whether the same rule is in the set.
    pub(super) fn contains(&self, direction: Direction, rule: &Rule) -> bool {
        self.rules.contains(&owned(direction, rule))
    }

    /// Whether a rule of this key is in the set.
    pub(super) fn contains_key(&self, key: RuleKey) -> bool {
        self.ports.get(&port(key)).is_some_and(|keys| keys.contains_key(&key.bind))
    }

    /// The keys on the port of this one, with what their rules share.
    pub(super) fn neighbours(&self, key: RuleKey) -> impl Iterator<Item = (RuleKey, &Shared)> {
        let keys = self.ports.get(&port(key)).into_iter().flatten();
        keys.map(move |(bind, shared)| (RuleKey { bind: *bind, ..key }, shared))
    }
}

fn port(key: RuleKey) -> (Direction, Protocol, u16) {
    (key.direction, key.protocol, key.port)
}

fn owned(direction: Direction, rule: &Rule) -> Owned {
    let (protocol, port, bind, host, destination_port) = rule.identity();
    (direction, protocol, port, bind, host.to_owned(), destination_port)
}
