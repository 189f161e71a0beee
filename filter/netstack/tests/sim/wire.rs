//! The network between the nodes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use nexodus_netstack::Instant;

use super::random::Random;

#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub delay: Duration,
    /// Each in 10,000.
    pub loss: u64,
    pub duplicate: u64,
    pub reorder: u64,
    /// A bit of the datagram arrives wrong.
    pub corrupt: u64,
    /// Bytes per second; 0 is unlimited.
    pub rate: u64,
    /// Bytes that wait for the rate before more are dropped.
    pub queue: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(5),
            loss: 0,
            duplicate: 0,
            reorder: 0,
            corrupt: 0,
            rate: 0,
            queue: 1 << 20,
        }
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
    /// WireGuard's handshake messages: when they were sent, by whom, and their types.
    pub handshakes: Vec<(Instant, SocketAddr, u8)>,
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
            handshakes: Vec::new(),
            random: Random::new(seed ^ 0x5eed),
            flights: BinaryHeap::new(),
            busy: std::collections::BTreeMap::new(),
            count: 0,
        }
    }

    pub fn send(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        self.sent += 1;
        if let [kind @ (1 | 2), ..] = datagram {
            self.handshakes.push((now, from, *kind));
        }
        if self.dead.contains(&from) || self.random.chance(self.link.loss, 10_000) {
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
        let copies = 1 + u64::from(self.random.chance(self.link.duplicate, 10_000));
        for _ in 0..copies {
            let late =
                if self.random.chance(self.link.reorder, 10_000) { self.random.below(20_000) } else { 0 };
            let arrives = leaves + self.link.delay + Duration::from_micros(late);
            self.count += 1;
            let mut datagram = datagram.to_vec();
            if self.random.chance(self.link.corrupt, 10_000)
                && let Ok(at) = usize::try_from(self.random.below(datagram.len() as u64))
                && let Some(byte) = datagram.get_mut(at)
            {
                *byte ^= 1 << self.random.below(8);
            }
            self.flights.push(Reverse((arrives, self.count, from, to, datagram)));
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
