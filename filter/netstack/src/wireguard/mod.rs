//! WireGuard over boringtun's `noise`: who sent a datagram, whom a packet goes to, and when timers run.
//!
//! boringtun takes no `now`. Its `mock-instant` feature reads a thread-local clock instead of the system's; every entry
//! of this module sets that clock first, so production and simulation run the same code.

mod allowed_ips;
mod apart;
mod incoming;
mod peer;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::{PublicKey, StaticSecret};
use mock_instant::MockClock;
use slab::Slab;

use crate::timers::Timers;
use crate::{ConfigError, Instant, PeerConfig, PeerStatus, Shard, Stats};
pub use allowed_ips::AllowedIps;
pub(crate) use incoming::{Datagram, Incoming};
use peer::Peer;

/// Index of a peer of this stack. The upper 24 bits of the receiver indices of its sessions are this number times the count of
/// the interface's stacks, plus the number of this one.
pub(crate) type PeerId = u32;

/// Whose an address or a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A peer's of this stack.
    Here(PeerId),
    /// A peer's of this other stack.
    There(usize),
}

/// boringtun puts the peer's index into the upper 24 bits of receiver indices.
const MAX_PEERS: usize = 1 << 24;
const MAX_SHARDS: usize = 1 << 16;
/// Handshake messages per second before cookies are asked for.
const HANDSHAKE_RATE: u64 = 100;
/// WireGuard's own datagrams that wait to be sent.
const MAX_DATAGRAMS: usize = 4096;

pub(crate) struct Wireguard {
    key: StaticSecret,
    public: PublicKey,
    peers: Slab<Peer>,
    by_key: HashMap<[u8; 32], Place, BuildHasherDefault<DefaultHasher>>,
    allowed_ips: AllowedIps<Place>,
    /// The one that counts: it sees every handshake message before any expensive mathematics.
    limiter: RateLimiter,
    /// What the peers' own check uses: MAC 1 only, everything was counted already.
    unlimited: Arc<RateLimiter>,
    timers: Timers<PeerId>,
    datagrams: Datagrams,
    /// Peers for which waiting is over: they got a session, or gave up.
    settled: Vec<PeerId>,
    mtu: usize,
    shard: Shard,
}

impl Wireguard {
    pub(crate) fn new(
        now: Instant,
        private_key: [u8; 32],
        mtu: u16,
        shard: Shard,
    ) -> Result<Self, ConfigError> {
        let Shard { index, count } = shard;
        if index >= count || count > MAX_SHARDS {
            return Err(ConfigError::NoShard { index, count });
        }
        set_clock(now);
        let key = StaticSecret::from(private_key);
        let public = PublicKey::from(&key);
        Ok(Self {
            limiter: RateLimiter::new(&public, HANDSHAKE_RATE),
            unlimited: Arc::new(RateLimiter::new(&public, u64::MAX)),
            key,
            public,
            peers: Slab::new(),
            by_key: HashMap::default(),
            allowed_ips: AllowedIps::default(),
            timers: Timers::new(),
            datagrams: Datagrams::default(),
            settled: Vec::new(),
            mtu: mtu.into(),
            shard,
        })
    }

    pub(crate) fn set_peers(
        &mut self,
        now: Instant,
        peers: Vec<PeerConfig>,
        stats: &mut Stats,
    ) -> Result<(), ConfigError> {
        set_clock(now);
        let count = self.shard.count;
        if peers.len() >= MAX_PEERS / count {
            return Err(ConfigError::TooManyPeers(peers.len()));
        }
        if let Some(peer) = peers.iter().find(|peer| peer.shard >= count) {
            return Err(ConfigError::NoShard { index: peer.shard, count });
        }
        let mut wanted: HashMap<[u8; 32], usize, BuildHasherDefault<DefaultHasher>> = HashMap::default();
        for (index, peer) in peers.iter().enumerate() {
            if peer.public_key == *self.public.as_bytes() {
                return Err(ConfigError::OwnKey(index));
            }
            if wanted.insert(peer.public_key, index).is_some() {
                return Err(ConfigError::DuplicatePeer(index));
            }
        }
        let mut known = std::mem::take(&mut self.by_key);
        self.by_key = HashMap::with_capacity_and_hasher(peers.len(), BuildHasherDefault::default());
        known.retain(|key, place| {
            let Place::Here(id) = *place else { return false };
            let stays = wanted.get(key).is_some_and(|&index| {
                let config = &peers[index];
                config.shard == self.shard.index && self.peers[id as usize].keeps_sessions(config)
            });
            if !stays {
                let mut peer = self.peers.remove(id as usize);
                self.timers.remove(id, &mut peer.timer);
            }
            stays
        });
        self.allowed_ips = AllowedIps::default();
        for config in peers {
            let (key, nets) = (config.public_key, config.allowed_ips.clone());
            let place = match known.get(&key) {
                _ if config.shard != self.shard.index => Place::There(config.shard),
                Some(&Place::Here(id)) => {
                    self.peers[id as usize].reconfigure(config);
                    Place::Here(id)
                }
                _ => Place::Here(self.add(now, config)),
            };
            self.by_key.insert(key, place);
            for net in nets {
                self.allowed_ips.insert(net, place);
            }
            if let Place::Here(id) = place {
                self.tick(now, id, stats);
            }
        }
        Ok(())
    }

