//! One end of a connection with everything about it that must hold whatever happens.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use nexodus_netstack::Instant;
use nexodus_netstack::conn::{Connection, End, Pressure, Settings, State};

use crate::packet::{ACK, FIN, RST, SYN, Segment, Sent, TCP, sum};

pub const START: Instant = Instant::from_micros(1_000_000_000);
/// The pages of one direction may exceed its bytes by the first, the last and a spare one; and the first chunk to send, the
/// largest of which has 76,500 bytes, is there until its last byte is acknowledged.
const SLACK: usize = 6 * (16 << 10) + 76_500;

/// The byte of `end`'s stream that has this number.
pub fn byte(end: usize, seq: u32) -> u8 {
    (seq.wrapping_add(end as u32 * 77).wrapping_mul(0x9e37_79b1) >> 24) as u8
}

pub struct Host {
    settings: Settings,
    index: usize,
    iss: u32,
    /// Not before its SYN has arrived, where it waits for one.
    connection: Option<Connection>,
    finished: bool,
    /// Bytes that it took from its owner, and gave to it.
    wrote: u32,
    read: u32,
    /// The peer's initial number, once there is one.
    irs: Option<u32>,
    /// After the last number that was sent.
    sent_end: u32,
    /// How far the peer's window has ever reached, and its shift.
    edge: u32,
    shift: u8,
    last_ack: Option<u32>,
    /// How far our window has ever reached.
    announced: Option<u32>,
    our_shift: u8,
}

impl Host {
    pub fn new(settings: Settings, index: usize, iss: u32, active: bool) -> Self {
        let mut host = Self {
            settings,
            index,
            iss,
            connection: None,
            finished: false,
            wrote: 0,
            read: 0,
            irs: None,
            sent_end: iss,
            edge: iss,
            shift: 0,
            last_ack: None,
            announced: None,
            our_shift: 0,
        };
        if active {
            let ends = (host.local(), host.remote());
            host.connection = Some(Connection::connect(Arc::new(settings), START, ends, iss, host.offset()));
        }
        host
    }

    pub fn local(&self) -> SocketAddr {
        address(self.index)
    }

    pub fn remote(&self) -> SocketAddr {
        address(1 - self.index)
    }

    pub fn iss(&self) -> u32 {
        self.iss
    }

    pub fn wrote(&self) -> u32 {
        self.wrote
    }

    pub fn read(&self) -> u32 {
        self.read
    }

    pub fn sent_end(&self) -> u32 {
        self.sent_end
    }

    /// The number that it wants next, as far as its acknowledgements say.
    pub fn expected(&self) -> u32 {
        self.last_ack.unwrap_or_default()
    }

    /// What its timestamps say now.
    pub fn timestamp(&self, now: Instant) -> u32 {
        ((now.as_micros() / 1000) as u32).wrapping_add(self.offset())
    }

    fn offset(&self) -> u32 {
        // One of them wraps soon.
        [5, u32::MAX - 1_001_000][self.index]
    }

    pub fn end(&self) -> Option<End> {
        self.connection.as_ref().and_then(Connection::end)
    }

    /// Nothing more will happen here, unless the peer wants something.
    pub fn is_over(&self) -> bool {
        self.end().is_some()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.connection.as_ref().and_then(Connection::poll_timeout)
    }

    pub fn describe(&self) -> String {
        let state = self.connection.as_ref().map(|c| (c.state(), c.end(), c.unacknowledged(), *c.counters()));
        format!(
            "wrote {} read {} sent {:?} {state:?}",
            self.wrote,
            self.read,
            self.sent_end.wrapping_sub(self.iss)
        )
    }

    pub fn set_pressure(&mut self, pressure: Pressure) {
        if let Some(connection) = &mut self.connection {
            connection.set_pressure(pressure);
        }
    }

    pub fn send(&mut self, now: Instant, len: usize) {
        let Some(connection) = &mut self.connection else { return };
        let first = self.iss.wrapping_add(1).wrapping_add(self.wrote);
        let data: Vec<u8> = (0..len as u32).map(|n| byte(self.index, first.wrapping_add(n))).collect();
        let room = connection.send_room();
        let taken = if len.is_multiple_of(600) {
            let mut chunk = BytesMut::from(&data[..]);
            let taken = connection.send_chunk(now, &mut chunk);
            assert_eq!(chunk.len(), len - taken, "what is taken leaves the chunk");
            taken
        } else {
            connection.send(now, &data)
        };
        assert_eq!(taken, room.min(len), "send takes what there is room for");
        self.wrote += taken as u32;
    }

