//! TCP headers (RFC 9293, section 3.1), as far as demultiplexing and answers without a flow need them.

use crate::ip::{self, Address, Packet};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The two ends of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub(crate) local: Address,
    pub(crate) remote: Address,
}

/// The header fields of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    flags: u8,
    /// Bytes of payload.
    pub(crate) payload_len: u32,
}

impl Segment {
    /// Reads the header of the TCP segment in an IP packet's payload.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = payload.first_chunk()?;
        let header_len = usize::from(header[12] >> 4) * 4;
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let segment = Self {
            source_port: u16::from_be_bytes([header[0], header[1]]),
            destination_port: u16::from_be_bytes([header[2], header[3]]),
            seq: word(4),
            ack: word(8),
            flags: header[13],
            payload_len: u32::try_from(payload.len().checked_sub(header_len)?).ok()?,
        };
        (header_len >= 20 && segment.source_port != 0 && segment.destination_port != 0).then_some(segment)
    }

    pub(crate) fn is_rst(&self) -> bool {
        self.flags & RST != 0
    }

    pub(crate) fn is_ack(&self) -> bool {
        self.flags & ACK != 0
    }

    /// A request for a new flow and nothing else.
    pub(crate) fn opens(&self) -> bool {
        self.flags & (SYN | RST | ACK | FIN) == SYN
    }

    /// The sequence number after this segment: SYN and FIN count as one byte each.
    pub(crate) fn end(&self) -> u32 {
        let controls = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.seq.wrapping_add(self.payload_len).wrapping_add(controls)
    }
}

/// The RST that answers a segment of no flow (RFC 9293, section 3.10.7.1). The segment is no RST itself.
pub(crate) fn reset(packet: &Packet<'_>, segment: &Segment) -> Vec<u8> {
    let (seq, ack, flags) =
        if segment.is_ack() { (segment.ack, 0, RST) } else { (0, segment.end(), RST | ACK) };
    let tuple = Tuple {
        local: Address::new(packet.destination, segment.destination_port),
        remote: Address::new(packet.source, segment.source_port),
    };
    bare(tuple, seq, ack, flags)
}

fn bare(tuple: Tuple, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut header = [0; 20];
    header[0..2].copy_from_slice(&tuple.local.port().to_be_bytes());
    header[2..4].copy_from_slice(&tuple.remote.port().to_be_bytes());
    header[4..8].copy_from_slice(&seq.to_be_bytes());
    header[8..12].copy_from_slice(&ack.to_be_bytes());
    header[12] = 5 << 4;
    header[13] = flags;
    let (from, to) = (tuple.local.ip(), tuple.remote.ip());
    let sum = ip::checksum(ip::pseudo_header(from, to, ip::TCP, header.len()), &header);
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    ip::compose(from, to, ip::TCP, &header)
}
