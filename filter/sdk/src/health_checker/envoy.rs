//! Envoy's side of a health check session.

use super::HostHealth;
use crate::{
    EnvoyBuffer,
    abi::envoy_dynamic_module_type_envoy_buffer as EnvoyBytes,
    buffer::{EMPTY, module_bytes},
    callback,
};
use std::ffi::c_void;

/// The host of a session, for the time of a hook.
pub struct HealthCheckHost {
    /// Envoy's session: valid while a hook of it runs, and that is as long as this handle exists.
    session: *mut c_void,
}

impl HealthCheckHost {
    /// A handle for the time of a hook.
    ///
    /// # Safety
    ///
    /// `session` is Envoy's session, and outlives the handle.
    pub(super) unsafe fn new(session: *mut c_void) -> Self {
        Self { session }
    }

    /// The host's address and port as a text.
    ///
    /// Source: `envoy_dynamic_module_callback_health_checker_get_host_address`.
    pub fn address(&self) -> Option<EnvoyBuffer<'_>> {
        let mut text = EMPTY;
        // SAFETY: the session is valid, and so is the result for writes.
        let known = unsafe { callback::health_checker_get_host_address(self.session, &raw mut text) };
        known.then(|| self.text(text))
    }

    /// A text in the metadata of the host's endpoint.
    ///
    /// Source: `envoy_dynamic_module_callback_health_checker_get_host_metadata_string`.
    pub fn metadata_string(&self, filter_name: &str, key: &str) -> Option<EnvoyBuffer<'_>> {
        let [filter_name, key] = [filter_name, key].map(|text| module_bytes(text.as_bytes()));
        let mut text = EMPTY;
        // SAFETY: the session is valid, and so is the result for writes; the names outlive the call.
        let known = unsafe {
            callback::health_checker_get_host_metadata_string(self.session, filter_name, key, &raw mut text)
        };
        known.then(|| self.text(text))
    }

    /// A number in the metadata of the host's endpoint.
    ///
    /// Source: `envoy_dynamic_module_callback_health_checker_get_host_metadata_number`.
    pub fn metadata_number(&self, filter_name: &str, key: &str) -> Option<f64> {
        let [filter_name, key] = [filter_name, key].map(|text| module_bytes(text.as_bytes()));
        let mut number = 0.0;
        // SAFETY: the session is valid, and so is the result for writes; the names outlive the call.
        let known = unsafe {
            callback::health_checker_get_host_metadata_number(self.session, filter_name, key, &raw mut number)
        };
        known.then_some(number)
    }

    /// A flag in the metadata of the host's endpoint.
    ///
    /// Source: `envoy_dynamic_module_callback_health_checker_get_host_metadata_bool`.
    pub fn metadata_bool(&self, filter_name: &str, key: &str) -> Option<bool> {
        let [filter_name, key] = [filter_name, key].map(|text| module_bytes(text.as_bytes()));
        let mut flag = false;
        // SAFETY: the session is valid, and so is the result for writes; the names outlive the call.
        let known = unsafe {
            callback::health_checker_get_host_metadata_bool(self.session, filter_name, key, &raw mut flag)
        };
        known.then_some(flag)
    }

    /// What Envoy knows of the host, outlier detection included.
    ///
    /// Source: `envoy_dynamic_module_callback_health_checker_get_host_health`.
    pub fn health(&self) -> HostHealth {
        // SAFETY: the session is valid.
        HostHealth::from_abi(unsafe { callback::health_checker_get_host_health(self.session) })
    }

    fn text(&self, text: EnvoyBytes) -> EnvoyBuffer<'_> {
        // SAFETY: Envoy filled it in, and keeps it until the hook ends.
        unsafe { EnvoyBuffer::from_abi(text) }
    }
}

/// Takes the result of one check, from any thread.
pub struct Reporter {
    /// A scheduler that this handle owns.
    scheduler: *mut c_void,
}

// SAFETY: the ABI allows reports from any thread, and the deletion of what is a weak pointer.
unsafe impl Send for Reporter {}
// SAFETY: as above; reports may run at the same time.
unsafe impl Sync for Reporter {}

impl Reporter {
    /// The reporter of the check that begins.
    ///
    /// # Safety
    ///
    /// `session` is Envoy's session, and one of its hooks runs.
    pub(super) unsafe fn new(session: *mut c_void) -> Self {
        // SAFETY: the caller's promise.
        Self { scheduler: unsafe { callback::health_checker_scheduler_new(session) } }
    }

    /// Ends the check. Without effect when it has timed out, has a result, or its host is gone.
    ///
    /// Source: `envoy_dynamic_module_callback_health_checker_scheduler_report`.
    pub fn report(&self, health: HostHealth) {
        // SAFETY: created by `scheduler_new` and not deleted before the drop.
        unsafe { callback::health_checker_scheduler_report(self.scheduler, health.to_abi()) }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // SAFETY: created by `scheduler_new`; nobody uses it after this.
        unsafe { callback::health_checker_scheduler_delete(self.scheduler) }
    }
}
