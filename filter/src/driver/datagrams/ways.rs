//! Which destination a new flow gets.

use envoy_config::{Destination, UdpDestination};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Destinations that take turns, as often as their weights say.
#[derive(Default)]
pub(super) struct Ways {
    ways: Vec<Way>,
    places: HashMap<Arc<Destination>, usize>,
}

struct Way {
    to: Arc<Destination>,
    /// An address, or those that a name stands for; `None`: the name has to be looked up.
    addresses: Option<Vec<SocketAddr>>,
    /// Which of them is next.
    next: usize,
    weight: i64,
    /// See [`Ways::turn`].
    credit: i64,
}

/// What an attempt has come to.
pub(super) enum Attempt<T> {
    Made(T),
    /// Another address may do.
    PassOver,
    /// No other would.
    GiveUp,
}

/// What there is for a new flow.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// What an attempt has made, and of which destination.
    Made(T, Arc<Destination>),
    /// A name that has to be looked up first.
    Name(Arc<Destination>),
    Nothing,
}

impl Ways {
    /// Replaces them. Those that stay keep their turns.
    pub(super) fn set(&mut self, destinations: &[UdpDestination]) {
        let (mut before, places) = (std::mem::take(&mut self.ways), std::mem::take(&mut self.places));
        for to in destinations {
            let addresses = match (&to.destination, &to.addresses) {
                (Destination::Address(address), _) => Some(vec![*address]),
                (Destination::Name { port, .. }, Some(addresses)) => {
                    Some(addresses.iter().map(|ip| SocketAddr::new(*ip, *port)).collect())
                }
                (Destination::Name { .. }, None) => None,
            };
            let weight = i64::from(to.weight);
            let way = match places.get(&to.destination).and_then(|place| before.get_mut(*place)) {
                Some(way) => Way { to: way.to.clone(), addresses, weight, ..*way },
                None => Way { to: Arc::new(to.destination.clone()), addresses, next: 0, weight, credit: 0 },
            };
            self.places.insert(way.to.clone(), self.ways.len());
            self.ways.push(way);
        }
        // What was gained by other weights is no claim to as many turns.
        let total: i64 = self.ways.iter().map(|way| way.weight).sum();
        self.ways.iter_mut().for_each(|way| way.credit = way.credit.clamp(-total, total));
    }

    pub(super) fn has(&self, destination: &Destination) -> bool {
        self.places.contains_key(destination)
    }

    /// Attempts one address after the other until one serves, or nothing can. A destination whose turn it is and that does not is
    /// passed over, and then those behind it have theirs.
    pub(super) fn find<T>(&mut self, mut attempt: impl FnMut(SocketAddr) -> Attempt<T>) -> Found<T> {
        let Some(first) = self.turn() else { return Found::Nothing };
        let (before, from_first) = self.ways.split_at_mut(first);
        for way in from_first.iter_mut().chain(before) {
            let Some(addresses) = &way.addresses else { return Found::Name(way.to.clone()) };
            for _ in 0..addresses.len() {
                let address = addresses[way.next % addresses.len()];
                way.next = way.next.wrapping_add(1);
                match attempt(address) {
                    Attempt::Made(made) => return Found::Made(made, way.to.clone()),
                    Attempt::PassOver => {}
                    Attempt::GiveUp => return Found::Nothing,
                }
            }
        }
        Found::Nothing
    }

    /// Smooth weighted round robin, as in nginx: each gains its weight, and whoever has most pays what all have gained. So a
    /// heavy one has its turns between those of the others, not all of them at once.
    fn turn(&mut self) -> Option<usize> {
        let mut total = 0;
        let mut most: Option<(usize, i64)> = None;
        for (place, way) in self.ways.iter_mut().enumerate() {
            if way.addresses.as_ref().is_some_and(Vec::is_empty) {
                continue;
            }
            way.credit += way.weight;
            total += way.weight;
            // Of several with as much, the first.
            if most.is_none_or(|(_, credit)| way.credit > credit) {
                most = Some((place, way.credit));
            }
        }
        let (place, _) = most?;
        self.ways[place].credit -= total;
        Some(place)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn ways(destinations: &[(&str, Option<&[&str]>, u32)]) -> Vec<UdpDestination> {
        let destination = |(to, addresses, weight): &(&str, Option<&[&str]>, u32)| UdpDestination {
            destination: to.parse().unwrap(),
            addresses: addresses.map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect()),
            weight: *weight,
        };
        destinations.iter().map(destination).collect()
    }

