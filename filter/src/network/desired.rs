//! What the configuration asks of a network: Envoy's callbacks say it, the network thread reads it when it runs.

use super::{Network, Shard, lock, placement};
use envoy_config::{Peer, PublicKey, UdpDestination, UdpRelay, UdpRoute};
use nexodus_netstack::Local;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

/// What the configuration asks for, at present.
#[derive(Clone, Default)]
pub(crate) struct Desired {
    /// Each with the number of its shard. Another one when they have changed.
    pub(crate) peers: Arc<Vec<Placed>>,
    /// Where in the overlay to listen for TCP, and the Unix socket of the Envoy listener.
    pub(crate) listeners: Generations<PathBuf>,
    /// Loopback addresses, and the overlay destination that each stands for.
    pub(crate) udp_relays: Arc<BTreeMap<SocketAddr, UdpDestination>>,
    /// Where the clients of UDP listeners get to, by the name of the route.
    pub(crate) udp_routes: Arc<BTreeMap<Arc<str>, Vec<UdpDestination>>>,
    /// The routes that listeners have, and how many of their configurations.
    pub(crate) udp_entrances: BTreeMap<Arc<str>, usize>,
    /// The same for UDP, and the loopback address of the Envoy listener.
    pub(crate) udp_listeners: Generations<SocketAddr>,
}

/// A peer, and the number of the shard that has it.
pub(crate) type Placed = (Peer, usize);

impl Network {
    /// Replaces the peers.
    ///
    /// # Errors
    /// [`OwnPeer`], and nothing is changed.
    pub(crate) fn set_peers(&self, peers: Vec<Peer>) -> Result<(), OwnPeer> {
        if peers.iter().any(|peer| peer.public_key == self.public_key) {
            return Err(OwnPeer { public_key: self.public_key, network: self.name.clone() });
        }
        let mut desired = lock(&self.desired);
        let peers = lock(&self.placement).place(peers, self.shards.len());
        // Whoever goes by the new routes finds threads that know of the change.
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        *routes = placement::routes(&peers);
        desired.peers = Arc::new(peers);
        drop(desired);
        self.changed();
        drop(routes);
        Ok(())
    }

    /// The peers, each with the number of its shard.
    pub(crate) fn peers(&self) -> Arc<Vec<Placed>> {
        lock(&self.desired).peers.clone()
    }

    /// What a listener's configuration names, which is one of this network's own addresses or none.
    pub(crate) fn local(&self, address: Option<IpAddr>, port: u16) -> Result<Local, ForeignAddress> {
        match address {
            Some(address) if !self.addresses.contains(&address) => {
                let own: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
                Err(ForeignAddress { address, network: self.name.clone(), own: own.join(", ") })
            }
            _ => Ok(Local { address, port }),
        }
    }

    /// `socket` stands for `local`, until [`Self::remove_listener`] with the same `generation`.
    pub(crate) fn set_listener(&self, local: Local, socket: PathBuf, generation: u64) {
        lock(&self.desired).listeners.insert(local, generation, socket);
        self.changed();
    }

    pub(crate) fn remove_listener(&self, local: Local, generation: u64) {
        lock(&self.desired).listeners.remove(local, generation);
        self.changed();
    }

    /// Replaces where clients' datagrams go.
    pub(crate) fn set_udp_destinations(&self, routes: Vec<UdpRoute>, relays: Vec<UdpRelay>) {
        let routes = routes.into_iter().map(|route| (route.name.into(), route.destinations)).collect();
        let relays = relays.into_iter().map(|relay| {
            let UdpRelay { relay, destination, addresses } = relay;
            (relay, UdpDestination { destination, addresses, weight: 1 })
        });
        let relays = relays.collect();
        let mut desired = lock(&self.desired);
        (desired.udp_routes, desired.udp_relays) = (Arc::new(routes), Arc::new(relays));
        drop(desired);
        self.changed();
    }

