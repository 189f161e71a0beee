//! UDP listener filters: one object for each worker thread of a UDP listener.

mod envoy;
mod hooks;

use crate::{
    EnvoyBuffer, abi,
    metrics::{declare_metric_definitions, declare_metric_updates},
};
pub use envoy::{EnvoyUdpListenerFilterConfigImpl, EnvoyUdpListenerFilterImpl};

/// The configuration of a UDP listener filter, on Envoy's side.
pub trait EnvoyUdpListenerFilterConfig {
    declare_metric_definitions!();
    declare_metric_updates!();
}

/// The configuration of a UDP listener filter, on the module's side; `Drop` is the place for cleanup.
///
/// `Send` is more than the official trait asks for: Envoy drops the configuration on whichever thread gives
/// up the last reference to it.
pub trait UdpListenerFilterConfig<ELF: EnvoyUdpListenerFilter>: Send + Sync {
    /// Creates the filter of one worker thread, on that thread.
    ///
    /// Source: `envoy_dynamic_module_on_udp_listener_filter_new`.
    fn new_udp_listener_filter(&self, envoy: &mut ELF) -> Box<dyn UdpListenerFilter<ELF>>;
}

/// A UDP listener filter, on the module's side. After a panic it is gone, and every later datagram is
/// dropped.
pub trait UdpListenerFilter<ELF: EnvoyUdpListenerFilter> {
    /// A datagram arrived. `StopIteration` drops it.
    ///
    /// Source: `envoy_dynamic_module_on_udp_listener_filter_on_data`.
    fn on_data(
        &mut self,
        envoy_filter: &mut ELF,
    ) -> abi::envoy_dynamic_module_type_on_udp_listener_filter_status {
        let _ = envoy_filter;
        abi::envoy_dynamic_module_type_on_udp_listener_filter_status::Continue
    }
}

/// A UDP listener filter, on Envoy's side: the listener, and in `on_data` the datagram. One thread only.
///
/// Addresses are numeric, without the port.
pub trait EnvoyUdpListenerFilter {
    /// The datagram's chunks and their total length.
    ///
    /// Source: `envoy_dynamic_module_callback_udp_listener_filter_get_datagram_data_chunks`.
    fn get_datagram_data<'a>(&'a self) -> (Vec<EnvoyBuffer<'a>>, usize);

    /// Replaces what the datagram carries. `false` outside of `on_data`.
    ///
    /// Source: `envoy_dynamic_module_callback_udp_listener_filter_set_datagram_data`.
    fn set_datagram_data(&mut self, data: &[u8]) -> bool;

    /// Where the datagram came from.
    ///
    /// Source: `envoy_dynamic_module_callback_udp_listener_filter_get_peer_address`.
    fn get_peer_address(&self) -> Option<(String, u32)>;

    /// Where the datagram went to, or the listener's address.
    ///
    /// Source: `envoy_dynamic_module_callback_udp_listener_filter_get_local_address`.
    fn get_local_address(&self) -> Option<(String, u32)>;

    /// Sends a datagram from the listener's socket. `false` if the address is not numeric or sending failed.
    ///
    /// Source: `envoy_dynamic_module_callback_udp_listener_filter_send_datagram`.
    fn send_datagram(&mut self, data: &[u8], peer_address: &str, peer_port: u32) -> bool;

    declare_metric_updates!();

    /// The number of the worker thread, from 0.
    ///
    /// Source: `envoy_dynamic_module_callback_udp_listener_filter_get_worker_index`.
    fn get_worker_index(&self) -> u32;
}
