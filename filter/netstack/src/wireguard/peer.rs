//! One peer: its Noise sessions, its endpoint and the timers around them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use super::Datagrams;
use super::apart::{Apart, INITIATION};
use crate::{Instant, PeerConfig, PeerStatus, Stats};

/// How often boringtun's timers run while something can become due.
const TICK: Duration = Duration::from_millis(250);
/// How often they run for a session without traffic: nothing but its end can become due.
const IDLE_TICK: Duration = Duration::from_secs(30);
/// Traffic keeps the fast tick for this long: the passive keepalive comes after 10 s, the handshake for lack of an answer
/// after 15 s (WireGuard paper, section 6).
const ACTIVE: Duration = Duration::from_secs(20);

/// An initiation that nobody waited for, and that is this old without a response, was in vain: whoever waits then does not wait
/// for its repetition.
const IN_VAIN: Duration = Duration::from_millis(250);

/// How long the first packet of a session that the peer has begun may take (REKEY_TIMEOUT, section 6.1).
const CONFIRMATION: Duration = Duration::from_secs(5);

pub(super) struct Peer {
    tunn: Tunn,
    config: PeerConfig,
    endpoint: Option<SocketAddr>,
    last_tick: Instant,
    /// The last inner packet in either direction.
    last_data: Option<Instant>,
    /// The last datagram in either direction, for the persistent keepalive.
    last_traversal: Option<Instant>,
    /// An initiation of ours waits for its response.
    initiating: bool,
    /// Since when, if nobody waited for that.
    introduced: Option<Instant>,
    /// Something waits for a session.
    wanted: bool,
    /// It will not come; those who wait were not told yet.
    gave_up: bool,
    established: Option<Instant>,
    handshakes: Apart,
    tx_bytes: u64,
    rx_bytes: u64,
    /// Where the owner's timer entry is (see `Timers`).
    pub(super) timer: Option<Instant>,
}

impl Peer {
    pub(super) fn new(
        now: Instant,
        key: &StaticSecret,
        config: PeerConfig,
        index: u32,
        limiter: Arc<RateLimiter>,
    ) -> Self {
        let public = PublicKey::from(config.public_key);
        // Persistent keepalive is done here and not by boringtun, which stops it when a handshake fails for 90 s and
        // cannot change it without losing the sessions.
        let tunn = Tunn::new(key.clone(), public, config.preshared_key, None, index, Some(limiter));
        Self {
            tunn,
            endpoint: config.endpoint,
            config,
            last_tick: now,
            last_data: None,
            last_traversal: None,
            initiating: false,
            introduced: None,
            wanted: false,
            gave_up: false,
            established: None,
            handshakes: Apart::default(),
            tx_bytes: 0,
            rx_bytes: 0,
            timer: None,
        }
    }

    /// Whether the sessions survive the change to `config`.
    pub(super) fn keeps_sessions(&self, config: &PeerConfig) -> bool {
        self.config.public_key == config.public_key && self.config.preshared_key == config.preshared_key
    }

    /// A configured endpoint replaces the roamed one only when the configuration itself changed.
    pub(super) fn reconfigure(&mut self, config: PeerConfig) {
        if config.endpoint.is_some() && config.endpoint != self.config.endpoint {
            self.endpoint = config.endpoint;
        }
        self.config = config;
    }

    /// The endpoint, when packets can be sealed for it now.
    pub(super) fn open(&self) -> Option<SocketAddr> {
        self.endpoint.filter(|_| self.has_session())
    }

    pub(super) fn has_session(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some()
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    pub(super) fn set_wanted(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    pub(super) fn take_gave_up(&mut self) -> bool {
        std::mem::take(&mut self.gave_up)
    }

    /// Opens one datagram. Clears nothing on an error: no datagram can harm a session.
    pub(super) fn decapsulate<'a>(
        &mut self,
        remote: SocketAddr,
        datagram: &[u8],
        out: &'a mut [u8],
    ) -> TunnResult<'a> {
        self.tunn.decapsulate(Some(remote.ip()), datagram, out)
    }

    /// An authenticated datagram came from `remote`: the peer lives there now.
    pub(super) fn authenticated(&mut self, now: Instant, remote: SocketAddr, bytes: usize) {
        self.endpoint = Some(remote);
        self.last_traversal = Some(now);
        self.rx_bytes += bytes as u64;
    }

    pub(super) fn received_data(&mut self, now: Instant) {
        self.last_data = Some(now);
    }

    pub(super) fn completed_handshake(&mut self, now: Instant) {
        self.initiating = false;
        self.introduced = None;
        self.established = Some(now);
    }

    /// Seals `packet` at the end of `out`. False without a session.
    pub(super) fn encapsulate(&mut self, now: Instant, packet: &[u8], out: &mut Vec<u8>) -> bool {
        if !self.has_session() {
            return false;
        }
        let start = out.len();
        // boringtun panics below len + 32, and wants 148 bytes in case it has to initiate a handshake.
        out.resize(start + (packet.len() + 32).max(148), 0);
        let sealed = match self.tunn.encapsulate(packet, &mut out[start..]) {
            TunnResult::WriteToNetwork(datagram) => datagram.len(),
            _ => 0,
        };
        out.truncate(start + sealed);
        self.last_data = Some(now);
        self.sent(now, sealed);
        sealed != 0
    }

