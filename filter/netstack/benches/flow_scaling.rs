//! What a segment costs when there are 10,000 connections: one of them in use beside the others, and all of them in use, each
//! against a stack with a single connection that does the same, in the same run. Fails above the bounds.
//!
//! Also prints the throughput of two stacks joined in memory: WireGuard and TCP of both ends on one core.
#![expect(
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "the numbers are small; without them nothing is measured"
)]

#[path = "../tests/pair/mod.rs"]
mod pair;

use std::process::ExitCode;

use nexodus_netstack::Limits;
use pair::Pair;

const MANY: usize = 10_000;
const ROUNDS: usize = 15;
/// Payload of a full segment.
const SEGMENT: usize = 1368;
/// What a flow sends in its turn: half of what a new connection may have on the way.
const CHUNK: usize = 5 * SEGMENT;
/// Bytes per measurement of one flow.
const BULK: usize = 8 << 20;

/// Bounds of the ratios: idle connections cost nothing, active ones their cache misses.
const MOST_IDLE: f64 = 1.1;
const MOST_ACTIVE: f64 = 3.0;

fn main() -> ExitCode {
    // `cargo test --benches` runs this too; it is quick enough for that.
    let limits = Limits { max_pending: 2 * MANY, ..Limits::default() };
    let rig = |flows: usize| {
        let mut pair = Pair::new(limits);
        pair.connect(flows);
        pair
    };
    let mut one = rig(1);
    let mut many = rig(MANY);

    let idle = median("10,000 connections, one in use", MOST_IDLE, || (bulk(&mut one), bulk(&mut many)));
    let active = median("10,000 connections, all in use", MOST_ACTIVE, || {
        (turns(&mut one, MANY), turns(&mut many, 1))
    });

    let gigabits = SEGMENT as f64 * 8.0 / bulk(&mut one);
    println!("two stacks in memory, both ends on one core: {gigabits:.2} Gbit/s");
    if idle <= MOST_IDLE && active <= MOST_ACTIVE { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The median ratio of what `measure` returns: nanoseconds per segment with one connection, and with many.
fn median(what: &str, most: f64, mut measure: impl FnMut() -> (f64, f64)) -> f64 {
    // The first time everything is cold.
    measure();
    let mut rounds: Vec<(f64, f64)> = (0..ROUNDS).map(|_| measure()).collect();
    rounds.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (one, many) = rounds[ROUNDS / 2];
    let ratio = many / one;
    let verdict = if ratio <= most { "" } else { "   ABOVE ITS BOUND" };
    let (least, worst) = (rounds[0].1 / rounds[0].0, rounds[ROUNDS - 1].1 / rounds[ROUNDS - 1].0);
    println!(
        "{what}: {many:.0} ns per segment, with one connection {one:.0}; ratio {ratio:.2} ({least:.2} to {worst:.2}), at most {most}{verdict}"
    );
    ratio
}

/// Nanoseconds that this thread has run: what else the machine does is not ours (`/proc`'s `schedstat`).
fn cpu_time() -> f64 {
    // The kernel brings the number up to date when the thread is looked at.
    std::thread::yield_now();
    let fields = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    fields.split_whitespace().next().unwrap().parse().unwrap()
}

/// The first flow carries much, as fast as it can.
fn bulk(pair: &mut Pair) -> f64 {
    let start = cpu_time();
    pair.send(0, BULK);
    (cpu_time() - start) / (BULK as f64 / SEGMENT as f64)
}

/// Each flow has its turn, `times` times: all send, then everything travels, then all read.
fn turns(pair: &mut Pair, times: usize) -> f64 {
    let data = [7; CHUNK];
    let mut scratch = [0; CHUNK];
    let mut carried = 0;
    let start = cpu_time();
    for _ in 0..times {
        for n in 0..pair.flows.len() {
            let sent = pair.stacks[0].send(pair.now, pair.flows[n][0], &data);
            assert_eq!(sent, CHUNK);
        }
        pair.exchange();
        for n in 0..pair.flows.len() {
            carried += pair.stacks[1].recv(pair.now, pair.flows[n][1], &mut scratch);
        }
        pair.exchange();
    }
    assert_eq!(carried, times * pair.flows.len() * CHUNK, "something is still on its way");
    (cpu_time() - start) / (carried as f64 / SEGMENT as f64)
}
