//! The simulation rig: stacks joined by a wire that loses, repeats, delays and reorders datagrams, under a virtual clock.
//! A seed decides everything but WireGuard's own ephemeral keys, so a run repeats.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several test programs, none of which uses all of it; a failure is a failed test"
)]

pub mod app;
pub mod random;
pub mod raw;
pub mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nexodus_netstack::{
    CloseReason, Config, Event, FlowId, Instant, Limits, Netstack, PeerConfig, Shard, UdpFlowId,
};

pub use app::App;
pub use random::Random;
pub use wire::{Link, Wire};

/// The instant at which every world starts. Not zero: a stack may be made "earlier" (see `World::restart`).
pub const START: Instant = Instant::from_micros(1_000_000_000);

pub struct Node {
    pub stack: Netstack,
    pub address: SocketAddr,
    pub apps: BTreeMap<FlowId, App>,
    /// What an accepted flow does; `None` leaves `Incoming` to the test.
    pub server: Option<App>,
    /// Every event, as it was told.
    pub events: Vec<Event>,
    pub incoming: VecDeque<FlowId>,
    pub closed: BTreeMap<FlowId, CloseReason>,
    /// Received datagrams, unless they are sent back.
    pub datagrams: Vec<(UdpFlowId, Vec<u8>)>,
    /// Datagrams of flows that others opened are sent back.
    pub udp_echo: bool,
    /// Flows that others opened.
    pub udp_incoming: Vec<UdpFlowId>,
    key: [u8; 32],
    shard: usize,
}

pub struct World {
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub wire: Wire,
    /// A datagram for several stacks of one interface goes to the one whose number its receiver index names. Else the wire
    /// chooses one.
    pub steered: bool,
    buffer: Vec<u8>,
}

/// How two nodes are joined.
#[derive(Clone)]
pub struct Pair {
    pub psk: [Option<[u8; 32]>; 2],
    pub keepalive: [Option<u16>; 2],
    pub limits: [Limits; 2],
    pub seed: u64,
    pub link: Link,
    pub mtu: u16,
    /// Node 1 does not know where node 0 is.
    pub one_way: bool,
}

impl Default for Pair {
    fn default() -> Self {
        Self {
            psk: [None; 2],
            keepalive: [None; 2],
            limits: [Limits::default(); 2],
            seed: 1,
            link: Link::default(),
            mtu: 1420,
            one_way: false,
        }
    }
}

pub fn key(node: usize) -> [u8; 32] {
    [u8::try_from(node).unwrap() + 11; 32]
}

/// The public key of a node, as a peer would be given it.
pub fn public_key(node: usize) -> [u8; 32] {
    let secret = boringtun::x25519::StaticSecret::from(key(node));
    boringtun::x25519::PublicKey::from(&secret).to_bytes()
}

pub fn udp(node: usize) -> SocketAddr {
    format!("192.0.2.{}:51820", node + 1).parse().unwrap()
}

pub fn v4(node: usize) -> IpAddr {
    format!("100.64.0.{}", node + 1).parse().unwrap()
}

pub fn v6(node: usize) -> IpAddr {
    format!("fd00::{}", node + 1).parse().unwrap()
}

pub fn config(node: usize, limits: Limits, seed: u64, mtu: u16) -> Config {
    Config {
        private_key: key(node),
        addresses: vec![
            format!("{}/32", v4(node)).parse().unwrap(),
            format!("{}/128", v6(node)).parse().unwrap(),
        ],
        mtu,
        limits,
        shard: Shard::default(),
        seed: seed.wrapping_mul(2).wrapping_add(node as u64),
    }
}

pub fn peer(node: usize) -> PeerConfig {
    PeerConfig {
        public_key: public_key(node),
        preshared_key: None,
        endpoint: Some(udp(node)),
        allowed_ips: vec![
            format!("{}/32", v4(node)).parse().unwrap(),
            format!("{}/128", v6(node)).parse().unwrap(),
        ],
        persistent_keepalive: None,
        shard: 0,
    }
}

impl World {
    pub fn new(link: Link, seed: u64) -> Self {
        let wire = Wire::new(link, seed);
        Self { now: START, nodes: Vec::new(), wire, steered: true, buffer: Vec::new() }
    }

