//! The WireGuard UDP socket: one for both families where the host has IPv6, in batches, with segmentation (GSO)
//! and receive (GRO) offload where the kernel has them. And what other sockets need for the same.

use super::path_mtu::{Narrow, is_too_large};
use super::steering;
use envoy_proxy_dynamic_modules_rust_sdk::{envoy_log_info, envoy_log_warn};
use mio::{Interest, Registry, Token};
use nexodus_netstack::Transmit;
use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Type};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

/// What one receive buffer holds: a batch of coalesced datagrams.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Asked of the kernel for each direction.
const KERNEL_BUFFER: usize = 4 << 20;

pub(super) struct Socket {
    socket: mio::net::UdpSocket,
    registry: Registry,
    token: Token,
    state: UdpSocketState,
    ipv6: bool,
    readable: bool,
    writable: bool,
    inbox: Inbox,
    outgoing: Vec<u8>,
    narrow: Narrow,
    /// What `outgoing` holds, when the kernel had no room for it.
    waiting: Option<Transmit>,
}

/// A socket with its port.
pub(super) struct Bound {
    socket: socket2::Socket,
    ipv6: bool,
}

impl Bound {
    /// Port 0: any.
    pub(super) fn open(port: u16) -> io::Result<Self> {
        match bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), false) {
            Ok(socket) => Ok(Self { socket, ipv6: true }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
            Err(_) => {
                let socket = bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), false)?;
                Ok(Self { socket, ipv6: false })
            }
        }
    }

    /// As many sockets with the same port, among which the kernel distributes what arrives as [`steering`] says.
    pub(super) fn open_several(port: u16, count: usize) -> io::Result<Vec<Self>> {
        let first = Self::open(port)?;
        let mut all = Vec::with_capacity(count);
        if count > 1 {
            let address = first.address()?;
            // Not before it has the port: a second process with this configuration is to find it taken.
            first.socket.set_reuse_port(true)?;
            for _ in 1..count {
                all.push(Self { socket: bind(address, true)?, ipv6: first.ipv6 });
            }
            if let Err(error) = steering::attach(&first.socket, count) {
                envoy_log_info!(
                    "WireGuard port {}: datagrams are distributed by the threads: {}",
                    address.port(),
                    error
                );
            }
        }
        all.insert(0, first);
        Ok(all)
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    #[cfg(test)]
    pub(super) fn into_socket(self) -> socket2::Socket {
        self.socket
    }
}

