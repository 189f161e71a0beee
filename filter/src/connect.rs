//! `nexodus.connect`: the transport socket of egress clusters, inside `envoy.transport_sockets.internal_upstream`.
//!
//! It holds back the Connected event, and with it Envoy's writes, until `nexodus.egress` at the other end of the
//! internal connection has said how opening the overlay connection ended ([`Greeting`]). So Envoy's connect
//! timeout, `upstream_cx_connect_fail`, `max_connect_attempts` and outlier detection see overlay hosts as they
//! see any other. From then on it moves Envoy's buffers without copying.

use crate::greeting::{Greeting, Outcome};
use crate::network::{self, Network};
use envoy_config::ConnectConfig;
use envoy_proxy_dynamic_modules_rust_sdk::*;
use std::sync::Arc;

/// Bytes per read of the internal connection; Envoy's own raw buffer socket asks for as much at a time.
const READ_SIZE: usize = 128 * 1024;

pub(crate) struct ConnectFactory {
    network: Arc<str>,
}

impl ConnectFactory {
    pub(crate) fn new(config: &[u8]) -> Result<Self, envoy_config::ConfigError> {
        Ok(Self { network: ConnectConfig::from_json(config)?.network.into() })
    }
}

impl<ETS: EnvoyTransportSocket> TransportSocketFactoryConfig<ETS> for ConnectFactory {
    fn new_transport_socket(&self, _envoy: &mut ETS) -> Box<dyn TransportSocket<ETS>> {
        Box::new(Connect {
            network: self.network.clone(),
            phase: Phase::Greeting { bytes: [0; Greeting::LEN], received: 0 },
            unwritten: false,
            write_finished: false,
            read_finished: false,
        })
    }
}

struct Connect {
    network: Arc<str>,
    phase: Phase,
    /// The internal connection did not take all that Envoy had to write.
    unwritten: bool,
    write_finished: bool,
    read_finished: bool,
}

enum Phase {
    Greeting { bytes: [u8; Greeting::LEN], received: usize },
    Connected { token: u64 },
    Failed { reason: &'static str },
}

impl<ETS: EnvoyTransportSocket + ?Sized> TransportSocket<ETS> for Connect {
    fn on_set_callbacks(&mut self, _envoy: &mut ETS) {}

    // The internal connection counts as connected at once: the overlay's handshake is what Envoy asks about.
    fn on_connected(&mut self, _envoy: &mut ETS) {}

    fn on_do_read(&mut self, envoy: &mut ETS) -> IoResult {
        match self.phase {
            Phase::Greeting { .. } => match self.read_greeting(envoy) {
                Handshake::Wait => return IoResult::keep_open(0, false),
                Handshake::Failed => return IoResult::close(0, false),
                Handshake::Done => {
                    envoy.raise_event(ConnectionEvent::Connected);
                    // What Envoy asked to write meanwhile, its end of stream included. Not `flush_write_buffer`:
                    // that calls `on_do_write` from inside this callback.
                    envoy.set_is_writable();
                }
            },
            Phase::Connected { .. } => {}
            Phase::Failed { .. } => return IoResult::close(0, false),
        }
        self.read_stream(envoy)
    }

    fn on_do_write(&mut self, envoy: &mut ETS, end_stream: bool) -> IoResult {
        if !matches!(self.phase, Phase::Connected { .. }) {
            return IoResult::keep_open(0, false);
        }
        let mut written = 0;
        self.unwritten = true;
        while envoy.write_buffer_length() > 0 {
            match envoy.io_write_from_write_buffer() {
                (IoStatus::Success, count) => written += count,
                (IoStatus::Again, _) => return IoResult::keep_open(written, false),
                (IoStatus::Error, _) => return IoResult::close(written, false),
            }
        }
        self.unwritten = false;
        if end_stream && !self.write_finished {
            self.write_finished = true;
            envoy.io_shutdown_write();
        }
        IoResult::keep_open(written, false)
    }

