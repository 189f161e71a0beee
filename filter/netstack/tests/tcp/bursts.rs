//! Packets that are asked for many at a time are the ones that would have come one by one; packets that are taken many at a
//! time have the effect that they would have had one by one. Those of bursts are lent, padded as for WireGuard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use nexodus_netstack::Instant;
use nexodus_netstack::conn::{Connection, Settings};
use proptest::prelude::*;

use crate::link::{Host, Link, Listener, Net, Stream, client, pattern};

trait HasConnection: Host {
    fn connection(&mut self) -> Option<&mut Connection>;
}

impl HasConnection for Connection {
    fn connection(&mut self) -> Option<&mut Connection> {
        Some(self)
    }
}

impl HasConnection for Listener {
    fn connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }
}

/// Asks for up to `most` packets at once, and takes those of an instant at once if `most` is more than one.
struct InBursts<H> {
    host: H,
    most: u32,
    arrived: Vec<Vec<u8>>,
    waiting: VecDeque<Vec<u8>>,
    longest: u32,
    sent: Vec<(Instant, Vec<u8>)>,
    /// Full segments that were lent, and those of them that had to be put together.
    lent: u32,
    put_together: u32,
}

impl<H: HasConnection> InBursts<H> {
    fn new(host: H, most: u32) -> Self {
        Self {
            host,
            most,
            arrived: Vec::new(),
            waiting: VecDeque::new(),
            longest: 0,
            sent: Vec::new(),
            lent: 0,
            put_together: 0,
        }
    }

    /// What has arrived, before anything else.
    fn host(&mut self, now: Instant) -> &mut H {
        let arrived = std::mem::take(&mut self.arrived);
        match self.host.connection() {
            Some(connection) if self.most > 1 => {
                connection.handle_burst(now, arrived.iter().map(Vec::as_slice));
            }
            _ => arrived.iter().for_each(|packet| self.host.handle_packet(now, packet)),
        }
        &mut self.host
    }
}

impl<H: HasConnection> Host for InBursts<H> {
    fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        self.arrived.push(packet.to_vec());
        if self.host.connection().is_none() {
            self.host(now);
        }
    }

    fn poll_packet(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let most = self.most;
        if self.waiting.is_empty()
            && let Some(connection) = self.host(now).connection()
        {
            let mut waiting = VecDeque::new();
            let (mut lent, mut put_together) = (0, 0);
            let given = connection.poll_burst(now, most, &mut |packet| {
                let mut bytes = Vec::new();
                if most == 1 {
                    packet.append_to(&mut bytes);
                } else {
                    let (len, padded) = (packet.len(), packet.len().next_multiple_of(16));
                    let in_place = packet.lend(padded, &mut Vec::new(), |packet| {
                        assert_eq!(packet.len(), padded);
                        assert!(packet[len..].iter().all(|&byte| byte == 0));
                        bytes.extend_from_slice(&packet[..len]);
                    });
                    if len > 1000 {
                        lent += 1;
                        put_together += u32::from(!in_place);
                    }
                }
                waiting.push_back(bytes);
            });
            self.lent += lent;
            self.put_together += put_together;
            assert_eq!(given as usize, waiting.len());
            self.waiting = waiting;
            self.longest = self.longest.max(given);
        }
        let Some(packet) = self.waiting.pop_front() else { return false };
        self.sent.push((now, packet.clone()));
        *out = packet;
        true
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.host.poll_timeout()
    }

    fn send(&mut self, now: Instant, data: &[u8]) -> usize {
        self.host(now).send(now, data)
    }

    fn recv(&mut self, now: Instant, out: &mut [u8]) -> usize {
        self.host(now).recv(now, out)
    }

    fn finish(&mut self, now: Instant) {
        self.host(now).finish(now);
    }

    fn is_over(&self) -> bool {
        self.host.is_over()
    }
}

type Sent = Vec<(Instant, Vec<u8>)>;

/// What both ends send, and the longest burst, when they are asked for up to `most` packets at once.
fn run(most: u32, link: Link, settings: Settings, seed: u64, len: usize) -> (Sent, Sent, u32) {
    let settings = Arc::new(settings);
    let a = InBursts::new(client(&settings, seed as u32), most);
    let b = InBursts::new(Listener::new(settings, 9), most);
    let stream = |seed| Stream { send: pattern(len, seed), finish: true, ..Stream::default() };
    let mut net = Net::new(link, seed, a, b, [stream(seed), stream(!seed)]);
    assert!(net.run(Duration::from_secs(3000)));
    assert!(net.streams[1].received == net.streams[0].send);
    (net.a.sent, net.b.sent, net.a.longest.max(net.b.longest))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bursts_are_the_same_packets(
        seed: u64,
        chances in (0..2000_u64, 0..2000_u64, 0..2000_u64),
        rate in prop_oneof![Just(0), 50_000..20_000_000_u64],
        most in 2..80_u32,
        [sack, timestamps, pacing, verify_checksums] in any::<[bool; 4]>(),
        len in 0..300_000_usize,
    ) {
        let (loss, reorder, duplicate) = chances;
        let link = Link { loss, reorder, duplicate, rate, ..Link::default() };
        let settings = Settings {
            sack, timestamps, pacing, verify_checksums, syn_retries: 100, ..Settings::default()
        };
        let (a, b, _) = run(1, link, settings, seed, len);
        let (a_in_bursts, b_in_bursts, _) = run(most, link, settings, seed, len);
        prop_assert!(a == a_in_bursts);
        prop_assert!(b == b_in_bursts);
    }
}

#[test]
fn a_window_leaves_in_bursts_as_long_as_asked_for() {
    let link = Link { delay: Duration::from_millis(1), ..Link::default() };
    let settings = Settings::default();
    for most in [1, 7, 45] {
        let (.., longest) = run(most, link, settings, 1, 3 << 20);
        assert_eq!(longest, most);
    }
}

#[test]
fn segments_leave_from_where_their_bytes_are_kept() {
    let settings = Arc::new(Settings::default());
    let a = InBursts::new(client(&settings, 1), 64);
    let b = InBursts::new(Listener::new(settings, 9), 64);
    let up = Stream { send: pattern(8 << 20, 1), finish: true, ..Stream::default() };
    let link = Link { delay: Duration::from_millis(1), ..Link::default() };
    let mut net = Net::new(link, 1, a, b, [up, Stream { finish: true, ..Stream::default() }]);
    assert!(net.run(Duration::from_secs(100)));
    assert!(net.streams[1].received == net.streams[0].send);
    // Those that begin or end a chunk.
    let InBursts { lent, put_together, .. } = net.a;
    assert!(lent > 5000 && put_together * 8 < lent, "{put_together} of {lent}");
}
