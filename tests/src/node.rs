//! A running `nexd`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::admin::Admin;
use crate::identity::Identity;
use crate::log::{access_log, complaints};
use crate::namespace::Namespace;
use crate::needs::Products;
use crate::process::{Process, run, run_ok, under};
use crate::wait::within;

/// From the start of nexd to open listeners.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// The drain time and more than enough.
const END_LIMIT: Duration = Duration::from_secs(15);

/// What a node is to be started with.
#[derive(Clone)]
pub struct NodeBuilder<'a> {
    products: Products,
    identity: Identity,
    peers: Vec<String>,
    interface: String,
    rules: Vec<(&'static str, String)>,
    flags: Vec<String>,
    /// Several workers, wherever a test runs.
    two_workers: bool,
    variables: Vec<(&'static str, String)>,
    prefix: Vec<String>,
    namespace: Option<&'a Namespace>,
    expected: Vec<String>,
    /// Files that stand in the place of the system's, for this node alone.
    mounts: Vec<(PathBuf, &'static str)>,
}

impl<'a> NodeBuilder<'a> {
    /// Another node it knows.
    #[must_use]
    pub fn peer(self, peer: &Identity) -> Self {
        self.peer_section(peer.peer_section())
    }

    /// A `[Peer]` section in the words of the test.
    #[must_use]
    pub fn peer_section(mut self, section: String) -> Self {
        self.peers.push(section);
        self
    }

    /// A further line of the `[Interface]` section.
    #[must_use]
    pub fn interface_line(mut self, line: &str) -> Self {
        self.interface += line;
        self.interface.push('\n');
        self
    }

    /// `--ingress RULE`
    #[must_use]
    pub fn ingress(mut self, rule: impl Into<String>) -> Self {
        self.rules.push(("--ingress", rule.into()));
        self
    }

    /// `--egress RULE`
    #[must_use]
    pub fn egress(mut self, rule: impl Into<String>) -> Self {
        self.rules.push(("--egress", rule.into()));
        self
    }

    /// A global flag of nexd.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// With as many workers as a user's node has, and not with two.
    #[must_use]
    pub fn default_workers(mut self) -> Self {
        self.two_workers = false;
        self
    }

    /// A variable of nexd's environment.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// In this namespace.
    #[must_use]
    pub fn within(mut self, namespace: &'a Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Through this command prefix; its directories then belong to nobody.
    #[must_use]
    pub fn through(mut self, prefix: Vec<String>) -> Self {
        self.prefix = prefix;
        self
    }

    /// Sees `file` in the place of a file of the system; ask [`mounts`](crate::mounts) first.
    #[must_use]
    pub fn mount(mut self, file: impl Into<PathBuf>, over: &'static str) -> Self {
        self.mounts.push((file.into(), over));
        self
    }

    /// Complaints with this text in the log are right.
    #[must_use]
    pub fn expect_complaint(mut self, text: &str) -> Self {
        self.expected.push(text.to_owned());
        self
    }

    /// A node that is set up and not started.
    pub fn build(self) -> Node<'a> {
        let directory = tempfile::Builder::new().prefix("nexodus-").tempdir().expect("a temporary directory");
        let configuration = directory.path().join("wg0.conf");
        let interface = self.identity.interface_section() + &self.identity.address_line() + &self.interface;
        fs::write(&configuration, interface + &self.peers.concat()).expect("a configuration file");
        fs::set_permissions(&configuration, fs::Permissions::from_mode(0o600)).expect("an own file");
        if !self.prefix.is_empty() {
            for path in [directory.path(), &configuration] {
                std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("root gives files away");
            }
        }
        Node { builder: self, process: None, envoys: vec![], directory }
    }

    /// A running node whose listeners are up.
    ///
    /// # Panics
    /// When it does not get there.
    #[track_caller]
    pub fn start(self) -> Node<'a> {
        let mut node = self.build();
        node.start();
        node
    }
}

/// A `nexd` with directories of its own. Its Envoy's and its own complaints are looked for at its end.
pub struct Node<'a> {
    builder: NodeBuilder<'a>,
    process: Option<Process>,
    /// Every Envoy this node had, so that none is left behind unnoticed.
    envoys: Vec<u32>,
    directory: TempDir,
}

impl<'a> Node<'a> {
    /// How long a test's connections may outlive SIGTERM: less than the default, which each test with one would wait for.
    pub const DRAIN_TIME: Duration = Duration::from_secs(2);

