//! Bootstrap extension `tunnel`: the networks of this Envoy, their threads, metrics and status page.

use crate::deadline;
use crate::network::{self, Network, Phase};
use crate::status::{COUNTERS, GAUGES};
use crate::{admin, driver};
use driver::StartError;
use envoy_config::TunnelConfig;
use envoy_proxy_dynamic_modules_rust_sdk::*;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often metrics are published, and a network is tried again that could not have its port.
const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct TunnelExtensionConfig {
    networks: Arc<Mutex<Networks>>,
    metrics: Mutex<Vec<Metrics>>,
    /// Every [`INTERVAL`].
    _timer: Box<dyn EnvoyBootstrapExtensionTimer>,
    /// For `nexodus.deadline`.
    deadline_timer: Box<dyn EnvoyBootstrapExtensionTimer>,
}

impl TunnelExtensionConfig {
    /// Reads configuration and keys, so that a bad file stops Envoy at its start and `--mode validate` finds it;
    /// opens nothing.
    pub(crate) fn new(
        envoy: &mut dyn EnvoyBootstrapExtensionConfig,
        config: &[u8],
    ) -> Result<Self, Box<dyn std::error::Error>> {
        // Envoy waits for this before it starts its listeners. Nothing here is worth waiting for: a connection
        // that comes before its network runs is refused with that reason.
        envoy.signal_init_complete();
        let config = TunnelConfig::from_json(config)?;
        let mut networks = Networks::default();
        let mut metrics = Vec::new();
        for network in &config.networks {
            let loaded = network.load()?;
            for warning in &loaded.warnings {
                envoy_log_info!("network {}: {}", loaded.name, warning);
            }
            let network = Network::register(&loaded)?;
            metrics.push(Metrics::define(envoy, network.clone())?);
            networks.waiting.push((network, loaded));
        }
        let timer = envoy.new_timer();
        timer.enable(INTERVAL);
        deadline::set_main_thread(Some(envoy.new_scheduler()));
        for (path, help, mutates) in admin::PAGES {
            // Refused when there is no admin interface, which is nothing to say.
            let _ = envoy.register_admin_handler(path, help, false, mutates);
        }
        Ok(Self {
            networks: Arc::new(Mutex::new(networks)),
            metrics: Mutex::new(metrics),
            _timer: timer,
            deadline_timer: envoy.new_timer(),
        })
    }
}

impl BootstrapExtensionConfig for TunnelExtensionConfig {
    fn new_bootstrap_extension(
        &self,
        _envoy: &mut dyn EnvoyBootstrapExtension,
    ) -> Box<dyn BootstrapExtension> {
        Box::new(TunnelExtension(self.networks.clone()))
    }

    fn on_scheduled(&self, _envoy: &mut dyn EnvoyBootstrapExtensionConfig, _event_id: u64) {
        deadline::arm(&*self.deadline_timer);
    }

    fn on_timer_fired(
        &self,
        envoy: &mut dyn EnvoyBootstrapExtensionConfig,
        timer: &dyn EnvoyBootstrapExtensionTimer,
    ) {
        if timer.id() == self.deadline_timer.id() {
            deadline::arm(timer);
            return;
        }
        let mut networks = network::lock(&self.networks);
        if networks.initialized {
            networks.start();
        }
        for metrics in &mut *network::lock(&self.metrics) {
            metrics.publish(envoy);
        }
        timer.enable(INTERVAL);
    }

    fn on_admin_request(
        &self,
        _envoy: &mut dyn EnvoyBootstrapExtensionConfig,
        _method: &str,
        path: &str,
        _body: &[u8],
    ) -> (u32, String) {
        admin::answer(path)
    }
}

impl Drop for TunnelExtensionConfig {
    fn drop(&mut self) {
        deadline::set_main_thread(None);
    }
}

/// The networks of the configuration, which has a timer, and of the extension, which knows when the server begins and ends. Both are the
/// main thread's.
#[derive(Default)]
struct Networks {
    /// The server is initialized, and has not ended: sockets may be open.
    initialized: bool,
    /// Those that do not run yet.
    waiting: Vec<(Arc<Network>, envoy_config::Network)>,
    threads: Vec<(Arc<Network>, Vec<JoinHandle<()>>)>,
}

