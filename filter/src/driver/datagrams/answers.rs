//! The way back to the clients of Envoy's UDP listeners.
//!
//! A client takes an answer only from the address and port that it has sent to, and those are the listener's. Envoy shares them
//! (`enable_reuse_port`) with sockets of the same process, so the module has one of its own at each such port. It is
//! connected to itself, at an address that nobody uses if there is one: so the kernel gives it nothing of what clients send,
//! which is all for Envoy's sockets. The address that answers come from is said with each (`IP_PKTINFO`).

use super::burst::{Burst, Sent};
use crate::driver::udp::{allow_fragmentation, enlarge_buffers};
use envoy_proxy_dynamic_modules_rust_sdk::envoy_log_error;
use quinn_udp::UdpSocketState;
use socket2::{Domain, Protocol, Type};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// Sockets by port and family: as many as there are with flows.
#[derive(Default)]
pub(super) struct Answers {
    sockets: HashMap<(u16, bool), Answer>,
    /// That one could not be opened stands in the log already.
    complained: bool,
}

struct Answer {
    socket: mio::net::UdpSocket,
    state: UdpSocketState,
    /// Datagrams in a burst. quinn-udp gives up bursts for good after one that the kernel refuses, which may be due to one client of
    /// many; those are remembered one by one ([`Narrow`](crate::driver::path_mtu::Narrow)).
    most_at_once: usize,
    flows: usize,
}

impl Answers {
    /// A flow begins whose client has sent to this address.
    pub(super) fn begin(&mut self, local: SocketAddr) -> io::Result<()> {
        let key = key(local);
        if let Some(answer) = self.sockets.get_mut(&key) {
            answer.flows += 1;
            return Ok(());
        }
        match Answer::open(local) {
            Ok(answer) => {
                self.sockets.insert(key, answer);
                self.complained = false;
                Ok(())
            }
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    envoy_log_error!(
                        "answers from UDP port {}: {}; the listener has to have enable_reuse_port",
                        local.port(),
                        error
                    );
                }
                Err(error)
            }
        }
    }

    /// Such a flow has ended.
    pub(super) fn end(&mut self, local: SocketAddr) {
        let key = key(local);
        if let Some(answer) = self.sockets.get_mut(&key) {
            answer.flows -= 1;
            if answer.flows == 0 {
                self.sockets.remove(&key);
            }
        }
    }

    /// Datagrams for one system call.
    pub(super) fn most_at_once(&self, local: SocketAddr) -> usize {
        self.sockets.get(&key(local)).map_or(1, |answer| answer.most_at_once)
    }

    pub(super) fn send(&self, local: SocketAddr, client: SocketAddr, burst: &Burst) -> Sent {
        match self.sockets.get(&key(local)) {
            Some(answer) => burst.send(&answer.socket, &answer.state, client, Some(local.ip())),
            None => Sent { refused: burst.count(), narrow: false },
        }
    }
}

impl Answer {
    fn open(local: SocketAddr) -> io::Result<Self> {
        let own = |own| {
            let (socket, state) = shared(own, own)?;
            // What has come between its binding and its connecting is as good as lost on the way.
            while socket.recv(&mut [0]).is_ok() {}
            Ok(Self { most_at_once: state.max_gso_segments(), socket, state, flows: 1 })
        };
        match local {
            // Another program may have the port at 127.0.0.1, and the rule another address.
            SocketAddr::V4(_) => own((unused_loopback(), local.port()).into()).or_else(|_| own(local)),
            SocketAddr::V6(_) => own(local),
        }
    }
}

/// An address that nothing else on this host is likely to have.
fn unused_loopback() -> Ipv4Addr {
    let [_, high, middle, low, ..] = RandomState::new().build_hasher().finish().to_be_bytes();
    Ipv4Addr::new(127, high.max(1), middle, low.clamp(1, 254))
}

