//! What was acknowledged is kept: many writers at once, and nexd killed at any moment. These are slow, so they stand apart.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use e2e::{Identity, Node, Products, measured, need, products, within};
use rustix::process::Signal;

/// The rules of a node, each line as `nexctl nexd proxy list` shows it. A rule that is there twice fails the test.
#[track_caller]
fn set_of(lines: impl IntoIterator<Item = String>, what: &str) -> BTreeSet<String> {
    let mut set = BTreeSet::new();
    for line in lines {
        assert!(set.insert(line.clone()), "{what} has {line} twice");
    }
    set
}

fn listed(node: &Node<'_>) -> BTreeSet<String> {
    set_of(node.nexctl_ok(&["proxy", "list"]).lines().map(str::to_owned), "the list")
}

fn stored(node: &Node<'_>) -> BTreeSet<String> {
    let rules = node.stored_rules();
    let lines = ["egress", "ingress"].into_iter().flat_map(|direction| {
        let rules = rules[direction].as_array().cloned().unwrap_or_default();
        rules
            .into_iter()
            .map(move |rule| format!("--{direction} {}", rule.as_str().expect("a rule is a text")))
    });
    set_of(lines, "state.json")
}

#[test]
fn fifty_writers_at_once_lose_nothing_and_double_nothing() {
    const WRITERS: u16 = 50;
    let products = need!(products());
    let identity = Identity::new(1);
    let mut node = Node::with(&products, &identity).expect_complaint("nexd::changes").start();
    let start = Instant::now();
    // Each adds two rules of its own and takes one of them back; all of them add one and the same.
    let same = "tcp:9999:127.0.0.1:9";
    let outcomes: Vec<bool> = thread::scope(|scope| {
        let node = &node;
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                scope.spawn(move || {
                    let keep = format!("tcp:{}:127.0.0.1:9", 10_000 + number);
                    let drop = format!("udp:{}:127.0.0.1:9", 10_000 + number);
                    node.nexctl_ok(&["proxy", "add", "--ingress", &keep, "--ingress", &drop]);
                    let first = node.nexctl(&["proxy", "add", "--ingress", same]).0.success();
                    node.nexctl_ok(&["proxy", "remove", "--ingress", &drop]);
                    first
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });
    let took = start.elapsed();
    measured(&format!("{WRITERS} nexctl at once made 200 changes in {:.1} s", took.as_secs_f64()));
    assert_eq!(outcomes.iter().filter(|first| **first).count(), 1, "one of the equal rules counts");
    let expected: BTreeSet<String> = (0..WRITERS)
        .map(|number| format!("--ingress tcp:{}:127.0.0.1:9", 10_000 + number))
        .chain([format!("--ingress {same}")])
        .collect();
    assert_eq!(listed(&node), expected);
    assert_eq!(stored(&node), expected);
    node.stop(Signal::KILL);
    node.start();
    within(Duration::from_secs(20), "the stored rules", || (listed(&node) == expected).then_some(()));
}

/// What the writers know of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Adding it was acknowledged.
    There,
    /// Removing it was acknowledged, or it never was added.
    Gone,
    /// nexd was killed before it answered.
    Unknown,
}

/// Adds and removes the rules of these ports in turn until nexd does not answer any more.
fn write(socket: &Path, products: &Products, ports: &[u16], known: &Mutex<BTreeMap<u16, Known>>) {
    for port in ports.iter().cycle() {
        let before = known.lock().expect("no panic")[port];
        let (action, after) =
            if before == Known::There { ("remove", Known::Gone) } else { ("add", Known::There) };
        let mut nexctl = Command::new(products.program("nexctl"));
        nexctl.args(["nexd", "--unix-socket"]).arg(socket);
        nexctl.args(["proxy", action, "--ingress", &format!("tcp:{port}:127.0.0.1:9")]);
        let output = nexctl.output().expect("nexctl");
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            // nexctl never reached nexd, so nothing was changed.
            let untouched = error.contains("Failed to connect") || error.contains("stopping");
            if !untouched {
                known.lock().expect("no panic").insert(*port, Known::Unknown);
            }
            return;
        }
        known.lock().expect("no panic").insert(*port, after);
    }
}

#[test]
fn nexd_killed_a_hundred_times_keeps_every_acknowledged_rule() {
    const KILLS: u32 = 100;
    const WRITERS: u16 = 4;
    const RULES: u16 = 3;
    let products = need!(products());
    let identity = Identity::new(1);
    // What a node says that is killed while it starts is no matter here.
    let mut node = Node::with(&products, &identity).expect_complaint("").build();
    let ports = |writer: u16| -> Vec<u16> { (0..RULES).map(|rule| 10_000 + writer * 100 + rule).collect() };
    let known: BTreeMap<u16, Known> = (0..WRITERS).flat_map(ports).map(|port| (port, Known::Gone)).collect();
    let known = Mutex::new(known);
    let (mut acknowledged, mut unknown, start) = (0, 0, Instant::now());
    let mut ready = Duration::ZERO;
    for round in 0..KILLS {
        if round % 20 == 0 {
            // From here on a node makes changes; how long that takes depends on what else this machine does now.
            let launched = Instant::now();
            node.start();
            ready = launched.elapsed().min(Duration::from_millis(1200));
            node.stop(Signal::TERM);
        }
        node.launch();
        // Any moment: before the first rule is back, between two changes, in one. SplitMix's increment spreads them.
        let moment = f64::from(round.wrapping_mul(0x9e37_79b9)) / f64::from(u32::MAX);
        let killed_after = ready / 2 + (ready + Duration::from_millis(500)).mul_f64(moment);
        let socket = node.control_socket();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (socket, products, known) = (&socket, &products, &known);
                scope.spawn(move || {
                    // Nobody listens at first.
                    let limit = Instant::now() + killed_after;
                    while UnixStream::connect(socket).is_err() && Instant::now() < limit {
                        thread::sleep(Duration::from_millis(2));
                    }
                    write(socket, products, &ports(writer), known);
                });
            }
            thread::sleep(killed_after);
            node.stop(Signal::KILL);
        });

        // Whatever happened, the file is whole, has nothing twice, and has what was acknowledged.
        let found = stored_or_none(&node).unwrap_or_default();
        let mut known = known.lock().expect("no panic");
        for (port, state) in known.iter_mut() {
            let is_there = found.contains(&format!("--ingress tcp:{port}:127.0.0.1:9"));
            match *state {
                Known::There => assert!(is_there, "kill {round} lost the rule of port {port}: {found:?}"),
                Known::Gone => assert!(!is_there, "kill {round} brought back port {port}: {found:?}"),
                Known::Unknown => unknown += 1,
            }
            acknowledged += u32::from(*state == Known::There);
            *state = if is_there { Known::There } else { Known::Gone };
        }
    }
    measured(&format!(
        "{KILLS} kills in {:.0} s: {acknowledged} times an acknowledged rule was looked for and found; {unknown} times \
         nobody had been told",
        start.elapsed().as_secs_f64()
    ));
    assert!(acknowledged > KILLS && unknown > 0, "the kills came too early or too late to mean anything");
    // And it works on.
    node.start();
    let found = stored_or_none(&node).unwrap_or_default();
    within(Duration::from_secs(10), "the stored rules", || (listed(&node) == found).then_some(()));
}

/// What is stored, if anything ever was.
fn stored_or_none(node: &Node<'_>) -> Option<BTreeSet<String>> {
    node.state_file().exists().then(|| stored(node))
}
