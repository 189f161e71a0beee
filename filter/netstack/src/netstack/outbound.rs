//! Inner packets on their way out: flows take turns to fill a batch.

use std::net::SocketAddr;

use super::{Netstack, Route};
use crate::batch::Batch;
use crate::ip::{Cut, Packet};
use crate::tcp::Context;
use crate::wireguard::{PeerId, Wireguard};
use crate::{FlowId, Handover, Instant};

/// Segments that a flow sends before the next one has its turn.
const TURN: u32 = 32;

impl Netstack {
    pub(super) fn fill_from_outbox(&mut self, batch: &mut Batch<'_>) {
        while !batch.is_full()
            && let Some(mut packet) = self.outbox.pop()
        {
            if packet.len() > self.mtu {
                // The answer to a large echo request.
                self.datagrams.push(packet, &mut self.stats);
                continue;
            }
            let destination = Packet::parse(&packet).ok().map(|packet| packet.destination);
            match destination.and_then(|destination| self.route(destination)) {
                Some(Route::Own) => {
                    self.loopback.push(packet, &mut self.stats);
                }
                Some(Route::Peer(peer)) => match self.wireguard.open(self.now, peer, &mut self.stats) {
                    Some(endpoint) if !batch.goes_to(endpoint) => {
                        self.outbox.unpop(packet);
                        return;
                    }
                    Some(endpoint) => self.seal(batch, peer, endpoint, &mut packet),
                    // A reset, after the session of a connection that was silent for long: nobody sends it again.
                    None => self.wait_for_session(peer, packet),
                },
                Some(Route::Elsewhere(shard)) => self.hand_over(shard, Handover::Send(packet)),
                None => self.stats.unroutable += 1,
            }
        }
    }

    pub(super) fn fill_from_datagrams(&mut self, batch: &mut Batch<'_>, packet: &mut Vec<u8>) {
        while !batch.is_full()
            && let Some(mut cut) = self.next_cut()
        {
            match self.route(cut.destination()) {
                None => self.stats.unroutable += 1,
                // It is received at the next `handle_timeout`, and then there is room again.
                Some(Route::Own) if self.loopback.is_full() => {
                    self.cut = Some(cut);
                    return;
                }
                Some(Route::Own) => {
                    self.loopback.push(cut.into_packet(), &mut self.stats);
                }
                Some(Route::Elsewhere(shard)) => self.hand_over(shard, Handover::Send(cut.into_packet())),
                Some(Route::Peer(peer)) => match self.wireguard.open(self.now, peer, &mut self.stats) {
                    None => self.wait_for_session(peer, cut.into_packet()),
                    Some(endpoint) if !batch.goes_to(endpoint) => {
                        self.cut = Some(cut);
                        return;
                    }
                    Some(endpoint) => {
                        while !cut.is_done() && !batch.is_full() {
                            self.stats.fragments_sent += u64::from(cut.next(self.mtu, packet));
                            self.seal(batch, peer, endpoint, packet);
                        }
                        self.cut = Some(cut).filter(|cut| !cut.is_done());
                    }
                },
            }
        }
    }

    fn next_cut(&mut self) -> Option<Cut> {
        if let Some(cut) = self.cut.take() {
            return Some(cut);
        }
        let packet = self.datagrams.pop()?;
        let id = self.packet_id;
        self.packet_id = id.wrapping_add(u32::from(packet.len() > self.mtu));
        Cut::new(packet, id)
    }

    pub(super) fn fill_from_flows(&mut self, batch: &mut Batch<'_>, packet: &mut Vec<u8>) {
        while !batch.is_full()
            && let Some(flow) = self.tcp.next_ready()
        {
            match self.tcp.remote(flow).and_then(|remote| self.route(remote)) {
                None | Some(Route::Elsewhere(_)) => self.park(flow, None),
                Some(Route::Own) => self.loop_back(flow, packet),
                Some(Route::Peer(peer)) => match self.wireguard.open(self.now, peer, &mut self.stats) {
                    None => {
                        self.wireguard.want(self.now, peer, &mut self.stats);
                        self.park(flow, Some(peer));
                    }
                    Some(endpoint) if !batch.goes_to(endpoint) => {
                        self.tcp.again_first(flow);
                        return;
                    }
                    Some(endpoint) => self.take_turn(batch, flow, peer, endpoint, packet),
                },
            }
        }
    }

