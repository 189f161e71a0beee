//! How much may be on the way. The boundary is small, so that a controller like BBRv3 can take CUBIC's place.

mod cubic;
mod hystart;

use std::time::Duration;

pub(super) use cubic::Cubic;

use super::seq::Seq;
use crate::Instant;

/// What an acknowledgement tells a controller outside of fast recovery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acked {
    pub(super) now: Instant,
    /// Bytes that are newly known to have arrived.
    pub(super) bytes: u32,
    /// Round trip of the segment that was sent last among them, if it was sent only once.
    pub(super) rtt: Option<Duration>,
    pub(super) smoothed: Duration,
    /// Everything before it is acknowledged, and the end of what was sent.
    pub(super) una: Seq,
    pub(super) nxt: Seq,
    /// The window was what kept the sender from sending more. Otherwise it must not grow (RFC 7661).
    pub(super) limited: bool,
    /// A timeout's losses are being repaired.
    pub(super) after_timeout: bool,
}

/// A congestion controller. All windows are in bytes.
pub(super) trait CongestionControl {
    fn window(&self) -> u32;

    /// Where slow start ends.
    fn threshold(&self) -> u32;

    fn in_slow_start(&self) -> bool {
        self.window() < self.threshold()
    }

    /// The window will double within a round trip, so what is sent has to leave in half of one. Near the threshold it will
    /// not (as in Linux), nor in a recovery, whose window stays below it.
    fn is_doubling(&self) -> bool {
        self.window() < self.threshold() / 2
    }

    /// For recovery, which does the counting itself.
    fn set_window(&mut self, window: u32);

    fn on_acked(&mut self, acked: &Acked);

    /// Something was lost: once per window. So many bytes are sent and not acknowledged.
    fn on_loss(&mut self, now: Instant, outstanding: u32);

    /// The retransmission timer has fired. `again`: nothing has arrived since it fired before.
    fn on_timeout(&mut self, now: Instant, outstanding: u32, again: bool);

    /// The last loss or timeout was none.
    fn undo(&mut self);

    /// Nothing was on the way for so long (RFC 5681, section 4.1), while the timeout was `rto`.
    fn on_idle(&mut self, idle: Duration, rto: Duration);
}
