//! The TCP engine: segments in, segments out, stream bytes, deadlines. smoltcp is behind this file and `port`,
//! and nowhere else.
//!
//! smoltcp looks at every socket of a set for every packet, so each flow has a set of its own with one socket; all share
//! one `Interface`. Cost per packet is then flat in the number of flows.

use smoltcp::iface::{Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpEndpoint};

use super::port::Port;
use super::segment::{self, Segment, Tuple};
use crate::ip::Packet;
use crate::{Instant, Limits};

/// What all engines of a stack share.
pub(super) struct Shared {
    interface: Interface,
    mtu: usize,
}

impl Shared {
    pub(super) fn new(now: Instant, seed: u64, mtu: u16) -> Self {
        let mtu = usize::from(mtu);
        let mut config = smoltcp::iface::Config::new(HardwareAddress::Ip);
        // Initial sequence numbers come from here.
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut Port::closed(mtu), smol(now));
        // The stack has checked the destination before a packet gets here.
        interface.set_any_ip(true);
        Self { interface, mtu }
    }
}

/// Where a flow is in its life, as far as its owner can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// SYN_SENT, SYN_RECEIVED.
    Opening,
    /// ESTABLISHED to LAST_ACK.
    Open,
    /// Both FINs are exchanged and ours is acknowledged; the tuple has to rest.
    TimeWait,
    /// Nothing more comes or goes.
    Closed,
}

/// One flow's TCP.
pub(super) struct Engine {
    set: SocketSet<'static>,
    handle: SocketHandle,
    /// `finish` was asked for, smoltcp was not told yet: it would forget the SYN.
    finish_wanted: bool,
    /// The last segment we sent was a SYN: smoltcp then takes its unscaled window for a scaled one.
    last_sent_syn: bool,
    peer_finished: bool,
    /// Initial sequence numbers, ours and the peer's.
    iss: u32,
    irs: u32,
    /// The end of the last segment sent.
    sent_end: u32,
    /// The highest sequence number sent.
    sent_max: u32,
    /// The same, with the byte that probes a closed window.
    probed_max: u32,
    /// When, how long and with which header the last segment went out.
    last_sent: Option<(Instant, usize, [u8; 16])>,
    /// The peer's last segment announced no window.
    window_closed: bool,
    /// Stream bytes taken from the owner and given to the owner.
    enqueued: u64,
    dequeued: u64,
}

impl Engine {
    /// An active open.
    pub(super) fn connect(shared: &mut Shared, tuple: Tuple, limits: &Limits) -> Option<Self> {
        let mut engine = Self::new(limits);
        let remote = IpEndpoint::new(tuple.remote.ip().into(), tuple.remote.port());
        let local = IpEndpoint::new(tuple.local.ip().into(), tuple.local.port());
        let socket = engine.set.get_mut::<Socket<'_>>(engine.handle);
        socket.connect(shared.interface.context(), remote, local).ok()?;
        Some(engine)
    }

    /// A passive open: the answer to a SYN that `receive` is given next.
    pub(super) fn listen(tuple: Tuple, limits: &Limits) -> Option<Self> {
        let mut engine = Self::new(limits);
        let local = IpEndpoint::new(tuple.local.ip().into(), tuple.local.port());
        engine.socket_mut().listen(local).ok()?;
        Some(engine)
    }

    fn new(limits: &Limits) -> Self {
        // Zeroed memory of this size comes lazily from the operating system: untouched pages cost nothing.
        let recv = SocketBuffer::new(vec![0; limits.flow_recv_buffer]);
        let send = SocketBuffer::new(vec![0; limits.flow_send_buffer]);
        let mut socket = Socket::new(recv, send);
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_timeout(Some(limits.user_timeout.into()));
        // Set before the SYN: set later, smoltcp would probe at once.
        socket.set_keep_alive(Some(limits.keepalive.into()));
        let mut set = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = set.add(socket);
        Self {
            set,
            handle,
            finish_wanted: false,
            last_sent_syn: false,
            peer_finished: false,
            iss: 0,
            irs: 0,
            sent_end: 0,
            sent_max: 0,
            probed_max: 0,
            last_sent: None,
            window_closed: false,
            enqueued: 0,
            dequeued: 0,
        }
    }

