//! Datagrams for one system call (GSO).

use crate::driver::path_mtu::is_too_large;
use mio::net::UdpSocket;
use nexodus_netstack::UdpFlowId;
use quinn_udp::{Transmit, UdpSocketState};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

/// The largest UDP payload over IPv4 (RFC 768, RFC 791), of one datagram and of a burst.
const MAX_PAYLOAD: usize = 65_507;

/// What became of a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Datagrams that the system has refused.
    pub(super) refused: u64,
    /// The way takes such datagrams as fragments only, and those one by one.
    pub(super) narrow: bool,
}

/// Datagrams of one flow, all of one size but for a last one that is smaller.
#[derive(Default)]
pub(super) struct Burst {
    flow: Option<UdpFlowId>,
    bytes: Vec<u8>,
    size: usize,
    count: usize,
}

impl Burst {
    /// Whether the datagram can go with those that are here, `most` in all.
    pub(super) fn takes(&self, flow: UdpFlowId, datagram: &[u8], most: usize) -> bool {
        self.flow == Some(flow)
            && (1..most).contains(&self.count)
            && self.bytes.len() == self.size * self.count
            && (1..=self.size).contains(&datagram.len())
            && self.bytes.len() + datagram.len() <= MAX_PAYLOAD
    }

    pub(super) fn push(&mut self, flow: UdpFlowId, datagram: &[u8]) {
        if self.count == 0 {
            self.size = datagram.len();
        }
        self.flow = Some(flow);
        self.bytes.extend_from_slice(datagram);
        self.count += 1;
    }

    pub(super) fn clear(&mut self) {
        self.flow = None;
        self.bytes.clear();
        self.count = 0;
    }

    /// Whose datagrams these are, if there are any.
    pub(super) fn flow(&self) -> Option<UdpFlowId> {
        self.flow
    }

    pub(super) fn count(&self) -> u64 {
        self.count as u64
    }

    fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count).map(|n| {
            let start = self.size * n;
            self.bytes.get(start..self.bytes.len().min(start + self.size)).unwrap_or_default()
        })
    }

    /// Sends them from this address of the host, if one is said.
    pub(super) fn send(
        &self,
        socket: &UdpSocket,
        state: &UdpSocketState,
        destination: SocketAddr,
        src_ip: Option<IpAddr>,
    ) -> Sent {
        let send = |contents, segment_size| {
            let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip };
            state.try_send(socket.into(), &transmit)
        };
        let at_once = || send(&self.bytes, self.segment_size());
        let sent = match at_once() {
            // ICMP about an earlier one, said once. Its client may have come back.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => at_once(),
            sent => sent,
        };
        match sent {
            Ok(()) => Sent::default(),
            Err(error) if self.count > 1 && is_too_large(&error) => {
                let refused = self.datagrams().filter(|datagram| send(datagram, None).is_err()).count();
                Sent { refused: refused as u64, narrow: true }
            }
            Err(_) => Sent { refused: self.count(), narrow: false },
        }
    }

    /// Where the kernel has to cut.
    fn segment_size(&self) -> Option<usize> {
        (self.count > 1).then_some(self.size)
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
pub(in crate::driver::datagrams) mod tests {
    use super::*;
    use nexodus_netstack::{Config, Limits, Netstack, Shard};

    pub(in crate::driver::datagrams) fn flow() -> UdpFlowId {
        flows()[0]
    }

    fn flows() -> [UdpFlowId; 2] {
        let config = Config {
            private_key: [7; 32],
            addresses: vec!["100.64.0.1/32".parse().expect("a prefix")],
            mtu: 1420,
            limits: Limits::default(),
            shard: Shard::default(),
            seed: 1,
        };
        let now = nexodus_netstack::Instant::from_micros(1);
        let mut stack = Netstack::new(config, now).expect("a stack");
        [1, 2].map(|port| stack.udp_connect(now, ([100, 64, 0, 1], port).into()).expect("a flow"))
    }

    /// How datagrams of these sizes are put together.
    fn bursts(datagrams: &[(usize, usize)], most: usize) -> Vec<(u64, Option<usize>)> {
        let flows = flows();
        let mut bursts = Vec::new();
        let mut burst = Burst::default();
        for &(flow, len) in datagrams {
            if !burst.takes(flows[flow], &vec![0; len], most) {
                bursts.push((burst.count(), burst.segment_size()));
                burst.clear();
            }
            burst.push(flows[flow], &vec![0; len]);
        }
        bursts.push((burst.count(), burst.segment_size()));
        bursts.split_off(1)
    }

    #[test]
    fn equal_datagrams_of_a_flow_go_together_and_a_smaller_one_ends_it() {
        let sizes = [(0, 100), (0, 100), (0, 40), (0, 40), (0, 41), (1, 41), (1, 0), (1, 0)];
        let expected = [(3, Some(100)), (1, None), (1, None), (1, None), (1, None), (1, None)];
        assert_eq!(bursts(&sizes, 64), expected);
    }

    #[test]
    fn it_can_be_taken_apart() {
        let [flow, _] = flows();
        let mut burst = Burst::default();
        assert_eq!(burst.datagrams().count(), 0);
        for datagram in ["one", "two", "4"] {
            burst.push(flow, datagram.as_bytes());
        }
        assert!(burst.datagrams().eq([&b"one"[..], b"two", b"4"]));
        burst.clear();
        burst.push(flow, b"");
        assert!(burst.datagrams().eq([&b""[..]]));
    }

    #[test]
    fn a_burst_is_as_long_as_the_kernel_takes_it() {
        assert_eq!(bursts(&[(0, 10); 7], 3), [(3, Some(10)), (3, Some(10)), (1, None)]);
        assert_eq!(bursts(&[(0, 10); 2], 1), [(1, None), (1, None)]);
        assert_eq!(bursts(&[(0, 1400); 50], 64), [(46, Some(1400)), (4, Some(1400))]);
        assert_eq!(bursts(&[(0, 65_507), (0, 65_507)], 64), [(1, None), (1, None)]);
    }
}
