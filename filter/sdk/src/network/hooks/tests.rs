//! A filter behind the hooks that Envoy calls, with a fake Envoy around it.

use super::*;
use crate::{
    EnvoyNetworkFilter, EnvoyNetworkFilterScheduler, NetworkFilter,
    abi::{
        envoy_dynamic_module_type_metrics_result as MetricsResult,
        envoy_dynamic_module_type_network_connection_close_type as CloseType,
        envoy_dynamic_module_type_network_connection_state as State,
        envoy_dynamic_module_type_network_read_disable_status as ReadDisableStatus,
    },
    fake::{COMMITTED, Fake},
};
use std::{
    cell::{Cell, RefCell},
    sync::{Mutex, atomic::Ordering},
    thread,
};

const REMOTE_CLOSE: u32 = Event::RemoteClose as u32;
const LOCAL_CLOSE: u32 = Event::LocalClose as u32;

type Log = Rc<RefCell<Vec<String>>>;
type Code = Box<dyn FnMut(&mut EnvoyNetworkFilterImpl) -> Status>;

/// A filter that takes notes, and runs code when it reads.
struct Probe {
    log: Log,
    read: Code,
    below: Box<dyn FnMut(&mut EnvoyNetworkFilterImpl)>,
}

impl Probe {
    fn note(&self, note: impl Into<String>) {
        self.log.borrow_mut().push(note.into());
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.note("drop");
    }
}

impl NetworkFilter<EnvoyNetworkFilterImpl> for Probe {
    fn on_read(&mut self, envoy: &mut EnvoyNetworkFilterImpl, length: usize, end_stream: bool) -> Status {
        self.note(format!("read {length} {end_stream}"));
        let status = (self.read)(envoy);
        self.note("read done");
        status
    }

    fn on_write(&mut self, _envoy: &mut EnvoyNetworkFilterImpl, length: usize, end_stream: bool) -> Status {
        self.note(format!("write {length} {end_stream}"));
        Status::Continue
    }

    fn on_event(&mut self, _envoy: &mut EnvoyNetworkFilterImpl, event: Event) {
        self.note(format!("{event:?}"));
    }

    fn on_scheduled(&mut self, _envoy: &mut EnvoyNetworkFilterImpl, event_id: u64) {
        self.note(format!("scheduled {event_id}"));
    }

    fn on_above_write_buffer_high_watermark(&mut self, _envoy: &mut EnvoyNetworkFilterImpl) {
        self.note("above");
    }

    fn on_below_write_buffer_low_watermark(&mut self, envoy: &mut EnvoyNetworkFilterImpl) {
        self.note("below");
        (self.below)(envoy);
    }
}

/// Envoy's and the module's half of a filter.
struct Rig {
    envoy: Rc<Fake>,
    filter: *const c_void,
    log: Log,
}

impl Rig {
    fn new(read: impl FnMut(&mut EnvoyNetworkFilterImpl) -> Status + 'static) -> Self {
        Self::with_below(read, |_| {})
    }

    fn with_below(
        read: impl FnMut(&mut EnvoyNetworkFilterImpl) -> Status + 'static,
        below: impl FnMut(&mut EnvoyNetworkFilterImpl) + 'static,
    ) -> Self {
        let (envoy, log) = (Rc::<Fake>::default(), Log::default());
        let probe = Box::new(Probe { log: Rc::clone(&log), read: Box::new(read), below: Box::new(below) });
        let filter = Rc::into_raw(Rc::new(Slot::new(probe, Arc::new(Gate::new())))).cast();
        Self { envoy, filter, log }
    }

    /// Has the fake Envoy do this when it is asked to close or to write.
    fn script(&self, script: impl Fn(*mut c_void, *const c_void) + 'static) {
        let filter = self.filter;
        self.envoy.script.replace(Some(Box::new(move |envoy| script(envoy.raw(), filter))));
    }

    fn read(&self) -> Status {
        // SAFETY: both exist.
        unsafe { envoy_dynamic_module_on_network_filter_read(self.envoy.raw(), self.filter, 3, false) }
    }