    /// Takes a segment of this flow; an answer that cannot wait for `transmit` goes into `reply`.
    pub(super) fn receive(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        packet: &Packet<'_>,
        segment: &Segment,
        reply: &mut Vec<u8>,
    ) {
        let opening = self.phase() == Phase::Opening || self.socket().state() == State::Listen;
        if self.socket().state() == State::SynSent && segment.opens() {
            // A simultaneous open: two ephemeral ports never call each other.
            return;
        }
        if opening && segment.is_syn() {
            self.irs = segment.seq;
        }
        if self.last_sent_syn && !segment.is_syn() && !self.fits(segment) {
            return;
        }
        if self.phase() == Phase::Open && segment.is_ack() && is_after(segment.ack, self.probed_max) {
            // smoltcp would believe an acknowledgement of bytes, or of a FIN, that were never sent.
            return;
        }
        // With our FIN acknowledged smoltcp never stops a zero window probe, and sends it without end. Nothing is left to
        // probe for, so it is told of a window.
        let mut opened = Vec::new();
        if self.finish_wanted && segment.window == 0 && segment.is_ack() && segment.ack == self.snd_nxt() {
            opened.extend_from_slice(packet.bytes);
            segment::set_window(&mut opened, 1);
        }
        let bytes = if opened.is_empty() { packet.bytes } else { &opened };
        self.take_acknowledgement(shared, now, packet, segment, reply);
        let mut port = Port { rx: Some(bytes), tx: Some(reply), mtu: shared.mtu };
        shared.interface.poll_ingress_single(smol(now), &mut port, &mut self.set);
        self.window_closed = segment.window == 0;
        let acknowledged = self.enqueued - self.unacknowledged() as u64;
        self.raise_sent_max(Self::stream_end(self.iss, acknowledged));
        if !reply.is_empty() {
            self.sent(reply);
        }
        self.peer_finished |= matches!(
            self.socket().state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        self.finish_if_open();
    }

    /// Has smoltcp take the acknowledgement of a segment whose sequence numbers it is going to refuse.
    ///
    /// smoltcp drops such a segment whole. RFC 9293 (section 3.10.7.4) asks for as much, but smoltcp also takes its
    /// window back: the edge it announces is rounded down to the window scale, every time anew. So a peer that has
    /// filled the window stands a few bytes beyond it, each of its segments is refused, and when both directions are
    /// full neither end learns of an acknowledgement again. Like Linux, this takes what lies within a window's
    /// distance.
    fn take_acknowledgement(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        packet: &Packet<'_>,
        segment: &Segment,
        reply: &mut Vec<u8>,
    ) {
        let expected = self.rcv_nxt();
        let distance = segment.seq.wrapping_sub(expected).cast_signed();
        let reach = i32::try_from(self.socket().recv_capacity()).unwrap_or(i32::MAX);
        // A keepalive probe stands one before what is expected, and wants its answer.
        let refused = !(-1..=0).contains(&distance);
        if self.phase() != Phase::Open || !refused || distance.abs() > reach || !segment.is_plain() {
            return;
        }
        // With a payload it is no duplicate acknowledgement (RFC 5681, section 2), so only news is taken.
        let acknowledged = Self::stream_end(self.iss, self.enqueued - self.unacknowledged() as u64);
        let news = is_after(segment.ack, acknowledged) || (self.window_closed && segment.window > 0);
        if segment.payload_len > 0 && !news {
            return;
        }
        let acknowledgement = segment::acknowledgement_in(packet, segment, expected);
        let mut port = Port { rx: Some(&acknowledgement), tx: Some(reply), mtu: shared.mtu };
        shared.interface.poll_ingress_single(smol(now), &mut port, &mut self.set);
    }

    /// Whether the payload lies within the receive buffer. smoltcp would panic otherwise, until it has sent a window
    /// that is not a SYN's.
    fn fits(&self, segment: &Segment) -> bool {
        let beyond = segment.seq.wrapping_add(segment.payload_len).wrapping_sub(self.rcv_nxt());
        let free = self.socket().recv_capacity() - self.socket().recv_queue();
        beyond.cast_signed() <= i32::try_from(free).unwrap_or(i32::MAX)
    }

    /// Writes the next segment into `out`. False: nothing to send (now). Without `out` only timers run.
    pub(super) fn transmit(&mut self, shared: &mut Shared, now: Instant, out: Option<&mut Vec<u8>>) -> bool {
        self.finish_if_open();
        let opening = self.phase() == Phase::Opening;
        // Nagle while full segments are waiting (smoltcp cuts small ones off a bulk transfer otherwise), off for the
        // rest, which is a message's end.
        let bulk = self.waiting() >= shared.mtu;
        self.socket_mut().set_nagle_enabled(bulk);
        let Some(out) = out else {
            let mut port = Port::closed(shared.mtu);
            shared.interface.poll_egress(smol(now), &mut port, &mut self.set);
            return false;
        };
        out.clear();
        let mut port = Port { rx: None, tx: Some(out), mtu: shared.mtu };
        shared.interface.poll_egress(smol(now), &mut port, &mut self.set);
        if out.is_empty() {
            return false;
        }
        if opening && self.phase() == Phase::Closed {
            // smoltcp sends RST when a SYN was not answered in time; nobody is there to read it.
            out.clear();
            return false;
        }
        self.sent(out);
        if self.repeats(now, out) {
            out.clear();
            return false;
        }
        true
    }

    /// Whether the segment is the one before once more, at the same instant: the last defence against an engine that
    /// sends the same thing without end.
    fn repeats(&mut self, now: Instant, packet: &[u8]) -> bool {
        let header: Option<[u8; 16]> =
            Packet::parse(packet).ok().and_then(|packet| packet.payload.first_chunk().copied());
        let this = Some((now, packet.len(), header.unwrap_or_default()));
        std::mem::replace(&mut self.last_sent, this) == this
    }

    /// Notes what a segment of ours tells, and mends it.
    ///
    /// After a retransmission timeout smoltcp forgets what it has sent, and puts the start of the retransmission into
    /// empty acknowledgements too. The peer finds that outside of its window and drops it, acknowledgement and all; when
    /// both ends are at it, neither learns anything any more. Such a segment gets the highest sequence number sent.
    fn sent(&mut self, packet: &mut [u8]) {
        let Some(segment) = Packet::parse(packet).ok().and_then(|packet| Segment::parse(packet.payload))
        else {
            return;
        };
        self.last_sent_syn = segment.is_syn();
        if segment.is_syn() {
            self.iss = segment.seq;
            self.sent_max = segment.end();
            self.probed_max = segment.end();
        }
        if segment.is_bare_ack() {
            if segment.seq != self.sent_max {
                segment::set_seq(packet, self.sent_max);
            }
            return;
        }
        // smoltcp does not count the byte that probes a closed window as sent.
        if !(self.window_closed && segment.payload_len == 1) {
            self.sent_end = segment.end();
            self.raise_sent_max(segment.end());
        } else if is_after(segment.end(), self.probed_max) {
            self.probed_max = segment.end();
        }
    }

    fn raise_sent_max(&mut self, end: u32) {
        if is_after(end, self.sent_max) {
            self.sent_max = end;
        }
        if is_after(end, self.probed_max) {
            self.probed_max = end;
        }
    }

    pub(super) fn send(&mut self, data: &[u8]) -> usize {
        if self.finish_wanted {
            return 0;
        }
        let taken = self.socket_mut().send_slice(data).unwrap_or(0);
        self.enqueued += taken as u64;
        taken
    }

    pub(super) fn send_room(&self) -> usize {
        let socket = self.socket();
        if self.finish_wanted || !socket.may_send() {
            0
        } else {
            socket.send_capacity() - socket.send_queue()
        }
    }

    pub(super) fn send_buffer(&self) -> usize {
        self.socket().send_capacity()
    }

    /// Bytes that the peer has not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.socket().send_queue()
    }

