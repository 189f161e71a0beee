//! A UDP listener filter behind the hooks that Envoy calls.

use super::*;
use std::cell::Cell;

/// A configuration whose filters go wrong, by its name.
struct Config(String);

impl UdpListenerFilterConfig<EnvoyUdpListenerFilterImpl> for Config {
    fn new_udp_listener_filter(
        &self,
        _envoy: &mut EnvoyUdpListenerFilterImpl,
    ) -> Box<dyn UdpListenerFilter<EnvoyUdpListenerFilterImpl>> {
        assert_ne!(self.0, "bad filter", "expected");
        Box::new(Once(Cell::new(true)))
    }
}

/// Lets one datagram pass, then panics.
struct Once(Cell<bool>);

impl UdpListenerFilter<EnvoyUdpListenerFilterImpl> for Once {
    fn on_data(&mut self, _envoy: &mut EnvoyUdpListenerFilterImpl) -> Status {
        assert!(self.0.replace(false), "expected");
        Status::Continue
    }
}

fn new_config(
    _envoy: &mut EnvoyUdpListenerFilterConfigImpl,
    name: &str,
    config: &[u8],
) -> Option<Box<dyn UdpListenerFilterConfig<EnvoyUdpListenerFilterImpl>>> {
    (config == b"good").then(|| Box::new(Config(name.into())) as _)
}

/// What becomes of three datagrams.
///
/// # Safety
///
/// `config` is null or exists.
unsafe fn three_datagrams(config: *const c_void) -> [Status; 3] {
    let envoy = ptr::null_mut();
    // SAFETY: the caller's promise; the filter is destroyed after its last use. Nothing here calls Envoy.
    unsafe {
        let filter = envoy_dynamic_module_on_udp_listener_filter_new(config, envoy);
        let statuses = [(); 3].map(|()| envoy_dynamic_module_on_udp_listener_filter_on_data(envoy, filter));
        envoy_dynamic_module_on_udp_listener_filter_destroy(filter);
        statuses
    }
}

#[test]
fn what_goes_wrong_drops_datagrams() {
    NEW_UDP_LISTENER_FILTER_CONFIG_FUNCTION.get_or_init(|| new_config);
    let bytes = |text: &'static str| EnvoyBytes { ptr: text.as_ptr().cast(), length: text.len() };
    // SAFETY: the texts are valid, and each configuration is used before its destruction only.
    unsafe {
        let new = |name, config| {
            envoy_dynamic_module_on_udp_listener_filter_config_new(
                ptr::null_mut(),
                bytes(name),
                bytes(config),
            )
        };
        assert!(new("any", "refused").is_null());
        assert_eq!(three_datagrams(ptr::null()), [Status::StopIteration; 3]);

        let config = new("good", "good");
        assert_eq!(three_datagrams(config), [Status::Continue, Status::StopIteration, Status::StopIteration]);
        envoy_dynamic_module_on_udp_listener_filter_config_destroy(config);

        let config = new("bad filter", "good");
        assert_eq!(three_datagrams(config), [Status::StopIteration; 3]);
        envoy_dynamic_module_on_udp_listener_filter_config_destroy(config);
    }
}
