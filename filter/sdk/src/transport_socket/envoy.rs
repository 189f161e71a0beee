//! Envoy's side of a transport socket.

use super::{ConnectionEvent, EnvoyTransportSocket, IoStatus};
use crate::{
    abi::envoy_dynamic_module_type_transport_socket_io_status as AbiIoStatus,
    buffer::{chunks, owned_address},
    callback,
};
use std::{cell::Cell, ffi::c_void, ptr, rc::Rc};

/// Envoy's transport socket, for the time of a hook.
#[derive(Debug)]
pub struct EnvoyTransportSocketImpl {
    /// Valid while a hook of this socket runs, and that is as long as this handle exists.
    raw: *mut c_void,
    /// Whether Envoy has closed the socket below. A user-space socket of Envoy must not be shut down after
    /// that.
    closed: Rc<Cell<bool>>,
}

impl EnvoyTransportSocketImpl {
    /// A handle for the time of a hook.
    ///
    /// # Safety
    ///
    /// `raw` is Envoy's transport socket, and outlives the handle.
    pub(super) unsafe fn new(raw: *mut c_void, closed: Rc<Cell<bool>>) -> Self {
        Self { raw, closed }
    }

    /// Runs one operation on the socket below, unless it is closed.
    fn io(&self, operation: impl FnOnce(*mut c_void, *mut usize) -> u32) -> (IoStatus, usize) {
        if self.closed.get() {
            return (IoStatus::Error, 0);
        }
        let mut bytes = 0;
        let status = operation(self.raw, &raw mut bytes);
        (AbiIoStatus::try_from(status).map_or(IoStatus::Error, Into::into), bytes)
    }
}

impl EnvoyTransportSocket for EnvoyTransportSocketImpl {
    fn io_read(&self, buffer: &mut [u8]) -> (IoStatus, usize) {
        // SAFETY: `raw` is valid; `buffer` is valid for writes of its length, and so is the result.
        self.io(|raw, read| unsafe {
            callback::transport_socket_io_read(raw, buffer.as_mut_ptr().cast(), buffer.len(), read)
        })
    }

    fn io_write(&self, data: &[u8]) -> (IoStatus, usize) {
        // SAFETY: `raw` is valid; `data` is valid for reads of its length, and the result for writes.
        self.io(|raw, written| unsafe {
            callback::transport_socket_io_write(raw, data.as_ptr().cast(), data.len(), written)
        })
    }

    fn io_read_to_read_buffer(&self, max_length: usize) -> (IoStatus, usize) {
        // SAFETY: `raw` is valid, and the result is valid for writes.
        self.io(|raw, read| unsafe {
            callback::transport_socket_io_read_to_read_buffer(raw, max_length, read)
        })
    }

    fn io_write_from_write_buffer(&self) -> (IoStatus, usize) {
        // SAFETY: `raw` is valid, and the result is valid for writes.
        self.io(|raw, written| unsafe { callback::transport_socket_io_write_from_write_buffer(raw, written) })
    }

    fn io_shutdown_write(&self) {
        if !self.closed.get() {
            // SAFETY: `raw` is valid.
            unsafe { callback::transport_socket_io_shutdown_write(self.raw) }
        }
    }

    fn get_fd(&self) -> Option<i32> {
        // SAFETY: `raw` is valid.
        let fd = unsafe { callback::transport_socket_get_fd(self.raw) };
        (fd >= 0).then_some(fd)
    }

    fn read_buffer_add(&self, data: &[u8]) {
        // SAFETY: `raw` is valid; Envoy copies the bytes.
        unsafe { callback::transport_socket_read_buffer_add(self.raw, data.as_ptr().cast(), data.len()) }
    }

    fn copy_write_buffer(&self, out: &mut Vec<u8>) {
        let mut count = 0;
        // SAFETY: `raw` is valid; without an array Envoy only counts.
        unsafe {
            callback::transport_socket_write_buffer_get_slices(self.raw, ptr::null_mut(), &raw mut count);
        }
        // SAFETY: `raw` is valid; Envoy fills in at most as many as `count` says. They are copied at once.
        let chunks = unsafe {
            chunks(count, |chunks| {
                callback::transport_socket_write_buffer_get_slices(self.raw, chunks, &raw mut count);
                true
            })
        };
        for chunk in chunks.unwrap_or_default() {
            out.extend_from_slice(chunk.as_slice());
        }
    }

    fn write_buffer_drain(&self, length: usize) {
        // SAFETY: `raw` is valid.
        unsafe { callback::transport_socket_write_buffer_drain(self.raw, length) }
    }

    fn write_buffer_length(&self) -> usize {
        // SAFETY: `raw` is valid.
        unsafe { callback::transport_socket_write_buffer_length(self.raw) }
    }

    fn raise_event(&self, event: ConnectionEvent) {
        // SAFETY: `raw` is valid.
        unsafe { callback::transport_socket_raise_event(self.raw, event.into()) }
    }

    fn should_drain_read_buffer(&self) -> bool {
        // SAFETY: `raw` is valid.
        unsafe { callback::transport_socket_should_drain_read_buffer(self.raw) }
    }

    fn set_is_readable(&self) {
        if !self.closed.get() {
            // SAFETY: `raw` is valid.
            unsafe { callback::transport_socket_set_is_readable(self.raw) }
        }
    }

    fn set_is_writable(&self) {
        if !self.closed.get() {
            // SAFETY: `raw` is valid.
            unsafe { callback::transport_socket_set_is_writable(self.raw) }
        }
    }

    fn flush_write_buffer(&self) {
        if !self.closed.get() {
            // SAFETY: `raw` is valid.
            unsafe { callback::transport_socket_flush_write_buffer(self.raw) }
        }
    }

    fn get_remote_address(&self) -> (String, u32) {
        // SAFETY: `raw` is valid.
        unsafe { owned_address(callback::transport_socket_get_remote_address, self.raw) }
    }

    fn get_local_address(&self) -> (String, u32) {
        // SAFETY: `raw` is valid.
        unsafe { owned_address(callback::transport_socket_get_local_address, self.raw) }
    }
}
