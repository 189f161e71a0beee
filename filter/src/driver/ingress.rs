//! Ingress flows on the network thread: an accepted overlay connection is relayed to the Unix socket of its Envoy
//! listener. A SYN is answered only when that socket took the connection, so a port without a working listener
//! looks closed.

mod relay;

use super::{Driver, FIRST_RELAY, Owner};
use crate::ingress::IngressLink;
use crate::network::{self, Links};
use mio::event::Event as Ready;
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};
use nexodus_netstack::{CloseReason, Event, FlowId, Instant, Local};
use relay::{Progress, Relay, RelayPhase};
use slab::Slab;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a reset waits for the byte that makes closing the socket one (see `crate::ingress`).
const RESET_LIMIT: Duration = Duration::from_secs(1);

pub(super) type RelayId = usize;

/// All relays of a network.
#[derive(Default)]
pub(super) struct Relays {
    relays: Slab<Relay>,
    listeners: BTreeMap<Local, PathBuf>,
    /// Relays whose socket reported something.
    ready: Vec<RelayId>,
    /// Relays that wait for [`RESET_LIMIT`], oldest first.
    resetting: VecDeque<(Instant, RelayId, u64)>,
    made: u64,
}

impl Relays {
    pub(super) fn set_listeners(&mut self, listeners: BTreeMap<Local, PathBuf>) {
        self.listeners = listeners;
    }

    pub(super) fn ready(&mut self, id: RelayId, event: &Ready) {
        if let Some(relay) = self.relays.get_mut(id) {
            relay.ready(event);
            self.ready.push(id);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.resetting.front().map(|(deadline, ..)| *deadline)
    }

    /// Closes the socket and forgets the relay.
    pub(super) fn remove(&mut self, relay: RelayId, links: &Links) {
        if let Some(relay) = self.relays.try_remove(relay) {
            links.remove(relay.source, relay.destination, &relay.link);
        }
    }

    /// Has Envoy see that the connection was reset.
    fn reset(&mut self, now: Instant, id: RelayId, links: &Links) {
        let Some(relay) = self.relays.get_mut(id) else { return };
        if relay.closes_as_it_is() {
            self.remove(id, links);
        } else {
            relay.phase = RelayPhase::Resetting;
            relay.readable = false;
            self.resetting.push_back((now + RESET_LIMIT, id, relay.serial));
            relay.link.want_reset();
        }
    }
}

impl Driver {
    /// A SYN for a listening port.
    pub(super) fn incoming(&mut self, now: Instant, flow: FlowId, local: SocketAddr, remote: SocketAddr) {
        match self.relay(flow, local, remote) {
            Ok(relay) => {
                self.owners.insert(flow, Owner::Ingress(relay));
                self.stack.accept(now, flow);
                // The PROXY header: Envoy sets its side up while the answer is on its way.
                self.pump(now, relay);
            }
            Err(_) => {
                // No listener, or one that is being removed: the port is closed.
                self.stats.ingress_refused += 1;
                self.stack.reject(now, flow);
            }
        }
    }

    fn relay(&mut self, flow: FlowId, local: SocketAddr, remote: SocketAddr) -> io::Result<RelayId> {
        let path = network::listener(&self.relays.listeners, local).ok_or(ErrorKind::NotFound)?;
        let link = Arc::new(IngressLink::new(self.shard.index, self.relays.relays.vacant_key()));
        // Before the connection exists: Envoy may look for it at once.
        self.network.links.add(remote, local, link.clone());
        let stream = UnixStream::connect(path).and_then(|mut stream| {
            let token = token(self.relays.relays.vacant_key());
            self.registry.register(&mut stream, token, Interest::READABLE)?;
            Ok(stream)
        });
        let stream = stream.inspect_err(|_| self.network.links.remove(remote, local, &link))?;
        self.relays.made += 1;
        let relay = Relay::new(flow, (remote, local), stream, link, self.relays.made);
        Ok(self.relays.relays.insert(relay))
    }

    /// Serves the relays whose sockets reported something, and those whose time is over.
    pub(super) fn serve_relays(&mut self, now: Instant) {
        self.relays.ready.extend(self.shard.take_attached());
        for relay in std::mem::take(&mut self.relays.ready) {
            self.pump(now, relay);
        }
        while let Some(&(deadline, relay, serial)) = self.relays.resetting.front() {
            if deadline > now {
                break;
            }
            self.relays.resetting.pop_front();
            if self.relays.relays.get(relay).is_some_and(|relay| relay.serial == serial) {
                self.relays.remove(relay, &self.network.links);
            }
        }
    }

    pub(super) fn relay_event(&mut self, now: Instant, relay: RelayId, event: Event) {
        if matches!(event, Event::Finished { .. })
            && let Some(relay) = self.relays.relays.get_mut(relay)
        {
            relay.overlay_finished = true;
        }
        self.pump(now, relay);
    }

    /// The netstack has ended the flow.
    pub(super) fn relay_closed(&mut self, now: Instant, id: RelayId, reason: CloseReason) {
        if reason == CloseReason::Done {
            // The socket may not have taken every byte yet; the relay ends when it has.
            self.pump(now, id);
            return;
        }
        self.stats.overlay_resets += 1;
        self.relays.reset(now, id, &self.network.links);
    }

    /// The network has ended: has Envoy see a reset of every connection that has not. It would take a mere end for that of the
    /// stream, and what a peer has sent so far for everything. Waits for Envoy's workers, [`RESET_LIMIT`] at most, and does
    /// not ask the netstack.
    pub(super) fn reset_relays(&mut self, poll: &mut Poll) {
        let mut now = self.clock.now();
        let all: Vec<RelayId> = self.relays.relays.iter().map(|(id, _)| id).collect();
        for id in all {
            self.relays.reset(now, id, &self.network.links);
        }
        let mut events = Events::with_capacity(1024);
        while !self.relays.relays.is_empty()
            && let Some(deadline) = self.relays.deadline()
        {
            match poll.poll(&mut events, Some(deadline.saturating_since(now))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return,
                _ => {}
            }
            self.ready(&events);
            now = self.clock.now();
            self.serve_relays(now);
        }
    }

    fn pump(&mut self, now: Instant, id: RelayId) {
        let Some(relay) = self.relays.relays.get_mut(id) else { return };
        if relay.phase == RelayPhase::Resetting {
            // The byte has come, or Envoy closed by itself.
            if relay.readable {
                self.relays.remove(id, &self.network.links);
            }
            return;
        }
        let flow = relay.flow;
        match relay.pump(now, &mut self.stack, (&self.registry, token(id))) {
            Progress::Continue => {}
            Progress::Done => {
                relay.take_reset_byte();
                self.owners.remove(&flow);
                self.stack.release(now, flow);
                self.relays.remove(id, &self.network.links);
            }
            Progress::Aborted => {
                self.stats.resets_out += 1;
                self.owners.remove(&flow);
                self.stack.abort(now, flow);
                self.relays.remove(id, &self.network.links);
            }
        }
    }
}

fn token(id: RelayId) -> Token {
    Token(FIRST_RELAY + id)
}
