//! See `filter/netstack/tests/fuzz/stack.rs`.
#![no_main]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each program takes one target")]

#[path = "../../tests/fuzz/input.rs"]
mod input;
#[path = "../../tests/fuzz/packet.rs"]
mod packet;
#[path = "../../tests/sim/mod.rs"]
mod sim;
#[path = "../../tests/fuzz/stack.rs"]
mod stack;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stack::run(data));
