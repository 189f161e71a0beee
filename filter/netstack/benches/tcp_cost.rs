//! What a full segment costs its sender and its receiver, in memory and on one core: ours, and smoltcp's in the same run.
//!
//! Prints nanoseconds per segment, and ours as a part of smoltcp's. Fails when a side is dearer than the bounds below. Both
//! compute checksums of what they send and verify none (what arrives in a tunnel is authenticated), and both begin and end
//! with a copy: ours as the module makes it, between its chunks and Envoy's buffers.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nexodus_netstack::Instant;
use nexodus_netstack::conn::{Connection, Settings};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::wire::HardwareAddress;

/// Most that ours may cost as a part of smoltcp's, sending and receiving.
const MOST: [f64; 2] = [0.8, 1.0];
const ROUNDS: usize = 9;
const BYTES: usize = 64 << 20;
const BATCH: usize = 32;
const BUFFER: usize = 1 << 20;
const MTU: usize = 1420;

fn main() -> ExitCode {
    let mut costs: [Vec<[f64; 2]>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        costs[0].push(transfer(&mut client(), &mut server()));
        costs[1].push(transfer(&mut Smol::new(true), &mut Smol::new(false)));
    }
    let mut passed = true;
    for (side, name) in ["send", "receive"].into_iter().enumerate() {
        let [ours, theirs] = [0, 1].map(|stack: usize| {
            let mut all: Vec<f64> = costs[stack].iter().map(|cost| cost[side]).collect();
            all.sort_by(f64::total_cmp);
            all[ROUNDS / 2]
        });
        let ratio = ours / theirs;
        println!(
            "{name}: ours {ours:.0} ns, smoltcp {theirs:.0} ns, ratio {ratio:.2}, at most {}",
            MOST[side]
        );
        passed &= ratio <= MOST[side];
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

trait Host {
    fn receive(&mut self, now: Instant, packets: &[Vec<u8>]);
    /// Fills packets until there is nothing to send, and returns how many.
    fn transmit(&mut self, now: Instant, packets: &mut [Vec<u8>]) -> usize;
    fn send(&mut self, now: Instant, data: &[u8]);
    fn recv(&mut self, now: Instant, out: &mut [u8]) -> usize;
}

/// Nanoseconds per segment of the sender and of the receiver.
fn transfer(sender: &mut impl Host, receiver: &mut impl Host) -> [f64; 2] {
    let data = vec![7; 64 << 10];
    let mut out = vec![0; 64 << 10];
    let mut packets: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(MTU)).collect();
    let mut now = Instant::from_micros(1_000_000_000);
    let mut costs = [Vec::new(), Vec::new()];
    let mut received = 0;
    while received < BYTES {
        // The first quarter opens the windows.
        let counts = received > BYTES / 4;
        now = now + Duration::from_micros(100);
        let start = std::time::Instant::now();
        sender.send(now, &data);
        let sent = sender.transmit(now, &mut packets);
        let sending = start.elapsed();

        let start = std::time::Instant::now();
        receiver.receive(now, &packets[..sent]);
        loop {
            let read = receiver.recv(now, &mut out);
            // Without this the compiler leaves out what nobody looks at: the copy, where it can see it.
            black_box(&mut out);
            received += read;
            if read == 0 {
                break;
            }
        }
        let answers = receiver.transmit(now, &mut packets);
        let receiving = start.elapsed();

        let start = std::time::Instant::now();
        sender.receive(now, &packets[..answers]);
        if counts {
            assert_eq!(sent, BATCH);
            costs[0].push(sending + start.elapsed());
            costs[1].push(receiving);
        }
    }
    costs.map(per_segment)
}

/// Without the dearest few of all batches: something else had the core meanwhile.
fn per_segment(mut batches: Vec<Duration>) -> f64 {
    batches.sort();
    batches.truncate(batches.len() / 20 * 19);
    let total: Duration = batches.iter().sum();
    #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
    let segments = (batches.len() * BATCH) as f64;
    total.as_secs_f64() * 1e9 / segments
}

fn ends() -> [SocketAddr; 2] {
    ["100.64.0.1:40000".parse().unwrap(), "100.64.0.2:80".parse().unwrap()]
}

fn settings() -> Arc<Settings> {
    let buffer = u32::try_from(BUFFER).unwrap();
    let settings =
        Settings { initial_buffer: buffer, send_buffer: buffer, recv_buffer: buffer, ..Settings::default() };
    Arc::new(settings)
}

fn client() -> Connection {
    let [client, server] = ends();
    Connection::connect(settings(), Instant::from_micros(1_000_000_000), (client, server), 1, 2)
}

/// Becomes a connection with the first packet.
enum Server {
    Listening,
    Open(Box<Connection>),
}

fn server() -> Server {
    Server::Listening
}

impl Host for Connection {
    fn receive(&mut self, now: Instant, packets: &[Vec<u8>]) {
        self.handle_burst(now, packets.iter().map(Vec::as_slice));
    }

    fn transmit(&mut self, now: Instant, packets: &mut [Vec<u8>]) -> usize {
        let mut filled = 0;
        loop {
            let most = u32::try_from(packets.len() - filled).unwrap();
            let more = self.poll_burst(now, most, &mut |packet| {
                packets[filled].clear();
                packet.append_to(&mut packets[filled]);
                filled += 1;
            });
            if more == 0 {
                return filled;
            }
        }
    }

    fn send(&mut self, now: Instant, data: &[u8]) {
        let room = self.send_room().min(data.len());
        self.send_chunk(now, &mut BytesMut::from(&data[..room]));
    }

    fn recv(&mut self, now: Instant, out: &mut [u8]) -> usize {
        let chunk = self.recv_chunk(now);
        out[..chunk.len()].copy_from_slice(&chunk);
        chunk.len()
    }
}

impl Host for Server {
    fn receive(&mut self, now: Instant, packets: &[Vec<u8>]) {
        match self {
            Self::Open(connection) => connection.receive(now, packets),
            Self::Listening => {
                *self = Self::Open(Box::new(Connection::accept(settings(), now, &packets[0], 3, 4).unwrap()));
            }
        }
    }

    fn transmit(&mut self, now: Instant, packets: &mut [Vec<u8>]) -> usize {
        let Self::Open(connection) = self else { return 0 };
        connection.transmit(now, packets)
    }

    fn send(&mut self, _now: Instant, _data: &[u8]) {}

    fn recv(&mut self, now: Instant, out: &mut [u8]) -> usize {
        let Self::Open(connection) = self else { return 0 };
        Host::recv(&mut **connection, now, out)
    }
}

/// smoltcp with one socket, as a flow of the netstack had it.
struct Smol {
    interface: Interface,
    set: SocketSet<'static>,
    handle: SocketHandle,
}

impl Smol {
    fn new(first: bool) -> Self {
        let now = smoltcp::time::Instant::from_micros(1_000_000_000);
        let config = Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut Port { rx: None, tx: None }, now);
        interface.set_any_ip(true);
        let [client, server] = ends();
        let mut socket = Socket::new(SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
        socket.set_congestion_control(CongestionControl::Cubic);
        let mut set = SocketSet::new(Vec::new());
        let handle = set.add(socket);
        let socket = set.get_mut::<Socket<'_>>(handle);
        if first {
            socket
                .connect(interface.context(), (server.ip(), server.port()), (client.ip(), client.port()))
                .unwrap();
        } else {
            socket.listen((server.ip(), server.port())).unwrap();
        }
        Self { interface, set, handle }
    }
}

impl Host for Smol {
    fn receive(&mut self, now: Instant, packets: &[Vec<u8>]) {
        for packet in packets {
            let mut reply = Vec::new();
            let mut port = Port { rx: Some(packet), tx: Some(&mut reply) };
            self.interface.poll_ingress_single(at(now), &mut port, &mut self.set);
        }
    }

    fn transmit(&mut self, now: Instant, packets: &mut [Vec<u8>]) -> usize {
        let mut filled = 0;
        for packet in packets {
            packet.clear();
            self.interface.poll_egress(at(now), &mut Port { rx: None, tx: Some(packet) }, &mut self.set);
            if packet.is_empty() {
                break;
            }
            filled += 1;
        }
        filled
    }

    fn send(&mut self, _now: Instant, data: &[u8]) {
        let socket = self.set.get_mut::<Socket<'_>>(self.handle);
        if socket.may_send() {
            socket.send_slice(data).unwrap();
        }
    }

    fn recv(&mut self, _now: Instant, out: &mut [u8]) -> usize {
        self.set.get_mut::<Socket<'_>>(self.handle).recv_slice(out).unwrap_or(0)
    }
}

fn at(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_micros()).unwrap())
}

struct Port<'a> {
    rx: Option<&'a [u8]>,
    tx: Option<&'a mut Vec<u8>>,
}

impl Device for Port<'_> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sent<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Received<'_>, Sent<'_>)> {
        let tx = self.tx.as_deref_mut()?;
        Some((Received(self.rx.take()?), Sent(tx)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Sent<'_>> {
        self.tx.as_deref_mut().filter(|tx| tx.is_empty()).map(Sent)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        let mut checksum = ChecksumCapabilities::ignored();
        checksum.ipv4 = Checksum::Tx;
        checksum.tcp = Checksum::Tx;
        capabilities.checksum = checksum;
        capabilities
    }
}

struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

struct Sent<'a>(&'a mut Vec<u8>);

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        self.0.clear();
        self.0.resize(len, 0);
        write(self.0)
    }
}
