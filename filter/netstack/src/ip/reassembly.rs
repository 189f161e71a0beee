//! Putting fragments together again (RFC 791 section 3.2, RFC 8200 section 4.5), in bounded memory.
//!
//! A packet that loses a fragment holds its memory until the timeout, so on a lossy way old remains are the normal
//! case. Room for a new fragment is therefore made by giving up the oldest packet of the peer that holds the most: a
//! flood displaces itself and never the packets of others.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::{Packet, Piece, compose};
use crate::seed::Seeded;
use crate::timers::Timers;
use crate::wireguard::PeerId;
use crate::{Instant, Stats};

/// From a packet's first fragment to arrive. RFC 8200 says 60 s, RFC 1122 60 to 120 s, Linux uses 30 s for IPv4. In a
/// tunnel fragments follow each other closely; 30 s is plenty, and halves what a flood can hold.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest packet over the smallest IPv4 MTU that hosts use (576) has 119 fragments.
const MAX_PIECES: usize = 128;
/// What a packet and a fragment cost in bookkeeping, in bytes. It bounds their numbers too.
const PACKET_COST: usize = 512;
const PIECE_COST: usize = 64;

pub(crate) struct Reassembly {
    packets: HashMap<Key, Partial, Seeded>,
    timers: Timers<Key>,
    /// Bytes held by each peer.
    shares: BTreeMap<Option<PeerId>, usize>,
    bytes: usize,
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    peer: Option<PeerId>,
    source: IpAddr,
    destination: IpAddr,
    /// Part of the key in IPv4 only: in IPv6 the first fragment tells it.
    protocol: Option<u8>,
    id: u32,
}

/// A packet of which something is missing.
#[derive(Default)]
struct Partial {
    /// In order, without overlaps.
    pieces: Vec<(usize, Box<[u8]>)>,
    /// Payload bytes in them.
    received: usize,
    /// Length of the packet's payload, once the last fragment is there.
    total: Option<usize>,
    protocol: u8,
    /// Fragments contradicted each other: nothing of the packet is taken any more, what still comes included (RFC 5722).
    refused: bool,
    cost: usize,
    timer: Option<Instant>,
}

/// What a fragment is to the packet it belongs to.
enum Fit {
    New,
    Repeated,
    Contradicting,
    TooMany,
}

impl Reassembly {
    pub(crate) fn new(seed: u64, limit: usize) -> Self {
        Self {
            packets: HashMap::with_hasher(Seeded(seed)),
            timers: Timers::new(),
            shares: BTreeMap::new(),
            bytes: 0,
            limit,
        }
    }

