//! The third segment of a handshake: what opened the connection acknowledges the SYN|ACK with its first bytes, or 1 ms later
//! (RFC 9293, section 3.10.7.3; RFC 1122, section 4.2.3.2).

use std::time::Duration;

use nexodus_netstack::conn::{Settings, State};

use crate::script::{CLOCK, OURS, Peer, Script, THEIRS, unpaced};
use crate::wire::{ACK, FIN, PSH, RST, SYN, Seg};

/// A SYN|ACK has come, and the application was told of the connection some microseconds ago.
fn told(peer: Peer) -> Script {
    let mut script = Script::answered(unpaced(), peer);
    assert_eq!(script.state(), State::Established);
    script.wait_for(Duration::from_micros(300));
    script.quiet();
    script
}

fn stamped() -> Peer {
    Peer { ts: true, ..Peer::default() }
}

/// 1. The first bytes acknowledge the SYN|ACK, and nothing goes ahead of them.
#[test]
fn c01_the_first_bytes_carry_the_acknowledgement() {
    let mut script = told(stamped());
    script.send(100);
    let data = script.expect_data(0, 100);
    assert_eq!((data.ack, data.flags), (THEIRS + 1, ACK | PSH));
    // The window is scaled, the echo is the SYN|ACK's, and the round trip ended with it.
    assert_eq!(data.window, (128 << 10 >> 7) as u16);
    assert_eq!(data.ts, Some((1_000_000 + 100, CLOCK + 100)));
    assert_eq!(script.conn.round_trip(), Some(Duration::from_millis(100)));
    script.wait(90);
    script.acked(100);
    script.wait(10_000);
    script.quiet();
    assert_eq!(script.conn.counters().sent, 2, "SYN and bytes");
}

/// 2. Of more bytes than a segment holds the first ones.
#[test]
fn c02_a_window_of_bytes() {
    let mut script = told(Peer::default());
    script.send(50_000);
    for n in 0..10 {
        assert_eq!(script.expect_data(n * 1000, 1000).ack, THEIRS + 1);
    }
    script.wait(50);
    script.quiet();
}

/// 3. When nothing is written the peer, which may be the one to speak first, waits for 1 ms and no longer.
#[test]
fn c03_nothing_is_written() {
    let mut script = Script::answered(unpaced(), stamped());
    let due = script.now + Duration::from_millis(1);
    assert_eq!(script.conn.poll_timeout(), Some(due));
    script.wait_for(Duration::from_micros(999));
    script.quiet();
    script.wait_for(Duration::from_micros(1));
    let ack = script.expect_ack(0);
    assert_eq!((ack.seq, ack.ts), (OURS + 1, Some((1_000_000 + 101, CLOCK + 100))));
    assert_eq!(script.conn.round_trip(), Some(Duration::from_millis(100)));
    // It is not said again, and the next to be done is the keepalive.
    assert_eq!(script.conn.poll_timeout(), Some(due + Duration::from_millis(59_999)));
    script.wait(59_000);
    script.quiet();
}

/// 4. Bytes that were written before the SYN|ACK came leave as soon as it has.
#[test]
fn c04_bytes_that_wait_for_the_handshake() {
    let mut script = Script::opening(unpaced());
    script.send(100);
    let segment = script.syn_ack(Peer::default());
    script.give(segment);
    assert_eq!(script.expect_data(0, 100).ack, THEIRS + 1);
    script.wait(50);
    script.quiet();
}

/// 5. A close right after the open: the FIN acknowledges the SYN|ACK.
#[test]
fn c05_the_fin_carries_the_acknowledgement() {
    let mut script = told(Peer::default());
    script.finish();
    let fin = script.expect_data(0, 0);
    assert_eq!((fin.flags, fin.ack, script.state()), (ACK | FIN, THEIRS + 1, State::FinWait1));
    script.wait(50);
    script.quiet();
}

