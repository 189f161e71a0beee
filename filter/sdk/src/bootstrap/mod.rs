//! Bootstrap extensions: objects that live as long as the process.
//!
//! Envoy serves no traffic until every bootstrap extension has called
//! [`EnvoyBootstrapExtensionConfig::signal_init_complete`].

mod envoy;
mod hooks;

use crate::{
    abi,
    metrics::{declare_metric_definitions, declare_metric_updates},
};
use std::{ffi::c_void, time::Duration};

/// The configuration of a bootstrap extension, on Envoy's side. Main thread only.
pub trait EnvoyBootstrapExtensionConfig {
    /// A handle that wakes [`BootstrapExtensionConfig::on_scheduled`] from any thread.
    ///
    /// Source: `envoy_dynamic_module_callback_bootstrap_extension_config_scheduler_new`.
    fn new_scheduler(&self) -> Box<dyn EnvoyBootstrapExtensionConfigScheduler>;

    /// Lets Envoy serve traffic, as far as this extension is concerned. To be called exactly once.
    ///
    /// Source: `envoy_dynamic_module_callback_bootstrap_extension_config_signal_init_complete`.
    fn signal_init_complete(&self);

    declare_metric_definitions!();
    declare_metric_updates!();

    /// A timer, not armed, that calls [`BootstrapExtensionConfig::on_timer_fired`].
    ///
    /// Source: `envoy_dynamic_module_callback_bootstrap_extension_timer_new`.
    fn new_timer(&self) -> Box<dyn EnvoyBootstrapExtensionTimer>;

    /// Has requests for paths with this prefix on Envoy's admin interface answered by
    /// [`BootstrapExtensionConfig::on_admin_request`]. `false` if the prefix is taken or not allowed, or if
    /// there is no admin interface.
    ///
    /// Source: `envoy_dynamic_module_callback_bootstrap_extension_register_admin_handler`.
    fn register_admin_handler(
        &self,
        path_prefix: &str,
        help_text: &str,
        removable: bool,
        mutates_server_state: bool,
    ) -> bool;

    /// Takes a removable admin handler away. `false` if there is none.
    ///
    /// Source: `envoy_dynamic_module_callback_bootstrap_extension_remove_admin_handler`.
    fn remove_admin_handler(&self, path_prefix: &str) -> bool;

    /// Has [`BootstrapExtensionConfig::on_listener_add_or_update`] and
    /// [`BootstrapExtensionConfig::on_listener_removal`] called. `false` before the server is initialized,
    /// and if it was enabled before.
    ///
    /// Not together with an admin handler: that keeps Envoy's configuration alive longer than the list its
    /// listener callbacks stand in, and Envoy 1.40.0 frees memory twice when it exits.
    ///
    /// Source: `envoy_dynamic_module_callback_bootstrap_extension_enable_listener_lifecycle`.
    fn enable_listener_lifecycle(&self) -> bool;
}

/// A bootstrap extension, on Envoy's side.
///
/// Of the official trait's methods (they read Envoy's stats) this project uses none.
pub trait EnvoyBootstrapExtension {}

/// The configuration of a bootstrap extension, on the module's side. Its hooks run on the main thread;
/// `Drop` is the place for cleanup.
pub trait BootstrapExtensionConfig: Send + Sync {
    /// Creates the extension, right after the configuration.
    ///
    /// Source: `envoy_dynamic_module_on_bootstrap_extension_new`.
    fn new_bootstrap_extension(
        &self,
        envoy_extension: &mut dyn EnvoyBootstrapExtension,
    ) -> Box<dyn BootstrapExtension>;

    /// A scheduler's event.
    ///
    /// Source: `envoy_dynamic_module_on_bootstrap_extension_config_scheduled`.
    fn on_scheduled(&self, envoy_extension_config: &mut dyn EnvoyBootstrapExtensionConfig, event_id: u64) {
        let _ = (envoy_extension_config, event_id);
    }

    /// A timer fired; it may be armed again through `timer`, which does not own it.
    ///
    /// Source: `envoy_dynamic_module_on_bootstrap_extension_timer_fired`.
    fn on_timer_fired(
        &self,
        envoy_extension_config: &mut dyn EnvoyBootstrapExtensionConfig,
        timer: &dyn EnvoyBootstrapExtensionTimer,
    ) {
        let _ = (envoy_extension_config, timer);
    }

