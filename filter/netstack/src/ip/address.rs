//! An address with a port, small.

use std::net::{IpAddr, SocketAddr};

/// 20 bytes where a `SocketAddr`, with IPv6's flow label and scope, takes 32: a flow's ends stand in several tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address {
    ip: IpAddr,
    port: u16,
}

impl Address {
    pub(crate) const fn new(ip: IpAddr, port: u16) -> Self {
        Self { ip, port }
    }

    pub(crate) const fn ip(self) -> IpAddr {
        self.ip
    }

    pub(crate) const fn port(self) -> u16 {
        self.port
    }

    pub(crate) const fn is_ipv4(self) -> bool {
        self.ip.is_ipv4()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: address.port() }
    }
}

impl From<Address> for SocketAddr {
    fn from(address: Address) -> Self {
        Self::new(address.ip, address.port)
    }
}
