//! Runs: packets that follow one another in a stream and say nothing else.

use crate::ip;

/// Most bytes of headers in a run: IPv6, TCP, and timestamps.
pub(crate) const RUN_HEADERS: usize = 40 + 20 + 12;
const WORDS: usize = RUN_HEADERS / 8;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// The headers of a packet. The next one of a bulk transfer differs from it in its number, its checksums and its bytes
/// alone, which a few comparisons show: whatever was found out about the first is true of the next.
pub(crate) struct Run {
    headers: [u64; WORDS],
    /// The bits in which a packet of the run does not differ.
    same: [u64; WORDS],
    /// Where the TCP header is, where the payload is, and where it ends.
    tcp: usize,
    payload: usize,
    end: usize,
}

impl Run {
    /// The run that a whole packet with a TCP segment begins. `None`: it says something that has to be looked at each time.
    pub(crate) fn begin(packet: &[u8]) -> Option<Self> {
        let head: &[u8; RUN_HEADERS] = packet.first_chunk()?;
        let length = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
        let mut same = [0; RUN_HEADERS];
        let (tcp, end, protocol) = match head[0] {
            0x45 => (20, length(2), head[9]),
            byte if byte >> 4 == 6 => (40, 40 + length(4), head[6]),
            _ => return None,
        };
        let payload = tcp + usize::from(head[tcp + 12] >> 4) * 4;
        let plain = protocol == ip::TCP && head[tcp + 13] & !PSH == ACK;
        let sized =
            (tcp + 20..=RUN_HEADERS).contains(&payload) && (RUN_HEADERS..=packet.len()).contains(&end);
        // An acknowledgement that repeats the one before says something by that.
        if !plain || !sized || end == payload {
            return None;
        }
        same[..payload].fill(0xff);
        if tcp == 20 {
            // Identification and checksum.
            same[4..6].fill(0);
            same[10..12].fill(0);
        }
        same[tcp + 4..tcp + 8].fill(0);
        same[tcp + 13] = !PSH;
        same[tcp + 16..tcp + 18].fill(0);
        Some(Self { headers: words(head), same: words(&same), tcp, payload, end })
    }

    /// Bytes of a packet of this run, and those of them before its payload: [`RUN_HEADERS`] at most.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        (self.end, self.payload)
    }

    /// The sequence number and the bytes of a packet of this run.
    #[inline]
    pub(crate) fn follows<'p>(&self, packet: &'p [u8]) -> Option<(u32, &'p [u8])> {
        let head: &[u8; RUN_HEADERS] = packet.first_chunk()?;
        let other = words(head);
        let mut differs = 0;
        for ((ours, theirs), same) in self.headers.iter().zip(&other).zip(&self.same) {
            differs |= (ours ^ theirs) & same;
        }
        let payload = packet.get(self.payload..self.end).filter(|_| differs == 0)?;
        let seq = head.get(self.tcp + 4..)?.first_chunk()?;
        Some((u32::from_be_bytes(*seq), payload))
    }
}

#[inline]
fn words(bytes: &[u8; RUN_HEADERS]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.try_into().map_or(0, u64::from_ne_bytes);
    }
    words
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed parse is a failed test")]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// Seq 0x01020304, ack 5, window 6, with timestamps.
    fn packet(source: &str, destination: &str, len: usize) -> Vec<u8> {
        let mut segment = vec![0, 80, 1, 2, 1, 2, 3, 4, 0, 0, 0, 5, 8 << 4, ACK, 0, 6, 7, 8, 0, 0];
        segment.extend_from_slice(&[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 10]);
        segment.extend((0..len).map(|n| u8::try_from(n % 256).unwrap()));
        let [source, destination] = [source, destination].map(|address| address.parse::<IpAddr>().unwrap());
        ip::compose(source, destination, ip::TCP, &segment)
    }

    #[test]
    fn a_packet_of_the_run_differs_in_number_checksums_and_push_alone() {
        for (source, destination, tcp) in [("10.0.0.1", "10.0.0.2", 20), ("fd00::1", "fd00::2", 40)] {
            let first = packet(source, destination, 100);
            let run = Run::begin(&first).unwrap();
            let mut free = vec![tcp + 4, tcp + 7, tcp + 16, tcp + 17];
            if tcp == 20 {
                free.extend([4, 5, 10, 11]);
            }
            for at in 0..tcp + 32 {
                for bit in 0..8 {
                    let mut other = first.clone();
                    other[at] ^= 1 << bit;
                    let expected = (tcp + 4..tcp + 8).contains(&at)
                        || free.contains(&at)
                        || (at == tcp + 13 && 1 << bit == PSH);
                    assert_eq!(run.follows(&other).is_some(), expected, "byte {at}, bit {bit}");
                }
            }
            let mut next = first.clone();
            next[tcp + 7] = 100;
            next.extend_from_slice(&[0; 12]);
            assert_eq!(run.follows(&next), Some((0x0102_0364, &first[tcp + 32..])), "padding is cut off");
            assert_eq!(run.follows(&first[..first.len() - 1]), None);
            assert_eq!(run.follows(&first[..30]), None);
        }
    }

    #[test]
    fn what_says_more_begins_no_run() {
        let good = packet("10.0.0.1", "10.0.0.2", 100);
        assert!(Run::begin(&good).is_some());
        for (at, value, reason) in [
            (0, 0x46, "IP options"),
            (0, 0x55, "no IP"),
            (2, 0xff, "longer than it is"),
            (3, 60, "too short"),
            (9, 17, "UDP"),
            (20 + 12, 4 << 4, "no TCP header"),
            (20 + 12, 15 << 4, "more options"),
            (20 + 13, 0x11, "FIN"),
            (20 + 13, 0x02, "SYN"),
            (20 + 13, 0x14, "RST"),
            (20 + 13, 0x30, "urgent"),
            (20 + 13, 0, "no acknowledgement"),
        ] {
            let mut packet = good.clone();
            packet[at] = value;
            if at == 2 {
                packet[3] = 0xff;
            }
            if at == 3 {
                packet[2] = 0;
            }
            assert!(Run::begin(&packet).is_none(), "{reason}");
        }
        assert!(Run::begin(&good[..60]).is_none());
        assert!(Run::begin(&packet("fd00::1", "fd00::2", 1)).is_some());
        assert!(Run::begin(&packet("fd00::1", "fd00::2", 0)).is_none());
    }
}
