//! One TCP connection without I/O: segments in, segments out, stream bytes, deadlines.
//!
//! A [`Connection`] has no socket, clock, thread or random source: time, initial sequence number and timestamp offset are
//! arguments. Order of calls: any number of inputs ([`Connection::handle_packet`], [`Connection::send`],
//! [`Connection::recv`], [`Connection::finish`], [`Connection::abort`]); then [`Connection::poll_packet`] until `false`; then
//! nothing until [`Connection::poll_timeout`], when `poll_packet` is due again.
//!
//! What it follows, and where the reasons for its choices stand:
//!
//! | | |
//! |---|---|
//! | `arrive`, `open`, `close` | RFC 9293, 5961 (blind attacks), 7323 (timestamps, PAWS), 6928 |
//! | `acked`, `scoreboard`, `rack` | RFC 2018, 2883, 8985 (RACK-TLP) |
//! | `recovery` | RFC 9937 (PRR); undo by RFC 3522 and 4015, 3708, 5682 |
//! | `congestion` | RFC 9438 (CUBIC), 9406 (HyStart++), 3465, 5681 |
//! | `rtt`, `timers` | RFC 6298 with a minimum of 200 ms, 1122 (delayed acknowledgements, keepalive), 5482 |
//! | `receive` | RFC 9293 section 3.8.6, 2018 section 4; the window grows with what the reader takes per round trip |
//! | `pacing` | a window leaves spread over the round trip |
//!
//! Left out on purpose: urgent data (RFC 6093 advises against it; the bytes stay in the stream), ECN, TCP Fast Open, path MTU
//! discovery (inside a tunnel the MTU is known).

mod acked;
mod arrive;
mod chunks;
mod close;
mod congestion;
mod duplicates;
mod open;
mod options;
mod output;
mod pacing;
mod pages;
mod rack;
mod receive;
mod recovery;
mod rtt;
mod scoreboard;
pub(crate) mod segment;
mod seq;
mod settings;
mod timers;
mod tuning;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::Instant;
use crate::tcp::table::Stamps;
use chunks::Chunks;
use congestion::{CongestionControl, Cubic};
pub(crate) use output::acknowledgement;
use pacing::Pacer;
use rack::Rack;
pub(crate) use receive::Next;
use receive::Receiver;
use recovery::Recovery;
use rtt::Rtt;
use scoreboard::Scoreboard;
use segment::Ends;
pub use segment::Outgoing;
use seq::{Seq, count};
pub use settings::{Counters, End, Pressure, Settings, State};
use timers::Timers;
use tuning::Tuning;

/// How far a connection is; [`State`] says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    SynSent,
    SynReceived,
    /// ESTABLISHED to LAST-ACK.
    Open,
    TimeWait,
    Closed,
}

/// One end of a TCP connection. See the module's documentation for the order of calls.
pub struct Connection {
    settings: Arc<Settings>,
    ends: Ends,
    stage: Stage,
    end: Option<End>,

    /// Oldest number not acknowledged, and the next one to use.
    una: Seq,
    nxt: Seq,
    iss: Seq,
    /// The number of the first byte in `buffer`.
    front: Seq,
    buffer: Chunks,
    /// Bytes in it, from `front` on.
    buffered: u32,
    /// `finish` was called: a FIN follows the last byte.
    fin: bool,
    /// The peer's window, the segment that told it (RFC 9293, section 3.10.7.4), and the largest ever.
    wnd: u32,
    wl1: Seq,
    wl2: Seq,
    max_wnd: u32,
    /// Shift of the peer's windows.
    shift: u8,
    /// Payload of a full segment.
    mss: u32,

    rcv: Receiver,
    /// What both ends have agreed on.
    scaled: bool,
    sack: bool,
    timestamps: bool,
    ts_offset: u32,
    /// The timestamp to echo, and when it came (RFC 7323, section 4.3).
    ts_recent: u32,
    ts_recent_at: Instant,
    /// The timestamp of the last segment, which those that differ from it in number and bytes alone have too.
    ts_last: u32,
    last_ack_sent: Seq,

    board: Scoreboard,
    rack: Rack,
    rtt: Rtt,
    recovery: Recovery,
    congestion: Cubic,
    pacer: Pacer,
    /// The congestion window was what stopped the sender last.
    limited: bool,

    timers: Timers,
    tuning: Tuning,
    /// The peer's FIN came before ours was sent.
    passive_close: bool,
    counters: Counters,
    pressure: Pressure,
    starved: u32,
}

impl Connection {
    /// Takes bytes to send, and returns how many: fewer than given when the buffer is full, none after [`Self::finish`].
    pub fn send(&mut self, _now: Instant, data: &[u8]) -> usize {
        let taken = data.len().min(self.send_room());
        self.buffer.copy(&data[..taken]);
        self.buffered += count(taken);
        taken
    }

