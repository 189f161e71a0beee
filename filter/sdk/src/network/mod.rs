//! Network filters: one object for each connection of a listener's filter chain.

mod envoy;
mod hooks;
mod slot;

use crate::{
    EnvoyBuffer, abi,
    metrics::{declare_metric_definitions, declare_metric_updates},
};
pub use envoy::{EnvoyNetworkFilterConfigImpl, EnvoyNetworkFilterImpl};

/// The configuration of a network filter, on Envoy's side.
pub trait EnvoyNetworkFilterConfig {
    declare_metric_definitions!();
    declare_metric_updates!();

    /// A handle that wakes [`NetworkFilterConfig::on_config_scheduled`] from any thread.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_config_scheduler_new`.
    fn new_config_scheduler(&self) -> impl EnvoyNetworkFilterConfigScheduler + 'static;
}

/// The configuration of a network filter, on the module's side; `Drop` is the place for cleanup.
///
/// `Send` is more than the official trait asks for: Envoy drops the configuration on whichever thread gives
/// up the last reference to it, be it that of a connection.
pub trait NetworkFilterConfig<ENF: EnvoyNetworkFilter>: Send + Sync {
    /// Creates the filter of a new connection, on the worker thread of the connection.
    ///
    /// Source: `envoy_dynamic_module_on_network_filter_new`.
    fn new_network_filter(&self, envoy: &mut ENF) -> Box<dyn NetworkFilter<ENF>>;

    /// A configuration scheduler's event, on the main thread.
    ///
    /// Source: `envoy_dynamic_module_on_network_filter_config_scheduled`.
    fn on_config_scheduled(&self, event_id: u64) {
        let _ = event_id;
    }
}

/// A network filter, on the module's side. Its hooks run on the worker thread of the connection, and so does
/// `Drop`, which is the place for cleanup: after a panic no further hook is called.
pub trait NetworkFilter<ENF: EnvoyNetworkFilter> {
    /// The connection is there.
    ///
    /// Source: `envoy_dynamic_module_on_network_filter_new_connection`.
    fn on_new_connection(
        &mut self,
        envoy_filter: &mut ENF,
    ) -> abi::envoy_dynamic_module_type_on_network_filter_data_status {
        let _ = envoy_filter;
        abi::envoy_dynamic_module_type_on_network_filter_data_status::Continue
    }

    /// Bytes arrived from the peer: `data_length` are in the read buffer, those of earlier calls that were
    /// not drained included. `end_stream`: no more will follow.
    ///
    /// Source: `envoy_dynamic_module_on_network_filter_read`.
    fn on_read(
        &mut self,
        envoy_filter: &mut ENF,
        data_length: usize,
        end_stream: bool,
    ) -> abi::envoy_dynamic_module_type_on_network_filter_data_status {
        let _ = (envoy_filter, data_length, end_stream);
        abi::envoy_dynamic_module_type_on_network_filter_data_status::Continue
    }

    /// Bytes are on their way to the peer.
    ///
    /// Source: `envoy_dynamic_module_on_network_filter_write`.
    fn on_write(
        &mut self,
        envoy_filter: &mut ENF,
        data_length: usize,
        end_stream: bool,
    ) -> abi::envoy_dynamic_module_type_on_network_filter_data_status {
        let _ = (envoy_filter, data_length, end_stream);
        abi::envoy_dynamic_module_type_on_network_filter_data_status::Continue
    }

    /// The connection changed its state. After a close event no other hook follows.
    ///
    /// Source: `envoy_dynamic_module_on_network_filter_event`.
    fn on_event(
        &mut self,
        envoy_filter: &mut ENF,
        event: abi::envoy_dynamic_module_type_network_connection_event,
    ) {
        let _ = (envoy_filter, event);
    }

    /// A scheduler's event.
    ///
    /// Source: `envoy_dynamic_module_on_network_filter_scheduled`.
    fn on_scheduled(&mut self, envoy_filter: &mut ENF, event_id: u64) {
        let _ = (envoy_filter, event_id);
    }

    /// Envoy's write buffer of the connection holds more than its limit.
    ///
    /// Source: `envoy_dynamic_module_on_network_filter_above_write_buffer_high_watermark`.
    fn on_above_write_buffer_high_watermark(&mut self, envoy_filter: &mut ENF) {
        let _ = envoy_filter;
    }

