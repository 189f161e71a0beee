//! Echo requests for the admin page `/nexodus/ping`: asked for on Envoy's main thread, sent and answered on the network
//! thread.
//!
//! Nobody waits. A *probe* asks several addresses at once and has an id; whoever started it comes back with the id until it
//! is done. Pure: no thread and no clock of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses of all probes of a network whose results were not fetched yet.
pub(crate) const MAX_ADDRESSES: usize = 128;
/// The longest an answer is waited for.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(10);
/// Results that nobody fetches are forgotten so long after the end of their probe.
const KEPT: Duration = Duration::from_secs(10);

/// The probes of a network.
#[derive(Default)]
pub(crate) struct Pings {
    probes: BTreeMap<u64, Probe>,
    last_id: u64,
    unsent: Vec<Echo>,
    refused: u64,
}

struct Probe {
    ident: u16,
    /// Answers after it do not count.
    deadline: Instant,
    timeout: Duration,
    results: Vec<PingResult>,
}

/// An echo request to be sent, and how long its answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echo {
    pub(crate) address: IpAddr,
    pub(crate) ident: u16,
    pub(crate) seq: u16,
    pub(crate) timeout: Duration,
}

/// What became of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PingResult {
    pub(crate) address: IpAddr,
    pub(crate) outcome: Option<Result<Duration, String>>,
}

/// What became of a probe so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Nothing will be added: this was the last time to ask.
    pub(crate) done: bool,
    pub(crate) results: Vec<PingResult>,
}

/// Too many results wait to be fetched.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_ADDRESSES} echo requests are under way; try again in a moment")]
pub(crate) struct TooMany;

