//! Rules in a file: what a change of it changes, and what it does not.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use e2e::{
    Identity, Node, NodeBuilder, Pattern, Products, Server, connect, echo, eventually, free_port, free_ports,
    http, http_get, measured, mounts, need, products, within,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A rules file in a directory of its own, changed in the ways in which files are changed.
struct File {
    directory: TempDir,
}

impl File {
    fn new(content: &str) -> File {
        let file = File { directory: tempfile::tempdir().expect("a temporary directory") };
        file.write(content);
        file
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("rules.yaml")
    }

    /// As `>` does.
    fn write(&self, content: &str) {
        fs::write(self.path(), content).expect("written");
    }

    /// As most editors do.
    fn rename_over(&self, content: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, content).expect("written");
        fs::rename(new, self.path()).expect("renamed");
    }

    /// As Kubernetes does with a config map: the file is a link into a link to a directory, and that one is replaced.
    fn swap_links(&self, version: &str, content: &str) {
        use std::os::unix::fs::symlink;
        let path = |name: &str| self.directory.path().join(name);
        fs::create_dir(path(version)).expect("a directory");
        fs::write(path(version).join("rules.yaml"), content).expect("written");
        symlink(version, path("..new")).expect("a link");
        fs::rename(path("..new"), path("..data")).expect("renamed");
        if !self.path().is_symlink() {
            symlink("..data/rules.yaml", path("link")).expect("a link");
            fs::rename(path("link"), self.path()).expect("renamed");
        }
    }
}

/// A node without peers that has these rules.
fn circle(products: &Products, identity: &Identity, file: &File) -> NodeBuilder<'static> {
    Node::with(products, identity).flag(format!("--rules={}", file.path().display()))
}

fn list(node: &Node<'_>) -> Vec<String> {
    node.nexctl_ok(&["proxy", "list"]).lines().map(str::to_owned).collect()
}

/// The line of the status about the file.
fn status(node: &Node<'_>) -> String {
    let status = node.nexctl_ok(&["status"]);
    let line = status.lines().find(|line| line.starts_with("rules file "));
    line.unwrap_or_else(|| panic!("nothing about the file: {status}")).to_owned()
}

