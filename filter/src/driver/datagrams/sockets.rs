//! Sockets that datagrams come from: relays, one for each flow from the overlay towards its listener, and those of
//! busy clients.

use super::answers::shared;
use crate::driver::udp::{allow_fragmentation, enlarge_buffers};
use crate::network::Client;
use envoy_proxy_dynamic_modules_rust_sdk::{envoy_log_error, envoy_log_info};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use nexodus_netstack::UdpFlowId;
use quinn_udp::UdpSocketState;
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Tokens of these sockets have this bit; those of the TCP relays count from below.
const TOKEN_BIT: usize = 1 << (usize::BITS - 2);

/// Busy clients that have a socket of their own, at most: before Linux 6.13 the kernel looks through all sockets of a port for
/// each datagram.
pub(super) const MAX_DIRECT: usize = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Sockets {
    sockets: Slab<Socket>,
    /// Relays by their address.
    relays: BTreeMap<SocketAddr, usize>,
    /// Those that could not be opened.
    missing: BTreeSet<SocketAddr>,
    direct: usize,
    /// Those with something to read.
    pub(super) ready: Vec<usize>,
}

pub(super) struct Socket {
    pub(super) socket: UdpSocket,
    pub(super) state: UdpSocketState,
    /// Datagrams in a burst.
    pub(super) most_at_once: usize,
    pub(super) address: SocketAddr,
    pub(super) of: Of,
}

/// What a socket is for.
#[derive(Clone)]
pub(super) enum Of {
    /// A relay: whoever sends there is a client.
    Relay,
    /// A flow from the overlay; connected to its listener.
    Ingress { flow: UdpFlowId, listener: SocketAddr },
    /// A client of an Envoy listener, to which it is connected, and that client's flow.
    Direct { flow: UdpFlowId, client: Client },
}

impl Sockets {
    /// Whether the token is that of one of these sockets, which then has something to read.
    pub(super) fn ready(&mut self, token: Token) -> bool {
        let ours = token.0 & TOKEN_BIT != 0;
        if ours {
            self.ready.push(token.0 & !TOKEN_BIT);
        }
        ours
    }

    pub(super) fn get(&self, key: usize) -> Option<&Socket> {
        self.sockets.get(key)
    }

    pub(super) fn relay(&self, address: SocketAddr) -> Option<&Socket> {
        self.sockets.get(*self.relays.get(&address)?)
    }

    pub(super) fn close(&mut self, key: usize) -> Option<Socket> {
        let socket = self.sockets.try_remove(key)?;
        self.direct -= usize::from(matches!(socket.of, Of::Direct { .. }));
        Some(socket)
    }

    /// Clients that have a socket of their own.
    pub(super) fn direct(&self) -> usize {
        self.direct
    }

