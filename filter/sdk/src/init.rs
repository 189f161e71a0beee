//! How a module says what it offers.

use crate::{
    BootstrapExtensionConfig, EnvoyBootstrapExtensionConfig, NetworkFilterConfig,
    TransportSocketFactoryConfig, UdpListenerFilterConfig, abi,
    guard::catch,
    health_checker::HealthCheckerConfig,
    network::{EnvoyNetworkFilterConfigImpl, EnvoyNetworkFilterImpl},
    transport_socket::EnvoyTransportSocketImpl,
    udp_listener::{EnvoyUdpListenerFilterConfigImpl, EnvoyUdpListenerFilterImpl},
};
use std::{ffi::c_char, ptr, sync::OnceLock};

/// Initializes the module once per process; `false` refuses to load it.
pub type ProgramInitFunction = fn() -> bool;

/// Creates a bootstrap extension configuration from its name and its configuration; `None` refuses it.
pub type NewBootstrapExtensionConfigFunction =
    fn(&mut dyn EnvoyBootstrapExtensionConfig, &str, &[u8]) -> Option<Box<dyn BootstrapExtensionConfig>>;

/// Creates a network filter configuration from its name and its configuration; `None` refuses it.
pub type NewNetworkFilterConfigFunction<EC, ENF> =
    fn(envoy_filter_config: &mut EC, name: &str, config: &[u8]) -> Option<Box<dyn NetworkFilterConfig<ENF>>>;

/// Creates a transport socket factory configuration from its name, its configuration and whether it is for
/// upstream connections; `None` refuses it.
pub type NewTransportSocketFactoryConfigFunction<ETS> =
    fn(name: &str, config: &[u8], is_upstream: bool) -> Option<Box<dyn TransportSocketFactoryConfig<ETS>>>;

/// Creates a UDP listener filter configuration from its name and its configuration; `None` refuses it.
pub type NewUdpListenerFilterConfigFunction<EC, ELF> = fn(
    envoy_filter_config: &mut EC,
    name: &str,
    config: &[u8],
) -> Option<Box<dyn UdpListenerFilterConfig<ELF>>>;

/// Creates a health checker configuration from its name and its configuration; `None` refuses it.
pub type NewHealthCheckerConfigFunction =
    fn(name: &str, config: &[u8]) -> Option<Box<dyn HealthCheckerConfig>>;

/// Set by [`declare_all_init_functions!`](crate::declare_all_init_functions).
pub static NEW_BOOTSTRAP_EXTENSION_CONFIG_FUNCTION: OnceLock<NewBootstrapExtensionConfigFunction> =
    OnceLock::new();

/// Set by [`declare_all_init_functions!`](crate::declare_all_init_functions).
pub static NEW_NETWORK_FILTER_CONFIG_FUNCTION: OnceLock<
    NewNetworkFilterConfigFunction<EnvoyNetworkFilterConfigImpl, EnvoyNetworkFilterImpl>,
> = OnceLock::new();

/// Set by [`declare_all_init_functions!`](crate::declare_all_init_functions).
pub static NEW_TRANSPORT_SOCKET_FACTORY_CONFIG_FUNCTION: OnceLock<
    NewTransportSocketFactoryConfigFunction<EnvoyTransportSocketImpl>,
> = OnceLock::new();

/// Set by [`declare_all_init_functions!`](crate::declare_all_init_functions).
pub static NEW_UDP_LISTENER_FILTER_CONFIG_FUNCTION: OnceLock<
    NewUdpListenerFilterConfigFunction<EnvoyUdpListenerFilterConfigImpl, EnvoyUdpListenerFilterImpl>,
> = OnceLock::new();

/// Set by [`declare_all_init_functions!`](crate::declare_all_init_functions).
pub static NEW_HEALTH_CHECKER_CONFIG_FUNCTION: OnceLock<NewHealthCheckerConfigFunction> = OnceLock::new();