    /// Who the next flows go to.
    fn turns(ways: &mut Ways, count: usize) -> String {
        let turns = (0..count).map(|_| match ways.find(Attempt::Made) {
            Found::Made(address, _) => address.ip().to_string().pop().unwrap(),
            Found::Name(_) => '?',
            Found::Nothing => '-',
        });
        turns.collect()
    }

    #[test]
    fn destinations_take_turns_by_their_weights() {
        let mut some = Ways::default();
        assert_eq!(turns(&mut some, 2), "--");
        some.set(&ways(&[("100.64.0.1:53", None, 1), ("100.64.0.2:53", None, 1)]));
        assert_eq!(turns(&mut some, 5), "12121");
        // A change of the others does not begin anew.
        some.set(&ways(&[
            ("100.64.0.1:53", None, 1),
            ("100.64.0.2:53", None, 1),
            ("100.64.0.3:53", None, 1),
        ]));
        assert_eq!(turns(&mut some, 6), "231231");
        let mut weighted = Ways::default();
        weighted.set(&ways(&[
            ("100.64.0.1:53", None, 5),
            ("100.64.0.2:53", None, 1),
            ("100.64.0.3:53", None, 1),
        ]));
        assert_eq!(turns(&mut weighted, 7), "1121311");
    }

    #[test]
    fn the_addresses_of_a_name_take_turns_in_its_turns() {
        let mut some = Ways::default();
        some.set(&ways(&[
            ("db:53", Some(&["100.64.0.1", "100.64.0.2"]), 1),
            ("100.64.0.3:53", None, 1),
            ("nowhere:53", Some(&[]), 1000),
        ]));
        assert_eq!(turns(&mut some, 6), "132313");
        some.set(&ways(&[("db:53", None, 1)]));
        assert_eq!(turns(&mut some, 2), "??");
        assert!(some.has(&"db:53".parse().unwrap()) && !some.has(&"db:54".parse().unwrap()));
    }

    #[test]
    fn what_does_not_serve_is_passed_over() {
        let mut some = Ways::default();
        some.set(&ways(&[("db:53", Some(&["100.64.0.1", "100.64.0.2"]), 1), ("100.64.0.3:53", None, 1)]));
        let mut attempts = Vec::new();
        for _ in 0..2 {
            let found = some.find(|address| {
                attempts.push(address.ip().to_string().pop().unwrap());
                if attempts.last() == Some(&'3') { Attempt::Made(()) } else { Attempt::PassOver }
            });
            assert!(matches!(found, Found::Made((), _)));
        }
        assert_eq!(attempts, ['1', '2', '3', '3']);
        assert_eq!(some.find(|_| Attempt::PassOver::<()>), Found::Nothing);
        attempts.clear();
        let found = some.find(|address| {
            attempts.push(address.ip().to_string().pop().unwrap());
            Attempt::GiveUp::<()>
        });
        assert_eq!((found, attempts.len()), (Found::Nothing, 1));
    }

    #[test]
    fn other_weights_begin_anew() {
        let mut some = Ways::default();
        some.set(&ways(&[("100.64.0.1:53", None, 1000), ("100.64.0.2:53", None, 1)]));
        assert_eq!(turns(&mut some, 500), "1".repeat(500));
        some.set(&ways(&[("100.64.0.1:53", None, 1), ("100.64.0.2:53", None, 1)]));
        let next = turns(&mut some, 20);
        assert!((8..=12).contains(&next.matches('1').count()), "{next}");
    }
}