    pub fn recv(&mut self, now: Instant, most: usize) {
        let Some(connection) = &mut self.connection else { return };
        let available = connection.recv_available();
        let mut bytes = vec![0; available.min(most)];
        let read = connection.recv(now, &mut bytes);
        assert_eq!(read, bytes.len(), "recv gives what there is");
        assert_eq!(connection.recv_available(), available - read);
        self.compare(&bytes);
    }

    pub fn recv_chunks(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        let mut left = connection.recv_available();
        let mut bytes = Vec::new();
        while left > 0 {
            let chunk = connection.recv_chunk(now);
            assert!(!chunk.is_empty(), "recv_chunk gives what there is");
            left -= chunk.len();
            assert_eq!(connection.recv_available(), left);
            bytes.extend_from_slice(&chunk);
        }
        assert!(connection.recv_chunk(now).is_empty());
        self.compare(&bytes);
    }

    /// What was read is what the peer has sent.
    fn compare(&mut self, bytes: &[u8]) {
        let read = bytes.len();
        let Some(irs) = self.irs else {
            assert_eq!(read, 0, "bytes before the first number");
            return;
        };
        for (n, &got) in bytes.iter().enumerate() {
            let seq = irs.wrapping_add(1).wrapping_add(self.read).wrapping_add(n as u32);
            assert_eq!(got, byte(1 - self.index, seq), "byte {} is wrong", self.read as usize + n);
        }
        self.read += read as u32;
    }

