//! The hooks that Envoy calls for a bootstrap extension. All of them must exist, or Envoy refuses the module.

use super::{
    BootstrapExtension, BootstrapExtensionConfig, CompletionCallback,
    envoy::{Config, Extension, Timer},
};
use crate::{
    abi,
    buffer::{envoy_bytes, envoy_text, module_bytes},
    callback, envoy_log_error,
    guard::{self, catch, discard},
    init::NEW_BOOTSTRAP_EXTENSION_CONFIG_FUNCTION,
};
use std::{ffi::c_void, ptr};

#[cfg(test)]
#[expect(clippy::panic, reason = "panics are what is tested")]
mod tests;

/// What the module's pointer to a configuration points to.
type ConfigObject = Box<dyn BootstrapExtensionConfig>;

/// What the module's pointer to an extension points to.
type ExtensionObject = guard::Shared<dyn BootstrapExtension>;

/// Runs a hook of a configuration.
///
/// # Safety
///
/// `config` came from `config_new` and is not destroyed; `envoy` is its counterpart.
unsafe fn with_config<R>(
    hook: &str,
    envoy: *mut c_void,
    config: *const c_void,
    code: impl FnOnce(&dyn BootstrapExtensionConfig, &mut Config) -> R,
) -> Option<R> {
    // SAFETY: the caller's promise. Only shared references are made before the destruction.
    let config = unsafe { &*config.cast::<ConfigObject>() };
    catch(hook, || code(config.as_ref(), &mut Config { raw: envoy }))
}

