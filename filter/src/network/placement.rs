//! Which of a network's threads has which peer.

use envoy_config::{Peer, PublicKey};
use std::collections::HashMap;

/// A peer stays where it is for as long as it is one; a new one goes where there are fewest.
#[derive(Default)]
pub(crate) struct Placement {
    places: HashMap<[u8; 32], usize>,
}

impl Placement {
    /// The place of each of the peers, below `count`; all others are forgotten.
    pub(crate) fn place(&mut self, peers: Vec<Peer>, count: usize) -> Vec<(Peer, usize)> {
        let key = |peer: &Peer| -> [u8; 32] { *PublicKey::as_bytes(&peer.public_key) };
        let known = std::mem::take(&mut self.places);
        let stays = |peer: &Peer| known.get(&key(peer)).copied();
        let mut load = vec![0_usize; count];
        for place in peers.iter().filter_map(stays) {
            if let Some(load) = load.get_mut(place) {
                *load += 1;
            }
        }
        let place = |peer: Peer| {
            let place = stays(&peer).unwrap_or_else(|| {
                let least = load.iter_mut().enumerate().min_by_key(|(_, load)| **load);
                least.map_or(0, |(place, load)| {
                    *load += 1;
                    place
                })
            });
            self.places.insert(key(&peer), place);
            (peer, place)
        };
        peers.into_iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> Peer {
        Peer {
            public_key: PublicKey::from_bytes([number; 32]),
            preshared_key: None,
            endpoint: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
        }
    }

    fn places(placement: &mut Placement, peers: &[u8], count: usize) -> Vec<usize> {
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
        assert_eq!(places(&mut placement, &[], 2), Vec::<usize>::new());
        assert!(placement.places.is_empty());
        assert_eq!(places(&mut placement, &[1, 2, 3], 1), [0; 3]);
    }
}
