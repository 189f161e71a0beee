//! RFC 9293: TCP.

use std::sync::Arc;

use nexodus_netstack::conn::{Connection, End, Pressure, Settings, State};

use crate::link::START;
use crate::script::{OURS, Peer, Script, THEIRS, unpaced};
use crate::wire::{ACK, FIN, PSH, RST, SYN, Seg};

/// 1. Section 3.5, figure 6: the basic three-way handshake.
#[test]
fn c01_active_open() {
    let script = Script::plain();
    assert_eq!((script.state(), script.end()), (State::Established, None));
}

/// 2. Section 3.5, figure 7: both ends open at once.
#[test]
fn c02_simultaneous_open() {
    let mut script = Script::opening(unpaced());
    assert_eq!(script.expect("SYN").flags, SYN);
    let syn = Seg { seq: THEIRS, flags: SYN, window: 1000, mss: Some(1000), ..Seg::default() };
    script.give(syn.clone());
    let answer = script.expect("SYN|ACK");
    assert_eq!((answer.seq, answer.ack, answer.flags), (OURS, THEIRS + 1, SYN | ACK));
    assert_eq!(script.state(), State::SynReceived);
    script.give(Seg { flags: SYN | ACK, ack: OURS + 1, ..syn });
    assert_eq!(script.state(), State::Established);
    script.expect_ack(0);
    script.quiet();
}

/// 3. Section 3.10.7.3: an acknowledgement of something else while opening is answered with RST.
#[test]
fn c03_a_wrong_acknowledgement_of_the_syn() {
    let mut script = Script::opening(unpaced());
    script.skip();
    script.give(Seg { seq: THEIRS, ack: OURS + 7, flags: SYN | ACK, ..Seg::default() });
    let reset = script.expect("RST");
    assert_eq!((reset.seq, reset.flags), (OURS + 7, RST));
    assert_eq!((script.state(), script.conn.counters().bad_acks), (State::SynSent, 1));
}

/// 4. Section 3.10.7.3: RST in answer to the SYN, but only to this one.
#[test]
fn c04_refused() {
    let mut script = Script::opening(unpaced());
    script.skip();
    script.give(Seg { ack: OURS, flags: RST | ACK, ..Seg::default() });
    script.give(Seg { ack: OURS + 1, flags: RST, ..Seg::default() });
    assert_eq!(script.end(), None);
    script.quiet();
    script.give(Seg { ack: OURS + 1, flags: RST | ACK, ..Seg::default() });
    assert_eq!((script.end(), script.conn.poll_timeout()), (Some(End::Refused), None));
    script.quiet();
}

/// 5. Section 3.8.3: a SYN is repeated after 1, 2, 4… s and then given up.
#[test]
fn c05_syn_retries() {
    let mut script = Script::opening(Settings { syn_retries: 3, ..unpaced() });
    script.expect("SYN");
    for wait in [1000, 2000, 4000] {
        script.wait(wait - 1);
        script.quiet();
        script.wait(1);
        assert_eq!(script.expect("SYN again").flags, SYN);
    }
    script.wait(7999);
    assert_eq!(script.end(), None);
    script.wait(1);
    assert_eq!(script.end(), Some(End::TimedOut));
    script.quiet();
}

/// 6. Section 3.6, figure 12: a normal close; the peer's FIN comes second and TIME-WAIT follows.
#[test]
fn c06_active_close() {
    let mut script = Script::plain();
    script.send(10);
    script.finish();
    assert_eq!(script.expect_data(0, 10).flags, ACK | PSH);
    let fin = script.expect_data(10, 0);
    assert_eq!((fin.flags, script.state()), (ACK | FIN, State::FinWait1));
    script.acked(11);
    assert_eq!(script.state(), State::FinWait2);
    script.give(Seg { flags: ACK | FIN, ..script.ack(11, 0) });
    script.expect_ack(1);
    assert_eq!((script.state(), script.end()), (State::TimeWait, Some(End::Done)));
    // A FIN that comes again is acknowledged again.
    script.wait(3000);
    script.give(Seg { flags: ACK | FIN, ..script.ack(11, 0) });
    script.expect_ack(1);
    script.wait(29_999);
    assert_eq!(script.state(), State::TimeWait);
    script.wait(1);
    assert_eq!(script.state(), State::Closed);
    script.quiet();
}

