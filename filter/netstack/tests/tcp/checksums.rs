//! Checksums (RFC 9293, section 3.1). What comes out of a tunnel is authenticated, so they are verified in a mode for tests
//! only; what is sent always has them.

use std::sync::Arc;
use std::time::Duration;

use nexodus_netstack::conn::Settings;

use crate::link::{Link, Listener, Net, Stream, client, pattern};
use crate::script::{Peer, Script, unpaced};
use crate::wire::{Seg, checksum_holds};

/// A segment whose bytes were changed on the way.
fn damaged(script: &Script) -> Vec<u8> {
    let mut packet = Seg { data: b"abcd".to_vec(), ..script.ack(0, 0) }.packet((2, 80), (1, 40_000));
    let last = packet.len() - 1;
    packet[last] ^= 1;
    assert!(!checksum_holds(&packet));
    packet
}

/// 1. In the mode for tests a wrong checksum is dropped and counted.
#[test]
fn c01_verified() {
    let mut script = Script::open(Settings { verify_checksums: true, ..unpaced() }, Peer::default());
    let packet = damaged(&script);
    assert!(!script.conn.handle_packet(script.now, &packet));
    assert_eq!((script.conn.counters().malformed, script.conn.recv_available()), (1, 0));
    script.quiet();
    // Every field is covered: one bit anywhere in header and payload.
    let good = Seg { data: b"abcd".to_vec(), ..script.ack(0, 0) }.packet((2, 80), (1, 40_000));
    for bit in 0..(good.len() - 20) * 8 {
        let mut packet = good.clone();
        packet[20 + bit / 8] ^= 1 << (bit % 8);
        assert!(!script.conn.handle_packet(script.now, &packet), "bit {bit}");
    }
    assert!(script.conn.handle_packet(script.now, &good));
    assert_eq!(script.conn.recv_available(), 4);
}

/// 2. Otherwise nobody adds them up again.
#[test]
fn c02_not_verified() {
    let mut script = Script::plain();
    let packet = damaged(&script);
    assert!(script.conn.handle_packet(script.now, &packet));
    assert_eq!((script.conn.counters().malformed, script.read(10)), (0, 4));
}

/// 3. A link that damages one packet in fifty: the bytes arrive, as they were sent, and the damage is noticed.
#[test]
fn c03_a_link_that_damages_packets() {
    let settings =
        Arc::new(Settings { verify_checksums: true, time_wait: Duration::from_secs(1000), ..unpaced() });
    let sent = pattern(500_000, 7);
    let link = Link { rate: 2_000_000, corrupt: 2000, ..Link::default() };
    let sender = Stream { send: sent.clone(), finish: true, ..Stream::default() };
    let receiver = Stream { finish: true, ..Stream::default() };
    let listener = Listener::new(settings.clone(), 7);
    let mut net = Net::new(link, 7, client(&settings, 1), listener, [sender, receiver]);
    assert!(net.run(Duration::from_secs(1000)));
    assert!(net.streams[1].received == sent);
    let noticed = net.a.counters().malformed + net.b.connection.as_ref().unwrap().counters().malformed;
    assert!(noticed > 5, "{noticed}");
}
