//! The command line of nexd.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, ValueEnum, builder::RangedU64ValueParser};

use crate::{duration, names::lookup, translate::AccessLog};

/// Below the flags in `--help`.
const MORE_HELP: &str = "\
Rules have the form protocol:port:destination:destination_port. A flag can be given several times, or its rules can be \
separated by commas; rules with one protocol and port share the connections (round robin).

Options follow a rule after commas: bind=ADDRESS (listen on this address only), weight=1..1000 (share of the \
connections), connect-timeout=TIME and health-check=TIME (TCP; one value for all rules of a port).

Examples:
  nexd --wg-config wg0.conf proxy --ingress tcp:443:10.10.100.152:8443
      Overlay peers reach 10.10.100.152:8443 at port 443 of this node's overlay address.
  nexd --wg-config wg0.conf proxy --egress tcp:8080:100.64.0.2:80
      Programs on this side reach port 80 of the overlay address 100.64.0.2 at port 8080 of this host.
  nexd --wg-config wg0.conf proxy --egress tcp:8080:100.64.0.2:80,weight=3,tcp:8080:100.64.0.3:80
      Of four connections to port 8080, three go to 100.64.0.2.
  nexd --wg-config wg0.conf proxy --check --egress tcp:8080:100.64.0.2:80
      Checks key, configuration and rules, starts nothing.
  nexd --wg-config wg0.conf proxy --rules rules.yaml
      Has the rules of a file, whatever they become. In it are lists of rules behind `egress:` and `ingress:`.
  nexctl nexd proxy add --ingress tcp:80:127.0.0.1:8080
      Adds a rule to the running node. Rules added so survive restarts.

Environment: NEXD_LOGLEVEL (any value: debug messages), NEXD_COMPAT_VERSION (what to answer when a client asks for the \
version: upstream's nexctl talks only to a nexd of its own version), and those named above.

Exit codes:
  0  ended as asked                       5  port in use, or not permitted
  1  internal error                       6  Envoy not found, or of the wrong version
  2  usage, a bad rule or rules file      7  module not found
  3  WireGuard configuration or key       8  Envoy does not start
  4  state, runtime directory or socket   9  another nexd has the directory or socket";

/// Connects this host and a WireGuard network by proxy rules, without a network interface and without privileges.
#[derive(Parser, Debug)]
#[command(name = "nexd", version, after_help = MORE_HELP, max_term_width = 120)]
pub struct Arguments {
    /// What to run
    #[arg(value_enum)]
    pub mode: Mode,

    /// Forward connections from the overlay to a destination on this side
    #[arg(long, value_name = "RULE")]
    pub ingress: Vec<String>,

    /// Forward connections to a port of this host to a destination in the overlay
    #[arg(long, value_name = "RULE")]
    pub egress: Vec<String>,

    /// Rules in a YAML file, besides those of the flags; it is read again when it changes, and at SIGHUP
    #[arg(long, value_name = "FILE", env = "NEXD_RULES")]
    pub rules: Option<PathBuf>,

    /// Check key, configuration and rules, print the rules in canonical form, start nothing
    #[arg(long)]
    pub check: bool,

    /// The WireGuard configuration, a wg-quick file with mode 0600: key, addresses, port, MTU and peers
    #[arg(long, value_name = "FILE", env = "NEXD_WG_CONFIG")]
    pub wg_config: Option<PathBuf>,

    /// The WireGuard UDP port instead of the configuration's; 0 for any
    #[arg(long, value_name = "PORT", env = "NEXD_LISTEN_PORT")]
    pub listen_port: Option<u16>,

    /// Where rules added at run time are kept [default: /var/lib/nexd as root, else ~/.nexodus]
    #[arg(long, value_name = "DIR", env = "NEXD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// The control socket [default: /var/run/nexd.sock as root, else ~/.nexodus/nexd.sock]
    #[arg(long, value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,

    /// The directory of this node's internal sockets
    /// [default: /run/nexd as root, else $XDG_RUNTIME_DIR/nexd, else STATE-DIR/run]
    #[arg(long, value_name = "DIR", env = "NEXD_RUNTIME_DIR")]
    pub runtime_dir: Option<PathBuf>,

    /// The Envoy binary [default: `envoy` in PATH]
    #[arg(long, value_name = "PATH", env = "ENVOY_BIN")]
    pub envoy: Option<PathBuf>,

    /// The directory of libnexodus.so [default: where nexd is, then ../lib/nexodus from there]
    #[arg(long, value_name = "DIR", env = "NEXD_MODULE_DIR")]
    pub module_dir: Option<PathBuf>,

    /// How long open connections may go on after SIGTERM, or after their rule was removed
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    pub drain_time: Duration,

    /// How long one attempt to reach a destination may take, of the 10 s in which a client needs one [default: 2s, and where
    /// there is one destination only, one attempt after the other]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub connect_timeout: Option<Duration>,

    /// A UDP flow ends after this time without a datagram in either direction
    #[arg(long, value_name = "TIME", env = "NEXD_UDP_IDLE_TIMEOUT", default_value = "60s", value_parser = duration::parse_idle)]
    pub udp_idle_timeout: Duration,

    /// UDP flows at one time; a datagram that would make one more is dropped and counted
    #[arg(long, value_name = "N", default_value = "16384", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    pub max_udp_flows: usize,

    /// Threads that encrypt and decrypt. Each has some of the peers, so more than there are peers are of no use
    #[arg(long, value_name = "N", env = "NEXD_TUNNEL_THREADS", default_value = "1", value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub tunnel_threads: usize,

    /// Look egress host names up at this DNS server in the overlay, through the tunnel, instead of at the system's. Can be
    /// given several times, or with commas
    #[arg(long, value_name = "ADDRESS[:PORT]", env = "NEXD_OVERLAY_DNS", value_delimiter = ',', value_parser = lookup::server)]
    pub overlay_dns: Vec<SocketAddr>,

    /// One line for each connection: `stdout`, `stderr`, `off`, or a file
    #[arg(long, value_name = "WHERE", default_value = "stdout", value_parser = access_log)]
    pub access_log: AccessLog,

    /// How much Envoy and the module say
    #[arg(long, value_name = "LEVEL", default_value = "warning")]
    pub envoy_log_level: EnvoyLogLevel,

    /// How many worker threads Envoy has [default: one for each CPU that nexd may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: Option<u16>,

    /// Flags that need a control plane.
    #[command(flatten)]
    pub control_plane: ControlPlane,
}

/// The one mode of this nexd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Proxy between this side and the overlay
    Proxy,
}

