//! How often a segment asks for memory: buffers do, for many segments at once, and segments do not.
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nexodus_netstack::Instant;
use nexodus_netstack::conn::{Connection, Settings};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Segments that leave in a burst.
const BURST: u32 = 32;
/// What the application hands over at once.
const WRITE: usize = 64 << 10;

/// Bursts of one end to the other, into packets that are used again. How many packets.
fn carry(now: Instant, from: &mut Connection, to: &mut Connection, packets: &mut [Vec<u8>]) -> usize {
    let mut filled = 0;
    while filled < packets.len() {
        let most = u32::try_from(packets.len() - filled).unwrap();
        let more = from.poll_burst(now, most, &mut |packet| {
            packets[filled].clear();
            packet.append_to(&mut packets[filled]);
            filled += 1;
        });
        if more == 0 {
            break;
        }
    }
    to.handle_burst(now, packets[..filled].iter().map(Vec::as_slice));
    filled
}

#[test]
fn segments_ask_for_no_memory_of_their_own() {
    let settings = Arc::new(Settings::default());
    let ends = ["100.64.0.1:40000".parse().unwrap(), "100.64.0.2:80".parse().unwrap()];
    let mut now = Instant::from_micros(1_000_000_000);
    let mut client = Connection::connect(settings.clone(), now, (ends[0], ends[1]), 1, 2);
    let mut syn = Vec::new();
    assert!(client.poll_packet(now, &mut syn));
    let mut server = Connection::accept(settings, now, &syn, 3, 4).unwrap();
    let mut packets: Vec<Vec<u8>> = (0..BURST).map(|_| Vec::with_capacity(1500)).collect();
    let data = vec![7; WRITE];
    let mut region = Region::new(ALLOCATOR);
    let (mut segments, mut writes, mut reads) = (0, 0, 0);
    for turn in 0..20_000 {
        if turn == 4_000 {
            // Windows and tables have grown.
            region = Region::new(ALLOCATOR);
            (segments, writes, reads) = (0, 0, 0);
        }
        now = now + Duration::from_micros(100);
        if client.send_room() >= WRITE {
            client.send_chunk(now, &mut BytesMut::from(&data[..]));
            writes += 1;
        }
        segments += carry(now, &mut client, &mut server, &mut packets);
        while !server.recv_chunk(now).is_empty() {
            reads += 1;
        }
        carry(now, &mut server, &mut client, &mut packets);
    }
    let asked = region.change();
    let asked = asked.allocations + asked.reallocations;
    println!("{asked} times for {segments} segments, {writes} writes, {reads} reads");
    assert!(segments > 100_000, "{segments} segments");
    // A buffer, and what counts its owners.
    assert!(
        asked <= 3 * (writes + reads),
        "{asked} times for {segments} segments in {writes} and {reads} buffers"
    );
}