    /// Takes a fragment; the whole packet, if that was the last one missing.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        peer: Option<PeerId>,
        fragment: &Packet<'_>,
        piece: Piece,
        stats: &mut Stats,
    ) -> Option<Vec<u8>> {
        stats.fragments_received += 1;
        let Packet { source, destination, protocol, payload, .. } = *fragment;
        let most = if source.is_ipv4() { 65_535 - 20 } else { 65_535 };
        let uneven = piece.more && payload.len() % 8 != 0;
        if payload.is_empty() || uneven || piece.offset + payload.len() > most {
            stats.fragment += 1;
            return None;
        }
        if piece.offset == 0 && !piece.more {
            // A whole packet behind a fragment header has nothing to do with others of its identification (RFC 6946).
            return Some(compose(source, destination, protocol, payload));
        }
        let of_key = source.is_ipv4().then_some(protocol);
        let key = Key { peer, source, destination, protocol: of_key, id: piece.id };
        let known = self.packets.get(&key);
        match known.map_or(Fit::New, |partial| partial.fit(piece, payload)) {
            Fit::New => {}
            Fit::Repeated => return None,
            Fit::Contradicting => {
                stats.reassembly_overlap += 1;
                self.refuse(key, stats);
                return None;
            }
            Fit::TooMany => {
                stats.reassembly_full += 1;
                self.refuse(key, stats);
                return None;
            }
        }
        let cost = PIECE_COST + payload.len() + if known.is_none() { PACKET_COST } else { 0 };
        if !self.make_room(key, cost, stats) {
            return None;
        }
        let partial = self.packets.entry(key).or_default();
        if partial.timer.is_none() {
            self.timers.at_latest(key, &mut partial.timer, now + TIMEOUT);
        }
        partial.insert(piece, payload, protocol);
        partial.cost += cost;
        let complete = partial.total == Some(partial.received);
        self.bytes += cost;
        *self.shares.entry(peer).or_default() += cost;
        stats.reassembly_bytes = self.bytes;
        if !complete {
            return None;
        }
        let partial = self.remove(key, stats)?;
        stats.reassembled += 1;
        let payload: Vec<u8> = partial.pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        Some(compose(source, destination, partial.protocol, &payload))
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, stats: &mut Stats) {
        while let Some(key) = self.timers.pop_due(now) {
            if self.remove(key, stats).is_some_and(|partial| !partial.refused) {
                stats.reassembly_timeout += 1;
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// False: there is no room for a fragment of `key`.
    fn make_room(&mut self, key: Key, cost: usize, stats: &mut Stats) -> bool {
        while self.bytes + cost > self.limit {
            stats.reassembly_full += 1;
            let greediest = self.shares.iter().max_by_key(|(_, bytes)| **bytes).map(|(&peer, _)| peer);
            let victim = greediest.and_then(|peer| self.timers.find(|key| key.peer == peer));
            let Some(victim) = victim else { return false };
            self.remove(victim, stats);
            if victim == key {
                return false;
            }
        }
        true
    }

    /// Keeps of a packet only that nothing of it is wanted.
    fn refuse(&mut self, key: Key, stats: &mut Stats) {
        let Some(partial) = self.packets.get_mut(&key) else { return };
        let freed = partial.cost - PACKET_COST;
        partial.refused = true;
        partial.pieces = Vec::new();
        partial.cost = PACKET_COST;
        self.free(key.peer, freed, stats);
    }

    fn remove(&mut self, key: Key, stats: &mut Stats) -> Option<Partial> {
        let mut partial = self.packets.remove(&key)?;
        self.timers.remove(key, &mut partial.timer);
        self.free(key.peer, partial.cost, stats);
        Some(partial)
    }

    fn free(&mut self, peer: Option<PeerId>, bytes: usize, stats: &mut Stats) {
        self.bytes -= bytes;
        stats.reassembly_bytes = self.bytes;
        if let Some(share) = self.shares.get_mut(&peer) {
            *share -= bytes;
            if *share == 0 {
                self.shares.remove(&peer);
            }
        }
    }
}

impl Partial {
    fn fit(&self, piece: Piece, payload: &[u8]) -> Fit {
        if self.refused {
            return Fit::Repeated;
        }
        let end = piece.offset + payload.len();
        let at = self.pieces.partition_point(|&(offset, _)| offset < piece.offset);
        let last = (!piece.more).then_some(end);
        if let Some((offset, bytes)) = self.pieces.get(at)
            && *offset == piece.offset
            && **bytes == *payload
            && (self.total == Some(end)) == last.is_some()
        {
            return Fit::Repeated;
        }
        let before = at.checked_sub(1).and_then(|at| self.pieces.get(at));
        let overlaps = before.is_some_and(|(offset, bytes)| offset + bytes.len() > piece.offset)
            || self.pieces.get(at).is_some_and(|&(offset, _)| offset < end);
        let beyond = self.total.is_some_and(|total| end > total || last.is_some());
        let too_short = last.is_some() && at < self.pieces.len();
        if overlaps || beyond || too_short {
            Fit::Contradicting
        } else if self.pieces.len() >= MAX_PIECES {
            Fit::TooMany
        } else {
            Fit::New
        }
    }

    fn insert(&mut self, piece: Piece, payload: &[u8], protocol: u8) {
        let at = self.pieces.partition_point(|&(offset, _)| offset < piece.offset);
        self.pieces.insert(at, (piece.offset, payload.into()));
        self.received += payload.len();
        if !piece.more {
            self.total = Some(piece.offset + payload.len());
        }
        if piece.offset == 0 {
            self.protocol = protocol;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed parse is a failed test")]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_micros(0);

    /// `len` bytes of packet `id` of a peer, the first ones or the last ones.
    fn add(
        reassembly: &mut Reassembly,
        stats: &mut Stats,
        peer: PeerId,
        id: u32,
        first: bool,
        len: usize,
    ) -> bool {
        let source = IpAddr::from([10, 0, 0, u8::try_from(peer).unwrap()]);
        let bytes = compose(source, [10, 0, 0, 99].into(), 17, &vec![7; len]);
        let packet = Packet::parse(&bytes).unwrap();
        let piece = Piece { id, offset: if first { 0 } else { len }, more: first };
        reassembly.add(NOW, Some(peer), &packet, piece, stats).is_some()
    }

    #[test]
    fn a_flood_displaces_itself_and_not_others() {
        let (mut reassembly, mut stats) = (Reassembly::new(1, 100_000), Stats::default());
        for peer in [1, 2] {
            assert!(!add(&mut reassembly, &mut stats, peer, 1, true, 8000));
        }
        for id in 0..1000 {
            assert!(!add(&mut reassembly, &mut stats, 3, id, true, 1200));
        }
        assert!(stats.reassembly_full > 900);
        // Nor does it keep newcomers out.
        assert!(!add(&mut reassembly, &mut stats, 4, 1, true, 8000));
        for peer in [1, 2, 4] {
            assert!(add(&mut reassembly, &mut stats, peer, 1, false, 8000));
        }
        assert!(add(&mut reassembly, &mut stats, 3, 999, false, 1200), "the newest of the flood");
        assert_eq!((stats.reassembled, stats.reassembly_overlap), (4, 0));
        reassembly.handle_timeout(NOW + TIMEOUT, &mut stats);
        assert_eq!((reassembly.bytes, reassembly.shares.len(), reassembly.poll_timeout()), (0, 0, None));
    }
}