    /// Nodes 0 and 1, each the other's peer.
    pub fn pair(pair: &Pair) -> Self {
        let mut world = Self::new(pair.link, pair.seed);
        for node in 0..2 {
            let config = config(node, pair.limits[node], pair.seed, pair.mtu);
            world.add(node, config);
            let mut other = peer(1 - node);
            other.preshared_key = pair.psk[node];
            other.persistent_keepalive = pair.keepalive[node];
            if pair.one_way && node == 1 {
                other.endpoint = None;
            }
            let now = world.now;
            world.nodes[node].stack.set_peers(now, vec![other]).unwrap();
        }
        world
    }

    pub fn simple() -> Self {
        Self::pair(&Pair::default())
    }

    pub fn add(&mut self, node: usize, config: Config) {
        let shard = config.shard.index;
        let stack = Netstack::new(config, self.now).unwrap();
        self.nodes.push(Node {
            stack,
            address: udp(node),
            apps: BTreeMap::new(),
            server: None,
            events: Vec::new(),
            incoming: VecDeque::new(),
            closed: BTreeMap::new(),
            datagrams: Vec::new(),
            udp_echo: false,
            udp_incoming: Vec::new(),
            key: key(node),
            shard,
        });
    }

    /// Replaces a node's stack by a fresh one with the same key, like a restarted process.
    ///
    /// boringtun's handshake timestamps are the system's time when the stack was made plus what its clock has advanced
    /// since. A simulated clock advances faster than the system's, so the new stack is made at the world's start, to make
    /// its timestamps as late as the world's.
    pub fn restart(&mut self, node: usize, config: Config, peers: Vec<PeerConfig>) {
        let mut stack = Netstack::new(config, START).unwrap();
        stack.set_peers(START, peers).unwrap();
        self.nodes[node].stack = stack;
        self.nodes[node].apps.clear();
        self.nodes[node].incoming.clear();
    }

    /// Node 1 listens on `port` and serves accepted flows as `app` says.
    pub fn serve(&mut self, port: u16, app: App) {
        self.serve_at(1, port, app);
    }

    pub fn serve_at(&mut self, node: usize, port: u16, app: App) {
        self.nodes[node].stack.listen(port);
        self.nodes[node].server = Some(app);
    }

    /// Opens a flow from node 0 to node 1.
    pub fn connect(&mut self, port: u16, app: App) -> FlowId {
        self.connect_to(0, SocketAddr::new(v4(1), port), app)
    }

    pub fn connect_to(&mut self, node: usize, remote: SocketAddr, app: App) -> FlowId {
        let flow = self.nodes[node].stack.connect(self.now, remote).unwrap();
        self.nodes[node].apps.insert(flow, app);
        flow
    }

    pub fn app(&self, node: usize, flow: FlowId) -> &App {
        &self.nodes[node].apps[&flow]
    }

    pub fn app_mut(&mut self, node: usize, flow: FlowId) -> &mut App {
        self.nodes[node].apps.get_mut(&flow).unwrap()
    }

    /// The only app of a node.
    pub fn only(&self, node: usize) -> (FlowId, &App) {
        assert_eq!(self.nodes[node].apps.len(), 1);
        let (&flow, app) = self.nodes[node].apps.first_key_value().unwrap();
        (flow, app)
    }

    /// Lets a node's app do what it can, as after an event.
    pub fn pump(&mut self, node: usize, flow: FlowId) {
        let now = self.now;
        let Node { stack, apps, .. } = &mut self.nodes[node];
        if let Some(app) = apps.get_mut(&flow) {
            app.pump(stack, now, flow);
        }
    }

    /// Events, apps and transmissions of this instant.
    fn settle(&mut self) {
        for index in 0..self.nodes.len() {
            self.drain_events(index);
            self.drain_datagrams(index);
            self.transmit(index);
        }
        let mut more = false;
        for index in 0..self.nodes.len() {
            let (address, from) = (self.nodes[index].address, self.nodes[index].shard);
            while let Some((to, handover)) = self.nodes[index].stack.poll_handover() {
                more = true;
                let other = self.nodes.iter_mut().find(|node| node.address == address && node.shard == to);
                other.unwrap().stack.handle_handover(self.now, from, handover);
            }
        }
        if more {
            self.settle();
        }
    }