/// 6. And so does an RST (section 3.10.5), behind which nothing comes.
#[test]
fn c06_the_rst_carries_the_acknowledgement() {
    let mut script = told(Peer::default());
    script.conn.abort();
    let reset = script.expect("RST");
    assert_eq!((reset.seq, reset.flags, reset.ack), (OURS + 1, RST | ACK, THEIRS + 1));
    assert_eq!(script.conn.poll_timeout(), None);
    script.wait(50);
    script.quiet();
}

/// 7. Section 3.10.7.4: a SYN|ACK that comes again is answered at once, and that answer is the acknowledgement.
#[test]
fn c07_the_syn_ack_comes_again() {
    for peer in [Peer::default(), stamped()] {
        let mut script = Script::opening(unpaced());
        let segment = script.syn_ack(peer);
        script.give(segment.clone());
        script.wait_for(Duration::from_micros(300));
        script.quiet();
        script.give(segment);
        script.expect_ack(0);
        script.wait(1000);
        script.quiet();
    }
}

/// 8. What comes with the SYN|ACK is not taken, as ever: the peer hears at once that it has to send it again.
#[test]
fn c08_bytes_or_a_fin_with_the_syn_ack() {
    for (data, fin) in [(vec![1; 10], 0), (Vec::new(), FIN)] {
        let mut script = Script::opening(unpaced());
        let segment = script.syn_ack(Peer::default());
        script.give(Seg { data, flags: SYN | ACK | fin, ..segment });
        script.expect_ack(0);
        script.wait(1000);
        script.quiet();
    }
}

/// 9. A full segment behind the SYN|ACK is acknowledged at once, like all of the first ones; so is what lies ahead of a hole.
#[test]
fn c09_segments_that_are_acknowledged_at_once() {
    for (at, acknowledged) in [(0, 1000), (1000, 0)] {
        let mut script = told(Peer::default());
        script.give(script.data(at, 1000));
        script.expect_ack(acknowledged);
        script.wait(50);
        script.quiet();
    }
}

/// 10. A small one waits for no longer than the SYN|ACK before it does; bytes of ours acknowledge both.
#[test]
fn c10_a_small_segment_before_the_acknowledgement() {
    let mut script = told(Peer::default());
    script.give(script.data(0, 10));
    script.wait_for(Duration::from_micros(699));
    script.quiet();
    script.wait_for(Duration::from_micros(1));
    script.expect_ack(10);
    script.wait(50);
    script.quiet();

    let mut script = told(Peer::default());
    script.give(script.data(0, 10));
    script.send(20);
    assert_eq!(script.expect_data(0, 20).ack, THEIRS + 11);
    script.wait(50);
    script.quiet();
}

/// 11. RFC 7323, section 4.3: the echo is that of the earliest segment that is acknowledged, and that is the SYN|ACK.
#[test]
fn c11_the_echo_of_the_syn_ack() {
    let mut script = told(stamped());
    let later = Seg { ts: Some((CLOCK + 105, 0)), ..script.data(0, 1000) };
    script.give(later);
    assert_eq!(script.expect_ack(1000).ts.map(|ts| ts.1), Some(CLOCK + 100));
    let next = Seg { ts: Some((CLOCK + 110, 0)), ..script.data(1000, 1000) };
    script.give(next);
    assert_eq!(script.expect_ack(2000).ts.map(|ts| ts.1), Some(CLOCK + 110));
}

/// 12. Bytes for which the SYN|ACK has no room do not hold it up.
#[test]
fn c12_a_closed_window() {
    let mut script = told(Peer { window: 0, ..Peer::default() });
    script.send(100);
    script.quiet();
    script.wait_for(Duration::from_micros(700));
    script.expect_ack(0);
    script.acked(0);
    script.expect_data(0, 100);
}

/// 13. Who delays no acknowledgements delays none of these.
#[test]
fn c13_no_delay() {
    let mut script = Script::answered(Settings { ack_delay: Duration::ZERO, ..unpaced() }, Peer::default());
    script.expect_ack(0);
    script.wait(50);
    script.quiet();
}
