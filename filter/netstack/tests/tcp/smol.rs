//! smoltcp as a host on the link: a partner, and what we compare with.

use nexodus_netstack::Instant;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::link::{Host, START, ends};

pub struct Smol {
    interface: Interface,
    set: SocketSet<'static>,
    handle: SocketHandle,
    port: Port,
    finished: bool,
    due: Option<Instant>,
}

impl Smol {
    /// The first end connects, the second listens.
    pub fn new(first: bool, buffer: usize) -> Self {
        let mut port = Port { rx: None, tx: None };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut port, at(START));
        let (client, server) = ends();
        let own = if first { client } else { server };
        interface.update_ip_addrs(|list| {
            list.push(IpCidr::new(IpAddress::from(own.ip()), 24)).unwrap();
        });
        let mut socket = Socket::new(SocketBuffer::new(vec![0; buffer]), SocketBuffer::new(vec![0; buffer]));
        socket.set_congestion_control(CongestionControl::Cubic);
        let mut set = SocketSet::new(Vec::new());
        if !first {
            socket.listen(server.port()).unwrap();
        }
        let handle = set.add(socket);
        if first {
            let socket = set.get_mut::<Socket>(handle);
            socket.connect(interface.context(), (server.ip(), server.port()), client.port()).unwrap();
        }
        Self { interface, set, handle, port, finished: false, due: Some(START) }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }
}

impl Host for Smol {
    fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        self.port.rx = Some(packet.to_vec());
        self.interface.poll_ingress_single(at(now), &mut self.port, &mut self.set);
        self.due = Some(now);
    }

    fn poll_packet(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        out.clear();
        if self.finished && self.socket().send_queue() == 0 && self.socket().may_send() {
            self.socket().close();
        }
        if self.port.tx.is_none() {
            self.interface.poll_egress(at(now), &mut self.port, &mut self.set);
        }
        if let Some(packet) = self.port.tx.take() {
            *out = packet;
            return true;
        }
        let next = self.interface.poll_at(at(now), &self.set);
        // What smoltcp calls due after it had its turn waits for something else.
        self.due = next.map(|next| {
            Instant::from_micros(next.total_micros() as u64).max(now + std::time::Duration::from_micros(500))
        });
        false
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn send(&mut self, now: Instant, data: &[u8]) -> usize {
        self.due = Some(now);
        self.socket().send_slice(data).unwrap_or(0)
    }

    fn recv(&mut self, _now: Instant, out: &mut [u8]) -> usize {
        self.socket().recv_slice(out).unwrap_or(0)
    }

    fn finish(&mut self, _now: Instant) {
        self.finished = true;
    }

    fn is_over(&self) -> bool {
        matches!(self.set.get::<Socket>(self.handle).state(), State::Closed | State::TimeWait)
    }
}

/// One packet in each direction.
struct Port {
    rx: Option<Vec<u8>>,
    tx: Option<Vec<u8>>,
}

impl Device for Port {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.rx.take()?), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Tx<'_>> {
        self.tx.is_none().then_some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1420;
        capabilities
    }
}

pub struct Rx(Vec<u8>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

pub struct Tx<'a>(&'a mut Option<Vec<u8>>);

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        *self.0 = Some(packet);
        result
    }
}

fn at(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(now.as_micros() as i64)
}
