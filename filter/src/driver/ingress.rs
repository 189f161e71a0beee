//! Ingress flows on the network thread: an accepted overlay connection is relayed to the Unix socket of its Envoy
//! listener. A SYN is answered only when that socket took the connection, so a port without a working listener
//! looks closed.

use super::{Driver, FIRST_RELAY, Owner, proxy_protocol};
use crate::ingress::IngressLink;
use crate::network::{self, Links};
use bytes::{Buf as _, Bytes};
use mio::event::Event as Ready;
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Registry, Token};
use nexodus_netstack::{CloseReason, Event, FlowId, Instant, Local, Netstack};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use slab::Slab;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Bytes read from a socket at a time.
const CHUNK: usize = 64 * 1024;
/// Chunks of the netstack written to a socket at a time.
const CHUNKS: usize = 8;
/// How long a reset waits for the byte that makes closing the socket one (see `crate::ingress`).
const RESET_LIMIT: Duration = Duration::from_secs(1);

pub(super) type RelayId = usize;

/// All relays of a network.
pub(super) struct Relays {
    relays: Slab<Relay>,
    /// Where the next bytes from a socket go.
    buffer: Vec<u8>,
    listeners: BTreeMap<Local, PathBuf>,
    /// Relays whose socket reported something.
    ready: Vec<RelayId>,
    /// Relays that wait for [`RESET_LIMIT`], oldest first.
    resetting: VecDeque<(Instant, RelayId, u64)>,
    /// Tells a relay from an earlier one in the same place.
    made: u64,
}

struct Relay {
    flow: FlowId,
    stream: UnixStream,
    link: Arc<IngressLink>,
    source: SocketAddr,
    destination: SocketAddr,
    serial: u64,
    phase: RelayPhase,
    /// Bytes from the overlay that the socket did not take yet; at first the PROXY header.
    pending: VecDeque<Bytes>,
    /// There may be something to read: the socket said so, and a read has not come back empty since.
    readable: bool,
    /// It took less than it was given, and says when it takes more. Not otherwise: it would say so whenever Envoy reads.
    waits_to_write: bool,
    /// The overlay's stream has ended and everything before it is read.
    overlay_finished: bool,
    /// The socket was told so.
    write_finished: bool,
    /// Envoy's stream has ended.
    read_finished: bool,
    /// Envoy has closed the socket, and not only ended its stream.
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RelayPhase {
    Open,
    /// The overlay side is gone by a reset; the socket waits to be closed as one.
    Resetting,
}

enum Progress {
    Continue,
    /// Both directions have ended, or Envoy's has and it takes no more.
    Done,
    /// Envoy gave the connection up.
    Aborted,
}

impl Default for Relays {
    fn default() -> Self {
        Self {
            relays: Slab::new(),
            buffer: Vec::new(),
            listeners: BTreeMap::new(),
            ready: Vec::new(),
            resetting: VecDeque::new(),
            made: 0,
        }
    }
}

impl Relays {
    pub(super) fn set_listeners(&mut self, listeners: BTreeMap<Local, PathBuf>) {
        self.listeners = listeners;
    }

