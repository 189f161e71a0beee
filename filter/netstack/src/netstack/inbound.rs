//! Inner packets on their way in.

use super::Netstack;
use crate::ip::icmp;
use crate::ip::{self, Malformed, Packet};
use crate::tcp::segment::Tuple;
use crate::wireguard::PeerId;

impl Netstack {
    /// Takes an inner packet; `None` is ourselves.
    pub(super) fn receive(&mut self, from: Option<PeerId>, bytes: &[u8]) {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(Malformed::Header) => {
                self.stats.bad_packet += 1;
                return;
            }
            Err(Malformed::Fragment) => {
                self.stats.fragment += 1;
                return;
            }
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
        match packet.protocol {
            ip::TCP => {
                let (tcp, mut cx) = self.tcp();
                tcp.receive(&mut cx, &packet);
            }
            ip::UDP => self.refuse_udp(&packet),
            ip::ICMP | ip::ICMPV6 => self.receive_icmp(&packet),
            _ => self.stats.unhandled += 1,
        }
    }

    fn receive_icmp(&mut self, packet: &Packet<'_>) {
        if let Some(reply) = icmp::echo_reply(packet) {
            if self.outbox.push(reply, &mut self.stats) {
                self.stats.echo_replies += 1;
            }
        } else if let Some((local, remote, seq)) = icmp::unreachable_flow(packet) {
            let (tcp, mut cx) = self.tcp();
            tcp.unreachable(&mut cx, Tuple { local, remote }, seq);
        } else {
            self.stats.unhandled += 1;
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