    /// Which stack at an address gets a datagram.
    fn chosen(&self, to: SocketAddr, datagram: &[u8]) -> Option<usize> {
        let at_address: Vec<usize> =
            (0..self.nodes.len()).filter(|&index| self.nodes[index].address == to).collect();
        let sum: usize = datagram.iter().take(24).map(|&byte| usize::from(byte)).sum();
        let number = match datagram {
            // The upper 24 bits of the receiver index.
            [3 | 4, _, _, _, _, a, b, c, ..] | [2, _, _, _, _, _, _, _, _, a, b, c, ..] if self.steered => {
                u32::from_le_bytes([*a, *b, *c, 0]) as usize
            }
            _ if self.steered => 0,
            _ => sum,
        };
        at_address.get(number % at_address.len().max(1)).copied()
    }

    fn drain_events(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        while let Some(event) = node.stack.poll_event() {
            node.events.push(event);
            let flow = match event {
                Event::Incoming { flow, .. } => {
                    if let Some(server) = &node.server {
                        node.stack.accept(now, flow);
                        node.apps.insert(flow, server.clone());
                    } else {
                        node.incoming.push_back(flow);
                    }
                    continue;
                }
                Event::Connected { flow } => {
                    if let Some(app) = node.apps.get_mut(&flow) {
                        app.connected = true;
                    }
                    flow
                }
                Event::Finished { flow } => {
                    if let Some(app) = node.apps.get_mut(&flow) {
                        assert!(!app.peer_finished, "Finished twice");
                        app.peer_finished = true;
                    }
                    flow
                }
                Event::Closed { flow, reason } => {
                    node.closed.insert(flow, reason);
                    if let Some(app) = node.apps.get_mut(&flow) {
                        app.closed = Some(reason);
                    }
                    continue;
                }
                Event::Readable { flow } | Event::Writable { flow } => flow,
                Event::UdpIncoming { flow, .. } => {
                    node.udp_incoming.push(flow);
                    continue;
                }
                Event::UdpClosed { .. } | Event::Pong { .. } => continue,
            };
            if let Some(app) = node.apps.get_mut(&flow) {
                app.pump(&mut node.stack, now, flow);
            }
        }
    }

    fn drain_datagrams(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let mut payload = vec![0xee; 3];
        while let Some(flow) = node.stack.poll_datagram(&mut payload) {
            if node.udp_echo && node.udp_incoming.contains(&flow) {
                node.stack.udp_send(self.now, flow, &payload);
            } else {
                node.datagrams.push((flow, payload.clone()));
            }
        }
        assert!(payload.is_empty());
    }

    fn transmit(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        while let Some(transmit) = node.stack.poll_transmit(self.now, &mut self.buffer) {
            assert!(self.buffer.len() <= 65_507 && !self.buffer.is_empty());
            let size = transmit.segment_size.unwrap_or(self.buffer.len());
            assert!(self.buffer.len().div_ceil(size) <= 64);
            for datagram in self.buffer.chunks(size) {
                self.wire.send(self.now, node.address, transmit.destination, datagram);
            }
        }
    }

    fn next_instant(&self) -> Option<Instant> {
        self.nodes.iter().filter_map(|node| node.stack.poll_timeout()).chain(self.wire.next()).min()
    }

    /// Goes to the next instant at which something happens, but not past `end`. False: nothing will.
    pub fn step(&mut self, end: Instant) -> bool {
        self.settle();
        let Some(next) = self.next_instant() else { return false };
        if next > end {
            return false;
        }
        self.now = self.now.max(next);
        while let Some((from, to, datagram)) = self.wire.deliver(self.now) {
            if let Some(index) = self.chosen(to, &datagram) {
                self.nodes[index].stack.handle_datagram(self.now, from, &datagram);
            }
        }
        for node in &mut self.nodes {
            if node.stack.poll_timeout().is_some_and(|at| at <= self.now) {
                node.stack.handle_timeout(self.now);
            }
        }
        true
    }

    /// Runs until `done` or for `limit`. False: it was not done in time.
    #[must_use]
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        let mut steps = 0_u64;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                self.settle();
                if done(self) {
                    return true;
                }
                if self.next_instant().is_none_or(|next| next > end) {
                    self.now = end;
                    return false;
                }
            }
            steps += 1;
            assert!(steps < 20_000_000, "the world spins at {:?}", self.now);
        }
    }

    /// Runs for `time` whatever happens.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        assert!(!self.run_until(time, |_| false));
        self.now = end;
        self.settle();
    }
}

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Bytes that show where they belong.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
