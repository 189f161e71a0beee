//! How buffers grow: with need, to their bounds.

use std::time::Duration;

use super::congestion::CongestionControl;
use super::pages::PAGE;
use super::seq::count;
use super::{Connection, Pressure};
use crate::Instant;

/// Before any round trip is known.
const FIRST_ROUND: Duration = Duration::from_millis(100);
/// Segments on top of what the reader has taken, so that a flow that starts to speed up is not held back.
const HEADROOM: u32 = 16;

/// Bytes that the reader has taken in the running round trip.
#[derive(Debug, Default)]
pub(super) struct Tuning {
    started: Instant,
    taken: u32,
    /// In the one before.
    taken_before: u32,
    /// Round trip as the receiver sees it, from echoed timestamps, in microseconds; zero before the first.
    round_trip: u64,
    /// When it was measured last. What comes together says it once.
    measured: Instant,
}

impl Connection {
    /// A window twice of what was read in a round trip does not hold a steady sender back, and a reader that is slow does not
    /// need a large one. What is read is what was sent a round trip ago, so a sender in slow start is at twice of it now and at
    /// four times by the time it hears of the window: there is room for what the growth so far lets expect (like Linux's
    /// dynamic right-sizing).
    pub(super) fn tune_receive_buffer(&mut self, now: Instant, read: u32) {
        self.tuning.taken = self.tuning.taken.saturating_add(read);
        let round = match self.tuning.round_trip {
            0 => self.rtt.smoothed().unwrap_or(FIRST_ROUND),
            known => Duration::from_micros(known),
        };
        if now.saturating_since(self.tuning.started) < round {
            return;
        }
        let taken = self.tuning.taken;
        let growth = taken.saturating_sub(self.tuning.taken_before).saturating_mul(4);
        let wanted = taken.saturating_mul(2).saturating_add(growth).saturating_add(HEADROOM * self.rcv.mss);
        if self.pressure == Pressure::None {
            self.rcv.limit = self.rcv.limit.max(wanted.min(self.settings.recv_buffer));
        }
        self.tuning.started = now;
        self.tuning.taken_before = taken;
        self.tuning.taken = 0;
    }

    /// A round trip as an echoed timestamp tells it. An idle sender's echo is old, so the shortest counts, and it is
    /// forgotten slowly.
    pub(super) fn receiver_round_trip(&mut self, now: Instant, echo: u32) {
        let millis = self.timestamp(now).wrapping_sub(echo);
        if millis.cast_signed() < 0 || self.tuning.measured == now {
            return;
        }
        self.tuning.measured = now;
        let sample = u64::from(millis.max(1)) * 1000;
        let known = self.tuning.round_trip;
        self.tuning.round_trip = if known == 0 || sample < known { sample } else { (known * 7 + sample) / 8 };
    }

    /// Twice the window: one for what is on the way, one for what comes next.
    pub(super) fn send_limit(&self) -> u32 {
        if self.pressure != Pressure::None {
            return self.settings.send_buffer.min(count(PAGE));
        }
        let least = self.settings.initial_buffer.min(self.settings.send_buffer);
        self.congestion.window().saturating_mul(2).clamp(least, self.settings.send_buffer)
    }
}
