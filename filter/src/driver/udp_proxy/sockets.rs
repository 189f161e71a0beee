//! Which sockets there are: what the configuration asks for, and one for each flow from the overlay.

use super::{Loopback, TOKEN_BIT, UdpProxy, UdpStats};
use crate::driver::udp::{allow_fragmentation, enlarge_buffers};
use crate::network::{Desired, RelayTo};
use envoy_proxy_dynamic_modules_rust_sdk::{envoy_log_error, envoy_log_info};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use nexodus_netstack::{Instant, Local, Netstack, UdpFlowId};
use quinn_udp::UdpSocketState;
use std::io;
use std::net::SocketAddr;

impl UdpProxy {
    pub(in crate::driver) fn apply(
        &mut self,
        now: Instant,
        desired: &Desired,
        registry: &Registry,
        stack: &mut Netstack,
        stats: &mut UdpStats,
    ) {
        let listeners = desired.udp_listeners.newest();
        for local in self.listeners.keys().filter(|local| !listeners.contains_key(local)) {
            stack.udp_unlisten(*local);
        }
        for local in listeners.keys().filter(|local| !self.listeners.contains_key(local)) {
            stack.udp_listen(*local);
        }
        self.listeners = listeners;

        let gone: Vec<SocketAddr> =
            self.relays.keys().filter(|address| !desired.udp_relays.contains_key(address)).copied().collect();
        for address in gone {
            self.close_relay(now, address, stack);
        }
        self.missing.clear();
        for (address, to) in &desired.udp_relays {
            if let Err(error) = self.set_relay(*address, to, registry) {
                stats.socket_errors += 1;
                self.missing.insert(*address, to.clone());
                let to = to.destinations.first();
                envoy_log_error!("UDP relay {} for {:?} cannot be opened: {}", address, to, error);
            }
        }
    }

    /// Tries again to open the relays that are missing: whoever has their addresses may give them up. Whether some still are.
    pub(in crate::driver) fn open_missing(&mut self, registry: &Registry) -> bool {
        for (address, to) in std::mem::take(&mut self.missing) {
            if self.set_relay(address, &to, registry).is_ok() {
                envoy_log_info!("UDP relay {} is open now", address);
            } else {
                self.missing.insert(address, to);
            }
        }
        !self.missing.is_empty()
    }

    fn set_relay(&mut self, address: SocketAddr, to: &RelayTo, registry: &Registry) -> io::Result<()> {
        let relay = match self.relays.get(&address) {
            Some(relay) => *relay,
            None => {
                let (relay, _) = self.open(address, None, registry)?;
                self.relays.insert(address, relay);
                relay
            }
        };
        // Flows that are there keep their destination.
        if let Some(relay) = self.sockets.get_mut(relay) {
            relay.destinations.clone_from(&to.destinations);
            relay.name.clone_from(&to.name);
        }
        Ok(())
    }

    /// Where in the overlay is listened.
    pub(in crate::driver) fn listening(&self) -> Vec<Local> {
        self.listeners.keys().copied().collect()
    }

    /// A relay's socket, or that of a flow, connected to its listener.
    pub(super) fn open(
        &mut self,
        address: SocketAddr,
        flow: Option<(UdpFlowId, SocketAddr)>,
        registry: &Registry,
    ) -> io::Result<(usize, SocketAddr)> {
        let mut socket = UdpSocket::bind(address)?;
        enlarge_buffers(&socket);
        let state = UdpSocketState::new((&socket).into())?;
        allow_fragmentation(&socket, address.is_ipv6());
        if let Some((_, listener)) = flow {
            socket.connect(listener)?;
        }
        let address = socket.local_addr()?;
        let entry = self.sockets.vacant_entry();
        let key = entry.key();
        registry.register(&mut socket, Token(key | TOKEN_BIT), Interest::READABLE)?;
        entry.insert(Loopback {
            socket,
            state,
            flow: flow.map(|(flow, _)| flow),
            address,
            destinations: flow.map(|(_, listener)| listener).into_iter().collect(),
            next: 0,
            name: None,
        });
        Ok((key, address))
    }

    fn close_relay(&mut self, now: Instant, address: SocketAddr, stack: &mut Netstack) {
        let Some(relay) = self.relays.remove(&address) else { return };
        self.sockets.try_remove(relay);
        let flows = &mut self.flows;
        self.egress.retain(|(of, _), flow| {
            if *of == relay {
                stack.udp_release(now, *flow);
                flows.remove(flow);
            }
            *of != relay
        });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use crate::driver::STATUS_INTERVAL;
    use crate::driver::thread::tests::driver;
    use envoy_config::{Destination, UdpRelay};
    use std::net::{SocketAddr, UdpSocket};

    #[test]
    fn a_relay_whose_address_is_taken_is_opened_when_it_is_free() {
        let (mut driver, _poll) = driver("relay");
        let taken = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let relay = taken.local_addr().unwrap();
        let destination = SocketAddr::from(([100, 64, 0, 2], 53));
        let to = UdpRelay { relay, destination: Destination::Address(destination), addresses: None };
        driver.network.set_udp_relays(&[to]);
        let sleep = driver.turn().unwrap();
        assert!(sleep.is_some_and(|sleep| sleep <= STATUS_INTERVAL), "it is tried again");
        assert!(driver.udp.sockets.is_empty());
        drop(taken);
        driver.status_due = driver.clock.now();
        driver.turn().unwrap();
        let key = driver.udp.relays[&relay];
        assert_eq!(driver.udp.sockets[key].destinations, [destination]);
        assert!(driver.udp.missing.is_empty() && !driver.status_stale);
        assert_eq!(driver.udp_stats.socket_errors, 1);
    }

    #[test]
    fn a_socket_that_cannot_be_connected_does_not_stay() {
        let (mut driver, _poll) = driver("unconnected");
        let now = driver.clock.now();
        let flow = driver.stack.udp_connect(now, ([100, 64, 0, 2], 53).into()).unwrap();
        let broadcast = ([255, 255, 255, 255], 53).into();
        let registry = &driver.registry;
        assert!(driver.udp.open(([127, 0, 0, 1], 0).into(), Some((flow, broadcast)), registry).is_err());
        assert!(driver.udp.sockets.is_empty());
    }
}
