//! Any bytes as a segment: they are read as a second reader, written from the RFCs alone, reads them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nexodus_netstack::Instant;
use nexodus_netstack::conn::{Connection, Settings, State};

use crate::input::Input;
use crate::packet::{ACK, FIN, RST, SYN, Segment, Sent, tcp_packet};

const NOW: Instant = Instant::from_micros(1_000_000_000);
const ISS: u32 = 1_000_000;
const IRS: u32 = 500_000;
const SENT: usize = 20_000;
/// The peer's clock at the start.
const CLOCK: u32 = 9000;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let shape = input.u8();
    let verify_checksums = shape & 2 != 0;
    let settings = Settings { pacing: false, verify_checksums, ..Settings::default() };
    let ends = ends(shape & 1 != 0);
    match shape >> 6 {
        0 => syn(settings, ends, input.0),
        1 => whole(settings, ends, input.0),
        _ => open(settings, ends, shape, &mut input),
    }
}

/// Ours and the peer's.
fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    let (ours, theirs) =
        if v6 { ("[fd00::1]:40000", "[fd00::2]:80") } else { ("100.64.0.1:40000", "100.64.0.2:80") };
    (ours.parse().unwrap(), theirs.parse().unwrap())
}

/// What a connection's answer to a SYN has to say, whatever stands in the SYN.
fn syn(settings: Settings, (ours, theirs): (SocketAddr, SocketAddr), tcp: &[u8]) {
    let packet = tcp_packet(theirs, ours, tcp.to_vec());
    let connection = Connection::accept(Arc::new(settings), NOW, &packet, ISS, 77);
    let read = Segment::read(tcp).filter(|syn| syn.flags & (SYN | ACK | RST) == SYN);
    assert_eq!(connection.is_some(), read.is_some(), "{read:?}");
    let (Some(mut connection), Some(syn)) = (connection, read) else { return };
    let headers = if ours.is_ipv4() { 40 } else { 60 };
    let answer = poll(&mut connection, NOW).pop().expect("an answer");
    assert_eq!((answer.flags, answer.seq, answer.ack), (SYN | ACK, ISS, syn.seq.wrapping_add(1)));
    assert_eq!(answer.mss, Some(settings.mtu - headers));
    assert_eq!(answer.shift.is_some(), syn.shift.is_some());
    assert_eq!(answer.sack_ok, syn.sack_ok);
    assert_eq!(answer.ts.map(|ts| ts.1), syn.ts.map(|ts| ts.0));

    // Its segments are as large as the peer wants them, and within its window.
    let ack = Segment {
        seq: syn.seq.wrapping_add(1),
        ack: ISS + 1,
        flags: ACK,
        window: syn.window,
        ts: syn.ts.map(|ts| (ts.0, 0)),
        ..Segment::default()
    };
    assert!(connection.handle_packet(NOW, &ack.packet(theirs, ours)));
    assert_eq!(connection.state(), State::Established);
    connection.send(NOW, &[7; 3000]);
    let stamps = if syn.ts.is_some() { 12 } else { 0 };
    let default = if ours.is_ipv4() { 536 } else { 1220 };
    let mss = syn.mss.unwrap_or(default).max(48).min(settings.mtu - headers) - stamps;
    let window = u32::from(syn.window) << syn.shift.unwrap_or(0).min(14);
    for data in poll(&mut connection, NOW).iter().filter(|data| !data.data.is_empty()) {
        assert!(data.data.len() <= mss.into(), "{} bytes, the peer takes {mss}", data.data.len());
        assert!(data.end() - ISS - 1 <= window, "up to {}, the window is {window}", data.end() - ISS - 1);
    }
}

/// Any bytes as an IP packet, for an open and for a new connection: without its ports, addresses and (when they are asked
/// for) checksums it is none of the connection's.
fn whole(settings: Settings, (ours, theirs): (SocketAddr, SocketAddr), packet: &[u8]) {
    let mut connection = Connection::connect(Arc::new(settings), NOW, (ours, theirs), ISS, 5);
    poll(&mut connection, NOW);
    let taken = connection.handle_packet(NOW, packet);
    assert_eq!(connection.counters().malformed, u32::from(!taken));
    poll(&mut connection, NOW);
    if let Some(mut accepted) = Connection::accept(Arc::new(settings), NOW, packet, ISS, 5) {
        poll(&mut accepted, NOW);
    }
}

