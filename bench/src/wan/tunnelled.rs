//! Our whole netstack at one end of the link: the engine inside WireGuard, inside UDP, without I/O.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use e2e::Identity;
use envoy_config::{PrivateKey, PublicKey};
use nexodus_netstack::{Config, Event, FlowId, Limits, Netstack, PeerConfig, Shard};

use super::ours::instant;
use super::stack::{CONTENT, Role, Spec, Stack};
use crate::Result;

/// `wireguard-go`'s.
const TUNNEL_MTU: u16 = 1420;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

pub(super) struct Tunnelled {
    netstack: Netstack,
    role: Role,
    own: SocketAddrV4,
    flow: Option<FlowId>,
    received: u64,
    batch: Vec<u8>,
    packet: Vec<u8>,
    buffer: Vec<u8>,
}

impl Tunnelled {
    pub(super) fn new(spec: &Spec, own: &Identity, other: &Identity) -> Result<Self> {
        let config = Config {
            private_key: *own.private_key.parse::<PrivateKey>()?.as_bytes(),
            addresses: vec![format!("{}/32", own.v4).parse()?],
            mtu: TUNNEL_MTU,
            limits: Limits::default(),
            shard: Shard::default(),
            seed: spec.seed,
        };
        let mut netstack = Netstack::new(config, instant(Duration::ZERO))?;
        let peer = PeerConfig {
            public_key: *other.public_key.parse::<PublicKey>()?.as_bytes(),
            preshared_key: None,
            endpoint: Some(other.endpoint),
            allowed_ips: vec![format!("{}/32", other.v4).parse()?],
            persistent_keepalive: None,
            shard: 0,
        };
        netstack.set_peers(instant(Duration::ZERO), vec![peer])?;
        if let Role::Sink(port) = spec.role {
            netstack.listen(port);
        }
        Ok(Self {
            netstack,
            role: spec.role,
            own: SocketAddrV4::new(spec.address, own.endpoint.port()),
            flow: None,
            received: 0,
            batch: Vec::new(),
            packet: Vec::new(),
            buffer: vec![0; 256 << 10],
        })
    }

    fn react(&mut self, now: Duration) {
        let now = instant(now);
        while let Some(event) = self.netstack.poll_event() {
            match event {
                Event::Incoming { flow, .. } => self.netstack.accept(now, flow),
                Event::Connected { flow } | Event::Writable { flow } => {
                    while matches!(self.role, Role::Source(_)) && self.netstack.send(now, flow, &CONTENT) > 0
                    {
                    }
                }
                Event::Readable { flow } => loop {
                    match self.netstack.recv(now, flow, &mut self.buffer) {
                        0 => break,
                        count => self.received += count as u64,
                    }
                },
                _ => {}
            }
        }
    }
}

impl Stack for Tunnelled {
    fn receive(&mut self, now: Duration, packet: &[u8]) {
        if let Some((from, datagram)) = datagram(packet) {
            self.netstack.handle_datagram(instant(now), from.into(), datagram);
        }
    }

    fn poll(&mut self, now: Duration, send: &mut dyn FnMut(&[u8])) {
        if let (None, Role::Source(to)) = (self.flow, self.role) {
            self.flow = self.netstack.connect(instant(now), to.into()).ok();
        }
        if self.deadline(now).is_some_and(|deadline| deadline <= now) {
            self.netstack.handle_timeout(instant(now));
        }
        self.react(now);
        while let Some(transmit) = self.netstack.poll_transmit(instant(now), &mut self.batch) {
            let SocketAddr::V4(to) = transmit.destination else { continue };
            for datagram in self.batch.chunks(transmit.segment_size.unwrap_or(usize::MAX)) {
                self.packet.clear();
                write(&mut self.packet, self.own, to, datagram);
                send(&self.packet);
            }
        }
    }

    fn deadline(&mut self, _now: Duration) -> Option<Duration> {
        Some(Duration::from_micros(self.netstack.poll_timeout()?.as_micros()))
    }

    fn received(&self) -> u64 {
        self.received
    }
}

/// Sender and contents of a UDP packet.
fn datagram(packet: &[u8]) -> Option<(SocketAddrV4, &[u8])> {
    let header = usize::from(packet.first()? & 15) * 4;
    let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let (udp, datagram) = packet.get(header..)?.split_at_checked(UDP_HEADER)?;
    let port = u16::from_be_bytes([udp[0], udp[1]]);
    (packet[9] == UDP).then_some((SocketAddrV4::new(Ipv4Addr::from(from), port), datagram))
}

/// A packet without a UDP checksum, which IPv4 does not ask for: WireGuard has a better one.
fn write(packet: &mut Vec<u8>, from: SocketAddrV4, to: SocketAddrV4, datagram: &[u8]) {
    let length = |header: usize| u16::try_from(header + datagram.len()).unwrap_or(u16::MAX).to_be_bytes();
    packet.extend_from_slice(&[0x45, 0]);
    packet.extend_from_slice(&length(IP_HEADER + UDP_HEADER));
    packet.extend_from_slice(&[0, 0, 0, 0, 64, UDP, 0, 0]);
    packet.extend_from_slice(&from.ip().octets());
    packet.extend_from_slice(&to.ip().octets());
    let checksum = !packet.chunks(2).fold(0_u16, |sum, pair| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([pair[0], pair[1]]));
        sum + u16::from(carry)
    });
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(&from.port().to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    packet.extend_from_slice(&length(UDP_HEADER));
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(datagram);
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a failure is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_goes_through_a_packet() {
        let ends =
            [SocketAddrV4::new([10, 9, 0, 1].into(), 51820), SocketAddrV4::new([10, 9, 1, 1].into(), 7)];
        let mut packet = Vec::new();
        write(&mut packet, ends[0], ends[1], b"content");
        assert_eq!(datagram(&packet), Some((ends[0], &b"content"[..])));
        let parsed = smoltcp::wire::Ipv4Packet::new_checked(&packet[..]).expect("a packet");
        assert!(parsed.verify_checksum());
        let udp = smoltcp::wire::UdpPacket::new_checked(parsed.payload()).expect("a datagram");
        assert_eq!((udp.dst_port(), udp.payload()), (7, &b"content"[..]));
    }
}
