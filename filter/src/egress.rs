//! `nexodus.egress`: the terminal network filter of the internal listener `tunnel/<network>`. It ends each
//! internal connection in a TCP flow of the overlay, towards the destination in the metadata
//! `nexodus.destination` of the endpoint that Envoy's load balancer chose.

use crate::flow::{END_OF_TURN, Flow, FlowState, State};
use crate::greeting::{Greeting, Outcome};
use crate::names;
use crate::network::{self, Network, Phase, visits};
use bytes::Bytes;
use envoy_config::{Destination, EgressConfig};
use envoy_proxy_dynamic_modules_rust_sdk::abi::{
    envoy_dynamic_module_type_network_connection_close_type as CloseType,
    envoy_dynamic_module_type_network_connection_event as ConnectionEvent,
    envoy_dynamic_module_type_on_network_filter_data_status as DataStatus,
};
use envoy_proxy_dynamic_modules_rust_sdk::*;
use std::net::SocketAddr;
use std::sync::Arc;

/// Up to this many bytes, encrypting and sending takes less time than waking the network thread.
const LITTLE: usize = 4 * 1024;

pub(crate) struct EgressFilterConfig {
    network: Arc<Network>,
}

impl EgressFilterConfig {
    /// Parses the configuration, and hands the peers it carries to its network: the newest accepted
    /// configuration counts.
    pub(crate) fn new(config: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let config = EgressConfig::from_json(config)?;
        let network = Network::find(&config.network)?;
        if let Some(loaded) = config.load_peers()? {
            for warning in &loaded.warnings {
                envoy_log_info!("network {}: {}", config.network, warning);
            }
            network.set_peers(loaded.peers)?;
        }
        network.set_udp_destinations(config.udp_routes, config.udp_relays);
        Ok(Self { network })
    }
}

impl<ENF: EnvoyNetworkFilter> NetworkFilterConfig<ENF> for EgressFilterConfig {
    fn new_network_filter(&self, _envoy: &mut ENF) -> Box<dyn NetworkFilter<ENF>> {
        Box::new(EgressFilter {
            network: self.network.clone(),
            connection: Connection::Closed,
            visit_due: false,
        })
    }
}

struct EgressFilter {
    network: Arc<Network>,
    connection: Connection,
    /// It was this filter that asked for the end of the event loop's turn; flows of others wait for it too.
    visit_due: bool,
}

enum Connection {
    Open(Open),
    /// Not opened; the other end was told why, and closes.
    Refused(Outcome),
    /// Not opened yet, or closed: nothing to do.
    Closed,
}

struct Open {
    flow: Arc<Flow>,
    greeted: bool,
    /// Envoy's end of stream was read.
    read_finished: bool,
    /// The overlay's end of stream was written.
    write_finished: bool,
    read_disabled: bool,
}

impl<ENF: EnvoyNetworkFilter> NetworkFilter<ENF> for EgressFilter {
    fn on_new_connection(&mut self, envoy: &mut ENF) -> DataStatus {
        envoy.enable_half_close(true);
        match self.open(envoy) {
            Ok(open) => {
                // A name is looked up first, elsewhere.
                if !open.flow.lock().destinations.is_empty() {
                    self.work_soon(&open.flow);
                }
                self.connection = Connection::Open(open);
            }
            Err(outcome) => self.refuse(envoy, outcome, 0),
        }
        DataStatus::StopIteration
    }

    fn on_read(&mut self, envoy: &mut ENF, length: usize, end_stream: bool) -> DataStatus {
        let open = match &mut self.connection {
            Connection::Open(open) => open,
            Connection::Refused(outcome) => {
                if end_stream {
                    envoy.close_with_details(CloseType::NoFlush, outcome.reason());
                }
                return DataStatus::StopIteration;
            }
            Connection::Closed => return DataStatus::StopIteration,
        };
        if end_stream && !open.greeted {
            // `nexodus.connect` sends nothing before the greeting, so this is Envoy giving up: its connect
            // timeout, or the client went away.
            self.abort();
            envoy.close(CloseType::NoFlush);
            return DataStatus::StopIteration;
        }
        let chunk = take_read_buffer(envoy, length);
        let full = {
            let mut state = open.flow.lock();
            state.to_overlay.push(chunk);
            if end_stream {
                state.to_overlay.finish();
            }
            // Envoy may hand over what it had read before it was told to stop.
            state.worker_paused |= state.to_overlay.is_full();
            state.worker_paused
        };
        open.read_finished |= end_stream;
        if full && !open.read_disabled {
            open.read_disabled = true;
            envoy.read_disable(true);
        }
        let flow = open.flow.clone();
        if length <= LITTLE {
            self.work_soon(&flow);
        } else {
            self.network.work(&flow);
        }
        DataStatus::StopIteration
    }