    pub fn finish(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.finish();
            self.finished = true;
        }
    }

    pub fn abort(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.abort();
        }
    }

    pub fn handle(&mut self, now: Instant, packet: &[u8]) -> bool {
        let segment = Segment::read(&packet[20..]);
        let waited = self.connection.is_none();
        let opening = self.state() == Some(State::SynSent);
        let (taken, had) = match &mut self.connection {
            Some(connection) => {
                let had = connection.recv_available();
                (connection.handle_packet(now, packet), had)
            }
            None => {
                // A listener's owner looks at checksums where they are looked at.
                let sent = segment.is_some() && (!self.settings.verify_checksums || checksum_holds(packet));
                let (settings, offset) = (Arc::new(self.settings), self.offset());
                self.connection = Some(packet)
                    .filter(|_| sent)
                    .and_then(|packet| Connection::accept(settings, now, packet, self.iss, offset));
                (self.connection.is_some(), 0)
            }
        };
        let Some(segment) = segment.filter(|_| taken) else { return taken };
        let Some(connection) = &self.connection else { return taken };
        assert!(connection.recv_available() >= had, "bytes are gone");
        if connection.recv_available() > had {
            assert!(!segment.data.is_empty(), "bytes from nowhere");
        }
        let opened = opening && !matches!(connection.state(), State::SynSent | State::Closed);
        if waited || opened {
            self.irs = Some(segment.seq);
            let scaled = self.settings.window_scaling && segment.shift.is_some();
            self.shift = segment.shift.filter(|_| scaled).unwrap_or(0).min(14);
            self.our_shift = if scaled { shift_for(self.settings.recv_buffer) } else { 0 };
        }
        let shift = if segment.has(SYN) { 0 } else { self.shift };
        let ack = if segment.has(ACK) { segment.ack } else { self.iss.wrapping_add(1) };
        // Others are not looked at.
        if ack.wrapping_sub(self.iss) <= self.sent_end.wrapping_sub(self.iss).max(1) {
            let edge = ack.wrapping_add(u32::from(segment.window) << shift);
            self.edge = later(self.edge, edge);
        }
        taken
    }

    /// What it sends now.
    pub fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        while let Some(connection) = &mut self.connection {
            let mut burst = Vec::new();
            let given = connection.poll_burst(now, 8, &mut |packet| {
                let len = packet.len();
                packet.lend(len.next_multiple_of(16), &mut Vec::new(), |packet| {
                    burst.push(packet[..len].to_vec());
                });
            });
            assert_eq!(given as usize, burst.len());
            if given == 0 {
                break;
            }
            burst.iter().for_each(|packet| self.check(packet));
            sent.extend(burst);
            assert!(sent.len() < 30_000, "packets without end");
        }
        let timeout = self.poll_timeout();
        assert!(timeout.is_none_or(|at| at > now), "a deadline that does nothing: {}", self.describe());
        if let Some(connection) = &self.connection {
            let most = (self.settings.send_buffer + self.settings.recv_buffer) as usize + SLACK;
            assert!(connection.memory() <= most, "{} bytes are held", connection.memory());
            assert!(connection.unacknowledged() <= self.settings.send_buffer.max(self.wrote) as usize);
            assert_eq!(connection.state() == State::Closed, timeout.is_none(), "a deadline, or the end");
        }
        sent
    }

    fn check(&mut self, packet: &[u8]) {
        let mtu = self.settings.mtu.into();
        assert!(packet.len() <= mtu, "a packet of {} bytes, the MTU is {mtu}", packet.len());
        let sent = Sent::read(packet);
        assert_eq!((sent.from, sent.to), (self.local().ip(), self.remote().ip()));
        let segment = sent.segment();
        if segment.has(RST) && !segment.has(ACK) {
            return;
        }
        let first = self.iss.wrapping_add(1);
        let end = segment.end();
        assert!(segment.has(ACK) || segment.has(SYN), "no acknowledgement");
        if segment.has(SYN) {
            assert_eq!((segment.seq, segment.data.len()), (self.iss, 0));
        } else if end != segment.seq {
            for (n, &got) in segment.data.iter().enumerate() {
                let seq = segment.seq.wrapping_add(n as u32);
                assert_eq!(got, byte(self.index, seq), "a wrong byte at {}", seq.wrapping_sub(first));
            }
            let upto = end.wrapping_sub(first);
            assert!(upto <= self.wrote + u32::from(self.finished), "bytes that nobody wrote");
            assert!(!segment.has(FIN) || (self.finished && upto == self.wrote + 1), "a FIN in between");
            let room = self.edge.wrapping_sub(first);
            assert!(upto <= room, "up to {upto}, the peer's window ends at {room}");
        }
        self.sent_end = later(self.sent_end, end);
        if segment.has(ACK) {
            let last = *self.last_ack.get_or_insert(segment.ack);
            assert!(segment.ack.wrapping_sub(last).cast_signed() >= 0, "an acknowledgement taken back");
            self.last_ack = Some(segment.ack);
        }
        if segment.has(ACK) && !segment.has(RST) {
            // Down to what the header can say (RFC 7323, section 2.4).
            let shift = if segment.has(SYN) { 0 } else { self.our_shift };
            let edge = segment.ack.wrapping_add(u32::from(segment.window) << shift);
            let before = *self.announced.get_or_insert(edge);
            let back = before.wrapping_sub(edge).cast_signed();
            assert!(back < 1 << self.our_shift, "the window came back by {back}");
            self.announced = Some(later(before, edge));
        }
    }

    /// A connection that is over and read holds nothing but what is kept for more of it.
    pub fn assert_empty(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        connection.set_pressure(Pressure::High);
        let left = (connection.memory(), connection.unacknowledged(), connection.recv_available());
        assert_eq!(left, (0, 0, 0), "{:?}", connection.end());
    }

    fn state(&self) -> Option<State> {
        self.connection.as_ref().map(Connection::state)
    }
}

fn address(index: usize) -> SocketAddr {
    ["100.64.0.1:40000", "100.64.0.2:80"][index].parse().unwrap()
}

fn later(one: u32, other: u32) -> u32 {
    if other.wrapping_sub(one).cast_signed() > 0 { other } else { one }
}

fn checksum_holds(packet: &[u8]) -> bool {
    sum(address_at(packet, 12), address_at(packet, 16), TCP, &packet[20..]) == 0
}

fn address_at(packet: &[u8], at: usize) -> IpAddr {
    IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap())
}

/// The least shift with which 16 bits can tell of a window of `size`.
fn shift_for(size: u32) -> u8 {
    (0..14).find(|&shift| size >> shift <= 0xffff).unwrap_or(14)
}
