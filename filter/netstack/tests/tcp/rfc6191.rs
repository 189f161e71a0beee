//! RFC 6191: when a SYN may end TIME-WAIT. The stack closes first, so its end rests.

use std::net::SocketAddr;

use nexodus_netstack::{Event, FlowId, Limits};

use crate::flows::{answer, syn};
use crate::sim::raw::Raw;
use crate::sim::{secs, v4};
use crate::wire::{ACK, FIN, RST, SYN, Seg};

const PORT: u16 = 1000;
/// The peer's first number, and its clock.
const THEIRS: u32 = 500_000;
const CLOCK: u32 = 9000;

/// A stack in which a flow from `PORT` rests; the last number of the peer's is `THEIRS + 1`.
fn resting(stamps: bool) -> Raw {
    let mut raw = Raw::new(Limits::default());
    raw.stack.listen(80);
    let ts = |value| stamps.then_some((value, 0));
    let (flow, opened) = answer(&mut raw, PORT, &Seg { ts: ts(CLOCK - 10), ..syn(THEIRS) }).unwrap();
    let ack = Seg {
        seq: THEIRS + 1,
        ack: opened.seq + 1,
        flags: ACK,
        window: 1000,
        ts: ts(CLOCK - 5),
        ..Seg::default()
    };
    raw.send(&ack.packet((1, PORT), (2, 80)));
    raw.stack.finish(raw.now, flow);
    let fin = Seg::read(raw.replies().last().unwrap());
    assert_eq!(fin.flags & (FIN | ACK), FIN | ACK);
    let answer = Seg { ack: fin.seq + 1, flags: FIN | ACK, ts: ts(CLOCK), ..ack };
    raw.send(&answer.packet((1, PORT), (2, 80)));
    assert_eq!(raw.replies().len(), 1);
    while raw.stack.poll_event().is_some() {}
    assert_eq!(raw.stack.stats().time_wait, 1);
    raw
}

/// Whether a SYN makes a new flow.
fn reuses(stamps: bool, again: &Seg) -> bool {
    let mut raw = resting(stamps);
    let answer = answer(&mut raw, PORT, again);
    if let Some((_, answer)) = &answer {
        assert_eq!((answer.flags, answer.ack), (SYN | ACK, again.seq + 1));
    }
    answer.is_some()
}

fn stamped(seq: u32, value: u32) -> Seg {
    Seg { ts: Some((value, 0)), ..syn(seq) }
}

/// 1. Section 2, first case: both have timestamps, and the SYN's is later. Its number does not matter.
#[test]
fn c01_by_a_later_timestamp() {
    assert!(reuses(true, &stamped(THEIRS - 100_000, CLOCK + 1)));
    assert!(reuses(true, &stamped(THEIRS + 100_000, CLOCK + 1)));
}

/// 2. The same timestamp: the number decides.
#[test]
fn c02_the_same_timestamp() {
    assert!(reuses(true, &stamped(THEIRS + 2, CLOCK)));
    assert!(!reuses(true, &stamped(THEIRS + 1, CLOCK)));
}

/// 3. An earlier timestamp: an old duplicate, whatever its number.
#[test]
fn c03_an_earlier_timestamp() {
    assert!(!reuses(true, &stamped(THEIRS + 100_000, CLOCK - 1)));
}

/// 4. Without timestamps in the SYN the number decides.
#[test]
fn c04_by_number() {
    for stamps in [false, true] {
        assert!(reuses(stamps, &syn(THEIRS + 2)));
        assert!(!reuses(stamps, &syn(THEIRS + 1)));
        assert!(!reuses(stamps, &syn(THEIRS - 100_000)));
    }
}

/// 5. The old flow had no timestamps and the new one does: nothing of the old can be taken for the new.
#[test]
fn c05_timestamps_are_new() {
    assert!(reuses(false, &stamped(THEIRS - 100_000, 1)));
}

/// 6. RFC 9293, section 3.10.7.4, and RFC 1337: what is refused is answered, and neither it nor an RST ends the rest.
#[test]
fn c06_a_refused_syn() {
    let mut raw = resting(true);
    raw.send(&stamped(THEIRS, CLOCK - 1).packet((1, PORT), (2, 80)));
    let answers = raw.replies();
    assert_eq!(answers.len(), 1);
    let answer = Seg::read(&answers[0]);
    assert_eq!((answer.flags, answer.ack), (ACK, THEIRS + 2));
    raw.send(&Seg { seq: THEIRS + 2, flags: RST, ..Seg::default() }.packet((1, PORT), (2, 80)));
    assert_eq!((raw.replies().len(), raw.stack.stats().time_wait), (0, 1));
}

/// The ports from which a stack connects.
const PORTS: usize = 28_232;