fn refuses(address: Ipv4Addr, port: u16) -> bool {
    TcpStream::connect((address, port)).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// A connection to an echo server that is never idle.
struct Transfer {
    end: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Transfer {
    fn start(port: u16) -> Transfer {
        let end = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&end);
        let mut stream = connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
        let thread = std::thread::spawn(move || {
            let (mut sent, mut received) = (Pattern::new(1), Pattern::new(1));
            let mut buffer = vec![0; 16 * 1024];
            while !stop.load(Ordering::Relaxed) {
                sent.fill(&mut buffer);
                stream.write_all(&buffer).expect("the connection lives");
                stream.read_exact(&mut buffer).expect("the connection lives");
                received.check(&buffer).expect("what was sent");
            }
            received.position()
        });
        Transfer { end, thread }
    }

    /// How many bytes came back.
    #[track_caller]
    fn finish(self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("every byte came back")
    }
}

#[test]
fn a_changed_file_changes_its_rules_and_no_other_connection() {
    let products = need!(products());
    let servers = [Server::local(echo), Server::local(http("first")), Server::local(http("second"))];
    let identity = Identity::new(1);
    let v4 = identity.v4;
    let [stays, goes, comes] = free_ports();
    let base = format!(
        "ingress:\n- tcp:81:{}\n- {{protocol: tcp, port: 82, destination: '{}'}}\negress:\n- tcp:{stays}:{v4}:81\n",
        servers[0].address(),
        servers[1].address()
    );
    let file = File::new(&format!("{base}- tcp:{goes}:{v4}:82\n"));
    let by_flag = free_port();
    let mut node = circle(&products, &identity, &file).egress(format!("tcp:{by_flag}:{v4}:82")).start();
    eventually("the file's rules", || http_get(goes).is_ok());
    assert_eq!(http_get(by_flag).expect("a page"), "first");
    assert!(status(&node).contains(&format!("rules file {}: 4 rules, read 20", file.path().display())));
    let stored = node.nexctl_ok(&["proxy", "add", "--ingress", "tcp:90:127.0.0.1:9"]);
    assert!(stored.contains("Added"), "{stored}");
    let transfer = Transfer::start(stays);

    // One goes, one comes, one has another destination: a link replaced, twice, then renaming, then writing.
    for (round, second) in [servers[2].address(), servers[1].address()].into_iter().enumerate() {
        let page = ["second", "first"][round];
        let changed = base.replace(&servers[1].address().to_string(), &second.to_string());
        file.swap_links(&format!("version{round}"), &format!("{changed}- tcp:{comes}:{v4}:82\n"));
        eventually("the new rule", || http_get(comes).is_ok_and(|found| found == page));
        eventually("the end of the old one", || refuses(Ipv4Addr::LOCALHOST, goes));
    }
    file.rename_over(&format!("{base}- tcp:{goes}:{v4}:82,weight=5,connect-timeout=2s\n"));
    eventually("the renamed file", || http_get(goes).is_ok() && refuses(Ipv4Addr::LOCALHOST, comes));
    file.write(&base);
    eventually("the written file", || refuses(Ipv4Addr::LOCALHOST, goes));

    assert_eq!(http_get(by_flag).expect("a page"), "first");
    let expected = [
        format!("--egress tcp:{by_flag}:{v4}:82"),
        "--ingress tcp:90:127.0.0.1:9".to_owned(),
        format!("--egress tcp:{stays}:{v4}:81"),
        format!("--ingress tcp:81:{}", servers[0].address()),
        format!("--ingress tcp:82:{}", servers[1].address()),
    ];
    eventually("its rules in the list", || list(&node) == expected);
    let bytes = transfer.finish();
    assert!(bytes > 1 << 20, "only {bytes} bytes in all that time");
    assert_eq!(node.stored_rules()["egress"], serde_json::Value::Null, "rules of the file are stored");

    node.stop(Signal::TERM);
    node.start();
    eventually("the same rules after a restart", || {
        let mut found = list(&node);
        let mut expected = expected.clone();
        found.sort_unstable();
        expected.sort_unstable();
        found == expected
    });
}

#[test]
fn many_reloads_under_load_cut_and_refuse_nothing() {
    const RELOADS: usize = 40;
    const TRANSFERS: usize = 20;
    let products = need!(products());
    let servers = [Server::local(echo), Server::local(http("page"))];
    let identity = Identity::new(1);
    let v4 = identity.v4;
    let [transfers, pages, comes_and_goes] = free_ports();
    let base = format!(
        "ingress: ['tcp:81:{}', 'tcp:82:{}']\negress:\n- tcp:{transfers}:{v4}:81\n- tcp:{pages}:{v4}:82\n",
        servers[0].address(),
        servers[1].address()
    );
    let file = File::new(&base);
    let mut node = circle(&products, &identity, &file).start();
    eventually("the file's rules", || http_get(pages).is_ok());
    let live: Vec<_> = (0..TRANSFERS).map(|_| Transfer::start(transfers)).collect();
    let over = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let mut served = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(http_get(pages).expect("never refused"), "page");
                served += 1;
            }
            served
        });
        for round in 0..RELOADS {
            // A listener that comes and goes, and a second destination of the one that is used, with changing weights.
            let second = format!("'tcp:{pages}:[{}]:82,weight={}'", identity.v6, round + 1);
            let more = match round % 2 {
                0 => format!("- tcp:{comes_and_goes}:{v4}:82\n- {second}\n"),
                _ => String::new(),
            };
            file.rename_over(&(base.clone() + &more));
            node.process().signal(Signal::HUP);
            eventually("the reload", || list(&node).len() == if more.is_empty() { 4 } else { 6 });
            assert!(!clients.is_finished(), "a client was refused");
        }
        over.store(true, Ordering::Relaxed);
        clients.join().expect("every client was served")
    });
    let bytes: u64 = live.into_iter().map(Transfer::finish).sum();
    measured(&format!(
        "{RELOADS} reloads: {served} pages, {TRANSFERS} transfers of {} MiB in all",
        bytes >> 20
    ));
}

#[test]
fn a_bad_file_changes_nothing_and_the_status_names_the_line() {
    let products = need!(products());
    let server = Server::local(http("unharmed"));
    let identity = Identity::new(1);
    let [port, later] = free_ports();
    let base = format!(
        "ingress:\n- tcp:81:{}\n# A comment.\negress:\n- tcp:{port}:{}:81\n",
        server.address(),
        identity.v4
    );
    let file = File::new(&base);
    let node = circle(&products, &identity, &file).expect_complaint("nexd::reload").start();
    eventually("the file's rules", || http_get(port).is_ok());
    let stored = "tcp:90:127.0.0.1:9";
    node.nexctl_ok(&["proxy", "add", "--ingress", stored]);
    let before = list(&node);

    let bad = [
        (
            format!("{base}- tcp:{later}:{}:81\n- tcp:0:h:1\n", identity.v4),
            "line 7, column 3: invalid port (0)",
        ),
        (format!("{base}- [\n"), "line "),
        (format!("{base}- tcp:{port}:{}:81\n", identity.v4), "line 6, column 3: egress proxy rule tcp:"),
        (
            base.replace("ingress:", &format!("ingress:\n- {stored}")),
            "line 2, column 3: ingress proxy rule tcp:90:127.0.0.1:9: port already in use by another proxy rule: it was added with nexctl",
        ),
        (String::new(), "it has neither `egress:` nor `ingress:`"),
    ];
    for (content, reason) in &bad {
        file.write(content);
        let expected = format!("rules file {}: {reason}", file.path().display());
        eventually(reason, || status(&node).starts_with(&expected));
        let said = status(&node);
        assert!(said.contains("; the 2 rules read 20") && said.ends_with("Z still apply"), "{said}");
        assert!(node.log().contains(&expected), "the log does not say it: {expected}");
        assert_eq!(list(&node), before, "after {reason}");
        assert_eq!(http_get(port).expect("a page"), "unharmed");
    }
    fs::remove_file(file.path()).expect("a file");
    eventually("its absence", || status(&node).contains("No such file"));
    assert_eq!(http_get(port).expect("a page"), "unharmed");

    file.write(&format!("{base}- tcp:{later}:{}:81\n", identity.v4));
    eventually("the repaired file", || http_get(later).is_ok());
    eventually("the repaired file in the status", || status(&node).contains(": 3 rules, read 20"));
}

