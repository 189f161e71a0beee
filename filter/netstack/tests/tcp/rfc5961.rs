//! RFC 5961: attacks by somebody who does not see the segments.

use nexodus_netstack::conn::{End, State};

use crate::script::{OURS, Script, THEIRS};
use crate::wire::{ACK, RST, SYN, Seg};

/// 1. Section 3.2: an RST with the very next number resets.
#[test]
fn c01_the_exact_reset() {
    let mut script = Script::plain();
    script.give(Seg { seq: THEIRS + 1, flags: RST, ..Seg::default() });
    assert_eq!((script.state(), script.end()), (State::Closed, Some(End::Reset)));
    script.quiet();
}

/// 2. Section 3.2: one within the window is answered, one outside is not.
#[test]
fn c02_other_resets() {
    let mut script = Script::plain();
    script.give(Seg { seq: THEIRS + 2, flags: RST, ..Seg::default() });
    script.expect_ack(0);
    script.give(Seg { seq: THEIRS, flags: RST, ..Seg::default() });
    script.give(Seg { seq: THEIRS + (1 << 24), flags: RST, ..Seg::default() });
    script.quiet();
    assert_eq!(script.state(), State::Established);
}

/// 3. Section 4.2: a SYN is answered and changes nothing, wherever it stands.
#[test]
fn c03_a_syn() {
    let mut script = Script::plain();
    for seq in [THEIRS, THEIRS + 1, THEIRS + 500, THEIRS.wrapping_add(1 << 30)] {
        script.give(Seg { seq, flags: SYN, ..Seg::default() });
        script.expect_ack(0);
    }
    assert_eq!(script.state(), State::Established);
}

/// 4. Section 5.2: an acknowledgement of what was never sent, or is older than any window, is answered, and its bytes dropped.
#[test]
fn c04_acknowledgements() {
    let mut script = Script::plain();
    script.send(100);
    script.skip();
    for ack in [OURS + 102, OURS + 1 - 60_001, OURS.wrapping_add(1 << 31)] {
        script.give(Seg {
            seq: THEIRS + 1,
            ack,
            flags: ACK,
            window: 60_000,
            data: vec![6; 6],
            ..Seg::default()
        });
        script.expect_ack(0);
    }
    assert_eq!((script.conn.recv_available(), script.conn.unacknowledged()), (0, 100));
    script.give(Seg { ack: OURS + 1 - 60_000, data: vec![6; 6], ..script.ack(0, 0) });
    assert_eq!(script.conn.recv_available(), 6);
}

/// 5. Section 7: only so many answers in a second.
#[test]
fn c05_answers_are_limited() {
    let mut script = Script::plain();
    for _ in 0..100 {
        script.give(Seg { seq: THEIRS + 2, flags: RST, ..Seg::default() });
    }
    assert_eq!((script.skip(), script.conn.counters().answers_limited), (10, 90));
    script.wait(1000);
    script.give(Seg { seq: THEIRS + 2, flags: RST, ..Seg::default() });
    script.expect_ack(0);
}

/// 6. RFC 1337: TIME-WAIT is not cut short by an RST.
#[test]
fn c06_time_wait_stays() {
    let mut script = Script::plain();
    script.finish();
    script.skip();
    script.give(Seg { flags: ACK | 1, ..script.ack(1, 0) });
    assert_eq!(script.state(), State::TimeWait);
    script.give(Seg { seq: THEIRS + 2, flags: RST, ..Seg::default() });
    assert_eq!(script.state(), State::TimeWait);
}
