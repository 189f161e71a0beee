//! A node with several peers, with one tunnel thread and with two: what goes through, and what the busiest thread has to do for
//! it. Where one processor has room for all of this, the second number says what a thread could carry, the first cannot.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::{Identity, Namespace, Node, connect, free_port};

use super::bulk::{self, Direction};
use super::meter::thread_times;
use super::samples::Figure;
use super::service::answers;
use super::world::{SERVICE, World};
use crate::Result;

const PEERS: u8 = 4;
/// Two to each peer.
const STREAMS: usize = 8;
/// What is compared.
const THREADS: [usize; 2] = [1, 2];
/// How long the first byte of each peer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node in the near namespace, and where its clients connect.
struct Near<'a> {
    node: Node<'a>,
    threads: usize,
    targets: Vec<SocketAddr>,
}

/// Both nodes have the same peers, in the far namespace, and take turns.
pub(super) fn measure(world: &World, time: Duration) -> Result<Vec<Figure>> {
    let identity = |number, address| Identity::new(number).at(address);
    let far_ids: Vec<_> = (1..=PEERS).map(|number| identity(number, Namespace::FAR)).collect();
    let near_ids =
        THREADS.map(|threads| (threads, identity(100 + u8::try_from(threads).unwrap_or(0), Namespace::NEAR)));
    let mut far = Vec::new();
    for own in &far_ids {
        let peers = near_ids
            .iter()
            .fold(Node::with(world.products, own).default_workers(), |node, (_, near)| node.peer(near));
        let mut node = peers.ingress(format!("tcp:80:127.0.0.1:{SERVICE}")).within(world.far).build();
        node.launch();
        far.push(node);
    }
    let mut nodes = Vec::new();
    for (threads, own) in &near_ids {
        let targets: Vec<SocketAddr> =
            far_ids.iter().map(|_| (Ipv4Addr::LOCALHOST, free_port()).into()).collect();
        let mut node =
            Node::with(world.products, own).default_workers().flag(format!("--tunnel-threads={threads}"));
        for (peer, target) in far_ids.iter().zip(&targets) {
            node = node.peer(peer).egress(format!("tcp:{}:{}:80", target.port(), peer.v4));
        }
        nodes.push(Near { node: node.within(world.near).start(), threads: *threads, targets });
    }
    for Near { targets, .. } in &nodes {
        for target in targets {
            e2e::within(PATIENCE, "the first byte of a peer", || {
                world.near.run(|| connect(*target)).is_ok_and(answers).then_some(())
            });
        }
    }
    let mut figures = Vec::new();
    for direction in [Direction::Up, Direction::Down] {
        for Near { node, threads, targets } in &nodes {
            let envoy = node.envoy_id().ok_or("the node has no Envoy")?;
            let (bytes, busiest) = bulk::load(world, targets, direction, STREAMS, time, || {
                let before = thread_times(envoy, "nexodus")?;
                std::thread::sleep(time);
                let after = thread_times(envoy, "nexodus")?;
                let used = after.iter().filter_map(|(id, time)| Some(time.saturating_sub(*before.get(id)?)));
                used.max().ok_or_else(|| "no tunnel thread".into())
            })?;
            let name = format!("peers_{PEERS}_{}_threads_{threads}", direction.name());
            let cpu = busiest.as_secs_f64() / (bytes as f64 / 1e9);
            figures.push(Figure::new(format!("{name}_busiest"), "s/GB", cpu));
            figures.push(Figure::new(name, "Gbit/s", bytes as f64 / 125e6 / time.as_secs_f64()));
        }
    }
    Ok(figures)
}
