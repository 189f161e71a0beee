//! RFC 7323: window scale, timestamps, PAWS.

use nexodus_netstack::conn::{Settings, State};

use crate::script::{CLOCK, Peer, Script, unpaced};
use crate::wire::{RST, Seg};

fn stamped() -> Script {
    Script::open(unpaced(), Peer { ts: true, ..Peer::default() })
}

/// 1. Section 2.2: our SYN offers a shift that fits the largest window, and timestamps.
#[test]
fn c01_the_syn_offers() {
    let mut script = Script::opening(unpaced());
    let syn = script.expect("SYN");
    assert_eq!((syn.shift, syn.ts.map(|ts| ts.1), syn.sack_ok), (Some(7), Some(0), true));
    let none = Settings { window_scaling: false, timestamps: false, sack: false, ..unpaced() };
    let syn = Script::opening(none).expect("SYN");
    assert_eq!((syn.shift, syn.ts, syn.sack_ok), (None, None, false));
}

/// 2. Section 2.2: windows are scaled only if both ends offered it, and never in a SYN.
#[test]
fn c02_windows_are_scaled_when_both_say_so() {
    let mut script = Script::open(unpaced(), Peer { shift: Some(3), window: 1000, ..Peer::default() });
    script.send(20_000);
    // The SYN|ACK's window is 1,000 bytes.
    script.expect_data(0, 1000);
    script.quiet();
    script.give(Seg { window: 1000, ..script.ack(1000, 0) });
    assert_eq!(script.skip(), 8, "8,000 bytes");
    let mut script = Script::open(unpaced(), Peer { shift: None, ..Peer::default() });
    script.send(20_000);
    script.skip();
    script.give(Seg { window: 2000, ..script.ack(10_000, 0) });
    assert_eq!(script.skip(), 2);
}

/// 3. Section 2.3: a shift above 14 counts as 14.
#[test]
fn c03_a_shift_of_200() {
    let mut script = Script::open(unpaced(), Peer { shift: Some(200), ..Peer::default() });
    script.give(Seg { window: 1, ..script.ack(0, 0) });
    script.send(100_000);
    // The initial congestion window, which 16,384 bytes are enough for.
    assert_eq!(script.skip(), 10);
}

/// 4. Section 3.2: once agreed on, every segment has timestamps; one without is dropped.
#[test]
fn c04_every_segment_has_timestamps() {
    let mut script = stamped();
    script.send(100);
    let data = script.expect_data(0, 100);
    assert_eq!(data.ts, Some((1_000_000 + 101, CLOCK + 100)));
    script.give(Seg { ts: None, data: vec![1; 10], ..script.ack(100, 0) });
    script.quiet();
    assert_eq!((script.conn.recv_available(), script.conn.counters().old_timestamps), (0, 1));
}

/// 5. Section 4.3: the echo is that of the segment that is acknowledged, the earliest one of those.
#[test]
fn c05_which_timestamp_is_echoed() {
    let mut script = stamped();
    script.wait(10);
    let first = script.clock();
    let segment = script.data(0, 100);
    script.give(segment);
    script.wait(10);
    // One ahead of a hole does not count.
    let segment = script.data(500, 100);
    script.give(segment);
    assert_eq!(script.expect_ack(100).ts.map(|ts| ts.1), Some(first));
    script.wait(10);
    let filler = script.clock();
    let segment = script.data(100, 400);
    script.give(segment);
    assert_eq!(script.expect_ack(600).ts.map(|ts| ts.1), Some(filler));
}

/// 6. Section 5.3: a segment with an older timestamp is an old duplicate, unless it is an RST.
#[test]
fn c06_paws() {
    let mut script = stamped();
    let old = Seg { ts: Some((CLOCK - 1, 0)), ..script.data(0, 100) };
    script.give(old.clone());
    script.expect_ack(0);
    assert_eq!((script.conn.recv_available(), script.conn.counters().old_timestamps), (0, 1));
    script.give(Seg { flags: RST, data: Vec::new(), ..old });
    assert_eq!(script.state(), State::Closed);
}

/// 7. Section 5.5: after 24 days of silence timestamps say nothing.
#[test]
fn c07_an_old_connection() {
    let forever = std::time::Duration::from_secs(1 << 30);
    let settings = Settings { keepalive: forever, user_timeout: forever, ..unpaced() };
    let mut script = Script::open(settings, Peer { ts: true, ..Peer::default() });
    script.wait(24 * 24 * 3600 * 1000 + 1);
    let old = Seg { ts: Some((CLOCK - 1, 0)), ..script.data(0, 100) };
    script.give(old);
    assert_eq!(script.conn.recv_available(), 100);
}

/// 8. Section 2.4: a window that was announced stays, although the shift rounds what can be said of it.
#[test]
fn c08_the_window_does_not_shrink() {
    let settings = Settings { recv_buffer: 200_000, initial_buffer: 200_000, ..unpaced() };
    let mut script = Script::open(settings, Peer::default());
    let segment = script.data(0, 1);
    script.give(segment);
    script.wait(100);
    let window = u32::from(script.expect_ack(1).window) << 2;
    // The peer fills it to the last byte.
    let edge = 1 + window;
    let mut at = 1;
    while at < edge {
        let len = 1000.min(edge - at);
        let segment = script.data(at, len as usize);
        script.give(segment);
        at += len;
    }
    script.skip();
    assert_eq!(script.conn.recv_available() as u32, edge);
    // And its acknowledgements, which stand at the very end, are accepted.
    script.send(10);
    script.expect_data(0, 10);
    script.give(script.ack(10, edge));
    assert_eq!((script.conn.unacknowledged(), script.conn.counters().out_of_window), (0, 0));
}

/// 9. Section 4.1: round trips are known from echoes even when a segment was sent twice.
#[test]
fn c09_round_trips_of_what_was_sent_again() {
    let mut script = stamped();
    script.send(100);
    script.expect_data(0, 100);
    script.wait(5000);
    assert!(script.skip() > 2);
    let echo = 1_000_000 + 5100 - 50;
    script.give(Seg { ts: Some((script.clock(), echo)), ..script.ack(100, 0) });
    // 100 ms at first, then one sample of 50 ms.
    assert_eq!(script.conn.round_trip().map(|time| time.as_millis()), Some(93));
}

/// 10. Section 3.2: a SYN|ACK without timestamps turns them off.
#[test]
fn c10_no_timestamps() {
    let mut script = Script::plain();
    script.send(1);
    assert_eq!(script.expect_data(0, 1).ts, None);
}

/// 11. Section 2.2: a window that cannot be said without a scale is no news to a peer that has none.
#[test]
fn c11_windows_that_no_header_can_tell_of() {
    let mut script = Script::open(unpaced(), Peer { shift: None, ..Peer::default() });
    let mut at = 0;
    let mut arrives = |script: &mut Script| {
        let segment = script.data(at, 1000);
        script.give(segment);
        at += 1000;
        let answers = script.skip();
        assert_eq!((script.read(10_000), script.skip()), (1000, 0), "at {at}");
        answers
    };
    // The first ones are acknowledged each, then every second one.
    for _ in 0..16 {
        assert_eq!(arrives(&mut script), 1);
    }
    for _ in 0..100 {
        assert_eq!((arrives(&mut script), arrives(&mut script)), (0, 1));
    }
}
