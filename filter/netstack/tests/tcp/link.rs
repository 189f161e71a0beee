//! Two connections joined by a link with a rate, a delay, a queue in bytes, and every way of mistreating a packet. Time is
//! virtual and a seed decides everything.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nexodus_netstack::Instant;
use nexodus_netstack::conn::{Connection, Settings};

use crate::sim::Random;

pub const START: Instant = Instant::from_micros(1_000_000_000);

/// Chances are in 100,000.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Bytes per second; 0 is unlimited.
    pub rate: u64,
    /// One way.
    pub delay: Duration,
    /// Bytes that wait for the rate before more are dropped.
    pub queue: u64,
    pub loss: u64,
    /// A loss takes so many packets in a row.
    pub burst: u64,
    /// Loss of what goes from the second end to the first, on top.
    pub ack_loss: u64,
    pub reorder: u64,
    /// How late a reordered packet is, at most.
    pub late: Duration,
    pub duplicate: u64,
    pub corrupt: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            rate: 0,
            delay: Duration::from_millis(10),
            queue: 1 << 20,
            loss: 0,
            burst: 1,
            ack_loss: 0,
            reorder: 0,
            late: Duration::from_millis(5),
            duplicate: 0,
            corrupt: 0,
        }
    }
}

/// One end of the link: something that speaks TCP.
pub trait Host {
    fn handle_packet(&mut self, now: Instant, packet: &[u8]);
    fn poll_packet(&mut self, now: Instant, out: &mut Vec<u8>) -> bool;
    fn poll_timeout(&self) -> Option<Instant>;
    fn send(&mut self, now: Instant, data: &[u8]) -> usize;
    fn recv(&mut self, now: Instant, out: &mut [u8]) -> usize;
    fn finish(&mut self, now: Instant);
    fn is_over(&self) -> bool;
}

impl Host for Connection {
    fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        Connection::handle_packet(self, now, packet);
    }

    fn poll_packet(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        Connection::poll_packet(self, now, out)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Connection::poll_timeout(self)
    }

    /// In chunks or by copies, both in many tests.
    fn send(&mut self, now: Instant, data: &[u8]) -> usize {
        if data.len().is_multiple_of(2) {
            self.send_chunk(now, &mut BytesMut::from(data))
        } else {
            Connection::send(self, now, data)
        }
    }

    fn recv(&mut self, now: Instant, out: &mut [u8]) -> usize {
        if out.len() < 1 << 14 {
            return Connection::recv(self, now, out);
        }
        let chunk = self.recv_chunk(now);
        out[..chunk.len()].copy_from_slice(&chunk);
        chunk.len()
    }

    fn finish(&mut self, _now: Instant) {
        Connection::finish(self);
    }

    fn is_over(&self) -> bool {
        self.end().is_some()
    }
}

/// A connection that is made by the first SYN that arrives.
pub struct Listener {
    settings: Arc<Settings>,
    iss: u32,
    finishing: bool,
    pub connection: Option<Connection>,
}

impl Listener {
    pub fn new(settings: Arc<Settings>, iss: u32) -> Self {
        Self { settings, iss, finishing: false, connection: None }
    }
}

impl Host for Listener {
    fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        match &mut self.connection {
            Some(connection) => {
                connection.handle_packet(now, packet);
            }
            None => {
                let valid = !self.settings.verify_checksums || super::wire::checksum_holds(packet);
                self.connection = Some(self.settings.clone())
                    .filter(|_| valid)
                    .and_then(|settings| Connection::accept(settings, now, packet, self.iss, 77));
                if self.finishing {
                    Host::finish(self, now);
                }
            }
        }
    }

    fn poll_packet(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        out.clear();
        self.connection.as_mut().is_some_and(|connection| connection.poll_packet(now, out))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.connection.as_ref().and_then(Connection::poll_timeout)
    }

    fn send(&mut self, now: Instant, data: &[u8]) -> usize {
        self.connection.as_mut().map_or(0, |connection| Host::send(connection, now, data))
    }

    fn recv(&mut self, now: Instant, out: &mut [u8]) -> usize {
        self.connection.as_mut().map_or(0, |connection| Host::recv(connection, now, out))
    }

    fn finish(&mut self, _now: Instant) {
        self.finishing = true;
        if let Some(connection) = &mut self.connection {
            connection.finish();
        }
    }

    fn is_over(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.end().is_some())
    }
}

pub fn ends() -> (SocketAddr, SocketAddr) {
    ("100.64.0.1:40000".parse().unwrap(), "100.64.0.2:80".parse().unwrap())
}

pub fn client(settings: &Arc<Settings>, iss: u32) -> Connection {
    Connection::connect(settings.clone(), START, ends(), iss, 5)
}

/// What one end does with its stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub send: Vec<u8>,
    pub sent: usize,
    /// Bytes per write and read; 0 is as many as possible.
    pub chunk: usize,
    /// Reads only every so many steps.
    pub lazy: u64,
    /// It has found nothing to read since the last packet.
    pub idle: bool,
    /// FIN after the last byte; else the stream stays open.
    pub finish: bool,
    pub finished: bool,
    pub received: Vec<u8>,
    /// Only counts what it receives.
    pub count_only: bool,
    pub count: u64,
}

type Flight = Reverse<(Instant, u64, usize, Vec<u8>)>;

pub struct Net<A: Host, B: Host> {
    pub now: Instant,
    pub link: Link,
    pub a: A,
    pub b: B,
    pub streams: [Stream; 2],
    pub random: Random,
    pub packets: u64,
    pub dropped: u64,
    flights: BinaryHeap<Flight>,
    busy: [Instant; 2],
    losing: u64,
    steps: u64,
    scratch: Vec<u8>,
}

