//! Cutting packets into fragments (RFC 791 section 2.3, RFC 8200 section 4.5).

use std::net::IpAddr;

use super::parse::FRAGMENT;
use super::{Packet, checksum, header_len};

/// A packet of [`compose`](super::compose) on its way out: itself if it fits, else its fragments one after the other.
pub(crate) struct Cut {
    packet: Vec<u8>,
    destination: IpAddr,
    /// What of the packet is still to be sent starts here; behind the header at first.
    rest: usize,
    id: u32,
    done: bool,
}

impl Cut {
    /// `None` for what is no packet. `id` is used when it has to be cut.
    pub(crate) fn new(packet: Vec<u8>, id: u32) -> Option<Self> {
        let destination = Packet::parse(&packet).ok()?.destination;
        Some(Self { rest: header_len(destination), packet, destination, id, done: false })
    }

    pub(crate) fn destination(&self) -> IpAddr {
        self.destination
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// The whole packet again.
    pub(crate) fn into_packet(self) -> Vec<u8> {
        self.packet
    }

    /// Writes the next packet of at most `mtu` bytes. Whether it is a fragment.
    pub(crate) fn next(&mut self, mtu: usize, out: &mut Vec<u8>) -> bool {
        if self.packet.len() <= mtu {
            std::mem::swap(out, &mut self.packet);
            self.done = true;
            return false;
        }
        out.clear();
        let header = header_len(self.destination);
        let extra = if self.destination.is_ipv6() { 8 } else { 0 };
        let left = self.packet.len() - self.rest;
        let most = mtu - header - extra;
        let more = left > most;
        // Offsets count in units of eight bytes.
        let len = if more { most & !7 } else { left };
        let offset = u16::try_from(self.rest - header).unwrap_or(u16::MAX);
        out.extend_from_slice(&self.packet[..header]);
        if self.destination.is_ipv6() {
            let protocol = std::mem::replace(&mut out[6], FRAGMENT);
            out[4..6].copy_from_slice(&u16::try_from(len + extra).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(&[protocol, 0]);
            out.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
            out.extend_from_slice(&self.id.to_be_bytes());
        } else {
            let total = u16::try_from(header + len).unwrap_or(u16::MAX);
            let [.., high, low] = self.id.to_be_bytes();
            out[2..4].copy_from_slice(&total.to_be_bytes());
            out[4..6].copy_from_slice(&[high, low]);
            out[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
            out[10..12].fill(0);
            let sum = checksum(0, &out[..header]);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        out.extend_from_slice(&self.packet[self.rest..self.rest + len]);
        self.rest += len;
        self.done = !more;
        true
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed parse is a failed test")]
mod tests {
    use super::*;
    use crate::ip::compose;

    #[test]
    fn a_packet_that_fits_stays_whole() {
        let packet = compose("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 17, &[7; 1400]);
        let mut out = Vec::new();
        let mut cut = Cut::new(packet.clone(), 9).unwrap();
        assert!(!cut.next(1420, &mut out) && cut.is_done());
        assert_eq!(out, packet);
    }

    #[test]
    fn pieces_join_to_the_packet() {
        for (from, to, len) in [
            ("10.0.0.1", "10.0.0.2", 1401),
            ("10.0.0.1", "10.0.0.2", 65_515),
            ("fd00::1", "fd00::2", 1381),
            ("fd00::1", "fd00::2", 65_515),
        ] {
            let payload: Vec<u8> = (0..len).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
            let packet = compose(from.parse().unwrap(), to.parse().unwrap(), 17, &payload);
            let mut cut = Cut::new(packet, 0x1_0203).unwrap();
            let (mut joined, mut out) = (Vec::new(), Vec::new());
            while !cut.is_done() {
                assert!(cut.next(1420, &mut out) && out.len() <= 1420);
                let (packet, piece) = Packet::parse_any(&out).unwrap();
                let piece = piece.unwrap();
                assert_eq!((piece.offset, piece.more, packet.protocol), (joined.len(), !cut.is_done(), 17));
                assert_eq!(piece.id, if packet.source.is_ipv4() { 0x203 } else { 0x1_0203 });
                assert!(packet.source.is_ipv6() || checksum(0, &out[..20]) == 0);
                joined.extend_from_slice(packet.payload);
            }
            assert_eq!(joined, payload);
        }
    }
}