/// Any bytes as segments for an open connection. Their numbers count from those that are expected next.
fn open(settings: Settings, (ours, theirs): (SocketAddr, SocketAddr), shape: u8, input: &mut Input<'_>) {
    let mut now = NOW;
    let mut connection = Connection::connect(Arc::new(settings), now, (ours, theirs), ISS, 5);
    let hello = poll(&mut connection, now).pop().expect("a SYN");
    now = now + Duration::from_millis(20);
    let stamped = shape & 4 != 0;
    let answer = Segment {
        seq: IRS,
        ack: ISS + 1,
        flags: SYN | ACK,
        window: 60_000,
        mss: Some(1000),
        shift: (shape & 16 != 0).then_some(7),
        sack_ok: shape & 8 != 0,
        ts: stamped.then(|| (CLOCK, hello.ts.expect("offered").0)),
        ..Segment::default()
    };
    assert!(connection.handle_packet(now, &answer.packet(theirs, ours)));
    assert_eq!(connection.send(now, &[b'a'; SENT]), SENT);
    let mut sent = poll(&mut connection, now).last().expect("data").end();
    let mut expected = IRS + 1;
    // Nothing has come but what was next: what an in-order segment brings is beyond doubt.
    let mut plain = true;
    while !input.is_empty() && connection.end().is_none() {
        now = now + Duration::from_millis(input.u8().into());
        let len = usize::from(input.u8());
        let mut tcp = input.bytes(len).to_vec();
        add(&mut tcp, 4, expected);
        add(&mut tcp, 8, ISS + 1);
        if stamped && shape & 32 != 0 {
            // Where most senders have them.
            add(&mut tcp, 24, CLOCK);
        }
        let segment = Segment::read(&tcp);
        let una = (ISS + 1 + SENT as u32).wrapping_sub(connection.unacknowledged() as u32);
        let old = connection.counters().old_timestamps;
        assert_eq!(connection.handle_packet(now, &tcp_packet(theirs, ours, tcp)), segment.is_some());
        let Some(segment) = segment else { continue };
        if stamped && segment.ts.is_none() && !segment.has(RST) {
            assert_eq!((connection.counters().old_timestamps, connection.recv_available()), (old + 1, 0));
        }
        let next = segment.seq == expected;
        let acks = segment.ack.wrapping_sub(una) <= sent.wrapping_sub(una);
        if plain && next && acks && !stamped && segment.flags & (SYN | RST | ACK) == ACK {
            assert_eq!(connection.recv_available(), segment.data.len(), "{segment:?}");
            assert_eq!(connection.peer_finished(), segment.has(FIN), "{segment:?}");
        }
        plain &= (next && !segment.has(FIN)) || (segment.data.is_empty() && !segment.has(FIN));
        let mut bytes = vec![0; connection.recv_available()];
        let read = connection.recv(now, &mut bytes);
        assert_eq!(read, bytes.len());
        expected = expected.wrapping_add(read as u32);
        for packet in poll(&mut connection, now) {
            if !packet.data.is_empty() {
                sent = if packet.end().wrapping_sub(sent).cast_signed() > 0 { packet.end() } else { sent };
                assert!(packet.data.iter().all(|&byte| byte == b'a'));
                assert!(packet.end() - ISS - 1 <= SENT as u32);
            }
        }
    }
}

/// Adds to the word at `at`, if there is one.
fn add(tcp: &mut [u8], at: usize, base: u32) {
    if let Some(word) = tcp.get_mut(at..at + 4) {
        let value = u32::from_be_bytes(word.try_into().unwrap()).wrapping_add(base);
        word.copy_from_slice(&value.to_be_bytes());
    }
}

/// What the connection sends now.
fn poll(connection: &mut Connection, now: Instant) -> Vec<Segment> {
    let mut packet = Vec::new();
    let mut sent = Vec::new();
    while connection.poll_packet(now, &mut packet) {
        sent.push(Sent::read(&packet).segment());
        assert!(sent.len() < 1000, "packets without end");
    }
    assert!(connection.poll_timeout().is_none_or(|at| at > now), "a deadline that does nothing");
    sent
}
