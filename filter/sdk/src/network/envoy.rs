//! Envoy's side of a network filter.

use super::{
    EnvoyNetworkFilter, EnvoyNetworkFilterConfig, EnvoyNetworkFilterConfigScheduler,
    EnvoyNetworkFilterScheduler,
};
use crate::{
    EnvoyBuffer,
    abi::{
        envoy_dynamic_module_type_attribute_id as AttributeId,
        envoy_dynamic_module_type_envoy_buffer as EnvoyBytes,
        envoy_dynamic_module_type_network_connection_close_type as CloseType,
        envoy_dynamic_module_type_network_connection_state as ConnectionState,
        envoy_dynamic_module_type_network_read_disable_status as ReadDisableStatus,
    },
    buffer::{EMPTY, address, chunks, module_bytes, owned_address},
    callback,
    guard::Gate,
    metrics::{define_metrics_with, update_metrics_with},
};
use std::{ffi::c_void, sync::Arc};

/// Envoy's network filter configuration, for the time of a hook.
#[derive(Debug)]
pub struct EnvoyNetworkFilterConfigImpl {
    /// Valid while a hook of this configuration runs, and that is as long as this handle exists.
    pub(super) raw: *mut c_void,
}

impl EnvoyNetworkFilterConfig for EnvoyNetworkFilterConfigImpl {
    define_metrics_with!(define: network_filter_config_define_counter, network_filter_config_define_gauge,
        network_filter_config_define_histogram);
    update_metrics_with!(update: network_filter_config_increment_counter, network_filter_config_set_gauge,
        network_filter_config_increment_gauge, network_filter_config_decrement_gauge,
        network_filter_config_record_histogram_value);

    fn new_config_scheduler(&self) -> impl EnvoyNetworkFilterConfigScheduler + 'static {
        // SAFETY: `raw` is valid.
        ConfigScheduler(unsafe { callback::network_filter_config_scheduler_new(self.raw) })
    }
}

/// Envoy's network filter, for the time of a hook.
#[derive(Debug)]
pub struct EnvoyNetworkFilterImpl {
    /// Valid while a hook of this filter runs, and that is as long as this handle exists.
    raw: *mut c_void,
    gate: Arc<Gate>,
}

impl EnvoyNetworkFilterImpl {
    /// A handle for the time of a hook.
    ///
    /// # Safety
    ///
    /// `raw` is Envoy's filter, and outlives the handle.
    pub(super) unsafe fn new(raw: *mut c_void, gate: Arc<Gate>) -> Self {
        Self { raw, gate }
    }

    /// Asks Envoy for a text that it keeps; `None` also for an empty one.
    fn text(&self, ask: impl FnOnce(*mut c_void, *mut EnvoyBytes) -> bool) -> Option<EnvoyBuffer<'_>> {
        let mut text = EMPTY;
        if !ask(self.raw, &raw mut text) {
            return None;
        }
        // SAFETY: what Envoy filled in stays until something changes it, which takes `&mut self`.
        let text = unsafe { EnvoyBuffer::from_abi(text) };
        (!text.as_slice().is_empty()).then_some(text)
    }
}

