//! A network filter of the module, with the hooks that came too early.

use super::{EnvoyNetworkFilterImpl, NetworkFilter};
use crate::{
    abi::{
        envoy_dynamic_module_type_network_connection_close_type as CloseType,
        envoy_dynamic_module_type_network_connection_event as Event,
        envoy_dynamic_module_type_on_network_filter_data_status as Status,
    },
    callback, envoy_log_error, envoy_log_warn,
    guard::{Entered, Gate, Guarded},
};
use std::{cell::Cell, ffi::c_void, sync::Arc};

/// Hooks that may be delivered after one other. Each of them can make Envoy call more; a filter that never
/// comes to rest must not hold its worker thread.
const DELIVERIES: usize = 16;

/// A filter of the module.
type Filter = dyn NetworkFilter<EnvoyNetworkFilterImpl>;

/// What the module's pointer to a filter points to.
pub(super) struct Slot {
    filter: Guarded<Filter>,
    pending: Cell<Pending>,
    gate: Arc<Gate>,
}

/// The hooks that came while another one was on the stack: at most one of each kind, as a connection is
/// opened and closed once and its watermarks alternate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pending {
    connected: Option<Event>,
    watermark: Option<Watermark>,
    closed: Option<Event>,
}

/// A watermark of the write buffer that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watermark {
    AboveHigh,
    BelowLow,
}

/// A hook that can be delivered later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Event(Event),
    Watermark(Watermark),
}

impl Pending {
    /// Adds a hook.
    fn push(&mut self, hook: Hook) {
        match hook {
            Hook::Event(event @ (Event::Connected | Event::ConnectedZeroRtt)) => self.connected = Some(event),
            Hook::Event(event @ (Event::RemoteClose | Event::LocalClose)) => {
                self.closed.get_or_insert(event);
            }
            // Passing one watermark and then the other, unseen, is as good as passing none.
            Hook::Watermark(watermark) => match self.watermark {
                Some(unseen) if unseen != watermark => self.watermark = None,
                _ => self.watermark = Some(watermark),
            },
        }
    }

    /// Takes the next hook, the close event last.
    fn pop(&mut self) -> Option<Hook> {
        None.or_else(|| self.connected.take().map(Hook::Event))
            .or_else(|| self.watermark.take().map(Hook::Watermark))
            .or_else(|| self.closed.take().map(Hook::Event))
    }
}

impl Slot {
    /// Takes a new filter.
    pub(super) fn new(filter: Box<Filter>, gate: Arc<Gate>) -> Self {
        Self { filter: Guarded::new(filter), pending: Cell::default(), gate }
    }

    /// Runs a hook, then those that came meanwhile. A panic closes the connection.
    ///
    /// # Safety
    ///
    /// `envoy` is Envoy's filter of this one, and outlives the call.
    pub(super) unsafe fn run<R>(
        &self,
        name: &str,
        envoy: *mut c_void,
        hook: impl FnOnce(&mut Filter, &mut EnvoyNetworkFilterImpl) -> R,
    ) -> Entered<R> {
        // SAFETY: the caller's promise.
        let entered = unsafe { self.enter(name, envoy, hook) };
        if matches!(entered, Entered::Returned(_)) {
            // SAFETY: the caller's promise.
            unsafe { self.deliver(name, envoy) };
        }
        entered
    }

    /// As [`run`](Self::run), for a hook that can wait for the one on the stack.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run).
    pub(super) unsafe fn run_or_defer(&self, name: &str, envoy: *mut c_void, hook: Hook) {
        if let Hook::Event(Event::RemoteClose | Event::LocalClose) = hook {
            self.gate.close();
        }
        // SAFETY: the caller's promise.
        let entered = unsafe { self.run(name, envoy, |filter, envoy| call(filter, envoy, hook)) };
        if entered == Entered::Busy {
            let mut pending = self.pending.get();
            pending.push(hook);
            self.pending.set(pending);
        }
    }

    /// As [`run`](Self::run), for a hook that Envoy does not call from inside another one, and that cannot
    /// wait: what it is about is gone when it returns. Should it happen all the same, the connection is
    /// closed.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run).
    pub(super) unsafe fn run_alone(
        &self,
        name: &str,
        envoy: *mut c_void,
        hook: impl FnOnce(&mut Filter, &mut EnvoyNetworkFilterImpl) -> Status,
    ) -> Status {
        // SAFETY: the caller's promise.
        match unsafe { self.run(name, envoy, hook) } {
            Entered::Returned(status) => status,
            Entered::Panicked | Entered::Gone => Status::StopIteration,
            Entered::Busy => {
                envoy_log_error!("{name}: called from inside another hook; closing the connection");
                // SAFETY: the caller's promise.
                unsafe { callback::network_filter_close(envoy, CloseType::NoFlush) };
                Status::StopIteration
            }
        }
    }

    /// Drops the filter.
    pub(super) fn destroy(&self, name: &str) {
        self.filter.destroy(name);
    }

    /// Runs a hook. A panic closes the connection.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run).
    unsafe fn enter<R>(
        &self,
        name: &str,
        envoy: *mut c_void,
        hook: impl FnOnce(&mut Filter, &mut EnvoyNetworkFilterImpl) -> R,
    ) -> Entered<R> {
        let entered = self.filter.enter(name, |filter| {
            // SAFETY: the caller's promise.
            let mut envoy = unsafe { EnvoyNetworkFilterImpl::new(envoy, Arc::clone(&self.gate)) };
            hook(filter, &mut envoy)
        });
        if matches!(entered, Entered::Panicked) {
            // SAFETY: the caller's promise. The hooks that this calls find the filter gone.
            unsafe { callback::network_filter_close(envoy, CloseType::NoFlush) }
        }
        entered
    }

    /// Runs the hooks that came meanwhile.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run).
    unsafe fn deliver(&self, name: &str, envoy: *mut c_void) {
        for _ in 0..DELIVERIES {
            let mut pending = self.pending.get();
            let Some(hook) = pending.pop() else {
                return;
            };
            self.pending.set(pending);
            // SAFETY: the caller's promise.
            let entered = unsafe { self.enter(name, envoy, |filter, envoy| call(filter, envoy, hook)) };
            if entered != Entered::Returned(()) {
                return;
            }
        }
        envoy_log_warn!("{name}: the filter does not come to rest; what is pending waits for its next hook");
    }
}

/// Calls the filter.
fn call(filter: &mut Filter, envoy: &mut EnvoyNetworkFilterImpl, hook: Hook) {
    match hook {
        Hook::Event(event) => filter.on_event(envoy, event),
        Hook::Watermark(Watermark::AboveHigh) => filter.on_above_write_buffer_high_watermark(envoy),
        Hook::Watermark(Watermark::BelowLow) => filter.on_below_write_buffer_low_watermark(envoy),
    }
}