    /// A listener leads to this route, until [`Self::close_udp_entrance`].
    pub(crate) fn open_udp_entrance(&self, route: &Arc<str>) {
        *lock(&self.desired).udp_entrances.entry(route.clone()).or_default() += 1;
        self.changed();
    }

    pub(crate) fn close_udp_entrance(&self, route: &Arc<str>) {
        if let Entry::Occupied(mut held) = lock(&self.desired).udp_entrances.entry(route.clone()) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        self.changed();
    }

    pub(crate) fn set_udp_listener(&self, local: Local, listener: SocketAddr, generation: u64) {
        lock(&self.desired).udp_listeners.insert(local, generation, listener);
        self.changed();
    }

    pub(crate) fn remove_udp_listener(&self, local: Local, generation: u64) {
        lock(&self.desired).udp_listeners.remove(local, generation);
        self.changed();
    }

    pub(super) fn changed(&self) {
        self.shards().iter().for_each(|shard| shard.changed());
    }

    /// Network thread: the configuration, when it changed since its last call.
    pub(crate) fn take_changes(&self, shard: &Shard) -> Option<Desired> {
        shard.take_changed().then(|| lock(&self.desired).clone())
    }
}

/// What the configurations that Envoy holds say of each local address, by their generation. The newest counts, and not for ever:
/// Envoy also withdraws one that never became active, and then that before it is still the active one.
#[derive(Clone)]
pub(crate) struct Generations<V>(BTreeMap<Local, BTreeMap<u64, V>>);

impl<V> Default for Generations<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V: Clone> Generations<V> {
    fn insert(&mut self, local: Local, generation: u64, value: V) {
        self.0.entry(local).or_default().insert(generation, value);
    }

    fn remove(&mut self, local: Local, generation: u64) {
        if let Entry::Occupied(mut held) = self.0.entry(local) {
            held.get_mut().remove(&generation);
            if held.get().is_empty() {
                held.remove();
            }
        }
    }

    /// What counts for each local address.
    pub(crate) fn newest(&self) -> BTreeMap<Local, V> {
        let newest =
            |(local, held): (&Local, &BTreeMap<u64, V>)| Some((*local, held.values().next_back()?.clone()));
        self.0.iter().filter_map(newest).collect()
    }
}

/// Of what is listened on, what stands for a local address and port: one address comes before all.
pub(crate) fn listener<V>(listeners: &BTreeMap<Local, V>, local: SocketAddr) -> Option<&V> {
    listeners.get(&local.into()).or_else(|| listeners.get(&local.port().into()))
}

/// A list of peers has the node itself in it.
#[derive(Debug, thiserror::Error)]
#[error("peer {public_key} is the node itself in network {network:?}: leave it out of the list")]
pub(crate) struct OwnPeer {
    public_key: PublicKey,
    network: String,
}

/// A listener's configuration names an address that nothing in the overlay arrives at.
#[derive(Debug, thiserror::Error)]
#[error(
    "address {address} is not one of network {network:?}, which has {own}: name one of these, or none for all"
)]
pub(crate) struct ForeignAddress {
    address: IpAddr,
    network: String,
    own: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_configuration_that_envoy_holds_counts() {
        let (http, https) = (Local { address: None, port: 80 }, Local { address: None, port: 443 });
        let mut listeners = Generations::default();
        listeners.insert(http, 1, "active");
        listeners.insert(https, 2, "another port");
        listeners.insert(http, 3, "withdrawn before it is active");
        assert_eq!(listeners.newest()[&http], "withdrawn before it is active");
        listeners.remove(http, 3);
        assert_eq!(listeners.newest(), BTreeMap::from([(http, "active"), (https, "another port")]));
        listeners.insert(http, 4, "replaces the active one");
        listeners.remove(http, 1);
        assert_eq!(listeners.newest()[&http], "replaces the active one");
        listeners.remove(http, 4);
        listeners.remove(http, 4);
        assert_eq!(listeners.newest(), BTreeMap::from([(https, "another port")]));
    }
}
