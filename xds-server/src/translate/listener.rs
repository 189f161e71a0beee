//! Listeners, and the filters that arrive by extension discovery.

use std::time::Duration;

use envoy_config::{ConfigError, DeadlineConfig, EgressConfig, IngressConfig, UdpRelay, UdpRoute};
use envoy_types::{
    pb::{
        envoy::{
            config::{
                accesslog::v3::{self as accesslog, access_log},
                core::v3::{
                    Address, BackoffStrategy, DataSource, ExtensionConfigSource, Pipe, SocketAddress,
                    SubstitutionFormatString, TypedExtensionConfig, address, data_source::Specifier,
                    proxy_protocol_config::Version as ProxyVersion, socket_address::PortSpecifier,
                    substitution_format_string::Format,
                },
                listener::v3::{
                    Filter, FilterChain, Listener, ListenerFilter, filter,
                    listener::{InternalListenerConfig, ListenerSpecifier},
                    listener_filter,
                },
            },
            extensions::{
                access_loggers::{
                    file::v3::{FileAccessLog, file_access_log},
                    stream::v3::{StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log},
                },
                filters::{
                    listener::proxy_protocol::v3::ProxyProtocol,
                    network::{
                        dynamic_modules::v3::DynamicModuleNetworkFilter,
                        tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
                    },
                },
            },
        },
        google::protobuf::{self, Any},
    },
    util::pack_any,
};
use prost::Name as _;

use super::{
    AccessLog, BUFFER_BYTES, Settings, TranslateError, ads, cluster::is_address, duration, module,
    tcp_keepalive, uint32, utf8,
};
use crate::{
    names::ResolvedNames,
    rules::{Direction, Rule, RuleKey},
    snapshot::Content,
};

/// The queue of connections that Envoy has not accepted yet; upstream's number. The kernel caps it at `somaxconn`.
const BACKLOG: u32 = 4096;

/// How long a client waits for a destination, over all attempts; longer only when a single attempt may take longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// The listener of a rule key. It does not depend on the destinations, see [`super`].
pub(super) fn listener(
    key: RuleKey,
    rules: &[&Rule],
    settings: &Settings,
) -> Result<Listener, TranslateError> {
    let name = key.to_string();
    let mut listener = Listener {
        stat_prefix: name.clone(),
        // With SO_REUSEPORT a port that is taken looks like one that is free.
        enable_reuse_port: Some(protobuf::BoolValue { value: false }),
        tcp_backlog_size: uint32(BACKLOG),
        per_connection_buffer_limit_bytes: uint32(BUFFER_BYTES),
        access_log: access_log(key, &settings.access_log)?,
        ..Default::default()
    };
    let mut filters = match key.direction {
        Direction::Egress => {
            listener.address = Some(local_address(key, settings));
            listener.tcp_keepalive = Some(tcp_keepalive());
            Vec::new()
        }
        Direction::Ingress => {
            let config = ingress_config(key, settings)
                .map_err(|reason| TranslateError::Invalid { name: name.clone(), reason })?;
            listener.address = Some(pipe(utf8(&config.socket)?));
            listener.listener_filters = vec![proxy_protocol()];
            let filter = module::network_filter("nexodus.ingress", &config, false);
            vec![static_filter("nexodus.ingress", pack_any(filter))]
        }
    };
    filters.push(deadline(&name, rules, settings)?);
    filters.push(discovered(&name, TcpProxy::type_url()));
    listener.filter_chains = vec![FilterChain { filters, ..Default::default() }];
    listener.name = name;
    Ok(listener)
}

/// `tcp_proxy` limits each attempt, and not how long they take together.
fn deadline(name: &str, rules: &[&Rule], settings: &Settings) -> Result<Filter, TranslateError> {
    let limit = settings.attempt(rules).max(DEADLINE);
    let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
    let config = DeadlineConfig { network: settings.network.clone(), limit_ms };
    config.validate().map_err(|reason| TranslateError::Invalid { name: name.to_owned(), reason })?;
    let filter = module::network_filter("nexodus.deadline", &config, false);
    Ok(static_filter("nexodus.deadline", pack_any(filter)))
}

