//! Rules to Envoy resources: pure, and the same input gives the same bytes.
//!
//! All rules with one [`RuleKey`] become one listener, one cluster with that name, the cluster's endpoints, and for TCP
//! the configuration of the listener's `tcp_proxy`. The destinations are the endpoints, in the order in which their rules
//! were added. UDP on the egress side has no cluster: its destinations are in the network's configuration (see
//! `translate::udp`). Whatever the rules are, there is the internal listener `tunnel/<network>` with its configuration, so the
//! network has its peers before the first rule.
//!
//! **What depends on the number of destinations.** Adding a destination must not cut live connections, and Envoy closes
//! the connections of a listener whose filter chain changes (after `--drain-time-s`). So nothing in a listener depends
//! on the destinations, and nothing in a cluster, unless one of them is a hostname on the ingress side, which Envoy looks up:
//! * the destinations themselves arrive as endpoints (EDS), with their weights; an egress hostname is as many as it has
//!   addresses;
//! * outlier detection is the same for every number of hosts (see `translate::cluster`);
//! * `max_connect_attempts` does depend on it, so each listener has its `tcp_proxy` by extension discovery (ECDS),
//!   under the listener's name: an update counts for new connections, live ones keep what they have.

mod cluster;
mod dns;
mod health;
mod listener;
mod module;
mod udp;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use envoy_config::{ConfigError, PeerConfig};
use envoy_types::{
    pb::{
        envoy::config::core::v3::{
            AggregatedConfigSource, ApiVersion, ConfigSource, TcpKeepalive,
            config_source::ConfigSourceSpecifier,
        },
        google::protobuf::{self, UInt32Value},
    },
    util::pack_any,
};

use crate::{
    names::{ResolvedNames, lookup::OverlayServer},
    rules::{Protocol, Rule, RuleKey, RuleSet, connect_timeout},
    snapshot::{Content, ResourceName, ResourceType, Snapshot},
};

/// What the resources depend on besides the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The WireGuard network's name, which is part of the internal listener's: `tunnel/<network>`.
    pub network: String,
    /// The directory of the sockets between the module and Envoy's ingress listeners. An absolute path.
    pub runtime_dir: PathBuf,
    /// How long Envoy waits for one attempt to reach one destination, unless its rule says otherwise; not zero. None means
    /// [`CONNECT_TIMEOUT`], and that nobody minds further attempts where there is one destination only.
    pub connect_timeout: Option<Duration>,
    /// A UDP flow ends after this time without a datagram in either direction; not zero. The module has its own, which should
    /// be the same (`limits.udp_idle_ms` of the network).
    pub udp_idle_timeout: Duration,
    /// Where Envoy writes one line for each connection.
    pub access_log: AccessLog,
    /// The peers of the network; none means those that its bootstrap configuration gives.
    pub peers: Option<Vec<PeerConfig>>,
    /// The DNS servers in the overlay that egress host names are looked up at; none means the system's resolver.
    pub overlay_dns: Vec<SocketAddr>,
    /// The UDP port of WireGuard on this host, which no loopback address may have then: its sockets are at every address. None
    /// means that it is not known, as where the kernel chooses one.
    pub listen_port: Option<u16>,
    /// Egress listeners bind `[::]`, which takes IPv4 too; otherwise `0.0.0.0`, for a host without IPv6.
    pub ipv6: bool,
}

/// How long one attempt to reach one destination may take, when nobody says otherwise. Two SYNs fit into it, and five
/// attempts into the 10 s that a client waits: with one destination alive, four others may be silent.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

impl Default for Settings {
    fn default() -> Self {
        Self {
            network: envoy_config::DEFAULT_NETWORK.to_owned(),
            runtime_dir: PathBuf::from("/run/nexd"),
            connect_timeout: None,
            udp_idle_timeout: envoy_config::Limits::default().udp_idle(),
            access_log: AccessLog::Stdout,
            peers: None,
            overlay_dns: Vec::new(),
            listen_port: None,
            ipv6: true,
        }
    }
}

impl Settings {
    /// Where the module finds an ingress listener: `<runtime_dir>/ingress-tcp-443.sock`, or with a bind address
    /// `<runtime_dir>/ingress-tcp-443@100.64.0.1.sock`.
    #[must_use]
    pub fn ingress_socket(&self, key: RuleKey) -> PathBuf {
        self.runtime_dir.join(format!("{}.sock", key.to_string().replace('/', "-")))
    }

    /// How long one attempt to reach a destination may take: what the rules of a key say, else what counts for all.
    fn attempt(&self, rules: &[&Rule]) -> Duration {
        self.attempt_given(rules).unwrap_or(CONNECT_TIMEOUT)
    }

    /// The same, if somebody said so.
    fn attempt_given(&self, rules: &[&Rule]) -> Option<Duration> {
        connect_timeout(rules).or(self.connect_timeout)
    }

    /// The name of the internal listener and of its configuration: `tunnel/<network>`.
    #[must_use]
    pub fn tunnel_name(&self) -> String {
        format!("tunnel/{}", self.network)
    }
}

