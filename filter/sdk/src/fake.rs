//! What of Envoy the unit tests need: its functions, under their C names.
//!
//! An "Envoy object" is a [`Fake`]; a test keeps it and passes its address. Functions that no test reaches
//! are not defined, and the linker does not miss them.

use crate::{
    abi::{
        envoy_dynamic_module_type_envoy_buffer as EnvoyBytes,
        envoy_dynamic_module_type_host_health as HostHealth,
        envoy_dynamic_module_type_module_buffer as ModuleBytes,
        envoy_dynamic_module_type_network_connection_close_type as CloseType,
        envoy_dynamic_module_type_network_connection_event as Event,
    },
    buffer::envoy_bytes,
};
use std::{
    cell::{Cell, RefCell},
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

/// What a fake function does besides taking a note.
pub(crate) type Script = Box<dyn Fn(&Fake)>;

/// An object of Envoy.
#[derive(Default)]
pub(crate) struct Fake {
    /// The names of the functions called, with what matters of their arguments.
    pub(crate) calls: RefCell<Vec<String>>,
    /// Run by functions that may call hooks.
    pub(crate) script: RefCell<Option<Script>>,
    /// What functions that return a number return.
    pub(crate) answer: Cell<u32>,
}

impl Fake {
    /// The object as the hooks take it.
    pub(crate) fn raw(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// The notes so far.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.calls.take()
    }

    fn call(&self, note: String) {
        self.calls.borrow_mut().push(note);
        // A script that calls a hook that calls this function again must find it in place only once.
        let script = self.script.take();
        if let Some(script) = script {
            script(self);
            self.script.replace(Some(script));
        }
    }
}

/// The object behind a pointer.
///
/// # Safety
///
/// `raw` came from [`Fake::raw`] of an object that still exists.
unsafe fn fake<'a>(raw: *mut c_void) -> &'a Fake {
    // SAFETY: the caller's promise.
    unsafe { &*raw.cast::<Fake>() }
}

/// The text of a buffer of the module.
///
/// # Safety
///
/// The buffer is valid.
unsafe fn text(buffer: ModuleBytes) -> String {
    let buffer = EnvoyBytes { ptr: buffer.ptr, length: buffer.length };
    // SAFETY: the caller's promise.
    String::from_utf8_lossy(unsafe { envoy_bytes(buffer) }).into_owned()
}

/// Defines functions of Envoy under their C names.
macro_rules! fakes {
    ($($name:ident($raw:ident $(, $argument:ident: $type:ty)*) $(-> $result:ty)? $body:block)+) => {
        $(
            #[unsafe(export_name = concat!("envoy_dynamic_module_callback_", stringify!($name)))]
            unsafe extern "C" fn $name($raw: *mut c_void $(, $argument: $type)*) $(-> $result)? {
                // SAFETY: the tests pass objects that exist, and the module valid buffers.
                unsafe { $body }
            }
        )+
    };
}

fakes! {
    network_filter_close(raw, how: CloseType) { fake(raw).call(format!("close {how:?}")) }
    network_filter_write(raw, data: ModuleBytes, end_stream: bool) {
        fake(raw).call(format!("write {} {end_stream}", text(data)));
    }
    network_filter_get_connection_state(raw) -> u32 { fake(raw).answer.get() }
    network_filter_read_disable(raw, _disable: bool) -> u32 { fake(raw).answer.get() }
    network_filter_increment_counter(raw, _id: usize, _value: u64) -> u32 {
        fake(raw).answer.get()
    }
    network_filter_scheduler_new(raw) -> *mut c_void {
        fake(raw).call("new scheduler".into());
        Box::into_raw(Box::<AtomicU64>::default()).cast()
    }
    network_filter_scheduler_commit(raw, event_id: u64) {
        (*raw.cast::<AtomicU64>()).fetch_add(event_id, Ordering::SeqCst);
        COMMITTED.fetch_add(event_id, Ordering::SeqCst);
    }
    network_filter_scheduler_delete(raw) {
        drop(Box::from_raw(raw.cast::<AtomicU64>()));
    }

    health_checker_scheduler_new(raw) -> *mut c_void {
        fake(raw).call("new scheduler".into());
        raw
    }
    health_checker_scheduler_report(raw, health: HostHealth) { fake(raw).call(format!("report {health:?}")) }
    health_checker_scheduler_delete(raw) { fake(raw).call("delete scheduler".into()) }
    health_checker_get_host_address(raw, _result: *mut EnvoyBytes) -> bool {
        fake(raw).call("address".into());
        false
    }
    health_checker_get_host_metadata_string(
        raw, filter_name: ModuleBytes, key: ModuleBytes, result: *mut EnvoyBytes
    ) -> bool {
        fake(raw).call(format!("metadata {} {}", text(filter_name), text(key)));
        *result = EnvoyBytes { ptr: c"192.0.2.1:80".as_ptr(), length: 12 };
        fake(raw).answer.get() != 0
    }
    health_checker_get_host_metadata_number(
        raw, _filter_name: ModuleBytes, _key: ModuleBytes, result: *mut f64
    ) -> bool {
        *result = 0.5;
        fake(raw).answer.get() != 0
    }
    health_checker_get_host_metadata_bool(
        raw, _filter_name: ModuleBytes, _key: ModuleBytes, result: *mut bool
    ) -> bool {
        *result = true;
        fake(raw).answer.get() != 0
    }
    health_checker_get_host_health(raw) -> u32 { fake(raw).answer.get() }

    transport_socket_raise_event(raw, event: Event) {
        fake(raw).call(format!("raise {event:?}"));
    }
    transport_socket_set_is_readable(raw) { fake(raw).call("set readable".into()) }
    transport_socket_set_is_writable(raw) { fake(raw).call("set writable".into()) }
    transport_socket_flush_write_buffer(raw) { fake(raw).call("flush".into()) }
    transport_socket_io_write(
        raw, _data: *const u8, length: usize, written: *mut usize
    ) -> u32 {
        *written = length;
        fake(raw).answer.get()
    }
    transport_socket_io_shutdown_write(raw) { fake(raw).call("shutdown".into()) }
    transport_socket_io_read_to_read_buffer(
        raw, max_length: usize, read: *mut usize
    ) -> u32 {
        fake(raw).call(format!("read up to {max_length}"));
        *read = 7;
        fake(raw).answer.get()
    }
    transport_socket_io_write_from_write_buffer(
        raw, written: *mut usize
    ) -> u32 {
        fake(raw).call("write".into());
        *written = 5;
        fake(raw).answer.get()
    }
}

/// The sum of what was committed in this process.
pub(crate) static COMMITTED: AtomicU64 = AtomicU64::new(0);