    fn take_turn(
        &mut self,
        batch: &mut Batch<'_>,
        flow: FlowId,
        peer: PeerId,
        endpoint: SocketAddr,
        packet: &mut Vec<u8>,
    ) {
        let Self { now, tcp, wireguard, outbox, stats, held_back, mtu, .. } = self;
        let mut cx = Context { now: *now, outbox, stats };
        // Sealed, a packet has 32 bytes more.
        let largest = *mtu + 32;
        let (mut left, mut sealed, mut in_place) = (TURN, 0, 0);
        let mut more = true;
        // The first packet shows whether those like it fit to what the batch holds.
        let mut most = if batch.is_empty() { batch.room(largest) } else { 1 };
        while left > 0 && !batch.is_full() {
            let given = tcp.next_segments(&mut cx, flow, most.min(left), &mut |segment| {
                let padded = wireguard.padded(segment.len());
                in_place += u64::from(segment.lend(padded, packet, |packet| {
                    sealed += u64::from(seal(batch, wireguard, *now, (peer, endpoint), packet, held_back));
                }));
            });
            left = if given == 0 { 0 } else { left - given };
            more = given > 0;
            most = batch.room(largest);
        }
        cx.stats.tx_packets += sealed;
        cx.stats.tx_in_place += in_place;
        if more {
            tcp.again(flow);
        }
    }

    fn wait_for_session(&mut self, peer: PeerId, packet: Vec<u8>) {
        self.wireguard.want(self.now, peer, &mut self.stats);
        self.waiting_datagrams.push(self.now, peer, packet, &mut self.stats);
    }

    /// Flows whose peers have a session now, or have none coming, look again.
    pub(super) fn unpark(&mut self) {
        while let Some(peer) = self.wireguard.take_settled() {
            self.tcp.unpark(peer);
            self.requeue(peer);
        }
    }

    /// Datagrams that waited for `peer` go on in front of those that came later. They find their way anew.
    pub(super) fn requeue(&mut self, peer: PeerId) {
        for packet in self.waiting_datagrams.take(peer).into_iter().rev() {
            self.datagrams.unpop(packet);
        }
    }

    fn park(&mut self, flow: FlowId, peer: Option<PeerId>) {
        let (tcp, mut cx) = self.tcp();
        tcp.park(&mut cx, flow, peer);
    }

    /// A flow to ourselves: its segments are received at the next `handle_timeout`.
    fn loop_back(&mut self, flow: FlowId, packet: &mut Vec<u8>) {
        for _ in 0..TURN {
            if self.loopback.is_full() {
                self.waiting.push(flow);
                return;
            }
            let (tcp, mut cx) = self.tcp();
            packet.clear();
            if tcp.next_segments(&mut cx, flow, 1, &mut |segment| segment.append_to(packet)) == 0 {
                return;
            }
            self.loopback.push(packet.clone(), &mut self.stats);
        }
        self.tcp.again(flow);
    }

    fn seal(&mut self, batch: &mut Batch<'_>, peer: PeerId, endpoint: SocketAddr, packet: &mut Vec<u8>) {
        let Self { now, wireguard, stats, held_back, .. } = self;
        packet.resize(wireguard.padded(packet.len()), 0);
        let sealed = seal(batch, wireguard, *now, (peer, endpoint), packet, held_back);
        stats.tx_packets += u64::from(sealed);
    }
}

/// Seals a packet, padded, into the batch. One that does not fit to the others is held back, and so are those that follow it in
/// its burst. False: the peer has no session.
fn seal(
    batch: &mut Batch<'_>,
    wireguard: &mut Wireguard,
    now: Instant,
    (peer, endpoint): (PeerId, SocketAddr),
    packet: &[u8],
    held_back: &mut Vec<(SocketAddr, Vec<u8>)>,
) -> bool {
    let mut sealed = false;
    let datagram = batch.add_with(endpoint, |buffer| {
        sealed = wireguard.seal(now, peer, packet, buffer);
        sealed
    });
    if let Some(datagram) = datagram {
        held_back.push((endpoint, datagram));
    }
    sealed
}
