//! The way back to the clients of Envoy's UDP listeners.
//!
//! A client takes an answer only from the address and port that it has sent to, and those are the listener's. Envoy shares them
//! (`enable_reuse_port`) with sockets of the same process, so the module has one of its own at each such port. It is
//! connected to itself: so the kernel gives it nothing of what clients send, which is all for Envoy's sockets. The address that
//! answers come from is said with each (`IP_PKTINFO`).

use super::burst::{Burst, Sent};
use crate::driver::udp::{allow_fragmentation, enlarge_buffers};
use envoy_proxy_dynamic_modules_rust_sdk::envoy_log_error;
use quinn_udp::UdpSocketState;
use socket2::{Domain, Protocol, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
        self.sockets.get(&key(local)).map_or(1, |answer| answer.state.max_gso_segments())
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
        let own: IpAddr =
            if local.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let own = SocketAddr::new(own, local.port());
        let (socket, state) = shared(own, own)?;
        // What has come between the two calls, when Envoy listens at this very address, is as good as lost on the way.
        while socket.recv(&mut [0]).is_ok() {}
        Ok(Self { socket, state, flows: 1 })
    }
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
    use std::net::UdpSocket;

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
    fn a_port_that_is_not_shared_is_refused() {
        let listener = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut answers = Answers::default();
        let error = answers.begin(listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
