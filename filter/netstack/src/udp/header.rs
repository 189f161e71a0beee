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
