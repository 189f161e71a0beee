//! See `filter/netstack/tests/fuzz/connection.rs`.
#![no_main]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each program takes one target")]

#[path = "../../tests/fuzz/connection.rs"]
mod connection;
#[path = "../../tests/fuzz/end.rs"]
mod end;
#[path = "../../tests/fuzz/input.rs"]
mod input;
#[path = "../../tests/fuzz/packet.rs"]
mod packet;

libfuzzer_sys::fuzz_target!(|data: &[u8]| connection::run(data));