/// The configuration of a listener's `tcp_proxy`.
pub(super) fn tcp_proxy(
    key: RuleKey,
    rules: &[&Rule],
    names: &ResolvedNames,
    settings: &Settings,
) -> Content {
    let name = key.to_string();
    let hosts = hosts(key, rules, names);
    let attempts = max_connect_attempts(hosts, settings.attempt_given(rules));
    let pause = retry_pause(key, rules, hosts);
    let body = extension(
        &name,
        pack_any(TcpProxy {
            stat_prefix: name.clone(),
            cluster_specifier: Some(ClusterSpecifier::Cluster(name.clone())),
            max_connect_attempts: uint32(attempts),
            // Reading before there is a destination, Envoy sees that a client is gone, and does not look for one on and on.
            max_early_data_bytes: uint32(EARLY_BYTES),
            backoff_options: Some(BackoffStrategy {
                base_interval: Some(duration(pause)),
                max_interval: Some(duration(pause * 8)),
            }),
            // Off, as upstream: Envoy's default would end a connection that is silent for an hour.
            idle_timeout: Some(protobuf::Duration::default()),
            ..Default::default()
        }),
    );
    // A client needs more attempts before there are more destinations.
    Content { body, room: attempts }
}

/// How often one connection tries to reach a host before its client is turned away.
///
/// A host that fails is ejected, so a client meets each dead host once, and there are as many attempts as hosts; two more
/// for those who fail before Envoy's workers know of the ejection, which the pause of [`retry_pause`] makes rare. Measured
/// with 32 clients at once, 2 of 3 hosts refusing, none met before: with 3 attempts 0 of 1,280 clients fail; without the
/// pause 12 attempts are needed, and without ejections that count at once (see [`super::cluster`]) 8 with the pause.
///
/// However few the hosts are, they are tried until the client's time is over. An attempt is short for the sake of other hosts, and a single one
/// may need longer: a server whose queue is full loses SYNs, and the second repetition of one comes after 3 s; a handshake of
/// WireGuard that got lost is repeated after 5 s. But when somebody has set the connect timeout, a single host gets one attempt: then
/// the timeout is what it says, and the next attempt is the client's to make.
fn max_connect_attempts(hosts: usize, attempt: Option<Duration>) -> u32 {
    const ENOUGH: u32 = 64;
    // So many of the default length fit into the client's time.
    const ALL_THE_TIME: u32 = 5;
    if hosts < 2 && attempt.is_some() {
        return 1;
    }
    u32::try_from(hosts + 2).unwrap_or(ENOUGH).clamp(ALL_THE_TIME, ENOUGH)
}

/// How many hosts there may be.
fn hosts(key: RuleKey, rules: &[&Rule], names: &ResolvedNames) -> usize {
    let hosts = |rule: &&Rule| match key.direction {
        Direction::Egress => names.addresses(rule).len(),
        Direction::Ingress if is_address(&rule.host) => 1,
        // A name may have up to 16 addresses, one of which answers, and more often it has one or two. They are not known here.
        Direction::Ingress => 8,
    };
    rules.iter().map(hosts).sum()
}

/// The pause before a first retry is a random part of this; it doubles with each, up to eight times as much.
///
/// A single host is not left out, and its client is to know at once that it refuses; so is that of a name which may be a
/// single host, though it has ten attempts: 0.14 s pass between them on average.
fn retry_pause(key: RuleKey, rules: &[&Rule], hosts: usize) -> Duration {
    let guessed = key.direction == Direction::Ingress && rules.iter().any(|rule| !is_address(&rule.host));
    Duration::from_millis(match hosts {
        // The least that Envoy takes.
        0 | 1 => 1,
        _ if guessed => 5,
        _ => 25,
    })
}

/// What a client without a destination may have in Envoy: a request, and little in all when no destination answers many.
const EARLY_BYTES: u32 = 16 * 1024;

/// The internal listener in front of the module's network filter.
pub(super) fn tunnel(settings: &Settings) -> Listener {
    let name = settings.tunnel_name();
    let filters = vec![discovered(&name, DynamicModuleNetworkFilter::type_url())];
    Listener {
        stat_prefix: name.clone(),
        listener_specifier: Some(ListenerSpecifier::InternalListener(InternalListenerConfig {})),
        per_connection_buffer_limit_bytes: uint32(BUFFER_BYTES),
        filter_chains: vec![FilterChain { filters, ..Default::default() }],
        name,
        ..Default::default()
    }
}

/// The configuration of the internal listener's filter: the network, and its peers when they arrive this way.
pub(super) fn tunnel_filter(
    settings: &Settings,
    udp_routes: Vec<UdpRoute>,
    udp_relays: Vec<UdpRelay>,
) -> Result<Content, TranslateError> {
    let name = settings.tunnel_name();
    // A route is there before its listener.
    let destinations: usize = udp_routes.iter().map(|route| route.destinations.len()).sum();
    let room = destinations.try_into().unwrap_or(u32::MAX);
    let (network, peers) = (settings.network.clone(), settings.peers.clone());
    let config = EgressConfig { network, peers, udp_routes, udp_relays };
    config.validate().map_err(|reason| TranslateError::Invalid { name: name.clone(), reason })?;
    let body = extension(&name, pack_any(module::network_filter("nexodus.egress", &config, true)));
    Ok(Content { body, room })
}

