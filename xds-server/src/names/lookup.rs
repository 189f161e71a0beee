//! Asking the DNS.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, Record, RecordType},
    },
};

use super::schedule::{Answer, Family, MAX_TTL};

/// Where DNS servers listen.
const PORT: u16 = 53;

/// How long a name server may take, each time it is asked.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is asked.
const ATTEMPTS: usize = 2;

/// How long a lookup may take with everything in it: search domains, several servers, TCP after UDP.
const LIMIT: Duration = Duration::from_secs(10);

/// How long the second family of addresses may take when there are some of the first: time for one lost datagram.
const SECOND: Duration = Duration::from_millis(2500);

/// What decides whom the system asks.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

const NO_ADDRESS: &str = "no address";
const NO_ANSWER: &str = "no answer";

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
    hosts: Arc<Hosts>,
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
        let (hosts, config) = match source {
            Source::System => (system_hosts(), hickory_resolver::system_conf::read_system_conf()),
            Source::Overlay(servers) => {
                let servers = servers.iter().map(|server| relayed(server.relay)).collect();
                let config = ResolverConfig::from_name_servers(servers);
                (Hosts::default(), Ok((config, ResolverOpts::default())))
            }
        };
        let hosts = Arc::new(hosts);
        let (config, mut options) = match config {
            Ok(config) => config,
            Err(error) => {
                let resolver = Err(format!("{}: {error}", SYSTEM_FILES[0]));
                return Self { hosts, resolver, servers: String::new(), files };
            }
        };
        // It would ask name servers for the family that a name in the file does not have.
        options.use_hosts_file = ResolveHosts::Never;
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
        Self { hosts, resolver, servers: servers.join(", "), files }
    }

    /// Whether the source is not any more what it was.
    #[must_use]
    pub fn is_outdated(&self, source: &Source) -> bool {
        matches!(source, Source::System) && self.files != system_files()
    }

    /// Looks a name up, both families at once. One that is not answered holds up the other for a short while only.
    pub async fn addresses(&self, name: &str) -> Answer {
        if let Some(answer) = self.in_hosts(name) {
            return answer;
        }
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(reason) => return [Family::Failed(reason.clone()), Family::Failed(reason.clone())],
        };
        let mut v4 = pin!(self.family(resolver, name, RecordType::A));
        let mut v6 = pin!(self.family(resolver, name, RecordType::AAAA));
        tokio::select! {
            first = &mut v4 => {
                let second = self.second(&first, v6).await;
                [first, second]
            }
            first = &mut v6 => {
                let second = self.second(&first, v4).await;
                [second, first]
            }
        }
    }

    /// The other family than the one that came first.
    async fn second(&self, first: &Family, second: impl Future<Output = Family>) -> Family {
        if !matches!(first, Family::Found { .. }) {
            return second.await;
        }
        let outcome = tokio::time::timeout(SECOND, second).await;
        outcome.unwrap_or_else(|_| Family::Failed(self.said(&NO_ANSWER)))
    }

    /// A name that is in the hosts file has the addresses that it has there, of both families, as with the system's resolver.
    fn in_hosts(&self, name: &str) -> Option<Answer> {
        let name = Name::from_utf8(name).ok()?.to_lowercase();
        let families = [RecordType::A, RecordType::AAAA]
            .map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)));
        families.iter().any(Option::is_some).then(|| {
            families.map(|found| {
                let addresses = found.iter().flat_map(|found| addresses_in(found.answers())).collect();
                // Until the file changes.
                family_of(addresses, MAX_TTL, || format!("{NO_ADDRESS} from {}", SYSTEM_FILES[1]))
            })
        })
    }

    /// What the name servers said.
    fn said(&self, what: &dyn fmt::Display) -> String {
        format!("{what} from {}", self.servers)
    }

    async fn family(&self, resolver: &TokioResolver, name: &str, kind: RecordType) -> Family {
        let outcome = tokio::time::timeout(LIMIT, resolver.lookup(name, kind)).await;
        match outcome {
            Ok(Ok(found)) => {
                let addresses = addresses_in(found.answers()).collect();
                family_of(addresses, time_to_live(found.valid_until()), || self.said(&NO_ADDRESS))
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })))) => {
                match response_code {
                    ResponseCode::NXDomain => Family::None(self.said(&"NXDOMAIN")),
                    ResponseCode::NoError => Family::None(self.said(&NO_ADDRESS)),
                    code => Family::Failed(self.said(&code)),
                }
            }
            Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => Family::Failed(self.said(&code)),
            Ok(Err(NetError::Timeout)) | Err(_) => Family::Failed(self.said(&NO_ANSWER)),
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

fn addresses_in(records: &[Record]) -> impl Iterator<Item = IpAddr> {
    records.iter().filter_map(|record| record.data.ip_addr()).filter(is_host)
}

fn family_of(addresses: Vec<IpAddr>, ttl: Duration, none: impl FnOnce() -> String) -> Family {
    if addresses.is_empty() { Family::None(none()) } else { Family::Found { addresses, ttl } }
}

/// The resolver counts from when the answer came, some microseconds ago.
fn time_to_live(end: Instant) -> Duration {
    let left = end.saturating_duration_since(Instant::now());
    Duration::from_secs(left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}

/// The port only where it is not everyone's.
fn shown(server: SocketAddr) -> String {
    if server.port() == PORT { server.ip().to_string() } else { server.to_string() }
}

/// The hosts file, as far as it can be read.
fn system_hosts() -> Hosts {
    let mut hosts = Hosts::default();
    let text = std::fs::read(SYSTEM_FILES[1]).unwrap_or_default();
    // A comment may be in any encoding.
    if let Err(error) = hosts.read_hosts_conf(String::from_utf8_lossy(&text).as_bytes()) {
        tracing::warn!("{}: {error}", SYSTEM_FILES[1]);
    }
    hosts
}

fn system_files() -> Files {
    SYSTEM_FILES.map(|file| std::fs::metadata(file).and_then(|data| data.modified()).ok())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    /// Name servers cannot be asked; what is in the file counts.
    fn with_hosts(text: &str) -> Lookup {
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(text.as_bytes()).unwrap();
        Lookup {
            hosts: hosts.into(),
            resolver: Err("no name server".to_owned()),
            servers: String::new(),
            files: Files::default(),
        }
    }

    #[tokio::test]
    async fn a_name_in_the_hosts_file_is_not_asked_for() {
        let lookup = with_hosts("192.0.2.1 db.example Both # a comment\nfd00::1 both\n0.0.0.0 blocked\n");
        let found = |text: &str| Family::Found { addresses: vec![text.parse().unwrap()], ttl: MAX_TTL };
        let none = || Family::None("no address from /etc/hosts".to_owned());
        for name in ["db.example", "DB.Example."] {
            assert_eq!(
                lookup.addresses(name).await,
                [found("192.0.2.1"), none()],
                "the other family neither"
            );
        }
        assert_eq!(lookup.addresses("both").await, [found("192.0.2.1"), found("fd00::1")]);
        assert_eq!(lookup.addresses("blocked").await, [none(), none()]);
        let failed = Family::Failed("no name server".to_owned());
        assert_eq!(lookup.addresses("example").await, [failed.clone(), failed]);
    }

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
