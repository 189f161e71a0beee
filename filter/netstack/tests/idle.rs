//! What a connection costs that nobody uses, counted by the allocator: everything that both stacks hold for it.
#![expect(clippy::cast_precision_loss, reason = "the numbers are small")]

mod pair;

use std::alloc::System;
use std::time::Duration;

use nexodus_netstack::Limits;
use pair::Pair;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Tables double, so how full they are depends on how much is in them: just past 2^n things, or 7/8 of that, they are as
/// empty as they get.
const NUMBERS: [usize; 6] = [2000, 3585, 4097, 7169, 8193, 12_000];

/// Bytes on the heap.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Bytes per end, and what the memory budget counts for it.
fn each(pair: &Pair, before: usize) -> (f64, f64) {
    let ends = 2.0 * (pair.flows.len() - 1) as f64;
    let counted: usize = pair.stacks.iter().map(|stack| stack.stats().buffer_bytes).sum();
    ((held() - before) as f64 / ends, counted as f64 / (2 * pair.flows.len()) as f64)
}

/// Within a tenth: what is counted is never less than what is held, and not much more.
fn assert_close((held, counted): (f64, f64), what: &str) {
    println!("{what}: {held:.0} bytes each, counted as {counted:.0}");
    assert!(
        held <= counted && held >= counted * 0.9,
        "{what}: {held:.0} bytes each, counted as {counted:.0}"
    );
    assert!(held <= 1024.0, "{what}: {held:.0} bytes each");
}

#[test]
fn an_idle_connection_holds_a_kibibyte() {
    let limits = Limits { max_pending: 20_000, ..Limits::default() };
    let mut pair = Pair::new(limits);
    // The session between the peers, and what a stack has once.
    pair.connect(1);
    let before = held();
    for number in NUMBERS {
        pair.connect(number - pair.flows.len());
        pair.rest(Duration::from_secs(5));
        assert_close(each(&pair, before), &format!("{number} new connections"));
    }

    // Each has carried something in both directions, so it has had buffers; after the keepalive time it has none again.
    for n in 0..pair.flows.len() {
        pair.transfer(n, 40_000);
    }
    let (used, counted) = each(&pair, before);
    assert!(used > 10_000.0, "nothing is kept for more of it: {used:.0} bytes each, counted as {counted:.0}");
    pair.rest(Duration::from_secs(150));
    assert_close(each(&pair, before), "connections that were used");
}