/// The DNS servers of the settings, and the loopback addresses at which the resources make them reachable. The rules do
/// not matter for that.
#[must_use]
pub fn overlay_dns(settings: &Settings) -> Vec<OverlayServer> {
    udp::Loopback::new(&RuleSet::new(), settings).dns().collect()
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Envoy's standard output.
    #[default]
    Stdout,
    /// Envoy's standard error.
    Stderr,
    /// A file, as Envoy sees the path.
    File(PathBuf),
}

/// Turns rules into resources. A name that `names` does not know yet is a destination that is not there.
///
/// # Errors
/// [`TranslateError`]: the settings, or a listener's configuration, are not what the module accepts. Every rule of a
/// [`RuleSet`] can be carried, so with settings that work for one rule set only the length of a socket path is left to
/// fail.
pub fn translate(
    rules: &RuleSet,
    names: &ResolvedNames,
    settings: &Settings,
) -> Result<Snapshot, TranslateError> {
    if settings.connect_timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(TranslateError::ConnectTimeout);
    }
    if settings.udp_idle_timeout.is_zero() {
        return Err(TranslateError::UdpIdleTimeout);
    }
    let mut resources = Vec::new();
    let mut add =
        |kind, name: &str, content: Content| resources.push((ResourceName::new(kind, name), content));

    let tunnel = settings.tunnel_name();
    let loopback = udp::Loopback::new(rules, settings);
    let routes = udp::routes(rules, names);
    add(
        ResourceType::ExtensionConfig,
        &tunnel,
        listener::tunnel_filter(settings, routes, loopback.relays())?,
    );
    add(ResourceType::Listener, &tunnel, content(listener::tunnel(settings)));
    for OverlayServer { server, relay } in loopback.dns() {
        let name = dns::name(server);
        add(ResourceType::Listener, &name, content(dns::listener(server, relay)));
        add(ResourceType::Cluster, &name, content(dns::cluster(server, settings)));
    }
    for (key, rules) in rules.by_key() {
        let name = key.to_string();
        match key.protocol {
            Protocol::Tcp => {
                add(ResourceType::Listener, &name, content(listener::listener(key, &rules, settings)?));
                add(ResourceType::ExtensionConfig, &name, listener::tcp_proxy(key, &rules, names, settings));
            }
            Protocol::Udp => {
                add(ResourceType::Listener, &name, content(loopback.listener(key, settings)?));
                if udp::is_route(key) {
                    continue;
                }
            }
        }
        add(ResourceType::Cluster, &name, content(cluster::cluster(key, &rules, names, settings)));
        if let Some(endpoints) = cluster::endpoints(key, &rules, names, settings) {
            add(ResourceType::Endpoints, &name, content(endpoints));
        }
    }
    Ok(resources.into_iter().collect())
}

/// The resources that carry the rules of one key: what to wait for with [`crate::ads::Ads::applied`] after the rules
/// changed. Some keys have fewer; waiting for what is not there is no harm.
#[must_use]
pub fn resource_names(key: RuleKey, settings: &Settings) -> Vec<ResourceName> {
    let mut names = ResourceType::ALL.map(|kind| ResourceName::new(kind, key.to_string())).to_vec();
    if udp::is_route(key) {
        names.push(ResourceName::new(ResourceType::ExtensionConfig, settings.tunnel_name()));
    }
    names
}

/// Whether this host can bind `[::]`: what [`Settings::ipv6`] should be when Envoy runs here.
#[must_use]
pub fn host_has_ipv6() -> bool {
    std::net::TcpListener::bind("[::]:0").is_ok()
}

/// Why rules cannot become resources.
#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    /// The module would refuse its configuration.
    #[error("{name}: {reason}")]
    Invalid {
        /// The listener.
        name: String,
        /// What is wrong, and the remedy.
        reason: ConfigError,
    },
    /// Envoy takes only a positive one.
    #[error("the connect timeout must be more than 0")]
    ConnectTimeout,
    /// Envoy takes only a positive one.
    #[error("the UDP idle timeout must be more than 0")]
    UdpIdleTimeout,
    /// A path is not UTF-8, which protobuf strings have to be.
    #[error("not a UTF-8 path: {}", .0.display())]
    Path(PathBuf),
}

/// Bytes that Envoy holds for a connection before it stops reading from the other side. Envoy's default is 1 MiB for
/// each hop, and an egress connection has three.
const BUFFER_BYTES: u32 = 256 * 1024;

/// Dead peers are noticed as upstream notices them, by Go's default keepalive. It matters more here, because no
/// connection has an idle timeout.
fn tcp_keepalive() -> TcpKeepalive {
    TcpKeepalive { keepalive_probes: uint32(9), keepalive_time: uint32(15), keepalive_interval: uint32(15) }
}

fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "every field of this type is optional")]
const fn uint32(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: duration.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().try_into().unwrap_or(0),
    }
}

fn content(message: impl prost::Name) -> Content {
    pack_any(message).into()
}

fn utf8(path: &Path) -> Result<String, TranslateError> {
    path.to_str().map(str::to_owned).ok_or_else(|| TranslateError::Path(path.to_owned()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
