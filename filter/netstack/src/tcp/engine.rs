//! The TCP engine: segments in, segments out, stream bytes, deadlines. One flow's state machine is behind this file and
//! nowhere else.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::conn::segment::Segment;
use super::conn::{Connection, End, Next, Outgoing, Pressure, Settings, State};
use super::segment::Tuple;
use super::table::Stamps;
use crate::seed::{Seeded, next_random};
use crate::{Instant, Limits};

/// Buffers of a new flow. The window of 64 KiB that a SYN can announce is half of it.
const INITIAL_BUFFER: u32 = 128 << 10;

/// More than the largest window without a scale.
const AFTER_LAST_WINDOW: u32 = (1 << 16) + 1;

/// What all engines of a stack share.
pub(super) struct Shared {
    settings: Arc<Settings>,
    iss_secret: u64,
    timestamp_secret: u64,
}

impl Shared {
    pub(super) fn new(random: &mut u64, mtu: u16, limits: &Limits) -> Self {
        let bytes = |size: usize| u32::try_from(size).unwrap_or(1 << 30);
        let settings = Settings {
            mtu,
            initial_buffer: INITIAL_BUFFER,
            send_buffer: bytes(limits.flow_send_buffer),
            recv_buffer: bytes(limits.flow_recv_buffer),
            keepalive: limits.keepalive,
            user_timeout: limits.user_timeout,
            // The owner's deadline for opening a flow comes first.
            syn_retries: u8::MAX,
            ..Settings::default()
        };
        Self {
            settings: Arc::new(settings),
            iss_secret: next_random(random),
            timestamp_secret: next_random(random),
        }
    }

    /// The initial sequence number: a clock of 4 µs, from where only who knows the secret can tell (RFC 6528).
    fn iss(&self, now: Instant, tuple: Tuple) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap")]
        let clock = (now.as_micros() / 4) as u32;
        half(Seeded(self.iss_secret).hash_one(tuple)).wrapping_add(clock)
    }

    /// Where the clock of a tuple's timestamps starts (RFC 7323, section 7.1).
    fn timestamp_offset(&self, tuple: Tuple) -> u32 {
        half(Seeded(self.timestamp_secret).hash_one(tuple))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "half of a hash is as good")]
fn half(hash: u64) -> u32 {
    hash as u32
}

/// Where a flow is in its life, as far as its owner can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// SYN_SENT, SYN_RECEIVED.
    Opening,
    /// ESTABLISHED to LAST_ACK.
    Open,
    /// Both FINs are exchanged and ours is acknowledged; the tuple has to rest.
    TimeWait,
    /// Nothing more comes or goes.
    Closed,
}

/// One flow's TCP.
pub(super) struct Engine(Connection);

impl Engine {
    /// An active open. `before`: where the numbers of the tuple's last connection ended, if a peer may remember it; then these
    /// begin behind its last window that needs no scale, as in Linux.
    pub(super) fn connect(shared: &Shared, now: Instant, tuple: Tuple, before: Option<u32>) -> Self {
        let iss = before.map_or_else(|| shared.iss(now, tuple), |end| end.wrapping_add(AFTER_LAST_WINDOW));
        let offset = shared.timestamp_offset(tuple);
        let ends = (tuple.local.into(), tuple.remote.into());
        Self(Connection::connect(shared.settings.clone(), now, ends, iss, offset))
    }

    /// A passive open: the answer to the SYN in a whole IP packet.
    pub(super) fn accept(shared: &Shared, now: Instant, tuple: Tuple, syn: &[u8]) -> Option<Self> {
        let (iss, offset) = (shared.iss(now, tuple), shared.timestamp_offset(tuple));
        Connection::accept(shared.settings.clone(), now, syn, iss, offset).map(Self)
    }

    /// Takes a segment of this flow. True: the like of it would say nothing new but its bytes.
    pub(super) fn receive(&mut self, now: Instant, segment: &Segment<'_>) -> bool {
        self.0.handle_segment(now, segment)
    }

    /// Takes a segment that differs from the last one, of which `receive` has said `true`, in its number and its bytes alone.
    /// False, and nothing has happened: it has to be received like any other.
    pub(super) fn receive_more(&mut self, now: Instant, seq: u32, payload: Next<'_>) -> bool {
        self.0.handle_more(now, seq, payload)
    }

