//! Inner packets on their way in.

use super::{Netstack, Route};
use crate::ip::icmp::{self, Undelivered};
use crate::ip::{self, Packet};
use crate::tcp::segment::Tuple;
use crate::tcp::{Context, Next, RUN_HEADERS, Run};
use crate::wireguard::{Datagram, Incoming, Place};
use crate::{FlowId, Handover};

/// A run of packets, whose flow it is, and who sends it.
pub(super) struct FlowRun {
    run: Run,
    flow: FlowId,
    from: Option<Place>,
    /// More than the first packet has come.
    goes_on: bool,
}

impl Netstack {
    /// Takes a WireGuard datagram.
    pub(super) fn open(&mut self, datagram: Datagram<'_>) {
        let mut opened = std::mem::take(&mut self.opened);
        if opened.len() < datagram.space() {
            opened.resize(datagram.space(), 0);
        }
        let incoming = self
            .open_in_place(datagram, &mut opened)
            .unwrap_or_else(|| self.wireguard.receive(self.now, datagram, &mut opened, &mut self.stats));
        match incoming {
            Incoming::Packet(peer, len) => self.receive(Some(Place::Here(peer)), &opened[..len]),
            Incoming::There(shard) => {
                let Datagram { remote, bytes, .. } = datagram;
                self.hand_over(shard, Handover::Datagram { remote, datagram: bytes.to_vec() });
            }
            Incoming::Nothing => {}
        }
        self.opened = opened;
        self.unpark();
    }

    /// Opens a datagram in the buffer of the stream to which the last packets belonged, where that one's next bytes belong: most
    /// likely it brings them. Meanwhile its headers lie over bytes ahead of those, which are put back. What turns out to be
    /// another packet is copied to `spare`. `None`: it has to be opened elsewhere.
    fn open_in_place(&mut self, datagram: Datagram<'_>, spare: &mut [u8]) -> Option<Incoming> {
        let Self { now, wireguard, tcp, outbox, stats, run, .. } = self;
        let last = run.as_ref().filter(|last| last.goes_on && matches!(last.from, Some(Place::Here(_))))?;
        let (end, before) = last.run.lengths();
        // A peer pads by its own MTU, or not at all.
        let needed = datagram.space_for_packet(end..=end.next_multiple_of(16))?;
        let (next, space) = tcp.space_for_next(stats, last.flow, before, end - before, needed - end)?;
        let mut lent = [0; RUN_HEADERS];
        lent[..before].copy_from_slice(&space[..before]);
        let incoming = wireguard.receive(*now, datagram, space, stats);
        let mut is_next = false;
        if let Incoming::Packet(peer, len) = incoming {
            let packet = &space[..len];
            let seq = last.run.follows(packet).filter(|_| last.from == Some(Place::Here(peer)));
            is_next = seq.is_some_and(|(seq, _)| seq == next);
            if !is_next {
                spare[..len].copy_from_slice(packet);
            }
        }
        space[..before].copy_from_slice(&lent[..before]);
        if !is_next {
            return Some(incoming);
        }
        let mut cx = Context { now: *now, outbox, stats };
        let taken = tcp.receive_more(&mut cx, last.flow, next, Next::InPlace(end - before));
        debug_assert!(taken, "nothing has happened since there was space for it");
        stats.rx_in_place += u64::from(taken);
        Some(Incoming::Nothing)
    }

