//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo and destination unreachable, both in both directions.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::parse::FRAGMENT;
use super::{ICMP, ICMPV6, Packet, checksum, compose, pseudo_header};
use crate::Instant;

/// The answer to an echo request.
pub(crate) fn echo_reply(request: &Packet<'_>) -> Option<Vec<u8>> {
    let reply_type = match (request.protocol, request.payload.first()?) {
        (ICMP, 8) => 0,
        (ICMPV6, 128) => 129,
        _ => return None,
    };
    if request.payload.len() < 8 || request.payload[1] != 0 {
        return None;
    }
    let mut message = request.payload.to_vec();
    message[0] = reply_type;
    Some(finish(request, message))
}

/// Payload of our echo requests, the size that `ping` programs use.
const ECHO_PAYLOAD: [u8; 56] = [0x6e; 56];

/// An echo request.
pub(crate) fn echo_request(source: IpAddr, destination: IpAddr, ident: u16, seq: u16) -> Vec<u8> {
    let kind = if source.is_ipv4() { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&ident.to_be_bytes());
    message.extend_from_slice(&seq.to_be_bytes());
    message.extend_from_slice(&ECHO_PAYLOAD);
    send(source, destination, message)
}

/// Identifier and sequence number of an echo reply.
pub(crate) fn echo_replied(packet: &Packet<'_>) -> Option<(u16, u16)> {
    let header: &[u8; 8] = packet.payload.first_chunk()?;
    matches!((packet.protocol, header), (ICMP, [0, 0, ..]) | (ICMPV6, [129, 0, ..]))
        .then(|| (u16::from_be_bytes([header[4], header[5]]), u16::from_be_bytes([header[6], header[7]])))
}

/// "Port unreachable" for a packet that nobody wants. Quotes as much of it as fits into the smallest MTU.
pub(crate) fn port_unreachable(packet: &Packet<'_>) -> Vec<u8> {
    let (kind, code, most) = match packet.source {
        IpAddr::V4(_) => (3, 3, 576 - 20 - 8),
        IpAddr::V6(_) => (1, 4, 1280 - 40 - 8),
    };
    let quote = &packet.bytes[..packet.bytes.len().min(most)];
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(quote);
    finish(packet, message)
}

/// What a "destination unreachable" message quotes of the packet that could not be delivered.
pub(crate) struct Undelivered {
    pub(crate) protocol: u8,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// The sequence number, if it was TCP.
    pub(crate) seq: u32,
}

/// Reads a "destination unreachable" message about a packet with ports.
pub(crate) fn undelivered(packet: &Packet<'_>) -> Option<Undelivered> {
    match (packet.protocol, packet.payload) {
        // Code 4 is "fragmentation needed": the way exists.
        (ICMP, [3, code, ..]) if *code != 4 => {}
        (ICMPV6, [1, ..]) => {}
        _ => return None,
    }
    let quote = packet.payload.get(8..)?;
    // The quote is cut short, so its length fields do not have to be true.
    let (source, destination, protocol, data) = match quote.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = quote.first_chunk()?;
            let source: [u8; 4] = header[12..16].try_into().ok()?;
            let destination: [u8; 4] = header[16..20].try_into().ok()?;
            if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
                return None;
            }
            let data = quote.get(usize::from(header[0] & 0xf) * 4..)?;
            (IpAddr::from(source), IpAddr::from(destination), header[9], data)
        }
        6 => {
            let (header, mut data) = quote.split_first_chunk::<40>()?;
            let source: [u8; 16] = header[8..24].try_into().ok()?;
            let destination: [u8; 16] = header[24..40].try_into().ok()?;
            let mut protocol = header[6];
            if protocol == FRAGMENT {
                let (fragment, rest) = data.split_first_chunk::<8>()?;
                if u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0 {
                    return None;
                }
                (protocol, data) = (fragment[0], rest);
            }
            (IpAddr::from(source), IpAddr::from(destination), protocol, data)
        }
        _ => return None,
    };
    let ports: &[u8; 8] = data.first_chunk()?;
    Some(Undelivered {
        protocol,
        local: SocketAddr::new(source, u16::from_be_bytes([ports[0], ports[1]])),
        remote: SocketAddr::new(destination, u16::from_be_bytes([ports[2], ports[3]])),
        seq: u32::from_be_bytes([ports[4], ports[5], ports[6], ports[7]]),
    })
}

/// Sends `message` back to where `packet` came from.
fn finish(packet: &Packet<'_>, message: Vec<u8>) -> Vec<u8> {
    send(packet.destination, packet.source, message)
}

fn send(from: IpAddr, to: IpAddr, mut message: Vec<u8>) -> Vec<u8> {
    let (protocol, partial) = match from {
        IpAddr::V4(_) => (ICMP, 0),
        IpAddr::V6(_) => (ICMPV6, pseudo_header(from, to, ICMPV6, message.len())),
    };
    message[2..4].fill(0);
    let sum = checksum(partial, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    compose(from, to, protocol, &message)
}

/// At most so many ICMP errors per second (RFC 4443 section 2.4 (f) asks for a limit).
const ERRORS_PER_SECOND: u32 = 100;

/// A token bucket for ICMP errors.
pub(crate) struct ErrorLimit {
    tokens: u32,
    refilled: Instant,
}

impl ErrorLimit {
    pub(crate) fn new(now: Instant) -> Self {
        Self { tokens: ERRORS_PER_SECOND, refilled: now }
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / ERRORS_PER_SECOND;
        let earned = (now - self.refilled).as_micros() / interval.as_micros();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(ERRORS_PER_SECOND);
            self.refilled = if earned >= ERRORS_PER_SECOND { now } else { self.refilled + interval * earned };
        }
        let allowed = self.tokens > 0;
        self.tokens -= u32::from(allowed);
        allowed
    }
}