    /// A node with this identity, no peers and no rules yet.
    pub fn with(products: &Products, identity: &Identity) -> NodeBuilder<'a> {
        NodeBuilder {
            products: products.clone(),
            identity: identity.clone(),
            peers: vec![],
            interface: String::new(),
            rules: vec![],
            flags: vec![],
            two_workers: true,
            variables: vec![],
            prefix: vec![],
            namespace: None,
            expected: vec![],
            mounts: vec![],
        }
    }

    /// Starts it and waits until its listeners are up.
    ///
    /// # Panics
    /// When it ends, or is not ready within the limit.
    #[track_caller]
    pub fn start(&mut self) {
        self.launch();
        self.wait_ready();
    }

    /// Waits until its listeners are up.
    ///
    /// # Panics
    /// When it ends, or is not ready within the limit.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        within(READY_LIMIT, "the node to be ready", || {
            let process = self.process.as_mut().expect("started");
            if let Some(status) = process.ended() {
                panic!("nexd ended with {status}:\n{}", process.log());
            }
            self.is_ready().then_some(())
        });
        self.envoys.push(self.envoy_id().expect("a ready node has an Envoy"));
    }

    /// Starts it without waiting.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "already started");
        self.process = Some(Process::start("nexd", &self.command(), &self.log_path()));
    }

    /// nexd as this node runs it.
    pub fn command(&self) -> Command {
        let builder = &self.builder;
        let mut command = Command::new(builder.products.program("nexd"));
        command.arg("--unix-socket").arg(self.control_socket());
        command.arg("--state-dir").arg(self.directory.path().join("state"));
        command.arg("--runtime-dir").arg(self.runtime_directory());
        command.arg("--wg-config").arg(self.directory.path().join("wg0.conf"));
        command.arg("--envoy").arg(&builder.products.envoy);
        command.arg("--drain-time").arg(format!("{}s", Self::DRAIN_TIME.as_secs()));
        if builder.two_workers && !builder.flags.iter().any(|flag| flag.starts_with("--concurrency")) {
            command.arg("--concurrency=2");
        }
        command.args(&builder.flags).arg("proxy");
        for (direction, rule) in &builder.rules {
            command.args([direction, rule.as_str()]);
        }
        command.env("NEXD_MODULE_DIR", &builder.products.directory);
        command.envs(builder.variables.iter().map(|(name, value)| (name, value)));
        if !builder.prefix.is_empty() {
            command = under(&builder.prefix, &command);
        }
        if !builder.mounts.is_empty() {
            let bind = |(file, over): &(PathBuf, &str)| format!("mount --bind {} {over} && ", file.display());
            let script: String = builder.mounts.iter().map(bind).collect();
            let script = script + "exec \"$@\"";
            command = under(&["unshare", "--mount", "--", "sh", "-c", &script, "sh"], &command);
        }
        match builder.namespace {
            Some(namespace) => namespace.enter(&command),
            None => command,
        }
    }

    /// nexd run to its end, for starts that must fail: its status and everything it wrote.
    ///
    /// # Panics
    /// When it is still running after the limit.
    #[track_caller]
    pub fn run_to_end(&mut self) -> (ExitStatus, String) {
        self.launch();
        let mut process = self.process.take().expect("started");
        let status = process.wait(READY_LIMIT);
        (status, process.log())
    }

    /// Ready for traffic: nexd says so and every rule given as a flag has its listener.
    fn is_ready(&self) -> bool {
        let (status, out, _) = self.nexctl(&["status"]);
        let listeners = self.admin().listeners();
        let has = |(direction, rule): &(&str, String)| listeners.contains(&listener(direction, rule));
        status.success() && out.contains("Running") && self.builder.rules.iter().all(has)
    }

    /// `nexctl nexd --unix-socket … ARGUMENTS`: status, standard output, standard error.
    #[track_caller]
    pub fn nexctl(&self, arguments: &[&str]) -> (ExitStatus, String, String) {
        let mut command = Command::new(self.builder.products.program("nexctl"));
        run(command.args(["nexd", "--unix-socket"]).arg(self.control_socket()).args(arguments))
    }

    /// The same where it must succeed: its standard output.
    #[track_caller]
    pub fn nexctl_ok(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.builder.products.program("nexctl"));
        run_ok(command.args(["nexd", "--unix-socket"]).arg(self.control_socket()).args(arguments))
    }

    /// Has these rules stored, as `nexctl` would have had them, before it is started.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn store(&self, egress: &[&str], ingress: &[&str]) {
        let state = self.state_file();
        fs::create_dir_all(state.parent().expect("a directory")).expect("made");
        // Upstream has null where there is none.
        let list = |rules: &[&str]| if rules.is_empty() { Value::Null } else { rules.into() };
        let rules = serde_json::json!({"egress": list(egress), "ingress": list(ingress)});
        let stored = serde_json::json!({ "proxy-rules-config": rules });
        fs::write(state, stored.to_string()).expect("written");
    }

    /// What was stored of the rules: state.json's `proxy-rules-config`.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn stored_rules(&self) -> Value {
        let path = self.state_file();
        let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let state: Value = serde_json::from_slice(&text).expect("state.json is JSON at any time");
        state["proxy-rules-config"].clone()
    }

    /// Where the rules added at run time are kept; nothing is there before the first.
    pub fn state_file(&self) -> PathBuf {
        self.directory.path().join("state/state.json")
    }

    /// The Envoy's admin interface.
    pub fn admin(&self) -> Admin {
        Admin::new(self.runtime_directory().join("admin.sock"))
    }

    /// One of the module's own numbers (`/nexodus/status`), at most a second old while anything happens.
    ///
    /// # Panics
    /// When Envoy does not answer, or the module has no such number.
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        let page = self.admin().get("/nexodus/status").expect("Envoy's admin interface answers");
        let status: Value = serde_json::from_str(&page).expect("JSON");
        let number = status["networks"][0]["numbers"][name].as_u64();
        number.unwrap_or_else(|| panic!("no number {name} in {page}"))
    }

    /// The process id of its Envoy, if it has one now.
    pub fn envoy_id(&self) -> Option<u32> {
        children(self.process.as_ref()?.id()).find(|(_, name)| name == "envoy").map(|(id, _)| id)
    }

    /// The running nexd.
    ///
    /// # Panics
    /// When it is not started.
    #[track_caller]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("started")
    }

    /// Everything nexd and Envoy have written, over all starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits for the access log of a listener, such as `egress/tcp/80`, to have this many lines.
    #[track_caller]
    pub fn access_log(&self, listener: &str, count: usize) -> Vec<String> {
        within(Duration::from_secs(10), &format!("{count} lines of {listener}'s access log"), || {
            let log = self.log();
            let lines = access_log(&log, listener);
            (lines.len() >= count).then(|| lines.into_iter().map(str::to_owned).collect())
        })
    }

    /// Ends nexd by a signal and waits for it and its Envoy.
    ///
    /// # Panics
    /// When one of them outlives the limit.
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.envoys.extend(self.envoy_id());
        let mut process = self.process.take().expect("started");
        process.signal(signal);
        let status = process.wait(END_LIMIT);
        let envoys = std::mem::take(&mut self.envoys);
        within(END_LIMIT, "the node's Envoys to end", || {
            envoys.iter().all(|envoy| !is_envoy(*envoy)).then_some(())
        });
        status
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.directory.path().join("nexd.sock")
    }

    /// The runtime directory.
    pub fn runtime_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// The wg-quick file.
    pub fn wg_config(&self) -> PathBuf {
        self.directory.path().join("wg0.conf")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("nexd.log")
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The process prints its log when it is dropped.
            drop(self.process.take());
            self.envoys.iter().filter(|envoy| is_envoy(**envoy)).for_each(|envoy| kill(*envoy));
            return;
        }
        if self.process.is_some() {
            self.stop(Signal::TERM);
        }
        let log = self.log();
        let complaints = complaints(&log, &self.builder.expected);
        assert!(complaints.is_empty(), "unexpected complaints in the node's log:\n{}", complaints.join("\n"));
    }
}