    /// Bytes that were never sent.
    fn waiting(&self) -> usize {
        let end = Self::stream_end(self.iss, self.enqueued);
        let waiting = end.wrapping_sub(self.sent_end) as usize;
        // After a retransmission the arithmetic can be off; it steers only the size of segments.
        if waiting <= self.unacknowledged() { waiting } else { 0 }
    }

    pub(super) fn recv(&mut self, out: &mut [u8]) -> usize {
        let given = self.socket_mut().recv_slice(out).unwrap_or(0);
        self.dequeued += given as u64;
        given
    }

    pub(super) fn recv_available(&self) -> usize {
        self.socket().recv_queue()
    }

    /// Takes everything that was received and not read.
    pub(super) fn drain(&mut self) -> Vec<u8> {
        let mut rest = vec![0; self.recv_available()];
        let given = self.recv(&mut rest);
        rest.truncate(given);
        rest
    }

    pub(super) fn finish(&mut self) {
        self.finish_wanted = true;
        self.finish_if_open();
    }

    fn finish_if_open(&mut self) {
        if self.finish_wanted && matches!(self.socket().state(), State::Established | State::CloseWait) {
            self.socket_mut().close();
        }
    }

    /// The next segment will be an RST.
    pub(super) fn abort(&mut self) {
        self.socket_mut().abort();
    }