impl Networks {
    /// Starts those that wait. One that cannot have its port goes on waiting.
    fn start(&mut self) {
        for (network, config) in std::mem::take(&mut self.waiting) {
            match driver::start(&network, &config) {
                Ok(threads) => self.threads.push((network, threads)),
                Err(error) => {
                    let failure = Some(error.to_string());
                    let before = std::mem::replace(&mut network::lock(&network.status).failure, failure);
                    if before.is_none() {
                        envoy_log_error!("network {} is not running: {}", network.name, error);
                    }
                    network.end(Phase::Failed);
                    if matches!(error, StartError::Socket { .. }) {
                        self.waiting.push((network, config));
                    }
                }
            }
        }
    }

    fn stop(&mut self) {
        self.initialized = false;
        self.waiting.clear();
        for (network, _) in &self.threads {
            network.stop();
        }
        for (network, threads) in self.threads.drain(..) {
            for thread in threads {
                if thread.join().is_err() {
                    envoy_log_error!("network {}: a thread had failed", network.name);
                }
            }
        }
    }
}

struct TunnelExtension(Arc<Mutex<Networks>>);

impl BootstrapExtension for TunnelExtension {
    // Not called in validate mode.
    fn on_server_initialized(&mut self, _envoy: &mut dyn EnvoyBootstrapExtension) {
        let mut networks = network::lock(&self.0);
        networks.initialized = true;
        networks.start();
    }

    fn on_shutdown(&mut self, _envoy: &mut dyn EnvoyBootstrapExtension, completion: CompletionCallback) {
        network::lock(&self.0).stop();
        completion.done();
    }
}

impl Drop for TunnelExtension {
    fn drop(&mut self) {
        network::lock(&self.0).stop();
    }
}

/// A network's numbers as Envoy knows them: `nexodus.<network>.<name>`. Envoy takes definitions only while the
/// configuration is made.
struct Metrics {
    network: Arc<Network>,
    counters: Vec<(EnvoyCounterId, u64)>,
    gauges: Vec<EnvoyGaugeId>,
    running: EnvoyGaugeId,
    queued_bytes: EnvoyGaugeId,
}

/// Envoy refused to define a metric.
#[derive(Debug, thiserror::Error)]
#[error("Envoy did not take the metric {name}")]
struct MetricRefused {
    name: String,
}

impl Metrics {
    fn define(
        envoy: &mut dyn EnvoyBootstrapExtensionConfig,
        network: Arc<Network>,
    ) -> Result<Self, MetricRefused> {
        let prefixed = |name: &str| format!("nexodus.{}.{name}", network.name);
        let gauge = |envoy: &mut dyn EnvoyBootstrapExtensionConfig, name: &str| {
            let name = prefixed(name);
            envoy.define_gauge(&name).map_err(|_| MetricRefused { name })
        };
        let gauges = GAUGES.iter().map(|(name, _)| gauge(envoy, name)).collect::<Result<Vec<_>, _>>()?;
        let running = gauge(envoy, "running")?;
        let queued_bytes = gauge(envoy, "queued_bytes")?;
        let counters = COUNTERS
            .iter()
            .map(|(name, _)| {
                let name = prefixed(name);
                envoy.define_counter(&name).map(|id| (id, 0)).map_err(|_| MetricRefused { name })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { network, counters, gauges, running, queued_bytes })
    }

    fn publish(&mut self, envoy: &dyn EnvoyBootstrapExtensionConfig) {
        let status = self.network.status();
        for ((id, published), (_, count)) in self.counters.iter_mut().zip(COUNTERS) {
            let value = status.sum(*count);
            if value > *published && envoy.increment_counter(*id, value - *published).is_ok() {
                *published = value;
            }
        }
        let running = u64::from(self.network.phase() == Phase::Running);
        let queued = self.network.queued_bytes.held() as u64;
        let gauges = self.gauges.iter().zip(GAUGES).map(|(id, (_, gauge))| (*id, status.sum(*gauge)));
        for (id, value) in gauges.chain([(self.running, running), (self.queued_bytes, queued)]) {
            // One that cannot be set now is set a second later.
            let _ = envoy.set_gauge(id, value);
        }
    }
}
