//! How fast the sender sends: RFC 6928, 3465, 5681, 6298, 9438, 9937, and the undo of what was no loss (RFC 3522, 5682, 3708).

use nexodus_netstack::conn::Settings;

use crate::script::{Peer, Script, unpaced};
use crate::wire::Seg;

fn stamped() -> Script {
    Script::open(unpaced(), Peer { ts: true, ..Peer::default() })
}

/// 1. RFC 6928, section 2: ten segments at first; one if the SYN was lost.
#[test]
fn c01_the_initial_window() {
    let mut script = Script::plain();
    script.send(50_000);
    assert_eq!(script.skip(), 10);
    let mut script = Script::opening(unpaced());
    script.wait(1500);
    assert_eq!(script.skip(), 2);
    let syn_ack = Seg {
        seq: 1,
        ack: crate::script::OURS + 1,
        flags: 0x12,
        window: 60_000,
        mss: Some(1000),
        ..Seg::default()
    };
    script.give(syn_ack);
    script.skip();
    script.send(50_000);
    assert_eq!(script.skip(), 1);
}

/// 2. RFC 3465: slow start grows by bytes, so few acknowledgements are as good as many.
#[test]
fn c02_bytes_count() {
    let mut script = Script::plain();
    script.send(60_000);
    assert_eq!(script.skip(), 10);
    script.wait(100);
    script.acked(10_000);
    assert_eq!((script.skip(), script.conn.congestion_window()), (20, 20_000));
}

/// 3. RFC 5681, section 4.1: after a long silence the window is worth less, but never less than the initial one.
#[test]
fn c03_silence() {
    let mut script = Script::plain();
    let mut done = 0;
    for round in 0..3 {
        script.send(10_000 << round);
        script.skip();
        script.wait(100);
        done += 10_000 << round;
        script.acked(done);
    }
    assert!(script.conn.congestion_window() >= 70_000);
    script.wait(50_000);
    script.send(60_000);
    assert_eq!(script.skip(), 10);
}

/// 4. RFC 9438, section 4.6: a loss leaves 0.7 of the window.
#[test]
fn c04_a_loss() {
    let mut script = Script::plain();
    script.send(60_000);
    script.skip();
    script.wait(100);
    script.acked(10_000);
    script.skip();
    script.wait(100);
    script.sack(10_000, &[(11_000, 30_000)]);
    script.acked(30_000);
    assert_eq!(script.conn.congestion_window(), 14_000);
}

/// 5. RFC 9937: during recovery one segment leaves for about every 1.4 that arrive, without a pause and without a burst.
#[test]
fn c05_proportional_rate_reduction() {
    let mut script = Script::plain();
    script.send(120_000);
    script.skip();
    script.wait(100);
    script.acked(10_000);
    script.skip();
    script.wait(100);
    script.acked(30_000);
    assert_eq!((script.skip(), script.conn.congestion_window()), (40, 40_000));
    script.wait(100);
    let mut left = Vec::new();
    for n in 1..39 {
        script.sack(30_000, &[(31_000, 31_000 + n * 1000)]);
        left.push(script.skip());
    }
    // Limited transmit (RFC 3042) until the third shows the loss, the retransmission, and then 0.7 for each.
    assert_eq!(&left[..3], [1, 1, 1]);
    let sent: usize = left.iter().sum();
    assert!((26..=30).contains(&sent), "{sent} {left:?}");
    assert!(left.iter().all(|&sent| sent <= 2), "{left:?}");
    script.acked(70_000);
    assert_eq!(script.conn.congestion_window(), 28_000);
}

