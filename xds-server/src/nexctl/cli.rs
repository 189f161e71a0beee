//! The command line of nexctl.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
  umask 077; nexctl genkey > key; nexctl pubkey < key

Exit codes: 0 done; 1 nexd is not there or refuses; 2 usage."
)]
pub(super) struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Commands for the nexd on this host
    Nexd(Nexd),
    /// Make a private key and print it
    Genkey,
    /// Read a private key from standard input and print its public key
    Pubkey,
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
    /// Show or change the proxy rules
    #[command(subcommand)]
    Proxy(Proxy),
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
            let Command::Nexd(nexd) = Arguments::try_parse_from(arguments).unwrap().command else {
                panic!("not nexd")
            };
            assert_eq!(nexd.unix_socket, Some("s".into()));
        }
    }
}
