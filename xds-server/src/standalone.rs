//! `xds-server`: rules from the command line for an Envoy that somebody else runs.

use std::{
    ffi::OsString,
    future::Future,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tracing_subscriber::EnvFilter;

use crate::{
    ads::{Ads, Listener, ServeError},
    argv,
    control::socket::{self, BindError, Owner},
    duration,
    names::{ResolvedNames, lookup, resolver::Names},
    nexd::cli::access_log,
    rules::{Direction, RuleSet, Source},
    rules_file::{Reading, RulesFile, RulesFileError},
    translate::{AccessLog, Settings, TranslateError, host_has_ipv6, overlay_dns, translate},
};

/// How long the names in a changed rules file are waited for.
const LOOKUP_LIMIT: Duration = Duration::from_secs(3);

/// Below the flags in `--help`.
const MORE_HELP: &str = "\
Rules have the form protocol:port:destination:destination_port. A flag can be given several times, or its rules can be \
separated by commas; rules with one protocol and port share the connections (round robin).

Options follow a rule after commas: bind=ADDRESS (listen on this address only), weight=1..1000 (share of the \
connections), connect-timeout=TIME and health-check=TIME (TCP; one value for all rules of a port).

The Envoy needs the module and a bootstrap with a network and this server: envoy-config/xds.yaml is one to start from. It \
may use the state-of-the-world or the incremental protocol. What it rejects is written to standard error; everything \
else is served all the same.

Example:
  xds-server --ads-socket /run/nexodus/ads.sock --egress tcp:8080:100.64.0.2:80

Environment: XDS_SERVER_LOG (a filter such as `debug`).

Exit codes:
  0  ended by SIGTERM or SIGINT           4  the socket or address cannot be used
  1  internal error                       5  the socket or address is in use
  2  usage, a bad rule or rules file";

/// Serves proxy rules to an Envoy with the nexodus module, over the aggregated discovery service (ADS).
#[derive(Parser, Debug)]
#[command(name = "xds-server", version, after_help = MORE_HELP, max_term_width = 120)]
struct Arguments {
    #[command(flatten)]
    address: Address,

    /// Forward connections from the overlay to a destination on this side
    #[arg(long, value_name = "RULE")]
    ingress: Vec<String>,

    /// Forward connections to a port of Envoy's host to a destination in the overlay
    #[arg(long, value_name = "RULE")]
    egress: Vec<String>,

    /// Rules in a YAML file, besides those of the flags; it is read again when it changes, and at SIGHUP
    #[arg(long, value_name = "FILE", env = "NEXD_RULES")]
    rules: Option<PathBuf>,

    /// The network of Envoy's bootstrap that carries the rules
    #[arg(long, value_name = "NAME", default_value = envoy_config::DEFAULT_NETWORK)]
    network: String,

    /// Where Envoy makes the sockets of ingress listeners: a directory for its user alone
    #[arg(long, value_name = "DIR", default_value = "/run/nexodus")]
    runtime_dir: PathBuf,

    /// How long one attempt to reach a destination may take, of the 10 s in which a client needs one [default: 2s, and where
    /// there is one destination only, one attempt after the other]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    connect_timeout: Option<Duration>,

    /// A UDP flow ends after this time without a datagram in either direction; `limits.udp_idle_ms` of the network should be
    /// the same
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse_idle)]
    udp_idle_timeout: Duration,

    /// Look egress host names up at this DNS server in the overlay, through the tunnel, instead of at the system's. Can be
    /// given several times, or with commas
    #[arg(long, value_name = "ADDRESS[:PORT]", value_delimiter = ',', value_parser = lookup::server)]
    overlay_dns: Vec<SocketAddr>,

    /// Where Envoy writes one line for each connection: `stdout`, `stderr`, `off`, or a file
    #[arg(long, value_name = "WHERE", default_value = "stdout", value_parser = access_log)]
    access_log: AccessLog,

    /// Egress listeners take IPv4 only [default: when this host has no IPv6]
    #[arg(long)]
    ipv4_only: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Address {
    /// Listen on a Unix socket, made with mode 0600
    #[arg(long, value_name = "PATH")]
    ads_socket: Option<PathBuf>,

    /// Listen on a TCP address. Whoever reaches it can read the rules
    #[arg(long, value_name = "ADDRESS:PORT")]
    ads_listen: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("--{direction} {text}: {reason}")]
    Rule { direction: Direction, text: String, reason: String },
    #[error(transparent)]
    RulesFile(#[from] RulesFileError),
    #[error(transparent)]
    Translate(#[from] TranslateError),
    #[error(transparent)]
    Socket(#[from] BindError),
    #[error("--ads-listen {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Error {
    fn code(&self) -> u8 {
        match self {
            Self::Rule { .. } | Self::RulesFile(_) | Self::Translate(_) => 2,
            Self::Socket(BindError::Live { .. }) => 5,
            Self::Listen { error, .. } if error.kind() == io::ErrorKind::AddrInUse => 5,
            Self::Socket(_) | Self::Listen { .. } => 4,
            Self::Serve(_) | Self::Io(_) => 1,
        }
    }
}

/// Runs the server with these arguments, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = argv::without_empty_variables(Arguments::command());
    let arguments = argv::normalize(&command, arguments);
    let arguments = match command
        .try_get_matches_from(arguments)
        .and_then(|matches| Arguments::from_arg_matches(&matches))
    {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    start_log();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            error.code().into()
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Error> {
    let mut rules = rules(&arguments.egress, &arguments.ingress)?;
    let mut file = None;
    if let Some(path) = &arguments.rules {
        let (opened, in_file) = RulesFile::open(path)?;
        rules = rules.with_file(&in_file).map_err(|error| RulesFileError::content(path, error))?;
        file = Some(opened);
    }
    let settings = settings(&arguments)?;
    translate(&rules, &ResolvedNames::default(), &settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anything is there that has to go.
        let ended = ended()?;
        let hangup = signal(SignalKind::hangup())?;
        let (listener, address, _socket_file) =
            match (&arguments.address.ads_socket, arguments.address.ads_listen) {
                (Some(path), _) => {
                    let owner = Owner { program: "xds-server", flag: "--ads-socket" };
                    socket::make_directory(path, owner)?;
                    let (listener, file) = socket::bind(path, owner).await?;
                    (Listener::from(listener), path.display().to_string(), Some(file))
                }
                (None, Some(address)) => {
                    let failed = |error| Error::Listen { address, error };
                    let listener = TcpListener::bind(address).await.map_err(failed)?;
                    let address = listener.local_addr()?;
                    (Listener::from(listener), address.to_string(), None)
                }
                (None, None) => return Err(io::Error::other("no address").into()),
            };
        show(&rules, &address)?;
        let ads = Ads::new();
        let (names, lookups) = Names::new(lookup::Source::of(overlay_dns(&settings)));
        tokio::spawn(lookups.run());
        tokio::spawn(follow(file, hangup, names, rules, settings, ads.clone()));
        ads.serve(listener, ended).await?;
        tracing::info!("ended as asked");
        Ok(())
    })
}

/// Serves what the file says and what names stand for, whenever that changes. What is wrong changes nothing.
async fn follow(
    file: Option<RulesFile>,
    mut hangup: Signal,
    mut names: Names,
    mut rules: RuleSet,
    settings: Settings,
    ads: Ads,
) {
    let path = file.as_ref().map(|file| file.path().to_owned()).unwrap_or_default();
    let (sender, mut readings) = mpsc::channel(1);
    match file {
        Some(file) => tokio::spawn(file.watch(hangup, sender)),
        None => tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                tracing::info!("SIGHUP: there is no rules file to read again");
            }
        }),
    };
    let take_over = async |rules: &RuleSet, names: &Names, reading: Reading| -> Result<_, Error> {
        let new = rules.with_file(&reading?).map_err(|error| RulesFileError::content(&path, error))?;
        // No destination is without addresses while one of them gives way to a name.
        let mut both = rules.egress_names();
        both.extend(new.egress_names());
        names.want(&both);
        names.tried(None, LOOKUP_LIMIT).await;
        let snapshot = translate(&new, &names.resolved(), &settings)?;
        Ok((new, snapshot))
    };
    names.want(&rules.egress_names());
    // An Envoy that is there already, of an earlier server, keeps what it has for a name until this one knows better.
    names.tried(None, LOOKUP_LIMIT).await;
    match translate(&rules, &names.resolved(), &settings) {
        Ok(snapshot) => ads.publish(snapshot),
        Err(error) => tracing::error!("{error}"),
    }
    loop {
        tokio::select! {
            Some(reading) = readings.recv() => {
                match take_over(&rules, &names, reading).await {
                    Ok((new, snapshot)) => {
                        rules = new;
                        ads.publish(snapshot);
                        tracing::info!("rules file {}: serving {} rules", path.display(), rules.len());
                    }
                    Err(error) => tracing::warn!("{error}; the rules from before still apply"),
                }
                names.want(&rules.egress_names());
            }
            () = names.changed() => match translate(&rules, &names.resolved(), &settings) {
                Ok(snapshot) => ads.publish(snapshot),
                // More addresses than the module takes, in all.
                Err(error) => tracing::error!("host names have changed: {error}"),
            },
        }
    }
}

