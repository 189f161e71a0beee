//! A network with one peer that never comes, on its thread and without it.

use super::*;
use crate::flow::{Flow, FlowState};
use crate::greeting::Outcome;
use envoy_config::{Limits, Peer, PrivateKey};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The peer's.
const DESTINATION: ([u8; 4], u16) = ([100, 64, 0, 2], 80);

/// Counts how often the filter was woken.
#[derive(Clone, Default)]
struct Woken(Arc<AtomicUsize>);

impl EnvoyNetworkFilterScheduler for Woken {
    fn commit(&self, _event_id: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn config(name: &str) -> envoy_config::Network {
    let key = |byte| PrivateKey::from_bytes([byte; 32]);
    let peer = Peer {
        public_key: key(2).public_key(),
        preshared_key: None,
        endpoint: None,
        allowed_ips: vec!["100.64.0.2/32".parse().unwrap()],
        persistent_keepalive: None,
    };
    envoy_config::Network {
        name: name.to_owned(),
        public_key: key(1).public_key(),
        private_key: key(1),
        addresses: vec!["100.64.0.1/32".parse().unwrap()],
        listen_port: None,
        mtu: 1420,
        peers: vec![peer],
        limits: Limits::default(),
        warnings: Vec::new(),
    }
}

/// A network whose thread does not run.
fn driver(name: &str) -> Driver {
    let config = config(name);
    let network = Network::register(&config).unwrap();
    let (driver, _) = prepare(&network, &config, &network.shards()[0], Bound::open(0).unwrap()).unwrap();
    driver
}

fn flow(network: &Network, woken: &Woken) -> Arc<Flow> {
    let flow = Arc::new(Flow::new(network::unique(), Box::new(woken.clone()), network.queued_bytes.clone()));
    flow.lock().destinations.push_back(SocketAddr::from(DESTINATION));
    flow
}

#[test]
fn whoever_has_a_flow_is_told_that_the_network_has_ended() {
    let config = config("ended");
    let network = Network::register(&config).unwrap();
    let threads = start(&network, &config).unwrap();
    let woken = Woken::default();
    let flow = flow(&network, &woken);
    network.work(&flow);
    while flow.lock().network_side == FlowState::New {
        std::thread::yield_now();
    }
    network.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(flow.lock().outcome, Some(Outcome::NetworkDown));
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
}

#[test]
fn what_a_panic_has_left_is_told_without_the_netstack() {
    let mut driver = driver("panicked");
    let (woken, network) = (Woken::default(), driver.network.clone());
    let [open, left, came] = [(); 3].map(|()| flow(&network, &woken));
    network.work(&open);
    let now = driver.clock.now();
    driver.serve_egress(now);
    assert!(matches!(open.lock().network_side, FlowState::Open(_)));
    // Taken from the list, and not served any more.
    driver.work.push_back(left.clone());
    network.work(&came);
    let flows = driver.close_all();
    assert_eq!([open, left, came].map(|flow| flow.lock().outcome), [Some(Outcome::NetworkDown); 3]);
    assert_eq!((woken.0.load(Ordering::Relaxed), flows.len()), (3, 1));
    assert_eq!(driver.stack.stats().flows, 1, "the netstack was not asked");
}
