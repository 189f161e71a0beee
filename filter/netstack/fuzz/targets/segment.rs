//! See `filter/netstack/tests/fuzz/segment.rs`.
#![no_main]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each program takes one target")]

#[path = "../../tests/fuzz/input.rs"]
mod input;
#[path = "../../tests/fuzz/packet.rs"]
mod packet;
#[path = "../../tests/fuzz/segment.rs"]
mod segment;

libfuzzer_sys::fuzz_target!(|data: &[u8]| segment::run(data));
