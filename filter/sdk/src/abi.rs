//! The C types of Envoy's dynamic-modules ABI, version v0.2.0, under their C names.
//!
//! Source: `source/extensions/dynamic_modules/abi/abi.h` of Envoy. Only what this crate needs is declared.
//!
//! An enum type of this module is used where the module *gives* a value to Envoy. Where Envoy gives one to
//! the module, the declarations take a plain `u32` and convert it: a value that a later Envoy may add would
//! otherwise be undefined behaviour.

#![expect(non_camel_case_types, reason = "the names are those of the C header")]

use std::ffi::{c_char, c_void};

/// The ABI version that this crate is written against, as `envoy_dynamic_module_on_program_init` reports it.
#[expect(non_upper_case_globals, reason = "the name is that of the C header")]
pub const envoy_dynamic_modules_abi_version: &[u8; 7] = b"v0.2.0\0";

/// Declares an enum of the ABI and the conversion of a number received from Envoy.
macro_rules! abi_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident,)+ }) => {
        $(#[$meta])*
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl TryFrom<u32> for $name {
            type Error = u32;

            /// The variant with this number, or the number if this ABI version does not know it.
            fn try_from(raw: u32) -> Result<Self, u32> {
                const VARIANTS: &[$name] = &[$($name::$variant),+];
                usize::try_from(raw).ok().and_then(|index| VARIANTS.get(index)).copied().ok_or(raw)
            }
        }
    };
}

abi_enum! {
    /// Severity of a log message.
    envoy_dynamic_module_type_log_level {
        /// Per packet or per event.
        Trace,
        /// Per decision.
        Debug,
        /// Lifecycle.
        Info,
        /// Something an operator must act on.
        Warn,
        /// A failure.
        Error,
        /// A failure of the process.
        Critical,
        /// Nothing is logged.
        Off,
    }
}

abi_enum! {
    /// Outcome of defining or updating a metric.
    envoy_dynamic_module_type_metrics_result {
        /// Done.
        Success,
        /// No metric has this id.
        MetricNotFound,
        /// The label values do not match the labels of the metric.
        InvalidLabels,
        /// Metrics can be defined only while the configuration is being created.
        Frozen,
    }
}

abi_enum! {
    /// Answer of a network filter to `on_new_connection`, `on_read` and `on_write`.
    envoy_dynamic_module_type_on_network_filter_data_status {
        /// Go on with the next filter of the chain.
        Continue,
        /// Stop here; bytes that were not drained stay in Envoy's buffer.
        StopIteration,
    }
}

abi_enum! {
    /// How a network filter closes its connection.
    envoy_dynamic_module_type_network_connection_close_type {
        /// Write what is buffered, then close.
        FlushWrite,
        /// Close at once.
        NoFlush,
        /// Write what is buffered, then wait for the peer to close, up to the delayed-close timeout.
        FlushWriteAndDelay,
        /// Close at once and drop what is buffered.
        Abort,
        /// As `Abort`, with an RST where the transport can carry one.
        AbortReset,
    }
}

abi_enum! {
    /// Connection event.
    envoy_dynamic_module_type_network_connection_event {
        /// The peer closed the connection.
        RemoteClose,
        /// This side closed the connection.
        LocalClose,
        /// The connection is established.
        Connected,
        /// The connection is established with early data.
        ConnectedZeroRtt,
    }
}

abi_enum! {
    /// Connection state.
    envoy_dynamic_module_type_network_connection_state {
        /// Open.
        Open,
        /// Closing: what is buffered is being written.
        Closing,
        /// Closed.
        Closed,
    }
}

abi_enum! {
    /// Effect of `read_disable`, whose calls Envoy counts.
    envoy_dynamic_module_type_network_read_disable_status {
        /// Reading was and is enabled, or the connection is closed.
        NoTransition,
        /// Reading stays disabled.
        StillReadDisabled,
        /// Reading is enabled now.
        TransitionedToReadEnabled,
        /// Reading is disabled now.
        TransitionedToReadDisabled,
    }
}

abi_enum! {
    /// Answer of a UDP listener filter to `on_data`.
    envoy_dynamic_module_type_on_udp_listener_filter_status {
        /// Go on with the next filter of the chain.
        Continue,
        /// The datagram ends here.
        StopIteration,
    }
}

abi_enum! {
    /// What Envoy does with the connection after a transport socket read or wrote.
    envoy_dynamic_module_type_transport_socket_post_io_action {
        /// Nothing.
        KeepOpen,
        /// Close it.
        Close,
    }
}

abi_enum! {
    /// Outcome of one read or write on the socket below a transport socket.
    envoy_dynamic_module_type_transport_socket_io_status {
        /// Bytes moved; a read of zero bytes is the end of the stream.
        Success,
        /// It would block.
        Again,
        /// It failed.
        Error,
    }
}

