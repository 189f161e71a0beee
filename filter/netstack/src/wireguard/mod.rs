//! WireGuard over boringtun's `noise`: who sent a datagram, whom a packet goes to, and when timers run.
//!
//! boringtun takes no `now`. Its `mock-instant` feature reads a thread-local clock instead of the system's; every entry
//! of this module sets that clock first, so production and simulation run the same code.

mod allowed_ips;
mod peer;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use mock_instant::MockClock;
use slab::Slab;

use crate::timers::Timers;
use crate::{ConfigError, Instant, PeerConfig, PeerStatus, Stats};
use allowed_ips::AllowedIps;
use peer::Peer;

/// Index of a peer. It is also the upper 24 bits of the receiver indices its sessions use.
pub(crate) type PeerId = u32;

/// Message type of a handshake initiation (WireGuard paper, section 5.4.2).
const HANDSHAKE_INITIATION: u8 = 1;
/// boringtun puts the peer's index into the upper 24 bits of receiver indices.
const MAX_PEERS: usize = 1 << 24;
/// Handshake messages per second before cookies are asked for.
const HANDSHAKE_RATE: u64 = 100;
/// WireGuard's own datagrams that wait to be sent.
const MAX_DATAGRAMS: usize = 4096;

pub(crate) struct Wireguard {
    key: StaticSecret,
    public: PublicKey,
    peers: Slab<Peer>,
    by_key: HashMap<[u8; 32], PeerId, BuildHasherDefault<DefaultHasher>>,
    allowed_ips: AllowedIps,
    /// The one that counts: it sees every handshake message before any expensive mathematics.
    limiter: RateLimiter,
    /// What the peers' own check uses: MAC 1 only, everything was counted already.
    unlimited: Arc<RateLimiter>,
    timers: Timers<PeerId>,
    datagrams: Datagrams,
    /// Peers for which waiting is over: they got a session, or gave up.
    settled: Vec<PeerId>,
    mtu: usize,
}

impl Wireguard {
    pub(crate) fn new(now: Instant, private_key: [u8; 32], mtu: u16) -> Self {
        set_clock(now);
        let key = StaticSecret::from(private_key);
        let public = PublicKey::from(&key);
        Self {
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
        }
    }

