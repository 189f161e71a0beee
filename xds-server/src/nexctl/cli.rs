//! The command line of nexctl.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::output::Format;
use crate::duration;

/// Talks to the nexd on this host, and makes WireGuard keys.
#[derive(Parser, Debug)]
#[command(
    name = "nexctl",
    version,
    max_term_width = 120,
    after_help = "\
Examples:
  nexctl nexd proxy add --ingress tcp:443:10.10.100.152:8443
  nexctl nexd proxy remove --ingress tcp:443:10.10.100.152:8443
  nexctl nexd proxy list
  nexctl --output json nexd peers list
  nexctl completion bash > /etc/bash_completion.d/nexctl
  umask 077; nexctl genkey > key; nexctl pubkey < key

Exit codes: 0 done; 1 nexd is not there or refuses, or a peer does not answer a ping; 2 usage."
)]
pub(super) struct Arguments {
    /// What it offers.
    #[command(flatten)]
    pub(super) offered: Offered,

    /// Flags for upstream's control plane.
    #[command(flatten)]
    service: Service,
}

/// What there is to choose from; completions show this.
#[derive(Args, Debug)]
pub(super) struct Offered {
    /// The form of lists
    #[arg(long, value_name = "FORMAT", global = true, default_value = "column")]
    pub(super) output: Format,

    /// What to do
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Upstream's flags for its control plane, which its commands for a nexd take and leave unused.
#[derive(Args, Debug)]
struct Service {
    #[arg(long, hide = true, global = true)]
    host: Option<String>,
    #[arg(long, hide = true, global = true)]
    service_url: Option<String>,
    #[arg(long, hide = true, global = true)]
    username: Option<String>,
    #[arg(long, hide = true, global = true)]
    password: Option<String>,
    #[arg(long, hide = true, global = true)]
    debug: bool,
    #[arg(long, hide = true, global = true)]
    insecure_skip_tls_verify: bool,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Show nexctl's version
    Version,
    /// Commands for the nexd on this host
    Nexd(Nexd),
    /// Make a private key and print it
    Genkey,
    /// Read a private key from standard input and print its public key
    Pubkey,
    /// Print a shell's completions for nexctl
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Upstream's other commands, and what is none.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// A shell with completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub(super) fn generator(self) -> clap_complete::Shell {
        match self {
            Self::Bash => clap_complete::Shell::Bash,
            Self::Zsh => clap_complete::Shell::Zsh,
            Self::Fish => clap_complete::Shell::Fish,
        }
    }
}

/// Upstream's commands that speak to its control plane.
const CONTROL_PLANE: [&str; 9] = [
    "device",
    "invitation",
    "organization",
    "reg-key",
    "security-group",
    "service-network",
    "site",
    "user",
    "vpc",
];

/// Why one of upstream's commands is not here; nothing for what is no command of upstream's either.
pub(super) fn why_not(command: &[String]) -> Option<String> {
    let name = command.first()?;
    CONTROL_PLANE.contains(&name.as_str()).then(|| {
        format!(
            "nexctl {name}: this release works without the Nexodus control plane; `nexctl nexd` has the commands for the nexd \
             on this host"
        )
    })
}

/// The same for a command after `nexctl nexd`.
pub(super) fn why_not_nexd(command: &[String]) -> Option<String> {
    (command.first()? == "exit-node").then(|| {
        "nexctl nexd exit-node: an exit node takes the traffic of a whole host; nexd in proxy mode routes nothing, it has \
         rules"
            .to_owned()
    })
}

/// Commands for a nexd.
#[derive(Args, Debug)]
pub(super) struct Nexd {
    /// The control socket
    /// [default: /var/run/nexd.sock, then ./nexd.sock, then ~/.nexodus/nexd.sock unless root]
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) unix_socket: Option<PathBuf>,

    /// What to ask or do
    #[command(subcommand)]
    pub(super) command: NexdCommand,
}

/// What to ask a nexd.
#[derive(Subcommand, Debug)]
pub(super) enum NexdCommand {
    /// Show versions
    Version,
    /// Show whether nexd is running, and what is wrong
    Status,
    /// Show a value
    #[command(subcommand)]
    Get(Get),
    /// Change a value
    #[command(subcommand)]
    Set(Set),
    /// Show or change the proxy rules
    #[command(subcommand)]
    Proxy(Proxy),
    /// Show the WireGuard peers
    #[command(subcommand)]
    Peers(Peers),
    /// Upstream's other commands, and what is none.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// The WireGuard peers.
#[derive(Subcommand, Debug)]
pub(super) enum Peers {
    /// Show each peer's endpoint, allowed IPs, newest handshake and bytes
    List {
        /// Everything, as always; upstream has this flag
        #[arg(long, short)]
        full: bool,
    },
    /// Send ICMP echo requests to every peer's IPv4 address, or to these addresses
    Ping(Ping),
    /// Send ICMP echo requests to every peer's IPv6 address, or to these addresses
    Ping6(Ping),
}

/// What to ping.
#[derive(Args, Debug)]
pub(super) struct Ping {
    /// Overlay addresses
    #[arg(value_name = "ADDRESS")]
    pub(super) addresses: Vec<IpAddr>,

    /// How long an answer may take, at most 5s; each address is asked twice [default: 1200ms]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(super) timeout: Option<Duration>,
}

/// Values that nexd has.
#[derive(Subcommand, Debug)]
pub(super) enum Get {
    /// Show the overlay address
    Tunnelip {
        /// The IPv6 address instead of the IPv4 address
        #[arg(long, short = '6')]
        ipv6: bool,
    },
    /// Show whether nexd and Envoy log debug messages: on or off
    Debug,
}

/// Values that can be changed.
#[derive(Subcommand, Debug)]
pub(super) enum Set {
    /// Have nexd and Envoy log debug messages, or not
    Debug {
        /// Until nexd ends; Envoy may be started again meanwhile
        switch: Switch,
    },
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// Proxy rules.
#[derive(Subcommand, Debug)]
pub(super) enum Proxy {
    /// Show the active rules, each as the flag that gives it
    List,
    /// Add rules; they survive restarts of nexd
    Add(Rules),
    /// Remove rules
    Remove(Rules),
}

/// Rules, of the form protocol:port:destination:destination_port[,option=value...]; `nexd --help` lists the options.
#[derive(Args, Debug)]
pub(super) struct Rules {
    /// Forward connections from the overlay to a destination on nexd's side
    #[arg(long, value_name = "RULE")]
    pub(super) ingress: Vec<String>,

    /// Forward connections to a port of nexd's host to a destination in the overlay
    #[arg(long, value_name = "RULE")]
    pub(super) egress: Vec<String>,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_socket_stands_anywhere_after_nexd() {
        for arguments in [
            &["nexctl", "nexd", "--unix-socket", "s", "proxy", "list"][..],
            &["nexctl", "nexd", "proxy", "list", "--unix-socket", "s"],
        ] {
            let Command::Nexd(nexd) = Arguments::try_parse_from(arguments).unwrap().offered.command else {
                panic!("not nexd")
            };
            assert_eq!(nexd.unix_socket, Some("s".into()));
        }
    }
}
