//! A transport socket of the module, with the hooks that came too early.

use super::{ConnectionEvent, EnvoyTransportSocketImpl, IoResult, TransportSocket};
use crate::{
    callback,
    guard::{Entered, Guarded},
};
use std::{
    cell::{Cell, RefCell},
    ffi::c_void,
    rc::Rc,
};

/// A transport socket of the module.
type Socket = dyn TransportSocket<EnvoyTransportSocketImpl>;

/// What the module's pointer to a transport socket points to.
pub(super) struct Slot {
    socket: Guarded<Socket>,
    /// Whether Envoy has closed the socket below.
    closed: Rc<Cell<bool>>,
    /// A close that came while another hook was on the stack, and whether it was by an RST.
    pending_close: Cell<Option<(ConnectionEvent, bool)>>,
    /// The last text given to Envoy, which reads it after the hook has returned.
    text: RefCell<String>,
}

impl Slot {
    /// Takes a new socket.
    pub(super) fn new(socket: Box<Socket>, closed: Rc<Cell<bool>>) -> Self {
        Self {
            socket: Guarded::new(socket),
            closed,
            pending_close: Cell::default(),
            text: RefCell::default(),
        }
    }

    /// Runs a hook, then a close that came meanwhile.
    ///
    /// # Safety
    ///
    /// `envoy` is Envoy's transport socket of this one, and outlives the call.
    pub(super) unsafe fn run<R>(
        &self,
        name: &str,
        envoy: *mut c_void,
        hook: impl FnOnce(&mut Socket, &mut EnvoyTransportSocketImpl) -> R,
    ) -> Entered<R> {
        let handle = || {
            // SAFETY: the caller's promise.
            unsafe { EnvoyTransportSocketImpl::new(envoy, Rc::clone(&self.closed)) }
        };
        let entered = self.socket.enter(name, |socket| hook(socket, &mut handle()));
        if matches!(entered, Entered::Returned(_))
            && let Some((event, abort_reset)) = self.pending_close.take()
        {
            self.socket.enter(name, |socket| socket.on_close(&mut handle(), event, abort_reset));
        }
        entered
    }

    /// Runs a read or write step. One that comes while another hook is on the stack does nothing, and
    /// `again` has Envoy ask once more from its event loop.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run); `again` takes Envoy's transport socket.
    pub(super) unsafe fn step(
        &self,
        name: &str,
        envoy: *mut c_void,
        again: unsafe extern "C" fn(*mut c_void),
        step: impl FnOnce(&mut Socket, &mut EnvoyTransportSocketImpl) -> IoResult,
    ) -> IoResult {
        // SAFETY: the caller's promise.
        match unsafe { self.run(name, envoy, step) } {
            Entered::Returned(result) => result,
            Entered::Panicked | Entered::Gone => IoResult::close(0, false),
            Entered::Busy => {
                if !self.closed.get() {
                    // SAFETY: the caller's promise.
                    unsafe { again(envoy) };
                }
                IoResult::keep_open(0, false)
            }
        }
    }

    /// Runs the close hook, or has it run after the one on the stack.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run).
    pub(super) unsafe fn close(
        &self,
        name: &str,
        envoy: *mut c_void,
        event: ConnectionEvent,
        abort_reset: bool,
    ) {
        // SAFETY: the caller's promise.
        let entered =
            unsafe { self.run(name, envoy, |socket, envoy| socket.on_close(envoy, event, abort_reset)) };
        // Until here the hook may still use the socket; as soon as it returns, Envoy closes it.
        self.closed.set(true);
        if entered == Entered::Busy {
            self.pending_close.set(Some((event, abort_reset)));
        }
    }

    /// Runs a hook that gives a text, and lends it out. Empty while another hook is on the stack.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run). The pointer is good until the next call.
    pub(super) unsafe fn text(
        &self,
        name: &str,
        envoy: *mut c_void,
        hook: impl FnOnce(&mut Socket, &mut EnvoyTransportSocketImpl) -> String,
    ) -> (*const u8, usize) {
        // SAFETY: the caller's promise.
        let text = match unsafe { self.run(name, envoy, hook) } {
            Entered::Returned(text) => text,
            Entered::Panicked | Entered::Busy | Entered::Gone => String::new(),
        };
        self.text.replace(text);
        let text = self.text.borrow();
        (text.as_ptr(), text.len())
    }

    /// Drops the socket.
    pub(super) fn destroy(&self, name: &str) {
        self.socket.destroy(name);
    }

    /// Asks Envoy to close the connection after a panic in a hook that cannot say so itself.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run).
    pub(super) unsafe fn close_if_panicked<R>(&self, entered: Entered<R>, envoy: *mut c_void) {
        if matches!(entered, Entered::Panicked) && !self.closed.get() {
            // The next step finds the socket gone, and answers that the connection is to be closed.
            // SAFETY: the caller's promise.
            unsafe { callback::transport_socket_set_is_readable(envoy) };
        }
    }
}