/// 7. Section 3.6, figure 12, the other side: CLOSE-WAIT, LAST-ACK, and bytes in between.
#[test]
fn c07_passive_close() {
    let mut script = Script::plain();
    script.give(Seg { flags: ACK | FIN, data: b"bye".to_vec(), ..script.ack(0, 0) });
    script.expect_ack(4);
    assert_eq!((script.state(), script.conn.peer_finished()), (State::CloseWait, true));
    script.send(2000);
    script.expect_data(0, 1000);
    script.expect_data(1000, 1000);
    script.finish();
    assert_eq!(script.expect_data(2000, 0).flags, ACK | FIN);
    assert_eq!(script.state(), State::LastAck);
    script.give(script.ack(2001, 4));
    assert_eq!((script.state(), script.end(), script.read(10)), (State::Closed, Some(End::Done), 3));
}

/// 8. Section 3.6, figure 13: both close at once.
#[test]
fn c08_simultaneous_close() {
    let mut script = Script::plain();
    script.finish();
    script.expect_data(0, 0);
    script.give(Seg { flags: ACK | FIN, ..script.ack(0, 0) });
    script.expect_ack(1);
    assert_eq!(script.state(), State::Closing);
    script.give(script.ack(1, 1));
    assert_eq!(script.state(), State::TimeWait);
}

/// 9. Section 3.10.5: abort sends RST, and nothing else afterwards.
#[test]
fn c09_abort() {
    let mut script = Script::plain();
    script.send(100);
    script.skip();
    script.conn.abort();
    let reset = script.expect("RST");
    assert_eq!((reset.flags, reset.seq), (RST | ACK, OURS + 101));
    assert_eq!((script.state(), script.end()), (State::Closed, Some(End::Aborted)));
    script.acked(100);
    script.wait(10_000);
    script.quiet();
}

/// 10. Section 3.10.7.4: bytes beyond the window are cut off, those before it too.
#[test]
fn c10_the_window_cuts() {
    let settings = Settings { recv_buffer: 3000, ..unpaced() };
    let mut script = Script::open(settings, Peer { shift: None, ..Peer::default() });
    script.give(script_data(&script, 0, 2000));
    script.skip();
    script.give(script_data(&script, 1000, 1000));
    script.expect_ack(2000);
    script.give(script_data(&script, 1500, 2000));
    assert_eq!(script.expect_ack(3000).window, 0);
    assert_eq!(script.conn.recv_available(), 3000);
    script.give(script_data(&script, 3000, 10));
    script.expect_ack(3000);
    assert_eq!(script.conn.recv_available(), 3000);
}

fn script_data(script: &Script, at: u32, len: usize) -> Seg {
    Seg { data: vec![b'x'; len], ..script.ack(0, at) }
}

/// 11. Section 3.8.6.1: a closed window is probed for ever, with growing distances, while the peer answers.
#[test]
fn c11_zero_window_probes() {
    let mut script = Script::plain();
    script.send(1000);
    script.expect_data(0, 1000);
    script.give(Seg { window: 0, ..script.ack(1000, 0) });
    script.send(500);
    script.quiet();
    let mut last = script.now;
    let mut gaps = Vec::new();
    for _ in 0..12 {
        while script.conn.counters().window_probes as usize == gaps.len() {
            script.wait(10);
        }
        let probe = script.expect("a probe");
        // It lies before the window, so it can only be answered.
        assert_eq!((probe.seq, probe.len()), (OURS + 1000, 0));
        gaps.push((script.now - last).as_millis());
        last = script.now;
        script.give(Seg { window: 0, ..script.ack(1000, 0) });
        script.quiet();
    }
    assert!(gaps[0] >= 200 && gaps.windows(2).all(|pair| pair[1] >= pair[0]), "{gaps:?}");
    assert!((50_000..=60_010).contains(&gaps[11]), "{gaps:?}");
    assert_eq!(script.end(), None);
    script.acked(1000);
    script.expect_data(1000, 500);
}

