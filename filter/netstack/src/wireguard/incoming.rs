//! Datagrams on their way in: whom they are from, and what is in them.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn, TunnResult};

use super::{PeerId, Place, Wireguard, set_clock};
use crate::{Instant, Stats};

/// A WireGuard datagram.
#[derive(Clone, Copy)]
pub(crate) struct Datagram<'a> {
    pub(crate) remote: SocketAddr,
    pub(crate) bytes: &'a [u8],
    /// Another stack has handed it over: that one's limit of handshakes has let it pass.
    pub(crate) counted: bool,
}

/// The header in front of a sealed packet, and the tag behind it.
const HEADER: usize = 16;
const TAG: usize = 16;
/// Type of a message with a packet.
const DATA: u8 = 4;

impl Datagram<'_> {
    /// Bytes that it takes to open one like it, whatever it is: an initiation is answered there too.
    pub(crate) fn space(&self) -> usize {
        self.bytes.len().max(148)
    }

    /// Bytes that it takes to open it, if it can hold an inner packet that has one of these lengths with its padding: not every
    /// peer pads.
    pub(crate) fn space_for_packet(&self, padded: RangeInclusive<usize>) -> Option<usize> {
        let space = self.bytes.len().checked_sub(HEADER)?;
        let fits = self.bytes.first() == Some(&DATA) && padded.contains(&space.checked_sub(TAG)?);
        fits.then_some(space)
    }
}

/// What a datagram shows before it is opened.
struct Message {
    place: Place,
    handshake: bool,
    cookie: bool,
}

/// What came in a datagram.
#[derive(Clone, Copy)]
pub(crate) enum Incoming {
    /// An inner packet from a peer, of so many bytes.
    Packet(PeerId, usize),
    /// It is for this other stack to read.
    There(usize),
    /// Nothing to go on with.
    Nothing,
}

impl Wireguard {
    /// Takes a datagram, and opens it at the front of `space`, which has the bytes that [`Datagram::space`] or
    /// [`Datagram::space_for_packet`] says, or more. What they are does not matter.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        datagram: Datagram<'_>,
        space: &mut [u8],
        stats: &mut Stats,
    ) -> Incoming {
        set_clock(now);
        let Some(message) = self.identify(datagram, stats) else { return Incoming::Nothing };
        match message.place {
            Place::There(shard) => Incoming::There(shard),
            Place::Here(id) => match self.open_message(now, id, datagram, &message, space, stats) {
                Some(len) => Incoming::Packet(id, len),
                None => Incoming::Nothing,
            },
        }
    }

    /// The length of the inner packet in it.
    fn open_message(
        &mut self,
        now: Instant,
        id: PeerId,
        datagram: Datagram<'_>,
        message: &Message,
        space: &mut [u8],
        stats: &mut Stats,
    ) -> Option<usize> {
        let Datagram { remote, bytes: datagram, .. } = datagram;
        let peer = self.peers.get_mut(id as usize)?;
        peer.refresh(now, &mut self.datagrams, stats);
        let mut inner = None;
        let mut opened = true;
        match peer.decapsulate(remote, datagram, space) {
            TunnResult::Done => {
                // A cookie reply is not authenticated by the peer's key: it says nothing about where the peer is.
                opened = !message.cookie;
                if opened {
                    peer.authenticated(now, remote, datagram.len());
                }
            }
            TunnResult::WriteToNetwork(answer) => {
                let answer = answer.to_vec();
                peer.authenticated(now, remote, datagram.len());
                if message.handshake {
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
        inner
    }

    /// Whom the datagram is from, and what it is.
    fn identify(&mut self, datagram: Datagram<'_>, stats: &mut Stats) -> Option<Message> {
        let Datagram { remote, bytes, counted } = datagram;
        let Ok(packet) = Tunn::parse_incoming_packet(bytes) else {
            stats.bad_datagram += 1;
            return None;
        };
        let packet = match packet {
            Packet::HandshakeInit(_) | Packet::HandshakeResponse(_) if !counted => {
                self.limit(remote, bytes, stats)?
            }
            other => other,
        };
        let (place, handshake, cookie) = match packet {
            Packet::PacketData(data) => (self.by_index(data.receiver_idx), false, false),
            Packet::PacketCookieReply(reply) => (self.by_index(reply.receiver_idx), false, true),
            Packet::HandshakeResponse(response) => (self.by_index(response.receiver_idx), true, false),
            Packet::HandshakeInit(init) => {
                let Ok(half) = parse_handshake_anon(&self.key, &self.public, &init) else {
                    stats.decrypt_failed += 1;
                    return None;
                };
                (self.by_key.get(&half.peer_static_public).copied(), true, false)
            }
        };
        // What was handed over is for nobody else.
        let place = place.filter(|place| !(counted && matches!(place, Place::There(_))));
        if place.is_none() {
            stats.unknown_peer += 1;
        }
        Some(Message { place: place?, handshake, cookie })
    }

    /// Lets a handshake message pass, or answers it with a cookie.
    fn limit<'a>(&mut self, remote: SocketAddr, datagram: &'a [u8], stats: &mut Stats) -> Option<Packet<'a>> {
        // The limiter resets its count at most once per second, so this is all the timer it needs.
        self.limiter.reset_count();
        let mut cookie = [0; 64];
        match self.limiter.verify_packet(Some(remote.ip()), datagram, &mut cookie) {
            Ok(packet) => return Some(packet),
            Err(TunnResult::WriteToNetwork(reply)) => {
                stats.cookies_sent += 1;
                let reply = reply.to_vec();
                self.datagrams.push(remote, reply, stats);
            }
            Err(_) => stats.bad_datagram += 1,
        }
        None
    }

    /// Whose sessions have a receiver index.
    fn by_index(&self, index: u32) -> Option<Place> {
        let on_the_wire = (index >> 8) as usize;
        let (id, shard) = (on_the_wire / self.shard.count, on_the_wire % self.shard.count);
        if shard != self.shard.index {
            return Some(Place::There(shard));
        }
        self.peers.contains(id).then(|| PeerId::try_from(id).ok()).flatten().map(Place::Here)
    }
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
