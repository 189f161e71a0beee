//! Inner IP packets: reading their headers, writing those that the stack makes itself, fragments in both directions.

mod address;
mod checksum;
mod cut;
pub(crate) mod icmp;
mod outbox;
mod parse;
mod reassembly;

pub(crate) use address::Address;
pub(crate) use checksum::Sum;
pub(crate) use cut::Cut;
pub(crate) use outbox::Outbox;
pub(crate) use parse::{Packet, Piece, is_host};
pub(crate) use reassembly::Reassembly;

use std::net::IpAddr;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// Length of the header that [`compose`] writes.
pub(crate) const fn header_len(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    }
}

/// An IP packet without options around `payload`. Both addresses have to be of one family.
pub(crate) fn compose(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    compose_with(source, destination, protocol, payload.len(), |space| space.copy_from_slice(payload))
}

/// The same for a payload of `len` bytes that `write` puts where it belongs.
pub(crate) fn compose_with(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    len: usize,
    write: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut packet = Vec::with_capacity(header_len(source) + len);
    start(&mut packet, source, destination, protocol, len);
    packet.resize(header_len(source) + len, 0);
    write(&mut packet[header_len(source)..]);
    packet
}

/// Appends the header of a packet whose payload, of `len` bytes, is appended next.
pub(crate) fn start(packet: &mut Vec<u8>, source: IpAddr, destination: IpAddr, protocol: u8, len: usize) {
    let at = packet.len();
    packet.resize(at + header_len(source), 0);
    write_header(&mut packet[at..], source, destination, protocol, len);
}

/// Writes the header of a packet with a payload of `len` bytes to the start of `space`, which is zero.
pub(crate) fn write_header(space: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8, len: usize) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let Some(header) = space.first_chunk_mut::<20>() else { return };
            let total = u16::try_from(20 + len).unwrap_or(u16::MAX);
            header[0] = 0x45;
            header[2..4].copy_from_slice(&total.to_be_bytes());
            header[6] = 0x40; // don't fragment
            header[8] = 64;
            header[9] = protocol;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let sum = checksum(0, header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let Some(header) = space.first_chunk_mut::<40>() else { return };
            header[0] = 0x60;
            header[4..6].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
            header[6] = protocol;
            header[7] = 64;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&destination.octets());
        }
        _ => {}
    }
}

/// Whether the transport checksum is right. Packets are authenticated, so this is only asked where packets could have
/// been mixed up: after reassembly, because an identification comes again after 65,536 packets (RFC 4963).
pub(crate) fn checksum_holds(packet: &Packet<'_>) -> bool {
    let (mut data, protocol) = (packet.payload, packet.protocol);
    if protocol == UDP {
        let Some(header) = data.first_chunk::<8>() else { return false };
        if packet.source.is_ipv4() && header[6..] == [0, 0] {
            return true;
        }
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        data = data.get(..len).unwrap_or(data);
    }
    let partial = match protocol {
        TCP | UDP | ICMPV6 => pseudo_header(packet.source, packet.destination, protocol, data.len()),
        ICMP => 0,
        _ => return true,
    };
    checksum(partial, data) == 0
}

/// The Internet checksum (RFC 1071) of `data`, on top of a partial sum.
pub(crate) fn checksum(partial: u32, data: &[u8]) -> u16 {
    let mut sum = Sum::from(partial);
    sum.add(data);
    sum.finish()
}

/// The partial sum of the pseudo header for TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub(crate) fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u32 {
    let add = |sum: u32, octets: &[u8]| {
        octets.chunks_exact(2).fold(sum, |sum, word| sum + u32::from(u16::from_be_bytes([word[0], word[1]])))
    };
    let mut sum = u32::from(protocol) + u32::try_from(len).unwrap_or_default();
    for address in [source, destination] {
        sum = match address {
            IpAddr::V4(address) => add(sum, &address.octets()),
            IpAddr::V6(address) => add(sum, &address.octets()),
        };
    }
    sum
}
