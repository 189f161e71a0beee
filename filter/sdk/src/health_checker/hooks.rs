//! The hooks that Envoy calls for a health checker, all on the main thread.

use super::{HealthCheckHost, HealthCheckerConfig, HealthCheckerSession, Reporter};
use crate::{
    abi::envoy_dynamic_module_type_envoy_buffer as EnvoyBytes,
    buffer::{envoy_bytes, envoy_text},
    envoy_log_error,
    guard::{Guarded, catch, discard},
    init::NEW_HEALTH_CHECKER_CONFIG_FUNCTION,
};
use std::{ffi::c_void, ptr};

#[cfg(test)]
#[expect(clippy::panic, reason = "panics are what is tested")]
mod tests;

/// What the module's pointer to a configuration points to.
type ConfigObject = Box<dyn HealthCheckerConfig>;

/// What the module's pointer to a session points to.
type SessionObject = Guarded<dyn HealthCheckerSession>;

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_health_checker_config_new(
    _envoy: *mut c_void,
    name: EnvoyBytes,
    config: EnvoyBytes,
) -> *const c_void {
    let hook = "envoy_dynamic_module_on_health_checker_config_new";
    let Some(new_config) = NEW_HEALTH_CHECKER_CONFIG_FUNCTION.get() else {
        envoy_log_error!("{hook}: this module offers no health checker");
        return ptr::null();
    };
    // SAFETY: both are valid for the duration of this hook.
    let (name, config) = unsafe { (envoy_text(name), envoy_bytes(config)) };
    match catch(hook, || new_config(&name, config)).flatten() {
        Some(config) => Box::into_raw(Box::<ConfigObject>::new(config)).cast(),
        None => ptr::null(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_health_checker_config_destroy(config: *const c_void) {
    // SAFETY: `config` came from `config_new`, and this is its last use.
    let config = unsafe { Box::from_raw(config.cast_mut().cast::<ConfigObject>()) };
    discard("envoy_dynamic_module_on_health_checker_config_destroy", config);
}

/// Null, after a panic, has Envoy let every check of the host time out.
#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_health_checker_session_new(
    config: *const c_void,
    envoy: *mut c_void,
) -> *const c_void {
    // SAFETY: `config` came from `config_new` and is not destroyed.
    let config = unsafe { &*config.cast::<ConfigObject>() };
    // SAFETY: Envoy's session is valid for the duration of this hook.
    let host = unsafe { HealthCheckHost::new(envoy) };
    match catch("envoy_dynamic_module_on_health_checker_session_new", || config.new_session(&host)) {
        Some(session) => Box::into_raw(Box::new(SessionObject::new(session))).cast(),
        None => ptr::null(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_health_checker_session_on_interval(
    session: *const c_void,
    envoy: *mut c_void,
) {
    // SAFETY: `session` came from `session_new` and is not destroyed.
    let session = unsafe { &*session.cast::<SessionObject>() };
    // SAFETY: Envoy's session is valid for the duration of this hook.
    let (host, reporter) = unsafe { (HealthCheckHost::new(envoy), Reporter::new(envoy)) };
    // After a panic, the check times out.
    session.enter("envoy_dynamic_module_on_health_checker_session_on_interval", |session| {
        session.on_interval(&host, reporter);
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_health_checker_session_on_timeout(session: *const c_void) {
    // SAFETY: `session` came from `session_new` and is not destroyed.
    let session = unsafe { &*session.cast::<SessionObject>() };
    session.enter("envoy_dynamic_module_on_health_checker_session_on_timeout", |session| {
        session.on_timeout();
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_health_checker_session_destroy(session: *const c_void) {
    // SAFETY: `session` came from `session_new`, and this is its last use.
    let session = unsafe { Box::from_raw(session.cast_mut().cast::<SessionObject>()) };
    session.destroy("envoy_dynamic_module_on_health_checker_session_destroy");
}
