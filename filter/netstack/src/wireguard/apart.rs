//! Initiations and responses for one peer leave apart from each other.
//!
//! When two peers initiate at the same time, each has an initiation and a response for the other. wireguard-go (0.0.20250522
//! and before) takes handshake messages on several threads, and `ConsumeMessageResponse` gives up the lock between its check
//! of the handshake's state and its change of it. When it takes an initiation meanwhile, `BeginSymmetricSession` joins the keys
//! of one handshake to the index of the other: we can open what it sends, it can open nothing of ours, until it starts anew for
//! lack of an answer after 15 s. Both messages in one instant did that to 17 starts of 80, 1 ms apart to one of 80, and 5 or 20 ms
//! apart to none of 160.

use std::time::Duration;

use crate::Instant;

/// Message types of a handshake initiation and of a response (WireGuard paper, section 5.4.2 and 5.4.3).
pub(super) const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;

/// How far apart: some times what was seen to do harm, for a peer that is busy.
const APART: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(super) struct Apart {
    /// The type of the last one, and when it left.
    last: Option<(u8, Instant)>,
    /// One that must not leave yet. It is the newest of its kind: a session comes of no other.
    held: Option<Vec<u8>>,
}

impl Apart {
    /// Gives back a datagram that may leave now, and keeps one that may not.
    pub(super) fn pass(&mut self, now: Instant, datagram: Vec<u8>) -> Option<Vec<u8>> {
        let Some(&kind @ (INITIATION | RESPONSE)) = datagram.first() else { return Some(datagram) };
        if self.last.is_some_and(|(other, at)| other != kind && now - at < APART) {
            self.held = Some(datagram);
            return None;
        }
        self.last = Some((kind, now));
        Some(datagram)
    }

    /// When the one that is held may leave.
    pub(super) fn due(&self) -> Option<Instant> {
        self.held.as_ref().and(self.last).map(|(_, at)| at + APART)
    }

    /// The one that was held, when its time has come.
    pub(super) fn release(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.due()? > now {
            return None;
        }
        let datagram = self.held.take()?;
        self.pass(now, datagram)
    }
}
