//! Transport sockets: what moves bytes between Envoy's buffers and the socket of a connection.

mod envoy;
mod hooks;
mod slot;

use crate::abi::{
    envoy_dynamic_module_type_network_connection_event as AbiEvent,
    envoy_dynamic_module_type_transport_socket_io_result as AbiIoResult,
    envoy_dynamic_module_type_transport_socket_io_status as AbiIoStatus,
    envoy_dynamic_module_type_transport_socket_post_io_action as AbiPostIoAction,
};
pub use envoy::EnvoyTransportSocketImpl;

/// What happens to the connection after a read or write step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostIoAction {
    /// It stays open.
    KeepOpen,
    /// Envoy closes it.
    Close,
}

impl From<PostIoAction> for AbiPostIoAction {
    fn from(action: PostIoAction) -> Self {
        match action {
            PostIoAction::KeepOpen => Self::KeepOpen,
            PostIoAction::Close => Self::Close,
        }
    }
}

/// What a read or write step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoResult {
    /// What happens to the connection.
    pub action: PostIoAction,
    /// Bytes put into the read buffer, or taken from the write buffer.
    pub bytes_processed: usize,
    /// Whether a read step found the end of the stream. Envoy ignores it in a write step.
    pub end_stream_read: bool,
}

impl IoResult {
    /// The connection stays open.
    pub fn keep_open(bytes_processed: usize, end_stream_read: bool) -> Self {
        Self { action: PostIoAction::KeepOpen, bytes_processed, end_stream_read }
    }

    /// The connection is to be closed.
    pub fn close(bytes_processed: usize, end_stream_read: bool) -> Self {
        Self { action: PostIoAction::Close, bytes_processed, end_stream_read }
    }
}

impl From<IoResult> for AbiIoResult {
    fn from(result: IoResult) -> Self {
        Self {
            action: result.action.into(),
            bytes_processed: result.bytes_processed as u64,
            end_stream_read: result.end_stream_read,
        }
    }
}

/// What one operation on the socket did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoStatus {
    /// Bytes moved. Zero bytes read is the end of the stream.
    Success,
    /// It would block; Envoy calls again when the socket is ready.
    Again,
    /// It failed; the connection is to be closed.
    Error,
}

impl From<AbiIoStatus> for IoStatus {
    fn from(status: AbiIoStatus) -> Self {
        match status {
            AbiIoStatus::Success => Self::Success,
            AbiIoStatus::Again => Self::Again,
            AbiIoStatus::Error => Self::Error,
        }
    }
}

/// A connection event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// The peer closed the connection.
    RemoteClose,
    /// This side closed the connection.
    LocalClose,
    /// The connection is established.
    Connected,
    /// The connection is established with early data.
    ConnectedZeroRtt,
}

impl From<ConnectionEvent> for AbiEvent {
    fn from(event: ConnectionEvent) -> Self {
        match event {
            ConnectionEvent::RemoteClose => Self::RemoteClose,
            ConnectionEvent::LocalClose => Self::LocalClose,
            ConnectionEvent::Connected => Self::Connected,
            ConnectionEvent::ConnectedZeroRtt => Self::ConnectedZeroRtt,
        }
    }
}

impl From<AbiEvent> for ConnectionEvent {
    fn from(event: AbiEvent) -> Self {
        match event {
            AbiEvent::RemoteClose => Self::RemoteClose,
            AbiEvent::LocalClose => Self::LocalClose,
            AbiEvent::Connected => Self::Connected,
            AbiEvent::ConnectedZeroRtt => Self::ConnectedZeroRtt,
        }
    }
}

/// A transport socket, on Envoy's side. Thread of the connection only.
///
/// Envoy's read buffer exists in `on_do_read`, its write buffer in `on_do_write`.
pub trait EnvoyTransportSocket {
    /// Reads from the socket.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_io_read`.
    fn io_read(&self, buffer: &mut [u8]) -> (IoStatus, usize);

    /// Writes to the socket.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_io_write`.
    fn io_write(&self, data: &[u8]) -> (IoStatus, usize);

    /// Reads from the socket into Envoy's read buffer, at most `max_length` bytes, without a copy through the
    /// module. [`IoStatus::Error`] outside of `on_do_read`. New in ABI v0.2.0.
    ///
    /// Unlike [`io_read`](Self::io_read), it takes notice of a reset, of a user-space connection too: it
    /// gives [`IoStatus::Error`], and Envoy then closes the connection as one that was reset.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_io_read_to_read_buffer`.
    fn io_read_to_read_buffer(&self, max_length: usize) -> (IoStatus, usize);

    /// Writes Envoy's write buffer to the socket and drops from it what was written, without a copy through
    /// the module. [`IoStatus::Error`] outside of `on_do_write`. New in ABI v0.2.0.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_io_write_from_write_buffer`.
    fn io_write_from_write_buffer(&self) -> (IoStatus, usize);