    fn event(&self, event: u32) {
        // SAFETY: both exist.
        unsafe { envoy_dynamic_module_on_network_filter_event(self.envoy.raw(), self.filter, event) }
    }

    fn destroy(self) -> Vec<String> {
        // SAFETY: the filter exists, and this is its last use.
        unsafe { envoy_dynamic_module_on_network_filter_destroy(self.filter) }
        self.log.take()
    }
}

#[test]
fn an_event_inside_a_hook_waits_for_the_hook() {
    let rig = Rig::new(|envoy| {
        envoy.close(CloseType::FlushWrite);
        Status::StopIteration
    });
    // SAFETY: both exist while the rig does.
    rig.script(|envoy, filter| unsafe {
        envoy_dynamic_module_on_network_filter_event(envoy, filter, LOCAL_CLOSE)
    });
    assert_eq!(rig.read(), Status::StopIteration);
    assert_eq!(rig.envoy.taken(), ["close FlushWrite"]);
    assert_eq!(rig.destroy(), ["read 3 false", "read done", "LocalClose", "drop"]);
}

#[test]
fn what_a_filter_writes_passes_it_by_and_the_watermark_waits() {
    let rig = Rig::new(|envoy| {
        envoy.write(b"abc", true);
        Status::StopIteration
    });
    // SAFETY: both exist while the rig does.
    rig.script(|envoy, filter| unsafe {
        assert_eq!(envoy_dynamic_module_on_network_filter_write(envoy, filter, 3, true), Status::Continue);
        envoy_dynamic_module_on_network_filter_above_write_buffer_high_watermark(envoy, filter);
    });
    rig.read();
    assert_eq!(rig.envoy.taken(), ["write abc true"]);
    // SAFETY: both exist. What others write does reach the filter.
    unsafe { envoy_dynamic_module_on_network_filter_write(rig.envoy.raw(), rig.filter, 9, false) };
    assert_eq!(rig.destroy(), ["read 3 false", "read done", "above", "write 9 false", "drop"]);
}

#[test]
fn both_watermarks_inside_a_hook_cancel_out() {
    let rig = Rig::new(|envoy| {
        envoy.write(b"abc", false);
        Status::Continue
    });
    // SAFETY: both exist while the rig does.
    rig.script(|envoy, filter| unsafe {
        envoy_dynamic_module_on_network_filter_above_write_buffer_high_watermark(envoy, filter);
        envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark(envoy, filter);
    });
    assert_eq!(rig.read(), Status::Continue);
    assert_eq!(rig.destroy(), ["read 3 false", "read done", "drop"]);
}

#[test]
fn the_close_event_comes_last_and_once() {
    let rig = Rig::new(|envoy| {
        envoy.write(b"abc", false);
        Status::Continue
    });
    // SAFETY: both exist while the rig does.
    rig.script(|envoy, filter| unsafe {
        envoy_dynamic_module_on_network_filter_event(envoy, filter, REMOTE_CLOSE);
        envoy_dynamic_module_on_network_filter_event(envoy, filter, LOCAL_CLOSE);
        envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark(envoy, filter);
        envoy_dynamic_module_on_network_filter_event(envoy, filter, Event::Connected as u32);
    });
    rig.read();
    assert_eq!(rig.destroy(), ["read 3 false", "read done", "Connected", "below", "RemoteClose", "drop"]);
}

#[test]
fn a_filter_that_never_rests_gives_way() {
    let rig = Rig::with_below(|_| Status::Continue, |envoy| envoy.write(b"x", false));
    // SAFETY: both exist while the rig does.
    rig.script(|envoy, filter| unsafe {
        envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark(envoy, filter);
    });
    // SAFETY: both exist.
    unsafe {
        envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark(rig.envoy.raw(), rig.filter);
    }
    assert_eq!(rig.log.take().len(), 17, "the hook, and 16 deliveries");
    rig.envoy.script.take();
    rig.read();
    assert_eq!(
        rig.destroy(),
        ["read 3 false", "read done", "below", "drop"],
        "the rest comes with the next hook"
    );
}

