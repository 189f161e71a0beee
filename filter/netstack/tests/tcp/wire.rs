//! Segments as the scripts write and read them, over IPv4: independent of the code that is tested.

/// Flags.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// A segment; numbers are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seg {
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

impl Seg {
    pub fn len(&self) -> u32 {
        self.data.len() as u32
    }

    /// As an IP packet between the given hosts (last octet) and ports.
    pub fn packet(&self, from: (u8, u16), to: (u8, u16)) -> Vec<u8> {
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
        if !self.sack.is_empty() {
            options.extend_from_slice(&[5, 2 + 8 * self.sack.len() as u8]);
            for (start, end) in &self.sack {
                options.extend_from_slice(&start.to_be_bytes());
                options.extend_from_slice(&end.to_be_bytes());
            }
        }
        while options.len() % 4 != 0 {
            options.push(1);
        }
        let mut tcp = Vec::new();
        tcp.extend_from_slice(&from.1.to_be_bytes());
        tcp.extend_from_slice(&to.1.to_be_bytes());
        tcp.extend_from_slice(&self.seq.to_be_bytes());
        tcp.extend_from_slice(&self.ack.to_be_bytes());
        tcp.extend_from_slice(&[(((20 + options.len()) / 4) << 4) as u8, self.flags]);
        tcp.extend_from_slice(&self.window.to_be_bytes());
        tcp.extend_from_slice(&[0; 4]);
        tcp.extend_from_slice(&options);
        tcp.extend_from_slice(&self.data);
        let mut packet = vec![0x45, 0];
        packet.extend_from_slice(&((20 + tcp.len()) as u16).to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0, 100, 64, 0, from.0, 100, 64, 0, to.0]);
        let sum = !fold(words(&packet));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let sum = !fold(words(&packet[12..20]) + 6 + tcp.len() as u64 + words(&tcp));
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(&tcp);
        packet
    }

    /// Reads a packet, and insists on its checksums.
    pub fn read(packet: &[u8]) -> Self {
        assert!(checksum_holds(packet), "a wrong checksum in {packet:?}");
        assert_eq!(packet[0], 0x45);
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
        let tcp = &packet[20..];
        let word = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        let offset = usize::from(tcp[12] >> 4) * 4;
        let mut segment = Self {
            seq: word(4),
            ack: word(8),
            flags: tcp[13],
            window: u16::from_be_bytes([tcp[14], tcp[15]]),
            data: tcp[offset..].to_vec(),
            ..Self::default()
        };
        let mut at = 20;
        while at < offset {
            match tcp[at] {
                0 => break,
                1 => {
                    at += 1;
                    continue;
                }
                2 => segment.mss = Some(u16::from_be_bytes([tcp[at + 2], tcp[at + 3]])),
                3 => segment.shift = Some(tcp[at + 2]),
                4 => segment.sack_ok = true,
                5 => {
                    for block in (at + 2..at + usize::from(tcp[at + 1])).step_by(8) {
                        segment.sack.push((word(block), word(block + 4)));
                    }
                }
                8 => segment.ts = Some((word(at + 2), word(at + 6))),
                kind => panic!("option {kind}"),
            }
            at += usize::from(tcp[at + 1]);
        }
        segment
    }
}

/// IP header and TCP segment.
pub fn checksum_holds(packet: &[u8]) -> bool {
    if packet.len() < 40 || packet[0] != 0x45 || fold(words(&packet[..20])) != 0xffff {
        return false;
    }
    let tcp = &packet[20..];
    fold(words(&packet[12..20]) + 6 + tcp.len() as u64 + words(tcp)) == 0xffff
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
