//! `nexctl`: asks and changes a running nexd, and makes keys.

mod cli;
mod output;
mod peers;
mod rules;

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use clap::{Args as _, CommandFactory as _, Parser as _};
use envoy_config::PrivateKey;

use self::{
    cli::{
        Arguments, Command, Get, Nexd, NexdCommand, Offered, Peers, Proxy, Set, Switch, why_not, why_not_nexd,
    },
    output::Format,
};
use crate::{
    argv::normalize,
    control::{
        Method,
        client::{Client, ClientError},
    },
    nexd::paths::Environment,
};

/// A key is 44 characters; a file with more than this holds something else.
const MAX_KEY_INPUT_BYTES: usize = 1024;

/// Runs nexctl with these arguments, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(normalize(&Arguments::command(), arguments)) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    match run(arguments.offered) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Shown) => ExitCode::FAILURE,
        Err(Failure::Usage(text)) => {
            complain(&text);
            ExitCode::from(2)
        }
        Err(Failure::Text(text)) => {
            complain(&text);
            ExitCode::FAILURE
        }
    }
}

/// Why nexctl does not succeed.
enum Failure {
    /// It has been said already.
    Shown,
    /// The arguments make no sense.
    Usage(String),
    /// Anything else.
    Text(String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Text(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Text(error.to_string())
    }
}

fn run(Offered { output, command }: Offered) -> Result<(), Failure> {
    match command {
        Command::Version => print(&format!("version: {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Nexd(nexd) => ask(nexd, output),
        Command::Genkey => {
            let key = PrivateKey::generate().map_err(|error| Failure::Text(error.to_string()))?;
            print(&key.to_base64())?;
            print("\n")
        }
        Command::Pubkey => print(&format!("{}\n", read_key()?.public_key())),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            let mut command = Offered::augment_args(clap::Command::new("nexctl"));
            clap_complete::generate(shell.generator(), &mut command, "nexctl", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Other(command) => Err(unknown(&command, why_not(&command))),
    }
}

fn unknown(command: &[String], why_not: Option<String>) -> Failure {
    let name = command.first().map(String::as_str).unwrap_or_default();
    Failure::Usage(why_not.unwrap_or_else(|| format!("unrecognized subcommand '{name}'; see nexctl --help")))
}

fn read_key() -> Result<PrivateKey, Failure> {
    let mut text = zeroize::Zeroizing::new(String::with_capacity(MAX_KEY_INPUT_BYTES + 1));
    io::stdin().take(MAX_KEY_INPUT_BYTES as u64).read_to_string(&mut text)?;
    text.trim().parse().map_err(|problem| Failure::Text(format!("the key on standard input {problem}")))
}

fn ask(Nexd { unix_socket, command }: Nexd, output: Format) -> Result<(), Failure> {
    let sockets = unix_socket.map_or_else(|| Environment::current().sockets(), |socket| vec![socket]);
    let client = Client::new(sockets);
    match command {
        NexdCommand::Version => {
            print(&format!("nexctl version: {}\n", env!("CARGO_PKG_VERSION")))?;
            print(&format!("nexd version: {}\n", client.call(Method::Version, "")?))
        }
        NexdCommand::Status => print(&client.call(Method::Status, "")?),
        NexdCommand::Get(Get::Tunnelip { ipv6 }) => {
            let method = if ipv6 { Method::GetTunnelIPv6 } else { Method::GetTunnelIPv4 };
            print(&format!("{}\n", client.call(method, "")?))
        }
        NexdCommand::Get(Get::Debug) => print(&format!("{}\n", client.call(Method::GetDebug, "")?)),
        NexdCommand::Set(Set::Debug { switch }) => {
            let method = if switch == Switch::On { Method::SetDebugOn } else { Method::SetDebugOff };
            print(&format!("{}\n", client.call(method, "")?))
        }
        NexdCommand::Proxy(Proxy::List) => rules::list(&client, output),
        NexdCommand::Proxy(Proxy::Add(rules)) => {
            rules::change(&client, "adding", rules, Method::ProxyAddIngress, Method::ProxyAddEgress)
        }
        NexdCommand::Proxy(Proxy::Remove(rules)) => {
            rules::change(&client, "removing", rules, Method::ProxyRemoveIngress, Method::ProxyRemoveEgress)
        }
        NexdCommand::Peers(Peers::List { .. }) => peers::list(&client, output),
        NexdCommand::Peers(Peers::Ping(what)) => peers::ping(&client, what, false, output),
        NexdCommand::Peers(Peers::Ping6(what)) => peers::ping(&client, what, true, output),
        NexdCommand::Other(command) => Err(unknown(&command, why_not_nexd(&command))),
    }
}

/// Unlike `println!` this, and the next, do not panic when the reader is gone.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
