//! Segments on the wire (RFC 9293, section 3.1): reading one, and writing one with its IP header into a packet.

use std::net::IpAddr;

use super::chunks::{Chunks, Place};
use super::options::Options;
use super::seq::{Seq, count};
use crate::ip::{self, Address};

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
    pub(super) local: Address,
    pub(super) remote: Address,
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

/// Most bytes before the payload: an IPv6 header and a TCP header with all options.
const MAX_HEADERS: usize = 40 + 20 + 40;

/// The IP and TCP headers of a segment. Segments of a burst differ in their number alone, and so in their checksum.
pub(super) struct Headers {
    bytes: [u8; MAX_HEADERS],
    len: usize,
    /// Where the TCP header begins.
    tcp: usize,
    /// Of the pseudo header and everything in the TCP header but its number and its checksum.
    sum: ip::Sum,
}

impl Headers {
    /// `len`: bytes of payload.
    pub(super) fn new(ends: &Ends, header: Header, options: &[u8], len: usize) -> Self {
        let (local, remote) = (ends.local.ip(), ends.remote.ip());
        let (tcp, tcp_len) = (ip::header_len(local), 20 + options.len() + len);
        let mut bytes = [0; MAX_HEADERS];
        ip::write_header(&mut bytes, local, remote, ip::TCP, tcp_len);
        let space = &mut bytes[tcp..];
        space[0..2].copy_from_slice(&ends.local.port().to_be_bytes());
        space[2..4].copy_from_slice(&ends.remote.port().to_be_bytes());
        space[8..12].copy_from_slice(&header.ack.0.to_be_bytes());
        space[12] = u8::try_from(5 + options.len() / 4).unwrap_or(5) << 4;
        space[13] = header.flags;
        space[14..16].copy_from_slice(&header.window.to_be_bytes());
        space[20..20 + options.len()].copy_from_slice(options);
        let mut sum = ip::Sum::from(ip::pseudo_header(local, remote, ip::TCP, tcp_len));
        sum.add(&space[..20 + options.len()]);
        Self { bytes, len: tcp + 20 + options.len(), tcp, sum }
    }

    /// The packet of `len` bytes from `place` in `buffer` on, which have the numbers from `seq` on; and the place after them.
    pub(super) fn packet<'a>(
        &'a mut self,
        seq: Seq,
        buffer: &'a mut Chunks,
        place: Place,
        len: usize,
    ) -> (Outgoing<'a>, Place) {
        let mut sum = self.sum;
        let seq = seq.0.to_be_bytes();
        sum.add(&seq);
        let mut at = 0;
        let next = buffer.read(place, len, |piece| {
            sum.add_at(at, piece);
            at += piece.len();
        });
        let space = &mut self.bytes[self.tcp..];
        space[4..8].copy_from_slice(&seq);
        space[16..18].copy_from_slice(&sum.finish().to_be_bytes());
        (Outgoing { headers: &self.bytes[..self.len], buffer, place, len }, next)
    }
}

/// An IP packet to send. Its payload is still where the connection keeps it.
pub struct Outgoing<'a> {
    headers: &'a [u8],
    buffer: &'a mut Chunks,
    place: Place,
    len: usize,
}

/// Most zeros behind a packet: WireGuard pads to multiples of 16 bytes.
const MAX_PADDING: usize = 15;

impl Outgoing<'_> {
    /// Bytes of the packet.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a packet has headers")]
    pub fn len(&self) -> usize {
        self.headers.len() + self.len
    }

    /// Lends the packet, with zeros behind it up to `padded` bytes, to `take`. Its payload stays where it is: headers and
    /// zeros lie over the stream's bytes around it for as long. Only where there are too few of them, as for a segment of
    /// bytes from two chunks, the packet is put together in `scratch`, and this returns false.
    pub fn lend(&mut self, padded: usize, scratch: &mut Vec<u8>, take: impl FnOnce(&[u8])) -> bool {
        let (before, after) = (self.headers.len(), padded.saturating_sub(self.len()));
        let around = self.buffer.around(self.place, before, self.len, after);
        let Some(packet) = around.filter(|_| self.len > 0 && after <= MAX_PADDING) else {
            scratch.clear();
            self.append_to(scratch);
            scratch.resize(before + self.len + after, 0);
            take(scratch);
            return false;
        };
        let end = before + self.len;
        let (mut headers, mut padding) = ([0; MAX_HEADERS], [0; MAX_PADDING]);
        headers[..before].copy_from_slice(&packet[..before]);
        padding[..after].copy_from_slice(&packet[end..]);
        packet[..before].copy_from_slice(self.headers);
        packet[end..].fill(0);
        take(packet);
        packet[..before].copy_from_slice(&headers[..before]);
        packet[end..].copy_from_slice(&padding[..after]);
        true
    }

    /// Puts the packet at the end of `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.headers.len() + self.len);
        out.extend_from_slice(self.headers);
        self.buffer.read(self.place, self.len, |piece| out.extend_from_slice(piece));
    }
}

/// What takes the packets of a connection, one after the other.
pub(super) type Sink<'a> = dyn FnMut(&mut Outgoing<'_>) + 'a;