    fn on_close(&mut self, envoy: &mut ETS, _event: ConnectionEvent, abort_reset: bool) {
        if matches!(self.phase, Phase::Greeting { .. }) {
            // It may have arrived just now; the other end takes it as read. Else Envoy has given up: its connect timeout, or
            // the deadline of the client. (Or the client has reset its connection: an attempt without an answer all the same.)
            if matches!(self.read_greeting(envoy), Handshake::Wait) {
                self.fail(Outcome::TimedOut);
            }
        }
        let Phase::Connected { token } = self.phase else { return };
        // A close after the overlay's end of stream, with everything written, is Envoy's own end of stream (tcp_proxy
        // closes at once then, without a last write). The other end sees it as one.
        if self.read_finished && !self.unwritten && !abort_reset {
            return;
        }
        // Any other close is an abort. But the internal connection shows its other end at most an end of stream, as
        // a half-close does, and nothing after one: a client that is gone would leave the overlay connection open.
        if let Some(flow) = network::flow(token) {
            let mut state = flow.lock();
            state.client_gone = true;
            state.wake_worker();
        }
    }

    fn get_protocol(&self, _envoy: &mut ETS) -> String {
        String::new()
    }

    fn get_failure_reason(&self, _envoy: &mut ETS) -> String {
        match self.phase {
            Phase::Failed { reason } => reason.to_owned(),
            Phase::Greeting { .. } | Phase::Connected { .. } => String::new(),
        }
    }

    fn can_flush_close(&self, _envoy: &mut ETS) -> bool {
        // Before the greeting nothing can be flushed; waiting for it would keep a dead connection.
        matches!(self.phase, Phase::Connected { .. })
    }

    fn start_secure_transport(&mut self, _envoy: &mut ETS) -> bool {
        false
    }
}

enum Handshake {
    Wait,
    Done,
    Failed,
}

impl Connect {
    fn read_greeting<ETS: EnvoyTransportSocket + ?Sized>(&mut self, envoy: &ETS) -> Handshake {
        let Phase::Greeting { bytes, received } = &mut self.phase else { return Handshake::Failed };
        while *received < Greeting::LEN {
            match envoy.io_read(&mut bytes[*received..]) {
                (IoStatus::Success, count) if count > 0 => *received += count,
                (IoStatus::Again, _) => return Handshake::Wait,
                (IoStatus::Success, _) => return self.fail(Outcome::NoGreeting),
                // Only a reset drops what was written and not read: the destination's, right behind the greeting.
                (IoStatus::Error, _) => return self.fail(Outcome::Refused),
            }
        }
        match Greeting::decode(*bytes) {
            Some(Greeting { outcome: Outcome::Connected, token }) => {
                self.phase = Phase::Connected { token };
                Handshake::Done
            }
            Some(Greeting { outcome, .. }) => self.fail(outcome),
            None => self.fail(Outcome::NoGreeting),
        }
    }

    fn fail(&mut self, outcome: Outcome) -> Handshake {
        self.phase = Phase::Failed { reason: outcome.reason() };
        if let Ok(network) = Network::find(&self.network) {
            network.failures.count(outcome);
        }
        Handshake::Failed
    }

    fn read_stream<ETS: EnvoyTransportSocket + ?Sized>(&mut self, envoy: &ETS) -> IoResult {
        let mut read = 0;
        loop {
            match envoy.io_read_to_read_buffer(READ_SIZE) {
                (IoStatus::Success, 0) => {
                    self.read_finished = true;
                    return IoResult::keep_open(read, true);
                }
                (IoStatus::Success, count) => {
                    read += count;
                    if envoy.should_drain_read_buffer() {
                        envoy.set_is_readable();
                        return IoResult::keep_open(read, false);
                    }
                }
                (IoStatus::Again, _) => return IoResult::keep_open(read, false),
                (IoStatus::Error, _) => return IoResult::close(read, false),
            }
        }
    }
}
