//! The links, what is wrong with them, and who sends to whom.

use std::time::Duration;

use super::link::Fault;

/// A link without its faults: rate, round-trip time and a queue of one bandwidth-delay product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) rate_mbps: u64,
    pub(super) rtt_ms: u64,
}

impl Path {
    pub(super) const fn queue_bytes(self) -> usize {
        (self.rate_mbps * 1_000_000 / 8 * self.rtt_ms / 1000) as usize
    }

    pub(super) const fn one_way(self) -> Duration {
        Duration::from_micros(self.rtt_ms * 500)
    }
}

const PATHS: [Path; 4] = [
    Path { rate_mbps: 200, rtt_ms: 20 },
    Path { rate_mbps: 1000, rtt_ms: 40 },
    Path { rate_mbps: 50, rtt_ms: 100 },
    Path { rate_mbps: 1000, rtt_ms: 1 },
];

/// For comparisons of whole programs, which have a tunnel.
const TUNNEL_PATHS: [Path; 3] = [
    Path { rate_mbps: 200, rtt_ms: 10 },
    Path { rate_mbps: 200, rtt_ms: 40 },
    Path { rate_mbps: 200, rtt_ms: 100 },
];

const TUNNEL_FAULTS: [(&str, Fault); 5] = [
    ("clean", Fault::None),
    ("loss 0.1%", Fault::Loss(0.001)),
    ("loss 0.5%", Fault::Loss(0.005)),
    ("loss 1%", Fault::Loss(0.01)),
    ("loss 2%", Fault::Loss(0.02)),
];

const FAULTS: [(&str, Fault); 8] = [
    ("clean", Fault::None),
    ("loss 0.01%", Fault::Loss(0.0001)),
    ("loss 0.1%", Fault::Loss(0.001)),
    ("loss 1%", Fault::Loss(0.01)),
    ("loss 3%", Fault::Loss(0.03)),
    ("bursts 0.1%", Fault::Bursts(0.001)),
    ("reorder 0.1%", Fault::Reorder(0.001)),
    ("reorder 1%", Fault::Reorder(0.01)),
];

/// A link that every column is measured on.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// `200 Mbit/s, 20 ms, loss 0.1%`
    pub(super) name: String,
    pub(super) path: Path,
    pub(super) fault: Fault,
    /// Whether only columns with a tunnel have it.
    tunnel: bool,
}

impl Row {
    fn new(path: Path, (fault_name, fault): (&str, Fault), tunnel: bool) -> Self {
        let name = format!("{} Mbit/s, {} ms, {fault_name}", path.rate_mbps, path.rtt_ms);
        Self { name, path, fault, tunnel }
    }

    /// Whether this column is measured on it.
    pub(super) const fn suits(&self, column: &Column) -> bool {
        column.wireguard || !self.tunnel
    }
}

pub(super) fn all() -> Vec<Row> {
    let rows = |paths: &[Path], faults: &[(&str, Fault)], tunnel| {
        let row = |path| faults.iter().map(move |fault| Row::new(path, *fault, tunnel));
        paths.iter().copied().flat_map(row).collect::<Vec<_>>()
    };
    [rows(&PATHS, &FAULTS, false), rows(&TUNNEL_PATHS, &TUNNEL_FAULTS, true)].concat()
}

/// Whose TCP is at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Linux,
    Smoltcp,
    Ours,
    /// Ours, with everything that a user has around it: Envoy and the module. Its programs speak to it over loopback.
    Node,
    /// onetun's, which is smoltcp's, as a program.
    Onetun,
}

/// Sender and receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// As in the JSON result, without `_mbps`.
    pub(super) name: &'static str,
    pub(super) from: Whose,
    pub(super) to: Whose,
    /// The link carries a WireGuard tunnel: `wireguard-go` for Linux, boringtun for ours.
    pub(super) wireguard: bool,
}

const fn column(name: &'static str, from: Whose, to: Whose) -> Column {
    Column { name, from, to, wireguard: false }
}

const fn tunnel(name: &'static str, from: Whose, to: Whose) -> Column {
    Column { name, from, to, wireguard: true }
}

/// The first of those without a tunnel, and of those with one, is the reference of the others.
pub(super) const COLUMNS: [Column; 11] = [
    column("linux_to_linux", Whose::Linux, Whose::Linux),
    column("ours_to_linux", Whose::Ours, Whose::Linux),
    column("linux_to_ours", Whose::Linux, Whose::Ours),
    column("smoltcp_to_linux", Whose::Smoltcp, Whose::Linux),
    column("ours_to_ours", Whose::Ours, Whose::Ours),
    tunnel("wireguard_linux_to_linux", Whose::Linux, Whose::Linux),
    tunnel("wireguard_ours_to_linux", Whose::Ours, Whose::Linux),
    tunnel("wireguard_linux_to_ours", Whose::Linux, Whose::Ours),
    tunnel("wireguard_node_to_linux", Whose::Node, Whose::Linux),
    tunnel("wireguard_linux_to_node", Whose::Linux, Whose::Node),
    tunnel("wireguard_onetun_to_linux", Whose::Onetun, Whose::Linux),
];

/// Two senders to one Linux, through one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) name: &'static str,
    pub(super) path: Path,
    pub(super) senders: [Whose; 2],
    /// What each sender's round trip has beyond the link's.
    pub(super) further_ms: [u64; 2],
}

const SHARED: Path = Path { rate_mbps: 200, rtt_ms: 20 };
const NEAR: Path = Path { rate_mbps: 200, rtt_ms: 10 };

pub(super) const PAIRS: [Pair; 6] = [
    Pair { name: "Linux beside Linux", path: SHARED, senders: [Whose::Linux; 2], further_ms: [0; 2] },
    Pair {
        name: "ours beside Linux",
        path: SHARED,
        senders: [Whose::Ours, Whose::Linux],
        further_ms: [0; 2],
    },
    Pair { name: "ours beside ours", path: SHARED, senders: [Whose::Ours; 2], further_ms: [0; 2] },
    Pair {
        name: "Linux 100 ms beside Linux 10 ms",
        path: NEAR,
        senders: [Whose::Linux; 2],
        further_ms: [90, 0],
    },
    Pair {
        name: "ours 100 ms beside Linux 10 ms",
        path: NEAR,
        senders: [Whose::Ours, Whose::Linux],
        further_ms: [90, 0],
    },
    Pair {
        name: "Linux 100 ms beside ours 10 ms",
        path: NEAR,
        senders: [Whose::Linux, Whose::Ours],
        further_ms: [90, 0],
    },
];
