//! The hooks that Envoy calls for a UDP listener filter. All of them must exist, or Envoy refuses the module.

use super::{
    EnvoyUdpListenerFilterConfigImpl, EnvoyUdpListenerFilterImpl, UdpListenerFilter, UdpListenerFilterConfig,
};
use crate::{
    abi::{
        envoy_dynamic_module_type_envoy_buffer as EnvoyBytes,
        envoy_dynamic_module_type_on_udp_listener_filter_status as Status,
    },
    buffer::{envoy_bytes, envoy_text},
    envoy_log_error,
    guard::{Entered, Guarded, catch, discard},
    init::NEW_UDP_LISTENER_FILTER_CONFIG_FUNCTION,
};
use std::{ffi::c_void, ptr, rc::Rc};

#[cfg(test)]
mod tests;

/// What the module's pointer to a configuration points to.
type ConfigObject = Box<dyn UdpListenerFilterConfig<EnvoyUdpListenerFilterImpl>>;

/// What the module's pointer to a filter points to.
type FilterObject = Guarded<dyn UdpListenerFilter<EnvoyUdpListenerFilterImpl>>;

/// Stands in for a filter that could not be created. Without a filter Envoy would let every datagram pass.
struct DropAll;

impl UdpListenerFilter<EnvoyUdpListenerFilterImpl> for DropAll {
    fn on_data(&mut self, _envoy_filter: &mut EnvoyUdpListenerFilterImpl) -> Status {
        Status::StopIteration
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_udp_listener_filter_config_new(
    envoy: *mut c_void,
    name: EnvoyBytes,
    config: EnvoyBytes,
) -> *const c_void {
    let hook = "envoy_dynamic_module_on_udp_listener_filter_config_new";
    let Some(new_config) = NEW_UDP_LISTENER_FILTER_CONFIG_FUNCTION.get() else {
        envoy_log_error!("{hook}: this module offers no UDP listener filter");
        return ptr::null();
    };
    // SAFETY: both are valid for the duration of this hook.
    let (name, config) = unsafe { (envoy_text(name), envoy_bytes(config)) };
    let mut envoy = EnvoyUdpListenerFilterConfigImpl { raw: envoy };
    match catch(hook, || new_config(&mut envoy, &name, config)).flatten() {
        Some(config) => Box::into_raw(Box::<ConfigObject>::new(config)).cast(),
        None => ptr::null(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_udp_listener_filter_config_destroy(config: *const c_void) {
    // SAFETY: `config` came from `config_new`, and this is its last use.
    let config = unsafe { Box::from_raw(config.cast_mut().cast::<ConfigObject>()) };
    discard("envoy_dynamic_module_on_udp_listener_filter_config_destroy", config);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_udp_listener_filter_new(
    config: *const c_void,
    envoy: *mut c_void,
) -> *const c_void {
    // An Envoy before 1.40 asks a configuration that was refused for filters all the same.
    // SAFETY: `config` is null, or it came from `config_new` and is not destroyed.
    let config = unsafe { config.cast::<ConfigObject>().as_ref() };
    let filter = config.and_then(|config| {
        catch("envoy_dynamic_module_on_udp_listener_filter_new", || {
            config.new_udp_listener_filter(&mut EnvoyUdpListenerFilterImpl { raw: envoy })
        })
    });
    Rc::into_raw(Rc::new(FilterObject::new(filter.unwrap_or_else(|| Box::new(DropAll))))).cast()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_udp_listener_filter_destroy(filter: *const c_void) {
    // SAFETY: `filter` came from `filter_new`, and this gives up Envoy's reference to it.
    let filter = unsafe { Rc::from_raw(filter.cast::<FilterObject>()) };
    filter.destroy("envoy_dynamic_module_on_udp_listener_filter_destroy");
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_udp_listener_filter_on_data(
    envoy: *mut c_void,
    filter: *const c_void,
) -> Status {
    let filter = filter.cast::<FilterObject>();
    // SAFETY: `filter` came from `filter_new` and is not destroyed; this keeps it in memory until the hook
    // returns.
    let filter = unsafe {
        Rc::increment_strong_count(filter);
        Rc::from_raw(filter)
    };
    let mut envoy = EnvoyUdpListenerFilterImpl { raw: envoy };
    match filter
        .enter("envoy_dynamic_module_on_udp_listener_filter_on_data", |filter| filter.on_data(&mut envoy))
    {
        Entered::Returned(status) => status,
        Entered::Panicked | Entered::Busy | Entered::Gone => Status::StopIteration,
    }
}
