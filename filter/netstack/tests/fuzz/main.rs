//! What the fuzzer runs (`filter/netstack/fuzz`), and here the replay of its corpus and of everything it has ever found.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    unreachable_pub,
    dead_code,
    reason = "a failure is a failed test; numbers are small; the fuzzer's programs take one target each"
)]

mod connection;
mod end;
mod input;
mod packet;
mod segment;
#[path = "../sim/mod.rs"]
mod sim;
mod stack;

use std::path::Path;

#[test]
fn segment() {
    replay("segment", segment::run);
}

#[test]
fn connection() {
    replay("connection", connection::run);
}

#[test]
fn stack() {
    replay("stack", stack::run);
}

/// Runs a target on everything that reaches something of its own, and on everything that was found once.
fn replay(target: &str, run: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let inputs = |kind: &str| {
        let directory = fuzz.join(kind).join(target);
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let corpus = inputs("corpus");
    assert!(corpus.len() >= 30, "the corpus has {} inputs", corpus.len());
    for file in corpus.iter().chain(&inputs("found")) {
        // A panic below does not say which one it was.
        eprintln!("{}", file.display());
        run(&std::fs::read(file).unwrap());
    }
}