#[test]
fn a_rule_of_the_file_can_be_removed_until_the_file_is_read_again() {
    let products = need!(products());
    let server = Server::local(http("back"));
    let identity = Identity::new(1);
    let port = free_port();
    let rule = format!("tcp:{port}:{}:81", identity.v4);
    let file = File::new(&format!("ingress: ['tcp:81:{}']\negress: ['{rule}']\n", server.address()));
    let mut node = circle(&products, &identity, &file).expect_complaint("nexd::changes").start();
    eventually("the file's rules", || http_get(port).is_ok());
    let (refused, _, error) = node.nexctl(&["proxy", "add", "--egress", &rule]);
    assert!(!refused.success() && error.contains("port already in use by another proxy rule"), "{error}");

    let said = node.nexctl_ok(&["proxy", "remove", "--egress", &rule]);
    assert!(said.contains("It stands in the rules file: it comes back"), "{said}");
    eventually("the port to be closed", || refuses(Ipv4Addr::LOCALHOST, port));
    // The file did not change.
    node.process().signal(Signal::HUP);
    eventually("the rule to come back at SIGHUP", || http_get(port).is_ok() && list(&node).len() == 2);

    // A rule that stands in the file and was added before: it is one, and stays when the file has it no more.
    node.nexctl_ok(&["proxy", "remove", "--egress", &rule]);
    node.nexctl_ok(&["proxy", "add", "--egress", &rule]);
    node.stop(Signal::TERM);
    node.start();
    assert_eq!(list(&node).len(), 2);
    file.write(&format!("ingress: ['tcp:81:{}']\n", server.address()));
    eventually("the changed file", || status(&node).contains(": 1 rules"));
    assert_eq!(list(&node).len(), 2);
    assert_eq!(http_get(port).expect("a page"), "back");
}

#[test]
fn a_file_that_was_refused_applies_when_what_was_in_its_way_is_removed() {
    let products = need!(products());
    let server = Server::local(http("from the file"));
    let identity = Identity::new(1);
    let port = free_port();
    let rule = format!("tcp:{port}:{}:81", identity.v4);
    let base = format!("ingress: ['tcp:81:{}']\n", server.address());
    let file = File::new(&base);
    let node = circle(&products, &identity, &file).expect_complaint("nexd::reload").start();
    node.nexctl_ok(&["proxy", "add", "--egress", &rule]);
    file.write(&format!("{base}egress: ['{rule}', 'tcp:{}:{}:81']\n", free_port(), identity.v4));
    eventually("the refusal", || status(&node).contains("it was added with nexctl; delete one of the two"));
    // A change that does not help is no news.
    node.nexctl_ok(&["proxy", "add", "--ingress", "tcp:90:127.0.0.1:9"]);
    assert_eq!(node.log().matches("it was added with nexctl").count(), 1, "{}", node.log());

    node.nexctl_ok(&["proxy", "remove", "--egress", &rule]);
    eventually("the rules of the file", || status(&node).contains(": 3 rules, read 20"));
    assert_eq!(http_get(port).expect("a page"), "from the file");
    assert_eq!(list(&node).len(), 4);
    assert_eq!(node.stored_rules()["egress"], serde_json::Value::Null);
}