/// Connects to the peer's port 80; the local port and the SYN.
fn connect(raw: &mut Raw) -> (FlowId, u16, Seg) {
    let flow = raw.stack.connect(raw.now, SocketAddr::new(v4(0), 80)).unwrap();
    let packets = raw.replies();
    assert_eq!(packets.len(), 1);
    (flow, u16::from_be_bytes([packets[0][20], packets[0][21]]), Seg::read(&packets[0]))
}

/// Opens a connection and closes it first; its port, and the number after our FIN and the timestamp with it.
fn rest_after_connecting(raw: &mut Raw, stamps: bool) -> (u16, u32, u32) {
    let (flow, port, syn) = connect(raw);
    let ts = |segment: &Seg, clock| stamps.then(|| (clock, segment.ts.unwrap().0));
    let accepted = Seg {
        seq: THEIRS,
        ack: syn.seq + 1,
        flags: SYN | ACK,
        window: 1000,
        ts: ts(&syn, CLOCK),
        ..Seg::default()
    };
    raw.send(&accepted.packet((1, 80), (2, port)));
    raw.stack.finish(raw.now, flow);
    let fin = Seg::read(raw.replies().last().unwrap());
    assert_eq!(fin.flags & FIN, FIN);
    let finished =
        Seg { seq: THEIRS + 1, ack: fin.seq + 1, flags: FIN | ACK, ts: ts(&fin, CLOCK + 1), ..accepted };
    raw.send(&finished.packet((1, 80), (2, port)));
    assert_eq!(raw.replies().len(), 1);
    while raw.stack.poll_event().is_some() {}
    assert_eq!(raw.stack.stats().time_wait, 1);
    (port, fin.seq + 1, syn.ts.unwrap().0)
}

/// Has all other ports had their turn.
fn once_around(raw: &mut Raw) {
    for _ in 1..PORTS {
        let flow = raw.stack.connect(raw.now, SocketAddr::new(v4(0), 80)).unwrap();
        raw.stack.abort(raw.now, flow);
    }
}

/// 7. The other end of section 2: after a second our own next connection takes the tuple, with a later number and a later
///    timestamp. A peer that has missed our last acknowledgement answers its SYN for the old connection; that is reset, and the
///    SYN comes again.
#[test]
fn c07_our_own_next_connection() {
    let mut raw = Raw::new(Limits::default());
    let (port, end, stamp) = rest_after_connecting(&mut raw, true);
    once_around(&mut raw);
    let (flow, other, _) = connect(&mut raw);
    assert_ne!(other, port, "too early");
    raw.stack.abort(raw.now, flow);

    once_around(&mut raw);
    raw.now = raw.now + secs(1);
    raw.stack.handle_timeout(raw.now);
    let (flow, again, syn) = connect(&mut raw);
    assert_eq!((again, raw.stack.stats().time_wait_reused), (port, 1));
    let later = |new: u32, old: u32| (1..1 << 31).contains(&new.wrapping_sub(old));
    assert!(later(syn.seq, end), "{} after {end}", syn.seq);
    assert!(later(syn.ts.unwrap().0, stamp));

    let last_ack = Seg {
        seq: THEIRS + 2,
        ack: end,
        flags: ACK,
        window: 1000,
        ts: Some((CLOCK + 1000, syn.ts.unwrap().0)),
        ..Seg::default()
    };
    raw.send(&last_ack.packet((1, 80), (2, port)));
    let reset = Seg::read(&raw.replies()[0]);
    assert_eq!((reset.flags & RST, reset.seq), (RST, end), "what ends the peer's LAST-ACK");
    raw.now = raw.now + secs(2);
    raw.stack.handle_timeout(raw.now);
    let repeated = Seg::read(raw.replies().last().unwrap());
    assert_eq!((repeated.flags, repeated.seq), (SYN, syn.seq));
    let accepted = Seg {
        seq: THEIRS + 900_000,
        ack: syn.seq + 1,
        flags: SYN | ACK,
        window: 1000,
        ts: Some((CLOCK + 3000, repeated.ts.unwrap().0)),
        ..Seg::default()
    };
    raw.send(&accepted.packet((1, 80), (2, port)));
    assert_eq!(raw.stack.poll_event(), Some(Event::Connected { flow }));
}

/// 8. Without timestamps nothing tells the new connection's segments from old ones: the tuple rests to the end.
#[test]
fn c08_our_own_next_connection_without_timestamps() {
    let mut raw = Raw::new(Limits::default());
    let (port, ..) = rest_after_connecting(&mut raw, false);
    once_around(&mut raw);
    raw.now = raw.now + secs(2);
    raw.stack.handle_timeout(raw.now);
    let (_, other, _) = connect(&mut raw);
    assert_ne!(other, port);
    assert_eq!(raw.stack.stats().time_wait_reused, 0);
}