fn settings(arguments: &Arguments) -> io::Result<Settings> {
    // Envoy has its own idea of a working directory.
    let access_log = match &arguments.access_log {
        AccessLog::File(path) => AccessLog::File(std::path::absolute(path)?),
        other => other.clone(),
    };
    Ok(Settings {
        network: arguments.network.clone(),
        runtime_dir: std::path::absolute(&arguments.runtime_dir)?,
        connect_timeout: arguments.connect_timeout,
        udp_idle_timeout: arguments.udp_idle_timeout,
        access_log,
        peers: None,
        overlay_dns: arguments.overlay_dns.clone(),
        // The network is in Envoy's bootstrap configuration.
        listen_port: None,
        ipv6: !arguments.ipv4_only && host_has_ipv6(),
    })
}

/// The rules of the flags, egress before ingress as upstream adds them.
fn rules(egress: &[String], ingress: &[String]) -> Result<RuleSet, Error> {
    let mut rules = RuleSet::new();
    for (direction, values) in [(Direction::Egress, egress), (Direction::Ingress, ingress)] {
        for text in argv::split_values(values) {
            let failed = |reason| Error::Rule { direction, text: text.clone(), reason };
            let rule = text.parse().map_err(|error: crate::rules::RuleError| failed(error.to_string()))?;
            rules.add(direction, rule, Source::Flag).map_err(|error| failed(error.to_string()))?;
        }
    }
    Ok(rules)
}

/// What is served, on standard output: the rules in canonical form, then where.
fn show(rules: &RuleSet, address: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    rules.iter().try_for_each(|rule| writeln!(out, "{rule}"))?;
    writeln!(out, "Serving {} rules on {address}", rules.len())?;
    out.flush()
}

/// Resolves with the first SIGTERM or SIGINT.
fn ended() -> io::Result<impl Future<Output = ()> + Send> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn start_log() {
    let filter = std::env::var("XDS_SERVER_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = filter.unwrap_or_else(|| "info".to_owned());
    // A second log in one process is refused; the first one goes on.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}
