//! What clients of UDP listeners send, on its way from Envoy's workers to the network thread.

use super::{Network, Phase, lock};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What may wait: 100 ms of 400 Mbit/s in full packets, as in the receive buffers of sockets.
const MAX_BYTES: usize = 4 << 20;
const MAX_DATAGRAMS: usize = 16 * 1024;
/// What a burst leaves of the memory it took.
const KEPT_BYTES: usize = 256 << 10;

/// Whose a flow into the overlay is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    pub(crate) entrance: Entrance,
    pub(crate) address: SocketAddr,
}

/// Where clients' datagrams come in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entrance {
    /// The loopback address of a relay.
    Relay(SocketAddr),
    /// A listener of Envoy's with `nexodus.udp_egress`: the name of its route, and the address that the client has sent to, from
    /// which it wants its answers.
    Route { name: Arc<str>, local: SocketAddr },
}

/// Datagrams in the order of their arrival, and whose they are.
#[derive(Default)]
pub(crate) struct Inbound {
    heads: VecDeque<(Client, usize)>,
    bytes: Vec<u8>,
    /// What of `bytes` has been taken.
    taken: usize,
}

impl Inbound {
    /// False: there is no room.
    fn push<'a>(&mut self, client: Client, payload: impl Iterator<Item = &'a [u8]>) -> bool {
        if self.heads.len() >= MAX_DATAGRAMS || self.bytes.len() >= MAX_BYTES {
            return false;
        }
        let before = self.bytes.len();
        payload.for_each(|chunk| self.bytes.extend_from_slice(chunk));
        self.heads.push_back((client, self.bytes.len() - before));
        true
    }

    /// The next one, and what it carries.
    pub(crate) fn pop(&mut self) -> Option<(Client, &[u8])> {
        let Some((client, len)) = self.heads.pop_front() else {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
            self.taken = 0;
            return None;
        };
        let start = self.taken;
        self.taken += len;
        Some((client, self.bytes.get(start..self.taken)?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }
}

impl Network {
    /// Hands a datagram to the network thread; without room for it, or such a thread, it is counted and lost.
    pub(crate) fn datagram<'a>(&self, client: Client, payload: impl Iterator<Item = &'a [u8]>) {
        let is_up = !matches!(self.phase(), Phase::Stopped | Phase::Failed);
        // Nobody can be answered at port 0.
        if is_up && client.address.port() != 0 && lock(&self.inbound).push(client, payload) {
            self.first().wake();
        } else {
            self.inbound_refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Network thread: what waits, into a queue that has come to its end.
    pub(crate) fn take_datagrams(&self, into: &mut Inbound) {
        std::mem::swap(&mut *lock(&self.inbound), into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16) -> Client {
        let local = ([127, 0, 0, 1], 53).into();
        Client {
            entrance: Entrance::Route { name: "dns".into(), local },
            address: ([127, 0, 0, 1], port).into(),
        }
    }

    #[test]
    fn they_come_out_as_they_went_in() {
        let mut inbound = Inbound::default();
        assert!(inbound.push(client(1), [&b"of two "[..], b"chunks"].into_iter()));
        assert!(inbound.push(client(2), std::iter::empty()));
        assert!(inbound.push(client(1), std::iter::once(&b"last"[..])));
        for (port, expected) in [(1, &b"of two chunks"[..]), (2, b""), (1, b"last")] {
            assert_eq!(inbound.pop(), Some((client(port), expected)));
        }
        assert_eq!(inbound.pop(), None);
        assert!(inbound.push(client(3), std::iter::once(&b"again"[..])));
        assert_eq!(inbound.pop(), Some((client(3), &b"again"[..])));
    }

    #[test]
    fn what_waits_is_bounded() {
        for (len, most) in [(0, MAX_DATAGRAMS), (65_507, MAX_BYTES.div_ceil(65_507))] {
            let mut inbound = Inbound::default();
            let datagram = vec![0; len];
            let taken = (0..MAX_DATAGRAMS + 10)
                .filter(|_| inbound.push(client(1), std::iter::once(&datagram[..])))
                .count();
            assert_eq!(taken, most);
        }
    }
}
