//! Envoy's side of a UDP listener filter.

use super::{EnvoyUdpListenerFilter, EnvoyUdpListenerFilterConfig};
use crate::{
    EnvoyBuffer,
    buffer::{AddressCallback, chunks, module_bytes, owned_address},
    callback,
    metrics::{define_metrics_with, update_metrics_with},
};
use std::ffi::c_void;

/// Envoy's UDP listener filter configuration, for the time of a hook.
#[derive(Debug)]
pub struct EnvoyUdpListenerFilterConfigImpl {
    /// Valid while a hook of this configuration runs, and that is as long as this handle exists.
    pub(super) raw: *mut c_void,
}

impl EnvoyUdpListenerFilterConfig for EnvoyUdpListenerFilterConfigImpl {
    define_metrics_with!(define: udp_listener_filter_config_define_counter,
        udp_listener_filter_config_define_gauge, udp_listener_filter_config_define_histogram);
    update_metrics_with!(update: udp_listener_filter_config_increment_counter,
        udp_listener_filter_config_set_gauge, udp_listener_filter_config_increment_gauge,
        udp_listener_filter_config_decrement_gauge, udp_listener_filter_config_record_histogram_value);
}

/// Envoy's UDP listener filter, for the time of a hook.
#[derive(Debug)]
pub struct EnvoyUdpListenerFilterImpl {
    /// Valid while a hook of this filter runs, and that is as long as this handle exists.
    pub(super) raw: *mut c_void,
}

impl EnvoyUdpListenerFilterImpl {
    fn address(&self, callback: AddressCallback) -> Option<(String, u32)> {
        // SAFETY: `raw` is valid, and the callback is one of this object.
        let (address, port) = unsafe { owned_address(callback, self.raw) };
        (!address.is_empty()).then_some((address, port))
    }
}

impl EnvoyUdpListenerFilter for EnvoyUdpListenerFilterImpl {
    fn get_datagram_data<'a>(&'a self) -> (Vec<EnvoyBuffer<'a>>, usize) {
        // SAFETY: `raw` is valid.
        let count = unsafe { callback::udp_listener_filter_get_datagram_data_chunks_size(self.raw) };
        // SAFETY: `raw` is valid; the datagram has as many chunks as it said, and changing it takes `&mut
        // self`.
        let chunks = unsafe {
            chunks(count, |chunks| callback::udp_listener_filter_get_datagram_data_chunks(self.raw, chunks))
        }
        .unwrap_or_default();
        let length = chunks.iter().map(|chunk| chunk.as_slice().len()).sum();
        (chunks, length)
    }

    fn set_datagram_data(&mut self, data: &[u8]) -> bool {
        // SAFETY: `raw` is valid; Envoy copies the bytes.
        unsafe { callback::udp_listener_filter_set_datagram_data(self.raw, module_bytes(data)) }
    }

    fn get_peer_address(&self) -> Option<(String, u32)> {
        self.address(callback::udp_listener_filter_get_peer_address)
    }

    fn get_local_address(&self) -> Option<(String, u32)> {
        self.address(callback::udp_listener_filter_get_local_address)
    }

    fn send_datagram(&mut self, data: &[u8], peer_address: &str, peer_port: u32) -> bool {
        let (data, address) = (module_bytes(data), module_bytes(peer_address.as_bytes()));
        // SAFETY: `raw` is valid; Envoy copies the bytes and the address.
        unsafe { callback::udp_listener_filter_send_datagram(self.raw, data, address, peer_port) }
    }

    update_metrics_with!(update: udp_listener_filter_increment_counter, udp_listener_filter_set_gauge,
        udp_listener_filter_increment_gauge, udp_listener_filter_decrement_gauge,
        udp_listener_filter_record_histogram_value);

    fn get_worker_index(&self) -> u32 {
        // SAFETY: `raw` is valid.
        unsafe { callback::udp_listener_filter_get_worker_index(self.raw) }
    }
}
