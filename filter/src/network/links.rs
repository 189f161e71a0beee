//! Connections on their way from the overlay into Envoy.

use super::lock;
use crate::ingress::IngressLink;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// By (overlay source, overlay destination).
#[derive(Default)]
pub(crate) struct Links(Mutex<HashMap<(SocketAddr, SocketAddr), Arc<IngressLink>>>);

impl Links {
    pub(crate) fn add(&self, source: SocketAddr, destination: SocketAddr, link: Arc<IngressLink>) {
        lock(&self.0).insert((source, destination), link);
    }

    pub(crate) fn get(&self, source: SocketAddr, destination: SocketAddr) -> Option<Arc<IngressLink>> {
        lock(&self.0).get(&(source, destination)).cloned()
    }

    /// Unless a new connection with the same addresses has taken its place: the socket of one that has ended may be open for a
    /// while.
    pub(crate) fn remove(&self, source: SocketAddr, destination: SocketAddr, link: &Arc<IngressLink>) {
        if let Entry::Occupied(there) = lock(&self.0).entry((source, destination))
            && Arc::ptr_eq(there.get(), link)
        {
            there.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_ends_late_leaves_the_next_one_its_link() {
        let (source, destination) = (([100, 64, 0, 2], 40000).into(), ([100, 64, 0, 1], 80).into());
        let (old, new) = (Arc::new(IngressLink::new(0, 1)), Arc::new(IngressLink::new(0, 2)));
        let links = Links::default();
        let is_there = |link| links.get(source, destination).is_some_and(|there| Arc::ptr_eq(&there, link));
        links.add(source, destination, old.clone());
        assert!(is_there(&old));
        links.add(source, destination, new.clone());
        links.remove(source, destination, &old);
        assert!(is_there(&new));
        links.remove(source, destination, &new);
        assert!(links.get(source, destination).is_none());
    }
}
