//! The stack itself: what comes in goes to its part, what goes out is put into batches.

mod datagrams;
mod inbound;
mod outbound;
mod pings;
mod shards;
mod waiting;

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;

use crate::batch::Batch;
use crate::handover::Handovers;
use crate::ip::icmp::ErrorLimit;
use crate::ip::{self, Cut, Outbox, Reassembly};
use crate::seed::next_random;
use crate::tcp::{Context, Tcp};
use crate::udp::Udp;
use crate::wireguard::{Datagram, PeerId, Place, Wireguard};
use crate::{
    Config, ConfigError, ConnectError, Event, FlowId, Instant, Local, MAX_MTU, MIN_MTU, PeerConfig,
    PeerStatus, Shard, Stats, Transmit,
};
use inbound::FlowRun;
use pings::Pings;
use waiting::Waiting;

/// Packets to ourselves that one `handle_timeout` delivers.
const LOOPBACK_BUDGET: usize = 1024;
/// Datagrams and their bytes that wait for `poll_transmit`: more than a driver sends at once.
const MAX_DATAGRAMS: usize = 4096;
const MAX_DATAGRAM_BYTES: usize = 4 << 20;

/// One WireGuard interface with its TCP/IP stack. See the crate's documentation for the order of calls.
pub struct Netstack {
    now: Instant,
    shard: Shard,
    /// What other stacks of the interface have to do.
    handovers: Handovers,
    addresses: Vec<IpNet>,
    wireguard: Wireguard,
    tcp: Tcp,
    udp: Udp,
    pings: Pings,
    reassembly: Reassembly,
    /// Datagrams and echo requests on their way out, not cut yet.
    datagrams: Outbox,
    /// The one of them that is being sent.
    cut: Option<Cut>,
    /// Those whose peers have no session.
    waiting_datagrams: Waiting,
    /// Identification of the next packet that has to be cut.
    packet_id: u32,
    /// Datagrams and TCP flows take turns to fill a batch first.
    flows_first: bool,
    mtu: usize,
    /// Packets the stack makes by itself.
    outbox: Outbox,
    /// Packets to ourselves.
    loopback: Outbox,
    errors: ErrorLimit,
    stats: Stats,
    /// What did not fit into the last batch: one datagram, or the rest of a burst, which goes to one peer in one size.
    held_back: Vec<(SocketAddr, Vec<u8>)>,
    /// Flows to ourselves that wait for room in `loopback`.
    waiting: Vec<FlowId>,
    packet: Vec<u8>,
    /// Where received packets are opened.
    opened: Vec<u8>,
    /// What the last packet has begun.
    run: Option<FlowRun>,
}

/// Where a packet goes.
enum Route {
    Own,
    Peer(PeerId),
    /// To a peer of another stack.
    Elsewhere(usize),
}

