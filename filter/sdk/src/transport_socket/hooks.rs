//! The hooks that Envoy calls for a transport socket. All of them must exist, or Envoy refuses the module.

use super::{EnvoyTransportSocketImpl, TransportSocketFactoryConfig, slot::Slot};
use crate::{
    abi::{
        envoy_dynamic_module_type_envoy_buffer as EnvoyBytes,
        envoy_dynamic_module_type_module_buffer as ModuleBytes,
        envoy_dynamic_module_type_network_connection_event as Event,
        envoy_dynamic_module_type_transport_socket_io_result as AbiIoResult,
    },
    buffer::{envoy_bytes, envoy_text},
    callback, envoy_log_error,
    guard::{Entered, catch, discard},
    init::NEW_TRANSPORT_SOCKET_FACTORY_CONFIG_FUNCTION,
};
use std::{cell::Cell, ffi::c_void, ptr, rc::Rc};

#[cfg(test)]
#[expect(clippy::panic, reason = "panics are what is tested")]
mod tests;

/// What the module's pointer to a configuration points to.
type ConfigObject = Box<dyn TransportSocketFactoryConfig<EnvoyTransportSocketImpl>>;

/// The socket behind the module's pointer, kept in memory until the hook returns, whatever happens meanwhile.
///
/// # Safety
///
/// `socket` came from `new` and is not destroyed; this is the thread that its hooks run on.
unsafe fn slot(socket: *const c_void) -> Rc<Slot> {
    let socket = socket.cast::<Slot>();
    // SAFETY: the caller's promise; `new` made the pointer with `Rc::into_raw`.
    unsafe {
        Rc::increment_strong_count(socket);
        Rc::from_raw(socket)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_factory_config_new(
    _envoy: *mut c_void,
    name: EnvoyBytes,
    config: EnvoyBytes,
    is_upstream: bool,
) -> *const c_void {
    let hook = "envoy_dynamic_module_on_transport_socket_factory_config_new";
    let Some(new_config) = NEW_TRANSPORT_SOCKET_FACTORY_CONFIG_FUNCTION.get() else {
        envoy_log_error!("{hook}: this module offers no transport socket");
        return ptr::null();
    };
    // SAFETY: both are valid for the duration of this hook.
    let (name, config) = unsafe { (envoy_text(name), envoy_bytes(config)) };
    match catch(hook, || new_config(&name, config, is_upstream)).flatten() {
        Some(config) => Box::into_raw(Box::<ConfigObject>::new(config)).cast(),
        None => ptr::null(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_factory_config_destroy(config: *const c_void) {
    // SAFETY: `config` came from `factory_config_new`, and this is its last use.
    let config = unsafe { Box::from_raw(config.cast_mut().cast::<ConfigObject>()) };
    discard("envoy_dynamic_module_on_transport_socket_factory_config_destroy", config);
}

/// Null, which a panic gives, makes Envoy close the connection.
#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_new(
    config: *const c_void,
    envoy: *mut c_void,
) -> *const c_void {
    // SAFETY: `config` came from `factory_config_new` and is not destroyed.
    let config = unsafe { &*config.cast::<ConfigObject>() };
    let closed = Rc::new(Cell::new(false));
    // SAFETY: `envoy` is valid for the duration of this hook.
    let mut envoy = unsafe { EnvoyTransportSocketImpl::new(envoy, Rc::clone(&closed)) };
    match catch("envoy_dynamic_module_on_transport_socket_new", || config.new_transport_socket(&mut envoy)) {
        Some(socket) => Rc::into_raw(Rc::new(Slot::new(socket, closed))).cast(),
        None => ptr::null(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_destroy(socket: *const c_void) {
    // SAFETY: `socket` came from `new`, and this gives up Envoy's reference to it.
    let slot = unsafe { Rc::from_raw(socket.cast::<Slot>()) };
    slot.destroy("envoy_dynamic_module_on_transport_socket_destroy");
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_set_callbacks(
    envoy: *mut c_void,
    socket: *const c_void,
) {
    let hook = "envoy_dynamic_module_on_transport_socket_set_callbacks";
    // SAFETY: Envoy passes both before their destruction, on the socket's thread.
    unsafe {
        let slot = slot(socket);
        let entered = slot.run(hook, envoy, |socket, envoy| socket.on_set_callbacks(envoy));
        slot.close_if_panicked(entered, envoy);
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_on_connected(
    envoy: *mut c_void,
    socket: *const c_void,
) {
    let hook = "envoy_dynamic_module_on_transport_socket_on_connected";
    // SAFETY: Envoy passes both before their destruction, on the socket's thread.
    unsafe {
        let slot = slot(socket);
        let entered = slot.run(hook, envoy, |socket, envoy| socket.on_connected(envoy));
        slot.close_if_panicked(entered, envoy);
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_do_read(
    envoy: *mut c_void,
    socket: *const c_void,
) -> AbiIoResult {
    let hook = "envoy_dynamic_module_on_transport_socket_do_read";
    let again = callback::transport_socket_set_is_readable;
    // SAFETY: Envoy passes both before their destruction, on the socket's thread.
    unsafe { slot(socket).step(hook, envoy, again, |socket, envoy| socket.on_do_read(envoy)) }.into()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_do_write(
    envoy: *mut c_void,
    socket: *const c_void,
    end_stream: bool,
) -> AbiIoResult {
    let hook = "envoy_dynamic_module_on_transport_socket_do_write";
    let again = callback::transport_socket_set_is_writable;
    // SAFETY: Envoy passes both before their destruction, on the socket's thread.
    unsafe { slot(socket).step(hook, envoy, again, |socket, envoy| socket.on_do_write(envoy, end_stream)) }
        .into()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_close(
    envoy: *mut c_void,
    socket: *const c_void,
    event: u32,
    abort_reset: bool,
) {
    let hook = "envoy_dynamic_module_on_transport_socket_close";
    // The socket is closed in any case; by whom is the lesser matter.
    let event = Event::try_from(event).unwrap_or(Event::LocalClose);
    // SAFETY: Envoy passes both before their destruction, on the socket's thread.
    unsafe { slot(socket).close(hook, envoy, event.into(), abort_reset) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_get_protocol(
    envoy: *mut c_void,
    socket: *const c_void,
    result: *mut ModuleBytes,
) {
    let hook = "envoy_dynamic_module_on_transport_socket_get_protocol";
    // SAFETY: Envoy passes both before their destruction, on the socket's thread, and copies the text at
    // once.
    unsafe {
        let (text, length) = slot(socket).text(hook, envoy, |socket, envoy| socket.get_protocol(envoy));
        *result = ModuleBytes { ptr: text.cast(), length };
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_get_failure_reason(
    envoy: *mut c_void,
    socket: *const c_void,
    result: *mut ModuleBytes,
) {
    let hook = "envoy_dynamic_module_on_transport_socket_get_failure_reason";
    // SAFETY: Envoy passes both before their destruction, on the socket's thread, and copies the text at
    // once.
    unsafe {
        let (text, length) = slot(socket).text(hook, envoy, |socket, envoy| socket.get_failure_reason(envoy));
        *result = ModuleBytes { ptr: text.cast(), length };
    }
}

/// While another hook is on the stack, Envoy may flush: that is what it does without a module.
#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_can_flush_close(
    envoy: *mut c_void,
    socket: *const c_void,
) -> bool {
    let hook = "envoy_dynamic_module_on_transport_socket_can_flush_close";
    // SAFETY: Envoy passes both before their destruction, on the socket's thread.
    match unsafe { slot(socket).run(hook, envoy, |socket, envoy| socket.can_flush_close(envoy)) } {
        Entered::Returned(can) => can,
        Entered::Busy => true,
        Entered::Panicked | Entered::Gone => false,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_transport_socket_start_secure_transport(
    envoy: *mut c_void,
    socket: *const c_void,
) -> bool {
    let hook = "envoy_dynamic_module_on_transport_socket_start_secure_transport";
    // SAFETY: Envoy passes both before their destruction, on the socket's thread.
    let entered =
        unsafe { slot(socket).run(hook, envoy, |socket, envoy| socket.start_secure_transport(envoy)) };
    entered == Entered::Returned(true)
}
