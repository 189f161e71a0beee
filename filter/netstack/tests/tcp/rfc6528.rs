//! RFC 6528: initial sequence numbers, as a peer sees them in the answers to its SYNs.

use std::collections::BTreeSet;
use std::time::Duration;

use nexodus_netstack::Limits;

use crate::flows::{answer, syn};
use crate::sim::raw::Raw;

/// The number with which a stack answers a call from `port`; then the flow is forgotten.
fn number(raw: &mut Raw, port: u16) -> u32 {
    let (flow, answer) =
        answer(raw, port, &syn(1000)).unwrap_or_else(|| panic!("no answer: {:?}", raw.stack.stats()));
    raw.stack.abort(raw.now, flow);
    raw.replies();
    answer.seq
}

/// Numbers of calls from 64 ports at one instant.
fn numbers(seed: u64) -> Vec<u32> {
    let mut raw = Raw::seeded(Limits::default(), seed);
    raw.stack.listen(80);
    (1000..1064).map(|port| number(&mut raw, port)).collect()
}

/// 1. Section 3: between the same ends the number follows a clock of 4 µs.
#[test]
fn c01_the_same_ends() {
    let mut raw = Raw::new(Limits::default());
    raw.stack.listen(80);
    let first = number(&mut raw, 1000);
    let mut now = 0;
    for seconds in [0, 1, 10, 100] {
        raw.now = raw.now + Duration::from_secs(seconds);
        now += seconds;
        raw.stack.handle_timeout(raw.now);
        assert_eq!(number(&mut raw, 1000), first.wrapping_add(now as u32 * 250_000), "after {now} s");
    }
}

/// 2. Section 3: other ends have numbers of their own. What one caller sees tells nothing about the next.
#[test]
fn c02_other_ends() {
    let numbers = numbers(1);
    let steps: BTreeSet<u32> = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert_eq!(steps.len(), 63, "two steps are the same");
    // 64 throws of 64 sides show about 40 of them; 20 are one in 10^12.
    let sixths: BTreeSet<u32> = numbers.iter().map(|number| number >> 26).collect();
    assert!(sixths.len() > 25, "{} of 64 parts of the space are used", sixths.len());
}

/// 3. Section 3: another secret, other numbers, and not the same ones moved.
#[test]
fn c03_another_secret() {
    let (one, other) = (numbers(1), numbers(2));
    let distances: BTreeSet<u32> = one.iter().zip(&other).map(|(a, b)| a.wrapping_sub(*b)).collect();
    assert_eq!(distances.len(), 64);
    assert_eq!(one, numbers(1), "the secret decides, and nothing else");
}
