//! `nexodus.deadline`: a network filter in front of `tcp_proxy` that closes a connection for which no destination was found
//! in time. `tcp_proxy` has a limit for each attempt and none for all of them together.
//!
//! Filters have no timers. So Envoy's main thread has one for all of them: a worker adds its connection to [`Deadlines`],
//! and wakes the main thread when the timer would fire too late for it; when it fires, the filters that are due are scheduled on
//! their workers. An entry is gone when its connection is: there are as many as connections that are being made, at most.
//! The timer stays when its entry goes: with one limit for all it fires before the next one is due, once in that time, and
//! no connection has to wake the main thread.

use crate::network::{self, Network};
use envoy_config::DeadlineConfig;
use envoy_proxy_dynamic_modules_rust_sdk::abi::{
    envoy_dynamic_module_type_network_connection_close_type as CloseType,
    envoy_dynamic_module_type_network_connection_event as ConnectionEvent,
    envoy_dynamic_module_type_on_network_filter_data_status as DataStatus,
};
use envoy_proxy_dynamic_modules_rust_sdk::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The timer fires at most this often.
const TICK: Duration = Duration::from_millis(10);

static DEADLINES: Deadlines<Box<dyn EnvoyNetworkFilterScheduler>> = Deadlines::new();
static MAIN_THREAD: Mutex<Option<Box<dyn EnvoyBootstrapExtensionConfigScheduler>>> = Mutex::new(None);

/// How workers reach the main thread, which then calls [`arm`]; `None` when it is going away.
pub(crate) fn set_main_thread(scheduler: Option<Box<dyn EnvoyBootstrapExtensionConfigScheduler>>) {
    *network::lock(&MAIN_THREAD) = scheduler;
}

/// Main thread: schedules what is due, and sets the timer for what is next.
pub(crate) fn arm(timer: &dyn EnvoyBootstrapExtensionTimer) {
    let now = Instant::now();
    // Under the lock, for the reason given at `flow::WakeAfter`.
    if let Some(next) = DEADLINES.run(now, |scheduler| scheduler.commit(0)) {
        timer.enable(next.saturating_duration_since(now).max(TICK));
    }
}

/// When an entry is due, and a number of its own.
type Key = (Instant, u64);

/// Who waits for when.
struct Deadlines<W>(Mutex<Waiting<W>>);

struct Waiting<W> {
    entries: BTreeMap<Key, W>,
    /// When [`Deadlines::run`] is called next, as far as it was asked for.
    asked: Option<Instant>,
}

impl<W> Deadlines<W> {
    const fn new() -> Self {
        Self(Mutex::new(Waiting { entries: BTreeMap::new(), asked: None }))
    }

    /// Whether [`Self::run`] has to be called earlier than it was asked for so far.
    fn add(&self, key: Key, who: W) -> bool {
        let mut waiting = network::lock(&self.0);
        waiting.entries.insert(key, who);
        let earlier = waiting.asked.is_none_or(|asked| key.0 < asked);
        if earlier {
            waiting.asked = Some(key.0);
        }
        earlier
    }

    fn remove(&self, key: Key) {
        network::lock(&self.0).entries.remove(&key);
    }

    /// Takes out everything that is due, and tells when to be called again.
    fn run(&self, now: Instant, mut due: impl FnMut(W)) -> Option<Instant> {
        let mut waiting = network::lock(&self.0);
        while let Some(entry) = waiting.entries.first_entry().filter(|entry| entry.key().0 <= now) {
            due(entry.remove());
        }
        waiting.asked = waiting.entries.first_key_value().map(|((deadline, _), _)| *deadline);
        waiting.asked
    }
}

pub(crate) struct DeadlineFilterConfig {
    network: Arc<Network>,
    limit: Duration,
}

impl DeadlineFilterConfig {
    pub(crate) fn new(config: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let config = DeadlineConfig::from_json(config)?;
        Ok(Self { network: Network::find(&config.network)?, limit: Duration::from_millis(config.limit_ms) })
    }
}

impl<ENF: EnvoyNetworkFilter> NetworkFilterConfig<ENF> for DeadlineFilterConfig {
    fn new_network_filter(&self, _envoy: &mut ENF) -> Box<dyn NetworkFilter<ENF>> {
        Box::new(DeadlineFilter { network: self.network.clone(), limit: self.limit, waiting: None })
    }
}

