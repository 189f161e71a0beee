//! Envoy's side of a bootstrap extension.

use super::{
    EnvoyBootstrapExtension, EnvoyBootstrapExtensionConfig, EnvoyBootstrapExtensionConfigScheduler,
    EnvoyBootstrapExtensionTimer,
};
use crate::{
    buffer::module_bytes,
    callback,
    metrics::{define_metrics_with, update_metrics_with},
};
use std::{ffi::c_void, time::Duration};

/// Envoy's bootstrap extension configuration, for the time of a hook.
pub(super) struct Config {
    /// Valid while a hook of this configuration runs, and that is as long as this handle exists.
    pub(super) raw: *mut c_void,
}

impl EnvoyBootstrapExtensionConfig for Config {
    fn new_scheduler(&self) -> Box<dyn EnvoyBootstrapExtensionConfigScheduler> {
        // SAFETY: `raw` is valid.
        Box::new(Scheduler(unsafe { callback::bootstrap_extension_config_scheduler_new(self.raw) }))
    }

    fn signal_init_complete(&self) {
        // SAFETY: `raw` is valid.
        unsafe { callback::bootstrap_extension_config_signal_init_complete(self.raw) }
    }

    define_metrics_with!(define_labelled: bootstrap_extension_config_define_counter,
        bootstrap_extension_config_define_gauge, bootstrap_extension_config_define_histogram);
    update_metrics_with!(update_labelled: bootstrap_extension_config_increment_counter,
        bootstrap_extension_config_set_gauge, bootstrap_extension_config_increment_gauge,
        bootstrap_extension_config_decrement_gauge, bootstrap_extension_config_record_histogram_value);

    fn new_timer(&self) -> Box<dyn EnvoyBootstrapExtensionTimer> {
        // SAFETY: `raw` is valid.
        Box::new(OwnedTimer(Timer(unsafe { callback::bootstrap_extension_timer_new(self.raw) })))
    }

    fn register_admin_handler(
        &self,
        path_prefix: &str,
        help_text: &str,
        removable: bool,
        mutates_server_state: bool,
    ) -> bool {
        let (path_prefix, help_text) =
            (module_bytes(path_prefix.as_bytes()), module_bytes(help_text.as_bytes()));
        // SAFETY: `raw` is valid; the texts outlive the call.
        unsafe {
            callback::bootstrap_extension_register_admin_handler(
                self.raw,
                path_prefix,
                help_text,
                removable,
                mutates_server_state,
            )
        }
    }

    fn remove_admin_handler(&self, path_prefix: &str) -> bool {
        // SAFETY: `raw` is valid; the text outlives the call.
        unsafe {
            callback::bootstrap_extension_remove_admin_handler(self.raw, module_bytes(path_prefix.as_bytes()))
        }
    }

    fn enable_listener_lifecycle(&self) -> bool {
        // SAFETY: `raw` is valid.
        unsafe { callback::bootstrap_extension_enable_listener_lifecycle(self.raw) }
    }
}

/// Envoy's bootstrap extension.
pub(super) struct Extension;

impl EnvoyBootstrapExtension for Extension {}

/// Owns a scheduler of Envoy.
struct Scheduler(*mut c_void);

// SAFETY: the ABI allows commits from any thread, and the deletion of what is a weak pointer.
unsafe impl Send for Scheduler {}
// SAFETY: as above; commits may run at the same time.
unsafe impl Sync for Scheduler {}

impl EnvoyBootstrapExtensionConfigScheduler for Scheduler {
    fn commit(&self, event_id: u64) {
        // SAFETY: created by `scheduler_new` and not deleted before the drop.
        unsafe { callback::bootstrap_extension_config_scheduler_commit(self.0, event_id) }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: created by `scheduler_new`; nobody uses it after this.
        unsafe { callback::bootstrap_extension_config_scheduler_delete(self.0) }
    }
}

/// A timer that somebody else owns.
pub(super) struct Timer(pub(super) *mut c_void);

// SAFETY: as the trait says, timers are for the main thread; Envoy asserts it.
unsafe impl Send for Timer {}
// SAFETY: as above.
unsafe impl Sync for Timer {}

impl EnvoyBootstrapExtensionTimer for Timer {
    fn id(&self) -> usize {
        self.0.addr()
    }

    fn enable(&self, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        // SAFETY: the timer exists as long as its owner, and Envoy calls no hook for one that was deleted.
        unsafe { callback::bootstrap_extension_timer_enable(self.0, milliseconds) }
    }

    fn disable(&self) {
        // SAFETY: as above.
        unsafe { callback::bootstrap_extension_timer_disable(self.0) }
    }

    fn enabled(&self) -> bool {
        // SAFETY: as above.
        unsafe { callback::bootstrap_extension_timer_enabled(self.0) }
    }
}

/// Owns a timer of Envoy.
struct OwnedTimer(Timer);

impl EnvoyBootstrapExtensionTimer for OwnedTimer {
    fn id(&self) -> usize {
        self.0.id()
    }

    fn enable(&self, delay: Duration) {
        self.0.enable(delay);
    }

    fn disable(&self) {
        self.0.disable();
    }

    fn enabled(&self) -> bool {
        self.0.enabled()
    }
}

impl Drop for OwnedTimer {
    fn drop(&mut self) {
        // SAFETY: created by `timer_new`; nobody uses it after this.
        unsafe { callback::bootstrap_extension_timer_delete(self.0.0) }
    }
}