    /// Envoy's write buffer of the connection has drained to half its limit.
    ///
    /// Source: `envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark`.
    fn on_below_write_buffer_low_watermark(&mut self, envoy_filter: &mut ENF) {
        let _ = envoy_filter;
    }
}

/// A network filter, on Envoy's side: the connection. Worker thread of the connection only.
///
/// Addresses are numeric, without the port. A returned buffer is good until the next call that takes `&mut
/// self`.
pub trait EnvoyNetworkFilter {
    /// The read buffer's chunks and their total length. Empty before the first `on_read`. Between two calls
    /// of `on_read` it may be asked only if no filter before this one injects: Envoy remembers the buffer
    /// of the last call, and an injected one is gone.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks`.
    fn get_read_buffer_chunks<'a>(&'a mut self) -> (Vec<EnvoyBuffer<'a>>, usize);

    /// Drops bytes from the start of the read buffer; more than there are drops all.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_drain_read_buffer`.
    fn drain_read_buffer(&mut self, length: usize);

    /// Adds bytes behind those that are about to be written. Only inside of `on_write`, and then only to what it is called for.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_append_write_buffer`.
    fn append_write_buffer(&mut self, data: &[u8]);

    /// Writes to the peer, through the write filters of the chain. Without bytes and without `end_stream`
    /// it does nothing.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_write`.
    fn write(&mut self, data: &[u8], end_stream: bool);

    /// Passes bytes to the filters behind this one as if they had been read.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_inject_read_data`.
    fn inject_read_data(&mut self, data: &[u8], end_stream: bool);

    /// Goes on with the filters behind this one after a `StopIteration`.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_continue_reading`.
    fn continue_reading(&mut self);

    /// Closes the connection.
    ///
    /// A user-space connection, which is what an internal listener has, is reset if it is closed before the
    /// peer's end of stream was read, whatever the type: the peer reads an error, and loses the bytes it
    /// has not read yet. To end one in order, [`write`](Self::write) the end of the stream and wait for the
    /// peer's.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_close`.
    fn close(&mut self, close_type: abi::envoy_dynamic_module_type_network_connection_close_type);

    /// As [`close`](Self::close), with the text that access logs show as `%CONNECTION_TERMINATION_DETAILS%`.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_close_with_details`.
    fn close_with_details(
        &mut self,
        close_type: abi::envoy_dynamic_module_type_network_connection_close_type,
        details: &str,
    );

    /// Holds closing back, or no longer, while this filter has work to do.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_disable_close`.
    fn disable_close(&mut self, disabled: bool);

    /// The connection's id, unique in the process.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_connection_id`.
    fn get_connection_id(&self) -> u64;

    /// The peer's address and port, or `("", 0)` if it is not an IP address.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_remote_address`.
    fn get_remote_address(&self) -> (String, u32);

    /// This side's address and port, or `("", 0)` if it is not an IP address.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_local_address`.
    fn get_local_address(&self) -> (String, u32);

    /// The peer's address and port before a listener filter (PROXY protocol) replaced it.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_direct_remote_address`.
    fn get_direct_remote_address<'a>(&'a self) -> Option<(EnvoyBuffer<'a>, u32)>;

    /// An attribute of the connection that is a text.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_attribute_string`.
    fn get_attribute_string<'a>(
        &'a self,
        attribute_id: abi::envoy_dynamic_module_type_attribute_id,
    ) -> Option<EnvoyBuffer<'a>>;

    /// An attribute of the connection that is a number.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_attribute_int`.
    fn get_attribute_int(&self, attribute_id: abi::envoy_dynamic_module_type_attribute_id) -> Option<i64>;

    /// Sets a filter state object of raw bytes.
    ///
    /// Source: `envoy_dynamic_module_callback_network_set_filter_state_bytes`.
    fn set_filter_state_bytes(&mut self, key: &[u8], value: &[u8]) -> bool;

    /// A filter state object of raw bytes; `None` also for one that is empty or was set by other means.
    ///
    /// Source: `envoy_dynamic_module_callback_network_get_filter_state_bytes`.
    fn get_filter_state_bytes<'a>(&'a self, key: &[u8]) -> Option<EnvoyBuffer<'a>>;

    /// Sets a filter state object through Envoy's factory for this key; `false` if there is none, or it
    /// refuses.
    ///
    /// Source: `envoy_dynamic_module_callback_network_set_filter_state_typed`.
    fn set_filter_state_typed(&mut self, key: &[u8], value: &[u8]) -> bool;

    /// The serialized form of a filter state object of any type; `None` also for an empty one.
    ///
    /// Source: `envoy_dynamic_module_callback_network_get_filter_state_typed`.
    fn get_filter_state_typed<'a>(&'a self, key: &[u8]) -> Option<EnvoyBuffer<'a>>;

    /// Sets a text in the connection's dynamic metadata.
    ///
    /// Source: `envoy_dynamic_module_callback_network_set_dynamic_metadata_string`.
    fn set_dynamic_metadata_string(&mut self, namespace: &str, key: &str, value: &str);

    /// A text in the connection's dynamic metadata; `None` also for an empty one.
    ///
    /// Source: `envoy_dynamic_module_callback_network_get_dynamic_metadata_string`.
    fn get_dynamic_metadata_string<'a>(&'a self, namespace: &str, key: &str) -> Option<EnvoyBuffer<'a>>;

    declare_metric_updates!();

    /// The connection's state.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_connection_state`.
    fn get_connection_state(&self) -> abi::envoy_dynamic_module_type_network_connection_state;

    /// Stops or resumes reading from the peer. Envoy counts: two calls with `true` need two with `false`.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_read_disable`.
    fn read_disable(&mut self, disable: bool) -> abi::envoy_dynamic_module_type_network_read_disable_status;

    /// Whether Envoy reads from the peer.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_read_enabled`.
    fn read_enabled(&self) -> bool;

    /// Whether the peer's end of stream leaves the other direction open.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_is_half_close_enabled`.
    fn is_half_close_enabled(&self) -> bool;

    /// Sets what [`is_half_close_enabled`](Self::is_half_close_enabled) tells.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_enable_half_close`.
    fn enable_half_close(&mut self, enabled: bool);

    /// The soft limit of the connection's buffers, in bytes; 0 for none.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_buffer_limit`.
    fn get_buffer_limit(&self) -> u32;

    /// Sets what [`get_buffer_limit`](Self::get_buffer_limit) tells: the high watermark of the write
    /// buffer, and how much is read at once.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_set_buffer_limits`.
    fn set_buffer_limits(&mut self, limit: u32);

    /// Whether the write buffer is above its high watermark and has not yet drained to the low one.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_above_high_watermark`.
    fn above_high_watermark(&self) -> bool;

    /// A handle that wakes [`NetworkFilter::on_scheduled`] from any thread.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_scheduler_new`.
    fn new_scheduler(&self) -> impl EnvoyNetworkFilterScheduler + 'static;

    /// The number of the worker thread, from 0.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_worker_index`.
    fn get_worker_index(&self) -> u32;

    /// The id of the upstream connection; 0 until there is one. `tcp_proxy` has one when a host has accepted.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_get_upstream_connection_id`.
    fn get_upstream_connection_id(&self) -> u64;
}

/// Wakes a network filter from any thread.
pub trait EnvoyNetworkFilterScheduler: Send + Sync {
    /// Has [`NetworkFilter::on_scheduled`] called with this event on the worker thread, unless the
    /// connection is closed by then. Every commit is a call of its own.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_scheduler_commit`.
    fn commit(&self, event_id: u64);
}

impl EnvoyNetworkFilterScheduler for Box<dyn EnvoyNetworkFilterScheduler> {
    fn commit(&self, event_id: u64) {
        (**self).commit(event_id);
    }
}

/// Wakes a network filter configuration from any thread.
pub trait EnvoyNetworkFilterConfigScheduler: Send + Sync {
    /// Has [`NetworkFilterConfig::on_config_scheduled`] called with this event on the main thread, if the
    /// configuration still exists then.
    ///
    /// Source: `envoy_dynamic_module_callback_network_filter_config_scheduler_commit`.
    fn commit(&self, event_id: u64);
}

impl EnvoyNetworkFilterConfigScheduler for Box<dyn EnvoyNetworkFilterConfigScheduler> {
    fn commit(&self, event_id: u64) {
        (**self).commit(event_id);
    }
}
