//! One connection between the overlay and an Envoy listener: bytes and ends, both ways.

use crate::driver::proxy_protocol;
use crate::ingress::IngressLink;
use bytes::{Buf as _, Bytes};
use mio::event::Event as Ready;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use nexodus_netstack::{FlowId, Instant, Netstack};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

/// Bytes read from a socket at a time.
const CHUNK: usize = 64 * 1024;
/// Chunks of the netstack written to a socket at a time.
const CHUNKS: usize = 8;

/// See the module.
pub(super) struct Relay {
    pub(super) flow: FlowId,
    stream: UnixStream,
    pub(super) link: Arc<IngressLink>,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Tells it from an earlier one in the same place.
    pub(super) serial: u64,
    pub(super) phase: RelayPhase,
    /// Bytes from the overlay that the socket did not take yet; at first the PROXY header.
    pending: VecDeque<Bytes>,
    /// There may be something to read: the socket said so, and a read has not come back empty since.
    pub(super) readable: bool,
    /// It took less than it was given, and says when it takes more. Not otherwise: it would say so whenever Envoy reads.
    waits_to_write: bool,
    /// The overlay's stream has ended and everything before it is read.
    pub(super) overlay_finished: bool,
    /// The socket was told so.
    write_finished: bool,
    /// Bytes of Envoy's stream that were read.
    received: u64,
    /// Envoy's stream has ended.
    read_finished: bool,
    /// The system has said that nothing comes behind what is there: it will not say so again.
    ending: bool,
    /// Envoy has closed the socket, and not only ended its stream.
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RelayPhase {
    Open,
    /// The overlay side is gone by a reset; the socket waits to be closed as one.
    Resetting,
}

pub(super) enum Progress {
    Continue,
    /// Both directions have ended, or Envoy's has and it takes no more.
    Done,
    /// Envoy gave the connection up.
    Aborted,
}

impl Relay {
    /// `stream`: connected to Envoy's listener.
    pub(super) fn new(
        flow: FlowId,
        (source, destination): (SocketAddr, SocketAddr),
        stream: UnixStream,
        link: Arc<IngressLink>,
        serial: u64,
    ) -> Self {
        Self {
            flow,
            stream,
            link,
            source,
            destination,
            serial,
            phase: RelayPhase::Open,
            pending: VecDeque::from([Bytes::from(proxy_protocol::header(source, destination))]),
            readable: false,
            waits_to_write: false,
            overlay_finished: false,
            write_finished: false,
            received: 0,
            read_finished: false,
            ending: false,
            closed: false,
        }
    }

    /// What the system says about the socket.
    pub(super) fn ready(&mut self, event: &Ready) {
        self.ending |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || self.ending;
        self.closed |= event.is_write_closed();
    }

    /// Whether closing the socket is a reset, or will never be one: after Envoy's end of stream the filter can write no byte. (The one
    /// that came with it has not been read.)
    pub(super) fn closes_as_it_is(&self) -> bool {
        self.read_finished || unread_bytes(&self.stream).is_ok_and(|count| count > 0)
    }

    pub(super) fn pump(
        &mut self,
        now: Instant,
        stack: &mut Netstack,
        registered: (&Registry, Token),
    ) -> Progress {
        if self.feed_envoy(now, stack).and_then(|full| self.wait_to_write(full, registered)).is_err() {
            return Progress::Aborted;
        }
        match self.feed_overlay(now, stack) {
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

    fn feed_overlay(&mut self, now: Instant, stack: &mut Netstack) -> io::Result<Progress> {
        while self.readable && !self.read_finished {
            // Asked in this order: if the end is not known, the byte behind it is not among those that are there.
            let there = unread_bytes(&self.stream)?;
            let end = self.link.ends_at();
            let count = end.map_or(there, |end| there.min(end.saturating_sub(self.received)));
            if count == 0 {
                if self.look_for_the_end()? {
                    self.read_finished = true;
                    stack.finish(now, self.flow);
                }
                continue;
            }
            // What is not read stays in the socket: its buffer fills, and Envoy stops reading from the destination.
            let room = stack.send_capacity(self.flow).min(CHUNK);
            if room == 0 {
                // The netstack tells when it has room again.
                stack.send(now, self.flow, &[]);
                return Ok(Progress::Continue);
            }
            let mut bytes = vec![0; room.min(usize::try_from(count).unwrap_or(CHUNK))];
            let read = match rustix::io::read(&self.stream, &mut bytes[..]) {
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            bytes.truncate(read);
            self.received += read as u64;
            // What has come since is told by the system (edge-triggered), but not what it has told with these bytes.
            self.readable = self.ending || end.is_some() || (read as u64) < there;
            let taken = if read >= room / 2 {
                // Mostly full: it goes as it is.
                stack.send_chunk(now, self.flow, &mut Bytes::from(bytes).into())
            } else {
                stack.send(now, self.flow, &bytes)
            };
            if taken < read {
                // Cannot be: there was room. A stream with a gap must not look whole.
                return Ok(Progress::Aborted);
            }
        }
        Ok(Progress::Continue)
    }

    /// Everything that is known to be of Envoy's stream has been read: whether it was all. An end before that is an error.
    fn look_for_the_end(&mut self) -> io::Result<bool> {
        match rustix::net::recv(&self.stream, &mut [0], RecvFlags::PEEK) {
            Ok((_, count)) => {
                let is_end = self.link.ends_at() == Some(self.received);
                if count == 0 && !is_end { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(is_end) }
            }
            Err(Errno::WOULDBLOCK) => {
                self.readable = false;
                Ok(false)
            }
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Both directions have ended in order: closing the socket is to be no reset.
    pub(super) fn take_reset_byte(&self) {
        // If there is none, nothing is lost.
        let _ = rustix::net::recv(&self.stream, &mut [0], RecvFlags::empty());
    }
}

fn unread_bytes(stream: &UnixStream) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(stream)?)
}
