//! RFC 8985: RACK-TLP.

use std::time::Duration;

use nexodus_netstack::conn::Settings;

use crate::script::{Peer, Script, unpaced};
use crate::wire::Seg;

/// Ten segments on the way, 100 ms ago.
fn ten() -> Script {
    let mut script = Script::plain();
    script.send(10_000);
    assert_eq!(script.skip(), 10);
    script.wait(100);
    script
}

/// 1. Section 3.1: one later delivery is enough, once the reordering window is over: a quarter of the round trip.
#[test]
fn c01_time_decides() {
    let mut script = ten();
    script.sack(0, &[(1000, 2000)]);
    script.wait(24);
    script.quiet();
    script.wait(1);
    script.expect_data(0, 1000);
    script.quiet();
}

/// 2. Section 6.2: without any sign of reordering three segments are as good as time (DupThresh).
#[test]
fn c02_three_segments_decide() {
    let mut script = ten();
    script.sack(0, &[(1000, 3000)]);
    script.quiet();
    script.sack(0, &[(1000, 4000)]);
    script.expect_data(0, 1000);
    assert_eq!(script.conn.counters().recoveries, 1);
}

/// 3. Section 6.2, step 3: where reordering was seen, only time decides.
#[test]
fn c03_reordering() {
    let mut script = ten();
    script.sack(0, &[(1000, 2000)]);
    script.acked(2000);
    script.wait(1);
    script.sack(2000, &[(3000, 10_000)]);
    script.quiet();
    script.wait(23);
    script.quiet();
    script.wait(2);
    script.expect_data(2000, 1000);
}

/// 4. Section 6.2: a retransmission that is lost is seen too, by what was sent after it.
#[test]
fn c04_a_lost_retransmission() {
    let mut script = ten();
    script.sack(0, &[(1000, 8000)]);
    script.expect_data(0, 1000);
    script.send(3000);
    let after = script.skip();
    assert!(after > 0);
    script.wait(100);
    // New bytes, sent after the retransmission, have arrived; it has not.
    script.sack(0, &[(1000, 10_000 + 1000 * after as u32)]);
    script.wait(30);
    script.expect_data(0, 1000);
    assert_eq!(script.conn.counters().timeouts, 0);
}

/// 5. Section 7.2: a tail loss probe after two round trips; the last segment when there is nothing new.
#[test]
fn c05_the_tail_is_probed() {
    let mut script = ten();
    script.acked(5000);
    script.wait(199);
    script.quiet();
    script.wait(1);
    script.expect_data(9000, 1000);
    assert_eq!((script.conn.counters().tail_probes, script.conn.counters().timeouts), (1, 0));
}

/// 6. Section 7.2: for a lone segment the peer's delay of acknowledgements is added, but a probe takes the place of a timeout
///    that would come first.
#[test]
fn c06_a_lone_segment() {
    for (min_rto, probe_at, timeout_at) in [(1000, 400, 1500), (200, 300, 600)] {
        let settings = Settings { min_rto: Duration::from_millis(min_rto), ..unpaced() };
        let mut script = Script::open(settings, Peer::default());
        script.send(10);
        script.expect_data(0, 10);
        script.wait(probe_at - 1);
        script.quiet();
        script.wait(1);
        script.expect_data(0, 10);
        assert_eq!((script.conn.counters().tail_probes, script.conn.counters().timeouts), (1, 0));
        script.wait(timeout_at - probe_at - 1);
        script.quiet();
        script.wait(1);
        script.expect_data(0, 10);
        assert_eq!((script.conn.counters().tail_probes, script.conn.counters().timeouts), (1, 1));
    }
}

/// 7. Section 7.3: new bytes make the better probe.
#[test]
fn c07_a_probe_of_new_bytes() {
    let mut script = Script::plain();
    script.send(20_000);
    assert_eq!(script.skip(), 10, "the congestion window");
    script.wait(200);
    script.expect_data(10_000, 1000);
    assert_eq!(script.conn.counters().retransmitted, 0);
}

/// 8. Section 7.3: one probe at a time, then the retransmission timeout.
#[test]
fn c08_one_probe() {
    let mut script = ten();
    script.wait(150);
    script.expect_data(9000, 1000);
    script.wait(240);
    script.quiet();
    script.wait(200);
    script.expect_data(0, 1000);
    assert_eq!((script.conn.counters().tail_probes, script.conn.counters().timeouts), (1, 1));
}

/// 9. Section 7.4.2: the probe has repaired the only loss, so the window pays for it.
#[test]
fn c09_a_loss_that_the_probe_repaired() {
    let mut script = ten();
    let before = script.conn.congestion_window();
    script.wait(150);
    script.expect_data(9000, 1000);
    script.acked(10_000);
    script.send(1000);
    script.skip();
    script.acked(11_000);
    assert!(script.conn.congestion_window() < before + 10_000, "{}", script.conn.congestion_window());
}