/// 12. Section 3.8.6.2.1: no small segment while a larger one could follow, unless nothing else helps.
#[test]
fn c12_the_sender_avoids_silly_windows() {
    let mut script = Script::plain();
    script.send(5000);
    for n in 0..5 {
        script.expect_data(n * 1000, 1000);
    }
    script.send(5000);
    script.skip();
    // A window of 128 bytes when everything is acknowledged.
    script.give(Seg { window: 1, ..script.ack(10_000, 0) });
    script.send(2000);
    script.quiet();
    script.wait(1000);
    script.expect_data(10_000, 128);
}

/// 13. Section 3.8.6.2.2: the window opens in steps that are worth a segment.
#[test]
fn c13_the_receiver_avoids_silly_windows() {
    let settings = Settings { recv_buffer: 8000, ..unpaced() };
    let mut script = Script::open(settings, Peer { shift: None, ..Peer::default() });
    for n in 0..8 {
        script.give(script_data(&script, n * 1000, 1000));
    }
    script.skip();
    script.wait(100);
    script.skip();
    assert_eq!(script.read(500), 500);
    script.quiet();
    script.read(1500);
    assert_eq!(script.expect_ack(8000).window, 2000);
}

/// 14. Section 3.7.1: without the option a peer takes 536 bytes.
#[test]
fn c14_the_default_segment_size() {
    let mut script = Script::open(unpaced(), Peer { mss: None, ..Peer::default() });
    script.send(1000);
    script.expect_data(0, 536);
    script.expect_data(536, 464);
}

/// 15. Section 3.7.1: our SYN says what the MTU leaves.
#[test]
fn c15_our_segment_size() {
    let mut script = Script::opening(unpaced());
    assert_eq!(script.expect("SYN").mss, Some(1380));
}

/// 16. Section 3.8.4: an idle connection asks for a sign of life, and ends without one.
#[test]
fn c16_keepalive() {
    let mut script = Script::plain();
    script.wait(60_000);
    let probe = script.expect("a keepalive");
    assert_eq!((probe.seq, probe.len()), (OURS, 0));
    script.acked(0);
    script.wait(59_999);
    script.quiet();
    script.wait(200_000);
    assert!(script.skip() > 5);
    assert_eq!(script.end(), None);
    script.wait(1000);
    assert_eq!(script.end(), Some(End::TimedOut));
}

/// 17. Section 3.8.3 and RFC 5482: bytes that nobody acknowledges end the connection.
#[test]
fn c17_user_timeout() {
    let mut script = Script::plain();
    script.send(10);
    script.wait(199_900);
    assert_eq!(script.end(), None);
    assert!(script.skip() > 5);
    script.wait(100);
    assert_eq!(script.end(), Some(End::TimedOut));
}

/// 18. Section 3.10.7.4: a SYN|ACK that was lost is repeated when the SYN is.
#[test]
fn c18_an_opening_rst_and_bytes_with_the_acknowledgement() {
    let mut script = Script::opening(unpaced());
    script.skip();
    script.give(Seg {
        seq: THEIRS,
        ack: OURS + 1,
        flags: SYN | ACK,
        window: 1000,
        mss: Some(1000),
        data: Vec::new(),
        ..Seg::default()
    });
    script.wait(1);
    script.expect_ack(0);
    // The peer did not get it.
    script.give(Seg { seq: THEIRS, ack: OURS + 1, flags: SYN | ACK, window: 1000, ..Seg::default() });
    script.expect_ack(0);
    assert_eq!(script.state(), State::Established);
}