    pub(super) fn ready(&mut self, id: RelayId, event: &Ready) {
        if let Some(relay) = self.relays.get_mut(id) {
            relay.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            relay.closed |= event.is_write_closed();
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
        // After Envoy's end of stream the filter can write no byte.
        if relay.read_finished || has_unread_bytes(&relay.stream) {
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
        let id = self.relays.relays.insert(Relay {
            flow,
            stream,
            link,
            source: remote,
            destination: local,
            serial: self.relays.made,
            phase: RelayPhase::Open,
            pending: VecDeque::from([Bytes::from(proxy_protocol::header(remote, local))]),
            readable: false,
            waits_to_write: false,
            overlay_finished: false,
            write_finished: false,
            read_finished: false,
            closed: false,
        });
        Ok(id)
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
        match relay.pump(now, &mut self.stack, &mut self.relays.buffer, (&self.registry, token(id))) {
            Progress::Continue => {}
            Progress::Done => {
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

impl Relay {
    fn pump(
        &mut self,
        now: Instant,
        stack: &mut Netstack,
        buffer: &mut Vec<u8>,
        registered: (&Registry, Token),
    ) -> Progress {
        if self.feed_envoy(now, stack).and_then(|full| self.wait_to_write(full, registered)).is_err() {
            return Progress::Aborted;
        }
        match self.feed_overlay(now, stack, buffer) {
            // The overlay's stream may go on for ever, and nobody is there to take it.
            Ok(Progress::Continue) if self.read_finished && (self.write_finished || self.closed) => {
                Progress::Done
            }
            Ok(progress) => progress,
            Err(_) => Progress::Aborted,
        }
    }

    /// Has the socket say when it takes bytes again, or say so no more.
    fn wait_to_write(&mut self, wait: bool, (registry, token): (&Registry, Token)) -> io::Result<()> {
        if wait != self.waits_to_write {
            let interest = if wait { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            registry.reregister(&mut self.stream, token, interest)?;
            self.waits_to_write = wait;
        }
        Ok(())
    }

    /// Whether the socket is full.
    fn feed_envoy(&mut self, now: Instant, stack: &mut Netstack) -> io::Result<bool> {
        loop {
            while self.pending.len() < CHUNKS {
                let chunk = stack.recv_chunk(now, self.flow);
                if chunk.is_empty() {
                    break;
                }
                self.pending.push_back(chunk);
            }
            if self.pending.is_empty() {
                // An idle relay holds nothing.
                self.pending = VecDeque::new();
                break;
            }
            let chunks: [_; CHUNKS] =
                std::array::from_fn(|n| IoSlice::new(self.pending.get(n).map_or(&[], |chunk| chunk)));
            match self.stream.write_vectored(&chunks) {
                Ok(count) => self.written(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.overlay_finished && !self.write_finished && self.link.may_end() {
            self.write_finished = true;
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(false)
    }

    fn written(&mut self, mut count: usize) {
        while let Some(chunk) = self.pending.front_mut() {
            let some = chunk.len().min(count);
            chunk.advance(some);
            count -= some;
            if !chunk.is_empty() {
                break;
            }
            self.pending.pop_front();
        }
    }

    fn feed_overlay(
        &mut self,
        now: Instant,
        stack: &mut Netstack,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Progress> {
        while self.readable && !self.read_finished {
            // What is not read stays in the socket: its buffer fills, and Envoy stops reading from the destination.
            let room = stack.send_capacity(self.flow).min(CHUNK);
            if room == 0 {
                // The netstack tells when it has room again.
                stack.send(now, self.flow, &[]);
                return Ok(Progress::Continue);
            }
            buffer.clear();
            if buffer.capacity() != room {
                *buffer = Vec::with_capacity(room);
            }
            match rustix::io::read(&self.stream, spare_capacity(buffer)) {
                Ok(0) if self.link.finishing() => {
                    self.read_finished = true;
                    stack.finish(now, self.flow);
                    return Ok(Progress::Continue);
                }
                Ok(0) => return Ok(Progress::Aborted),
                Ok(count) => {
                    let taken = if count >= room / 2 {
                        // Mostly full: it goes as it is.
                        stack.send_chunk(now, self.flow, &mut Bytes::from(std::mem::take(buffer)).into())
                    } else {
                        stack.send(now, self.flow, buffer)
                    };
                    if taken < count {
                        // Cannot be: there was room. A stream with a gap must not look whole.
                        return Ok(Progress::Aborted);
                    }
                }
                Err(Errno::WOULDBLOCK) => self.readable = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Progress::Continue)
    }
}

fn token(id: RelayId) -> Token {
    Token(FIRST_RELAY + id)
}

fn has_unread_bytes(stream: &UnixStream) -> bool {
    rustix::io::ioctl_fionread(stream).is_ok_and(|count| count > 0)
}