/// Envoy's log levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "Envoy's names")]
pub enum EnvoyLogLevel {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

impl EnvoyLogLevel {
    /// Envoy's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }
}

/// Upstream's flags that speak to its control plane. Recognized, so that the error can say what to do instead.
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "upstream's names")]
pub struct ControlPlane {
    #[arg(hide = true, value_name = "SERVICE-URL")]
    pub positional: Vec<String>,
    #[arg(long, hide = true)]
    pub service_url: Option<String>,
    #[arg(long, hide = true)]
    pub username: Option<String>,
    #[arg(long, hide = true)]
    pub password: Option<String>,
    #[arg(long, hide = true)]
    pub reg_key: Option<String>,
    #[arg(long, hide = true)]
    pub vpc_id: Option<String>,
    #[arg(long, hide = true)]
    pub security_group_id: Option<String>,
    #[arg(long, hide = true)]
    pub request_ip: Option<String>,
    #[arg(long, hide = true)]
    pub local_endpoint_ip: Option<String>,
    #[arg(long, hide = true)]
    pub stun_server: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub insecure_skip_tls_verify: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub relay_only: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub exit_node_client: Option<String>,
}

impl ControlPlane {
    /// The first of them that is given. Its value is not repeated: it can be a password.
    #[must_use]
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--service-url", self.service_url.is_some()),
            ("--reg-key", self.reg_key.is_some()),
            ("--request-ip", self.request_ip.is_some()),
            ("--username", self.username.is_some()),
            ("--password", self.password.is_some()),
            ("--vpc-id", self.vpc_id.is_some()),
            ("--security-group-id", self.security_group_id.is_some()),
            ("--local-endpoint-ip", self.local_endpoint_ip.is_some()),
            ("--stun-server", !self.stun_server.is_empty()),
            ("--insecure-skip-tls-verify", self.insecure_skip_tls_verify.is_some()),
            ("--relay-only", self.relay_only.is_some()),
            ("--exit-node-client", self.exit_node_client.is_some()),
            ("a service URL", !self.positional.is_empty()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "clap's signature")]
pub(crate) fn access_log(text: &str) -> Result<AccessLog, String> {
    Ok(match text {
        "off" => AccessLog::Off,
        "stdout" => AccessLog::Stdout,
        "stderr" => AccessLog::Stderr,
        path => AccessLog::File(path.into()),
    })
}

#[cfg(test)]
mod tests;
