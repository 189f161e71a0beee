//! `nexctl`: asks and changes a running nexd, and makes keys.

mod cli;

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};
use envoy_config::PrivateKey;

use self::cli::{Arguments, Command, Get, Nexd, NexdCommand, Proxy, Rules};
use crate::{
    argv::{normalize, split_values},
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
    match run(arguments.command) {
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

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Nexd(nexd) => ask(nexd),
        Command::Genkey => {
            let key = PrivateKey::generate().map_err(|error| Failure::Text(error.to_string()))?;
            print(&key.to_base64())?;
            print("\n")
        }
        Command::Pubkey => print(&format!("{}\n", read_key()?.public_key())),
    }
}

fn read_key() -> Result<PrivateKey, Failure> {
    let mut text = zeroize::Zeroizing::new(String::with_capacity(MAX_KEY_INPUT_BYTES + 1));
    io::stdin().take(MAX_KEY_INPUT_BYTES as u64).read_to_string(&mut text)?;
    text.trim().parse().map_err(|problem| Failure::Text(format!("the key on standard input {problem}")))
}

fn ask(Nexd { unix_socket, command }: Nexd) -> Result<(), Failure> {
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
        NexdCommand::Proxy(Proxy::List) => print(&client.call(Method::ProxyList, "")?),
        NexdCommand::Proxy(Proxy::Add(rules)) => {
            change(&client, "adding", rules, Method::ProxyAddIngress, Method::ProxyAddEgress)
        }
        NexdCommand::Proxy(Proxy::Remove(rules)) => {
            change(&client, "removing", rules, Method::ProxyRemoveIngress, Method::ProxyRemoveEgress)
        }
    }
}

/// Each rule for itself: one that fails does not keep the others from being tried.
fn change(
    client: &Client,
    verb: &str,
    Rules { ingress, egress }: Rules,
    ingress_method: Method,
    egress_method: Method,
) -> Result<(), Failure> {
    if ingress.is_empty() && egress.is_empty() {
        return Err(Failure::Usage("No rules provided".to_owned()));
    }
    let mut outcome = Ok(());
    for (direction, method, rules) in
        [("ingress", ingress_method, ingress), ("egress", egress_method, egress)]
    {
        for rule in split_values(&rules) {
            match client.call(method, &rule) {
                Ok(text) => print(&text)?,
                Err(error) => {
                    complain(&format!("Error {verb} {direction} rule ({rule}): {error}"));
                    outcome = Err(Failure::Shown);
                }
            }
        }
    }
    outcome
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