/// 19. Section 3.8.3: a peer that answers and never acknowledges does not keep the connection.
#[test]
fn c19_answers_are_no_acknowledgements() {
    let mut script = Script::plain();
    script.send(10);
    for _ in 0..199 {
        script.wait(1000);
        script.acked(0);
    }
    assert_eq!(script.end(), None);
    script.wait(1000);
    assert_eq!(script.end(), Some(End::TimedOut));
}

/// 20. Section 3.8.6.1: a peer that keeps its window closed does, as long as it answers.
#[test]
fn c20_a_window_that_stays_closed() {
    let mut script = Script::plain();
    script.send(10);
    script.skip();
    for _ in 0..1000 {
        script.give(Seg { window: 0, ..script.ack(0, 0) });
        script.wait(1000);
    }
    assert_eq!(script.end(), None);
    script.wait(200_000);
    assert_eq!(script.end(), Some(End::TimedOut));
}

/// 21. Section 3.10.7.4: the FIN that comes in order is the peer's, whatever came ahead of it.
#[test]
fn c21_a_fin_ahead_of_the_peers() {
    let mut script = Script::plain();
    script.give(Seg { flags: FIN | ACK, data: vec![b'y'; 100], ..script.ack(0, 5000) });
    script.expect_ack(0);
    script.give(script_data(&script, 0, 1000));
    script.skip();
    script.give(Seg { flags: FIN | ACK, ..script_data(&script, 1000, 500) });
    assert_eq!(script.expect("an acknowledgement").ack, THEIRS + 1 + 1500 + 1);
    assert_eq!((script.state(), script.read(10_000)), (State::CloseWait, 1500));
}

/// 22. Section 3.8.6: the window counts from the acknowledgement beside it, also in a segment that repeats old bytes.
#[test]
fn c22_the_window_of_a_repeated_segment() {
    let mut script = Script::plain();
    script.send(8000);
    script.skip();
    let ahead = script_data(&script, 1000, 500);
    script.give(ahead);
    script.give(Seg { ack: OURS + 1 + 8000, window: 8, ..script_data(&script, 0, 1000) });
    script.skip();
    script.send(8000);
    script.expect_data(8000, 1000);
    script.quiet();
}

/// 23. Section 3.10.7.3: what was not sent yet cannot be acknowledged, not even by who has guessed its number.
#[test]
fn c23_an_acknowledgement_before_the_syn() {
    let ends = ("100.64.0.1:40000".parse().unwrap(), "100.64.0.2:80".parse().unwrap());
    let mut conn = Connection::connect(Arc::new(unpaced()), START, ends, OURS, 0);
    let guess = Seg { seq: THEIRS, ack: OURS + 1, flags: SYN | ACK, window: 1000, ..Seg::default() };
    conn.handle_packet(START, &guess.packet((2, 80), (1, 40_000)));
    assert_eq!((conn.state(), conn.counters().bad_acks), (State::SynSent, 1));

    let syn = Seg { flags: SYN, ack: 0, ..guess.clone() };
    let mut conn =
        Connection::accept(Arc::new(unpaced()), START, &syn.packet((2, 80), (1, 40_000)), OURS, 0).unwrap();
    let guess = Seg { seq: THEIRS + 1, flags: ACK, ..guess };
    conn.handle_packet(START, &guess.packet((2, 80), (1, 40_000)));
    assert_eq!((conn.state(), conn.counters().bad_acks), (State::SynReceived, 1));
}

/// 24. Section 3.8.6.2.2: where memory is scarce the window is one of 16 KiB, and opens again also for large segments.
#[test]
fn c24_a_small_window_for_large_segments() {
    let settings = Settings { mtu: 9000, initial_buffer: 65_536, ..unpaced() };
    let mut script = Script::open(settings, Peer { mss: Some(8960), ..Peer::default() });
    script.conn.set_pressure(Pressure::High);
    for n in 0..7 {
        script.give(script_data(&script, n * 8960, 8960));
    }
    script.wait(100);
    script.skip();
    assert_eq!(script.read(7 * 8960), 7 * 8960);
    assert_eq!(script.expect_ack(7 * 8960).window, 16_384 >> 7);
}