#[test]
fn rules_whose_ports_are_taken_wait_and_the_others_apply() {
    let products = need!(products());
    let server = Server::local(http("served"));
    let identity = Identity::new(1);
    let v4 = identity.v4;
    let port = free_port();
    let taken = [(); 2].map(|()| TcpListener::bind((Ipv6Addr::UNSPECIFIED, free_port())).expect("a port"));
    let [first, second] = taken.each_ref().map(|socket| socket.local_addr().expect("bound").port());
    let base = format!("ingress:\n- tcp:81:{}\negress:\n- tcp:{first}:{v4}:81\n", server.address());
    let file = File::new(&base);
    let node = circle(&products, &identity, &file).expect_complaint("is not active").start();
    let waits = |port: u16| {
        let line = format!("Not active: --egress tcp:{port}:{v4}:81: TCP port {port} is already in use");
        node.nexctl_ok(&["status"]).contains(&line)
    };
    assert!(waits(first), "{}", node.nexctl_ok(&["status"]));

    file.write(&format!("{base}- tcp:{second}:{v4}:81\n- tcp:{port}:{v4}:81\n"));
    eventually("the rule that can be", || http_get(port).is_ok() && list(&node).len() == 2);
    assert!(waits(first) && waits(second), "{}", node.nexctl_ok(&["status"]));

    drop(taken);
    for port in [first, second] {
        let page = within(Duration::from_secs(15), "a rule whose port is free now", || http_get(port).ok());
        assert_eq!(page, "served");
    }
    eventually("all in the list", || list(&node).len() == 4);
    assert!(!node.nexctl_ok(&["status"]).contains("Not active"));
}

#[test]
fn a_destination_that_gives_way_to_a_name_is_never_missed() {
    let products = need!(products());
    need!(mounts());
    let server = Server::local(http("named"));
    let identity = Identity::new(1);
    let port = free_port();
    let content =
        |host: &str| format!("ingress: ['tcp:81:{}']\negress: ['tcp:{port}:{host}:81']\n", server.address());
    let file = File::new(&content(&identity.v4.to_string()));
    let hosts = file.directory.path().join("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost\n{} one.test two.test\n", identity.v4)).expect("written");
    let mut node = circle(&products, &identity, &file).mount(hosts, "/etc/hosts").start();
    eventually("the file's rules", || http_get(port).is_ok());
    for host in ["one.test", "two.test", "100.64.0.1", "one.test"] {
        file.rename_over(&content(host));
        node.process().signal(Signal::HUP);
        eventually("the reload", || {
            assert_eq!(http_get(port).expect("a destination at any time"), "named");
            list(&node).contains(&format!("--egress tcp:{port}:{host}:81"))
        });
        assert_eq!(http_get(port).expect("a page"), "named");
    }
}

#[test]
fn a_port_changes_its_address_in_one_reload() {
    let products = need!(products());
    let server = Server::local(http("moved"));
    let identity = Identity::new(1);
    let (v4, port) = (identity.v4, free_port());
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let content = |bind: &str| {
        format!("ingress: ['tcp:81:{}']\negress: ['tcp:{port}:{v4}:81{bind}']\n", server.address())
    };
    let file = File::new(&content(",bind=127.0.0.1"));
    let node = circle(&products, &identity, &file).start();
    eventually("the file's rules", || http_get(port).is_ok());
    assert!(refuses(other, port));
    for (bind, open) in [("", true), (",bind=127.0.0.1", false), ("", true)] {
        file.write(&content(bind));
        eventually("the changed address", || refuses(other, port) != open);
        eventually("the other one", || http_get(port).is_ok());
    }
    assert!(!node.log().contains("not active"), "{}", node.log());
}

#[test]
fn a_file_that_changes_while_envoy_is_down_counts_when_it_is_back() {
    let products = need!(products());
    let server = Server::local(http("after the crash"));
    let identity = Identity::new(1);
    let [old, new] = free_ports();
    let content = |port: u16| {
        format!("ingress: ['tcp:81:{}']\negress: ['tcp:{port}:{}:81']\n", server.address(), identity.v4)
    };
    let file = File::new(&content(old));
    let mut node = circle(&products, &identity, &file).expect_complaint("nvoy").start();
    eventually("the file's rules", || http_get(old).is_ok());
    let envoy = node.envoy_id().expect("a running Envoy");
    let id = i32::try_from(envoy).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, Signal::KILL).expect("a running process");
    file.write(&content(new));
    node.process().signal(Signal::HUP);
    within(Duration::from_secs(20), "the new rule through the new Envoy", || http_get(new).ok());
    eventually("the old port to be closed", || refuses(Ipv4Addr::LOCALHOST, old));
    eventually("status Running", || node.nexctl_ok(&["status"]).contains("Running"));
}

#[test]
fn a_bad_file_ends_the_start() {
    let products = need!(products());
    let identity = Identity::new(1);
    let file = File::new("egress:\n- tcp:80\n");
    let mut node = circle(&products, &identity, &file).expect_complaint("rules file").build();
    let (status, said) = node.run_to_end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("line 2, column 3: invalid proxy rule format"), "{said}");
    fs::remove_file(file.path()).expect("a file");
    let (status, said) = node.run_to_end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("No such file"), "{said}");
}