    fn on_scheduled(&mut self, envoy: &mut ENF, event_id: u64) {
        if event_id == END_OF_TURN {
            self.visit_due = false;
            visits::run();
        } else {
            self.pump(envoy);
        }
    }

    fn on_below_write_buffer_low_watermark(&mut self, _envoy: &mut ENF) {
        // Envoy also says so while it closes the connection, and does not survive a close inside that.
        if let Connection::Open(open) = &self.connection {
            open.flow.lock().wake_worker();
        }
    }

    fn on_event(&mut self, _envoy: &mut ENF, event: ConnectionEvent) {
        match event {
            ConnectionEvent::RemoteClose | ConnectionEvent::LocalClose => self.closed(),
            ConnectionEvent::Connected | ConnectionEvent::ConnectedZeroRtt => {}
        }
    }
}

impl Drop for EgressFilter {
    fn drop(&mut self) {
        // Envoy raises a close event first; this is for a connection that never got as far.
        self.closed();
        // Nobody is told of the end of the turn any more. On another thread than the worker's, that one's list is out of reach.
        if self.visit_due && !visits::run() {
            self.network.wake();
        }
    }
}

impl EgressFilter {
    /// Has the flow looked at when the event loop's turn ends.
    fn work_soon(&mut self, flow: &Arc<Flow>) {
        if self.network.work_soon(flow) {
            self.visit_due = true;
            flow.call_at_end_of_turn();
        }
    }

    fn open<ENF: EnvoyNetworkFilter>(&self, envoy: &mut ENF) -> Result<Open, Outcome> {
        let destination = destination(envoy).ok_or(Outcome::BadDestination)?;
        if self.network.phase() != Phase::Running {
            return Err(Outcome::NetworkDown);
        }
        let scheduler = Box::new(envoy.new_scheduler());
        let flow = Arc::new(Flow::new(network::unique(), scheduler, self.network.queued_bytes.clone()));
        match destination {
            Destination::Address(address) => {
                flow.lock().destinations.push_back(address);
                flow.set_shard(self.network.shard_of(address.ip()));
            }
            Destination::Name { host, port } => self.look_up(&host, port, &flow)?,
        }
        network::publish_flow(&flow);
        Ok(Open { flow, greeted: false, read_finished: false, write_finished: false, read_disabled: false })
    }

    /// Has the network thread connect once the name is looked up.
    fn look_up(&self, host: &str, port: u16, flow: &Arc<Flow>) -> Result<(), Outcome> {
        let (flow, network) = (flow.clone(), self.network.clone());
        let found = move |addresses: Vec<SocketAddr>| {
            let mut state = flow.lock();
            if addresses.is_empty() && !state.aborted {
                state.network_side = FlowState::Gone;
                state.outcome = Some(Outcome::NotResolved);
                state.wake_worker();
                return;
            }
            if let Some(first) = addresses.first() {
                flow.set_shard(network.shard_of(first.ip()));
            }
            state.destinations = addresses.into();
            drop(state);
            network.work(&flow);
        };
        names::look_up(host, port, Box::new(found)).map_err(|names::TooMany| {
            self.network.count_refused_name();
            Outcome::Overloaded
        })
    }

    /// Moves what the network thread left for Envoy.
    fn pump<ENF: EnvoyNetworkFilter>(&mut self, envoy: &mut ENF) {
        let Connection::Open(open) = &mut self.connection else { return };
        open.flow.lock().worker_looks();
        let token = open.flow.token;
        match open.step(envoy) {
            Step::Wait => {}
            Step::MadeRoom => self.network.work(&open.flow),
            Step::Refused(outcome) => {
                self.abort();
                self.refuse(envoy, outcome, token);
            }
            Step::Reset => {
                self.abort();
                // Envoy carries this through the internal connection and on to the client as RST.
                envoy.close(CloseType::AbortReset);
            }
            Step::ClientGone => {
                self.abort();
                envoy.close(CloseType::NoFlush);
            }
        }
    }