impl<A: Host, B: Host> Net<A, B> {
    pub fn new(link: Link, seed: u64, a: A, b: B, streams: [Stream; 2]) -> Self {
        Self {
            now: START,
            link,
            a,
            b,
            streams,
            random: Random::new(seed),
            packets: 0,
            dropped: 0,
            flights: BinaryHeap::new(),
            busy: [START; 2],
            losing: 0,
            steps: 0,
            scratch: vec![0; 1 << 16],
        }
    }

    fn host(&mut self, end: usize) -> &mut dyn Host {
        if end == 0 { &mut self.a } else { &mut self.b }
    }

    fn transmit(&mut self, from: usize, mut packet: Vec<u8>) {
        self.packets += 1;
        let link = self.link;
        if self.losing > 0 {
            self.losing -= 1;
            self.dropped += 1;
            return;
        }
        if self.random.chance(link.loss, 100_000) || (from == 1 && self.random.chance(link.ack_loss, 100_000))
        {
            self.losing = link.burst.saturating_sub(1);
            self.dropped += 1;
            return;
        }
        let mut leaves = self.now;
        if let Some(micros) = (packet.len() as u64 * 1_000_000).checked_div(link.rate) {
            let free = self.busy[from].max(self.now);
            let waiting = free.as_micros() - self.now.as_micros();
            if waiting * link.rate / 1_000_000 > link.queue {
                self.dropped += 1;
                return;
            }
            leaves = free + Duration::from_micros(micros);
            self.busy[from] = leaves;
        }
        if self.random.chance(link.corrupt, 100_000) {
            let at = self.random.below(packet.len() as u64) as usize;
            packet[at] ^= 1 << self.random.below(8);
        }
        let copies = 1 + u64::from(self.random.chance(link.duplicate, 100_000));
        for _ in 0..copies {
            let late = if self.random.chance(link.reorder, 100_000) {
                self.random.below(1 + link.late.as_micros() as u64)
            } else {
                0
            };
            let at = leaves + link.delay + Duration::from_micros(late);
            self.flights.push(Reverse((at, self.packets, 1 - from, packet.clone())));
        }
    }

    /// Streams and packets of this instant.
    fn settle(&mut self) {
        for end in 0..2 {
            self.pump(end);
            let now = self.now;
            let mut packet = Vec::new();
            let mut count = 0;
            while self.host(end).poll_packet(now, &mut packet) {
                self.transmit(end, std::mem::take(&mut packet));
                count += 1;
                assert!(count < 100_000, "packets without end");
            }
        }
    }

    fn pump(&mut self, end: usize) {
        let (now, steps) = (self.now, self.steps);
        let mut stream = std::mem::take(&mut self.streams[end]);
        let mut scratch = std::mem::take(&mut self.scratch);
        let piece = if stream.chunk == 0 { scratch.len() } else { stream.chunk };
        let host = self.host(end);
        while stream.lazy == 0 || steps % stream.lazy == 0 {
            let len = host.recv(now, &mut scratch[..piece]);
            if len == 0 {
                stream.idle = true;
                break;
            }
            stream.count += len as u64;
            if !stream.count_only {
                stream.received.extend_from_slice(&scratch[..len]);
            }
            if stream.lazy > 0 {
                break;
            }
        }
        while stream.sent < stream.send.len() {
            let upto = (stream.sent + piece).min(stream.send.len());
            let taken = host.send(now, &stream.send[stream.sent..upto]);
            stream.sent += taken;
            if taken == 0 {
                break;
            }
        }
        if stream.finish && !stream.finished && stream.sent == stream.send.len() {
            host.finish(now);
            stream.finished = true;
        }
        self.streams[end] = stream;
        self.scratch = scratch;
    }

    fn next(&self) -> Option<Instant> {
        let arrival = self.flights.peek().map(|Reverse(flight)| flight.0);
        [arrival, self.a.poll_timeout(), self.b.poll_timeout()].into_iter().flatten().min()
    }

    /// Goes to the next instant at which something happens. False: nothing will before `end`.
    pub fn step(&mut self, end: Instant) -> bool {
        self.settle();
        let Some(next) = self.next().filter(|&next| next <= end) else { return false };
        // A lazy reader has to come by again, but not for the hours in which a link with bad luck carries nothing.
        let lazy = self.streams.iter().any(|stream| stream.lazy > 0 && !stream.idle);
        let tick = self.now + Duration::from_millis(10);
        self.now = if lazy { next.min(tick) } else { next }.max(self.now);
        self.steps += 1;
        while self.flights.peek().is_some_and(|Reverse(flight)| flight.0 <= self.now) {
            let Some(Reverse((_, _, to, packet))) = self.flights.pop() else { break };
            let now = self.now;
            self.streams[to].idle = false;
            self.host(to).handle_packet(now, &packet);
        }
        true
    }

    /// Until both ends are over. False: they were not within `limit`.
    pub fn run(&mut self, limit: Duration) -> bool {
        let end = START + limit;
        let mut steps = 0_u64;
        while !(self.a.is_over() && self.b.is_over()) {
            if !self.step(end) {
                return false;
            }
            steps += 1;
            assert!(steps < 30_000_000, "the world spins at {:?}", self.now);
        }
        self.settle();
        true
    }

    /// For `time` whatever happens.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0_u64;
        while self.step(end) {
            steps += 1;
            assert!(steps < 30_000_000, "the world spins at {:?}", self.now);
        }
        self.now = end;
    }
}

pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
