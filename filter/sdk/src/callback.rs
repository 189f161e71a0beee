//! The functions that Envoy offers to a module, resolved when Envoy loads it.
//!
//! The C name of each is `envoy_dynamic_module_callback_` and the name here. Common contract: a pointer to an
//! Envoy object is valid while a hook that received it runs, and, for a configuration, until its `destroy`
//! hook. Buffers that point into the module are read before the call returns. Results that are enums in C are
//! `u32` here; see [`crate::abi`].

use crate::abi::{
    envoy_dynamic_module_type_attribute_id as AttributeId,
    envoy_dynamic_module_type_envoy_buffer as EnvoyBytes,
    envoy_dynamic_module_type_host_health as HostHealth, envoy_dynamic_module_type_log_level as LogLevel,
    envoy_dynamic_module_type_module_buffer as ModuleBytes,
    envoy_dynamic_module_type_network_connection_close_type as CloseType,
    envoy_dynamic_module_type_network_connection_event as Event,
};
use std::ffi::{c_char, c_int, c_void};

/// Pointer to an object of Envoy.
type Ptr = *mut c_void;

/// Declares foreign functions under their C names.
macro_rules! callbacks {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)+) => {
        unsafe extern "C" {
            $(
                #[link_name = concat!("envoy_dynamic_module_callback_", stringify!($name))]
                pub(crate) fn $name($($argument: $type),*) $(-> $result)?;
            )+
        }
    };
}

// Logging.
callbacks! {
    log_enabled(level: LogLevel) -> bool;
    log(level: LogLevel, message: ModuleBytes);
}

// Bootstrap extension.
callbacks! {
    bootstrap_extension_config_signal_init_complete(config: Ptr);
    bootstrap_extension_config_scheduler_new(config: Ptr) -> Ptr;
    bootstrap_extension_config_scheduler_commit(scheduler: Ptr, event_id: u64);
    bootstrap_extension_config_scheduler_delete(scheduler: Ptr);
    bootstrap_extension_timer_new(config: Ptr) -> Ptr;
    bootstrap_extension_timer_enable(timer: Ptr, delay_milliseconds: u64);
    bootstrap_extension_timer_disable(timer: Ptr);
    bootstrap_extension_timer_enabled(timer: Ptr) -> bool;
    bootstrap_extension_timer_delete(timer: Ptr);
    bootstrap_extension_register_admin_handler(
        config: Ptr, path_prefix: ModuleBytes, help_text: ModuleBytes, removable: bool,
        mutates_server_state: bool
    ) -> bool;
    bootstrap_extension_remove_admin_handler(config: Ptr, path_prefix: ModuleBytes) -> bool;
    bootstrap_extension_admin_set_response(config: Ptr, response_body: ModuleBytes);
    bootstrap_extension_enable_listener_lifecycle(config: Ptr) -> bool;
    bootstrap_extension_config_define_counter(
        config: Ptr, name: ModuleBytes, label_names: *mut ModuleBytes, label_names_length: usize,
        counter_id: *mut usize
    ) -> u32;
    bootstrap_extension_config_define_gauge(
        config: Ptr, name: ModuleBytes, label_names: *mut ModuleBytes, label_names_length: usize,
        gauge_id: *mut usize
    ) -> u32;
    bootstrap_extension_config_define_histogram(
        config: Ptr, name: ModuleBytes, label_names: *mut ModuleBytes, label_names_length: usize,
        histogram_id: *mut usize
    ) -> u32;
    bootstrap_extension_config_increment_counter(
        config: Ptr, id: usize, label_values: *mut ModuleBytes, label_values_length: usize, value: u64
    ) -> u32;
    bootstrap_extension_config_set_gauge(
        config: Ptr, id: usize, label_values: *mut ModuleBytes, label_values_length: usize, value: u64
    ) -> u32;
    bootstrap_extension_config_increment_gauge(
        config: Ptr, id: usize, label_values: *mut ModuleBytes, label_values_length: usize, value: u64
    ) -> u32;
    bootstrap_extension_config_decrement_gauge(
        config: Ptr, id: usize, label_values: *mut ModuleBytes, label_values_length: usize, value: u64
    ) -> u32;
    bootstrap_extension_config_record_histogram_value(
        config: Ptr, id: usize, label_values: *mut ModuleBytes, label_values_length: usize, value: u64
    ) -> u32;
}

