//! Health checks on the network thread: each is a connection that is reset as soon as it is open.

use super::{Driver, Owner, egress};
use crate::greeting::Outcome;
use crate::health::{Check, SessionId, Wanted};
use nexodus_netstack::{CloseReason, FlowId, Instant};
use std::collections::HashMap;

/// The checks under way: at most one for each endpoint.
pub(super) type Checks = HashMap<SessionId, FlowId>;

impl Driver {
    /// Starts and gives up checks as Envoy asks for it.
    pub(super) fn serve_checks(&mut self, now: Instant) {
        for (session, wanted) in self.shard.checks.take() {
            if let Some(id) = self.checks.remove(&session) {
                self.owners.remove(&id);
                self.stack.abort(now, id);
            }
            if let Wanted::Check(check) = wanted {
                self.start_check(now, check);
            }
        }
    }

    /// Tries the next of the destinations that can be.
    pub(super) fn start_check(&mut self, now: Instant, mut check: Check) {
        let mut failure = Outcome::BadDestination;
        while let Some(destination) = check.destinations.pop_front() {
            if self.elsewhere(destination).is_some() {
                check.destinations.push_front(destination);
                self.network.check(check);
                return;
            }
            match self.stack.connect(now, destination) {
                Ok(id) => {
                    if !check.destinations.is_empty() {
                        self.limit_attempt(now, id);
                    }
                    self.checks.insert(check.session, id);
                    self.owners.insert(id, Owner::Check(check));
                    return;
                }
                Err(error) => failure = egress::outcome(error),
            }
        }
        self.end_check(check, failure);
    }

    pub(super) fn check_connected(&mut self, now: Instant, id: FlowId) {
        if let Some(Owner::Check(check)) = self.owners.remove(&id) {
            // A reset takes the place of the handshake's acknowledgement, so no server has to accept anything, and no port of ours is in
            // TIME_WAIT.
            self.stack.abort(now, id);
            self.end_check(check, Outcome::Connected);
        }
    }

    pub(super) fn check_closed(&mut self, now: Instant, check: Check, reason: CloseReason) {
        if !check.destinations.is_empty() {
            self.start_check(now, check);
            return;
        }
        self.end_check(check, egress::not_connected(reason));
    }

    pub(super) fn end_check(&mut self, check: Check, outcome: Outcome) {
        self.checks.remove(&check.session);
        check.end(&self.network, outcome);
    }
}