    /// Takes an inner packet; `None` is ourselves.
    pub(super) fn receive(&mut self, from: Option<Place>, bytes: &[u8]) {
        // The next packet of the stream that the last one belonged to: it comes from where that came from, and goes where that
        // went.
        if let Some(last) = self.run.as_mut().filter(|last| last.from == from)
            && let Some((seq, payload)) = last.run.follows(bytes)
        {
            let mut cx = Context { now: self.now, outbox: &mut self.outbox, stats: &mut self.stats };
            if self.tcp.receive_more(&mut cx, last.flow, seq, Next::Bytes(payload)) {
                last.goes_on = true;
                return;
            }
        }
        self.run = None;
        let Ok((packet, piece)) = Packet::parse_any(bytes) else {
            self.stats.bad_packet += 1;
            return;
        };
        // Nobody speaks for us, and nobody for another peer.
        if from.is_some() && (self.is_own(packet.source) || self.wireguard.route(packet.source) != from) {
            self.stats.bad_source += 1;
            return;
        }
        if !self.is_own(packet.destination) {
            self.stats.not_ours += 1;
            return;
        }
        let Some(piece) = piece else {
            self.receive_whole(from, &packet);
            return;
        };
        let peer = match from {
            None => None,
            Some(Place::Here(peer)) => Some(peer),
            // Only what is whole is handed over.
            Some(Place::There(_)) => {
                self.stats.bad_packet += 1;
                return;
            }
        };
        let whole = self.reassembly.add(self.now, peer, &packet, piece, &mut self.stats);
        match whole.as_deref().map(Packet::parse) {
            Some(Ok(packet)) if ip::checksum_holds(&packet) => self.receive_whole(from, &packet),
            Some(Ok(_)) => self.stats.bad_checksum += 1,
            Some(Err(_)) => self.stats.bad_packet += 1,
            None => {}
        }
    }

    fn receive_whole(&mut self, from: Option<Place>, packet: &Packet<'_>) {
        if from.is_some() && !self.takes(packet) {
            self.hand_over(0, Handover::Received(packet.bytes.to_vec()));
            return;
        }
        match packet.protocol {
            ip::TCP => {
                let (tcp, mut cx) = self.tcp();
                let flow = tcp.receive(&mut cx, packet);
                let begin =
                    |flow| Some(FlowRun { run: Run::begin(packet.bytes)?, flow, from, goes_on: false });
                self.run = flow.and_then(begin);
            }
            ip::UDP => {
                if !self.udp.receive(self.now, packet, &mut self.stats) {
                    self.refuse_udp(packet);
                }
            }
            ip::ICMP | ip::ICMPV6 => self.receive_icmp(from, packet),
            _ => self.stats.unhandled += 1,
        }
    }

    fn receive_icmp(&mut self, from: Option<Place>, packet: &Packet<'_>) {
        if let Some(reply) = icmp::echo_reply(packet) {
            if self.outbox.push(reply, &mut self.stats) {
                self.stats.echo_replies += 1;
            }
        } else if let Some((ident, seq)) = icmp::echo_replied(packet)
            && self.pings.answer(self.now, packet.source, ident, seq)
        {
            self.stats.pongs_received += 1;
        } else if !icmp::undelivered(packet).is_some_and(|message| self.undelivered(from, &message)) {
            self.stats.unhandled += 1;
        }
    }

    /// Whether the message concerns something here.
    fn undelivered(&mut self, from: Option<Place>, message: &Undelivered) -> bool {
        let &Undelivered { protocol, local, remote, seq } = message;
        // Only those who would have carried the packet can know what became of it.
        let way = match self.route(remote.ip()) {
            Some(Route::Own) => from.is_none(),
            Some(Route::Peer(peer)) => from == Some(Place::Here(peer)),
            Some(Route::Elsewhere(shard)) => from == Some(Place::There(shard)),
            None => false,
        };
        let tuple = Tuple { local: local.into(), remote: remote.into() };
        match protocol {
            ip::TCP if way => {
                let (tcp, mut cx) = self.tcp();
                tcp.unreachable(&mut cx, tuple, seq);
                true
            }
            ip::UDP if way => self.udp.unreachable(tuple, &mut self.stats),
            _ => false,
        }
    }

    fn refuse_udp(&mut self, packet: &Packet<'_>) {
        if !self.errors.take(self.now) {
            self.stats.icmp_limited += 1;
        } else if self.outbox.push(icmp::port_unreachable(packet), &mut self.stats) {
            self.stats.unreachable_sent += 1;
        }
    }
}
