//! Which of a network's threads has which peer.

use envoy_config::Peer;
use nexodus_netstack::AllowedIps;
use std::collections::{HashMap, HashSet};

/// How many peers are remembered, those that are peers no more included.
const MAX_KNOWN: usize = 20_000;

/// A peer stays where it is, also while it is none for a time; one that takes over an address goes where that was, because there
/// are the connections with it; any other new one goes where there are fewest.
#[derive(Default)]
pub(crate) struct Placement {
    places: HashMap<[u8; 32], usize>,
    /// Where the networks of the present peers are.
    routes: AllowedIps<usize>,
}

impl Placement {
    /// The place of each of the peers, below `count`.
    pub(crate) fn place(&mut self, peers: Vec<Peer>, count: usize) -> Vec<(Peer, usize)> {
        let key = |peer: &Peer| *peer.public_key.as_bytes();
        if self.places.len() + peers.len() > MAX_KNOWN {
            let present: HashSet<_> = peers.iter().map(key).collect();
            self.places.retain(|key, _| present.contains(key));
        }
        let mut load = vec![0_usize; count];
        for place in peers.iter().filter_map(|peer| self.places.get(&key(peer))) {
            load[*place] += 1;
        }
        let mut placed = Vec::with_capacity(peers.len());
        for peer in peers {
            let place = self.places.get(&key(&peer)).copied().unwrap_or_else(|| {
                let heir = || peer.allowed_ips.iter().find_map(|net| self.routes.get(*net));
                let least = || (0..count).min_by_key(|place| load[*place]).unwrap_or_default();
                let place = heir().unwrap_or_else(least);
                load[place] += 1;
                self.places.insert(key(&peer), place);
                place
            });
            placed.push((peer, place));
        }
        self.routes = routes(&placed);
        placed
    }
}

/// Which shard an overlay address belongs to.
pub(crate) fn routes(peers: &[(Peer, usize)]) -> AllowedIps<usize> {
    let mut routes = AllowedIps::default();
    for (peer, shard) in peers {
        peer.allowed_ips.iter().for_each(|net| routes.insert(*net, *shard));
    }
    routes
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use envoy_config::PublicKey;

    fn peer(number: u16) -> Peer {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_le_bytes());
        Peer {
            public_key: PublicKey::from_bytes(key),
            preshared_key: None,
            endpoint: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
        }
    }

    fn places(placement: &mut Placement, peers: &[u16], count: usize) -> Vec<usize> {
        let peers = peers.iter().copied().map(peer).collect();
        placement.place(peers, count).into_iter().map(|(_, place)| place).collect()
    }

    #[test]
    fn peers_are_dealt_out_evenly_and_stay_where_they_are() {
        let mut placement = Placement::default();
        assert_eq!(places(&mut placement, &[1, 2, 3, 4, 5], 2), [0, 1, 0, 1, 0]);
        assert_eq!(places(&mut placement, &[5, 4, 6, 7], 2), [0, 1, 0, 1]);
        // Two of one place have gone.
        assert_eq!(places(&mut placement, &[4, 7, 8, 9, 10], 2), [1, 1, 0, 0, 0]);
        // Others have come back, to where they were.
        assert_eq!(places(&mut placement, &[2, 11, 1], 2), [1, 0, 0]);
        assert_eq!(places(&mut placement, &[], 2), Vec::<usize>::new());
        assert_eq!(places(&mut Placement::default(), &[1, 2, 3], 1), [0; 3]);
    }

    #[test]
    fn an_address_stays_where_it_is_when_its_peer_has_another_key() {
        let with = |number, net: &str| Peer { allowed_ips: vec![net.parse().unwrap()], ..peer(number) };
        let mut placement = Placement::default();
        let mut place = |peers: Vec<Peer>| -> Vec<usize> {
            placement.place(peers, 2).into_iter().map(|(_, place)| place).collect()
        };
        assert_eq!(
            place(vec![with(1, "100.64.0.1/32"), with(2, "100.64.0.2/32"), with(3, "0.0.0.0/0")]),
            [0, 1, 0]
        );
        // The least loaded place would be the first one; the default route is no address that it takes over.
        assert_eq!(place(vec![with(4, "100.64.0.2/32"), with(5, "100.64.0.5/32")]), [1, 0]);
    }

    #[test]
    fn those_who_are_gone_are_not_remembered_for_ever() {
        let mut placement = Placement::default();
        let all: Vec<u16> = (0..60_000).collect();
        for some in all.chunks(5000) {
            places(&mut placement, some, 2);
            assert!(placement.places.len() <= MAX_KNOWN);
        }
    }
}
