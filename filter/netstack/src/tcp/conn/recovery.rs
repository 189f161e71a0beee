//! What happens to the window while losses are repaired: proportional rate reduction (RFC 9937), and the way back when
//! nothing was lost (Eifel, RFC 3522 and 4015; D-SACK, RFC 3708; F-RTO, RFC 5682).

use super::seq::Seq;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Open,
    /// Fast recovery.
    Fast,
    /// After a retransmission timeout.
    Timeout,
}

#[derive(Debug, Default)]
pub(super) struct Recovery {
    pub(super) mode: Mode,
    /// The end of what was sent when it began: it ends when this is acknowledged.
    pub(super) point: Seq,
    /// Bytes that were on the way when it began.
    flight: u32,
    /// Bytes delivered, and sent, since.
    delivered: u32,
    out: u32,
    /// One segment goes out whatever the window says.
    pub(super) forced: bool,
    /// The timestamp of the first retransmission.
    pub(super) first_resent: Option<u32>,
    /// Segments sent again whose originals are not known to have arrived.
    doubtful: u32,
    resent: bool,
    /// A timeout, and nothing but its first segment was sent again (RFC 5682).
    pub(super) probing: bool,
}

impl Recovery {
    pub(super) fn begin(&mut self, mode: Mode, point: Seq, flight: u32) {
        *self = Self {
            mode,
            point,
            flight: flight.max(1),
            forced: true,
            probing: mode == Mode::Timeout,
            ..Self::default()
        };
    }

    pub(super) fn end(&mut self) {
        *self = Self { point: self.point, ..Self::default() };
    }

    /// The window after an acknowledgement in fast recovery. `safe`: it made progress and showed no new loss.
    pub(super) fn window(
        &mut self,
        delivered: u32,
        flying: u32,
        threshold: u32,
        mss: u32,
        safe: bool,
    ) -> u32 {
        self.delivered = self.delivered.saturating_add(delivered);
        let mut allowance = if flying > threshold {
            let share = u64::from(self.delivered) * u64::from(threshold);
            u32::try_from(share.div_ceil(self.flight.into())).unwrap_or(u32::MAX).saturating_sub(self.out)
        } else {
            let mut limit = self.delivered.saturating_sub(self.out).max(delivered);
            if safe {
                limit = limit.saturating_add(mss);
            }
            limit.min(threshold - flying)
        };
        if self.out == 0 {
            // The fast retransmission itself.
            allowance = allowance.max(mss);
        }
        flying.saturating_add(allowance)
    }

    pub(super) fn sent(&mut self, len: u32) {
        self.out = self.out.saturating_add(len);
        self.forced = false;
    }

    pub(super) fn resent(&mut self, timestamp: u32) {
        self.first_resent.get_or_insert(timestamp);
        self.doubtful = self.doubtful.saturating_add(1);
        self.resent = true;
    }

    /// So many retransmissions have arrived beside their originals. True: all of them have.
    pub(super) fn duplicate(&mut self, segments: u32) -> bool {
        self.doubtful = self.doubtful.saturating_sub(segments);
        self.mode != Mode::Open && self.resent && self.doubtful == 0
    }
}