// Network filter.
callbacks! {
    network_filter_get_read_buffer_chunks_size(filter: Ptr) -> usize;
    network_filter_get_read_buffer_chunks(filter: Ptr, result_buffer_vector: *mut EnvoyBytes) -> bool;
    network_filter_drain_read_buffer(filter: Ptr, length: usize) -> bool;
    network_filter_append_write_buffer(filter: Ptr, data: ModuleBytes) -> bool;
    network_filter_write(filter: Ptr, data: ModuleBytes, end_stream: bool);
    network_filter_inject_read_data(filter: Ptr, data: ModuleBytes, end_stream: bool);
    network_filter_continue_reading(filter: Ptr);
    network_filter_close(filter: Ptr, close_type: CloseType);
    network_filter_close_with_details(filter: Ptr, close_type: CloseType, details: ModuleBytes);
    network_filter_disable_close(filter: Ptr, disabled: bool);
    network_filter_get_connection_id(filter: Ptr) -> u64;
    network_filter_get_remote_address(filter: Ptr, address_out: *mut EnvoyBytes, port_out: *mut u32) -> bool;
    network_filter_get_local_address(filter: Ptr, address_out: *mut EnvoyBytes, port_out: *mut u32) -> bool;
    network_filter_get_direct_remote_address(
        filter: Ptr, address_out: *mut EnvoyBytes, port_out: *mut u32
    ) -> bool;
    network_filter_get_attribute_string(
        filter: Ptr, attribute_id: AttributeId, result: *mut EnvoyBytes
    ) -> bool;
    network_filter_get_attribute_int(filter: Ptr, attribute_id: AttributeId, result: *mut u64) -> bool;
    network_filter_get_connection_state(filter: Ptr) -> u32;
    network_filter_read_disable(filter: Ptr, disable: bool) -> u32;
    network_filter_read_enabled(filter: Ptr) -> bool;
    network_filter_is_half_close_enabled(filter: Ptr) -> bool;
    network_filter_enable_half_close(filter: Ptr, enabled: bool);
    network_filter_get_buffer_limit(filter: Ptr) -> u32;
    network_filter_set_buffer_limits(filter: Ptr, limit: u32);
    network_filter_above_high_watermark(filter: Ptr) -> bool;
    network_filter_get_worker_index(filter: Ptr) -> u32;
    network_filter_get_upstream_connection_id(filter: Ptr) -> u64;
    network_filter_scheduler_new(filter: Ptr) -> Ptr;
    network_filter_scheduler_commit(scheduler: Ptr, event_id: u64);
    network_filter_scheduler_delete(scheduler: Ptr);
    network_filter_config_scheduler_new(config: Ptr) -> Ptr;
    network_filter_config_scheduler_commit(scheduler: Ptr, event_id: u64);
    network_filter_config_scheduler_delete(scheduler: Ptr);
    network_set_filter_state_bytes(filter: Ptr, key: ModuleBytes, value: ModuleBytes) -> bool;
    network_get_filter_state_bytes(filter: Ptr, key: ModuleBytes, value_out: *mut EnvoyBytes) -> bool;
    network_set_filter_state_typed(filter: Ptr, key: ModuleBytes, value: ModuleBytes) -> bool;
    network_get_filter_state_typed(filter: Ptr, key: ModuleBytes, value_out: *mut EnvoyBytes) -> bool;
    network_set_dynamic_metadata_string(
        filter: Ptr, filter_namespace: ModuleBytes, key: ModuleBytes, value: ModuleBytes
    );
    network_get_dynamic_metadata_string(
        filter: Ptr, filter_namespace: ModuleBytes, key: ModuleBytes, value_out: *mut EnvoyBytes
    ) -> bool;
    network_filter_config_define_counter(config: Ptr, name: ModuleBytes, counter_id: *mut usize) -> u32;
    network_filter_config_define_gauge(config: Ptr, name: ModuleBytes, gauge_id: *mut usize) -> u32;
    network_filter_config_define_histogram(config: Ptr, name: ModuleBytes, histogram_id: *mut usize) -> u32;
    network_filter_config_increment_counter(config: Ptr, id: usize, value: u64) -> u32;
    network_filter_config_set_gauge(config: Ptr, id: usize, value: u64) -> u32;
    network_filter_config_increment_gauge(config: Ptr, id: usize, value: u64) -> u32;
    network_filter_config_decrement_gauge(config: Ptr, id: usize, value: u64) -> u32;
    network_filter_config_record_histogram_value(config: Ptr, id: usize, value: u64) -> u32;
    network_filter_increment_counter(filter: Ptr, id: usize, value: u64) -> u32;
    network_filter_set_gauge(filter: Ptr, id: usize, value: u64) -> u32;
    network_filter_increment_gauge(filter: Ptr, id: usize, value: u64) -> u32;
    network_filter_decrement_gauge(filter: Ptr, id: usize, value: u64) -> u32;
    network_filter_record_histogram_value(filter: Ptr, id: usize, value: u64) -> u32;
}

