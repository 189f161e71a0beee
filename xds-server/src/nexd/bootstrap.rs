//! Envoy's bootstrap configuration. Pure.

use std::path::Path;

use envoy_config::TunnelConfig;
use serde_json::{Value, json};

/// What the bootstrap depends on.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap<'a> {
    /// The tunnel, as the module gets it: files with keys, no keys.
    pub tunnel: &'a TunnelConfig,
    /// Where the ADS server listens.
    pub ads_socket: &'a Path,
    /// Where Envoy's admin interface is to be.
    pub admin_socket: &'a Path,
    /// Connections from outside, over all listeners. One more is closed at once and counted in
    /// `downstream_global_cx_overflow`.
    pub max_connections: u64,
}

/// Connections that a limit of open files has room for: each is a descriptor on either side, and Envoy needs some for
/// itself.
#[must_use]
pub fn max_connections(open_files: u64) -> u64 {
    (open_files.saturating_sub(256) / 2).clamp(16, 1_000_000)
}

impl Bootstrap<'_> {
    /// The configuration as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "node": {"id": "nexd", "cluster": "nexodus"},
            "bootstrap_extensions": [
                extension("envoy.bootstrap.internal_listener", json!({
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
                })),
                extension("envoy.bootstrap.dynamic_modules", json!({
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.dynamic_modules.v3.DynamicModuleBootstrapExtension",
                    "dynamic_module_config": {"name": "nexodus", "do_not_close": true},
                    "extension_name": "tunnel",
                    "extension_config": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": self.tunnel},
                })),
            ],
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}],
                },
                "cds_config": ads(),
                "lds_config": ads(),
            },
            "static_resources": {"clusters": [self.ads_cluster()]},
            // No access log: what nexd asks every few milliseconds is of no interest.
            "admin": {"address": {"pipe": {"path": self.admin_socket, "mode": 0o600}}},
            "overload_manager": {"resource_monitors": [
                extension("envoy.resource_monitors.global_downstream_max_connections", json!({
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": self.max_connections,
                })),
            ]},
        })
    }

    fn ads_cluster(&self) -> Value {
        let http2 = json!({
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        });
        let endpoint = json!({"endpoint": {"address": {"pipe": {"path": self.ads_socket}}}});
        json!({
            "name": "ads",
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
            "load_assignment": {"cluster_name": "ads", "endpoints": [{"lb_endpoints": [endpoint]}]},
        })
    }
}

fn extension(name: &str, typed_config: Value) -> Value {
    json!({"name": name, "typed_config": typed_config})
}

fn ads() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use envoy_config::NetworkConfig;

    use super::*;

    #[test]
    fn golden() {
        let mut network = NetworkConfig::from_wg_quick("default", "/etc/wireguard/wg0.conf");
        network.listen_port = Some(51820);
        let bootstrap = Bootstrap {
            tunnel: &TunnelConfig { networks: vec![network] },
            ads_socket: Path::new("/run/nexd/ads.sock"),
            admin_socket: Path::new("/run/nexd/admin.sock"),
            max_connections: 1000,
        };
        let golden: Value = serde_json::from_str(include_str!("bootstrap/golden.json")).unwrap();
        let json = bootstrap.to_json();
        assert_eq!(json, golden, "now:\n{json:#}");
    }

    #[test]
    fn connections_leave_room_for_envoy() {
        assert_eq!(max_connections(1024), 384);
        assert_eq!(max_connections(1_048_576), 524_160);
        assert_eq!(max_connections(u64::MAX), 1_000_000);
        assert_eq!(max_connections(0), 16);
    }
}