/// 10. Section 7.4.2: both arrived (D-SACK), so nothing was lost.
#[test]
fn c10_a_probe_that_was_not_needed() {
    let mut script = ten();
    script.wait(150);
    script.expect_data(9000, 1000);
    script.acked(10_000);
    let window = script.conn.congestion_window();
    script.sack(10_000, &[(9000, 10_000)]);
    script.send(1000);
    script.skip();
    script.acked(11_000);
    assert!(script.conn.congestion_window() >= window);
    assert_eq!(script.conn.counters().recoveries, 0);
}

/// 11. Section 6.2, step 4: D-SACKs widen the reordering window, by a quarter of the shortest round trip.
#[test]
fn c11_the_window_widens() {
    let mut script = ten();
    // Taken for lost, and late.
    script.sack(0, &[(1000, 4000)]);
    script.expect_data(0, 1000);
    script.acked(4000);
    script.sack(4000, &[(0, 1000)]);
    script.skip();
    script.send(10_000);
    script.skip();
    script.wait(100);
    script.acked(10_000);
    script.skip();
    script.send(5000);
    script.skip();
    script.wait(100);
    script.sack(11_000, &[(12_000, 13_000)]);
    script.wait(49);
    let early = script.conn.counters().retransmitted;
    script.wait(3);
    assert_eq!((early, script.conn.counters().retransmitted), (1, 2));
}

/// 12. RFC 6582 and RFC 5681: a peer without SACK. Three repeated acknowledgements, then one hole per round trip.
#[test]
fn c12_without_sack() {
    let mut script = Script::open(unpaced(), Peer { sack: false, ..Peer::default() });
    script.acked(0);
    script.send(10_000);
    script.skip();
    script.wait(100);
    for _ in 0..3 {
        script.quiet();
        script.acked(0);
    }
    script.expect_data(0, 1000);
    script.skip();
    script.wait(50);
    script.acked(3000);
    script.expect_data(3000, 1000);
    script.acked(10_000);
    assert_eq!((script.conn.unacknowledged(), script.conn.counters().timeouts), (0, 0));
    // A window that changes is no repetition (RFC 5681, section 2).
    script.send(5000);
    script.skip();
    for n in 0..5 {
        script.give(Seg { window: 50_000 + n, ..script.ack(10_000, 0) });
    }
    script.wait(100);
    script.quiet();
}

/// 13. Section 9.1, the first example: P1 and P3 of three are lost. R1 was sent after P3, and has arrived.
#[test]
fn c13_the_last_segment_of_a_flight() {
    let mut script = Script::plain();
    for n in 0..3 {
        script.send(1000);
        script.expect_data(n * 1000, 1000);
        script.wait(30);
    }
    script.wait(40);
    script.sack(0, &[(1000, 2000)]);
    script.expect_data(0, 1000);
    script.wait(100);
    script.acked(2000);
    script.expect_data(2000, 1000);
    assert_eq!((script.conn.counters().tail_probes, script.conn.counters().timeouts), (0, 0));
}

/// 14. Section 6.2, step 5: a tail loss probe that arrives shows that everything before it is lost.
#[test]
fn c14_a_lost_tail() {
    let mut script = ten();
    script.acked(5000);
    script.wait(200);
    script.expect_data(9000, 1000);
    script.wait(100);
    script.sack(5000, &[(9000, 10_000)]);
    script.expect_data(5000, 1000);
    script.wait(100);
    script.sack(6000, &[(9000, 10_000)]);
    script.expect_data(6000, 1000);
    script.expect_data(7000, 1000);
    assert_eq!(script.conn.counters().timeouts, 0);
}

/// 15. Section 6.2, step 5: so does a retransmission after a timeout, of the one before it.
#[test]
fn c15_a_lost_retransmission_after_a_timeout() {
    let mut script = ten();
    script.wait(600);
    assert_eq!(script.conn.counters().timeouts, 1);
    script.skip();
    script.acked(1000);
    script.expect_data(1000, 1000);
    script.expect_data(2000, 1000);
    script.wait(100);
    script.sack(1000, &[(2000, 3000)]);
    script.expect_data(1000, 1000);
    assert_eq!(script.conn.counters().timeouts, 1);
}

/// 16. Section 6.2, step 3: one acknowledgement of a batch, which brings a number and blocks beyond it, shows no reordering.
#[test]
fn c16_a_number_and_blocks_at_once_are_in_order() {
    let mut script = ten();
    script.sack(2000, &[(3000, 6000)]);
    // Three segments are above the hole, which is enough while no reordering was seen.
    script.expect_data(2000, 1000);
}
