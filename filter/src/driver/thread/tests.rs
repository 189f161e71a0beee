//! A network with one peer that never comes, on its thread and without it.

use super::*;
use crate::flow::{Flow, FlowState};
use crate::greeting::Outcome;
use envoy_config::{Limits, Peer, PrivateKey};
use nexodus_netstack::Local;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
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
        mtu: None,
        peers: vec![peer],
        limits: Limits::default(),
        warnings: Vec::new(),
    }
}

/// A network whose thread does not run.
pub(in crate::driver) fn driver(name: &str) -> (Driver, Poll) {
    let config = config(name);
    let network = Network::register(&config).unwrap();
    prepare(&network, &config, 1420, &network.shards()[0], Bound::open(0).unwrap()).unwrap()
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
fn who_comes_with_a_flow_when_the_network_has_ended_is_told_at_once() {
    let config = config("late");
    let network = Network::register(&config).unwrap();
    let threads = start(&network, &config).unwrap();
    network.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let woken = Woken::default();
    let [looked_up, direct] = [(); 2].map(|()| flow(&network, &woken));
    network.work(&looked_up);
    let _ = network.work_soon(&direct);
    crate::network::visits::run();
    assert_eq!([looked_up, direct].map(|flow| flow.lock().outcome), [Some(Outcome::NetworkDown); 2]);
    assert_eq!(woken.0.load(Ordering::Relaxed), 2);
}

#[test]
fn what_a_panic_has_left_is_told_without_the_netstack() {
    let (mut driver, _poll) = driver("panicked");
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

/// Writes a byte when it is to be scheduled, as `nexodus.ingress` does.
struct Filter(UnixStream);

impl EnvoyNetworkFilterScheduler for Filter {
    fn commit(&self, _event_id: u64) {
        (&self.0).write_all(&[0]).unwrap();
    }
}

#[test]
fn envoy_sees_a_reset_of_what_comes_from_a_network_that_has_ended() {
    let (mut driver, mut poll) = driver("ingress");
    let path = std::env::temp_dir().join(format!("nexodus-ingress-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    driver.relays.set_listeners(BTreeMap::from([(Local { address: None, port: 80 }, path.clone())]));
    let network = driver.network.clone();
    let local = SocketAddr::from(([100, 64, 0, 1], 80));
    let mut accept = |port| {
        let now = driver.clock.now();
        let flow = driver.stack.connect(now, DESTINATION.into()).unwrap();
        let remote = SocketAddr::from(([100, 64, 0, 2], port));
        driver.incoming(now, flow, local, remote);
        (listener.accept().unwrap().0, network.links.get(remote, local).unwrap())
    };
    let (mut idle, link) = accept(40_000);
    link.attach(&network, Box::new(Filter(idle.try_clone().unwrap())));
    // It can write nothing any more when the network ends.
    let (mut finished, link) = accept(40_002);
    link.attach(&network, Box::new(Filter(finished.try_clone().unwrap())));
    assert!(link.ends(3));
    finished.write_all(b"bye\0").unwrap();
    finished.shutdown(std::net::Shutdown::Write).unwrap();
    let (mut answering, _) = accept(40_001);
    let mut events = Events::with_capacity(16);
    poll.poll(&mut events, None).unwrap();
    driver.ready(&events);
    driver.turn().unwrap();
    answering.write_all(b"that nobody reads any more").unwrap();
    std::fs::remove_file(path).unwrap();
    driver.close_all();
    driver.reset_relays(&mut poll);
    for (stream, port) in [(&mut idle, 40_000), (&mut answering, 40_001), (&mut finished, 40_002)] {
        let mut received = Vec::new();
        let end = stream.read_to_end(&mut received).map_err(|error| error.kind());
        assert_eq!((received.len(), end), (28, Err(ErrorKind::ConnectionReset)), "PROXY header, reset");
        assert!(network.links.get(([100, 64, 0, 2], port).into(), local).is_none());
    }
}

/// What Envoy wrote last and its close may be told in one.
#[test]
fn an_abort_right_behind_the_last_bytes_is_seen() {
    let (mut driver, mut poll) = driver("aborted");
    let path = std::env::temp_dir().join(format!("nexodus-aborted-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let local = SocketAddr::from(([100, 64, 0, 1], 80));
    driver.relays.set_listeners(BTreeMap::from([(Local { address: None, port: 80 }, path.clone())]));
    let now = driver.clock.now();
    let flow = driver.stack.connect(now, DESTINATION.into()).unwrap();
    driver.incoming(now, flow, local, DESTINATION.into());
    let (mut stream, _) = listener.accept().unwrap();
    std::fs::remove_file(path).unwrap();
    stream.read_exact(&mut [0; 28]).unwrap();
    stream.write_all(b"cut o").unwrap();
    drop(stream);
    let mut events = Events::with_capacity(16);
    poll.poll(&mut events, None).unwrap();
    driver.ready(&events);
    driver.turn().unwrap();
    assert!(driver.network.links.get(DESTINATION.into(), local).is_none(), "the relay has ended");
    assert_eq!(driver.stats.resets_out, 1);
}

#[test]
fn a_visit_is_declined_when_a_turn_has_left_something() {
    let (mut driver, _poll) = driver("visits");
    let network = driver.network.clone();
    let woken = Woken::default();
    driver.turn().unwrap();
    network.set_phase(Phase::Running);
    let driver = Mutex::new(driver);
    let queued = flow(&network, &woken);
    network.work(&queued);
    driver.lock().unwrap().sleeps_until = Some(AT_ONCE);
    assert!(!visit(&driver));
    assert_eq!(queued.lock().network_side, FlowState::New);
    driver.lock().unwrap().turn().unwrap();
    let other = flow(&network, &woken);
    network.work(&other);
    assert!(visit(&driver), "the turn has left nothing");
    assert!(matches!(other.lock().network_side, FlowState::Open(_)));
}