#[test]
fn a_panic_closes_the_connection_and_drops_the_filter_at_once() {
    let rig = Rig::new(|_| panic!("expected"));
    let log = Rc::clone(&rig.log);
    // SAFETY: both exist while the rig does.
    rig.script(move |envoy, filter| unsafe {
        assert_eq!(log.borrow().last().map(String::as_str), Some("drop"));
        envoy_dynamic_module_on_network_filter_event(envoy, filter, LOCAL_CLOSE);
    });
    assert_eq!(rig.read(), Status::StopIteration);
    assert_eq!(rig.envoy.taken(), ["close NoFlush"]);
    assert_eq!(rig.read(), Status::StopIteration);
    // SAFETY: both exist.
    let status =
        unsafe { envoy_dynamic_module_on_network_filter_write(rig.envoy.raw(), rig.filter, 1, false) };
    assert_eq!(status, Status::StopIteration);
    assert_eq!(rig.envoy.taken(), [""; 0], "closed once");
    assert_eq!(rig.destroy(), ["read 3 false", "drop"]);
}

#[test]
fn a_panic_in_a_hook_that_waited_closes_the_connection() {
    let rig = Rig::with_below(
        |envoy| {
            envoy.write(b"x", false);
            Status::Continue
        },
        |_| panic!("expected"),
    );
    // SAFETY: both exist while the rig does.
    rig.script(|envoy, filter| unsafe {
        envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark(envoy, filter);
    });
    assert_eq!(rig.read(), Status::Continue, "the hook itself was all right");
    assert_eq!(rig.envoy.taken(), ["write x false", "close NoFlush"]);
    assert_eq!(rig.destroy(), ["read 3 false", "read done", "below", "drop"]);
}

#[test]
fn a_read_inside_a_hook_closes_the_connection() {
    let rig = Rig::new(|envoy| {
        envoy.write(b"x", false);
        Status::Continue
    });
    // SAFETY: both exist while the rig does.
    rig.script(|envoy, filter| unsafe {
        assert_eq!(
            envoy_dynamic_module_on_network_filter_read(envoy, filter, 1, true),
            Status::StopIteration
        );
    });
    rig.read();
    assert_eq!(rig.envoy.taken(), ["write x false", "close NoFlush"]);
    assert_eq!(rig.destroy(), ["read 3 false", "read done", "drop"]);
}

#[test]
fn a_filter_destroyed_inside_a_hook_outlives_the_hook() {
    let rig = Rig::new(|envoy| {
        envoy.write(b"x", false);
        Status::Continue
    });
    // SAFETY: the filter exists while the rig does.
    rig.script(|_, filter| unsafe { envoy_dynamic_module_on_network_filter_destroy(filter) });
    assert_eq!(rig.read(), Status::Continue);
    assert_eq!(rig.log.take(), ["read 3 false", "read done", "drop"]);
}

#[test]
fn wake_ups_pass_until_the_close_event() {
    let schedulers = Rc::new(RefCell::new(Vec::<Arc<dyn EnvoyNetworkFilterScheduler>>::new()));
    let made = Rc::clone(&schedulers);
    let rig = Rig::new(move |envoy| {
        made.borrow_mut().push(Arc::new(envoy.new_scheduler()));
        Status::Continue
    });
    rig.read();
    let scheduler = Arc::clone(&schedulers.borrow()[0]);
    let before = COMMITTED.load(Ordering::SeqCst);
    thread::scope(|scope| scope.spawn(|| scheduler.commit(5)).join()).unwrap();
    assert_eq!(COMMITTED.load(Ordering::SeqCst) - before, 5);
    rig.event(REMOTE_CLOSE);
    rig.read();
    scheduler.commit(100);
    let late = Arc::clone(&schedulers.borrow()[1]);
    late.commit(1000);
    assert_eq!(COMMITTED.load(Ordering::SeqCst) - before, 5);
    rig.destroy();
    scheduler.commit(100);
    assert_eq!(COMMITTED.load(Ordering::SeqCst) - before, 5);
}

