//! The network between the nodes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use nexodus_netstack::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub delay: Duration,
    /// Each in 10,000.
    pub loss: u64,
    pub duplicate: u64,
    pub reorder: u64,
    /// Bytes per second; 0 is unlimited.
    pub rate: u64,
    /// Bytes that wait for the rate before more are dropped.
    pub queue: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self { delay: Duration::from_millis(5), loss: 0, duplicate: 0, reorder: 0, rate: 0, queue: 1 << 20 }
    }
}

type Flight = Reverse<(Instant, u64, SocketAddr, SocketAddr, Vec<u8>)>;

pub struct Wire {
    pub link: Link,
    /// Everything from these addresses is lost.
    pub dead: Vec<SocketAddr>,
    /// Datagrams for the left address go to the right one: where a node lives now.
    pub moved: Vec<(SocketAddr, SocketAddr)>,
    pub sent: u64,
    pub random: Random,
    flights: BinaryHeap<Flight>,
    busy: std::collections::BTreeMap<SocketAddr, Instant>,
    count: u64,
}

impl Wire {
    pub fn new(link: Link, seed: u64) -> Self {
        Self {
            link,
            dead: Vec::new(),
            moved: Vec::new(),
            sent: 0,
            random: Random::new(seed ^ 0x5eed),
            flights: BinaryHeap::new(),
            busy: std::collections::BTreeMap::new(),
            count: 0,
        }
    }

    pub fn send(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        self.sent += 1;
        if self.dead.contains(&from) || self.random.chance(self.link.loss) {
            return;
        }
        let mut leaves = now;
        if let Some(micros) = (datagram.len() as u64 * 1_000_000).checked_div(self.link.rate) {
            let busy = self.busy.entry(from).or_insert(now);
            let free = (*busy).max(now);
            let waiting = free.as_micros() - now.as_micros();
            if waiting * self.link.rate / 1_000_000 > self.link.queue {
                return;
            }
            *busy = free + Duration::from_micros(micros);
            leaves = *busy;
        }
        let copies = 1 + u64::from(self.random.chance(self.link.duplicate));
        for _ in 0..copies {
            let late = if self.random.chance(self.link.reorder) { self.random.below(20_000) } else { 0 };
            let arrives = leaves + self.link.delay + Duration::from_micros(late);
            self.count += 1;
            self.flights.push(Reverse((arrives, self.count, from, to, datagram.to_vec())));
        }
    }

    pub fn next(&self) -> Option<Instant> {
        self.flights.peek().map(|Reverse(flight)| flight.0)
    }

    pub fn deliver(&mut self, now: Instant) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, _, from, to, datagram)) = self.flights.pop()?;
        Some((from, to, datagram))
    }
}

/// SplitMix64.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn chance(&mut self, in_ten_thousand: u64) -> bool {
        in_ten_thousand > 0 && self.below(10_000) < in_ten_thousand
    }
}
