//! `nexodus.ingress`: ties a connection that came out of the overlay to its flow.
//!
//! The network thread relays an accepted overlay connection to the Unix socket of its Envoy listener, behind a
//! PROXY v2 header, so the connection's addresses here are the overlay's and name the flow. A Unix socket shows
//! an abrupt close as a clean end; this filter tells the two apart, in both directions:
//! * Envoy ends its stream: seen here before the socket shows it ([`IngressLink::ends_at`]). An end without
//!   that is an abort, and becomes RST in the overlay.
//! * The overlay peer ends its stream: the network thread waits with the socket's end until this filter is there.
//!   Envoy's listener filters, which run before it, take an end of stream for a connection that is gone.
//! * The overlay peer resets, or the network ends: closing a Unix socket with unread bytes gives the other end
//!   ECONNRESET, so this filter writes one byte that the network thread never reads. Envoy sees a reset and passes it on.
//!   After its own end of stream Envoy can write no more, so that byte comes before it, behind the stream's last one.

use crate::network::{self, Network};
use envoy_config::{IngressConfig, Protocol};
use envoy_proxy_dynamic_modules_rust_sdk::abi::{
    envoy_dynamic_module_type_network_connection_close_type as CloseType,
    envoy_dynamic_module_type_network_connection_event as ConnectionEvent,
    envoy_dynamic_module_type_on_network_filter_data_status as DataStatus,
};
use envoy_proxy_dynamic_modules_rust_sdk::*;
use nexodus_netstack::Local;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

/// What the filter and the network thread share of one ingress connection.
pub(crate) struct IngressLink {
    /// Which thread of the network has it, and what that calls it.
    shard: usize,
    relay: usize,
    /// The length of Envoy's stream, once it is known.
    ends_at: OnceLock<u64>,
    state: Mutex<LinkState>,
}

#[derive(Default)]
struct LinkState {
    /// The filter has been there.
    attached: bool,
    /// The network thread waits for the filter, to end the stream.
    end_waiting: bool,
    reset_wanted: bool,
    scheduler: Option<Box<dyn EnvoyNetworkFilterScheduler>>,
}

impl IngressLink {
    /// `relay`: what this thread of the network calls this connection.
    pub(crate) fn new(shard: usize, relay: usize) -> Self {
        Self { shard, relay, ends_at: OnceLock::new(), state: Mutex::default() }
    }

    /// Network thread: whether the socket's end may be shown to Envoy now. If not, the network thread is woken
    /// for this relay when it may.
    pub(crate) fn may_end(&self) -> bool {
        let mut state = network::lock(&self.state);
        state.end_waiting = !state.attached;
        state.attached
    }

    /// Worker: Envoy's stream ends after so many bytes. Said before they are written; false if it was said before.
    pub(crate) fn ends(&self, length: u64) -> bool {
        self.ends_at.set(length).is_ok()
    }

    /// Network thread: how many bytes Envoy's stream has, if it has ended. Known before the last of them is in the socket. Behind them
    /// there is one more, which makes closing the socket a reset for as long as it is not read.
    pub(crate) fn ends_at(&self) -> Option<u64> {
        self.ends_at.get().copied()
    }

    /// Network thread: have the filter write the byte that turns closing the socket into a reset.
    pub(crate) fn want_reset(&self) {
        let mut state = network::lock(&self.state);
        state.reset_wanted = true;
        if let Some(scheduler) = &state.scheduler {
            // Under the lock for the reason given at `flow::WakeAfter`.
            scheduler.commit(0);
        }
    }

    /// Worker: the filter is there. Returns whether a reset is wanted already.
    pub(crate) fn attach(&self, network: &Network, scheduler: Box<dyn EnvoyNetworkFilterScheduler>) -> bool {
        let mut state = network::lock(&self.state);
        state.attached = true;
        state.scheduler = Some(scheduler);
        if std::mem::take(&mut state.end_waiting) {
            network.relay_attached(self.shard, self.relay);
        }
        state.reset_wanted
    }

    fn detach(&self) {
        network::lock(&self.state).scheduler = None;
    }
}