    /// A request on Envoy's admin interface; `path` includes the query. Answers with the HTTP status and
    /// the body.
    ///
    /// Source: `envoy_dynamic_module_on_bootstrap_extension_admin_request`.
    fn on_admin_request(
        &self,
        envoy_extension_config: &mut dyn EnvoyBootstrapExtensionConfig,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> (u32, String) {
        let _ = (envoy_extension_config, method, path, body);
        (404, String::new())
    }

    /// A listener was added or updated.
    ///
    /// Source: `envoy_dynamic_module_on_bootstrap_extension_listener_add_or_update`.
    fn on_listener_add_or_update(
        &self,
        envoy_extension_config: &mut dyn EnvoyBootstrapExtensionConfig,
        listener_name: &str,
    ) {
        let _ = (envoy_extension_config, listener_name);
    }

    /// A listener was removed.
    ///
    /// Source: `envoy_dynamic_module_on_bootstrap_extension_listener_removal`.
    fn on_listener_removal(
        &self,
        envoy_extension_config: &mut dyn EnvoyBootstrapExtensionConfig,
        listener_name: &str,
    ) {
        let _ = (envoy_extension_config, listener_name);
    }
}

/// A bootstrap extension, on the module's side.
///
/// The ABI lets Envoy call [`on_worker_thread_initialized`](Self::on_worker_thread_initialized) on worker
/// threads; the other hooks run on the main thread. A lock keeps them apart, so a hook that blocks blocks
/// the others.
pub trait BootstrapExtension: Send + Sync {
    /// The server is initialized. Not called by `envoy --mode validate`.
    ///
    /// Source: `envoy_dynamic_module_on_bootstrap_extension_server_initialized`.
    fn on_server_initialized(&mut self, envoy_extension: &mut dyn EnvoyBootstrapExtension) {
        let _ = envoy_extension;
    }

    /// A thread starts; called on that thread. Envoy 1.40 calls it once, on the main thread, before
    /// [`on_server_initialized`](Self::on_server_initialized).
    ///
    /// Source: `envoy_dynamic_module_on_bootstrap_extension_worker_thread_initialized`.
    fn on_worker_thread_initialized(&mut self, envoy_extension: &mut dyn EnvoyBootstrapExtension) {
        let _ = envoy_extension;
    }

    /// Envoy begins to drain.
    ///
    /// Source: `envoy_dynamic_module_on_bootstrap_extension_drain_started`.
    fn on_drain_started(&mut self, envoy_extension: &mut dyn EnvoyBootstrapExtension) {
        let _ = envoy_extension;
    }

    /// Envoy is about to exit and waits for the completion.
    ///
    /// Source: `envoy_dynamic_module_on_bootstrap_extension_shutdown`.
    fn on_shutdown(
        &mut self,
        envoy_extension: &mut dyn EnvoyBootstrapExtension,
        completion: CompletionCallback,
    ) {
        let _ = envoy_extension;
        completion.done();
    }
}

/// Wakes a bootstrap extension configuration from any thread.
pub trait EnvoyBootstrapExtensionConfigScheduler: Send + Sync {
    /// Has [`BootstrapExtensionConfig::on_scheduled`] called with this event on the main thread, if the
    /// configuration still exists then.
    ///
    /// Source: `envoy_dynamic_module_callback_bootstrap_extension_config_scheduler_commit`.
    fn commit(&self, event_id: u64);
}

impl EnvoyBootstrapExtensionConfigScheduler for Box<dyn EnvoyBootstrapExtensionConfigScheduler> {
    fn commit(&self, event_id: u64) {
        (**self).commit(event_id);
    }
}

/// A timer on Envoy's main thread. To be used and dropped there; dropping it takes the timer away.
pub trait EnvoyBootstrapExtensionTimer: Send + Sync {
    /// Tells this timer from others as long as it exists.
    fn id(&self) -> usize;

    /// Arms the timer anew. The delay is counted in whole milliseconds.
    ///
    /// Source: `envoy_dynamic_module_callback_bootstrap_extension_timer_enable`.
    fn enable(&self, delay: Duration);

    /// Disarms the timer.
    ///
    /// Source: `envoy_dynamic_module_callback_bootstrap_extension_timer_disable`.
    fn disable(&self);

    /// Whether the timer is armed.
    ///
    /// Source: `envoy_dynamic_module_callback_bootstrap_extension_timer_enabled`.
    fn enabled(&self) -> bool;
}

impl EnvoyBootstrapExtensionTimer for Box<dyn EnvoyBootstrapExtensionTimer> {
    fn id(&self) -> usize {
        (**self).id()
    }

    fn enable(&self, delay: Duration) {
        (**self).enable(delay);
    }

    fn disable(&self) {
        (**self).disable();
    }

    fn enabled(&self) -> bool {
        (**self).enabled()
    }
}

/// Tells Envoy that the shutdown of the extension is complete; dropping it does so too. May go to another
/// thread.
///
/// Source: `envoy_dynamic_module_type_event_cb`.
#[derive(Debug)]
pub struct CompletionCallback {
    callback: abi::envoy_dynamic_module_type_event_cb,
    context: *mut c_void,
}

// SAFETY: Envoy posts what the callback does to its main thread, whichever thread calls.
unsafe impl Send for CompletionCallback {}
// SAFETY: a shared reference offers nothing.
unsafe impl Sync for CompletionCallback {}

impl CompletionCallback {
    /// Tells Envoy.
    pub fn done(self) {}
}

impl Drop for CompletionCallback {
    fn drop(&mut self) {
        if let Some(callback) = self.callback {
            // SAFETY: Envoy gave both together for one call, and this value is not copied and dropped once.
            unsafe { callback(self.context) }
        }
    }
}
