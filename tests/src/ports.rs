//! Ports that are free, files that may be open.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// Below the range from which the kernel takes ports of outgoing connections, so that none of those takes it in between, and
/// below that from which nodes take ports of loopback addresses.
const PORTS: std::ops::Range<u16> = 10_000..16_384;
/// Tests that run at once take from different parts of it: between choosing a port and opening it lies the start of an Envoy.
const PARTS: u16 = 28;
const COUNT: u16 = (PORTS.end - PORTS.start) / PARTS;

/// A TCP and UDP port that nothing listens on now: another one at each call, and not that of a test that runs at the same time.
///
/// # Panics
/// When every port is taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // nextest gives this number to one running test at a time. `cargo test` runs one program at a time, which counts.
    let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok().and_then(|slot| slot.parse::<u16>().ok());
    let (first, count) = match slot {
        Some(slot) => (PORTS.start + slot % PARTS * COUNT, COUNT),
        None => (PORTS.start, PORTS.end - PORTS.start),
    };
    // The test before had the same part, and may have left connections behind.
    let start = std::process::id().wrapping_mul(101);
    for _ in 0..count {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).into());
        let port = first + u16::try_from(offset % u32::from(count)).expect("smaller than count");
        if is_free(port) {
            return port;
        }
    }
    panic!("no free port");
}

/// Several free ports.
pub fn free_ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| free_port())
}

fn is_free(port: u16) -> bool {
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let no_ipv6 = |error: &std::io::Error| error.kind() != std::io::ErrorKind::AddrInUse;
    TcpListener::bind(v4).is_ok()
        && UdpSocket::bind(v4).is_ok()
        && TcpListener::bind(v6).map_or_else(|error| no_ipv6(&error), |_| true)
        && UdpSocket::bind(v6).map_or_else(|error| no_ipv6(&error), |_| true)
}

/// A UDP socket that takes datagrams and never answers: the endpoint of a peer that is not there. Nothing tells the
/// sender, as a closed port's ICMP would.
pub fn silent_udp_socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port")
}

/// A TCP port of loopback that refuses as long as this lives: nobody else can have it, and nobody listens.
pub struct ClosedPort(Socket);

impl ClosedPort {
    /// One that nobody has.
    ///
    /// # Panics
    /// When there is none.
    pub fn any() -> ClosedPort {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        ClosedPort(socket)
    }

    /// Where nobody listens.
    ///
    /// # Panics
    /// Never.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("bound").as_socket().expect("an IP address")
    }
}

/// Lets this process have as many open files as the system allows it.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("the soft limit may be raised");
}