// Transport socket.
callbacks! {
    transport_socket_io_read(socket: Ptr, buffer: *mut c_char, length: usize, bytes_read: *mut usize) -> u32;
    transport_socket_io_write(
        socket: Ptr, buffer: *const c_char, length: usize, bytes_written: *mut usize
    ) -> u32;
    transport_socket_io_read_to_read_buffer(socket: Ptr, max_length: usize, bytes_read: *mut usize) -> u32;
    transport_socket_io_write_from_write_buffer(socket: Ptr, bytes_written: *mut usize) -> u32;
    transport_socket_io_shutdown_write(socket: Ptr);
    transport_socket_get_fd(socket: Ptr) -> c_int;
    transport_socket_read_buffer_add(socket: Ptr, data: *const c_char, length: usize);
    transport_socket_write_buffer_get_slices(socket: Ptr, slices: *mut EnvoyBytes, slices_count: *mut usize);
    transport_socket_write_buffer_drain(socket: Ptr, length: usize);
    transport_socket_write_buffer_length(socket: Ptr) -> usize;
    transport_socket_raise_event(socket: Ptr, event: Event);
    transport_socket_should_drain_read_buffer(socket: Ptr) -> bool;
    transport_socket_set_is_readable(socket: Ptr);
    transport_socket_set_is_writable(socket: Ptr);
    transport_socket_flush_write_buffer(socket: Ptr);
    transport_socket_get_remote_address(
        socket: Ptr, address_out: *mut EnvoyBytes, port_out: *mut u32
    ) -> bool;
    transport_socket_get_local_address(socket: Ptr, address_out: *mut EnvoyBytes, port_out: *mut u32) -> bool;
}

// UDP listener filter.
callbacks! {
    udp_listener_filter_get_datagram_data_chunks_size(filter: Ptr) -> usize;
    udp_listener_filter_get_datagram_data_chunks(filter: Ptr, chunks_out: *mut EnvoyBytes) -> bool;
    udp_listener_filter_set_datagram_data(filter: Ptr, data: ModuleBytes) -> bool;
    udp_listener_filter_get_peer_address(
        filter: Ptr, address_out: *mut EnvoyBytes, port_out: *mut u32
    ) -> bool;
    udp_listener_filter_get_local_address(
        filter: Ptr, address_out: *mut EnvoyBytes, port_out: *mut u32
    ) -> bool;
    udp_listener_filter_send_datagram(
        filter: Ptr, data: ModuleBytes, peer_address: ModuleBytes, peer_port: u32
    ) -> bool;
    udp_listener_filter_get_worker_index(filter: Ptr) -> u32;
    udp_listener_filter_config_define_counter(config: Ptr, name: ModuleBytes, counter_id: *mut usize) -> u32;
    udp_listener_filter_config_define_gauge(config: Ptr, name: ModuleBytes, gauge_id: *mut usize) -> u32;
    udp_listener_filter_config_define_histogram(
        config: Ptr, name: ModuleBytes, histogram_id: *mut usize
    ) -> u32;
    udp_listener_filter_config_increment_counter(config: Ptr, id: usize, value: u64) -> u32;
    udp_listener_filter_config_set_gauge(config: Ptr, id: usize, value: u64) -> u32;
    udp_listener_filter_config_increment_gauge(config: Ptr, id: usize, value: u64) -> u32;
    udp_listener_filter_config_decrement_gauge(config: Ptr, id: usize, value: u64) -> u32;
    udp_listener_filter_config_record_histogram_value(config: Ptr, id: usize, value: u64) -> u32;
    udp_listener_filter_increment_counter(filter: Ptr, id: usize, value: u64) -> u32;
    udp_listener_filter_set_gauge(filter: Ptr, id: usize, value: u64) -> u32;
    udp_listener_filter_increment_gauge(filter: Ptr, id: usize, value: u64) -> u32;
    udp_listener_filter_decrement_gauge(filter: Ptr, id: usize, value: u64) -> u32;
    udp_listener_filter_record_histogram_value(filter: Ptr, id: usize, value: u64) -> u32;
}

// Health checker.
callbacks! {
    health_checker_scheduler_new(session: Ptr) -> Ptr;
    health_checker_scheduler_report(scheduler: Ptr, health: HostHealth);
    health_checker_scheduler_delete(scheduler: Ptr);
    health_checker_get_host_address(session: Ptr, result: *mut EnvoyBytes) -> bool;
    health_checker_get_host_metadata_string(
        session: Ptr, filter_name: ModuleBytes, key: ModuleBytes, result: *mut EnvoyBytes
    ) -> bool;
    health_checker_get_host_metadata_number(
        session: Ptr, filter_name: ModuleBytes, key: ModuleBytes, result: *mut f64
    ) -> bool;
    health_checker_get_host_metadata_bool(
        session: Ptr, filter_name: ModuleBytes, key: ModuleBytes, result: *mut bool
    ) -> bool;
    health_checker_get_host_health(session: Ptr) -> u32;
}
