//! Reassembly of what a peer can send, which is more than a peer would send.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failure is a failed test")]

mod sim;

use std::net::IpAddr;

use nexodus_netstack::{Event, Limits, Stats};
use proptest::prelude::*;
use sim::raw::{Raw, ip};
use sim::{pattern, secs, v4, v6};

/// A fragment from node 0: `bytes` at `offset` of the packet's payload.
fn fragment(to: IpAddr, id: u32, protocol: u8, offset: usize, more: bool, bytes: &[u8]) -> Vec<u8> {
    let offset = u16::try_from(offset).unwrap();
    if to.is_ipv4() {
        let mut packet = ip(to, protocol, bytes);
        packet[4..6].copy_from_slice(&id.to_be_bytes()[2..]);
        packet[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        packet
    } else {
        let mut payload = vec![protocol, 0];
        payload.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(bytes);
        ip(to, 44, &payload)
    }
}

/// A datagram from port 1111 to port 53, with its checksum.
fn datagram(to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let mut bytes = [1111_u16.to_be_bytes(), 53_u16.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    bytes.extend_from_slice(payload);
    let sum = checksum(to, 17, &bytes);
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn checksum(to: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let mut data = match (if to.is_ipv4() { v4(0) } else { v6(0) }, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => panic!("one family"),
    };
    data.extend_from_slice(&u32::from(protocol).to_be_bytes());
    data.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    data.extend_from_slice(bytes);
    data.resize(data.len().next_multiple_of(2), 0);
    let mut sum: u32 = data.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// `bytes` in pieces of `size`.
fn pieces(to: IpAddr, id: u32, protocol: u8, bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    let count = bytes.len().div_ceil(size);
    let piece = |(at, piece): (usize, &[u8])| fragment(to, id, protocol, at * size, at + 1 < count, piece);
    bytes.chunks(size).enumerate().map(piece).collect()
}

fn listening(limits: Limits) -> Raw {
    let mut raw = Raw::new(limits);
    raw.stack.udp_listen(53);
    raw
}

/// Everything the stack received.
fn received(raw: &mut Raw) -> Vec<Vec<u8>> {
    while raw.stack.poll_event().is_some() {}
    let mut payload = Vec::new();
    std::iter::from_fn(|| raw.stack.poll_datagram(&mut payload).map(|_| payload.clone())).collect()
}

fn stats(raw: &Raw) -> Stats {
    *raw.stack.stats()
}

const FAMILIES: [fn(usize) -> IpAddr; 2] = [v4, v6];

#[test]
fn any_order_and_repetitions() {
    for to in FAMILIES.map(|address| address(1)) {
        let payload = pattern(9000, 1);
        let fragments = pieces(to, 7, 17, &datagram(to, &payload), 1000);
        let orders: [Vec<usize>; 4] = [
            (0..10).collect(),
            (0..10).rev().collect(),
            vec![9, 0, 8, 1, 7, 2, 6, 3, 5, 4],
            vec![0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 7, 8, 0, 8],
        ];
        for order in orders {
            let mut raw = listening(Limits::default());
            order.iter().for_each(|&at| raw.send(&fragments[at]));
            if !order.contains(&9) {
                assert!(received(&mut raw).is_empty());
                raw.send(&fragments[9]);
            }
            assert!(received(&mut raw) == [payload.clone()], "{order:?}");
            assert_eq!((stats(&raw).reassembled, stats(&raw).reassembly_bytes), (1, 0));
        }
    }
}

#[test]
fn two_packets_at_a_time() {
    for to in FAMILIES.map(|address| address(1)) {
        let mut raw = listening(Limits::default());
        let payloads = [pattern(3000, 1), pattern(3000, 2)];
        let [first, second] =
            [0, 1].map(|at| pieces(to, 7 + at, 17, &datagram(to, &payloads[at as usize]), 800));
        for (one, other) in first.iter().zip(&second) {
            raw.send(one);
            raw.send(other);
        }
        assert!(received(&mut raw) == payloads);
    }
}

#[test]
fn overlapping_fragments_drop_the_packet() {
    for to in FAMILIES.map(|address| address(1)) {
        let bytes = datagram(to, &pattern(3000, 1));
        let fragments = pieces(to, 7, 17, &bytes, 1000);
        let liars = [
            // Into the one before, into the one behind, around one, the same place with other bytes, a second end.
            fragment(to, 7, 17, 992, true, &[1; 16]),
            fragment(to, 7, 17, 1992, true, &[1; 16]),
            fragment(to, 7, 17, 0, true, &[1; 2000]),
            fragment(to, 7, 17, 1000, true, &[1; 1000]),
            fragment(to, 7, 17, 1000, false, &bytes[1000..2000]),
            fragment(to, 7, 17, 1000, false, &[1; 100]),
        ];
        for liar in liars {
            let mut raw = listening(Limits::default());
            raw.send(&fragments[0]);
            raw.send(&fragments[1]);
            raw.send(&liar);
            // Nothing of it is taken any more, all of it included.
            let before = stats(&raw);
            if before.reassembly_overlap == 0 {
                // An end before the known end shows only now.
                raw.send(&fragments[2]);
            }
            assert_eq!(stats(&raw).reassembly_overlap, 1, "{:?}", &liar[..28]);
            fragments.iter().for_each(|fragment| raw.send(fragment));
            assert!(received(&mut raw).is_empty());
            assert!(stats(&raw).reassembly_bytes < 1000);
            raw.now = raw.now + secs(31);
            raw.stack.handle_timeout(raw.now);
            assert_eq!((stats(&raw).reassembly_bytes, stats(&raw).reassembly_timeout), (0, 0));
            // The identification is free again.
            fragments.iter().for_each(|fragment| raw.send(fragment));
            assert_eq!(received(&mut raw).len(), 1);
        }
    }
}

#[test]
fn an_end_before_what_is_there_drops_the_packet() {
    for to in FAMILIES.map(|address| address(1)) {
        let mut raw = listening(Limits::default());
        raw.send(&fragment(to, 7, 17, 2000, true, &[1; 8]));
        raw.send(&fragment(to, 7, 17, 0, false, &[1; 100]));
        assert_eq!(stats(&raw).reassembly_overlap, 0, "a whole packet in itself");
        raw.send(&fragment(to, 7, 17, 8, false, &[1; 100]));
        assert_eq!(stats(&raw).reassembly_overlap, 1);
    }
}

#[test]
fn missing_fragments_are_waited_for_30_seconds() {
    for to in FAMILIES.map(|address| address(1)) {
        let fragments = pieces(to, 7, 17, &datagram(to, &pattern(3000, 1)), 1000);
        for (gap, arrives) in [(29, 1), (31, 0)] {
            let mut raw = listening(Limits::default());
            raw.send(&fragments[0]);
            raw.send(&fragments[1]);
            assert!(raw.stack.poll_timeout().is_some());
            raw.now = raw.now + secs(gap);
            raw.stack.handle_timeout(raw.now);
            // The timeout counts from the first one.
            fragments[2..].iter().for_each(|fragment| raw.send(fragment));
            assert_eq!(received(&mut raw).len(), arrives);
            assert_eq!(stats(&raw).reassembly_timeout, 1 - arrives as u64);
            raw.now = raw.now + secs(61);
            raw.stack.handle_timeout(raw.now);
            assert_eq!(stats(&raw).reassembly_bytes, 0);
        }
    }
}

/// Without a checksum, the second half of another packet with the same identification would do.
#[test]
fn a_mixed_up_packet_is_dropped() {
    for to in FAMILIES.map(|address| address(1)) {
        let mut raw = listening(Limits::default());
        let [first, second] = [1, 2].map(|seed| pieces(to, 7, 17, &datagram(to, &pattern(1500, seed)), 800));
        raw.send(&first[0]);
        raw.send(&second[1]);
        assert!(received(&mut raw).is_empty());
        assert_eq!((stats(&raw).reassembled, stats(&raw).bad_checksum), (1, 1));
    }
}

#[test]
fn malformed_fragments_are_counted() {
    for to in FAMILIES.map(|address| address(1)) {
        let mut raw = listening(Limits::default());
        raw.send(&fragment(to, 7, 17, 0, true, &[1; 9]));
        raw.send(&fragment(to, 7, 17, 8, true, &[]));
        raw.send(&fragment(to, 7, 17, 65_528, false, &[1; 100]));
        assert_eq!((stats(&raw).fragment, stats(&raw).reassembly_bytes), (3, 0));
    }
}

/// A whole packet behind a fragment header.
#[test]
fn atomic_fragments() {
    let mut raw = listening(Limits::default());
    raw.send(&fragment(v6(1), 7, 17, 0, true, &[1; 8]));
    raw.send(&fragment(v6(1), 7, 17, 0, false, &datagram(v6(1), b"whole")));
    assert_eq!(received(&mut raw), [b"whole"]);
    assert_eq!(stats(&raw).reassembly_overlap, 0);
}

#[test]
fn a_flood_of_first_fragments_is_bounded() {
    for (to, size) in FAMILIES.map(|address| address(1)).into_iter().flat_map(|to| [(to, 8), (to, 1360)]) {
        let limits = Limits { reassembly_bytes: 100_000, ..Limits::default() };
        let mut raw = listening(limits);
        for id in 0..5000 {
            raw.send(&fragment(to, id, 17, 0, true, &vec![1; size]));
            assert!(stats(&raw).reassembly_bytes <= 100_000);
        }
        let held = 100_000 / (size as u64 + 512 + 64);
        assert_eq!(stats(&raw).reassembly_full, 5000 - held);
        // It displaces itself; what is complete at once gets through.
        pieces(to, 9999, 17, &datagram(to, &pattern(3000, 1)), 1000).iter().for_each(|piece| raw.send(piece));
        assert_eq!(received(&mut raw).len(), 1);
        raw.now = raw.now + secs(31);
        raw.stack.handle_timeout(raw.now);
        assert_eq!(stats(&raw).reassembly_bytes, 0);
    }
}

#[test]
fn a_packet_larger_than_the_limit() {
    let mut raw = listening(Limits { reassembly_bytes: 5000, ..Limits::default() });
    pieces(v4(1), 7, 17, &datagram(v4(1), &pattern(9000, 1)), 1000).iter().for_each(|piece| raw.send(piece));
    assert!(received(&mut raw).is_empty() && stats(&raw).reassembly_bytes <= 5000);
    assert!(stats(&raw).reassembly_full > 0);
    let mut raw = listening(Limits { reassembly_bytes: 0, ..Limits::default() });
    raw.send(&fragment(v4(1), 7, 17, 0, true, &[1; 8]));
    assert_eq!((stats(&raw).reassembly_full, stats(&raw).reassembly_bytes), (1, 0));
}

#[test]
fn a_packet_in_too_many_pieces() {
    for to in FAMILIES.map(|address| address(1)) {
        let bytes = datagram(to, &pattern(129 * 8 - 8, 1));
        let mut raw = listening(Limits::default());
        pieces(to, 7, 17, &bytes, 8).iter().for_each(|piece| raw.send(piece));
        assert_eq!((received(&mut raw).len(), stats(&raw).reassembly_full), (0, 1));
        let bytes = datagram(to, &pattern(128 * 8 - 8, 1));
        pieces(to, 8, 17, &bytes, 8).iter().for_each(|piece| raw.send(piece));
        assert_eq!(received(&mut raw).len(), 1);
    }
}

#[test]
fn a_large_echo_request_is_answered_in_fragments() {
    for to in FAMILIES.map(|address| address(1)) {
        let (protocol, ask, answer) = if to.is_ipv4() { (1, 8, 0) } else { (58, 128, 129) };
        let mut message = vec![ask, 0, 0, 0, 1, 2, 3, 4];
        message.extend_from_slice(&pattern(5000, 1));
        let sum = if to.is_ipv4() {
            // Without a pseudo header: taken out again.
            let mut words: u32 =
                message.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
            while words > 0xffff {
                words = (words & 0xffff) + (words >> 16);
            }
            !u16::try_from(words).unwrap()
        } else {
            checksum(to, 58, &message)
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut raw = Raw::new(Limits::default());
        pieces(to, 7, protocol, &message, 1000).iter().for_each(|piece| raw.send(piece));
        let replies = raw.replies();
        assert_eq!((stats(&raw).echo_replies, stats(&raw).fragments_sent, replies.len()), (1, 4, 4));
        let mut joined = Vec::new();
        for reply in &replies {
            assert!(reply.len() <= 1420);
            let header = if to.is_ipv4() { 20 } else { 48 };
            let at = if to.is_ipv4() { 2 } else { 4 };
            let end = usize::from(u16::from_be_bytes([reply[at], reply[at + 1]])) + header
                - if at == 2 { 20 } else { 8 };
            let end = if to.is_ipv4() { end } else { end.min(reply.len()) };
            joined.extend_from_slice(&reply[header..end]);
        }
        assert_eq!((joined[0], &joined[4..]), (answer, &message[4..]));
    }
}

#[test]
fn a_fragmented_syn_opens_a_flow() {
    let mut raw = Raw::new(Limits::default());
    raw.stack.listen(80);
    let mut syn = vec![0; 40];
    syn[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    syn[12] = 10 << 4;
    syn[13] = 2;
    syn[20..].fill(1);
    let sum = checksum(v4(1), 6, &syn);
    syn[16..18].copy_from_slice(&sum.to_be_bytes());
    pieces(v4(1), 7, 6, &syn, 24).iter().for_each(|piece| raw.send(piece));
    assert!(matches!(raw.stack.poll_event(), Some(Event::Incoming { .. })));
}

/// Fragments that mostly fit together.
fn any_fragment() -> impl Strategy<Value = (bool, u32, u8, usize, bool, usize, u8)> {
    let offset = prop_oneof![(0..12_usize).prop_map(|at| at * 8), (0..8191_usize).prop_map(|at| at * 8)];
    let len = prop_oneof![Just(8_usize), Just(16), 0..200_usize, 0..1400_usize];
    let protocol = prop_oneof![Just(17_u8), Just(1), Just(58), Just(6), any::<u8>()];
    (any::<bool>(), 0..4_u32, protocol, offset, any::<bool>(), len, 0..3_u8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_fragments_are_harmless(
        fragments in prop::collection::vec(any_fragment(), 1..300), limit in 0..20_000_usize, seconds in 0..3_u64,
    ) {
        let mut raw = listening(Limits { reassembly_bytes: limit, ..Limits::default() });
        raw.stack.listen(80);
        for (six, id, protocol, offset, more, len, byte) in fragments {
            let to = if six { v6(1) } else { v4(1) };
            raw.send(&fragment(to, id, protocol, offset, more, &vec![byte; len]));
            prop_assert!(stats(&raw).reassembly_bytes <= limit);
            raw.now = raw.now + secs(seconds);
            raw.stack.handle_timeout(raw.now);
        }
        received(&mut raw);
        raw.replies();
        raw.now = raw.now + secs(61);
        raw.stack.handle_timeout(raw.now);
        prop_assert_eq!((stats(&raw).reassembly_bytes, stats(&raw).udp_received), (0, 0));
    }

    #[test]
    fn shuffled_fragments_join(
        order in Just((0..8_usize).collect::<Vec<_>>()).prop_shuffle(), size in 1..170_usize, cut in 0..8_usize, six: bool,
    ) {
        let to = if six { v6(1) } else { v4(1) };
        let size = size * 8;
        let payload = pattern(size * 7 + cut, 5);
        let fragments = pieces(to, 1, 17, &datagram(to, &payload), size);
        let mut raw = listening(Limits::default());
        for at in order {
            if let Some(fragment) = fragments.get(at) {
                raw.send(fragment);
            }
        }
        for fragment in fragments.get(8..).unwrap_or_default() {
            raw.send(fragment);
        }
        prop_assert!(received(&mut raw) == [payload]);
    }
}