    /// Where the bytes of such a segment belong; see [`Connection::space_for_next`].
    pub(super) fn space_for_next(
        &mut self,
        before: usize,
        len: usize,
        after: usize,
    ) -> Option<(u32, &mut [u8])> {
        self.0.space_for_next(before, len, after)
    }

    /// Writes the next segment into `out`. False: nothing to send (now).
    pub(super) fn transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        self.0.poll_packet(now, out)
    }

    /// Gives `take` the next segment, and up to `most` in all if those that follow are equal. Returns how many.
    pub(super) fn transmit_burst(
        &mut self,
        now: Instant,
        most: u32,
        take: &mut dyn FnMut(&mut Outgoing<'_>),
    ) -> u32 {
        self.0.poll_burst(now, most, take)
    }

    /// Only the timers: nothing can be sent now.
    pub(super) fn tick(&mut self, now: Instant) {
        self.0.run_timers(now);
    }

    pub(super) fn send(&mut self, now: Instant, data: &[u8]) -> usize {
        self.0.send(now, data)
    }

    pub(super) fn send_chunk(&mut self, now: Instant, chunk: &mut BytesMut) -> usize {
        self.0.send_chunk(now, chunk)
    }

    pub(super) fn send_room(&self) -> usize {
        self.0.send_room()
    }

    pub(super) fn send_buffer(&self) -> usize {
        self.0.send_buffer()
    }

    /// Bytes that the peer has not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.0.unacknowledged()
    }

    /// The same as a number of 32 bits, which it always is.
    pub(super) fn left(&self) -> u32 {
        u32::try_from(self.0.unacknowledged()).unwrap_or(u32::MAX)
    }

    pub(super) fn recv(&mut self, now: Instant, out: &mut [u8]) -> usize {
        self.0.recv(now, out)
    }

    pub(super) fn recv_chunk(&mut self, now: Instant) -> Bytes {
        self.0.recv_chunk(now)
    }

    pub(super) fn recv_available(&self) -> usize {
        self.0.recv_available()
    }

    /// Takes everything that was received and not read.
    pub(super) fn drain(&mut self, now: Instant) -> VecDeque<Bytes> {
        std::iter::from_fn(|| Some(self.recv_chunk(now)).filter(|chunk| !chunk.is_empty())).collect()
    }

    pub(super) fn finish(&mut self) {
        self.0.finish();
    }

    /// The next segment will be an RST.
    pub(super) fn abort(&mut self) {
        self.0.abort();
    }

    pub(super) fn phase(&self) -> Phase {
        match self.0.state() {
            State::SynSent | State::SynReceived => Phase::Opening,
            State::TimeWait => Phase::TimeWait,
            State::Closed => Phase::Closed,
            _ => Phase::Open,
        }
    }

    pub(super) fn end(&self) -> Option<End> {
        self.0.end()
    }

    /// The peer's FIN was received, and so was every byte before it.
    pub(super) fn peer_finished(&self) -> bool {
        self.0.peer_finished()
    }

    /// All bytes are acknowledged, only the answer to our FIN is missing.
    pub(super) fn is_last_ack(&self) -> bool {
        self.0.state() == State::LastAck && self.0.unacknowledged() == 0
    }

    /// What has to be known of the flow while its tuple rests: our next number, the peer's, and the timestamps.
    pub(super) fn rest(&self) -> (u32, u32, Option<Stamps>) {
        self.0.rest()
    }

    /// The initial sequence number, while the SYN is on its way.
    pub(super) fn syn_seq(&self) -> Option<u32> {
        (self.0.state() == State::SynSent).then(|| self.0.initial_seq())
    }

    /// When `transmit` has to be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }

    /// Bytes of memory that the buffers hold.
    pub(super) fn memory(&self) -> usize {
        self.0.memory()
    }

    pub(super) fn set_pressure(&mut self, pressure: Pressure) {
        self.0.set_pressure(pressure);
    }

    /// Bytes were dropped for want of memory since this was asked before.
    pub(super) fn take_starved(&mut self) -> u32 {
        self.0.take_starved()
    }
}