/// A socket at an address that others have too, connected.
pub(super) fn shared(
    local: SocketAddr,
    remote: SocketAddr,
) -> io::Result<(mio::net::UdpSocket, UdpSocketState)> {
    let socket = socket2::Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    enlarge_buffers(&socket);
    socket.bind(&local.into())?;
    socket.connect(&remote.into())?;
    let socket = mio::net::UdpSocket::from_std(socket.into());
    let state = UdpSocketState::new((&socket).into())?;
    allow_fragmentation(&socket, local.is_ipv6());
    Ok((socket, state))
}

fn key(local: SocketAddr) -> (u16, bool) {
    (local.port(), local.is_ipv6())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv6Addr, UdpSocket};

    /// A listener that shares its port.
    fn listener(address: IpAddr) -> UdpSocket {
        let address = SocketAddr::new(address, 0);
        let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        socket
    }

    fn asks_and_is_answered(listener: IpAddr, asked: IpAddr) {
        let listener = self::listener(listener);
        let local = SocketAddr::new(asked, listener.local_addr().unwrap().port());
        let mut answers = Answers::default();
        answers.begin(local).unwrap();
        // Clients with many ports: were the socket one of those that share the port, it would get some of this.
        for _ in 0..32 {
            let client = UdpSocket::bind((asked, 0)).unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            client.connect(local).unwrap();
            client.send(b"question").unwrap();
            let mut buffer = [0; 16];
            let (_, from) = listener.recv_from(&mut buffer).unwrap();
            let mut burst = Burst::default();
            for answer in [b"one", b"two"] {
                burst.push(crate::driver::datagrams::burst::tests::flow(), answer);
            }
            assert_eq!(answers.send(local, from, &burst), Sent::default());
            for answer in ["one", "two"] {
                // Connected: only what comes from where it has sent to.
                let len = client.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..len], answer.as_bytes());
            }
        }
        answers.begin(local).unwrap();
        answers.end(local);
        assert_eq!(answers.sockets.len(), 1);
        answers.end(local);
        assert!(answers.sockets.is_empty());
    }

    #[test]
    fn answers_come_from_the_address_that_was_asked() {
        let any = Ipv4Addr::UNSPECIFIED.into();
        asks_and_is_answered(any, Ipv4Addr::new(127, 3, 2, 1).into());
        asks_and_is_answered(any, Ipv4Addr::LOCALHOST.into());
        asks_and_is_answered(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into());
    }

    #[test]
    fn both_families_may_come_by_one_listener() {
        if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            eprintln!("no IPv6 here");
            return;
        }
        let any = Ipv6Addr::UNSPECIFIED.into();
        asks_and_is_answered(any, Ipv6Addr::LOCALHOST.into());
        asks_and_is_answered(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    }

    #[test]
    fn another_program_may_have_the_port_at_another_address() {
        // Addresses that nobody else uses: hardly anybody is given the port when it is free.
        let [elsewhere, bound] = [Ipv4Addr::new(127, 77, 0, 1), Ipv4Addr::new(127, 77, 0, 2)];
        let other = UdpSocket::bind((elsewhere, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        let listener = shared((bound, port).into(), (bound, port).into()).unwrap();
        let mut answers = Answers::default();
        answers.begin((bound, port).into()).unwrap();
        // And another one may come.
        drop((other, listener));
        UdpSocket::bind((elsewhere, port)).unwrap();
    }

    #[test]
    fn a_port_that_is_not_shared_is_refused() {
        let listener = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()));
        let error = Answers::default().begin(local).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn one_client_that_takes_no_burst_does_not_end_those_of_others() {
        let listener = listener(Ipv4Addr::UNSPECIFIED.into());
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()));
        let mut answers = Answers::default();
        answers.begin(local).unwrap();
        let before = answers.most_at_once(local);
        let mut burst = Burst::default();
        for answer in [b"one", b"two"] {
            burst.push(crate::driver::datagrams::burst::tests::flow(), answer);
        }
        // EINVAL: there is no port 0.
        let sent = answers.send(local, (Ipv4Addr::LOCALHOST, 0).into(), &burst);
        assert_eq!((sent.refused, answers.most_at_once(local)), (2, before));
    }
}