/// The name of a rule's listener: `egress/tcp/80`, or `egress/tcp/80@127.0.0.1` with a bind address.
fn listener(direction: &str, rule: &str) -> String {
    let mut parts = rule.split(':');
    let (protocol, port) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let bind = rule.split(',').find_map(|option| option.strip_prefix("bind="));
    let bind = bind.map(|address| format!("@{address}")).unwrap_or_default();
    format!("{}/{protocol}/{port}{bind}", direction.trim_start_matches('-'))
}

/// The processes started by this one, with their names.
fn children(parent: u32) -> impl Iterator<Item = (u32, String)> {
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    processes.filter_map(move |entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(Path::new("/proc").join(entry.file_name()).join("stat")).ok()?;
        // "ID (NAME) STATE PARENT ...": the name may hold spaces and parentheses.
        let (start, rest) = stat.rsplit_once(')')?;
        let name = start.split_once('(')?.1.to_owned();
        let state_and_parent: Vec<_> = rest.split_whitespace().take(2).collect();
        (state_and_parent.first() != Some(&"Z") && *state_and_parent.get(1)? == parent.to_string())
            .then_some((id, name))
    })
}

/// Whether this process is (still) an Envoy; its id may have been given to another one.
fn is_envoy(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.starts_with("Name:\tenvoy\n") && !status.contains("State:\tZ")
}

fn kill(process: u32) {
    let id = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id");
    if let Err(error) = kill_process(id, Signal::KILL) {
        eprintln!("Envoy {process}: {error}");
    }
}
