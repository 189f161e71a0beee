//! Asking the DNS.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{op::ResponseCode, rr::RecordType},
};

use super::schedule::{Answer, Family};

/// Where DNS servers listen.
const PORT: u16 = 53;

/// How long a name server may take, each time it is asked.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is asked.
const ATTEMPTS: usize = 2;

/// How long a lookup may take with everything in it: search domains, several servers, TCP after UDP.
const LIMIT: Duration = Duration::from_secs(10);

/// What decides whom the system asks.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `/etc/hosts` and the name servers of `/etc/resolv.conf`; both files are read again when they change.
    System,
    /// DNS servers in the overlay.
    Overlay(Vec<OverlayServer>),
}

impl Source {
    /// These servers; when there are none, the system's.
    #[must_use]
    pub fn of(servers: Vec<OverlayServer>) -> Self {
        if servers.is_empty() { Self::System } else { Self::Overlay(servers) }
    }
}

/// Reads the address of a DNS server in the overlay: `100.64.0.9`, `100.64.0.9:5353`, `fd00::9` or `[fd00::9]:5353`.
///
/// # Errors
/// A text for the user.
pub fn server(text: &str) -> Result<SocketAddr, String> {
    let address = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, PORT),
        Err(_) => text.parse().map_err(|_| {
            "give the overlay address of a DNS server, like 100.64.0.9, 100.64.0.9:5353 or [fd00::9]:5353"
        })?,
    };
    if address.port() == 0 || !is_host(&address.ip()) || address.ip().is_loopback() {
        return Err("no DNS server can have this address in the overlay".to_owned());
    }
    Ok(address)
}

/// A DNS server in the overlay, and how this process reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayServer {
    /// Its overlay address.
    pub server: SocketAddr,
    /// The loopback address that stands for it, over UDP and TCP.
    pub relay: SocketAddr,
}

/// A resolver for one state of its source.
#[derive(Clone, Debug)]
pub struct Lookup {
    resolver: Result<TokioResolver, String>,
    /// Who is asked, for error texts.
    servers: String,
    files: Files,
}

/// When the system's files were changed last.
type Files = [Option<SystemTime>; SYSTEM_FILES.len()];

impl Lookup {
    /// A resolver for what the source is now.
    #[must_use]
    pub fn new(source: &Source) -> Self {
        let files = system_files();
        let (config, mut options) = match source {
            Source::System => match hickory_resolver::system_conf::read_system_conf() {
                Ok(read) => read,
                Err(error) => {
                    let resolver = Err(format!("{}: {error}", SYSTEM_FILES[0]));
                    return Self { resolver, servers: String::new(), files };
                }
            },
            Source::Overlay(servers) => {
                let servers = servers.iter().map(|server| relayed(server.relay)).collect();
                let mut options = ResolverOpts::default();
                options.use_hosts_file = ResolveHosts::Never;
                (ResolverConfig::from_name_servers(servers), options)
            }
        };
        options.timeout = options.timeout.min(TIMEOUT);
        options.attempts = ATTEMPTS;
        // The schedule asks when an answer has expired, not before.
        options.cache_size = 0;
        let servers = match source {
            Source::System => config.name_servers().iter().map(|server| server.ip.to_string()).collect(),
            Source::Overlay(servers) => servers.iter().map(|server| shown(server.server)).collect::<Vec<_>>(),
        };
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|error| error.to_string());
        Self { resolver, servers: servers.join(", "), files }
    }

    /// Whether the source is not any more what it was.
    #[must_use]
    pub fn is_outdated(&self, source: &Source) -> bool {
        matches!(source, Source::System) && self.files != system_files()
    }

    /// Looks a name up, both families at once.
    pub async fn addresses(&self, name: &str) -> Answer {
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(reason) => return [Family::Failed(reason.clone()), Family::Failed(reason.clone())],
        };
        let (v4, v6) = tokio::join!(
            self.family(resolver, name, RecordType::A),
            self.family(resolver, name, RecordType::AAAA)
        );
        [v4, v6]
    }

    async fn family(&self, resolver: &TokioResolver, name: &str, kind: RecordType) -> Family {
        let outcome = tokio::time::timeout(LIMIT, resolver.lookup(name, kind)).await;
        let from = |what: &dyn fmt::Display| format!("{what} from {}", self.servers);
        match outcome {
            Ok(Ok(found)) => {
                let addresses = found.answers().iter().filter_map(|record| record.data.ip_addr());
                let ttl = found.valid_until().saturating_duration_since(Instant::now());
                let addresses: Vec<_> = addresses.filter(is_host).collect();
                if addresses.is_empty() {
                    Family::None(from(&"no address"))
                } else {
                    Family::Found { addresses, ttl: rounded(ttl) }
                }
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })))) => {
                match response_code {
                    ResponseCode::NXDomain => Family::None(from(&"NXDOMAIN")),
                    ResponseCode::NoError => Family::None(from(&"no address")),
                    code => Family::Failed(from(&code)),
                }
            }
            Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => Family::Failed(from(&code)),
            Ok(Err(NetError::Timeout)) | Err(_) => Family::Failed(from(&"no answer")),
            Ok(Err(error)) => Family::Failed(format!("{error} ({})", self.servers)),
        }
    }
}

/// The name server behind a loopback address: over UDP, and over TCP what does not fit.
fn relayed(relay: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = relay.port();
        connection
    });
    NameServerConfig::new(relay.ip(), true, connections.to_vec())
}

/// Some answer with `0.0.0.0` where there is nothing.
fn is_host(address: &IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

/// The resolver counts from when the answer came, some microseconds ago.
fn rounded(ttl: Duration) -> Duration {
    Duration::from_secs(ttl.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}

/// The port only where it is not everyone's.
fn shown(server: SocketAddr) -> String {
    if server.port() == PORT { server.ip().to_string() } else { server.to_string() }
}

fn system_files() -> Files {
    SYSTEM_FILES.map(|file| std::fs::metadata(file).and_then(|data| data.modified()).ok())
}

#[cfg(test)]
mod tests {
    use super::server;

    #[test]
    fn a_server_is_an_address_with_or_without_a_port() {
        for (text, read) in [
            ("100.64.0.9", "100.64.0.9:53"),
            ("100.64.0.9:5353", "100.64.0.9:5353"),
            ("fd00::9", "[fd00::9]:53"),
            ("[fd00::9]:5353", "[fd00::9]:5353"),
        ] {
            assert_eq!(server(text).map(|server| server.to_string()), Ok(read.to_owned()));
        }
        for text in ["", "dns.example", "100.64.0.9:0", "0.0.0.0", "127.0.0.53", "[fd00::9", "224.0.0.251"] {
            assert!(server(text).is_err(), "{text}");
        }
    }
}
