//! Packets as the targets write and read them, over IPv4 and IPv6: independent of the code that is tested.

use std::net::{IpAddr, SocketAddr};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

pub const TCP: u8 = 6;

/// A TCP segment; numbers are absolute.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub mss: Option<u16>,
    pub shift: Option<u8>,
    pub sack_ok: bool,
    pub ts: Option<(u32, u32)>,
    pub sack: Vec<(u32, u32)>,
    pub data: Vec<u8>,
}

impl Segment {
    /// Reads a segment as RFC 9293 section 3.1 has it. Options that make no sense are skipped; what follows one whose length
    /// makes none cannot be found.
    pub fn read(tcp: &[u8]) -> Option<Self> {
        if tcp.len() < 20 {
            return None;
        }
        let offset = usize::from(tcp[12] >> 4) * 4;
        if offset < 20 || offset > tcp.len() {
            return None;
        }
        let flags = tcp[13];
        let mut segment = Self {
            seq: word(tcp, 4),
            ack: word(tcp, 8),
            flags,
            window: half(tcp, 14),
            data: tcp[offset..].to_vec(),
            ..Self::default()
        };
        let mut at = 20;
        while at < offset {
            let kind = tcp[at];
            if kind == 0 {
                break;
            }
            if kind == 1 {
                at += 1;
                continue;
            }
            if at + 1 >= offset {
                break;
            }
            let len = usize::from(tcp[at + 1]);
            if len < 2 || at + len > offset {
                break;
            }
            let syn = flags & SYN != 0;
            match (kind, len) {
                (2, 4) if syn => segment.mss = Some(half(tcp, at + 2)),
                (3, 3) if syn => segment.shift = Some(tcp[at + 2]),
                (4, 2) if syn => segment.sack_ok = true,
                (5, _) if len % 8 == 2 => {
                    segment.sack =
                        (at + 2..at + len).step_by(8).map(|at| (word(tcp, at), word(tcp, at + 4))).collect();
                }
                (8, 10) => segment.ts = Some((word(tcp, at + 2), word(tcp, at + 6))),
                _ => {}
            }
            at += len;
        }
        Some(segment)
    }

    /// As an IP packet.
    pub fn packet(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let mut options = Vec::new();
        if let Some(mss) = self.mss {
            options.extend_from_slice(&[2, 4]);
            options.extend_from_slice(&mss.to_be_bytes());
        }
        if let Some(shift) = self.shift {
            options.extend_from_slice(&[3, 3, shift]);
        }
        if self.sack_ok {
            options.extend_from_slice(&[4, 2]);
        }
        if let Some((value, echo)) = self.ts {
            options.extend_from_slice(&[8, 10]);
            options.extend_from_slice(&value.to_be_bytes());
            options.extend_from_slice(&echo.to_be_bytes());
        }
        let room = (40 - options.len()).saturating_sub(2) / 8;
        let blocks = self.sack.len().min(room);
        if blocks > 0 {
            options.extend_from_slice(&[5, 2 + 8 * blocks as u8]);
            for (start, end) in &self.sack[..blocks] {
                options.extend_from_slice(&start.to_be_bytes());
                options.extend_from_slice(&end.to_be_bytes());
            }
        }
        options.resize(options.len().next_multiple_of(4), 0);
        let mut tcp = vec![0; 20];
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.to_be_bytes());
        tcp[12] = (((20 + options.len()) / 4) << 4) as u8;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp.extend_from_slice(&options);
        tcp.extend_from_slice(&self.data);
        tcp_packet(from, to, tcp)
    }

    /// The number after it.
    pub fn end(&self) -> u32 {
        let controls = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.seq.wrapping_add(self.data.len() as u32).wrapping_add(controls)
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A segment with its ports and checksum put in, in a packet.
pub fn tcp_packet(from: SocketAddr, to: SocketAddr, mut tcp: Vec<u8>) -> Vec<u8> {
    if tcp.len() >= 20 {
        tcp[0..2].copy_from_slice(&from.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
        tcp[16..18].fill(0);
        let sum = sum(from.ip(), to.ip(), TCP, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    ip_packet(from.ip(), to.ip(), TCP, &tcp)
}

/// A packet around `payload`.
pub fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u16;
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            header[2..4].copy_from_slice(&(len + 20).to_be_bytes());
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            let sum = !fold(words(&header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header[4..6].copy_from_slice(&len.to_be_bytes());
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            header
        }
        _ => panic!("two families"),
    };
    packet.extend_from_slice(payload);
    packet
}

/// A packet that the code under test has sent.
pub struct Sent {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    pub payload: Vec<u8>,
    pub fragment: bool,
}

impl Sent {
    /// Reads a packet, and insists on its lengths and checksums.
    pub fn read(packet: &[u8]) -> Self {
        let sent = match packet.first().map(|first| first >> 4) {
            Some(4) => {
                assert!(packet.len() >= 20 && packet[0] == 0x45, "an IPv4 header with options");
                assert_eq!(usize::from(half(packet, 2)), packet.len(), "the total length");
                assert_eq!(fold(words(&packet[..20])), 0xffff, "the header's checksum");
                let octets = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
                Self {
                    from: octets(12),
                    to: octets(16),
                    protocol: packet[9],
                    payload: packet[20..].to_vec(),
                    fragment: half(packet, 6) & 0x3fff != 0,
                }
            }
            Some(6) => {
                assert!(packet.len() >= 40, "an IPv6 header");
                assert_eq!(usize::from(half(packet, 4)) + 40, packet.len(), "the payload length");
                let octets = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
                Self {
                    from: octets(8),
                    to: octets(24),
                    protocol: packet[6],
                    payload: packet[40..].to_vec(),
                    fragment: packet[6] == 44,
                }
            }
            _ => panic!("not an IP packet: {packet:?}"),
        };
        if !sent.fragment {
            let right = match sent.protocol {
                1 => fold(words(&sent.payload)) == 0xffff,
                TCP | 17 | 58 => sum(sent.from, sent.to, sent.protocol, &sent.payload) == 0,
                protocol => panic!("protocol {protocol}"),
            };
            assert!(right, "the checksum of {packet:?}");
        }
        sent
    }

    pub fn segment(&self) -> Segment {
        assert_eq!(self.protocol, TCP);
        Segment::read(&self.payload).expect("a segment of ours can be read")
    }
}

/// The checksum to put where zeros are; zero when one is there and right.
pub fn sum(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => words(&address.octets()),
        IpAddr::V6(address) => words(&address.octets()),
    };
    !fold(address(from) + address(to) + u64::from(protocol) + payload.len() as u64 + words(payload))
}

fn words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) << 16 | u32::from(half(bytes, at + 2))
}