struct DeadlineFilter {
    network: Arc<Network>,
    limit: Duration,
    /// Its entry, until there is a destination.
    waiting: Option<Key>,
}

impl<ENF: EnvoyNetworkFilter> NetworkFilter<ENF> for DeadlineFilter {
    fn on_new_connection(&mut self, envoy: &mut ENF) -> DataStatus {
        let key = (Instant::now() + self.limit, network::unique());
        self.waiting = Some(key);
        let earlier = DEADLINES.add(key, Box::new(envoy.new_scheduler()));
        if earlier && let Some(main_thread) = &*network::lock(&MAIN_THREAD) {
            main_thread.commit(0);
        }
        DataStatus::Continue
    }

    // `tcp_proxy` may read before it has a destination.
    fn on_read(&mut self, envoy: &mut ENF, _length: usize, _end_stream: bool) -> DataStatus {
        self.data(envoy);
        DataStatus::Continue
    }

    fn on_write(&mut self, envoy: &mut ENF, _length: usize, _end_stream: bool) -> DataStatus {
        self.data(envoy);
        DataStatus::Continue
    }

    fn on_scheduled(&mut self, envoy: &mut ENF, _event_id: u64) {
        if self.waiting.take().is_some() && !is_served(envoy) {
            self.network.failures.count_deadline();
            let details = format!("nexodus.deadline: no destination within {:?}", self.limit);
            envoy.close_with_details(CloseType::NoFlush, &details);
        }
    }

    fn on_event(&mut self, envoy: &mut ENF, event: ConnectionEvent) {
        match event {
            ConnectionEvent::LocalClose => {
                if !is_served(envoy) {
                    self.network.failures.count_unserved();
                }
                self.no_longer();
            }
            ConnectionEvent::RemoteClose => self.no_longer(),
            ConnectionEvent::Connected | ConnectionEvent::ConnectedZeroRtt => {}
        }
    }
}

impl Drop for DeadlineFilter {
    // Envoy raises a close event first; this is for a connection that never got as far.
    fn drop(&mut self) {
        self.no_longer();
    }
}

impl DeadlineFilter {
    /// Bytes pass: most likely there is a destination, and nothing to wait for.
    fn data<ENF: EnvoyNetworkFilter>(&mut self, envoy: &ENF) {
        if self.waiting.is_some() && is_served(envoy) {
            self.no_longer();
        }
    }

    fn no_longer(&mut self) {
        if let Some(key) = self.waiting.take() {
            DEADLINES.remove(key);
        }
    }
}

/// Whether a destination has accepted the connection.
fn is_served<ENF: EnvoyNetworkFilter>(envoy: &ENF) -> bool {
    envoy.get_upstream_connection_id() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_leaves_in_order_and_the_next_one_is_told() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let deadlines = Deadlines::new();
        assert!(deadlines.add((at(30), 1), "c"));
        assert!(deadlines.add((at(10), 2), "a"));
        assert!(!deadlines.add((at(10), 3), "b"));
        assert!(!deadlines.add((at(20), 4), "gone"));
        deadlines.remove((at(20), 4));
        let mut due = Vec::new();
        assert_eq!(deadlines.run(at(9), |who| due.push(who)), Some(at(10)));
        assert_eq!(deadlines.run(at(10), |who| due.push(who)), Some(at(30)));
        assert_eq!(due, ["a", "b"]);
        assert_eq!(deadlines.run(at(40), |who| due.push(who)), None);
        assert_eq!(due, ["a", "b", "c"]);
    }

    #[test]
    fn nobody_asks_again_for_a_timer_that_fires_early_enough() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let deadlines = Deadlines::new();
        // One connection after the other, each with the same limit, and each served at once.
        for n in 0..100 {
            assert_eq!(deadlines.add((at(1000 + n), n), n), n == 0);
            deadlines.remove((at(1000 + n), n));
        }
        assert!(!deadlines.add((at(1100), 100), 100));
        let mut due = Vec::new();
        assert_eq!(deadlines.run(at(1000), |who| due.push(who)), Some(at(1100)), "for the one that waits");
        assert!(!deadlines.add((at(1200), 101), 101) && deadlines.add((at(1050), 102), 102));
        assert_eq!(deadlines.run(at(1200), |who| due.push(who)), None);
        assert_eq!(due, [102, 100, 101]);
        assert!(deadlines.add((at(1300), 103), 103), "the timer was not set again");
    }
}
