//! smoltcp at one end of the link, as its users have it: CUBIC, the largest number of gaps its assembler can be built
//! with is not asked for, buffers of fixed size.

use std::collections::VecDeque;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::stack::{CONTENT, Role, Spec, Stack};

pub(super) struct Smoltcp {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    device: Queue,
    sends: bool,
    received: u64,
}

impl Smoltcp {
    pub(super) fn new(spec: &Spec) -> Self {
        let mut device = Queue { mtu: usize::from(spec.mtu), ..Queue::default() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = spec.seed;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // Everything is on the link.
            let address = IpCidr::new(IpAddress::Ipv4(spec.address), 0);
            addresses.push(address).unwrap_or_else(|_| unreachable!("there is room for one address"));
        });
        let buffer = || SocketBuffer::new(vec![0; spec.buffer]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(CongestionControl::Cubic);
        match spec.role {
            Role::Source(to) => drop(socket.connect(interface.context(), to, 40_000)),
            Role::Sink(port) => drop(socket.listen(port)),
        }
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        let sends = matches!(spec.role, Role::Source(_));
        Self { interface, sockets, socket, device, sends, received: 0 }
    }

    /// Moves the application's bytes; whether there were any.
    fn move_bytes(&mut self) -> bool {
        let socket = self.sockets.get_mut::<Socket>(self.socket);
        let mut moved = 0;
        if self.sends {
            while let Ok(count @ 1..) = socket.send_slice(&CONTENT) {
                moved += count;
            }
        } else {
            while let Ok(count @ 1..) = socket.recv(|bytes| (bytes.len(), bytes.len())) {
                moved += count;
                self.received += count as u64;
            }
        }
        moved > 0
    }
}

impl Stack for Smoltcp {
    fn receive(&mut self, _now: Duration, packet: &[u8]) {
        self.device.arrived.push_back(packet.to_vec());
    }

    fn poll(&mut self, now: Duration, send: &mut dyn FnMut(&[u8])) {
        let now = instant(now);
        loop {
            self.interface.poll(now, &mut self.device, &mut self.sockets);
            for packet in self.device.leaving.drain(..) {
                send(&packet);
            }
            if !self.move_bytes() {
                return;
            }
        }
    }

    fn deadline(&mut self, now: Duration) -> Option<Duration> {
        let delay = self.interface.poll_delay(instant(now), &self.sockets)?;
        Some(now + Duration::from_micros(delay.total_micros()))
    }

    fn received(&self) -> u64 {
        self.received
    }
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// Packets in, packets out.
#[derive(Default)]
struct Queue {
    mtu: usize,
    arrived: VecDeque<Vec<u8>>,
    leaving: Vec<Vec<u8>>,
}

impl Device for Queue {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived, Leaving<'_>)> {
        Some((Arrived(self.arrived.pop_front()?), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities
    }
}

struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}
