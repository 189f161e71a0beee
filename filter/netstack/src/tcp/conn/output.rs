//! The next packets to send.

use super::chunks::{Chunks, Place};
use super::congestion::CongestionControl;
use super::options::{TIMESTAMPS_LEN, Written};
use super::pacing::Pace;
use super::recovery::Mode;
use super::segment::{ACK, Ends, FIN, Header, Headers, PSH, RST, Sink};
use super::seq::Seq;
use super::timers::Probe;
use super::{Connection, End, Stage, timestamp};
use crate::Instant;
use crate::tcp::segment::Tuple;
use crate::tcp::table::Stamps;

impl Connection {
    /// Writes the next IP packet into `out`, which is cleared first. False: there is none (now).
    pub fn poll_packet(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        out.clear();
        self.poll_burst(now, 1, &mut |packet| packet.append_to(out)) > 0
    }

    /// Gives `take` the next IP packet, and up to `most` in all if those that follow differ from it in nothing but their
    /// bytes. Returns how many it gave; none: there is none (now).
    pub fn poll_burst(&mut self, now: Instant, most: u32, take: &mut Sink<'_>) -> u32 {
        if most == 0 {
            return 0;
        }
        let before = self.counters.sent;
        self.run_timers(now);
        self.poll(now, most, take);
        self.counters.sent.wrapping_sub(before)
    }

    fn poll(&mut self, now: Instant, most: u32, out: &mut Sink<'_>) -> bool {
        if let Some(seq) = self.timers.stray_reset.take() {
            self.write_bare(now, out, seq, RST);
            return true;
        }
        match self.stage {
            Stage::SynSent => self.poll_syn(now, out),
            Stage::SynReceived if self.timers.abort => self.poll_abort(now, out),
            Stage::SynReceived => self.poll_syn(now, out),
            Stage::Open if self.timers.abort => self.poll_abort(now, out),
            Stage::Open => {
                if self.poll_open(now, most, out) {
                    return true;
                }
                self.settle(now);
                false
            }
            Stage::TimeWait | Stage::Closed => self.poll_acknowledgement(now, out),
        }
    }

    fn poll_abort(&mut self, now: Instant, out: &mut Sink<'_>) -> bool {
        self.write_bare(now, out, self.nxt, RST | ACK);
        self.close(End::Aborted);
        true
    }

    fn poll_open(&mut self, now: Instant, most: u32, out: &mut Sink<'_>) -> bool {
        // Full segments have no room for SACK blocks, so these go first.
        if self.timers.ack_now && self.rcv.has_blocks() {
            return self.poll_acknowledgement(now, out);
        }
        match self.timers.probe.take() {
            Some(Probe::Tail) if self.poll_tail_probe(now, out) => return true,
            Some(probe @ (Probe::Window | Probe::Keepalive)) => {
                // An empty segment before the window: it has to be answered, and is never taken for new.
                let probes_window = probe == Probe::Window;
                self.counters.window_probes += u32::from(probes_window);
                self.counters.keepalives += u32::from(!probes_window);
                self.write_bare(now, out, self.una.back(1), ACK);
                return true;
            }
            _ => {}
        }
        self.timers.paced = false;
        self.poll_lost(now, out) || self.poll_new(now, most, out) || self.poll_acknowledgement(now, out)
    }

    /// What was lost comes before what is new.
    fn poll_lost(&mut self, now: Instant, out: &mut Sink<'_>) -> bool {
        let Some(sent) = self.board.next_lost() else { return false };
        let fits = self.board.flying() + sent.len() <= self.congestion.window();
        if !self.recovery.forced && (!fits || !self.may_leave(now)) {
            return false;
        }
        self.send_again(now, out, sent.start, sent.end);
        true
    }

    fn send_again(&mut self, now: Instant, out: &mut Sink<'_>, start: Seq, end: Seq) {
        self.board.resend(start, now);
        if start == self.una {
            self.timers.rto_base = now;
        }
        self.counters.retransmitted = self.counters.retransmitted.wrapping_add(1);
        if self.recovery.mode != Mode::Open {
            self.recovery.resent(self.timestamp(now));
        }
        self.write_data(now, out, start, end, 1);
    }