impl Netstack {
    /// A stack without peers.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        let Config { private_key, addresses, mtu, limits, shard, seed } = config;
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(ConfigError::Mtu(mtu));
        }
        if addresses.is_empty() {
            return Err(ConfigError::NoAddress);
        }
        if let Some(net) = addresses.iter().find(|net| !ip::is_host(net.addr())) {
            return Err(ConfigError::Address(net.addr()));
        }
        let least = usize::from(mtu);
        for (name, value) in
            [("flow_send_buffer", limits.flow_send_buffer), ("flow_recv_buffer", limits.flow_recv_buffer)]
        {
            // Window scaling ends at 1 GiB (RFC 7323, section 2.3); below one segment nothing moves.
            if !(least..=1 << 30).contains(&value) {
                return Err(ConfigError::Limit(name));
            }
        }
        let mut random = !seed;
        Ok(Self {
            now,
            shard,
            handovers: Handovers::default(),
            addresses,
            wireguard: Wireguard::new(now, private_key, mtu, shard)?,
            tcp: Tcp::new(seed, mtu, limits),
            udp: Udp::new(next_random(&mut random), limits),
            pings: Pings::default(),
            reassembly: Reassembly::new(next_random(&mut random), limits.reassembly_bytes),
            datagrams: Outbox::new(MAX_DATAGRAMS, MAX_DATAGRAM_BYTES),
            cut: None,
            waiting_datagrams: Waiting::default(),
            // The upper half is the part that does not follow from the numbers taken before.
            packet_id: (next_random(&mut random) >> 32) as u32,
            flows_first: false,
            mtu: mtu.into(),
            outbox: Outbox::default(),
            loopback: Outbox::default(),
            errors: ErrorLimit::new(now),
            stats: Stats::default(),
            held_back: Vec::new(),
            waiting: Vec::new(),
            packet: Vec::new(),
            opened: Vec::new(),
            run: None,
        })
    }

    /// Replaces the set of peers. A peer that stays (same public and preshared key) keeps its sessions, and the endpoint it
    /// roamed to unless the configured one changed. With several stacks, a flow to an address that is another stack's now ends: `Closed`
    /// with `Reset`, or `Unreachable` while it opens.
    ///
    /// # Errors
    /// When the list contradicts itself; nothing is changed then.
    pub fn set_peers(&mut self, now: Instant, peers: Vec<PeerConfig>) -> Result<(), ConfigError> {
        self.advance(now);
        self.run = None;
        self.wireguard.set_peers(self.now, peers, &mut self.stats)?;
        if self.shard.count > 1 {
            self.end_moved_flows();
        }
        self.tcp.unpark_all();
        // Routes have changed, and the id of a peer that is gone may name another one.
        for peer in self.waiting_datagrams.peers() {
            self.requeue(peer);
        }
        Ok(())
    }

    /// Starts a handshake with every peer whose endpoint is known. A peer that had sessions with an earlier process of this node would
    /// use them in vain for 15 s (WireGuard paper, section 6.5).
    pub fn introduce(&mut self, now: Instant) {
        self.advance(now);
        self.wireguard.introduce(self.now, &mut self.stats);
    }

    /// Accepts SYNs for a TCP port from now on, at all own addresses (a port) or at one (an address and port).
    pub fn listen(&mut self, local: impl Into<Local>) {
        self.tcp.listen(local.into());
    }

    /// Answers new SYNs for a TCP port with RST from now on; live flows stay.
    pub fn unlisten(&mut self, local: impl Into<Local>) {
        self.tcp.unlisten(local.into());
    }

    /// Opens a flow. One of our own addresses loops back inside the stack.
    ///
    /// # Errors
    /// When no flow can be made. The peers of another stack of the interface are reached through that one alone.
    pub fn connect(&mut self, now: Instant, remote: SocketAddr) -> Result<FlowId, ConnectError> {
        self.advance(now);
        if remote.port() == 0 {
            return Err(ConnectError::InvalidDestination);
        }
        let local = self.local_for(remote.ip())?;
        if let Some(Route::Elsewhere(_)) = self.route(remote.ip()) {
            return Err(ConnectError::NoRoute);
        }
        let (tcp, mut cx) = self.tcp();
        tcp.connect(&mut cx, local, remote)
    }

    /// Answers a held SYN with SYN|ACK.
    pub fn accept(&mut self, now: Instant, flow: FlowId) {
        self.advance(now);
        let (tcp, mut cx) = self.tcp();
        tcp.accept(&mut cx, flow);
    }

    /// Answers a held SYN with RST and forgets the flow.
    pub fn reject(&mut self, now: Instant, flow: FlowId) {
        self.advance(now);
        let (tcp, mut cx) = self.tcp();
        tcp.reject(&mut cx, flow);
    }

    /// Takes bytes to send. Fewer than given: full, or not open for sending; `Writable` follows when there is room.
    pub fn send(&mut self, now: Instant, flow: FlowId, data: &[u8]) -> usize {
        self.advance(now);
        let (tcp, mut cx) = self.tcp();
        tcp.send(&mut cx, flow, data)
    }

    /// The same for a chunk whose bytes stay where they are until the peer has acknowledged them, unless they are few. What is
    /// taken leaves `chunk`'s front.
    pub fn send_chunk(&mut self, now: Instant, flow: FlowId, chunk: &mut BytesMut) -> usize {
        self.advance(now);
        let (tcp, mut cx) = self.tcp();
        tcp.send_chunk(&mut cx, flow, chunk)
    }

    /// How many bytes `send` would take.
    #[must_use]
    pub fn send_capacity(&mut self, flow: FlowId) -> usize {
        self.tcp.send_capacity(&self.stats, flow)
    }

    /// Bytes taken by `send` that the peer has not acknowledged.
    #[must_use]
    pub fn unsent(&self, flow: FlowId) -> usize {
        self.tcp.unsent(flow)
    }

    /// Hands out received bytes; reading opens the window.
    pub fn recv(&mut self, now: Instant, flow: FlowId, out: &mut [u8]) -> usize {
        self.advance(now);
        let (tcp, mut cx) = self.tcp();
        tcp.recv(&mut cx, flow, out)
    }

    /// The same with a chunk of at most 16 KiB, which is where the bytes have been put when they arrived, unless they are few.
    /// Empty: nothing has been received.
    pub fn recv_chunk(&mut self, now: Instant, flow: FlowId) -> Bytes {
        self.advance(now);
        let (tcp, mut cx) = self.tcp();
        tcp.recv_chunk(&mut cx, flow)
    }

    /// How many bytes `recv` would hand out.
    #[must_use]
    pub fn recv_available(&self, flow: FlowId) -> usize {
        self.tcp.recv_available(flow)
    }

    /// Sends FIN after everything that was taken (half-close). Asked for before `Connected`, it waits for that.
    pub fn finish(&mut self, now: Instant, flow: FlowId) {
        self.advance(now);
        self.tcp.finish(flow);
    }

    /// Sends RST (when synchronized) and forgets the flow: no event follows.
    pub fn abort(&mut self, now: Instant, flow: FlowId) {
        self.advance(now);
        let (tcp, mut cx) = self.tcp();
        tcp.abort(&mut cx, flow);
    }

    /// The owner is done with the handle: no event follows. What was taken is still sent, then FIN; TCP lives on inside
    /// until it is through or makes no progress for `Limits::linger`. Bytes nobody has read, or that arrive later, turn it
    /// into an abort.
    pub fn release(&mut self, now: Instant, flow: FlowId) {
        self.advance(now);
        let (tcp, mut cx) = self.tcp();
        tcp.release(&mut cx, flow);
    }

    /// Takes one UDP datagram.
    pub fn handle_datagram(&mut self, now: Instant, remote: SocketAddr, datagram: &[u8]) {
        self.advance(now);
        self.stats.rx_datagrams += 1;
        self.stats.rx_bytes += datagram.len() as u64;
        self.open(Datagram { remote, bytes: datagram, counted: false });
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.wireguard.handle_timeout(self.now, &mut self.stats);
        self.unpark();
        self.reassembly.handle_timeout(self.now, &mut self.stats);
        self.waiting_datagrams.handle_timeout(self.now, &mut self.stats);
        self.udp.handle_timeout(self.now, &mut self.stats);
        for _ in 0..LOOPBACK_BUDGET {
            let Some(packet) = self.loopback.pop() else { break };
            self.receive(None, &packet);
        }
        for flow in std::mem::take(&mut self.waiting) {
            self.tcp.again(flow);
        }
        let (tcp, mut cx) = self.tcp();
        tcp.handle_timeout(&mut cx);
    }

    /// When to call `handle_timeout` at the latest. In the past when there is something to do at once: packets to
    /// ourselves, or events that came up while sending.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let events = self.tcp.has_events() || self.udp.has_events() || self.pings.has_events();
        if events || !self.loopback.is_empty() || !self.waiting.is_empty() {
            return Some(self.now);
        }
        let deadlines = [
            self.wireguard.poll_timeout(),
            self.tcp.poll_timeout(),
            self.udp.poll_timeout(),
            self.reassembly.poll_timeout(),
            self.waiting_datagrams.poll_timeout(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Fills `buffer` (cleared first) with one or more datagrams for one destination: at most 64 of one size (the last may be
    /// shorter) and what one UDP send can carry together.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        self.advance(now);
        self.unpark();
        let mut batch = Batch::new(buffer);
        if !self.held_back.is_empty() {
            for (destination, datagram) in self.held_back.drain(..) {
                batch.add(destination, &datagram);
            }
        } else if let Some((destination, datagram)) = self.wireguard.poll_datagram() {
            batch.add(destination, &datagram);
            // A handshake message: nothing else has its size.
            batch.close();
        }
        let mut packet = std::mem::take(&mut self.packet);
        self.fill_from_outbox(&mut batch);
        self.flows_first = !self.flows_first;
        if self.flows_first {
            self.fill_from_flows(&mut batch, &mut packet);
            self.fill_from_datagrams(&mut batch, &mut packet);
        } else {
            self.fill_from_datagrams(&mut batch, &mut packet);
            self.fill_from_flows(&mut batch, &mut packet);
        }
        self.packet = packet;
        if batch.is_empty() {
            // Looking for something to send may have started a handshake.
            let (destination, datagram) = self.wireguard.poll_datagram()?;
            batch.add(destination, &datagram);
        }
        let (datagrams, bytes, transmit) = batch.finish()?;
        self.stats.tx_datagrams += datagrams as u64;
        self.stats.tx_bytes += bytes as u64;
        Some(transmit)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        // Datagrams wait until the beginning of their flow is told. UDP has few events, and TCP may have any number.
        self.udp
            .poll_event(&mut self.stats)
            .or_else(|| self.tcp.poll_event(&mut self.stats))
            .or_else(|| self.pings.poll_event())
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The state of every peer.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        self.wireguard.status(self.now)
    }

    /// Time never runs backwards in here: boringtun's arithmetic would panic.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn tcp(&mut self) -> (&mut Tcp, Context<'_>) {
        (&mut self.tcp, Context { now: self.now, outbox: &mut self.outbox, stats: &mut self.stats })
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == address)
    }

    fn route(&self, address: IpAddr) -> Option<Route> {
        if self.is_own(address) {
            return Some(Route::Own);
        }
        self.wireguard.route(address).map(|place| match place {
            Place::Here(peer) => Route::Peer(peer),
            Place::There(shard) => Route::Elsewhere(shard),
        })
    }

    /// An address of ours in the destination's network, or else the first of its family.
    fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        let family = || self.addresses.iter().filter(|net| net.addr().is_ipv4() == destination.is_ipv4());
        family().find(|net| net.contains(&destination)).or_else(|| family().next()).map(IpNet::addr)
    }
}