    pub(super) fn sent(&mut self, now: Instant, bytes: usize) {
        self.last_traversal = Some(now);
        self.tx_bytes += bytes as u64;
    }

    /// boringtun stamps everything with the instant of its last timer run; this keeps that close to now.
    pub(super) fn refresh(&mut self, now: Instant, out: &mut Datagrams, stats: &mut Stats) {
        if now - self.last_tick >= TICK {
            self.tick(now, out, stats);
        }
    }

    /// Runs the timers.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Datagrams, stats: &mut Stats) {
        self.last_tick = now;
        if let Some(datagram) = self.handshakes.release(now) {
            self.push(now, datagram, out, stats);
        }
        let mut buffer = [0; 256];
        match self.tunn.update_timers(&mut buffer) {
            TunnResult::WriteToNetwork(datagram) => {
                let datagram = datagram.to_vec();
                self.send(now, datagram, out, stats);
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) => {
                if std::mem::take(&mut self.initiating) {
                    stats.handshakes_expired += 1;
                }
                // boringtun never leaves this state by itself: whoever still waits has to ask again.
                self.gave_up |= std::mem::take(&mut self.wanted);
            }
            _ => {}
        }
        if self.was_in_vain(now) {
            self.initiate(now, out, stats);
        }
        // The peer called, which ended our own handshake, and its confirmation has not come: nobody else would ask again.
        if self.wanted && !self.has_session() && self.established.is_some_and(|at| now - at >= CONFIRMATION) {
            self.initiate(now, out, stats);
        }
        if self.persistent_due().is_some_and(|due| due <= now) {
            if self.has_session() {
                if let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(&[], &mut buffer) {
                    let datagram = datagram.to_vec();
                    self.send(now, datagram, out, stats);
                }
            } else {
                self.initiate(now, out, stats);
            }
            self.last_traversal = Some(now);
        }
    }

    /// Starts a handshake, unless one is running or nobody knows where to.
    pub(super) fn initiate(&mut self, now: Instant, out: &mut Datagrams, stats: &mut Stats) {
        let in_vain = self.was_in_vain(now);
        if self.endpoint.is_none() || (self.initiating && !in_vain) {
            return;
        }
        if in_vain {
            self.introduced = None;
        }
        let mut buffer = [0; 256];
        if let TunnResult::WriteToNetwork(datagram) =
            self.tunn.format_handshake_initiation(&mut buffer, in_vain)
        {
            let datagram = datagram.to_vec();
            self.send(now, datagram, out, stats);
        }
    }

    /// Starts a handshake that nobody waits for.
    pub(super) fn introduce(&mut self, now: Instant, out: &mut Datagrams, stats: &mut Stats) {
        if self.endpoint.is_some() && !self.initiating && !self.has_session() {
            self.introduced = Some(now);
            self.initiate(now, out, stats);
        }
    }

    /// Whether somebody waits now for a handshake that nobody waited for when it began.
    fn was_in_vain(&self, now: Instant) -> bool {
        self.wanted && self.introduced.is_some_and(|at| now - at >= IN_VAIN)
    }

    /// Queues one of WireGuard's own datagrams for the endpoint, at once or a little later.
    pub(super) fn send(&mut self, now: Instant, datagram: Vec<u8>, out: &mut Datagrams, stats: &mut Stats) {
        if datagram.first() == Some(&INITIATION) {
            self.initiating = true;
            stats.handshakes_initiated += 1;
        }
        match self.handshakes.pass(now, datagram) {
            Some(datagram) => self.push(now, datagram, out, stats),
            None => stats.handshakes_held += 1,
        }
    }

    fn push(&mut self, now: Instant, datagram: Vec<u8>, out: &mut Datagrams, stats: &mut Stats) {
        if let Some(endpoint) = self.endpoint {
            self.sent(now, datagram.len());
            out.push(endpoint, datagram, stats);
        }
    }

    /// When the timers have to run again; `None` for a peer that has nothing to do.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let active = self.last_data.is_some_and(|at| now - at < ACTIVE);
        let session = self.has_session();
        let tick = if self.initiating || (session && active) || (self.wanted && self.endpoint.is_some()) {
            Some(self.last_tick + TICK)
        } else if session {
            Some(self.last_tick + IDLE_TICK)
        } else {
            None
        };
        let persistent = self.persistent_due().map(|due| due.max(self.last_tick));
        [tick, persistent, self.handshakes.due()].into_iter().flatten().min()
    }

    /// When the next persistent keepalive is due: at once for a peer that never heard of us.
    fn persistent_due(&self) -> Option<Instant> {
        let interval = self.config.persistent_keepalive.filter(|&seconds| seconds != 0)?;
        self.endpoint?;
        Some(
            self.last_traversal
                .map_or(Instant::from_micros(0), |at| at + Duration::from_secs(interval.into())),
        )
    }

    pub(super) fn status(&self, now: Instant) -> PeerStatus {
        PeerStatus {
            public_key: self.config.public_key,
            endpoint: self.endpoint,
            allowed_ips: self.config.allowed_ips.clone(),
            latest_handshake: self.established.map(|at| now - at),
            latest_handshake_at: self.established,
            tx_bytes: self.tx_bytes,
            rx_bytes: self.rx_bytes,
            persistent_keepalive: self.config.persistent_keepalive,
        }
    }
}
