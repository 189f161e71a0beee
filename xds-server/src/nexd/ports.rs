//! Whether ports can be bound, asked before Envoy is, because the answer here can name a remedy.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt},
};

use crate::rules::{Protocol, RuleKey};

/// Why a port cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody has it.
    #[error("{what} is already in use: stop the process that has it, or choose another port")]
    InUse {
        /// The port and what it is for.
        what: String,
    },
    /// Envoy has it, and will let go of it.
    #[error(
        "{what} is in use by Envoy itself, for flows of a rule that was removed: choose another port, or try again in {seconds} s"
    )]
    Draining {
        /// The port and what it is for.
        what: String,
        /// Until it is free.
        seconds: u64,
    },
    /// A port below the first that everybody may bind.
    #[error(
        "{what} is not permitted for this user: choose a port from {first}, or allow it with `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
    )]
    NotPermitted {
        /// The port and what it is for.
        what: String,
        /// The port.
        port: u16,
        /// The first port that everybody may bind.
        first: u16,
    },
    /// An address of another host.
    #[error(
        "{what}: this host has no such address; choose one that `ip address` shows, or leave bind out to listen on all"
    )]
    NotLocal {
        /// The port and what it is for.
        what: String,
    },
    /// Anything else.
    #[error("{what}: {error}")]
    Other {
        /// The port and what it is for.
        what: String,
        /// The system's reason.
        error: io::Error,
    },
}

/// Whether the port of an egress rule can be listened on, at the address that the rule names or on all. Does not listen:
/// nobody can connect to the question.
///
/// For UDP this is the only answer: Envoy binds it with SO_REUSEPORT, and shares it with whoever does so too.
///
/// # Errors
/// [`PortError`].
pub fn probe(key: RuleKey, ipv6: bool) -> Result<(), PortError> {
    let (kind, name) = match key.protocol {
        Protocol::Tcp => (SocketType::STREAM, "TCP"),
        Protocol::Udp => (SocketType::DGRAM, "UDP"),
    };
    let at = key.bind.map(|bind| format!(" at {bind}")).unwrap_or_default();
    let address = key.bind.unwrap_or_else(|| any(ipv6));
    try_bind(kind, SocketAddr::new(address, key.port))
        .map_err(|error| explain(error, key.port, format!("{name} port {}{at}", key.port)))
}

/// Whether the WireGuard port can be bound.
///
/// # Errors
/// [`PortError`].
pub fn probe_wireguard(port: u16, ipv6: bool) -> Result<(), PortError> {
    let what = || format!("WireGuard port {port} (UDP)");
    try_bind(SocketType::DGRAM, SocketAddr::new(any(ipv6), port))
        .map_err(|error| explain(error, port, what()))
}

/// Every address, of both families if the host has both.
fn any(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

fn try_bind(kind: SocketType, address: SocketAddr) -> Result<(), Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let protocol = if kind == SocketType::STREAM { ipproto::TCP } else { ipproto::UDP };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
    if kind == SocketType::STREAM {
        // As Envoy does: connections of an earlier listener in TIME_WAIT are no obstacle.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)
}

fn explain(error: Errno, port: u16, what: String) -> PortError {
    match error {
        Errno::ADDRINUSE => PortError::InUse { what },
        Errno::ACCESS => PortError::NotPermitted { what, port, first: first_unprivileged() },
        Errno::ADDRNOTAVAIL => PortError::NotLocal { what },
        error => PortError::Other { what, error: error.into() },
    }
}

fn first_unprivileged() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::{rules::Direction, translate::host_has_ipv6};

    fn tcp(port: u16, bind: Option<&str>) -> RuleKey {
        let bind = bind.map(|bind| bind.parse().unwrap());
        RuleKey { direction: Direction::Egress, protocol: Protocol::Tcp, port, bind }
    }

    #[test]
    fn busy_and_free() {
        let tcp_is_free_again = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let error = probe(tcp(port, None), host_has_ipv6()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("TCP port {port} is already in use")), "{error}");
            drop(listener);
            probe(tcp(port, None), host_has_ipv6()).is_ok()
        };
        let udp_is_free_again = || {
            let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            let port = udp.local_addr().unwrap().port();
            assert!(matches!(probe_wireguard(port, host_has_ipv6()), Err(PortError::InUse { .. })));
            drop(udp);
            probe_wireguard(port, host_has_ipv6()).is_ok()
        };
        // Somebody else may be given it meanwhile, and not each time.
        assert!((0..5).any(|_| tcp_is_free_again()) && (0..5).any(|_| udp_is_free_again()));
    }

    #[test]
    fn one_address_of_this_host_and_one_of_another() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        probe(tcp(port, Some("127.0.0.2")), false).unwrap();
        let error = probe(tcp(port, Some("127.0.0.1")), false).unwrap_err().to_string();
        assert!(error.starts_with(&format!("TCP port {port} at 127.0.0.1 is already in use: ")), "{error}");
        // TEST-NET-1.
        let error = probe(tcp(port, Some("192.0.2.1")), false).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("TCP port {port} at 192.0.2.1: this host has no such address")),
            "{error}"
        );
    }

    #[test]
    fn the_remedy_for_a_low_port() {
        let error = explain(Errno::ACCESS, 80, "TCP port 80".to_owned()).to_string();
        assert!(error.contains("sysctl net.ipv4.ip_unprivileged_port_start=80"), "{error}");
    }
}
