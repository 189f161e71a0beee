//! A segment arrives (RFC 9293, section 3.10.7.4).

use std::time::Duration;

use super::receive::Next;
use super::recovery::Mode;
use super::segment::Segment;
use super::seq::{Seq, count};
use super::{Connection, End, Pressure, Stage};
use crate::Instant;
use crate::ip::{self, Packet};
use crate::tcp::run::Run;

/// After so long without a segment a timestamp says nothing (RFC 7323, section 5.5).
const TIMESTAMP_LIFE: Duration = Duration::from_secs(24 * 24 * 3600);
/// Pages that a connection may fill when all memory is spent.
const LAST_PAGES: usize = 2;

impl Connection {
    /// Takes a whole IP packet. False: it is none of this connection's segments.
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) -> bool {
        self.handle_whole(now, packet).is_some()
    }

    /// What [`Self::handle_segment`] says of the packet's segment, if it is one of this connection.
    fn handle_whole(&mut self, now: Instant, packet: &[u8]) -> Option<bool> {
        let parsed = Packet::parse(packet).ok().and_then(|packet| {
            let ports = packet.payload.first_chunk::<4>()?;
            let [s0, s1, d0, d1] = *ports;
            let ours = packet.protocol == ip::TCP
                && packet.source == self.ends.remote.ip()
                && packet.destination == self.ends.local.ip()
                && u16::from_be_bytes([s0, s1]) == self.ends.remote.port()
                && u16::from_be_bytes([d0, d1]) == self.ends.local.port()
                && (!self.settings.verify_checksums || ip::checksum_holds(&packet));
            Segment::parse(packet.payload).filter(|_| ours)
        });
        let Some(segment) = parsed else {
            self.counters.malformed += 1;
            return None;
        };
        Some(self.handle_segment(now, &segment))
    }

    /// Takes whole IP packets that have come together. Those that follow one another in the stream, and say nothing else,
    /// cost little more than their bytes.
    pub fn handle_burst<'p>(&mut self, now: Instant, packets: impl IntoIterator<Item = &'p [u8]>) {
        let mut run: Option<Run> = None;
        for packet in packets {
            let next = run.as_ref().and_then(|run| run.follows(packet));
            if next.is_some_and(|(seq, payload)| self.handle_more(now, seq, Next::Bytes(payload))) {
                continue;
            }
            let simple = self.handle_whole(now, packet) == Some(true);
            run = if simple && !self.settings.verify_checksums { Run::begin(packet) } else { None };
        }
    }

    /// Takes a segment that differs in its number and its bytes alone from the last one, of which [`Self::handle_segment`] has
    /// said `true`. False, and nothing has happened: it is not simply what comes next.
    pub(crate) fn handle_more(&mut self, now: Instant, seq: u32, payload: Next<'_>) -> bool {
        let seq = Seq(seq);
        if !self.takes_more() || seq != self.rcv.nxt || !self.rcv.take_next(payload) {
            return false;
        }
        self.counters.received = self.counters.received.wrapping_add(1);
        self.wl1 = seq.latest(self.wl1);
        if self.timestamps {
            self.keep_timestamp(now, seq);
        }
        self.owe_acknowledgement(now, count(payload.len()), payload.len() >= self.rcv.mss as usize);
        self.answered(now, self.una);
        true
    }

    fn takes_more(&self) -> bool {
        self.stage == Stage::Open && self.recovery.mode == Mode::Open && self.pressure != Pressure::Full
    }

    /// Where the `len` bytes belong that have the number which comes with it: a part of the buffer in which they have `before`
    /// bytes ahead of them, which are lent, and `after` bytes behind them. They count once [`Self::handle_more`] has taken them,
    /// which it will if nothing else happens first.
    pub(crate) fn space_for_next(
        &mut self,
        before: usize,
        len: usize,
        after: usize,
    ) -> Option<(u32, &mut [u8])> {
        if !self.takes_more() {
            return None;
        }
        let next = self.rcv.nxt.0;
        self.rcv.space_for_next(before, len, after).map(|space| (next, space))
    }

    /// Takes a segment of this connection. True: the like of it would say nothing new but its bytes.
    pub(crate) fn handle_segment(&mut self, now: Instant, segment: &Segment<'_>) -> bool {
        self.counters.received = self.counters.received.wrapping_add(1);
        match self.stage {
            Stage::Closed => false,
            Stage::SynSent => {
                self.arrive_in_syn_sent(now, segment);
                false
            }
            _ => {
                let known = self.is_current(now, segment) && self.arrive(now, segment);
                known && segment.ack == self.una && u32::from(segment.window) << self.shift == self.wnd
            }
        }
    }

    /// Protection against old duplicates (RFC 7323, section 5.3).
    fn is_current(&mut self, now: Instant, segment: &Segment<'_>) -> bool {
        if !self.timestamps || segment.is_rst() {
            return true;
        }
        let Some((value, _)) = segment.options.timestamps else {
            // RFC 7323, section 3.2: dropped without an answer.
            self.counters.old_timestamps += 1;
            return false;
        };
        let old = value.wrapping_sub(self.ts_recent).cast_signed() < 0;
        if old && now.saturating_since(self.ts_recent_at) < TIMESTAMP_LIFE {
            self.counters.old_timestamps += 1;
            // The original behind its retransmission, for one: the sender wants to know, as Linux tells it.
            self.rcv.repeated(segment.seq, segment.end());
            self.answer_stray(now, segment);
            return false;
        }
        true
    }

    /// Of the segment that the next acknowledgement begins with (RFC 7323, section 4.3).
    fn keep_timestamp(&mut self, now: Instant, seq: Seq) {
        if !seq.is_after(self.last_ack_sent) {
            self.ts_recent = self.ts_last;
            self.ts_recent_at = now;
        }
    }

    /// False: something was wrong with it, or is to be said of it.
    fn arrive(&mut self, now: Instant, segment: &Segment<'_>) -> bool {
        if segment.is_rst() {
            self.arrive_reset(now, segment);
            return false;
        }
        if self.stage == Stage::SynReceived && segment.is_syn() && segment.seq + 1 == self.rcv.nxt {
            if segment.is_ack() && self.acknowledges_syn(segment) {
                // The end of a simultaneous open.
                self.establish(now, segment);
                self.update_window(segment);
                self.timers.ack_now = true;
            } else {
                // Our SYN|ACK was lost.
                if self.timers.may_answer(now) {
                    self.timers.syn_at = self.timers.syn_at.map(|at| at.min(now));
                }
            }
            return false;
        }
        let accepted = self.rcv.accepts(segment.seq, segment.end());
        if !accepted {
            self.counters.out_of_window += 1;
            self.rcv.repeated(segment.seq, segment.end());
            self.answer_stray(now, segment);
            if segment.seq == segment.end() && self.board.is_empty() {
                // A keepalive: as long as the peer sends them, our own clock for them does not run out.
                self.rest_buffers();
            }
            if self.stage == Stage::TimeWait {
                if segment.is_fin() {
                    self.timers.time_wait_end = now + self.settings.time_wait;
                }
                return false;
            }
            // Its acknowledgement is good all the same (section 3.10.7.4 for a closed window): two ends that have filled each
            // other's buffers would else never hear of each other again.
            let near = !segment.seq.is_before(self.rcv.nxt.back(self.rcv.limit))
                && segment.seq.beyond(self.rcv.nxt) <= self.rcv.limit;
            if self.stage == Stage::Open && near && segment.is_ack() && !segment.is_syn() {
                let before = self.una;
                self.take_acknowledgement(now, segment, true);
                self.answered(now, before);
                self.close_when_complete(now);
            }
            return false;
        }
        if segment.is_syn() {
            // A SYN in the window is an old duplicate or an attack (RFC 5961, section 4).
            self.answer_stray(now, segment);
            return false;
        }
        if let Some((value, echo)) = segment.options.timestamps.filter(|_| self.timestamps) {
            self.ts_last = value;
            self.keep_timestamp(now, segment.seq);
            if !segment.payload.is_empty() && echo != 0 {
                self.receiver_round_trip(now, echo);
            }
        }
        if !segment.is_ack() {
            return false;
        }
        if self.stage == Stage::SynReceived {
            if !self.acknowledges_syn(segment) {
                self.counters.bad_acks += 1;
                self.timers.stray_reset = Some(segment.ack);
                return false;
            }
            self.establish(now, segment);
        }
        let before = self.una;
        if !self.take_acknowledgement(now, segment, false) {
            return false;
        }
        if !segment.payload.is_empty() || segment.is_fin() {
            self.take_bytes(now, segment);
        }
        self.answered(now, before);
        self.close_when_complete(now);
        true
    }

    /// RFC 5961, section 3: only the exact number resets.
    fn arrive_reset(&mut self, now: Instant, segment: &Segment<'_>) {
        if self.stage == Stage::TimeWait {
            // It would cut the rest short (RFC 1337).
            return;
        }
        if segment.seq == self.rcv.nxt {
            self.close(End::Reset);
        } else if self.rcv.accepts(segment.seq, segment.seq + 1) {
            self.answer_stray(now, segment);
        } else {
            self.counters.out_of_window += 1;
        }
    }

    fn take_bytes(&mut self, now: Instant, segment: &Segment<'_>) {
        if self.rcv.finished {
            return;
        }
        let len = count(segment.payload.len());
        let spent = self.pressure == Pressure::Full && len > 0;
        // What fills a hole before bytes that are held is taken: until it comes, nobody can read and free them.
        if spent && self.rcv.grows_beyond(LAST_PAGES, segment.seq, len) {
            self.starved += 1;
            return;
        }
        let had_mss = self.rcv.mss;
        let before = self.rcv.nxt;
        let taken = self.rcv.take(segment.seq, segment.payload, segment.is_fin());
        self.counters.too_many_holes += u32::from(taken.dropped);
        if taken.advanced && self.rcv.finished && !self.fin_sent() {
            self.passive_close = true;
        }
        if taken.urgent {
            self.timers.ack_now = true;
        }
        if taken.advanced {
            self.owe_acknowledgement(now, self.rcv.nxt - before, segment.payload.len() >= had_mss as usize);
        }
    }

    /// Every second full segment at the latest (RFC 9293, section 3.8.6.3); a batch of many gets one.
    fn owe_acknowledgement(&mut self, now: Instant, bytes: u32, full: bool) {
        let timers = &mut self.timers;
        timers.ack_bytes = timers.ack_bytes.saturating_add(bytes);
        let quick = full && timers.quick_acks > 0;
        timers.quick_acks -= u8::from(quick);
        if quick || timers.ack_bytes >= 2 * self.rcv.mss {
            timers.ack_now = true;
        } else if timers.ack_at.is_none() {
            timers.ack_at = Some(now + self.settings.ack_delay);
        }
    }

    /// An acknowledgement says how things stand. Only so many, because two ends that disagree would talk for ever.
    pub(super) fn answer_stray(&mut self, now: Instant, segment: &Segment<'_>) {
        if !segment.payload.is_empty() || segment.is_fin() || self.timers.may_answer(now) {
            self.timers.ack_now = true;
        } else {
            self.counters.answers_limited += 1;
        }
        if !segment.payload.is_empty() {
            self.counters.duplicates += 1;
        }
    }
}