    pub(crate) fn set_peers(
        &mut self,
        now: Instant,
        peers: Vec<PeerConfig>,
        stats: &mut Stats,
    ) -> Result<(), ConfigError> {
        set_clock(now);
        if peers.len() >= MAX_PEERS {
            return Err(ConfigError::TooManyPeers(peers.len()));
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
        let gone: Vec<PeerId> = self
            .by_key
            .iter()
            .filter(|&(key, &id)| {
                !wanted.get(key).is_some_and(|&index| self.peers[id as usize].keeps_sessions(&peers[index]))
            })
            .map(|(_, &id)| id)
            .collect();
        for id in gone {
            let mut peer = self.peers.remove(id as usize);
            self.timers.remove(id, &mut peer.timer);
            self.by_key.remove(&peer.config().public_key);
        }
        self.allowed_ips = AllowedIps::default();
        for config in peers {
            let id = if let Some(&id) = self.by_key.get(&config.public_key) {
                self.peers[id as usize].reconfigure(config);
                id
            } else {
                let entry = self.peers.vacant_entry();
                // Checked above: fewer than 2^24 peers.
                let id = PeerId::try_from(entry.key()).unwrap_or_default();
                self.by_key.insert(config.public_key, id);
                entry.insert(Peer::new(now, &self.key, config, id, Arc::clone(&self.unlimited)));
                id
            };
            for &net in &self.peers[id as usize].config().allowed_ips {
                self.allowed_ips.insert(net, id);
            }
            self.tick(now, id, stats);
        }
        Ok(())
    }

    /// The peer that `address` is routed to.
    pub(crate) fn route(&self, address: IpAddr) -> Option<PeerId> {
        self.allowed_ips.lookup(address)
    }

    /// Takes a datagram; the peer and the inner packet it carried, if it did. `space` is where packets are opened: it grows as
    /// needed, and what it holds does not matter.
    pub(crate) fn receive<'a>(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        datagram: &[u8],
        space: &'a mut Vec<u8>,
        stats: &mut Stats,
    ) -> Option<(PeerId, &'a [u8])> {
        set_clock(now);
        let (id, handshake, cookie) = self.identify(remote, datagram, stats)?;
        let peer = self.peers.get_mut(id as usize)?;
        peer.refresh(now, &mut self.datagrams, stats);
        let needed = datagram.len().max(148) + 32;
        if space.len() < needed {
            space.resize(needed, 0);
        }
        let mut inner = None;
        let mut opened = true;
        match peer.decapsulate(remote, datagram, space) {
            TunnResult::Done => {
                // A cookie reply is not authenticated by the peer's key: it says nothing about where the peer is.
                opened = !cookie;
                if opened {
                    peer.authenticated(now, remote, datagram.len());
                }
            }
            TunnResult::WriteToNetwork(answer) => {
                let answer = answer.to_vec();
                peer.authenticated(now, remote, datagram.len());
                if handshake {
                    peer.completed_handshake(now);
                    stats.handshakes += 1;
                }
                peer.send(now, answer, &mut self.datagrams, stats);
            }
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                inner = Some(packet.len());
                peer.authenticated(now, remote, datagram.len());
                peer.received_data(now);
                stats.rx_packets += 1;
            }
            TunnResult::Err(error) => {
                opened = false;
                count(&error, stats);
            }
        }
        if opened && peer.is_wanted() && peer.has_session() {
            peer.set_wanted(false);
            self.settled.push(id);
        }
        self.schedule(now, id);
        inner.map(|len| (id, &space[..len]))
    }

    /// Whom the datagram is from, whether it is a handshake message, whether it is a cookie reply.
    fn identify(
        &mut self,
        remote: SocketAddr,
        datagram: &[u8],
        stats: &mut Stats,
    ) -> Option<(PeerId, bool, bool)> {
        let Ok(packet) = Tunn::parse_incoming_packet(datagram) else {
            stats.bad_datagram += 1;
            return None;
        };
        let by_index = |index: u32| Some(index >> 8).filter(|&id| self.peers.contains(id as usize));
        let (id, handshake, cookie) = match packet {
            Packet::PacketData(data) => (by_index(data.receiver_idx), false, false),
            Packet::PacketCookieReply(reply) => (by_index(reply.receiver_idx), false, true),
            Packet::HandshakeInit(_) | Packet::HandshakeResponse(_) => {
                // The limiter resets its count at most once per second, so this is all the timer it needs.
                self.limiter.reset_count();
                let mut cookie = [0; 64];
                match self.limiter.verify_packet(Some(remote.ip()), datagram, &mut cookie) {
                    Ok(Packet::HandshakeInit(init)) => {
                        let Ok(half) = parse_handshake_anon(&self.key, &self.public, &init) else {
                            stats.decrypt_failed += 1;
                            return None;
                        };
                        (self.by_key.get(&half.peer_static_public).copied(), true, false)
                    }
                    Ok(Packet::HandshakeResponse(response)) => (by_index(response.receiver_idx), true, false),
                    Err(TunnResult::WriteToNetwork(reply)) => {
                        stats.cookies_sent += 1;
                        let reply = reply.to_vec();
                        self.datagrams.push(remote, reply, stats);
                        return None;
                    }
                    _ => {
                        stats.bad_datagram += 1;
                        return None;
                    }
                }
            }
        };
        if id.is_none() {
            stats.unknown_peer += 1;
        }
        Some((id?, handshake, cookie))
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

    /// A peer whose session came, or will not come: those who wait look again.
    pub(crate) fn take_settled(&mut self) -> Option<PeerId> {
        self.settled.pop()
    }

    /// Seals an inner packet at the end of `out`; pads it first. False without a session.
    pub(crate) fn seal(&mut self, now: Instant, id: PeerId, packet: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        set_clock(now);
        let Some(peer) = self.peers.get_mut(id as usize) else { return false };
        // Lengths are hidden up to 16 bytes, but never past the MTU (WireGuard paper, section 5.4.6).
        let padded = packet.len().next_multiple_of(16).min(self.mtu).max(packet.len());
        packet.resize(padded, 0);
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

fn count(error: &WireGuardError, stats: &mut Stats) {
    let counter = match error {
        WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter
        | WireGuardError::WrongTai64nTimestamp => &mut stats.replayed,
        WireGuardError::InvalidAeadTag | WireGuardError::WrongKey => &mut stats.decrypt_failed,
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex | WireGuardError::UnexpectedPacket => {
            &mut stats.no_session
        }
        WireGuardError::InvalidPacket => &mut stats.bad_packet,
        _ => &mut stats.bad_datagram,
    };
    *counter += 1;
}
