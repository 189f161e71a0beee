//! UDP headers.

use crate::ip;
use crate::tcp::segment::Tuple;

const LEN: usize = 8;

pub(super) struct Header {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
}

impl Header {
    /// Header and payload of the datagram in an IP packet's payload. The checksum is not looked at: the packet is
    /// authenticated.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let header: &[u8; LEN] = bytes.first_chunk()?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = bytes.get(LEN..len)?;
        let source_port = u16::from_be_bytes([header[0], header[1]]);
        // Port 0 asks for no answer (RFC 768). Nothing here could keep such a flow apart from others.
        (source_port != 0).then(|| {
            let destination_port = u16::from_be_bytes([header[2], header[3]]);
            (Self { source_port, destination_port }, payload)
        })
    }
}

/// A datagram as an IP packet, of any size: cutting it is up to others.
pub(crate) fn compose(tuple: Tuple, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (tuple.local.ip(), tuple.remote.ip());
    let len = LEN + payload.len();
    ip::compose_with(source, destination, ip::UDP, len, |datagram| {
        datagram[..2].copy_from_slice(&tuple.local.port().to_be_bytes());
        datagram[2..4].copy_from_slice(&tuple.remote.port().to_be_bytes());
        datagram[4..6].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        datagram[LEN..].copy_from_slice(payload);
        let sum = ip::checksum(ip::pseudo_header(source, destination, ip::UDP, len), datagram);
        // Zero says that there is none.
        let sum = if sum == 0 { u16::MAX } else { sum };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed parse is a failed test")]
mod tests {
    use super::*;

    fn address(text: &str) -> ip::Address {
        text.parse::<std::net::SocketAddr>().unwrap().into()
    }

    /// RFC 768: zero means that there is no checksum, which IPv6 does not allow.
    #[test]
    fn a_checksum_of_zero_is_sent_as_ones() {
        for (local, remote) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fd00::1]:1", "[fd00::2]:2")] {
            let tuple = Tuple { local: address(local), remote: address(remote) };
            let checksum = |payload: [u8; 2]| {
                let packet = compose(tuple, &payload);
                let parsed = ip::Packet::parse(&packet).unwrap();
                assert!(ip::checksum_holds(&parsed));
                [parsed.payload[6], parsed.payload[7]]
            };
            assert_eq!(checksum(checksum([0, 0])), [0xff, 0xff]);
        }
    }
}
