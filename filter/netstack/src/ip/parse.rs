//! Reading inner IP headers. Bytes from a peer are authenticated, not trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A packet whose lengths are consistent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    /// Header and payload, without padding.
    pub(crate) bytes: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// Why a packet is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Wrong version, wrong length, or an address that no host sends from.
    Header,
    /// A piece of a packet where a whole one is wanted.
    Fragment,
}

/// Which part of a packet a fragment carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The identification: 16 bits in IPv4, 32 in IPv6.
    pub(crate) id: u32,
    /// Where its payload belongs, in bytes.
    pub(crate) offset: usize,
    /// More follow.
    pub(crate) more: bool,
}

/// IPv6 next header values of fragments (RFC 8200, section 4.5).
pub(super) const FRAGMENT: u8 = 44;

impl<'a> Packet<'a> {
    /// Reads a whole packet.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match Self::parse_any(bytes)? {
            (packet, None) => Ok(packet),
            (_, Some(_)) => Err(Malformed::Fragment),
        }
    }

    /// Reads a packet or a fragment of one, whose `protocol` and `payload` are then those of the packet.
    pub(crate) fn parse_any(bytes: &'a [u8]) -> Result<(Self, Option<Piece>), Malformed> {
        let (packet, piece) = match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes)?,
            Some(6) => Self::parse_v6(bytes)?,
            _ => return Err(Malformed::Header),
        };
        if is_host(packet.source) { Ok((packet, piece)) } else { Err(Malformed::Header) }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<(Self, Option<Piece>), Malformed> {
        let header: &[u8; 20] = bytes.first_chunk().ok_or(Malformed::Header)?;
        let header_len = usize::from(header[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < 20 || total < header_len {
            return Err(Malformed::Header);
        }
        let bytes = bytes.get(..total).ok_or(Malformed::Header)?;
        // More-fragments bit or an offset.
        let place = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
        let piece = (place != 0).then(|| Piece {
            id: u16::from_be_bytes([header[4], header[5]]).into(),
            offset: usize::from(place & 0x1fff) * 8,
            more: place & 0x2000 != 0,
        });
        let packet = Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            protocol: header[9],
            bytes,
            payload: &bytes[header_len..],
        };
        Ok((packet, piece))
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<(Self, Option<Piece>), Malformed> {
        let header: &[u8; 40] = bytes.first_chunk().ok_or(Malformed::Header)?;
        let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let bytes = bytes.get(..total).ok_or(Malformed::Header)?;
        let mut rest = &bytes[40..];
        let mut protocol = header[6];
        let mut piece = None;
        if protocol == FRAGMENT {
            let (fragment, payload) = rest.split_first_chunk::<8>().ok_or(Malformed::Header)?;
            let place = u16::from_be_bytes([fragment[2], fragment[3]]);
            let id = u32::from_be_bytes([fragment[4], fragment[5], fragment[6], fragment[7]]);
            piece = Some(Piece { id, offset: usize::from(place & 0xfff8), more: place & 1 != 0 });
            protocol = fragment[0];
            rest = payload;
        }
        let address = |from: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[from..from + 16]);
            IpAddr::from(Ipv6Addr::from(octets))
        };
        let packet = Self { source: address(8), destination: address(24), protocol, bytes, payload: rest };
        Ok((packet, piece))
    }
}

/// Whether one host can have this address.
pub(crate) fn is_host(address: IpAddr) -> bool {
    let everyone = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || everyone)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed parse is a failed test")]
mod tests {
    use super::*;
    use crate::ip::compose;

    fn v4() -> Vec<u8> {
        compose("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 6, &[7; 30])
    }

    #[test]
    fn padding_is_cut_off() {
        let mut bytes = v4();
        bytes.resize(64, 0);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.bytes.len(), packet.payload), (50, &[7; 30][..]));
        assert_eq!(packet.destination, "10.0.0.2".parse::<IpAddr>().unwrap());
        let bytes = compose("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap(), 58, &[1, 2]);
        assert_eq!(Packet::parse(&bytes).unwrap().payload, [1, 2]);
    }

    #[test]
    fn broken_headers_and_fragments_are_refused() {
        assert_eq!(Packet::parse(&[]).unwrap_err(), Malformed::Header);
        assert_eq!(Packet::parse(&v4()[..49]).unwrap_err(), Malformed::Header);
        for (at, value, reason) in [
            (0, 0x44, Malformed::Header),
            (0, 0x4f, Malformed::Header),
            (0, 0x75, Malformed::Header),
            (3, 19, Malformed::Header),
            (12, 224, Malformed::Header),
            (12, 127, Malformed::Header),
            (6, 0x20, Malformed::Fragment),
            (7, 1, Malformed::Fragment),
        ] {
            let mut bytes = v4();
            bytes[at] = value;
            if value == 0x4f {
                bytes.truncate(40);
                bytes[3] = 40;
            }
            assert_eq!(Packet::parse(&bytes).unwrap_err(), reason, "byte {at} = {value:#x}");
        }
    }
}
