//! The handshake (RFC 9293, section 3.5).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::chunks::Chunks;
use super::congestion::{CongestionControl, Cubic};
use super::options::{MAX_SHIFT, Options, TIMESTAMPS_LEN, Written};
use super::pacing::Pacer;
use super::rack::Rack;
use super::receive::Receiver;
use super::recovery::Recovery;
use super::rtt::Rtt;
use super::scoreboard::Scoreboard;
use super::segment::{self, ACK, Ends, Header, SYN, Segment, Sink};
use super::seq::Seq;
use super::timers::Timers;
use super::tuning::Tuning;
use super::{Connection, Counters, End, Pressure, Settings, Stage};
use crate::Instant;
use crate::ip::{Address, Packet};

/// A peer cannot ask for less (Linux: `tcp_min_snd_mss`): tiny segments cost more than they carry.
const LEAST_MSS: u16 = 48;
/// Without the option (RFC 9293, section 3.7.1).
const DEFAULT_MSS_V4: u16 = 536;
const DEFAULT_MSS_V6: u16 = 1220;
/// How long the acknowledgement of a SYN|ACK waits for our first bytes, which carry it then (RFC 9293, section 3.10.7.3: what is
/// queued may go with it). Whoever has something to say writes it some hundred microseconds after the connection is there, and a
/// packet less is sealed, carried and opened; Linux does the same where it knows of such bytes. RFC 1122 (section 4.2.3.2) and
/// RFC 5681 (section 4.2) would allow 500 ms, but the peer is in SYN-RECEIVED until then, and with it a server that speaks first,
/// as for SSH: so not the 40 ms of other acknowledgements.
const SYN_ACK_DELAY: Duration = Duration::from_millis(1);

impl Connection {
    /// Opens a connection from the first to the second of `ends`: [`Self::poll_packet`] has the SYN. `iss` and `ts_offset`
    /// should be what RFC 6528 and RFC 7323 (section 7.1) ask for: a keyed hash of `ends`, the former plus a clock.
    #[must_use]
    pub fn connect(
        settings: Arc<Settings>,
        now: Instant,
        ends: (SocketAddr, SocketAddr),
        iss: u32,
        ts_offset: u32,
    ) -> Self {
        Self::new(
            settings,
            now,
            Ends { local: ends.0.into(), remote: ends.1.into() },
            iss,
            ts_offset,
            Stage::SynSent,
        )
    }

    /// Accepts a connection whose SYN is in `packet`, a whole IP packet: [`Self::poll_packet`] has the SYN|ACK. `None`: there is
    /// no SYN in it.
    #[must_use]
    pub fn accept(
        settings: Arc<Settings>,
        now: Instant,
        packet: &[u8],
        iss: u32,
        ts_offset: u32,
    ) -> Option<Self> {
        let packet = Packet::parse(packet).ok()?;
        let ports = packet.payload.first_chunk::<4>()?;
        let syn = Segment::parse(packet.payload)?;
        if !syn.is_syn() || syn.is_ack() || syn.is_rst() {
            return None;
        }
        let ends = Ends {
            local: Address::new(packet.destination, u16::from_be_bytes([ports[2], ports[3]])),
            remote: Address::new(packet.source, u16::from_be_bytes([ports[0], ports[1]])),
        };
        let mut connection = Self::new(settings, now, ends, iss, ts_offset, Stage::SynReceived);
        connection.counters.received = 1;
        connection.take_syn(now, &syn);
        Some(connection)
    }

    fn new(
        settings: Arc<Settings>,
        now: Instant,
        ends: Ends,
        iss: u32,
        ts_offset: u32,
        stage: Stage,
    ) -> Self {
        let iss = Seq(iss);
        let shift = if settings.window_scaling { shift_for(settings.recv_buffer) } else { 0 };
        let mss = settings.mtu - segment::headers_len(ends.local.ip());
        Self {
            ends,
            stage,
            end: None,
            una: iss,
            nxt: iss,
            iss,
            front: iss + 1,
            buffer: Chunks::default(),
            buffered: 0,
            fin: false,
            wnd: 0,
            wl1: Seq(0),
            wl2: iss,
            max_wnd: 0,
            shift: 0,
            mss: mss.into(),
            rcv: Receiver::new(settings.initial_buffer.min(settings.recv_buffer), shift),
            scaled: settings.window_scaling,
            sack: settings.sack,
            timestamps: settings.timestamps,
            ts_offset,
            ts_recent: 0,
            ts_recent_at: now,
            ts_last: 0,
            last_ack_sent: Seq(0),
            board: Scoreboard::default(),
            rack: Rack::new(iss),
            rtt: Rtt::new(now, settings.min_rto),
            recovery: Recovery::default(),
            congestion: Cubic::new(mss.into(), false),
            pacer: Pacer::default(),
            limited: false,
            timers: Timers::new(now),
            tuning: Tuning::default(),
            passive_close: false,
            counters: Counters::default(),
            pressure: Pressure::None,
            starved: 0,
            settings,
        }
    }

