//! RFC 2018 (SACK) and RFC 2883 (D-SACK).

use nexodus_netstack::conn::Settings;

use crate::script::{Peer, Script, THEIRS, unpaced};

fn blocks(segment: &crate::wire::Seg) -> Vec<(u32, u32)> {
    segment.sack.iter().map(|&(start, end)| (start - THEIRS - 1, end - THEIRS - 1)).collect()
}

fn arrives(script: &mut Script, at: u32, len: usize) -> Vec<(u32, u32)> {
    let segment = script.data(at, len);
    script.give(segment);
    blocks(&script.expect("an acknowledgement"))
}

/// 1. RFC 2018, section 4: the first block holds the segment that made us answer, the others repeat recent ones.
#[test]
fn c01_the_order_of_blocks() {
    let mut script = Script::plain();
    assert_eq!(arrives(&mut script, 1000, 500), [(1000, 1500)]);
    assert_eq!(arrives(&mut script, 2000, 500), [(2000, 2500), (1000, 1500)]);
    assert_eq!(arrives(&mut script, 3000, 500), [(3000, 3500), (2000, 2500), (1000, 1500)]);
    assert_eq!(arrives(&mut script, 1500, 500), [(1000, 2500), (3000, 3500)]);
    assert_eq!(arrives(&mut script, 0, 1000), [(3000, 3500)]);
    assert_eq!(arrives(&mut script, 2500, 500), []);
    assert_eq!(script.conn.recv_available(), 3500);
}

/// 2. RFC 2018, section 3: with timestamps there is room for three blocks, without for four.
#[test]
fn c02_how_many_blocks() {
    for (ts, most) in [(false, 4), (true, 3)] {
        let mut script = Script::open(unpaced(), Peer { ts, ..Peer::default() });
        for n in 1..10 {
            let told = arrives(&mut script, n * 1000, 100);
            assert_eq!(told.len(), most.min(n as usize));
        }
    }
}

/// 3. RFC 2018, section 2: no blocks for a peer that did not ask for them.
#[test]
fn c03_only_if_permitted() {
    let mut script = Script::open(unpaced(), Peer { sack: false, ..Peer::default() });
    assert_eq!(arrives(&mut script, 1000, 500), []);
    let mut script = Script::open(Settings { sack: false, ..unpaced() }, Peer::default());
    assert_eq!(arrives(&mut script, 1000, 500), []);
}

/// 4. RFC 2018, section 5: what is reported is not sent again.
#[test]
fn c04_only_holes_are_filled() {
    let mut script = Script::plain();
    script.send(10_000);
    assert_eq!(script.skip(), 10);
    script.wait(100);
    script.sack(0, &[(1000, 3000), (4000, 10_000)]);
    script.expect_data(0, 1000);
    script.expect_data(3000, 1000);
    script.quiet();
    script.wait(100);
    script.sack(3000, &[(4000, 10_000)]);
    script.acked(10_000);
    script.quiet();
    assert_eq!((script.conn.unacknowledged(), script.conn.counters().retransmitted), (0, 2));
}

/// 5. RFC 2018, section 8: a peer may forget what it has reported; after a timeout all of it is sent again.
#[test]
fn c05_reneging() {
    let mut script = Script::plain();
    script.send(3000);
    script.skip();
    script.wait(100);
    script.sack(0, &[(1000, 3000)]);
    script.wait(30);
    script.expect_data(0, 1000);
    script.wait(100);
    // It has the first, and does not know of the others any more.
    script.acked(1000);
    script.wait(400);
    script.expect_data(1000, 1000);
    script.acked(2000);
    script.expect_data(2000, 1000);
    script.acked(3000);
    assert_eq!(script.conn.unacknowledged(), 0);
}

/// 6. Blocks that say what cannot be are ignored.
#[test]
fn c06_nonsense() {
    let mut script = Script::plain();
    script.send(3000);
    script.skip();
    script.sack(0, &[(5000, 9000), (2000, 1000), (0, 0)]);
    script.sack(0, &[(u32::MAX - 5, 2000), (2000, 3001)]);
    script.quiet();
    script.acked(3000);
    assert_eq!((script.conn.unacknowledged(), script.conn.counters().retransmitted), (0, 0));
}

/// 7. RFC 2883, section 4.1.1: a full duplicate is told in the first block, once.
#[test]
fn c07_a_duplicate() {
    let mut script = Script::plain();
    arrives(&mut script, 0, 1000);
    assert_eq!(arrives(&mut script, 0, 1000), [(0, 1000)]);
    assert_eq!(arrives(&mut script, 2000, 1000), [(2000, 3000)]);
}

/// 8. RFC 2883, section 4.1.2: a duplicate ahead of a hole; the second block is the range it lies in.
#[test]
fn c08_a_duplicate_ahead_of_a_hole() {
    let mut script = Script::plain();
    arrives(&mut script, 2000, 1000);
    arrives(&mut script, 3000, 1000);
    assert_eq!(arrives(&mut script, 2000, 1000), [(2000, 3000), (2000, 4000)]);
}

/// 9. RFC 2883, section 4.2.1: a part of a segment came before.
#[test]
fn c09_a_partial_duplicate() {
    let mut script = Script::plain();
    arrives(&mut script, 0, 1000);
    assert_eq!(arrives(&mut script, 500, 1000), [(500, 1000)]);
    assert_eq!(script.conn.recv_available(), 1500);
}

/// 10. RFC 2883, section 4: each duplicate has its report, also when several arrive before we answer.
#[test]
fn c10_duplicates_that_arrive_together() {
    let mut script = Script::plain();
    for at in (0..5000).step_by(1000) {
        arrives(&mut script, at, 1000);
        script.skip();
    }
    let twice = [0, 1000, 3000].map(|at| script.data(at, 1000));
    script.give_together(twice);
    let first = script.expect("the report of two that touch");
    let second = script.expect("the report of the third");
    assert_eq!((blocks(&first), blocks(&second)), (vec![(0, 2000)], vec![(3000, 4000)]));
    script.quiet();
}

/// 11. An original that its retransmission has overtaken has an old timestamp, and is told like every duplicate.
#[test]
fn c11_a_duplicate_with_an_old_timestamp() {
    let mut script = Script::open(unpaced(), Peer { ts: true, ..Peer::default() });
    let original = script.data(0, 1000);
    script.wait(50);
    let again = script.data(0, 1000);
    script.give(again);
    script.skip();
    script.give(original);
    assert_eq!(blocks(&script.expect("a report")), [(0, 1000)]);
    assert_eq!((script.conn.recv_available(), script.conn.counters().old_timestamps), (1000, 1));
}
