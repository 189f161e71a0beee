//! Whether ports can be bound, asked before Envoy is, because the answer here can name a remedy.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt},
};

use crate::rules::Protocol;

/// Why a port cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody has it.
    #[error("{what} is already in use: stop the process that has it, or choose another port")]
    InUse {
        /// The port and what it is for.
        what: String,
    },
    /// A port below the first that everybody may bind.
    #[error(
        "{what} is not permitted for this user: choose a port from {first}, or allow it with `sysctl net.ipv4.ip_unprivileged_port_start={port}` or `setcap cap_net_bind_service=+ep` on the Envoy binary"
    )]
    NotPermitted {
        /// The port and what it is for.
        what: String,
        /// The port.
        port: u16,
        /// The first port that everybody may bind.
        first: u16,
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

/// Whether a port can be listened on, on all addresses. Does not listen: nobody can connect to the question.
///
/// For UDP this is the only answer: Envoy binds it with SO_REUSEPORT, and shares it with whoever does so too.
///
/// # Errors
/// [`PortError`].
pub fn probe(protocol: Protocol, port: u16, ipv6: bool) -> Result<(), PortError> {
    let (kind, name) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, "TCP"),
        Protocol::Udp => (SocketType::DGRAM, "UDP"),
    };
    try_bind(kind, port, ipv6).map_err(|error| explain(error, port, format!("{name} port {port}")))
}

/// Whether the WireGuard port can be bound.
///
/// # Errors
/// [`PortError`].
pub fn probe_wireguard(port: u16, ipv6: bool) -> Result<(), PortError> {
    let what = || format!("WireGuard port {port} (UDP)");
    try_bind(SocketType::DGRAM, port, ipv6).map_err(|error| explain(error, port, what()))
}

fn try_bind(kind: SocketType, port: u16, ipv6: bool) -> Result<(), Errno> {
    let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let protocol = if kind == SocketType::STREAM { ipproto::TCP } else { ipproto::UDP };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
    if kind == SocketType::STREAM {
        // As Envoy does: connections of an earlier listener in TIME_WAIT are no obstacle.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    let address: SocketAddr = if ipv6 {
        sockopt::set_ipv6_v6only(&socket, false)?;
        (Ipv6Addr::UNSPECIFIED, port).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, port).into()
    };
    bind(&socket, &address)
}

fn explain(error: Errno, port: u16, what: String) -> PortError {
    match error {
        Errno::ADDRINUSE => PortError::InUse { what },
        Errno::ACCESS => PortError::NotPermitted { what, port, first: first_unprivileged() },
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
    use crate::translate::host_has_ipv6;

    #[test]
    fn busy_and_free() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        let error = probe(Protocol::Tcp, port, host_has_ipv6()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("TCP port {port} is already in use")), "{error}");
        drop(tcp);
        probe(Protocol::Tcp, port, host_has_ipv6()).unwrap();

        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = udp.local_addr().unwrap().port();
        assert!(matches!(probe_wireguard(port, host_has_ipv6()), Err(PortError::InUse { .. })));
        drop(udp);
        probe_wireguard(port, host_has_ipv6()).unwrap();
    }

    #[test]
    fn the_remedy_for_a_low_port() {
        let error = explain(Errno::ACCESS, 80, "TCP port 80".to_owned()).to_string();
        assert!(error.contains("sysctl net.ipv4.ip_unprivileged_port_start=80"), "{error}");
    }
}
