//! Which flow a segment belongs to, and which tuples rest in TIME_WAIT.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::segment::Tuple;
use crate::seed::Seeded;
use crate::{FlowId, Instant, Stats};

/// How long a tuple rests. 2 MSL would be minutes (RFC 9293), but no segment lives that long in a tunnel. A FIN whose
/// acknowledgement was lost is repeated after 1, 3, 7 and 15 s; all of these have to find us.
const TIME_WAIT: Duration = Duration::from_secs(30);

/// After this time a connection may be opened from a tuple that rests: timestamps tell its segments from the old ones, and the FIN of
/// a peer that has missed our last acknowledgement has mostly come again. Linux has the same second (`tcp_tw_reuse`).
const REUSE_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    Flow(FlowId),
    TimeWait(TimeWait),
}

/// What an active open finds at a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vacancy {
    Free,
    /// A connection rests there and may have a successor; `snd_nxt` was our next number.
    Rested {
        snd_nxt: u32,
    },
    Taken,
}

/// What is left of a flow whose both directions are closed: enough to acknowledge a repeated FIN.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeWait {
    pub(super) snd_nxt: u32,
    pub(super) rcv_nxt: u32,
    pub(super) stamps: Option<Stamps>,
    until: Instant,
}

/// A flow's timestamps: the offset of our clock, and the last of the peer's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    pub(crate) offset: u32,
    pub(crate) recent: u32,
}

pub(super) struct Table {
    flows: HashMap<Tuple, FlowId, Seeded>,
    /// Apart from the flows: these are larger, and mostly fewer.
    resting: HashMap<Tuple, TimeWait, Seeded>,
    /// In the order of their end; with those that have ended early, which go when they are as many as may rest.
    order: VecDeque<(Instant, Tuple)>,
    max_time_wait: usize,
}

impl Table {
    pub(super) fn new(seed: u64, max_time_wait: usize) -> Self {
        Self {
            flows: HashMap::with_hasher(Seeded(seed)),
            resting: HashMap::with_hasher(Seeded(seed)),
            order: VecDeque::new(),
            max_time_wait,
        }
    }

    pub(super) fn get(&self, tuple: Tuple) -> Option<Entry> {
        let flow = self.flows.get(&tuple).map(|&flow| Entry::Flow(flow));
        flow.or_else(|| self.resting.get(&tuple).map(|&rest| Entry::TimeWait(rest)))
    }

    pub(super) fn vacancy(&self, now: Instant, tuple: Tuple) -> Vacancy {
        match self.get(tuple) {
            None => Vacancy::Free,
            Some(Entry::TimeWait(TimeWait { snd_nxt, stamps: Some(_), until, .. }))
                if until <= now + (TIME_WAIT - REUSE_AFTER) =>
            {
                Vacancy::Rested { snd_nxt }
            }
            Some(_) => Vacancy::Taken,
        }
    }

    pub(super) fn insert(&mut self, tuple: Tuple, flow: FlowId) {
        self.flows.insert(tuple, flow);
        self.wake(tuple);
    }

    /// Frees the tuple if `flow` has it: it may belong to a successor already.
    pub(super) fn remove(&mut self, tuple: Tuple, flow: FlowId) {
        if self.flows.get(&tuple) == Some(&flow) {
            self.flows.remove(&tuple);
        }
    }

    /// `rest`: our next number, the peer's, and the timestamps.
    pub(super) fn rest(
        &mut self,
        now: Instant,
        tuple: Tuple,
        rest: (u32, u32, Option<Stamps>),
        stats: &mut Stats,
    ) {
        if self.resting.len() >= self.max_time_wait {
            stats.time_wait_evicted += 1;
            while !self.wake_first() {}
        }
        if self.order.len() >= 2 * self.max_time_wait {
            self.order.retain(|&(until, tuple)| rests(&self.resting, until, tuple));
        }
        let until = now + TIME_WAIT;
        let (snd_nxt, rcv_nxt, stamps) = rest;
        self.flows.remove(&tuple);
        self.resting.insert(tuple, TimeWait { snd_nxt, rcv_nxt, stamps, until });
        self.order.push_back((until, tuple));
    }

    pub(super) fn resting(&self) -> usize {
        self.resting.len()
    }

    /// Ends a rest early.
    pub(super) fn wake(&mut self, tuple: Tuple) {
        self.resting.remove(&tuple);
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|&(until, _)| until <= now) {
            self.wake_first();
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.order.front().map(|&(until, _)| until)
    }

    /// Ends the oldest rest. False: that had happened before, and others are left.
    fn wake_first(&mut self) -> bool {
        let Some((until, tuple)) = self.order.pop_front() else { return true };
        let rested = rests(&self.resting, until, tuple);
        if rested {
            self.resting.remove(&tuple);
        }
        rested
    }
}

/// Whether this rest is not over: its tuple may have been woken, and be in other use since.
fn rests(resting: &HashMap<Tuple, TimeWait, Seeded>, until: Instant, tuple: Tuple) -> bool {
    resting.get(&tuple).is_some_and(|rest| rest.until == until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::Address;

    /// One tuple that is used and rests again and again takes no room from another that rests.
    #[test]
    fn rests_that_have_ended_early_are_forgotten() {
        let address = |last, port| Address::new([100, 64, 0, last].into(), port);
        let tuple = |port| Tuple { local: address(1, port), remote: address(2, 80) };
        let (mut table, mut stats) = (Table::new(1, 2), Stats::default());
        let rest = (1, 1, None);
        let now = |millis: u64| Instant::from_micros(millis * 1000);
        table.rest(now(0), tuple(1), rest, &mut stats);
        for millis in 1..1000 {
            table.rest(now(millis), tuple(2), rest, &mut stats);
            assert!(table.order.len() <= 4 && table.resting() == 2);
            table.wake(tuple(2));
        }
        assert_eq!((table.resting(), stats.time_wait_evicted), (1, 0));
        table.expire(now(30_000));
        assert!(table.get(tuple(1)).is_none());
    }
}