    /// Sends the end of the stream.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_io_shutdown_write`.
    fn io_shutdown_write(&self);

    /// The socket's file descriptor, which Envoy owns; `None` for a user-space socket.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_get_fd`.
    fn get_fd(&self) -> Option<i32>;

    /// Appends to the read buffer.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_read_buffer_add`.
    fn read_buffer_add(&self, data: &[u8]);

    /// Appends what the write buffer holds to `out`.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_write_buffer_get_slices`.
    fn copy_write_buffer(&self, out: &mut Vec<u8>);

    /// Drops bytes from the start of the write buffer; more than there are drops all.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_write_buffer_drain`.
    fn write_buffer_drain(&self, length: usize);

    /// How many bytes the write buffer holds.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_write_buffer_length`.
    fn write_buffer_length(&self) -> usize;

    /// Tells the connection's owner of an event. In `on_do_write` the write buffer may be gone after that:
    /// return, and ask for another call.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_raise_event`.
    fn raise_event(&self, event: ConnectionEvent);

    /// Whether a read step should stop, for flow control.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_should_drain_read_buffer`.
    fn should_drain_read_buffer(&self) -> bool;

    /// Asks for another `on_do_read`.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_set_is_readable`.
    fn set_is_readable(&self);

    /// Asks for another `on_do_write`.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_set_is_writable`.
    fn set_is_writable(&self);

    /// Asks for `on_do_write` at once, if there is something to write. From inside a hook, it is called
    /// later.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_flush_write_buffer`.
    fn flush_write_buffer(&self);

    /// The peer's address and port, or `("", 0)` if it is not an IP address.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_get_remote_address`.
    fn get_remote_address(&self) -> (String, u32);

    /// This side's address and port, or `("", 0)` if it is not an IP address.
    ///
    /// Source: `envoy_dynamic_module_callback_transport_socket_get_local_address`.
    fn get_local_address(&self) -> (String, u32);
}

/// The configuration of a transport socket, on the module's side; `Drop` is the place for cleanup.
///
/// `Send` is more than the official trait asks for: Envoy drops the configuration on whichever thread gives
/// up the last reference to it, be it that of a connection.
pub trait TransportSocketFactoryConfig<ETS: EnvoyTransportSocket + ?Sized>: Send + Sync {
    /// Creates the transport socket of a new connection, on the thread of the connection.
    ///
    /// Source: `envoy_dynamic_module_on_transport_socket_new`.
    fn new_transport_socket(&self, envoy: &mut ETS) -> Box<dyn TransportSocket<ETS>>;
}

/// A transport socket, on the module's side. Its hooks run on the thread of the connection, and so does
/// `Drop`, which is the place for cleanup: after a panic no further hook is called.
pub trait TransportSocket<ETS: EnvoyTransportSocket + ?Sized> {
    /// Envoy's side is ready for calls.
    ///
    /// Source: `envoy_dynamic_module_on_transport_socket_set_callbacks`.
    fn on_set_callbacks(&mut self, envoy: &mut ETS);

    /// The socket is connected.
    ///
    /// Source: `envoy_dynamic_module_on_transport_socket_on_connected`.
    fn on_connected(&mut self, envoy: &mut ETS);

    /// Moves bytes from the socket to the read buffer.
    ///
    /// Source: `envoy_dynamic_module_on_transport_socket_do_read`.
    fn on_do_read(&mut self, envoy: &mut ETS) -> IoResult;

    /// Moves bytes from the write buffer to the socket. `end_stream`: nothing follows what is in the buffer.
    ///
    /// Source: `envoy_dynamic_module_on_transport_socket_do_write`.
    fn on_do_write(&mut self, envoy: &mut ETS, end_stream: bool) -> IoResult;

    /// The connection is being closed. `abort_reset`: by an RST.
    ///
    /// Source: `envoy_dynamic_module_on_transport_socket_close`.
    fn on_close(&mut self, envoy: &mut ETS, event: ConnectionEvent, abort_reset: bool);

    /// The negotiated application protocol, or nothing.
    ///
    /// Source: `envoy_dynamic_module_on_transport_socket_get_protocol`.
    fn get_protocol(&self, envoy: &mut ETS) -> String;

    /// Why the connection failed, or nothing. Access logs show it as `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    ///
    /// Source: `envoy_dynamic_module_on_transport_socket_get_failure_reason`.
    fn get_failure_reason(&self, envoy: &mut ETS) -> String;

    /// Whether Envoy may write what is buffered before it closes.
    ///
    /// Source: `envoy_dynamic_module_on_transport_socket_can_flush_close`.
    fn can_flush_close(&self, envoy: &mut ETS) -> bool;

    /// Switches to secure transport, as STARTTLS does; `false` for a socket that cannot.
    ///
    /// Source: `envoy_dynamic_module_on_transport_socket_start_secure_transport`.
    fn start_secure_transport(&mut self, envoy: &mut ETS) -> bool;
}
