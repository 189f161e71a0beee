//! Echo requests of ours and their answers.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::{Event, Instant};

/// Unanswered requests and untold answers together.
const MAX_PINGS: usize = 256;
/// A request without an answer is forgotten after this time, when there is need for its place.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Pings {
    asked: VecDeque<Ping>,
    answered: VecDeque<Event>,
}

struct Ping {
    remote: IpAddr,
    ident: u16,
    seq: u16,
    at: Instant,
}

impl Pings {
    /// False: too many are unanswered.
    pub(super) fn ask(&mut self, now: Instant, remote: IpAddr, ident: u16, seq: u16) -> bool {
        while self.asked.front().is_some_and(|ping| now - ping.at >= PATIENCE) {
            self.asked.pop_front();
        }
        let room = self.asked.len() + self.answered.len() < MAX_PINGS;
        if room {
            self.asked.push_back(Ping { remote, ident, seq, at: now });
        }
        room
    }

    /// False: nobody asked, or was answered before.
    pub(super) fn answer(&mut self, now: Instant, remote: IpAddr, ident: u16, seq: u16) -> bool {
        let asked = |ping: &Ping| (ping.remote, ping.ident, ping.seq) == (remote, ident, seq);
        let Some(ping) = self.asked.iter().position(asked).and_then(|at| self.asked.remove(at)) else {
            return false;
        };
        self.answered.push_back(Event::Pong { remote, ident, seq, round_trip: now - ping.at });
        true
    }

    /// Frees the place of a request whose answer is not waited for any more.
    pub(super) fn forget(&mut self, remote: IpAddr, ident: u16, seq: u16) {
        self.asked.retain(|ping| (ping.remote, ping.ident, ping.seq) != (remote, ident, seq));
    }

    pub(super) fn has_events(&self) -> bool {
        !self.answered.is_empty()
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.answered.pop_front()
    }
}