/// 6. RFC 6298, section 5: the timeout doubles, starts anew with progress, and is 200 ms beyond the round trip at least.
#[test]
fn c06_the_timeout() {
    // Without SACK there are no tail loss probes.
    let mut script = Script::open(unpaced(), Peer { sack: false, ..Peer::default() });
    script.send(10);
    script.expect_data(0, 10);
    let mut gaps = Vec::new();
    for _ in 0..5 {
        let before = script.now;
        while script.skip() == 0 {
            script.wait(10);
        }
        gaps.push((script.now - before).as_millis());
    }
    assert_eq!(gaps, [300, 600, 1200, 2400, 4800]);
    assert_eq!(script.conn.congestion_window(), 1000);
    script.acked(10);
    script.send(10);
    script.expect_data(10, 10);
    script.wait(299);
    script.quiet();
    script.wait(1);
    script.expect_data(10, 10);
}

/// 7. RFC 5681, section 3.1: after a timeout slow start, one segment at first.
#[test]
fn c07_slow_start_after_a_timeout() {
    let mut script = Script::plain();
    script.send(10_000);
    script.skip();
    script.wait(100);
    script.acked(1000);
    script.wait(200);
    script.expect_data(9000, 1000);
    script.wait(1000);
    script.expect_data(1000, 1000);
    script.skip();
    script.wait(100);
    script.acked(2000);
    assert_eq!(script.skip(), 2);
    script.acked(4000);
    assert!(script.skip() <= 4);
}

/// 8. RFC 3522: an echo that is older than the retransmission says that the original has arrived. Nothing was lost.
#[test]
fn c08_eifel_after_a_timeout() {
    let mut script = stamped();
    script.send(9880);
    let mut stamps = Vec::new();
    for _ in 0..10 {
        stamps.push(script.expect("bytes").ts.map_or(0, |ts| ts.0));
    }
    let window = script.conn.congestion_window();
    script.wait(900);
    assert!(script.conn.counters().timeouts > 0);
    script.skip();
    script.give(Seg { ts: Some((script.clock(), stamps[0])), ..script.ack(988, 0) });
    assert_eq!(script.conn.counters().undone, 1);
    assert!(script.conn.congestion_window() >= window);
    // What was not sent again yet stays where it is: on the way.
    script.quiet();
}

/// 9. RFC 3522 in fast recovery: late, not lost.
#[test]
fn c09_eifel_after_reordering() {
    let mut script = stamped();
    script.send(9880);
    let stamp = script.expect("bytes").ts.map_or(0, |ts| ts.0);
    script.skip();
    script.wait(100);
    let window = script.conn.congestion_window();
    let block = (crate::script::OURS + 1 + 988, crate::script::OURS + 1 + 9880);
    script.give(Seg { sack: vec![block], ..script.ack(0, 0) });
    script.expect_data(0, 988);
    script.wait(5);
    script.give(Seg { ts: Some((script.clock(), stamp)), ..script.ack(9880, 0) });
    assert_eq!((script.conn.counters().recoveries, script.conn.counters().undone), (1, 1));
    assert!(script.conn.congestion_window() >= window);
}

/// 10. RFC 5682: without timestamps, news of a segment that was sent only once tell the same after a timeout.
#[test]
fn c10_forward_rto() {
    let mut script = Script::plain();
    script.send(10_000);
    script.skip();
    let window = script.conn.congestion_window();
    script.wait(700);
    assert_eq!(script.conn.counters().timeouts, 1);
    script.skip();
    script.acked(5000);
    assert_eq!(script.conn.counters().undone, 1);
    assert!(script.conn.congestion_window() >= window);
    // A timeout that was right: the retransmission, and nothing else, is acknowledged.
    let mut script = Script::plain();
    script.send(10_000);
    script.skip();
    script.wait(700);
    script.skip();
    script.acked(1000);
    assert_eq!(script.conn.counters().undone, 0);
}

