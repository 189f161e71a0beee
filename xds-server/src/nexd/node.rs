//! A running node, from its directories to its end.

use std::{collections::HashSet, io, path::Path, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use super::{
    bootstrap::{Bootstrap, max_connections},
    changes::Changes,
    debug::Debug,
    envoy::{self, EnvoyCommand},
    error::StartError,
    plan::Plan,
    ports::{PortError, probe, probe_wireguard},
    probe::Probe,
    recovery::{self, Waiting},
    reload,
    runtime_dir::{RuntimeDir, check_socket},
    service::Service,
    supervisor::Supervisor,
    view::View,
};
use crate::{
    ads::Ads,
    control::{
        server,
        socket::{self, Owner},
    },
    names::{lookup, resolver::Names},
    nexd::{activation::Target, admin::Admin},
    rules::{Direction, Entry, RuleKey, RuleSet, Source},
    state::{StateFile, StoredRules},
    translate::{overlay_dns, translate},
};

/// Changes that wait for their turn; the control socket takes fewer connections than that.
const WAITING_CHANGES: usize = 256;

/// How long the start waits for the names in the rules.
const FIRST_LOOKUPS: Duration = Duration::from_secs(1);

/// How long an Envoy that was left behind may take to end, and how often it is looked for.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(5);
/// How long one may take to end by itself.
const LEFTOVER_GRACE: Duration = Duration::from_millis(500);
const COUNT: Duration = Duration::from_millis(20);

/// How long the control socket may take for the answers under way when everything else has ended.
const FAREWELL: Duration = Duration::from_millis(200);

/// Runs a node until it is told to end.
///
/// # Errors
/// [`StartError`]; after the start only what makes going on pointless.
pub async fn run(plan: Plan, debug: Debug) -> Result<(), StartError> {
    // From here on signals are waited for, not obeyed on the spot.
    let mut signals = Signals::new().map_err(StartError::io("signals"))?;
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    let open_files = raise_open_files();
    let mut hangup = signal(SignalKind::hangup()).map_err(StartError::io("signals"))?;
    let owner = Owner { program: "nexd", flag: "--unix-socket" };
    socket::make_directory(&plan.socket, owner)?;
    let (control_listener, control_file) = socket::bind(&plan.socket, owner).await?;
    let (file, stored) = StateFile::open(&plan.state_dir)?;
    let directory = RuntimeDir::open(&plan.settings.runtime_dir)?;
    let admin = Admin::new(directory.admin_socket());
    end_leftover(&admin, &directory.admin_socket()).await;
    directory.clear()?;

    let binary = envoy::find_binary(plan.envoy.binary.as_deref(), std::env::var_os("PATH").as_deref())?;
    envoy::check_version(&binary).await?;
    let executable = std::env::current_exe().map_err(StartError::io("the path of nexd"))?;
    let module_dir = envoy::find_module(plan.envoy.module_dir.as_deref(), &executable)?;

    // An Envoy with rights of its own may bind what nexd may not; then its own answer counts.
    let probe_ports = !envoy::has_capabilities(&binary);
    let (rules, waiting) = merge(&plan, &stored, probe_ports)?;
    if let Some(port) = plan.listen_port {
        probe_wireguard(port, plan.settings.ipv6)?;
    }

    let mut background = JoinSet::new();
    let source = lookup::Source::of(overlay_dns(&plan.settings));
    let (names, lookups) = Names::new(source.clone());
    names.want(&rules.egress_names());
    // A DNS server in the overlay is reached through Envoy, which has to be there first.
    let (at_once, with_envoy) = match source {
        lookup::Source::System => (Some(lookups), None),
        lookup::Source::Overlay(_) => (None, Some(lookups)),
    };
    if let Some(lookups) = at_once {
        background.spawn(lookups.run());
        // So that a node that says it runs has its destinations; a name server that is not there holds nothing up for long.
        names.tried(None, FIRST_LOOKUPS).await;
    }

    let snapshot = translate(&rules, &names.resolved(), &plan.settings)?;
    let target = Target::all(&snapshot);
    let ads = Ads::new();
    let (ads_listener, _ads_file) =
        socket::bind(&directory.ads_socket(), Owner { flag: "--runtime-dir", ..owner }).await?;
    let bootstrap = Bootstrap {
        tunnel: &plan.tunnel,
        ads_socket: &directory.ads_socket(),
        admin_socket: &directory.admin_socket(),
        max_connections: max_connections(open_files),
    };
    directory
        .write_bootstrap(format!("{:#}\n", bootstrap.to_json()).as_bytes())
        .map_err(StartError::io(directory.bootstrap().display().to_string()))?;

    let (view, _) = watch::channel(View {
        addresses: plan.addresses.clone(),
        rules_file: plan.rules_file.as_ref().map(|file| reload::view(file.path(), &plan.rules)),
        ..View::default()
    });
    let (readings_in, readings) = mpsc::channel(1);
    let (changes_in, changes_out) = mpsc::channel(WAITING_CHANGES);
    let (envoys, envoys_seen) = watch::channel(true);
    let mut changes = Changes {
        rules,
        stored,
        waiting,
        file,
        settings: plan.settings.clone(),
        probe: Probe::new(probe_ports, plan.settings.ipv6, plan.envoy.drain_time),
        names: names.clone(),
        ads: ads.clone(),
        admin: admin.clone(),
        view: view.clone(),
        envoys: envoys_seen,
        readings,
        refused: None,
    };
    changes.publish(snapshot);
    changes.show();

    let (stop_ads, ads_stopped) = watch::channel(());
    let mut ads_server: JoinHandle<_> = tokio::spawn(ads.clone().serve(ads_listener, stopped(ads_stopped)));
    let refusals = Arc::<server::Refusals>::default();
    let service = Service {
        view: view.subscribe(),
        changes: changes_in,
        names,
        ads: ads.clone(),
        admin: admin.clone(),
        debug: debug.clone(),
        refusals: Arc::clone(&refusals),
        version: version().into(),
    };
    background.spawn(server::serve(control_listener, service, server::Limits::default(), refusals));

    let command = EnvoyCommand {
        binary,
        module_dir,
        bootstrap: directory.bootstrap(),
        drain_time: plan.envoy.drain_time,
        debug,
        concurrency: plan.envoy.concurrency,
    };
    let supervisor = Supervisor { command, ads, admin, view, envoys, signals: &mut signals };
    let outcome = tokio::select! {
        outcome = supervisor.run(target, changes, |changes| {
            // Changes are made from the moment on at which the node works.
            background.spawn(changes.run(changes_out));
            if let Some(lookups) = with_envoy {
                background.spawn(lookups.run());
            }
            match plan.rules_file {
                Some(file) => background.spawn(file.watch(hangup, readings_in)),
                None => background.spawn(async move {
                    while hangup.recv().await.is_some() {
                        tracing::info!("SIGHUP: there is no rules file to read again");
                    }
                }),
            };
        }) => outcome,
        ended = &mut ads_server => match ended {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(())) | Err(_) => Err(StartError::io("ADS server")(io::Error::other("it ended"))),
        },
    };
    drop(stop_ads);
    // Answers that are being written.
    let _ = tokio::time::timeout(FAREWELL, ads_server).await;
    background.shutdown().await;
    drop(control_file);
    outcome
}

