//! Our own engine at one end of the link, without WireGuard.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use nexodus_netstack::Instant;
use nexodus_netstack::conn::{Connection, Settings};

use super::stack::{CONTENT, Role, Spec, Stack};

pub(super) struct Ours {
    settings: Arc<Settings>,
    iss: u32,
    role: Role,
    local: SocketAddr,
    connection: Option<Connection>,
    received: u64,
    packet: Vec<u8>,
    buffer: Vec<u8>,
}

impl Ours {
    pub(super) fn new(spec: &Spec) -> Self {
        let port = match spec.role {
            Role::Source(_) => 40_000,
            Role::Sink(port) => port,
        };
        Self {
            settings: Arc::new(Settings { mtu: spec.mtu, verify_checksums: true, ..Settings::default() }),
            // Near the end of the sequence numbers, so that every run goes over it.
            iss: u32::MAX - (spec.seed % 1_000_000) as u32,
            role: spec.role,
            local: SocketAddrV4::new(spec.address, port).into(),
            connection: None,
            received: 0,
            packet: Vec::new(),
            buffer: vec![0; 256 << 10],
        }
    }
}

impl Stack for Ours {
    fn receive(&mut self, now: Duration, packet: &[u8]) {
        let now = instant(now);
        match &mut self.connection {
            Some(connection) => {
                connection.handle_packet(now, packet);
            }
            None => {
                self.connection = Connection::accept(self.settings.clone(), now, packet, self.iss, 0);
            }
        }
    }

    fn poll(&mut self, now: Duration, send: &mut dyn FnMut(&[u8])) {
        let now = instant(now);
        if let (None, Role::Source(to)) = (&self.connection, self.role) {
            let ends = (self.local, to.into());
            self.connection = Some(Connection::connect(self.settings.clone(), now, ends, self.iss, 0));
        }
        let Some(connection) = &mut self.connection else { return };
        if let Role::Source(_) = self.role {
            while connection.send(now, &CONTENT) > 0 {}
        } else {
            loop {
                let count = connection.recv(now, &mut self.buffer);
                if count == 0 {
                    break;
                }
                self.received += count as u64;
            }
        }
        while connection.poll_packet(now, &mut self.packet) {
            send(&self.packet);
        }
    }

    fn deadline(&mut self, _now: Duration) -> Option<Duration> {
        let at = self.connection.as_ref()?.poll_timeout()?;
        Some(Duration::from_micros(at.as_micros()))
    }

    fn received(&self) -> u64 {
        self.received
    }
}

pub(super) fn instant(now: Duration) -> Instant {
    Instant::from_micros(u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}
