//! What this stack and the others of its interface do for each other.

use super::{Netstack, Route};
use crate::ip::{self, Packet, icmp};
use crate::wireguard::{Datagram, Place};
use crate::{Handover, Instant};

impl Netstack {
    /// The next thing that another stack of the interface has to do, and that stack's number.
    pub fn poll_handover(&mut self) -> Option<(usize, Handover)> {
        self.handovers.pop()
    }

    /// Takes what the stack with this number has handed over.
    pub fn handle_handover(&mut self, now: Instant, from: usize, handover: Handover) {
        self.advance(now);
        match handover {
            Handover::Datagram { remote, datagram } => {
                self.open(Datagram { remote, bytes: &datagram, counted: true });
            }
            Handover::Received(packet) => self.receive(Some(Place::There(from)), &packet),
            Handover::Send(packet) => {
                // While peers change, the stacks may not agree for a moment; what is theirs is not sent to and fro.
                let destination = Packet::parse(&packet).map(|packet| packet.destination);
                match destination.ok().and_then(|destination| self.route(destination)) {
                    Some(Route::Peer(_)) => {
                        self.datagrams.push(packet, &mut self.stats);
                    }
                    _ => self.stats.unroutable += 1,
                }
            }
        }
    }

    pub(super) fn hand_over(&mut self, shard: usize, what: Handover) {
        self.handovers.push(shard, what, &mut self.stats);
    }

    /// Ends the flows whose remote end is a peer's of another stack now: the answers come there.
    pub(super) fn end_moved_flows(&mut self) {
        for flow in self.tcp.flows() {
            let remote = self.tcp.remote(flow);
            if let Some(Route::Elsewhere(_)) = remote.and_then(|remote| self.route(remote)) {
                let (tcp, mut cx) = self.tcp();
                tcp.moved(&mut cx, flow);
            }
        }
    }

    /// Whether the packet is for this stack: TCP is, and what is said about it.
    pub(super) fn takes(&self, packet: &Packet<'_>) -> bool {
        let is_about_tcp = || icmp::undelivered(packet).is_some_and(|message| message.protocol == ip::TCP);
        self.shard.index == 0 || packet.protocol == ip::TCP || is_about_tcp()
    }
}