    /// Tells `nexodus.connect` why, and ends the stream. The close is left to the other end: of a connection that is closed
    /// before Envoy has looked at it for the first time, Envoy says "Invalid argument" and does not read what was written.
    fn refuse<ENF: EnvoyNetworkFilter>(&mut self, envoy: &mut ENF, outcome: Outcome, token: u64) {
        self.connection = Connection::Refused(outcome);
        envoy.write(&Greeting { outcome, token }.encode(), true);
    }

    /// The connection is over in Envoy: end the flow gracefully when both directions were, else reset it.
    fn closed(&mut self) {
        match &self.connection {
            Connection::Open(open) if open.read_finished && open.write_finished => {
                self.leave(|state| state.released = true);
            }
            _ => self.abort(),
        }
    }

    fn abort(&mut self) {
        self.leave(|state| state.aborted = true);
    }

    fn leave(&mut self, how: impl FnOnce(&mut State)) {
        if let Connection::Open(open) = std::mem::replace(&mut self.connection, Connection::Closed) {
            network::forget_flow(open.flow.token);
            {
                let mut state = open.flow.lock();
                how(&mut state);
                state.detach_worker();
            }
            // Nobody of this worker asked for the end of the turn, and this filter cannot any more.
            if self.network.work_soon(&open.flow) {
                visits::run();
            }
        }
    }
}

/// What [`Open::step`] found that its caller has to act on.
enum Step {
    Wait,
    /// The network thread waits for room for bytes from the overlay, and there is.
    MadeRoom,
    Refused(Outcome),
    Reset,
    ClientGone,
}

impl Open {
    fn step<ENF: EnvoyNetworkFilter>(&mut self, envoy: &mut ENF) -> Step {
        loop {
            let (chunk, finish, resume, made_room) = {
                let mut state = self.flow.lock();
                if state.client_gone {
                    return Step::ClientGone;
                }
                match state.outcome {
                    None => return Step::Wait,
                    Some(Outcome::Connected) => {}
                    Some(outcome) => return Step::Refused(outcome),
                }
                if state.reset {
                    // Envoy has not heard of the connection: as good as a refusal, and another destination may do better. What
                    // accepts for one that is not there, as an ingress listener does, resets so soon.
                    return if self.greeted { Step::Reset } else { Step::Refused(Outcome::Refused) };
                }
                let resume = state.worker_paused && state.to_overlay.is_below_half();
                if resume {
                    state.worker_paused = false;
                }
                let chunk = if envoy.above_high_watermark() { None } else { state.to_envoy.pop() };
                let finish = chunk.is_none() && state.to_envoy.is_finished() && state.to_envoy.is_empty();
                let made_room = chunk.is_none() && state.network_paused && state.to_envoy.is_below_half();
                if made_room {
                    state.network_paused = false;
                }
                (chunk, finish, resume, made_room)
            };
            // Envoy is called without the lock: it calls back.
            if !self.greeted {
                self.greeted = true;
                let greeting = Greeting { outcome: Outcome::Connected, token: self.flow.token };
                envoy.write(&greeting.encode(), false);
            }
            if resume && self.read_disabled {
                self.read_disabled = false;
                envoy.read_disable(false);
            }
            if finish && !self.write_finished {
                self.write_finished = true;
                envoy.write(&[], true);
            }
            match chunk {
                Some(chunk) => envoy.write(&chunk, false),
                None if made_room => return Step::MadeRoom,
                None => return Step::Wait,
            }
        }
    }
}

fn destination<ENF: EnvoyNetworkFilter>(envoy: &ENF) -> Option<Destination> {
    let text = envoy.get_dynamic_metadata_string("nexodus", "destination")?;
    std::str::from_utf8(text.as_slice()).ok()?.parse().ok()
}

/// Empties Envoy's read buffer: the one copy of payload on this way in.
fn take_read_buffer<ENF: EnvoyNetworkFilter>(envoy: &mut ENF, length: usize) -> Bytes {
    if length == 0 {
        return Bytes::new();
    }
    let mut chunk = Vec::with_capacity(length);
    let (slices, total) = envoy.get_read_buffer_chunks();
    for slice in &slices {
        chunk.extend_from_slice(slice.as_slice());
    }
    envoy.drain_read_buffer(total);
    chunk.into()
}
