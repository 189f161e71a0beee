//! What runs on a flow. Driven by events alone, so that a lost event shows as a hang.

use nexodus_netstack::{CloseReason, FlowId, Instant, Netstack};

#[derive(Clone, Debug, Default)]
pub struct App {
    pub send: Vec<u8>,
    pub sent: usize,
    /// FIN after everything was sent.
    pub finish: bool,
    /// Send back what comes, and finish when the peer does.
    pub echo: bool,
    /// An echo that reads only while it holds less than this many bytes to send back; 0 is no limit.
    pub echo_limit: usize,
    /// Start sending only when the peer has finished.
    pub reply_after_finish: bool,
    /// Do not read.
    pub deaf: bool,
    /// Bytes per read and write; 0 is as much as there is.
    pub chunk: usize,

    pub received: Vec<u8>,
    pub connected: bool,
    pub peer_finished: bool,
    pub finish_called: bool,
    pub closed: Option<CloseReason>,
}

impl App {
    /// Sends `data`, then finishes; reads everything.
    pub fn sending(data: Vec<u8>) -> Self {
        Self { send: data, finish: true, ..Self::default() }
    }

    pub fn echo() -> Self {
        Self { echo: true, ..Self::default() }
    }

    /// Reads, and finishes when the peer has.
    pub fn sink() -> Self {
        Self { reply_after_finish: true, finish: true, ..Self::default() }
    }

    /// Says nothing by itself.
    pub fn idle() -> Self {
        Self::default()
    }

    pub fn pump(&mut self, stack: &mut Netstack, now: Instant, flow: FlowId) {
        loop {
            let before = (self.received.len(), self.sent);
            self.pump_once(stack, now, flow);
            // What was sent back makes room for reading.
            if self.echo_limit == 0 || before == (self.received.len(), self.sent) {
                break;
            }
        }
    }

    fn is_echo_full(&self) -> bool {
        self.echo_limit > 0 && self.send.len() - self.sent >= self.echo_limit
    }

    fn pump_once(&mut self, stack: &mut Netstack, now: Instant, flow: FlowId) {
        let mut buffer = vec![0; if self.chunk == 0 { 65_536 } else { self.chunk }];
        while !self.deaf && !self.is_echo_full() {
            let available = stack.recv_available(flow);
            let len = stack.recv(now, flow, &mut buffer);
            assert_eq!(len, available.min(buffer.len()));
            if len == 0 {
                break;
            }
            self.received.extend_from_slice(&buffer[..len]);
            if self.echo {
                self.send.extend_from_slice(&buffer[..len]);
            }
        }
        if self.reply_after_finish && !self.peer_finished {
            return;
        }
        while self.sent < self.send.len() {
            let end =
                if self.chunk == 0 { self.send.len() } else { (self.sent + self.chunk).min(self.send.len()) };
            let taken = stack.send(now, flow, &self.send[self.sent..end]);
            self.sent += taken;
            if taken == 0 {
                return;
            }
        }
        let finish = self.finish || (self.echo && self.peer_finished);
        if finish && !self.finish_called {
            self.finish_called = true;
            stack.finish(now, flow);
        }
    }

    pub fn is_done(&self) -> bool {
        self.closed == Some(CloseReason::Done)
    }
}