#[test]
fn numbers_that_a_later_envoy_may_send_are_no_undefined_behaviour() {
    let seen = Rc::new(Cell::new(None));
    let result = Rc::clone(&seen);
    let rig = Rig::new(move |envoy| {
        result.set(Some((
            envoy.get_connection_state(),
            envoy.read_disable(true),
            envoy.increment_counter(crate::EnvoyCounterId(0), 1),
        )));
        Status::Continue
    });
    rig.envoy.answer.set(77);
    rig.read();
    let (state, status, metric) = seen.get().unwrap();
    assert_eq!(state, State::Closed);
    assert_eq!(status, ReadDisableStatus::NoTransition);
    assert_eq!(metric, Err(MetricsResult::MetricNotFound));
    rig.event(4);
    rig.event(u32::MAX);
    assert_eq!(rig.destroy(), ["read 3 false", "read done", "drop"], "unknown events are skipped");
}

/// A configuration whose creation, filters and drop go wrong, by its name.
struct Bad(String);

/// The scheduler of a filter of the configuration "late".
static SCHEDULER: Mutex<Option<Box<dyn EnvoyNetworkFilterScheduler>>> = Mutex::new(None);

impl Drop for Bad {
    fn drop(&mut self) {
        assert_ne!(self.0, "bad drop", "expected");
    }
}

impl NetworkFilterConfig<EnvoyNetworkFilterImpl> for Bad {
    fn new_network_filter(
        &self,
        envoy: &mut EnvoyNetworkFilterImpl,
    ) -> Box<dyn NetworkFilter<EnvoyNetworkFilterImpl>> {
        assert_eq!(self.0, "late", "expected");
        *SCHEDULER.lock().unwrap() = Some(Box::new(envoy.new_scheduler()));
        Box::new(Probe { log: Log::default(), read: Box::new(|_| Status::Continue), below: Box::new(|_| {}) })
    }

    fn on_config_scheduled(&self, _event_id: u64) {
        panic!("expected")
    }
}

fn new_config(
    _envoy: &mut EnvoyNetworkFilterConfigImpl,
    name: &str,
    config: &[u8],
) -> Option<Box<dyn NetworkFilterConfig<EnvoyNetworkFilterImpl>>> {
    assert_ne!(name, "bad", "expected");
    (config == b"good").then(|| Box::new(Bad(name.into())) as _)
}

#[test]
fn configurations_fail_alone() {
    NEW_NETWORK_FILTER_CONFIG_FUNCTION.get_or_init(|| new_config);
    let bytes = |text: &'static str| EnvoyBytes { ptr: text.as_ptr().cast(), length: text.len() };
    let envoy = Fake::default();
    // SAFETY: the texts are valid, and each configuration is used before its destruction only.
    unsafe {
        let new = |name, config| {
            envoy_dynamic_module_on_network_filter_config_new(envoy.raw(), bytes(name), bytes(config))
        };
        assert!(new("bad", "good").is_null());
        assert!(new("some", "refused").is_null());
        let config = new("bad drop", "good");
        assert!(!config.is_null());
        assert!(envoy_dynamic_module_on_network_filter_new(config, envoy.raw()).is_null());
        envoy_dynamic_module_on_network_filter_config_scheduled(config, 1);
        envoy_dynamic_module_on_network_filter_config_destroy(config);

        // A connection that is closed while its filters are made: no event will come.
        let config = new("late", "good");
        envoy.answer.set(State::Closed as u32);
        let filter = envoy_dynamic_module_on_network_filter_new(config, envoy.raw());
        let before = COMMITTED.load(Ordering::SeqCst);
        SCHEDULER.lock().unwrap().take().unwrap().commit(1 << 32);
        assert!(COMMITTED.load(Ordering::SeqCst) - before < 1 << 32);
        envoy_dynamic_module_on_network_filter_destroy(filter);
        envoy_dynamic_module_on_network_filter_config_destroy(config);
    }
}