    fn poll_new(&mut self, now: Instant, most: u32, out: &mut Sink<'_>) -> bool {
        let Some(len) = self.next_len() else {
            // Unless more was lost than the window has room for.
            self.limited &= self.board.lost() > 0;
            return false;
        };
        if self.board.lost() > 0 || self.board.flying() + len > self.congestion.window() {
            self.limited = true;
            return false;
        }
        if !self.may_leave(now) {
            return false;
        }
        self.send_new(now, out, len, most);
        true
    }

    /// Bytes of the next new segment; zero for a FIN alone. `None`: nothing, or the peer has no room for it.
    fn next_len(&self) -> Option<u32> {
        let waiting = self.waiting();
        let usable = self.usable();
        if waiting == 0 {
            let fin = self.fin && !self.fin_sent() && usable > 0;
            return fin.then_some(0);
        }
        let len = waiting.min(self.mss).min(usable);
        // No small segment only because the window has a small rest (RFC 9293, section 3.8.6.2.1).
        let small = len < self.mss && len < waiting && len < self.max_wnd / 2;
        (len > 0 && (!small || self.timers.push_on)).then_some(len)
    }

    fn may_leave(&mut self, now: Instant) -> bool {
        self.timers.paced = self.settings.pacing && !self.pacer.allows(now);
        !self.timers.paced
    }

    /// The next segment of `len` bytes, and up to `most` in all, as long as they are as long.
    fn send_new(&mut self, now: Instant, out: &mut Sink<'_>, len: u32, most: u32) {
        if self.board.is_empty() {
            let idle = now.saturating_since(self.timers.last_sent);
            let rto = self.rtt.timeout();
            if idle > rto {
                self.congestion.on_idle(idle, rto);
            }
            self.timers.rto_base = now;
        }
        self.timers.push_on = false;
        let start = self.nxt;
        let fin = self.fin && start + len == self.write_end() && self.usable() > len;
        let more = if fin || len < self.mss { 0 } else { self.equal_segments(now, len).min(most - 1) };
        self.nxt = start + len * (1 + more) + u32::from(fin);
        for n in 0..more {
            self.board.push(start + len * n, start + len * (n + 1), now);
        }
        self.board.push(start + len * more, self.nxt, now);
        self.write_data(now, out, start, self.nxt, 1 + more);
    }

    /// How many full segments may follow one that may leave now. They are not the last ones: those push.
    fn equal_segments(&self, now: Instant, len: u32) -> u32 {
        if self.sack && self.rcv.has_duplicates() {
            // An acknowledgement goes between them.
            return 0;
        }
        let room = self.congestion.window().saturating_sub(self.board.flying());
        let fit = room.min(self.usable()).min(self.waiting().saturating_sub(1)) / len;
        let paced = match self.pace() {
            Some(pace) => self.pacer.room(now, len + TIMESTAMPS_LEN, &pace),
            None => u32::MAX,
        };
        fit.min(paced).saturating_sub(1)
    }

    fn pace(&self) -> Option<Pace> {
        let smoothed = self.rtt.smoothed().filter(|_| self.settings.pacing)?;
        let (window, slow_start) = (self.congestion.window(), self.congestion.is_doubling());
        Some(Pace { window, smoothed, slow_start })
    }

    /// RFC 8985, section 7.3: new bytes if there are any, else the last ones again, whatever the congestion window says.
    fn poll_tail_probe(&mut self, now: Instant, out: &mut Sink<'_>) -> bool {
        let Some(last) = self.board.back().copied() else { return false };
        self.counters.tail_probes += 1;
        // From here the retransmission timeout counts.
        self.timers.rto_base = now;
        if let Some(len) = self.next_len() {
            self.send_new(now, out, len, 1);
            self.timers.tail = Some((self.nxt, false));
        } else {
            self.timers.tail = Some((last.end, true));
            self.send_again(now, out, last.start, last.end);
        }
        true
    }