/// 11. RFC 3708: when every retransmission turns out to have been superfluous, so was the reduction.
#[test]
fn c11_undo_by_duplicates() {
    let mut script = Script::plain();
    script.send(10_000);
    script.skip();
    script.wait(100);
    let window = script.conn.congestion_window();
    script.sack(0, &[(2000, 9000)]);
    script.expect_data(0, 1000);
    script.expect_data(1000, 1000);
    script.sack(9000, &[(0, 1000)]);
    assert_eq!(script.conn.counters().undone, 0, "one is still doubtful");
    script.sack(9000, &[(1000, 2000)]);
    assert_eq!(script.conn.counters().undone, 1);
    assert!(script.conn.congestion_window() >= window);
}

/// 12. Pacing: a window leaves spread over the round trip.
#[test]
fn c12_pacing() {
    let mut script = Script::open(Settings::default(), Peer::default());
    script.send(100_000);
    script.wait(100);
    script.skip();
    script.acked(10_000);
    // The window is 20 segments and twice of it is the pace: some at once, the rest over 50 ms.
    let mut left = vec![script.skip()];
    for _ in 0..10 {
        script.wait(5);
        left.push(script.skip());
    }
    assert_eq!(left.iter().sum::<usize>(), 20, "{left:?}");
    assert!(left[0] <= 15 && left[1..].iter().all(|&sent| sent <= 3), "{left:?}");
}

/// 13. RFC 9293, section 3.8.6.3: every second full segment, or after the delay; the first ones at once.
#[test]
fn c13_delayed_acknowledgements() {
    let mut script = Script::plain();
    let mut at = 0;
    for _ in 0..16 {
        let segment = script.data(at, 1000);
        script.give(segment);
        at += 1000;
        script.expect_ack(at);
    }
    let segment = script.data(at, 1000);
    script.give(segment);
    script.wait(39);
    script.quiet();
    script.wait(1);
    script.expect_ack(at + 1000);
    for n in 1..3 {
        script.quiet();
        let segment = script.data(at + n * 1000, 1000);
        script.give(segment);
    }
    script.expect_ack(at + 3000);
    // With bytes of ours it goes along.
    let segment = script.data(at + 3000, 100);
    script.give(segment);
    script.send(10);
    assert_eq!(script.expect_data(0, 10).ack, crate::script::THEIRS + 1 + at + 3100);
    script.wait(100);
    script.quiet();
}

/// 14. Buffers grow with need: the receive window follows the reader, the send buffer the congestion window.
#[test]
fn c14_buffers_grow() {
    let mut script = Script::open(Settings { initial_buffer: 20_000, ..unpaced() }, Peer::default());
    let first = script.conn.send_room();
    let mut at = 0;
    let mut windows = Vec::new();
    for _ in 0..12 {
        let window = script.data_window();
        windows.push(window);
        for _ in 0..window / 1000 {
            let segment = script.data(at, 1000);
            script.give(segment);
            at += 1000;
        }
        script.skip();
        script.wait(100);
        script.read(1 << 23);
    }
    // The shift rounds it down.
    assert_eq!((first, windows[0]), (20_000, 19_968));
    assert!(windows[11] > 1 << 20, "{windows:?}");
    // Nobody who reads slowly gets more.
    let mut slow = Script::open(Settings { initial_buffer: 20_000, ..unpaced() }, Peer::default());
    for n in 0..20 {
        let segment = slow.data(n * 1000, 1000);
        slow.give(segment);
        slow.wait(1000);
        slow.read(1000);
    }
    assert!(slow.data_window() < 40_000, "{}", slow.data_window());
}

/// 15. RFC 9937: a recovery that time begins, and no acknowledgement, begins with one segment too.
#[test]
fn c15_a_recovery_that_time_begins() {
    let mut script = Script::plain();
    script.send(10_000);
    script.skip();
    script.wait(100);
    script.sack(0, &[(9000, 10_000)]);
    script.wait(30);
    script.expect_data(0, 1000);
    script.quiet();
    assert_eq!(script.conn.counters().recoveries, 1);
    script.wait(100);
    script.sack(1000, &[(9000, 10_000)]);
    script.expect_data(1000, 1000);
    script.expect_data(2000, 1000);
    script.quiet();
}