impl Pings {
    /// Has these addresses asked once each; the id to fetch the results by.
    ///
    /// # Errors
    /// [`TooMany`]; it is counted.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        addresses: &[IpAddr],
        timeout: Duration,
    ) -> Result<u64, TooMany> {
        self.probes.retain(|_, probe| now < probe.deadline + KEPT);
        let held: usize = self.probes.values().map(|probe| probe.results.len()).sum();
        if held + addresses.len() > MAX_ADDRESSES {
            self.refused += 1;
            return Err(TooMany);
        }
        self.last_id += 1;
        // Unique among the few that are held at a time.
        let ident = (self.last_id & 0xffff) as u16;
        let timeout = timeout.min(MAX_TIMEOUT);
        let echo = |(seq, address): (u16, &IpAddr)| Echo { address: *address, ident, seq, timeout };
        self.unsent.extend((0..).zip(addresses).map(echo));
        let results =
            addresses.iter().map(|address| PingResult { address: *address, outcome: None }).collect();
        self.probes.insert(self.last_id, Probe { ident, deadline: now + timeout, timeout, results });
        Ok(self.last_id)
    }

    /// The results of a probe; nothing when there is none with this id (any more).
    pub(crate) fn report(&mut self, now: Instant, id: u64) -> Option<Report> {
        let probe = self.probes.get(&id)?;
        let results = probe.results.clone();
        let done = now >= probe.deadline || results.iter().all(|result| result.outcome.is_some());
        if done {
            self.probes.remove(&id);
        }
        Some(Report { done, results })
    }

    /// Network thread: what is to be sent.
    pub(crate) fn take_unsent(&mut self) -> Vec<Echo> {
        std::mem::take(&mut self.unsent)
    }

    /// Network thread: an answer came, or the request could not be sent.
    pub(crate) fn settle(&mut self, ident: u16, seq: u16, outcome: Result<Duration, String>) {
        let Some(probe) = self.probes.values_mut().find(|probe| probe.ident == ident) else { return };
        let too_late = matches!(outcome, Ok(round_trip) if round_trip > probe.timeout);
        if let Some(result) = probe.results.get_mut(usize::from(seq)).filter(|_| !too_late) {
            result.outcome.get_or_insert(outcome);
        }
    }

    /// How often [`TooMany`] was the answer.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn addresses(count: u8) -> Vec<IpAddr> {
        (0..count).map(|last| IpAddr::from([100, 64, 0, last])).collect()
    }

    fn outcomes(report: &Report) -> Vec<Option<Result<Duration, String>>> {
        report.results.iter().map(|result| result.outcome.clone()).collect()
    }

    #[test]
    fn a_probe_is_done_when_all_have_answered_or_failed() {
        let (mut pings, now) = (Pings::default(), Instant::now());
        let id = pings.start(now, &addresses(2), SECOND).unwrap();
        let [one, two] = <[Echo; 2]>::try_from(pings.take_unsent()).unwrap();
        assert_eq!((one.address, two.address), (addresses(2)[0], addresses(2)[1]));
        assert_eq!((one.timeout, pings.take_unsent()), (SECOND, vec![]));

        pings.settle(two.ident, two.seq, Ok(SECOND / 2));
        let report = pings.report(now, id).unwrap();
        assert_eq!((report.done, outcomes(&report)), (false, vec![None, Some(Ok(SECOND / 2))]));
        // The first outcome counts.
        pings.settle(two.ident, two.seq, Ok(SECOND / 4));
        pings.settle(one.ident, one.seq, Err("no route".to_owned()));
        let report = pings.report(now, id).unwrap();
        assert!(report.done);
        assert_eq!(outcomes(&report), [Some(Err("no route".to_owned())), Some(Ok(SECOND / 2))]);
        assert_eq!(pings.report(now, id), None);
    }

    #[test]
    fn a_probe_is_done_at_its_deadline() {
        let (mut pings, now) = (Pings::default(), Instant::now());
        let id = pings.start(now, &addresses(1), SECOND).unwrap();
        let echo = pings.take_unsent()[0];
        assert!(!pings.report(now + SECOND - Duration::from_millis(1), id).unwrap().done);
        pings.settle(echo.ident, echo.seq, Ok(SECOND + Duration::from_millis(1)));
        let report = pings.report(now + SECOND, id).unwrap();
        assert_eq!((report.done, outcomes(&report)), (true, vec![None]));
    }

    #[test]
    fn probes_do_not_take_each_others_answers() {
        let (mut pings, now) = (Pings::default(), Instant::now());
        let first = pings.start(now, &addresses(1), SECOND).unwrap();
        let second = pings.start(now, &addresses(1), SECOND).unwrap();
        let echoes = pings.take_unsent();
        assert_ne!(echoes[0].ident, echoes[1].ident);
        pings.settle(echoes[1].ident, echoes[1].seq, Ok(SECOND));
        assert!(!pings.report(now, first).unwrap().done);
        assert!(pings.report(now, second).unwrap().done);
        // Of no probe, and of no address.
        pings.settle(echoes[1].ident, 0, Ok(SECOND));
        pings.settle(echoes[0].ident, 7, Ok(SECOND));
        assert_eq!(outcomes(&pings.report(now, first).unwrap()), [None]);
    }

    #[test]
    fn results_are_bounded_and_refusals_counted() {
        let (mut pings, now) = (Pings::default(), Instant::now());
        let id = pings.start(now, &addresses(100), SECOND).unwrap();
        assert_eq!(pings.start(now, &addresses(29), SECOND), Err(TooMany));
        pings.start(now, &addresses(28), SECOND).unwrap();
        assert_eq!((pings.start(now, &addresses(1), SECOND), pings.refused()), (Err(TooMany), 2));
        // Fetching makes room.
        assert!(pings.report(now + SECOND, id).unwrap().done);
        pings.start(now + SECOND, &addresses(100), SECOND).unwrap();
        // What nobody fetches makes room by itself.
        assert_eq!(pings.start(now + KEPT, &addresses(100), SECOND), Err(TooMany));
        pings.start(now + KEPT + 2 * SECOND, &addresses(100), SECOND).unwrap();
    }

    #[test]
    fn a_timeout_is_bounded() {
        let mut pings = Pings::default();
        pings.start(Instant::now(), &addresses(1), 100 * MAX_TIMEOUT).unwrap();
        assert_eq!(pings.take_unsent()[0].timeout, MAX_TIMEOUT);
    }
}