abi_enum! {
    /// Health of an upstream host.
    envoy_dynamic_module_type_host_health {
        /// It gets no traffic.
        Unhealthy,
        /// It gets traffic if there is no healthy one.
        Degraded,
        /// It gets traffic.
        Healthy,
    }
}

abi_enum! {
    /// Attribute of a stream, in Envoy's attribute vocabulary (`source.address`, `connection.id`, ...).
    #[expect(missing_docs, reason = "each name is that of an attribute in Envoy's documentation")]
    envoy_dynamic_module_type_attribute_id {
        RequestPath,
        RequestUrlPath,
        RequestHost,
        RequestScheme,
        RequestMethod,
        RequestHeaders,
        RequestReferer,
        RequestUserAgent,
        RequestTime,
        RequestId,
        RequestProtocol,
        RequestQuery,
        RequestDuration,
        RequestSize,
        RequestTotalSize,
        ResponseCode,
        ResponseCodeDetails,
        ResponseFlags,
        ResponseGrpcStatus,
        ResponseHeaders,
        ResponseTrailers,
        ResponseSize,
        ResponseTotalSize,
        ResponseBackendLatency,
        SourceAddress,
        SourcePort,
        DestinationAddress,
        DestinationPort,
        ConnectionId,
        ConnectionMtls,
        ConnectionRequestedServerName,
        ConnectionTlsVersion,
        ConnectionSubjectLocalCertificate,
        ConnectionSubjectPeerCertificate,
        ConnectionDnsSanLocalCertificate,
        ConnectionDnsSanPeerCertificate,
        ConnectionUriSanLocalCertificate,
        ConnectionUriSanPeerCertificate,
        ConnectionSha256PeerCertificateDigest,
        ConnectionTransportFailureReason,
        ConnectionTerminationDetails,
        UpstreamAddress,
        UpstreamPort,
        UpstreamTlsVersion,
        UpstreamSubjectLocalCertificate,
        UpstreamSubjectPeerCertificate,
        UpstreamDnsSanLocalCertificate,
        UpstreamDnsSanPeerCertificate,
        UpstreamUriSanLocalCertificate,
        UpstreamUriSanPeerCertificate,
        UpstreamSha256PeerCertificateDigest,
        UpstreamLocalAddress,
        UpstreamTransportFailureReason,
        UpstreamRequestAttemptCount,
        UpstreamCxPoolReadyDuration,
        UpstreamLocality,
        XdsNode,
        XdsClusterName,
        XdsClusterMetadata,
        XdsListenerDirection,
        XdsListenerMetadata,
        XdsRouteName,
        XdsRouteMetadata,
        XdsVirtualHostName,
        XdsVirtualHostMetadata,
        XdsUpstreamHostMetadata,
        XdsFilterChainName,
        HealthCheck,
    }
}

/// Bytes owned by Envoy.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct envoy_dynamic_module_type_envoy_buffer {
    /// First byte; may be null when `length` is zero.
    pub ptr: *const c_char,
    /// Length in bytes.
    pub length: usize,
}

/// Bytes owned by the module.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct envoy_dynamic_module_type_module_buffer {
    /// First byte; may be null when `length` is zero.
    pub ptr: *const c_char,
    /// Length in bytes.
    pub length: usize,
}

/// What a transport socket's read or write step reports to Envoy.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct envoy_dynamic_module_type_transport_socket_io_result {
    /// Whether the connection stays open.
    pub action: envoy_dynamic_module_type_transport_socket_post_io_action,
    /// Bytes moved between Envoy's buffer and the socket.
    pub bytes_processed: u64,
    /// Whether the read found the end of the stream.
    pub end_stream_read: bool,
}

/// A completion that Envoy passes together with a context.
pub type envoy_dynamic_module_type_event_cb = Option<unsafe extern "C" fn(context: *mut c_void)>;

