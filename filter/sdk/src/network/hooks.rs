//! The hooks that Envoy calls for a network filter.

use super::{
    EnvoyNetworkFilter, EnvoyNetworkFilterConfigImpl, EnvoyNetworkFilterImpl, NetworkFilterConfig,
    slot::{Hook, Slot, Watermark},
};
use crate::{
    abi::{
        envoy_dynamic_module_type_envoy_buffer as EnvoyBytes,
        envoy_dynamic_module_type_network_connection_event as Event,
        envoy_dynamic_module_type_network_connection_state as ConnectionState,
        envoy_dynamic_module_type_on_network_filter_data_status as Status,
    },
    buffer::{envoy_bytes, envoy_text},
    envoy_log_error,
    guard::{Entered, Gate, catch, discard},
    init::NEW_NETWORK_FILTER_CONFIG_FUNCTION,
};
use std::{ffi::c_void, ptr, rc::Rc, sync::Arc};

#[cfg(test)]
#[expect(clippy::panic, clippy::unwrap_used, reason = "panics are what is tested")]
mod tests;

/// What the module's pointer to a configuration points to.
type ConfigObject = Box<dyn NetworkFilterConfig<EnvoyNetworkFilterImpl>>;

/// The filter behind the module's pointer, kept in memory until the hook returns, whatever happens meanwhile.
///
/// # Safety
///
/// `filter` came from `filter_new` and is not destroyed; this is the thread that its hooks run on.
unsafe fn slot(filter: *const c_void) -> Rc<Slot> {
    let filter = filter.cast::<Slot>();
    // SAFETY: the caller's promise; `filter_new` made the pointer with `Rc::into_raw`.
    unsafe {
        Rc::increment_strong_count(filter);
        Rc::from_raw(filter)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_new(
    envoy: *mut c_void,
    name: EnvoyBytes,
    config: EnvoyBytes,
) -> *const c_void {
    let hook = "envoy_dynamic_module_on_network_filter_config_new";
    let Some(new_config) = NEW_NETWORK_FILTER_CONFIG_FUNCTION.get() else {
        envoy_log_error!("{hook}: this module offers no network filter");
        return ptr::null();
    };
    // SAFETY: both are valid for the duration of this hook.
    let (name, config) = unsafe { (envoy_text(name), envoy_bytes(config)) };
    let mut envoy = EnvoyNetworkFilterConfigImpl { raw: envoy };
    match catch(hook, || new_config(&mut envoy, &name, config)).flatten() {
        Some(config) => Box::into_raw(Box::<ConfigObject>::new(config)).cast(),
        None => ptr::null(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_destroy(config: *const c_void) {
    // SAFETY: `config` came from `config_new`, and this is its last use.
    let config = unsafe { Box::from_raw(config.cast_mut().cast::<ConfigObject>()) };
    discard("envoy_dynamic_module_on_network_filter_config_destroy", config);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_scheduled(
    config: *const c_void,
    event_id: u64,
) {
    // SAFETY: `config` came from `config_new` and is not destroyed.
    let config = unsafe { &*config.cast::<ConfigObject>() };
    catch("envoy_dynamic_module_on_network_filter_config_scheduled", || config.on_config_scheduled(event_id));
}

/// Null, which a panic gives, makes Envoy close the connection.
#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new(
    config: *const c_void,
    envoy: *mut c_void,
) -> *const c_void {
    // SAFETY: `config` came from `config_new` and is not destroyed.
    let config = unsafe { &*config.cast::<ConfigObject>() };
    let gate = Arc::new(Gate::new());
    // SAFETY: `envoy` is valid for the duration of this hook.
    let mut envoy = unsafe { EnvoyNetworkFilterImpl::new(envoy, Arc::clone(&gate)) };
    let filter =
        catch("envoy_dynamic_module_on_network_filter_new", || config.new_network_filter(&mut envoy));
    // Envoy tells a filter of events only after this hook, so one that is closed by now will not hear of it.
    if envoy.get_connection_state() == ConnectionState::Closed {
        gate.close();
    }
    match filter {
        Some(filter) => Rc::into_raw(Rc::new(Slot::new(filter, gate))).cast(),
        None => ptr::null(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_destroy(filter: *const c_void) {
    // SAFETY: `filter` came from `filter_new`, and this gives up Envoy's reference to it.
    let slot = unsafe { Rc::from_raw(filter.cast::<Slot>()) };
    slot.destroy("envoy_dynamic_module_on_network_filter_destroy");
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new_connection(
    envoy: *mut c_void,
    filter: *const c_void,
) -> Status {
    let hook = "envoy_dynamic_module_on_network_filter_new_connection";
    // SAFETY: Envoy passes both before their destruction, on the filter's thread.
    unsafe { slot(filter).run_alone(hook, envoy, |filter, envoy| filter.on_new_connection(envoy)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_read(
    envoy: *mut c_void,
    filter: *const c_void,
    data_length: usize,
    end_stream: bool,
) -> Status {
    let hook = "envoy_dynamic_module_on_network_filter_read";
    // SAFETY: Envoy passes both before their destruction, on the filter's thread.
    unsafe {
        slot(filter).run_alone(hook, envoy, |filter, envoy| filter.on_read(envoy, data_length, end_stream))
    }
}

/// What a filter writes from inside one of its hooks passes it by.
#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_write(
    envoy: *mut c_void,
    filter: *const c_void,
    data_length: usize,
    end_stream: bool,
) -> Status {
    let hook = "envoy_dynamic_module_on_network_filter_write";
    // SAFETY: Envoy passes both before their destruction, on the filter's thread.
    match unsafe {
        slot(filter).run(hook, envoy, |filter, envoy| filter.on_write(envoy, data_length, end_stream))
    } {
        Entered::Returned(status) => status,
        Entered::Busy => Status::Continue,
        Entered::Panicked | Entered::Gone => Status::StopIteration,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_event(
    envoy: *mut c_void,
    filter: *const c_void,
    event: u32,
) {
    let hook = "envoy_dynamic_module_on_network_filter_event";
    let Ok(event) = Event::try_from(event) else {
        envoy_log_error!("{hook}: unknown event {event}");
        return;
    };
    // SAFETY: Envoy passes both before their destruction, on the filter's thread.
    unsafe { slot(filter).run_or_defer(hook, envoy, Hook::Event(event)) };
}

/// Envoy calls this from its event loop, never from inside another hook.
#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_scheduled(
    envoy: *mut c_void,
    filter: *const c_void,
    event_id: u64,
) {
    let hook = "envoy_dynamic_module_on_network_filter_scheduled";
    // SAFETY: Envoy passes both before their destruction, on the filter's thread.
    unsafe { slot(filter).run(hook, envoy, |filter, envoy| filter.on_scheduled(envoy, event_id)) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_above_write_buffer_high_watermark(
    envoy: *mut c_void,
    filter: *const c_void,
) {
    let hook = "envoy_dynamic_module_on_network_filter_above_write_buffer_high_watermark";
    // SAFETY: Envoy passes both before their destruction, on the filter's thread.
    unsafe { slot(filter).run_or_defer(hook, envoy, Hook::Watermark(Watermark::AboveHigh)) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark(
    envoy: *mut c_void,
    filter: *const c_void,
) {
    let hook = "envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark";
    // SAFETY: Envoy passes both before their destruction, on the filter's thread.
    unsafe { slot(filter).run_or_defer(hook, envoy, Hook::Watermark(Watermark::BelowLow)) };
}