    fn add(&mut self, now: Instant, config: PeerConfig) -> PeerId {
        let entry = self.peers.vacant_entry();
        // Checked before: fewer than 2^24 peers of all stacks together.
        let on_the_wire =
            u32::try_from(entry.key() * self.shard.count + self.shard.index).unwrap_or_default();
        let id = PeerId::try_from(entry.key()).unwrap_or_default();
        entry.insert(Peer::new(now, &self.key, config, on_the_wire, Arc::clone(&self.unlimited)));
        id
    }

    /// Whose `address` is.
    pub(crate) fn route(&self, address: IpAddr) -> Option<Place> {
        self.allowed_ips.lookup(address)
    }

    /// The peer's endpoint, when packets can be sealed for it now.
    pub(crate) fn open(&mut self, now: Instant, id: PeerId, stats: &mut Stats) -> Option<SocketAddr> {
        set_clock(now);
        let peer = self.peers.get_mut(id as usize)?;
        peer.refresh(now, &mut self.datagrams, stats);
        let endpoint = peer.open();
        if peer.take_gave_up() {
            self.settled.push(id);
        }
        endpoint
    }

    /// Something waits for a session with this peer: it shows up in `take_settled` later.
    pub(crate) fn want(&mut self, now: Instant, id: PeerId, stats: &mut Stats) {
        set_clock(now);
        let Some(peer) = self.peers.get_mut(id as usize) else { return };
        peer.set_wanted(true);
        peer.initiate(now, &mut self.datagrams, stats);
        self.schedule(now, id);
    }

    /// Starts a handshake with every peer that can be reached.
    pub(crate) fn introduce(&mut self, now: Instant, stats: &mut Stats) {
        set_clock(now);
        let ids: Vec<PeerId> = self.peers.iter().filter_map(|(id, _)| PeerId::try_from(id).ok()).collect();
        for id in ids {
            if let Some(peer) = self.peers.get_mut(id as usize) {
                peer.introduce(now, &mut self.datagrams, stats);
                self.schedule(now, id);
            }
        }
    }

    /// A peer whose session came, or will not come: those who wait look again.
    pub(crate) fn take_settled(&mut self) -> Option<PeerId> {
        self.settled.pop()
    }

    /// Bytes that a packet of `len` bytes has when zeros are put behind it: lengths are hidden up to 16 bytes, but never past
    /// the MTU (WireGuard paper, section 5.4.6).
    pub(crate) fn padded(&self, len: usize) -> usize {
        len.next_multiple_of(16).min(self.mtu).max(len)
    }

    /// Seals an inner packet, padded, at the end of `out`. False without a session.
    pub(crate) fn seal(&mut self, now: Instant, id: PeerId, packet: &[u8], out: &mut Vec<u8>) -> bool {
        set_clock(now);
        let Some(peer) = self.peers.get_mut(id as usize) else { return false };
        let sealed = peer.encapsulate(now, packet, out);
        self.schedule(now, id);
        sealed
    }

    /// The next of WireGuard's own datagrams.
    pub(crate) fn poll_datagram(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.datagrams.0.pop_front()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, stats: &mut Stats) {
        set_clock(now);
        while let Some(id) = self.timers.pop_due(now) {
            if let Some(peer) = self.peers.get_mut(id as usize) {
                peer.timer = None;
                self.tick(now, id, stats);
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(crate) fn status(&self, now: Instant) -> impl Iterator<Item = PeerStatus> {
        self.peers.iter().map(move |(_, peer)| peer.status(now))
    }

    fn tick(&mut self, now: Instant, id: PeerId, stats: &mut Stats) {
        if let Some(peer) = self.peers.get_mut(id as usize) {
            peer.tick(now, &mut self.datagrams, stats);
        }
        self.schedule(now, id);
    }

    fn schedule(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id as usize) else { return };
        if peer.take_gave_up() {
            self.settled.push(id);
        }
        if let Some(at) = peer.deadline(now) {
            // Never due at once again: a tick has just been done or is not wanted before the next instant.
            self.timers.at_latest(id, &mut peer.timer, at.max(now + Duration::from_millis(1)));
        }
    }
}

/// WireGuard's own datagrams (handshakes, keepalives, cookies) on their way out.
#[derive(Default)]
struct Datagrams(VecDeque<(SocketAddr, Vec<u8>)>);

impl Datagrams {
    fn push(&mut self, destination: SocketAddr, datagram: Vec<u8>, stats: &mut Stats) {
        if self.0.len() < MAX_DATAGRAMS {
            self.0.push_back((destination, datagram));
        } else {
            stats.queue_full += 1;
        }
    }
}

/// boringtun's clock is thread-local and shared by every stack of a thread.
fn set_clock(now: Instant) {
    MockClock::set_time(Duration::from_micros(now.as_micros()));
}