    /// The numbers from `start` to `end` in so many segments of one length; the last number may be the FIN's.
    fn write_data(&mut self, now: Instant, out: &mut Sink<'_>, start: Seq, end: Seq, segments: u32) {
        let last = end.earliest(self.write_end());
        let len = last.beyond(start) / segments;
        let mut flags = ACK;
        if end.is_after(self.write_end()) {
            flags |= FIN;
        }
        if len > 0 && last == self.write_end() {
            flags |= PSH;
        }
        let mut options = Written::new();
        if self.timestamps {
            options.timestamps(self.timestamp(now), self.ts_recent);
        }
        let header = self.header(start, flags);
        let mut headers = Headers::new(&self.ends, header, options.as_slice(), len as usize);
        let mut place = self.buffer.place(start.beyond(self.front) as usize);
        for n in 0..segments {
            let (mut packet, next) = headers.packet(start + len * n, &mut self.buffer, place, len as usize);
            out(&mut packet);
            place = next;
        }
        self.sent(segments);
        self.recovery.sent(len * segments);
        self.timers.last_sent = now;
        self.timers.probe_base = now;
        self.timers.unanswered.get_or_insert(now);
        if let Some(pace) = self.pace() {
            self.pacer.sent(now, len + TIMESTAMPS_LEN, segments, &pace);
        }
    }

    /// A segment without bytes.
    pub(super) fn emit(&mut self, out: &mut Sink<'_>, header: Header, options: &Written) {
        let mut headers = Headers::new(&self.ends, header, options.as_slice(), 0);
        out(&mut headers.packet(header.seq, &mut self.buffer, Place::default(), 0).0);
    }

    fn poll_acknowledgement(&mut self, now: Instant, out: &mut Sink<'_>) -> bool {
        if !self.timers.ack_now {
            return false;
        }
        let mut options = Written::new();
        if self.timestamps {
            options.timestamps(self.timestamp(now), self.ts_recent);
        }
        if self.sack && self.rcv.has_blocks() {
            let (blocks, filled) = self.rcv.blocks();
            options.sack(blocks[..filled].iter().copied());
        }
        // At the end of what the peer accepts, even when a window that shrank is behind us.
        let header = self.header(self.nxt, ACK);
        self.emit(out, header, &options);
        self.sent(1);
        true
    }

    /// A segment that is nothing but its header.
    fn write_bare(&mut self, now: Instant, out: &mut Sink<'_>, seq: Seq, flags: u8) {
        let mut options = Written::new();
        if self.timestamps && self.stage != Stage::SynSent && flags & ACK != 0 {
            options.timestamps(self.timestamp(now), self.ts_recent);
        }
        let header = if flags & ACK == 0 {
            Header { seq, ack: Seq(0), flags, window: 0 }
        } else {
            self.header(seq, flags)
        };
        self.emit(out, header, &options);
        self.counters.sent = self.counters.sent.wrapping_add(1);
    }

    fn header(&mut self, seq: Seq, flags: u8) -> Header {
        Header { seq, ack: self.rcv.nxt, flags, window: self.rcv.announce() }
    }

    /// Segments with an acknowledgement have gone out.
    fn sent(&mut self, segments: u32) {
        self.counters.sent = self.counters.sent.wrapping_add(segments);
        self.last_ack_sent = self.rcv.nxt;
        // One acknowledgement has room for one duplicate's report.
        self.timers.ack_now = self.sack && self.rcv.has_duplicates();
        self.timers.ack_at = None;
        self.timers.ack_bytes = 0;
    }
}

/// The acknowledgement of a connection that is over and rests: `numbers` are our next one and the peer's.
pub(crate) fn acknowledgement(
    now: Instant,
    tuple: Tuple,
    numbers: (u32, u32),
    stamps: Option<Stamps>,
) -> Vec<u8> {
    let mut options = Written::new();
    if let Some(stamps) = stamps {
        options.timestamps(timestamp(now, stamps.offset), stamps.recent);
    }
    let ends = Ends { local: tuple.local, remote: tuple.remote };
    let header = Header { seq: Seq(numbers.0), ack: Seq(numbers.1), flags: ACK, window: u16::MAX };
    let mut packet = Vec::new();
    let mut headers = Headers::new(&ends, header, options.as_slice(), 0);
    headers.packet(header.seq, &mut Chunks::default(), Place::default(), 0).0.append_to(&mut packet);
    packet
}