impl Socket {
    pub(super) fn new(bound: Bound, registry: &Registry, token: Token) -> io::Result<Self> {
        let Bound { socket, ipv6 } = bound;
        let mut socket = mio::net::UdpSocket::from_std(socket.into());
        let state = UdpSocketState::new((&socket).into())?;
        allow_fragmentation(&socket, ipv6);
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self {
            socket,
            registry: registry.try_clone()?,
            token,
            state,
            ipv6,
            readable: true,
            writable: true,
            inbox: Inbox::default(),
            outgoing: Vec::with_capacity(64 * 1024),
            narrow: Narrow::default(),
            waiting: None,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    pub(super) fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        if writable && !self.writable {
            self.set_writable(true);
        }
    }

    /// Has the system say when there is room only while there is none: it would say so after every datagram.
    fn set_writable(&mut self, writable: bool) {
        let interest = if writable { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        // A refusal would leave the socket waiting for ever. Then a full kernel is as good as loss on the way.
        self.writable = self.registry.reregister(&mut self.socket, self.token, interest).is_err() || writable;
    }

    /// One system call's worth of datagrams; whether there may be more.
    pub(super) fn receive(&mut self, mut take: impl FnMut(SocketAddr, &[u8])) -> io::Result<bool> {
        if !self.readable {
            return Ok(false);
        }
        match self.inbox.receive(&self.socket, &self.state) {
            Ok(more) => self.readable = more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(false);
            }
            // ICMP errors of earlier sends show up here; WireGuard goes on.
            Err(error) if is_transient(&error) => return Ok(true),
            Err(error) => return Err(error),
        }
        for (remote, datagram) in self.inbox.datagrams() {
            take(remote, datagram);
        }
        Ok(self.readable)
    }

    /// Whether [`Self::send`] may be called: nothing waits for room in the kernel.
    pub(super) fn can_send(&mut self) -> bool {
        if let Some(transmit) = self.waiting.take_if(|_| self.writable) {
            // No room again leaves it waiting; another refusal is as good as loss on the way.
            self.send(transmit);
        }
        self.waiting.is_none()
    }

    /// Where the next [`Transmit`] is written.
    pub(super) fn send_buffer(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Sends what stands in [`Self::send_buffer`]; `false` when the system refused it, which is as good as loss
    /// on the way.
    pub(super) fn send(&mut self, transmit: Transmit) -> bool {
        let size = transmit.segment_size.unwrap_or(self.outgoing.len()).max(1);
        let host = transmit.destination.ip();
        let destination = self.mapped(transmit.destination);
        let (mut sent, mut start) = (true, 0);
        while start < self.outgoing.len() {
            let segments = if self.narrow.contains(host) { 1 } else { self.state.max_gso_segments().max(1) };
            let batch = &self.outgoing[start..self.outgoing.len().min(start + size * segments)];
            let is_one = batch.len() <= size;
            let transmit_batch = quinn_udp::Transmit {
                destination,
                ecn: None,
                contents: batch,
                segment_size: (!is_one).then_some(size),
                src_ip: None,
            };
            match self.state.try_send((&self.socket).into(), &transmit_batch) {
                Ok(()) => start += batch.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.set_writable(false);
                    self.waiting = Some(transmit);
                    self.outgoing.drain(..start);
                    return sent;
                }
                // The same again, one by one.
                Err(error) if !is_one && is_too_large(&error) => {
                    if self.narrow.insert(host) {
                        envoy_log_warn!(
                            "datagrams of {size} bytes do not fit the way to {host} in one piece; a smaller MTU in the WireGuard configuration spares fragments"
                        );
                    }
                }
                Err(_) => (sent, start) = (false, start + batch.len()),
            }
        }
        sent
    }

    fn mapped(&self, destination: SocketAddr) -> SocketAddr {
        match destination.ip() {
            IpAddr::V4(ip) if self.ipv6 => SocketAddr::new(ip.to_ipv6_mapped().into(), destination.port()),
            _ => destination,
        }
    }
}

/// What one system call has received.
#[derive(Default)]
pub(super) struct Inbox {
    /// [`BATCH_SIZE`] buffers; none before they are needed.
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    count: usize,
}

impl Inbox {
    /// Whether there may be more. A system call that does not fill all buffers has seen the end of the socket's queue, and what
    /// comes later is told by the system (edge-triggered): no second call has to find nothing.
    pub(super) fn receive(
        &mut self,
        socket: &mio::net::UdpSocket,
        state: &UdpSocketState,
    ) -> io::Result<bool> {
        self.count = 0;
        self.bytes.resize(RECEIVE_BUFFER * BATCH_SIZE, 0);
        let mut buffers = self.bytes.chunks_exact_mut(RECEIVE_BUFFER).map(IoSliceMut::new);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| buffers.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        self.count = state.recv(socket.into(), &mut buffers, &mut self.metas)?;
        Ok(self.count == BATCH_SIZE)
    }

    /// Each datagram with its sender, in the order of arrival. What the kernel has put together is taken apart.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let buffers = self.bytes.chunks_exact(RECEIVE_BUFFER);
        self.metas.iter().zip(buffers).take(self.count).flat_map(|(meta, buffer)| {
            let remote = canonical(meta.addr);
            let stride = meta.stride.max(1);
            // One without a byte is a datagram too.
            let count = meta.len.div_ceil(stride).max(1);
            (0..count).map(move |n| {
                let end = (stride * (n + 1)).min(meta.len);
                (remote, buffer.get(stride * n..end).unwrap_or_default())
            })
        })
    }
}

/// An IPv4 address as such. One of IPv6 keeps its interface, without which nothing can be sent to a link-local one.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    enlarge_buffers(&socket);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Asks for buffers that hold what comes while this thread does not run: past the system's maximum where that is permitted, else up
/// to it. More is better, less works.
pub(super) fn enlarge_buffers(socket: &impl AsFd) {
    use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
    let portable = socket2::SockRef::from(socket);
    if set_socket_recv_buffer_size_force(socket, KERNEL_BUFFER).is_err() {
        let _ = portable.set_recv_buffer_size(KERNEL_BUFFER);
    }
    if set_socket_send_buffer_size_force(socket, KERNEL_BUFFER).is_err() {
        let _ = portable.set_send_buffer_size(KERNEL_BUFFER);
    }
}

/// quinn-udp forbids IP fragmentation, which QUIC wants and WireGuard does not: where the path's MTU is smaller than
/// the tunnel's asks for, large datagrams would vanish. Best effort: a refusal leaves what quinn-udp set.
pub(super) fn allow_fragmentation(socket: &mio::net::UdpSocket, ipv6: bool) {
    use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
    use rustix::net::sockopt::{set_ip_mtu_discover, set_ipv6_mtu_discover};
    let _ = set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT);
    if ipv6 {
        let _ = set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT);
        let _ = setsockopt(socket, sockopt::Ipv6DontFrag, &false);
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_keeps_its_interface() {
        let link_local = SocketAddr::from(std::net::SocketAddrV6::new(
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            7,
            0,
            2,
        ));
        assert_eq!(canonical(link_local), link_local);
        let mapped = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped(), 7));
        assert_eq!(canonical(mapped), SocketAddr::from(([192, 0, 2, 1], 7)));
    }
}