    pub(super) fn phase(&self) -> Phase {
        match self.socket().state() {
            State::SynSent | State::SynReceived => Phase::Opening,
            State::TimeWait => Phase::TimeWait,
            // smoltcp goes back to LISTEN when a half-open flow is reset.
            State::Closed | State::Listen => Phase::Closed,
            _ => Phase::Open,
        }
    }

    /// Our FIN is sent, or will be, and is not acknowledged yet, while the peer's has been received.
    pub(super) fn is_last_ack(&self) -> bool {
        self.socket().state() == State::LastAck
    }

    /// The peer's FIN was received, and so was every byte before it.
    pub(super) fn peer_finished(&self) -> bool {
        self.peer_finished
    }

    /// The next sequence number of ours, once both directions are closed.
    pub(super) fn snd_nxt(&self) -> u32 {
        Self::stream_end(self.iss, self.enqueued).wrapping_add(1)
    }

    /// The next sequence number expected from the peer.
    pub(super) fn rcv_nxt(&self) -> u32 {
        let received = self.dequeued + self.recv_available() as u64;
        Self::stream_end(self.irs, received).wrapping_add(u32::from(self.peer_finished))
    }

    /// The sequence number after a SYN and `bytes` of stream: it wraps by design.
    #[expect(clippy::cast_possible_truncation, reason = "sequence numbers are the lower 32 bits")]
    fn stream_end(initial: u32, bytes: u64) -> u32 {
        initial.wrapping_add(1).wrapping_add(bytes as u32)
    }

    /// The initial sequence number, while the SYN is on its way.
    pub(super) fn syn_seq(&self) -> Option<u32> {
        (self.socket().state() == State::SynSent).then_some(self.iss)
    }

    /// When `transmit` has to be called at the latest.
    pub(super) fn deadline(&self, shared: &mut Shared, now: Instant) -> Option<Instant> {
        let at = shared.interface.poll_at(smol(now), &self.set)?;
        Some(Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)))
    }

    fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }
}

/// Whether one sequence number comes after another.
fn is_after(seq: u32, other: u32) -> bool {
    seq.wrapping_sub(other).cast_signed() > 0
}

fn smol(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}
