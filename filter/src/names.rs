//! Host names in static configurations: looked up when a connection is made, by the system's resolver.
//!
//! That blocks for seconds when no name server answers, so a few threads of their own do it, with a bounded queue before
//! them. They start with the first name and are never joined: a lookup cannot be interrupted. (With an xDS server, names
//! are looked up there and none comes here.)

use envoy_proxy_dynamic_modules_rust_sdk::envoy_log_error;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use crate::network;

/// Lookups at one time.
const THREADS: usize = 4;
/// Addresses of one name that are tried.
const ADDRESSES: usize = 16;
/// Names that wait for a thread.
const QUEUE: usize = 256;

/// What becomes of a lookup: IPv4 first, as it is reached more often; none when the name does not resolve.
type Found = Box<dyn FnOnce(Vec<SocketAddr>) + Send>;

struct Lookup {
    host: String,
    port: u16,
    found: Found,
}

/// The queue is full, or there is no thread to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// Looks a name up; `found` is called on another thread.
pub(crate) fn look_up(host: &str, port: u16, found: Found) -> Result<(), TooMany> {
    static QUEUED: OnceLock<SyncSender<Lookup>> = OnceLock::new();
    let queue = QUEUED.get_or_init(|| start(THREADS, QUEUE, resolve));
    queue.try_send(Lookup { host: host.to_owned(), port, found }).map_err(|_| TooMany)
}

fn start(threads: usize, queue: usize, resolve: fn(&str, u16) -> Vec<SocketAddr>) -> SyncSender<Lookup> {
    let (sender, receiver) = sync_channel(queue);
    let receiver = Arc::new(Mutex::new(receiver));
    for number in 0..threads {
        let receiver = receiver.clone();
        let name = format!("nexodus:dns{number}");
        if let Err(error) = thread::Builder::new().name(name).spawn(move || run(&receiver, resolve)) {
            envoy_log_error!("a thread for host names: {}", error);
        }
    }
    sender
}

fn run(queue: &Mutex<Receiver<Lookup>>, resolve: fn(&str, u16) -> Vec<SocketAddr>) {
    loop {
        // One waits in the channel, the others for the lock.
        let Ok(Lookup { host, port, found }) = network::lock(queue).recv() else { return };
        found(resolve(&host, port));
    }
}

fn resolve(host: &str, port: u16) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(ADDRESSES);
    addresses
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn the_systems_names_are_found_and_others_are_not() {
        let (sender, found) = channel();
        for host in ["localhost", "no-such-name.invalid"] {
            let sender = sender.clone();
            look_up(host, 80, Box::new(move |addresses| sender.send((host, addresses)).unwrap())).unwrap();
        }
        let mut answers: Vec<_> =
            (0..2).map(|_| found.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
        answers.sort();
        assert!(answers[0].1.contains(&"127.0.0.1:80".parse().unwrap()), "{answers:?}");
        assert_eq!(answers[1], ("no-such-name.invalid", vec![]));
    }

    #[test]
    fn what_waits_is_bounded() {
        fn slow(_: &str, _: u16) -> Vec<SocketAddr> {
            thread::sleep(Duration::from_secs(3600));
            Vec::new()
        }
        let queue = start(1, 2, slow);
        let lookup = || Lookup { host: "h".to_owned(), port: 1, found: Box::new(|_| ()) };
        // One is being looked up at some time, two wait.
        let taken = (0..10).filter(|_| queue.try_send(lookup()).is_ok()).count();
        assert!((2..=3).contains(&taken), "{taken}");
    }
}
