//! Datagrams, and resets, whose peer has no session yet. A handshake takes a round trip; losing the first datagram of every
//! exchange meanwhile would cost the caller seconds.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::wireguard::PeerId;
use crate::{Instant, Stats};

const MAX_PACKETS: usize = 128;
const MAX_BYTES: usize = 256 << 10;
/// Long enough for some handshakes to get lost (they are repeated every 5 s). Whoever asked does not wait longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bounds are for the stack. Past them the peer that has most gives up its oldest packet, so that one that is gone does
/// not keep the others from being reached.
#[derive(Default)]
pub(super) struct Waiting {
    peers: BTreeMap<PeerId, VecDeque<(Instant, Vec<u8>)>>,
    packets: usize,
    bytes: usize,
}

impl Waiting {
    pub(super) fn push(&mut self, now: Instant, peer: PeerId, packet: Vec<u8>, stats: &mut Stats) {
        while self.packets >= MAX_PACKETS || self.bytes + packet.len() > MAX_BYTES {
            let size = |queue: &VecDeque<(Instant, Vec<u8>)>| {
                queue.iter().map(|(_, packet)| packet.len() + MAX_BYTES / MAX_PACKETS).sum::<usize>()
            };
            let most = self.peers.iter().max_by_key(|(_, queue)| size(queue)).map(|(&peer, _)| peer);
            let Some(most) = most else { break };
            self.pop(most);
            stats.session_wait_full += 1;
        }
        self.packets += 1;
        self.bytes += packet.len();
        self.peers.entry(peer).or_default().push_back((now + PATIENCE, packet));
    }

    /// Everything for one peer, oldest first.
    pub(super) fn take(&mut self, peer: PeerId) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.pop(peer)).collect()
    }

    /// The peers that something waits for.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, stats: &mut Stats) {
        let due = |(_, queue): &(&PeerId, &VecDeque<(Instant, Vec<u8>)>)| {
            queue.front().is_some_and(|&(until, _)| until <= now)
        };
        while let Some(peer) = self.peers.iter().find(due).map(|(&peer, _)| peer) {
            self.pop(peer);
            stats.session_wait_expired += 1;
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.peers.values().filter_map(|queue| queue.front()).map(|&(until, _)| until).min()
    }

    fn pop(&mut self, peer: PeerId) -> Option<Vec<u8>> {
        let queue = self.peers.get_mut(&peer)?;
        let (_, packet) = queue.pop_front()?;
        if queue.is_empty() {
            self.peers.remove(&peer);
        }
        self.packets -= 1;
        self.bytes -= packet.len();
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_makes_room() {
        let now = Instant::from_micros(0);
        for (noisy, len) in [(1, 0), (3, 0), (1, 65_000), (3, 65_000)] {
            let (mut waiting, mut stats) = (Waiting::default(), Stats::default());
            waiting.push(now, 2, vec![2], &mut stats);
            for _ in 0..200 {
                waiting.push(now, noisy, vec![1; len], &mut stats);
            }
            waiting.push(now, 4, vec![4], &mut stats);
            assert_eq!((waiting.take(2), waiting.take(4)), (vec![vec![2]], vec![vec![4]]));
            assert_eq!(waiting.take(noisy).len() as u64, 202 - 2 - stats.session_wait_full);
            assert_eq!((waiting.packets, waiting.bytes, waiting.poll_timeout()), (0, 0, None));
        }
    }
}