pub(crate) struct IngressFilterConfig {
    network: Arc<Network>,
    local: Local,
    generation: u64,
}

impl IngressFilterConfig {
    /// Parses the configuration and makes its port a listening one in the overlay: at once when the network
    /// runs, else when it starts.
    pub(crate) fn new(config: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let config = IngressConfig::from_json(config)?;
        let network = Network::find(&config.network)?;
        if config.protocol != Protocol::Tcp {
            return Err(
                "protocol \"udp\" is carried by a UDP listener filter, not by this network filter".into()
            );
        }
        let generation = network::unique();
        let local = network.local(config.address, config.port)?;
        network.set_listener(local, config.socket, generation);
        Ok(Self { network, local, generation })
    }
}

impl Drop for IngressFilterConfig {
    fn drop(&mut self) {
        self.network.remove_listener(self.local, self.generation);
    }
}

impl<ENF: EnvoyNetworkFilter> NetworkFilterConfig<ENF> for IngressFilterConfig {
    fn new_network_filter(&self, _envoy: &mut ENF) -> Box<dyn NetworkFilter<ENF>> {
        Box::new(IngressFilter { network: self.network.clone(), link: None, written: 0 })
    }
}

struct IngressFilter {
    network: Arc<Network>,
    link: Option<Arc<IngressLink>>,
    /// Bytes of Envoy's stream so far.
    written: u64,
}

impl<ENF: EnvoyNetworkFilter> NetworkFilter<ENF> for IngressFilter {
    fn on_new_connection(&mut self, envoy: &mut ENF) -> DataStatus {
        let link =
            addresses(envoy).and_then(|(source, destination)| self.network.links.get(source, destination));
        let Some(link) = link else {
            // Whoever may open the socket may write any PROXY header: only connections of the network thread count.
            envoy.close_with_details(CloseType::NoFlush, "nexodus.ingress: not a connection of this overlay");
            return DataStatus::StopIteration;
        };
        let reset_wanted = link.attach(&self.network, Box::new(envoy.new_scheduler()));
        self.link = Some(link);
        if reset_wanted {
            write_reset_byte(envoy);
        }
        DataStatus::Continue
    }

    fn on_write(&mut self, envoy: &mut ENF, length: usize, end_stream: bool) -> DataStatus {
        self.written += length as u64;
        if end_stream
            && let Some(link) = &self.link
            && link.ends(self.written)
        {
            envoy.append_write_buffer(&RESET_BYTE);
        }
        DataStatus::Continue
    }

    fn on_scheduled(&mut self, envoy: &mut ENF, _event_id: u64) {
        if self.link.is_some() {
            write_reset_byte(envoy);
        }
    }

    fn on_event(&mut self, _envoy: &mut ENF, event: ConnectionEvent) {
        match event {
            ConnectionEvent::RemoteClose | ConnectionEvent::LocalClose => self.closed(),
            ConnectionEvent::Connected | ConnectionEvent::ConnectedZeroRtt => {}
        }
    }
}

impl Drop for IngressFilter {
    // Envoy raises a close event first; this is for a connection that never got as far.
    fn drop(&mut self) {
        self.closed();
    }
}

impl IngressFilter {
    fn closed(&mut self) {
        if let Some(link) = self.link.take() {
            link.detach();
        }
    }
}

/// What the network thread never reads of a connection that is to be closed by a reset.
const RESET_BYTE: [u8; 1] = [0];

fn write_reset_byte<ENF: EnvoyNetworkFilter>(envoy: &mut ENF) {
    envoy.write(&RESET_BYTE, false);
}

/// (overlay source, overlay destination), as the PROXY v2 header named them.
fn addresses<ENF: EnvoyNetworkFilter>(envoy: &ENF) -> Option<(SocketAddr, SocketAddr)> {
    let parse = |(address, port): (String, u32)| {
        Some(SocketAddr::new(address.parse().ok()?, u16::try_from(port).ok()?))
    };
    Some((parse(envoy.get_remote_address())?, parse(envoy.get_local_address())?))
}