impl EnvoyNetworkFilter for EnvoyNetworkFilterImpl {
    fn get_read_buffer_chunks<'a>(&'a mut self) -> (Vec<EnvoyBuffer<'a>>, usize) {
        // SAFETY: `raw` is valid.
        let count = unsafe { callback::network_filter_get_read_buffer_chunks_size(self.raw) };
        // SAFETY: `raw` is valid; the buffer has as many chunks as it said, and changing it takes `&mut
        // self`.
        let chunks = unsafe {
            chunks(count, |chunks| callback::network_filter_get_read_buffer_chunks(self.raw, chunks))
        }
        .unwrap_or_default();
        let length = chunks.iter().map(|chunk| chunk.as_slice().len()).sum();
        (chunks, length)
    }

    fn drain_read_buffer(&mut self, length: usize) {
        // SAFETY: `raw` is valid. The answer tells whether there was a buffer.
        unsafe { callback::network_filter_drain_read_buffer(self.raw, length) };
    }

    fn append_write_buffer(&mut self, data: &[u8]) {
        // SAFETY: `raw` is valid; Envoy copies the bytes. The answer tells whether there was a buffer.
        unsafe { callback::network_filter_append_write_buffer(self.raw, module_bytes(data)) };
    }

    fn write(&mut self, data: &[u8], end_stream: bool) {
        // SAFETY: `raw` is valid; Envoy copies the bytes.
        unsafe { callback::network_filter_write(self.raw, module_bytes(data), end_stream) }
    }

    fn inject_read_data(&mut self, data: &[u8], end_stream: bool) {
        // SAFETY: `raw` is valid; Envoy copies the bytes.
        unsafe { callback::network_filter_inject_read_data(self.raw, module_bytes(data), end_stream) }
    }

    fn continue_reading(&mut self) {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_continue_reading(self.raw) }
    }

    fn close(&mut self, close_type: CloseType) {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_close(self.raw, close_type) }
    }

    fn close_with_details(&mut self, close_type: CloseType, details: &str) {
        // SAFETY: `raw` is valid; Envoy copies the text.
        unsafe {
            callback::network_filter_close_with_details(
                self.raw,
                close_type,
                module_bytes(details.as_bytes()),
            )
        }
    }

    fn disable_close(&mut self, disabled: bool) {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_disable_close(self.raw, disabled) }
    }

    fn get_connection_id(&self) -> u64 {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_get_connection_id(self.raw) }
    }

    fn get_remote_address(&self) -> (String, u32) {
        // SAFETY: `raw` is valid.
        unsafe { owned_address(callback::network_filter_get_remote_address, self.raw) }
    }

    fn get_local_address(&self) -> (String, u32) {
        // SAFETY: `raw` is valid.
        unsafe { owned_address(callback::network_filter_get_local_address, self.raw) }
    }

    fn get_direct_remote_address<'a>(&'a self) -> Option<(EnvoyBuffer<'a>, u32)> {
        // SAFETY: `raw` is valid, and the connection keeps its addresses.
        unsafe { address(callback::network_filter_get_direct_remote_address, self.raw) }
    }

    fn get_attribute_string<'a>(&'a self, attribute_id: AttributeId) -> Option<EnvoyBuffer<'a>> {
        let mut text = EMPTY;
        // SAFETY: `raw` is valid, and so is the result for writes.
        let known =
            unsafe { callback::network_filter_get_attribute_string(self.raw, attribute_id, &raw mut text) };
        // SAFETY: what Envoy filled in stays until something changes it, which takes `&mut self`.
        known.then(|| unsafe { EnvoyBuffer::from_abi(text) })
    }

    fn get_attribute_int(&self, attribute_id: AttributeId) -> Option<i64> {
        let mut number = 0;
        // SAFETY: `raw` is valid, and so is the result for writes.
        let known =
            unsafe { callback::network_filter_get_attribute_int(self.raw, attribute_id, &raw mut number) };
        known.then_some(number.cast_signed())
    }

    fn set_filter_state_bytes(&mut self, key: &[u8], value: &[u8]) -> bool {
        // SAFETY: `raw` is valid; Envoy copies the bytes.
        unsafe { callback::network_set_filter_state_bytes(self.raw, module_bytes(key), module_bytes(value)) }
    }

    fn get_filter_state_bytes<'a>(&'a self, key: &[u8]) -> Option<EnvoyBuffer<'a>> {
        // SAFETY: `raw` is valid, and so is the result for writes; the key outlives the call.
        self.text(|raw, text| unsafe {
            callback::network_get_filter_state_bytes(raw, module_bytes(key), text)
        })
    }

    fn set_filter_state_typed(&mut self, key: &[u8], value: &[u8]) -> bool {
        // SAFETY: `raw` is valid; Envoy copies the bytes.
        unsafe { callback::network_set_filter_state_typed(self.raw, module_bytes(key), module_bytes(value)) }
    }

    fn get_filter_state_typed<'a>(&'a self, key: &[u8]) -> Option<EnvoyBuffer<'a>> {
        // SAFETY: `raw` is valid, and so is the result for writes; the key outlives the call.
        self.text(|raw, text| unsafe {
            callback::network_get_filter_state_typed(raw, module_bytes(key), text)
        })
    }

    fn set_dynamic_metadata_string(&mut self, namespace: &str, key: &str, value: &str) {
        let [namespace, key, value] = [namespace, key, value].map(|text| module_bytes(text.as_bytes()));
        // SAFETY: `raw` is valid; Envoy copies the texts.
        unsafe { callback::network_set_dynamic_metadata_string(self.raw, namespace, key, value) }
    }

    fn get_dynamic_metadata_string<'a>(&'a self, namespace: &str, key: &str) -> Option<EnvoyBuffer<'a>> {
        let [namespace, key] = [namespace, key].map(|text| module_bytes(text.as_bytes()));
        // SAFETY: `raw` is valid, and so is the result for writes; namespace and key outlive the call.
        self.text(|raw, text| unsafe {
            callback::network_get_dynamic_metadata_string(raw, namespace, key, text)
        })
    }

    update_metrics_with!(update: network_filter_increment_counter, network_filter_set_gauge,
        network_filter_increment_gauge, network_filter_decrement_gauge, network_filter_record_histogram_value);

    fn get_connection_state(&self) -> ConnectionState {
        // SAFETY: `raw` is valid.
        let state = unsafe { callback::network_filter_get_connection_state(self.raw) };
        ConnectionState::try_from(state).unwrap_or(ConnectionState::Closed)
    }

    fn read_disable(&mut self, disable: bool) -> ReadDisableStatus {
        // SAFETY: `raw` is valid.
        let status = unsafe { callback::network_filter_read_disable(self.raw, disable) };
        ReadDisableStatus::try_from(status).unwrap_or(ReadDisableStatus::NoTransition)
    }

    fn read_enabled(&self) -> bool {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_read_enabled(self.raw) }
    }

    fn is_half_close_enabled(&self) -> bool {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_is_half_close_enabled(self.raw) }
    }

    fn enable_half_close(&mut self, enabled: bool) {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_enable_half_close(self.raw, enabled) }
    }

    fn get_buffer_limit(&self) -> u32 {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_get_buffer_limit(self.raw) }
    }

    fn set_buffer_limits(&mut self, limit: u32) {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_set_buffer_limits(self.raw, limit) }
    }

    fn above_high_watermark(&self) -> bool {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_above_high_watermark(self.raw) }
    }

    fn new_scheduler(&self) -> impl EnvoyNetworkFilterScheduler + 'static {
        // SAFETY: `raw` is valid.
        let raw = unsafe { callback::network_filter_scheduler_new(self.raw) };
        Scheduler { raw, gate: Arc::clone(&self.gate) }
    }

    fn get_worker_index(&self) -> u32 {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_get_worker_index(self.raw) }
    }

    fn get_upstream_connection_id(&self) -> u64 {
        // SAFETY: `raw` is valid.
        unsafe { callback::network_filter_get_upstream_connection_id(self.raw) }
    }
}

