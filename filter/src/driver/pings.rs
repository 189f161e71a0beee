//! Echo requests on the network thread: sent, answered, or forgotten when their time is over.

use super::Driver;
use crate::pings::Echo;
use nexodus_netstack::{Instant, Netstack};
use std::net::IpAddr;
use std::time::Duration;

/// What was sent and is not answered yet: few, see [`crate::pings::MAX_ADDRESSES`].
#[derive(Default)]
pub(super) struct Pings {
    asked: Vec<(Instant, Echo)>,
}

impl Pings {
    /// When the next one's time is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.asked.iter().map(|(until, _)| *until).min()
    }

    fn forget_overdue(&mut self, now: Instant, stack: &mut Netstack) {
        self.asked.retain(|(until, echo)| {
            let overdue = now >= *until;
            if overdue {
                stack.forget_ping(echo.address, echo.ident, echo.seq);
            }
            !overdue
        });
    }
}

impl Driver {
    /// Sends what was asked for, and makes room for more.
    pub(super) fn serve_pings(&mut self, now: Instant) {
        self.pings.forget_overdue(now, &mut self.stack);
        if !self.is_first() {
            return;
        }
        for echo in self.network.take_pings() {
            match self.stack.ping(now, echo.address, echo.ident, echo.seq) {
                Ok(()) => self.pings.asked.push((now + echo.timeout, echo)),
                Err(error) => self.network.ping_settled(echo.ident, echo.seq, Err(error.to_string())),
            }
        }
    }

    /// An answer came.
    pub(super) fn pong(&mut self, remote: IpAddr, ident: u16, seq: u16, round_trip: Duration) {
        self.pings.asked.retain(|(_, echo)| (echo.address, echo.ident, echo.seq) != (remote, ident, seq));
        self.network.ping_settled(ident, seq, Ok(round_trip));
    }
}
