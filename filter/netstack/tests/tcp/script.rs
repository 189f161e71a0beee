//! A script's stage: one connection, and a peer that says exactly what it is told to.

use std::sync::Arc;
use std::time::Duration;

use nexodus_netstack::Instant;
use nexodus_netstack::conn::{Connection, End, Settings, State};

use crate::link::START;
use crate::wire::{ACK, SYN, Seg};

/// Our initial sequence number, and the peer's.
pub const OURS: u32 = 1_000_000;
pub const THEIRS: u32 = 500_000;
/// The peer's clock at the start.
pub const CLOCK: u32 = 7_000;

pub struct Script {
    pub conn: Connection,
    pub now: Instant,
    /// Whether the peer speaks timestamps, and its clock's offset.
    pub ts: bool,
    pub shift: u8,
    /// Sent by the connection and not looked at by the script.
    sent: std::collections::VecDeque<Seg>,
}

/// What the peer's SYN says.
#[derive(Clone, Copy)]
pub struct Peer {
    pub mss: Option<u16>,
    pub shift: Option<u8>,
    pub sack: bool,
    pub ts: bool,
    pub window: u16,
}

impl Default for Peer {
    fn default() -> Self {
        Self { mss: Some(1000), shift: Some(7), sack: true, ts: false, window: 60_000 }
    }
}

impl Script {
    /// An active open whose SYN was not looked at yet.
    pub fn opening(settings: Settings) -> Self {
        let ends = ("100.64.0.1:40000".parse().unwrap(), "100.64.0.2:80".parse().unwrap());
        let conn = Connection::connect(Arc::new(settings), START, ends, OURS, 0);
        Self { conn, now: START, ts: false, shift: 0, sent: std::collections::VecDeque::new() }
    }

    /// An open connection towards a peer, 100 ms away, to which nothing was said since its SYN|ACK.
    pub fn answered(settings: Settings, peer: Peer) -> Self {
        let mut script = Self::opening(settings);
        script.wait(100);
        let segment = script.syn_ack(peer);
        script.give(segment);
        script
    }

    /// The peer's answer to our SYN.
    pub fn syn_ack(&mut self, peer: Peer) -> Seg {
        let syn = self.expect("SYN");
        assert_eq!((syn.seq, syn.flags), (OURS, SYN));
        self.ts = peer.ts;
        self.shift = peer.shift.unwrap_or(0);
        Seg {
            seq: THEIRS,
            ack: OURS + 1,
            flags: SYN | ACK,
            window: peer.window,
            mss: peer.mss,
            shift: peer.shift,
            sack_ok: peer.sack,
            ts: peer.ts.then(|| (self.clock(), syn.ts.map_or(0, |ts| ts.0))),
            ..Seg::default()
        }
    }

    /// An open connection towards a peer, 100 ms away, that has acknowledged the SYN|ACK.
    pub fn open(settings: Settings, peer: Peer) -> Self {
        let mut script = Self::answered(settings, peer);
        script.wait(1);
        let ack = script.expect("ACK of SYN|ACK");
        assert_eq!((ack.seq, ack.ack, ack.flags), (OURS + 1, THEIRS + 1, ACK));
        script.quiet();
        script
    }

    /// The default peer, and no pacing: scripts are about numbers, not about when they leave.
    pub fn plain() -> Self {
        Self::open(unpaced(), Peer::default())
    }

    /// The peer's clock, in its timestamps.
    pub fn clock(&self) -> u32 {
        CLOCK + ((self.now.as_micros() - START.as_micros()) / 1000) as u32
    }

    /// Time passes; what the connection sends meanwhile is collected.
    pub fn wait(&mut self, millis: u64) {
        self.wait_for(Duration::from_millis(millis));
    }