/// Runs a hook of an extension.
///
/// # Safety
///
/// `extension` came from `extension_new` and is not destroyed.
unsafe fn with_extension(
    hook: &str,
    extension: *const c_void,
    code: impl FnOnce(&mut dyn BootstrapExtension),
) {
    // SAFETY: the caller's promise. Only shared references are made before the destruction.
    unsafe { &*extension.cast::<ExtensionObject>() }.enter(hook, |extension| code(extension));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_new(
    envoy: *mut c_void,
    name: abi::envoy_dynamic_module_type_envoy_buffer,
    config: abi::envoy_dynamic_module_type_envoy_buffer,
) -> *const c_void {
    let hook = "envoy_dynamic_module_on_bootstrap_extension_config_new";
    let Some(new_config) = NEW_BOOTSTRAP_EXTENSION_CONFIG_FUNCTION.get() else {
        envoy_log_error!("{hook}: this module offers no bootstrap extension");
        return ptr::null();
    };
    // SAFETY: both are valid for the duration of this hook.
    let (name, config) = unsafe { (envoy_text(name), envoy_bytes(config)) };
    match catch(hook, || new_config(&mut Config { raw: envoy }, &name, config)).flatten() {
        Some(config) => Box::into_raw(Box::<ConfigObject>::new(config)).cast(),
        None => ptr::null(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_destroy(config: *const c_void) {
    // SAFETY: `config` came from `config_new`, and this is its last use.
    let config = unsafe { Box::from_raw(config.cast_mut().cast::<ConfigObject>()) };
    discard("envoy_dynamic_module_on_bootstrap_extension_config_destroy", config);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_new(
    config: *const c_void,
    _envoy: *mut c_void,
) -> *const c_void {
    // SAFETY: `config` came from `config_new` and is not destroyed.
    let config = unsafe { &*config.cast::<ConfigObject>() };
    let hook = "envoy_dynamic_module_on_bootstrap_extension_new";
    match catch(hook, || config.new_bootstrap_extension(&mut Extension)) {
        Some(extension) => Box::into_raw(Box::new(ExtensionObject::new(extension))).cast(),
        None => ptr::null(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_destroy(extension: *const c_void) {
    // SAFETY: `extension` came from `extension_new`, and this is its last use.
    let extension = unsafe { Box::from_raw(extension.cast_mut().cast::<ExtensionObject>()) };
    discard("envoy_dynamic_module_on_bootstrap_extension_destroy", extension);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_server_initialized(
    _envoy: *mut c_void,
    extension: *const c_void,
) {
    let hook = "envoy_dynamic_module_on_bootstrap_extension_server_initialized";
    // SAFETY: Envoy passes the extension before its destruction.
    unsafe { with_extension(hook, extension, |extension| extension.on_server_initialized(&mut Extension)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_worker_thread_initialized(
    _envoy: *mut c_void,
    extension: *const c_void,
) {
    let hook = "envoy_dynamic_module_on_bootstrap_extension_worker_thread_initialized";
    // SAFETY: Envoy passes the extension before its destruction.
    unsafe {
        with_extension(hook, extension, |extension| extension.on_worker_thread_initialized(&mut Extension))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_drain_started(
    _envoy: *mut c_void,
    extension: *const c_void,
) {
    let hook = "envoy_dynamic_module_on_bootstrap_extension_drain_started";
    // SAFETY: Envoy passes the extension before its destruction.
    unsafe { with_extension(hook, extension, |extension| extension.on_drain_started(&mut Extension)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_shutdown(
    _envoy: *mut c_void,
    extension: *const c_void,
    callback: abi::envoy_dynamic_module_type_event_cb,
    context: *mut c_void,
) {
    let hook = "envoy_dynamic_module_on_bootstrap_extension_shutdown";
    // If the hook does not run, or panics, the drop of the completion lets Envoy go on.
    let completion = CompletionCallback { callback, context };
    // SAFETY: Envoy passes the extension before its destruction.
    unsafe { with_extension(hook, extension, |extension| extension.on_shutdown(&mut Extension, completion)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_scheduled(
    envoy: *mut c_void,
    config: *const c_void,
    event_id: u64,
) {
    let hook = "envoy_dynamic_module_on_bootstrap_extension_config_scheduled";
    // SAFETY: Envoy passes the configuration before its destruction.
    unsafe { with_config(hook, envoy, config, |config, envoy| config.on_scheduled(envoy, event_id)) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_timer_fired(
    envoy: *mut c_void,
    config: *const c_void,
    timer: *mut c_void,
) {
    let hook = "envoy_dynamic_module_on_bootstrap_extension_timer_fired";
    // SAFETY: Envoy passes the configuration before its destruction.
    unsafe { with_config(hook, envoy, config, |config, envoy| config.on_timer_fired(envoy, &Timer(timer))) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_admin_request(
    envoy: *mut c_void,
    config: *const c_void,
    method: abi::envoy_dynamic_module_type_envoy_buffer,
    path: abi::envoy_dynamic_module_type_envoy_buffer,
    body: abi::envoy_dynamic_module_type_envoy_buffer,
) -> u32 {
    let hook = "envoy_dynamic_module_on_bootstrap_extension_admin_request";
    // SAFETY: all three are valid for the duration of this hook.
    let (method, path, body) = unsafe { (envoy_text(method), envoy_text(path), envoy_bytes(body)) };
    // SAFETY: Envoy passes the configuration before its destruction.
    let answer = unsafe {
        with_config(hook, envoy, config, |config, envoy| config.on_admin_request(envoy, &method, &path, body))
    };
    let (status, body) = answer.unwrap_or((500, String::new()));
    // SAFETY: Envoy copies the body before the call returns.
    unsafe { callback::bootstrap_extension_admin_set_response(envoy, module_bytes(body.as_bytes())) };
    status
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_listener_add_or_update(
    envoy: *mut c_void,
    config: *const c_void,
    listener: abi::envoy_dynamic_module_type_envoy_buffer,
) {
    let hook = "envoy_dynamic_module_on_bootstrap_extension_listener_add_or_update";
    // SAFETY: valid for the duration of this hook.
    let listener = unsafe { envoy_text(listener) };
    // SAFETY: Envoy passes the configuration before its destruction.
    unsafe {
        with_config(hook, envoy, config, |config, envoy| config.on_listener_add_or_update(envoy, &listener))
    };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_listener_removal(
    envoy: *mut c_void,
    config: *const c_void,
    listener: abi::envoy_dynamic_module_type_envoy_buffer,
) {
    let hook = "envoy_dynamic_module_on_bootstrap_extension_listener_removal";
    // SAFETY: valid for the duration of this hook.
    let listener = unsafe { envoy_text(listener) };
    // SAFETY: Envoy passes the configuration before its destruction.
    unsafe { with_config(hook, envoy, config, |config, envoy| config.on_listener_removal(envoy, &listener)) };
}

// What follows is never called, as this crate offers no way to ask for it; but Envoy looks for it.

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_http_callout_done(
    _envoy: *mut c_void,
    _config: *const c_void,
    _callout_id: u64,
    _result: u32,
    _headers: *mut c_void,
    _headers_size: usize,
    _body_chunks: *mut abi::envoy_dynamic_module_type_envoy_buffer,
    _body_chunks_size: usize,
) {
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_file_changed(
    _envoy: *mut c_void,
    _config: *const c_void,
    _path: abi::envoy_dynamic_module_type_envoy_buffer,
    _events: u32,
) {
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_cluster_add_or_update(
    _envoy: *mut c_void,
    _config: *const c_void,
    _cluster: abi::envoy_dynamic_module_type_envoy_buffer,
) {
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_cluster_removal(
    _envoy: *mut c_void,
    _config: *const c_void,
    _cluster: abi::envoy_dynamic_module_type_envoy_buffer,
) {
}