    /// Has these relays and no others; how many could not be opened.
    pub(super) fn set_relays<'a>(
        &mut self,
        wanted: impl Iterator<Item = &'a SocketAddr>,
        registry: &Registry,
    ) -> u64 {
        let keep: BTreeSet<SocketAddr> = wanted.copied().collect();
        let gone = self.relays.extract_if(.., |address, _| !keep.contains(address));
        gone.for_each(|(_, key)| drop(self.sockets.try_remove(key)));
        self.missing.clear();
        for address in keep {
            if let Err(error) = self.open_relay(address, registry) {
                self.missing.insert(address);
                envoy_log_error!("UDP relay {} cannot be opened: {}", address, error);
            }
        }
        self.missing.len() as u64
    }

    /// Tries again to open the relays that are missing: whoever has their addresses may give them up. Whether some still are.
    pub(super) fn open_missing(&mut self, registry: &Registry) -> bool {
        for address in std::mem::take(&mut self.missing) {
            if self.open_relay(address, registry).is_ok() {
                envoy_log_info!("UDP relay {} is open now", address);
            } else {
                self.missing.insert(address);
            }
        }
        !self.missing.is_empty()
    }

    fn open_relay(&mut self, address: SocketAddr, registry: &Registry) -> io::Result<()> {
        if !self.relays.contains_key(&address) {
            let relay = self.add(unconnected(address)?, Of::Relay, registry)?;
            self.relays.insert(address, relay);
        }
        Ok(())
    }

    /// The socket of a flow, connected to its listener on loopback, and its address.
    pub(super) fn open_ingress(
        &mut self,
        flow: UdpFlowId,
        listener: SocketAddr,
        registry: &Registry,
    ) -> io::Result<(usize, SocketAddr)> {
        let any: IpAddr =
            if listener.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let (socket, state) = unconnected(SocketAddr::new(any, 0))?;
        socket.connect(listener)?;
        let address = socket.local_addr()?;
        let key = self.add((socket, state), Of::Ingress { flow, listener }, registry)?;
        Ok((key, address))
    }

    /// A socket of the client's own, at the address that it sends to: the kernel gives it what the client sends from now on.
    pub(super) fn open_direct(
        &mut self,
        flow: UdpFlowId,
        client: Client,
        local: SocketAddr,
        registry: &Registry,
    ) -> io::Result<usize> {
        let opened = shared(local, client.address)?;
        let key = self.add(opened, Of::Direct { flow, client }, registry)?;
        self.direct += 1;
        Ok(key)
    }

    fn add(
        &mut self,
        (mut socket, state): (UdpSocket, UdpSocketState),
        of: Of,
        registry: &Registry,
    ) -> io::Result<usize> {
        let address = socket.local_addr()?;
        let entry = self.sockets.vacant_entry();
        let key = entry.key();
        registry.register(&mut socket, Token(key | TOKEN_BIT), Interest::READABLE)?;
        entry.insert(Socket { most_at_once: state.max_gso_segments(), socket, state, address, of });
        Ok(key)
    }
}

fn unconnected(address: SocketAddr) -> io::Result<(UdpSocket, UdpSocketState)> {
    let socket = UdpSocket::bind(address)?;
    enlarge_buffers(&socket);
    let state = UdpSocketState::new((&socket).into())?;
    allow_fragmentation(&socket, address.is_ipv6());
    Ok((socket, state))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use crate::driver::STATUS_INTERVAL;
    use crate::driver::thread::tests::driver;
    use envoy_config::UdpRelay;

    #[test]
    fn a_relay_whose_address_is_taken_is_opened_when_it_is_free() {
        let (mut driver, _poll) = driver("relay");
        // An address that nobody else uses: hardly anybody is given the port when it is free.
        let taken = std::net::UdpSocket::bind(("127.77.0.1", 0)).unwrap();
        let relay = taken.local_addr().unwrap();
        let to = UdpRelay { relay, destination: "100.64.0.2:53".parse().unwrap(), addresses: None };
        driver.network.set_udp_destinations(Vec::new(), vec![to]);
        let sleep = driver.turn().unwrap();
        assert!(sleep.is_some_and(|sleep| sleep <= STATUS_INTERVAL), "it is tried again");
        assert!(driver.udp.sockets.sockets.is_empty());
        drop(taken);
        driver.status_due = driver.clock.now();
        driver.turn().unwrap();
        let key = driver.udp.sockets.relays[&relay];
        assert_eq!(driver.udp.sockets.sockets[key].address, relay);
        assert!(driver.udp.sockets.missing.is_empty() && !driver.status_stale);
        assert_eq!(driver.udp_stats.socket_errors, 1);
    }

    #[test]
    fn a_socket_that_cannot_be_connected_does_not_stay() {
        let (mut driver, _poll) = driver("unconnected");
        let now = driver.clock.now();
        let flow = driver.stack.udp_connect(now, ([100, 64, 0, 2], 53).into()).unwrap();
        let broadcast = ([255, 255, 255, 255], 53).into();
        let (sockets, registry) = (&mut driver.udp.sockets, &driver.registry);
        assert!(sockets.open_ingress(flow, broadcast, registry).is_err());
        assert!(sockets.sockets.is_empty());
    }
}