    /// The peer's SYN: where its numbers begin, and what it offers.
    fn take_syn(&mut self, now: Instant, syn: &Segment<'_>) {
        self.rcv.open(syn.seq);
        let Options { mss, shift, sack_permitted, timestamps, .. } = syn.options;
        let default = if self.ends.local.is_ipv4() { DEFAULT_MSS_V4 } else { DEFAULT_MSS_V6 };
        let theirs = mss.unwrap_or(default).max(LEAST_MSS);
        self.mss = self.mss.min(theirs.into());
        self.sack &= sack_permitted;
        self.scaled &= shift.is_some();
        self.shift = shift.filter(|_| self.scaled).unwrap_or(0);
        if !self.scaled {
            self.rcv.shift = 0;
        }
        self.timestamps &= timestamps.is_some();
        if let Some((value, _)) = timestamps.filter(|_| self.timestamps) {
            self.ts_recent = value;
            self.ts_recent_at = now;
            self.mss -= TIMESTAMPS_LEN;
        }
        self.wl1 = syn.seq;
        self.wnd = syn.window.into();
        self.max_wnd = self.wnd;
        self.last_ack_sent = self.rcv.nxt;
    }

    /// RFC 9293, section 3.10.7.3.
    pub(super) fn arrive_in_syn_sent(&mut self, now: Instant, segment: &Segment<'_>) {
        if segment.is_ack() && !self.acknowledges_syn(segment) {
            self.counters.bad_acks += 1;
            if !segment.is_rst() {
                self.timers.stray_reset = Some(segment.ack);
            }
            return;
        }
        if segment.is_rst() {
            if segment.is_ack() {
                self.close(End::Refused);
            }
            return;
        }
        if !segment.is_syn() {
            return;
        }
        self.take_syn(now, segment);
        if segment.is_ack() {
            self.establish(now, segment);
            // Until it is acknowledged, its timestamp is the one to echo (RFC 7323, section 4.3).
            self.last_ack_sent = segment.seq;
            if segment.payload.is_empty() && !segment.is_fin() {
                self.timers.ack_at = Some(now + SYN_ACK_DELAY.min(self.settings.ack_delay));
            } else {
                // What came with it is not taken, and has to come again.
                self.timers.ack_now = true;
            }
        } else {
            // A simultaneous open (section 3.5, figure 7): our SYN goes out again with an acknowledgement.
            self.stage = Stage::SynReceived;
            self.timers.syn_at = Some(now);
        }
    }

    /// Before it was sent, our SYN cannot be acknowledged by anybody who has seen it.
    pub(super) fn acknowledges_syn(&self, segment: &Segment<'_>) -> bool {
        segment.ack == self.nxt && self.nxt != self.iss
    }

    /// Our SYN is acknowledged.
    pub(super) fn establish(&mut self, now: Instant, segment: &Segment<'_>) {
        self.una = segment.ack;
        self.stage = Stage::Open;
        let repeated = self.timers.syns > 1;
        if repeated {
            self.rtt.syn_was_repeated();
            if let Some((_, echo)) = segment.options.timestamps.filter(|_| self.timestamps) {
                self.sample_timestamp(now, echo);
            }
        } else {
            let round_trip = now.saturating_since(self.timers.syn_sent);
            self.rtt.sample(round_trip);
            self.rtt.shortest(now, round_trip);
        }
        self.congestion = Cubic::new(self.mss, repeated);
        debug_assert!(self.congestion.window() >= self.mss);
        self.timers.syn_at = None;
        self.timers.answered(now);
    }

    /// SYN or SYN|ACK, when it is due.
    pub(super) fn poll_syn(&mut self, now: Instant, out: &mut Sink<'_>) -> bool {
        if self.timers.syn_at.is_none_or(|at| at > now) {
            return false;
        }
        let first = self.timers.syns == 0;
        if !first && self.timers.syns > self.settings.syn_retries {
            self.close(End::TimedOut);
            return false;
        }
        let answers = self.stage == Stage::SynReceived;
        let mut options = Written::new();
        options.mss(self.settings.mtu - segment::headers_len(self.ends.local.ip()));
        if self.sack {
            options.sack_permitted();
        }
        if self.timestamps {
            options.timestamps(self.timestamp(now), if answers { self.ts_recent } else { 0 });
        }
        if self.scaled {
            options.shift(self.rcv.shift);
        }
        let (ack, flags) = if answers { (self.rcv.nxt, SYN | ACK) } else { (Seq(0), SYN) };
        let window = self.rcv.announce_in_syn();
        let header = Header { seq: self.iss, ack, flags, window };
        self.emit(out, header, &options);
        self.nxt = self.iss + 1;
        self.counters.sent += 1;
        self.counters.retransmitted += u32::from(!first);
        if first {
            self.timers.syn_sent = now;
            self.timers.unanswered = Some(now);
        } else {
            self.rtt.back_off();
        }
        self.timers.syns = self.timers.syns.saturating_add(1);
        self.timers.syn_at = Some(now + self.rtt.timeout());
        true
    }
}

/// The least shift with which 16 bits can tell of a window of `size`.
fn shift_for(size: u32) -> u8 {
    (0..MAX_SHIFT).find(|&shift| size >> shift <= u32::from(u16::MAX)).unwrap_or(MAX_SHIFT)
}
