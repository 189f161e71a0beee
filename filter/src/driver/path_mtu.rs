//! What fits the way to a peer.

use envoy_config::DEFAULT_MTU;
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// What IPv6 in the tunnel asks for (RFC 8200, section 5). Ways that are smaller than that fragment.
const SMALLEST_MTU: u16 = 1280;
/// IPv6, UDP, and WireGuard's header and tag. Over IPv4 it is 20 bytes less, which wg-quick(8) does not use either: a peer may
/// move.
const OVERHEAD: u32 = 80;

/// The MTU of a tunnel to these endpoints: what the smallest of the ways to them carries in one piece, as the routes of this
/// host say.
pub(super) fn tunnel_mtu(endpoints: impl Iterator<Item = SocketAddr>) -> u16 {
    let ways = endpoints.filter_map(|endpoint| route_mtu(endpoint).ok());
    let fits = |way: u32| u16::try_from(way.saturating_sub(OVERHEAD)).unwrap_or(DEFAULT_MTU);
    ways.map(fits).min().unwrap_or(DEFAULT_MTU).clamp(SMALLEST_MTU, DEFAULT_MTU)
}

/// Sends nothing: a UDP socket that is connected knows its route.
fn route_mtu(to: SocketAddr) -> io::Result<u32> {
    let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(if to.is_ipv6() { ipv6_mtu(&socket)? } else { ip_mtu(&socket)? })
}

/// Hosts to which the kernel sends no batches: it does not fragment what it segments itself (UDP GSO), and says EMSGSIZE, or
/// EINVAL before Linux 6.15, where a segment does not fit the route.
#[derive(Default)]
pub(super) struct Narrow {
    until: HashMap<IpAddr, Instant>,
}

impl Narrow {
    /// After this time batches are tried again: routes change.
    const TIME: Duration = Duration::from_secs(60);
    /// How many hosts are remembered.
    const MOST: usize = 1024;

    pub(super) fn contains(&self, host: IpAddr) -> bool {
        // Mostly there are none, and no clock is read.
        self.until.get(&host).is_some_and(|until| Instant::now() < *until)
    }

    /// Whether it was not there.
    pub(super) fn insert(&mut self, host: IpAddr) -> bool {
        let now = Instant::now();
        if self.until.len() >= Self::MOST {
            // They are found again by one refused call each.
            self.until.clear();
        }
        self.until.insert(host, now + Self::TIME).is_none()
    }
}

/// Whether this is the kernel's answer to a batch whose segments do not fit.
pub(super) fn is_too_large(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|errno| [Errno::MSGSIZE, Errno::INVAL, Errno::IO].contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_carries_everything_and_what_has_no_route_asks_for_nothing() {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        assert_eq!(tunnel_mtu([local].into_iter()), 1420);
        assert_eq!(tunnel_mtu(std::iter::empty()), 1420);
    }

    #[test]
    fn narrow_hosts_are_bounded() {
        let mut narrow = Narrow::default();
        let host = |n: u32| IpAddr::from(Ipv4Addr::from_bits(n));
        assert!(!narrow.contains(host(1)));
        assert!(narrow.insert(host(1)) && !narrow.insert(host(1)) && narrow.contains(host(1)));
        for n in 0..3000 {
            narrow.insert(host(n));
            assert!(narrow.until.len() <= Narrow::MOST && narrow.contains(host(n)));
        }
    }
}