/// Owns a scheduler of Envoy.
struct Scheduler {
    raw: *mut c_void,
    gate: Arc<Gate>,
}

// SAFETY: the ABI allows commits from any thread, and the deletion of what is a weak pointer.
unsafe impl Send for Scheduler {}
// SAFETY: as above; commits may run at the same time.
unsafe impl Sync for Scheduler {}

impl EnvoyNetworkFilterScheduler for Scheduler {
    fn commit(&self, event_id: u64) {
        // SAFETY: created by `scheduler_new` and not deleted before the drop.
        self.gate.pass(|| unsafe { callback::network_filter_scheduler_commit(self.raw, event_id) });
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: created by `scheduler_new`; nobody uses it after this.
        unsafe { callback::network_filter_scheduler_delete(self.raw) }
    }
}

/// Owns a configuration scheduler of Envoy.
struct ConfigScheduler(*mut c_void);

// SAFETY: the ABI allows commits from any thread, and the deletion of what is a weak pointer.
unsafe impl Send for ConfigScheduler {}
// SAFETY: as above; commits may run at the same time.
unsafe impl Sync for ConfigScheduler {}

impl EnvoyNetworkFilterConfigScheduler for ConfigScheduler {
    fn commit(&self, event_id: u64) {
        // SAFETY: created by `config_scheduler_new` and not deleted before the drop.
        unsafe { callback::network_filter_config_scheduler_commit(self.0, event_id) }
    }
}

impl Drop for ConfigScheduler {
    fn drop(&mut self) {
        // SAFETY: created by `config_scheduler_new`; nobody uses it after this.
        unsafe { callback::network_filter_config_scheduler_delete(self.0) }
    }
}
