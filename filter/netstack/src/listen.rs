//! Where new flows are taken.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A local port, of all own addresses or of one. Displays as `443`, `100.64.0.1:443` or `[fd00::1]:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Local {
    /// `None`: all.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl From<u16> for Local {
    fn from(port: u16) -> Self {
        Self { address: None, port }
    }
}

impl From<SocketAddr> for Local {
    fn from(local: SocketAddr) -> Self {
        Self { address: Some(local.ip()), port: local.port() }
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => SocketAddr::new(address, self.port).fmt(f),
            None => self.port.fmt(f),
        }
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Listening(HashSet<Local>);

impl Listening {
    pub(crate) fn insert(&mut self, local: Local) {
        self.0.insert(local);
    }

    pub(crate) fn remove(&mut self, local: Local) {
        self.0.remove(&local);
    }

    /// Whether flows to this own address and port are taken.
    pub(crate) fn contains(&self, local: SocketAddr) -> bool {
        self.0.contains(&local.into()) || self.0.contains(&local.port().into())
    }
}