    /// The same for a chunk whose bytes stay where they are, unless they are few: what is taken leaves `chunk`'s front.
    pub fn send_chunk(&mut self, _now: Instant, chunk: &mut BytesMut) -> usize {
        let taken = chunk.len().min(self.send_room());
        // Whole, if it may be: a part costs an allocation, and the rest would keep the memory of both.
        self.buffer.take(if taken == chunk.len() { std::mem::take(chunk) } else { chunk.split_to(taken) });
        self.buffered += count(taken);
        taken
    }

    /// How many bytes [`Self::send`] would take.
    #[must_use]
    pub fn send_room(&self) -> usize {
        if self.fin || matches!(self.stage, Stage::TimeWait | Stage::Closed) {
            return 0;
        }
        self.send_limit().saturating_sub(self.buffered) as usize
    }

    /// Bytes taken by [`Self::send`] that the peer has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.buffered as usize
    }

    /// Hands out received bytes, and returns how many. Reading opens the window, so [`Self::poll_packet`] is due.
    pub fn recv(&mut self, now: Instant, out: &mut [u8]) -> usize {
        let read = self.rcv.read(out);
        self.was_read(now, read);
        read
    }

    /// The same with a chunk, which is not copied where it would be large: none when nothing has been received. A chunk has
    /// at most 16 KiB.
    pub fn recv_chunk(&mut self, now: Instant) -> Bytes {
        let chunk = self.rcv.read_chunk();
        self.was_read(now, chunk.len());
        chunk
    }

    fn was_read(&mut self, now: Instant, read: usize) {
        if read > 0 {
            self.tune_receive_buffer(now, count(read));
            if self.stage == Stage::Open && !self.rcv.finished && self.rcv.window_is_news() {
                self.timers.ack_now = true;
            }
        }
    }

    /// Bytes that [`Self::recv`] would hand out.
    #[must_use]
    pub fn recv_available(&self) -> usize {
        self.rcv.available() as usize
    }

    /// Everything the peer will ever send has arrived; it may not be read yet.
    #[must_use]
    pub fn peer_finished(&self) -> bool {
        self.rcv.finished
    }

    /// No more bytes will be sent: a FIN follows those that were taken.
    pub fn finish(&mut self) {
        self.fin = true;
    }

    /// How and whether the connection is over.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// What has passed and what was dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes that may be on the way, as congestion control sees it.
    #[must_use]
    pub fn congestion_window(&self) -> u32 {
        self.congestion.window()
    }

    /// The smoothed round trip, once there is one.
    #[must_use]
    pub fn round_trip(&self) -> Option<std::time::Duration> {
        self.rtt.smoothed()
    }

    /// Bytes of memory that the stream buffers hold.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.buffer.memory() + self.rcv.memory()
    }

    /// How many bytes may wait for acknowledgement now.
    #[must_use]
    pub fn send_buffer(&self) -> usize {
        self.send_limit() as usize
    }

    /// Segments whose bytes were dropped because of [`Pressure::Full`], since this was asked before.
    pub fn take_starved(&mut self) -> u32 {
        std::mem::take(&mut self.starved)
    }

    /// Says how scarce memory is. The connection keeps to it from the next byte on.
    pub fn set_pressure(&mut self, pressure: Pressure) {
        self.pressure = pressure;
        self.rcv.pressed = pressure != Pressure::None;
        if self.rcv.pressed {
            self.buffer.release();
            self.rcv.release();
        }
    }

    pub(crate) fn initial_seq(&self) -> u32 {
        self.iss.0
    }

    /// Our next number, the peer's, and the timestamps.
    pub(crate) fn rest(&self) -> (u32, u32, Option<Stamps>) {
        let stamps = Stamps { offset: self.ts_offset, recent: self.ts_recent };
        (self.nxt.0, self.rcv.nxt.0, self.timestamps.then_some(stamps))
    }

    /// The number after the last byte taken.
    fn write_end(&self) -> Seq {
        self.front + self.buffered
    }

    fn fin_sent(&self) -> bool {
        self.fin && self.nxt.is_after(self.write_end())
    }

    fn fin_acknowledged(&self) -> bool {
        self.fin_sent() && self.una == self.nxt
    }

    /// Bytes that were never sent.
    fn waiting(&self) -> u32 {
        self.write_end().beyond(self.nxt)
    }

    /// Bytes that the peer's window has room for.
    fn usable(&self) -> u32 {
        (self.una + self.wnd).beyond(self.nxt)
    }

    fn timestamp(&self, at: Instant) -> u32 {
        timestamp(at, self.ts_offset)
    }
}

/// The timestamp of an instant: milliseconds (RFC 7323, section 5.4).
fn timestamp(at: Instant, offset: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "timestamps wrap")]
    let millis = (at.as_micros() / 1000) as u32;
    millis.wrapping_add(offset)
}
