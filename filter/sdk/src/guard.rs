//! What stands between a hook and the object of the module that it is for: panics end here, and a hook that
//! arrives while another one of the same object is still on the stack finds the object taken.

use crate::envoy_log_error;
use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

#[cfg(test)]
#[expect(clippy::panic, clippy::unwrap_used, reason = "panics are what is tested")]
mod tests;

/// Runs code of the module. A panic is logged and gives `None`.
pub(crate) fn catch<R>(hook: &str, code: impl FnOnce() -> R) -> Option<R> {
    // Unwind safety is the caller's matter: either the object is given up after a panic, or it is shared
    // between threads anyway and must cope with a panic in any of them.
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(result) => Some(result),
        Err(payload) => {
            report(hook, payload);
            None
        }
    }
}

/// Drops an object of the module. A panic is logged.
pub(crate) fn discard<T>(hook: &str, object: T) {
    catch(hook, || drop(object));
}

/// Logs the message of a panic, and nothing else.
fn report(hook: &str, payload: Box<dyn Any + Send>) {
    let message = match (payload.downcast_ref::<String>(), payload.downcast_ref::<&str>()) {
        (Some(message), _) => message,
        (None, Some(message)) => *message,
        (None, None) => "(not a text)",
    };
    envoy_log_error!("{hook}: panic: {message}");
    // A payload is any type and so may panic when dropped; what the second panic carries is not worth a
    // third.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(payload);
    }
}

/// What became of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered<R> {
    /// The object answered.
    Returned(R),
    /// The object panicked and is gone now.
    Panicked,
    /// Another hook of the object is on the stack.
    Busy,
    /// The object panicked earlier, or Envoy destroyed it.
    Gone,
}

/// Owns an object of the module that belongs to one thread.
///
/// A call into Envoy from inside a hook may call the next hook of the same object before it returns. So the
/// object is taken out while a hook runs; there is never a second `&mut` to it.
pub(crate) struct Guarded<T: ?Sized> {
    object: Cell<Option<Box<T>>>,
    running: Cell<bool>,
    destroyed: Cell<bool>,
}

impl<T: ?Sized> Guarded<T> {
    /// Guards the object.
    pub(crate) fn new(object: Box<T>) -> Self {
        Self { object: Cell::new(Some(object)), running: Cell::new(false), destroyed: Cell::new(false) }
    }

    /// Runs a hook of the object. After a panic the object is dropped at once: its state is in doubt.
    pub(crate) fn enter<R>(&self, hook: &str, code: impl FnOnce(&mut T) -> R) -> Entered<R> {
        let Some(mut object) = self.object.take() else {
            return if self.running.get() { Entered::Busy } else { Entered::Gone };
        };
        self.running.set(true);
        let result = catch(hook, || code(&mut object));
        self.running.set(false);
        if result.is_some() && !self.destroyed.get() {
            self.object.set(Some(object));
        } else {
            discard(hook, object);
        }
        match result {
            Some(result) => Entered::Returned(result),
            None => Entered::Panicked,
        }
    }

    /// Drops the object, or has it dropped when the hook on the stack returns.
    pub(crate) fn destroy(&self, hook: &str) {
        self.destroyed.set(true);
        if let Some(object) = self.object.take() {
            discard(hook, object);
        }
    }
}

/// Lets wake-ups from other threads pass until the connection is closed.
///
/// Envoy's scheduler holds a strong reference to its filter while it commits an event. Were that reference
/// the last one, the filter would be destroyed on the thread that commits, which is not the thread it lives
/// on. A connection is closed before its filters are destroyed, so it is enough that no commit is under way
/// once the close event has arrived.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<bool>);

impl Gate {
    /// An open gate.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(true))
    }

    /// Runs the code unless the gate is closed. The gate does not close before the code returns.
    pub(crate) fn pass(&self, code: impl FnOnce()) {
        let open = self.lock();
        if *open {
            code();
        }
    }

    /// Closes the gate for good.
    pub(crate) fn close(&self) {
        *self.lock() = false;
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        // A flag cannot be left half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owns an object of the module whose hooks run on several threads, one at a time.
pub(crate) struct Shared<T: ?Sized> {
    object: Mutex<Option<Box<T>>>,
    /// The thread that holds the lock, by [`thread_number`]; 0 for none.
    owner: AtomicUsize,
}

impl<T: ?Sized> Shared<T> {
    /// Guards the object.
    pub(crate) fn new(object: Box<T>) -> Self {
        Self { object: Mutex::new(Some(object)), owner: AtomicUsize::new(0) }
    }

    /// Runs a hook of the object, after those of other threads. After a panic the object is dropped and its
    /// hooks are skipped. So is a hook that arrives from inside another one on the same thread, which
    /// waiting would never let through.
    pub(crate) fn enter(&self, hook: &str, code: impl FnOnce(&mut T)) {
        let current = thread_number();
        // Only this thread stores its own number, so a stale value of another one cannot be mistaken for it.
        if self.owner.load(Ordering::Relaxed) == current {
            envoy_log_error!("{hook}: called from inside another hook; skipped");
            return;
        }
        // A panic does not get past `catch`, so the lock is never poisoned.
        let mut slot = self.object.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(object) = slot.as_deref_mut() else {
            return;
        };
        self.owner.store(current, Ordering::Relaxed);
        if catch(hook, || code(object)).is_none() {
            discard(hook, slot.take());
        }
        self.owner.store(0, Ordering::Relaxed);
    }
}

/// A number that no other running thread has; not 0.
fn thread_number() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| ptr::from_ref(mark).addr())
}