    pub fn wait_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.collect();
        while let Some(next) = self.conn.poll_timeout().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            let before = self.sent.len();
            self.collect();
            let again = self.conn.poll_timeout().is_some_and(|at| at <= self.now);
            assert!(!again || self.sent.len() > before, "a deadline that does nothing");
        }
        self.now = end;
        self.collect();
    }

    fn collect(&mut self) {
        let mut packet = Vec::new();
        while self.conn.poll_packet(self.now, &mut packet) {
            self.sent.push_back(Seg::read(&packet));
            assert!(self.sent.len() < 10_000, "packets without end");
        }
    }

    /// The peer says `segment`.
    pub fn give(&mut self, segment: Seg) {
        self.give_together([segment]);
    }

    /// The peer's segments arrive before we answer any.
    pub fn give_together(&mut self, segments: impl IntoIterator<Item = Seg>) {
        for segment in segments {
            let packet = segment.packet((2, 80), (1, 40_000));
            assert!(self.conn.handle_packet(self.now, &packet));
        }
        self.collect();
    }

    /// An acknowledgement from the peer, with `len` bytes at `at` bytes into its stream.
    pub fn data(&self, at: u32, len: usize) -> Seg {
        Seg { data: vec![b'x'; len], ..self.ack(0, at) }
    }

    /// The peer has received `bytes` of ours, and has sent `sent` of its own.
    pub fn ack(&self, bytes: u32, sent: u32) -> Seg {
        Seg {
            seq: THEIRS + 1 + sent,
            ack: OURS + 1 + bytes,
            flags: ACK,
            window: 60_000,
            ts: self.ts.then(|| (self.clock(), 0)),
            ..Seg::default()
        }
    }

    /// The peer acknowledges `bytes` of ours and reports ranges of our stream.
    pub fn sack(&mut self, bytes: u32, blocks: &[(u32, u32)]) {
        let sack = blocks
            .iter()
            .map(|&(start, end)| (start.wrapping_add(OURS + 1), end.wrapping_add(OURS + 1)))
            .collect();
        let segment = Seg { sack, ..self.ack(bytes, 0) };
        self.give(segment);
    }

    pub fn acked(&mut self, bytes: u32) {
        let segment = self.ack(bytes, 0);
        self.give(segment);
    }

    /// The next segment that the connection has sent.
    pub fn expect(&mut self, what: &str) -> Seg {
        self.collect();
        self.sent.pop_front().unwrap_or_else(|| panic!("nothing was sent, wanted {what}"))
    }

    /// The next segment carries this part of our stream.
    pub fn expect_data(&mut self, start: u32, len: u32) -> Seg {
        let segment = self.expect(&format!("bytes {start} to {}", start + len));
        assert_eq!((segment.seq.wrapping_sub(OURS + 1), segment.len()), (start, len));
        segment
    }

    /// The next segment is an empty acknowledgement of so many bytes of the peer's stream.
    pub fn expect_ack(&mut self, bytes: u32) -> Seg {
        let segment = self.expect(&format!("acknowledgement of {bytes}"));
        assert_eq!((segment.flags, segment.ack.wrapping_sub(THEIRS + 1), segment.len()), (ACK, bytes, 0));
        segment
    }

    /// Nothing was sent.
    #[track_caller]
    pub fn quiet(&mut self) {
        self.collect();
        assert_eq!(self.sent, [], "wanted nothing");
    }

    /// Looks at nothing that was sent until now.
    pub fn skip(&mut self) -> usize {
        self.collect();
        std::mem::take(&mut self.sent).len()
    }

    pub fn send(&mut self, len: usize) {
        assert_eq!(self.conn.send(self.now, &vec![b'a'; len]), len);
        self.collect();
    }

    pub fn read(&mut self, len: usize) -> usize {
        let read = self.conn.recv(self.now, &mut vec![0; len]);
        self.collect();
        read
    }

    pub fn finish(&mut self) {
        self.conn.finish();
        self.collect();
    }

    pub fn state(&self) -> State {
        self.conn.state()
    }

    pub fn end(&self) -> Option<End> {
        self.conn.end()
    }
}

pub fn unpaced() -> Settings {
    Settings { pacing: false, ..Settings::default() }
}

impl Script {
    /// How much the connection says it would take now, beyond what it has.
    pub fn data_window(&mut self) -> u32 {
        // A segment before the window has to be answered.
        self.skip();
        let segment = Seg { seq: THEIRS - 5, data: vec![0], ..self.ack(0, 0) };
        self.give(segment);
        u32::from(self.expect("an answer").window) << 7
    }
}