/// Registers what creates one kind of configuration. Envoy initializes a loaded module once, so the first
/// stays.
pub fn register<F>(slot: &OnceLock<F>, function: F) {
    slot.get_or_init(|| function);
}

/// The body of `envoy_dynamic_module_on_program_init`: the ABI version, or null to refuse.
pub fn program_init(init: impl FnOnce() -> bool) -> *const c_char {
    if catch("envoy_dynamic_module_on_program_init", init) == Some(true) {
        abi::envoy_dynamic_modules_abi_version.as_ptr().cast()
    } else {
        ptr::null()
    }
}

/// Declares the module's entry point: a [`ProgramInitFunction`], then, under the name of each kind of
/// extension that the module offers, the function that creates its configuration.
///
/// | name | function |
/// |---|---|
/// | `bootstrap` | [`NewBootstrapExtensionConfigFunction`] |
/// | `network` | [`NewNetworkFilterConfigFunction`] |
/// | `transport_socket` | [`NewTransportSocketFactoryConfigFunction`] |
/// | `udp_listener` | [`NewUdpListenerFilterConfigFunction`] |
/// | `health_checker` | [`NewHealthCheckerConfigFunction`] |
///
/// ```
/// use envoy_proxy_dynamic_modules_rust_sdk::*;
///
/// struct Discard;
/// impl<ENF: EnvoyNetworkFilter> NetworkFilterConfig<ENF> for Discard {
///     fn new_network_filter(&self, _envoy: &mut ENF) -> Box<dyn NetworkFilter<ENF>> {
///         Box::new(Discard)
///     }
/// }
/// impl<ENF: EnvoyNetworkFilter> NetworkFilter<ENF> for Discard {}
///
/// fn init() -> bool {
///     true
/// }
///
/// fn new_network_filter_config<EC: EnvoyNetworkFilterConfig, ENF: EnvoyNetworkFilter>(
///     _envoy: &mut EC,
///     name: &str,
///     _config: &[u8],
/// ) -> Option<Box<dyn NetworkFilterConfig<ENF>>> {
///     (name == "discard").then(|| Box::new(Discard) as _)
/// }
///
/// declare_all_init_functions!(init, network: new_network_filter_config);
/// ```
#[macro_export]
macro_rules! declare_all_init_functions {
    ($init:ident, $($kind:ident : $new_config:expr),+ $(,)?) => {
        /// Called by Envoy when it loads the module.
        #[unsafe(no_mangle)]
        pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const ::std::ffi::c_char {
            $crate::init::program_init(|| {
                $($crate::declare_all_init_functions!(@register $kind : $new_config);)+
                $init()
            })
        }
    };
    (@register bootstrap : $new_config:expr) => {
        $crate::init::register(&$crate::init::NEW_BOOTSTRAP_EXTENSION_CONFIG_FUNCTION, $new_config)
    };
    (@register network : $new_config:expr) => {
        $crate::init::register(&$crate::init::NEW_NETWORK_FILTER_CONFIG_FUNCTION, $new_config)
    };
    (@register transport_socket : $new_config:expr) => {
        $crate::init::register(&$crate::init::NEW_TRANSPORT_SOCKET_FACTORY_CONFIG_FUNCTION, $new_config)
    };
    (@register udp_listener : $new_config:expr) => {
        $crate::init::register(&$crate::init::NEW_UDP_LISTENER_FILTER_CONFIG_FUNCTION, $new_config)
    };
    (@register health_checker : $new_config:expr) => {
        $crate::init::register(&$crate::init::NEW_HEALTH_CHECKER_CONFIG_FUNCTION, $new_config)
    };
}

#[cfg(test)]
#[expect(clippy::panic, reason = "panics are what is tested")]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn the_module_reports_its_abi_version_or_refuses() {
        // SAFETY: a module that does not refuse reports a C string.
        assert_eq!(unsafe { CStr::from_ptr(program_init(|| true)) }, c"v0.2.0");
        assert!(program_init(|| false).is_null());
        assert!(program_init(|| panic!("expected")).is_null());
    }
}