/// Envoy's network filter configuration.
pub type envoy_dynamic_module_type_network_filter_config_envoy_ptr = *mut c_void;
/// The module's network filter configuration.
pub type envoy_dynamic_module_type_network_filter_config_module_ptr = *const c_void;
/// Envoy's network filter.
pub type envoy_dynamic_module_type_network_filter_envoy_ptr = *mut c_void;
/// The module's network filter.
pub type envoy_dynamic_module_type_network_filter_module_ptr = *const c_void;
/// A scheduler of a network filter, owned by the module.
pub type envoy_dynamic_module_type_network_filter_scheduler_module_ptr = *mut c_void;
/// A scheduler of a network filter configuration, owned by the module.
pub type envoy_dynamic_module_type_network_filter_config_scheduler_module_ptr = *mut c_void;
/// Envoy's UDP listener filter configuration.
pub type envoy_dynamic_module_type_udp_listener_filter_config_envoy_ptr = *mut c_void;
/// The module's UDP listener filter configuration.
pub type envoy_dynamic_module_type_udp_listener_filter_config_module_ptr = *const c_void;
/// Envoy's UDP listener filter.
pub type envoy_dynamic_module_type_udp_listener_filter_envoy_ptr = *mut c_void;
/// The module's UDP listener filter.
pub type envoy_dynamic_module_type_udp_listener_filter_module_ptr = *const c_void;
/// Envoy's bootstrap extension configuration.
pub type envoy_dynamic_module_type_bootstrap_extension_config_envoy_ptr = *mut c_void;
/// The module's bootstrap extension configuration.
pub type envoy_dynamic_module_type_bootstrap_extension_config_module_ptr = *const c_void;
/// Envoy's bootstrap extension.
pub type envoy_dynamic_module_type_bootstrap_extension_envoy_ptr = *mut c_void;
/// The module's bootstrap extension.
pub type envoy_dynamic_module_type_bootstrap_extension_module_ptr = *const c_void;
/// A scheduler of a bootstrap extension configuration, owned by the module.
pub type envoy_dynamic_module_type_bootstrap_extension_config_scheduler_module_ptr = *mut c_void;
/// A timer of a bootstrap extension configuration, owned by the module.
pub type envoy_dynamic_module_type_bootstrap_extension_timer_module_ptr = *mut c_void;
/// Envoy's transport socket factory configuration.
pub type envoy_dynamic_module_type_transport_socket_factory_config_envoy_ptr = *mut c_void;
/// The module's transport socket factory configuration.
pub type envoy_dynamic_module_type_transport_socket_factory_config_module_ptr = *const c_void;
/// Envoy's transport socket.
pub type envoy_dynamic_module_type_transport_socket_envoy_ptr = *mut c_void;
/// The module's transport socket.
pub type envoy_dynamic_module_type_transport_socket_module_ptr = *const c_void;
/// Envoy's health checker configuration.
pub type envoy_dynamic_module_type_health_checker_config_envoy_ptr = *mut c_void;
/// The module's health checker configuration.
pub type envoy_dynamic_module_type_health_checker_config_module_ptr = *const c_void;
/// Envoy's health check session of a host.
pub type envoy_dynamic_module_type_health_checker_session_envoy_ptr = *mut c_void;
/// The module's health check session of a host.
pub type envoy_dynamic_module_type_health_checker_session_module_ptr = *const c_void;
/// A scheduler of a health check session, owned by the module.
pub type envoy_dynamic_module_type_health_checker_scheduler_module_ptr = *mut c_void;

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{align_of, offset_of, size_of};

    #[test]
    fn layouts_are_those_of_c() {
        type Buffer = envoy_dynamic_module_type_envoy_buffer;
        type IoResult = envoy_dynamic_module_type_transport_socket_io_result;
        assert_eq!((size_of::<Buffer>(), align_of::<Buffer>(), offset_of!(Buffer, length)), (16, 8, 8));
        assert_eq!((size_of::<IoResult>(), align_of::<IoResult>()), (24, 8));
        assert_eq!((offset_of!(IoResult, bytes_processed), offset_of!(IoResult, end_stream_read)), (8, 16));
        assert_eq!(size_of::<envoy_dynamic_module_type_event_cb>(), size_of::<*const ()>());
    }

    #[test]
    fn numbers_are_those_of_c() {
        type Event = envoy_dynamic_module_type_network_connection_event;
        type CloseType = envoy_dynamic_module_type_network_connection_close_type;
        type AttributeId = envoy_dynamic_module_type_attribute_id;
        assert_eq!(
            [0, 1, 2, 3].map(Event::try_from),
            [
                Ok(Event::RemoteClose),
                Ok(Event::LocalClose),
                Ok(Event::Connected),
                Ok(Event::ConnectedZeroRtt),
            ]
        );
        assert_eq!(CloseType::AbortReset as u32, 4);
        assert_eq!(AttributeId::ConnectionId as u32, 28);
        assert_eq!(AttributeId::HealthCheck as u32, 67);
        assert_eq!(envoy_dynamic_module_type_host_health::Healthy as u32, 2);
        assert_eq!(envoy_dynamic_module_type_log_level::Off as u32, 6);
        for raw in 0..68 {
            assert_eq!(AttributeId::try_from(raw).map(|id| id as u32), Ok(raw));
        }
    }

    #[test]
    fn unknown_numbers_are_refused() {
        assert_eq!(envoy_dynamic_module_type_network_connection_event::try_from(4), Err(4));
        assert_eq!(envoy_dynamic_module_type_metrics_result::try_from(u32::MAX), Err(u32::MAX));
    }
}
