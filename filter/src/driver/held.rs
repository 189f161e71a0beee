//! Datagrams that wait until a name is looked up: few, for a lookup takes long and a client asks again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// Clients whose datagrams wait at once.
const CLIENTS: usize = 64;

/// Datagrams of each.
const DATAGRAMS: usize = 8;

/// What waits, by client.
pub(super) struct Held<K>(HashMap<K, Vec<Vec<u8>>>);

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the first of its client: a name has to be looked up.
    First,
    /// It waits behind others.
    Behind,
    /// There is no room.
    None,
}

impl<K> Default for Held<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Held<K> {
    pub(super) fn hold(&mut self, client: K, payload: &[u8]) -> Place {
        let clients = self.0.len();
        match self.0.entry(client) {
            Entry::Occupied(mut held) if held.get().len() < DATAGRAMS => {
                held.get_mut().push(payload.to_vec());
                Place::Behind
            }
            Entry::Vacant(free) if clients < CLIENTS => {
                free.insert(vec![payload.to_vec()]);
                Place::First
            }
            Entry::Occupied(_) | Entry::Vacant(_) => Place::None,
        }
    }

    /// What has waited for this client, in order.
    pub(super) fn take(&mut self, client: &K) -> Vec<Vec<u8>> {
        self.0.remove(client).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_clients_and_so_many_datagrams_of_each_and_no_more() {
        let mut held = Held::default();
        for client in 0..CLIENTS {
            assert_eq!(held.hold(client, b"first"), Place::First);
        }
        assert_eq!(held.hold(CLIENTS, b"of one more"), Place::None);
        for number in 1..DATAGRAMS {
            assert_eq!(held.hold(7, &[u8::try_from(number).unwrap_or(u8::MAX)]), Place::Behind);
        }
        assert_eq!(held.hold(7, b"one too many"), Place::None);
        let datagrams = held.take(&7);
        assert_eq!(
            (datagrams.len(), &datagrams[0][..], &datagrams[1][..]),
            (DATAGRAMS, &b"first"[..], &[1][..])
        );
        assert!(held.take(&7).is_empty());
        assert_eq!(held.hold(CLIENTS, b"there is room again"), Place::First);
    }
}