/// The version that clients see. Upstream's nexctl refuses to talk to any nexd whose version is not its own, so a
/// person who wants to use it gives nexd that version.
fn version() -> String {
    let compatible = std::env::var("NEXD_COMPAT_VERSION").ok().filter(|version| !version.is_empty());
    compatible.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned())
}

/// The rules of the flags, which must all work, and those of the file and the stored ones that do.
fn merge(
    plan: &Plan,
    stored: &StoredRules,
    probe_ports: bool,
) -> Result<(RuleSet, Vec<Waiting>), StartError> {
    let probe = |key: RuleKey| -> Result<(), PortError> {
        if probe_ports && key.direction == Direction::Egress {
            probe(key, plan.settings.ipv6)?;
        }
        Ok(())
    };
    let mut rules = plan.rules.clone();
    let mut waiting = Vec::new();
    let flags: HashSet<_> =
        rules.iter().filter(|entry| entry.source == Source::Flag).map(Entry::key).collect();
    for key in rules.keys() {
        match probe(key) {
            Ok(()) => {}
            Err(error) if flags.contains(&key) => return Err(error.into()),
            Err(error) => {
                waiting.extend(recovery::set_aside(&mut rules, key, &error.to_string(), |_| false));
            }
        }
    }
    for (direction, rule) in stored.iter() {
        let direction = *direction;
        let key = RuleKey::of(direction, rule);
        let is_new = !rules.contains_key(key);
        if let Err(error) = rules.add(direction, rule.clone(), Source::Stored) {
            waiting.extend(Waiting::stored(direction, rule, &error));
            continue;
        }
        if !is_new {
            continue;
        }
        let socket = check_socket(&plan.settings, key).map_err(|error| error.to_string());
        if let Err(reason) = socket.and_then(|()| probe(key).map_err(|error| error.to_string())) {
            waiting.extend(recovery::set_aside(&mut rules, key, &reason, |_| false));
        }
    }
    Ok((rules, waiting))
}

/// Raises the limit of open files as far as it goes, for Envoy, and says where it is.
fn raise_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("limit of open files: {error}");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Ends an Envoy that a killed nexd has left behind, which has its ports and would take part in what this node does. The kernel
/// ends it with nexd, but not one whose binary has capabilities (prctl(2), PR_SET_PDEATHSIG).
async fn end_leftover(admin: &Admin, socket: &Path) {
    let is_there = async || socket::is_live(socket).await.unwrap_or(false);
    // One that the kernel has told to end may need a moment.
    let deadline = Instant::now() + LEFTOVER_GRACE;
    while Instant::now() < deadline {
        if !is_there().await {
            return;
        }
        sleep(COUNT).await;
    }
    tracing::warn!("an Envoy was left behind by a nexd that was killed: ending it");
    if let Err(error) = admin.quit().await {
        tracing::warn!("{error}");
    }
    let deadline = Instant::now() + LEFTOVER_LIMIT;
    while is_there().await {
        if Instant::now() >= deadline {
            tracing::warn!("it does not end: its ports are in use, and its process has to be ended by hand");
            return;
        }
        sleep(COUNT).await;
    }
}

async fn stopped(mut sender: watch::Receiver<()>) {
    while sender.changed().await.is_ok() {}
}

/// The signals that ask a node to end.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}
