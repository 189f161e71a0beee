//! The end of a connection (RFC 9293, sections 3.6 and 3.10.4 to 3.10.8).

use super::recovery::Recovery;
use super::scoreboard::Scoreboard;
use super::{Connection, End, Stage, State};
use crate::Instant;

impl Connection {
    /// Ends the connection at once: the next packet is an RST.
    pub fn abort(&mut self) {
        match self.stage {
            // Nobody is there to be told.
            Stage::SynSent | Stage::TimeWait => self.close(End::Aborted),
            Stage::SynReceived | Stage::Open => self.timers.abort = true,
            Stage::Closed => {}
        }
    }

    /// Where in RFC 9293 the connection is.
    #[must_use]
    pub fn state(&self) -> State {
        match self.stage {
            Stage::SynSent => State::SynSent,
            Stage::SynReceived => State::SynReceived,
            Stage::TimeWait => State::TimeWait,
            Stage::Closed => State::Closed,
            Stage::Open => match (self.fin_sent(), self.rcv.finished) {
                (false, false) => State::Established,
                (false, true) => State::CloseWait,
                (true, true) if self.passive_close => State::LastAck,
                (true, true) => State::Closing,
                (true, false) if self.fin_acknowledged() => State::FinWait2,
                (true, false) => State::FinWait1,
            },
        }
    }

    /// Both FINs are through.
    pub(super) fn close_when_complete(&mut self, now: Instant) {
        if self.stage != Stage::Open || !self.rcv.finished || !self.fin_acknowledged() {
            return;
        }
        if self.passive_close {
            self.close(End::Done);
        } else {
            self.stage = Stage::TimeWait;
            self.end = Some(End::Done);
            self.timers.time_wait_end = now + self.settings.time_wait;
        }
    }

    pub(super) fn close(&mut self, end: End) {
        self.stage = Stage::Closed;
        self.end.get_or_insert(end);
        self.timers.abort = false;
        self.timers.ack_now = false;
        // What has arrived can still be read; what was to be sent cannot any more.
        self.buffer.clear();
        self.buffer.release();
        self.rcv.close();
        self.buffered = 0;
        self.board = Scoreboard::default();
        self.recovery = Recovery::default();
    }
}
