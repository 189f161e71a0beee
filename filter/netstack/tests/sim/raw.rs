//! A peer that speaks WireGuard and raw IP: what a stack would never send.

use std::net::IpAddr;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use nexodus_netstack::{Config, Instant, Limits, Netstack, PeerConfig};

use super::{START, config, key, peer, public_key, udp, v4, v6};

pub struct Raw {
    tunn: Tunn,
    pub stack: Netstack,
    pub now: Instant,
}

impl Raw {
    /// A stack (node 1) with a session to a raw peer (node 0).
    pub fn new(limits: Limits) -> Self {
        Self::seeded(limits, 1)
    }

    pub fn seeded(limits: Limits, seed: u64) -> Self {
        Self::with(config(1, limits, seed, 1420))
    }

    /// The same with a stack of this configuration, whose peer is this shard's.
    pub fn with(config: Config) -> Self {
        let shard = config.shard.index;
        let mut stack = Netstack::new(config, START).unwrap();
        stack.set_peers(START, vec![PeerConfig { shard, ..peer(0) }]).unwrap();
        let secret = StaticSecret::from(key(0));
        let public = PublicKey::from(public_key(1));
        let tunn = Tunn::new(secret, public, None, None, 5, None);
        let mut raw = Self { tunn, stack, now: START };
        let mut buffer = [0; 256];
        let TunnResult::WriteToNetwork(hello) = raw.tunn.format_handshake_initiation(&mut buffer, false)
        else {
            panic!("no handshake")
        };
        let hello = hello.to_vec();
        raw.stack.handle_datagram(raw.now, udp(0), &hello);
        assert!(raw.replies().is_empty());
        raw
    }

    pub fn send(&mut self, packet: &[u8]) {
        let mut buffer = vec![0; packet.len() + 200];
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(packet, &mut buffer) {
            self.stack.handle_datagram(self.now, udp(0), datagram);
        }
    }

    /// The datagram arrives with another tag.
    pub fn send_spoiled(&mut self, packet: &[u8]) {
        let mut buffer = vec![0; packet.len() + 200];
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(packet, &mut buffer) {
            datagram[16 + packet.len()..].reverse();
            self.stack.handle_datagram(self.now, udp(0), datagram);
        }
    }

    /// Inner packets that the stack sends.
    pub fn replies(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = Vec::new();
        let mut plain = vec![0; 70_000];
        while let Some(transmit) = self.stack.poll_transmit(self.now, &mut buffer) {
            for datagram in buffer.chunks(transmit.segment_size.unwrap_or(buffer.len())) {
                match self.tunn.decapsulate(None, datagram, &mut plain) {
                    TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                        packets.push(packet.to_vec());
                    }
                    TunnResult::WriteToNetwork(answer) => {
                        let answer = answer.to_vec();
                        self.stack.handle_datagram(self.now, udp(0), &answer);
                    }
                    _ => {}
                }
            }
        }
        packets
    }
}

/// An IP packet from node 0.
pub fn ip(destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    match destination {
        IpAddr::V4(to) => {
            let IpAddr::V4(from) = v4(0) else { unreachable!() };
            packet.extend_from_slice(&[0x45, 0]);
            packet.extend_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
            packet.extend_from_slice(&[0, 0, 0, 0, 64, protocol, 0, 0]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
        }
        IpAddr::V6(to) => {
            let IpAddr::V6(from) = v6(0) else { unreachable!() };
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
            packet.extend_from_slice(&[protocol, 64]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
        }
    }
    packet.extend_from_slice(payload);
    packet
}