fn ingress_config(key: RuleKey, settings: &Settings) -> Result<IngressConfig, ConfigError> {
    let config = IngressConfig {
        network: settings.network.clone(),
        protocol: envoy_config::Protocol::Tcp,
        port: key.port,
        address: key.bind,
        socket: settings.ingress_socket(key),
    };
    config.validate()?;
    Ok(config)
}

/// Ingress connections come from the module, which says with a PROXY header, version 2, who the overlay peer is. The socket's mode
/// and directory keep everyone else out.
fn proxy_protocol() -> ListenerFilter {
    let proxy = ProxyProtocol { disallowed_versions: vec![ProxyVersion::V1 as i32], ..Default::default() };
    ListenerFilter {
        name: "envoy.filters.listener.proxy_protocol".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack_any(proxy))),
        ..Default::default()
    }
}

pub(super) fn static_filter(name: &str, config: Any) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
}

/// A filter whose configuration is the extension configuration of this name.
fn discovered(name: &str, type_url: String) -> Filter {
    let source =
        ExtensionConfigSource { config_source: Some(ads()), type_urls: vec![type_url], ..Default::default() };
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::ConfigDiscovery(source)) }
}

fn extension(name: &str, config: Any) -> Any {
    pack_any(TypedExtensionConfig { name: name.to_owned(), typed_config: Some(config) })
}

/// Where an egress listener is: at the address that its rules name, else, as upstream, at all, both families in one socket.
pub(super) fn local_address(key: RuleKey, settings: &Settings) -> Address {
    let address = match key.bind {
        Some(address) => address.to_string(),
        None if settings.ipv6 => "::".to_owned(),
        None => "0.0.0.0".to_owned(),
    };
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address,
            ipv4_compat: key.bind.is_none() && settings.ipv6,
            port_specifier: Some(PortSpecifier::PortValue(u32::from(key.port))),
            ..Default::default()
        })),
    }
}

fn pipe(path: String) -> Address {
    Address { address: Some(address::Address::Pipe(Pipe { path, mode: 0o600 })) }
}

fn access_log(key: RuleKey, to: &AccessLog) -> Result<Vec<accesslog::AccessLog>, TranslateError> {
    let line = || format(&access_log_line(key));
    let (name, config) = match to {
        AccessLog::Off => return Ok(Vec::new()),
        AccessLog::Stdout => {
            let access_log_format = Some(stdout_access_log::AccessLogFormat::LogFormat(line()));
            ("envoy.access_loggers.stdout", pack_any(StdoutAccessLog { access_log_format }))
        }
        AccessLog::Stderr => {
            let access_log_format = Some(stderr_access_log::AccessLogFormat::LogFormat(line()));
            ("envoy.access_loggers.stderr", pack_any(StderrAccessLog { access_log_format }))
        }
        AccessLog::File(path) => {
            let access_log_format = Some(file_access_log::AccessLogFormat::LogFormat(line()));
            ("envoy.access_loggers.file", pack_any(FileAccessLog { path: utf8(path)?, access_log_format }))
        }
    };
    Ok(vec![accesslog::AccessLog {
        name: name.to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(config)),
        ..Default::default()
    }])
}

/// One line for each connection. The client and local addresses of an ingress connection are those of the overlay.
fn access_log_line(key: RuleKey) -> String {
    let destination = match key.direction {
        Direction::Egress => "%UPSTREAM_METADATA(nexodus:destination)%",
        Direction::Ingress => "%UPSTREAM_HOST%",
    };
    format!(
        "%START_TIME% {key} client=%DOWNSTREAM_REMOTE_ADDRESS% local=%DOWNSTREAM_LOCAL_ADDRESS% \
         destination={destination} attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% from_client=%BYTES_RECEIVED% \
         to_client=%BYTES_SENT% duration_ms=%DURATION% flags=%RESPONSE_FLAGS% \
         reason=\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" details=\"%CONNECTION_TERMINATION_DETAILS%\"\n"
    )
}

fn format(text: &str) -> SubstitutionFormatString {
    SubstitutionFormatString {
        format: Some(Format::TextFormatSource(DataSource {
            specifier: Some(Specifier::InlineString(text.to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    }
}
