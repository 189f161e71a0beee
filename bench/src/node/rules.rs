//! Rules that come at run time: how long until they carry a byte, and what 9,900 others make of it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use e2e::{Node, connect, free_port};

use super::samples::{Figure, Spread};
use super::service::answers;
use super::world::World;
use crate::Result;

/// Of each, medians count.
const TIMES: usize = 9;

/// Ports with so many destinations each: a node takes 10,000 rules, and has three more.
const PORTS: u16 = 100;
const DESTINATIONS: u8 = 99;

/// Until all rules are in use, or a rule carries a byte.
const PATIENCE: Duration = Duration::from_secs(120);

/// Leaves 9,900 rules behind.
pub(super) fn measure(world: &World) -> Result<Vec<Figure>> {
    let node = world.node.as_ref().ok_or("rules are our node's")?;
    let alone = median(|| added(world, node))?;
    let others = usize::from(PORTS) * usize::from(DESTINATIONS);
    fs::write(&world.rules, rules_file())?;
    let reload = within_patience(&format!("{others} rules"), || {
        node.nexctl_ok(&["proxy", "list"]).lines().count() > others
    })?;
    let beside = median(|| added(world, node))?;
    Ok(vec![
        Figure::new("rule_first_byte", "ms", alone.as_secs_f64() * 1e3),
        Figure::new("rule_first_byte_beside_9900", "ms", beside.as_secs_f64() * 1e3),
        Figure::new("rules_9900_reload", "s", reload.as_secs_f64()),
    ])
}

/// From the start of `nexctl proxy add` to a byte that came back through the new rule; and removes it.
fn added(world: &World, node: &Node) -> Result<Duration> {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let rule = format!("tcp:{}:{}", local.port(), world.overlay);
    let start = Instant::now();
    node.nexctl_ok(&["proxy", "add", "--egress", &rule]);
    within_patience(&rule, || world.near.run(|| connect(local)).is_ok_and(answers))?;
    let took = start.elapsed();
    node.nexctl_ok(&["proxy", "remove", "--egress", &rule]);
    Ok(took)
}

fn median(mut measure: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..TIMES {
        times.push(Some(measure()?.as_secs_f64()));
    }
    let spread = Spread::of(times).ok_or("nothing was measured")?;
    Ok(Duration::from_secs_f64(spread.median))
}

/// How long it took.
fn within_patience(what: &str, done: impl Fn() -> bool) -> Result<Duration> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > PATIENCE {
            return Err(format!("{what}: not in use within {PATIENCE:?}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(start.elapsed())
}

fn rules_file() -> String {
    let mut text = String::from("egress:\n");
    for _ in 0..PORTS {
        let port = free_port();
        for host in 1..=DESTINATIONS {
            text += &format!("- tcp:{port}:100.127.0.{host}:80\n");
        }
    }
    text
}
