//! Segments on the wire (RFC 9293, section 3.1): reading one, and writing one with its IP header into a packet.

use std::net::{IpAddr, SocketAddr};

use super::options::Options;
use super::seq::{Seq, count};
use crate::ip;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

/// A segment as it was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(super) seq: Seq,
    pub(super) ack: Seq,
    /// As it stands in the header, without scaling.
    pub(super) window: u16,
    flags: u8,
    pub(super) options: Options,
    pub(super) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads the TCP segment in an IP packet's payload. Options that make no sense are as good as absent.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header: &[u8; 20] = bytes.first_chunk()?;
        let header_len = usize::from(header[12] >> 4) * 4;
        let options = bytes.get(20..header_len)?;
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        Some(Self {
            seq: Seq(word(4)),
            ack: Seq(word(8)),
            window: u16::from_be_bytes([header[14], header[15]]),
            flags: header[13],
            options: Options::parse(options, header[13] & SYN != 0),
            payload: &bytes[header_len..],
        })
    }

    /// The sender's clock.
    pub(crate) fn timestamp(&self) -> Option<u32> {
        self.options.timestamps.map(|(value, _)| value)
    }

    pub(super) fn is_syn(&self) -> bool {
        self.flags & SYN != 0
    }

    pub(super) fn is_ack(&self) -> bool {
        self.flags & ACK != 0
    }

    pub(super) fn is_rst(&self) -> bool {
        self.flags & RST != 0
    }

    pub(super) fn is_fin(&self) -> bool {
        self.flags & FIN != 0
    }

    /// The sequence number after it: SYN and FIN count as one byte each.
    pub(super) fn end(&self) -> Seq {
        self.seq + count(self.payload.len()) + u32::from(self.is_syn()) + u32::from(self.is_fin())
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// The fields of a segment to send.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) seq: Seq,
    pub(super) ack: Seq,
    pub(super) flags: u8,
    pub(super) window: u16,
}

/// Bytes of an IP header without options and a TCP header without options.
pub(super) fn headers_len(address: IpAddr) -> u16 {
    if address.is_ipv4() { 40 } else { 60 }
}

/// Writes an IP packet with one segment into `out`: `payload` appends exactly `len` bytes.
pub(super) fn write(
    out: &mut Vec<u8>,
    ends: &Ends,
    header: Header,
    options: &[u8],
    len: usize,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    out.clear();
    let tcp_len = 20 + options.len() + len;
    let total = ip::header_len(ends.local.ip()) + tcp_len;
    out.reserve(total);
    ip::start(out, ends.local.ip(), ends.remote.ip(), ip::TCP, tcp_len);
    let start = out.len();
    let offset = u8::try_from(5 + options.len() / 4).unwrap_or(5) << 4;
    out.extend_from_slice(&ends.local.port().to_be_bytes());
    out.extend_from_slice(&ends.remote.port().to_be_bytes());
    out.extend_from_slice(&header.seq.0.to_be_bytes());
    out.extend_from_slice(&header.ack.0.to_be_bytes());
    out.extend_from_slice(&[offset, header.flags]);
    out.extend_from_slice(&header.window.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(options);
    payload(out);
    let partial = ip::pseudo_header(ends.local.ip(), ends.remote.ip(), ip::TCP, tcp_len);
    let sum = ip::checksum(partial, &out[start..]);
    out[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
}
