//! RFC 6191: when a SYN may end TIME-WAIT. The stack closes first, so its end rests.

use nexodus_netstack::Limits;

use crate::flows::{answer, syn};
use crate::sim::raw::Raw;
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
