//! One run of one cell.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use e2e::{Identity, Namespace, Products};

use super::kernel::Kernel;
use super::link::{Counters, Fault, Late, Shape};
use super::ours::Ours;
use super::plan::{Cell, Task};
use super::rig::{End, Host, Rig};
use super::rows::{Path, Whose};
use super::smoltcp::Smoltcp;
use super::stack::{Role, Spec, Stack};
use super::tunnelled::Tunnelled;
use crate::Result;

/// As on most of the internet.
const MTU: u16 = 1500;
const PORT: u16 = 5201;
const LEFT: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 1);
/// Where a node and its programs meet.
const LOCAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);

/// smoltcp's buffers do not grow: as large as Linux's become by default.
const FIXED_BUFFER: usize = 4 << 20;

/// What came out of a run.
pub(super) struct Outcome {
    /// Goodput of each sender over the whole time, slow start included.
    pub(super) mbps: Vec<f64>,
    /// What the link did to the data.
    pub(super) counters: Counters,
    pub(super) late: Late,
}

/// What stands at one end.
struct Place<'a> {
    whose: Whose,
    address: Ipv4Addr,
    /// The sender's own distance from the link.
    further: Duration,
    seed: u64,
    /// `None` for what runs in this process.
    namespace: Option<&'a Namespace>,
    /// With a tunnel: who it is, and who the other end is.
    identities: Option<(&'a Identity, &'a Identity)>,
}

/// Runs a cell for `time`. `products` are asked for by cells with nodes in them.
pub(super) fn run(task: &Task, time: Duration, products: Option<&Products>) -> Result<Outcome> {
    let (path, fault, senders, to, wireguard) = match &task.cell {
        Cell::Row(row, column) => (row.path, row.fault, vec![(column.from, 0)], column.to, column.wireguard),
        Cell::Pair(pair) => {
            let senders = pair.senders.into_iter().zip(pair.further_ms).collect();
            (pair.path, Fault::None, senders, Whose::Linux, false)
        }
    };
    let [one, other] = Identity::several();
    let (one, other) = (one.at(LEFT[0]), other.at(RIGHT));
    let namespace = |whose| matches!(whose, Whose::Linux | Whose::Node | Whose::Onetun).then(Namespace::new);
    // They outlive the rig, whose processes and devices are in them.
    let namespaces: Vec<_> = senders.iter().map(|(whose, _)| namespace(*whose)).collect();
    let right_namespace = namespace(to);

    let right = Place {
        whose: to,
        address: RIGHT,
        further: Duration::ZERO,
        seed: !task.seed,
        namespace: right_namespace.as_ref(),
        identities: wireguard.then_some((&other, &one)),
    };
    let server = SocketAddrV4::new(if wireguard { other.v4 } else { RIGHT }, PORT);
    let right = right.receiver(server, products)?;
    let mut left = Vec::new();
    for (index, ((whose, further), namespace)) in senders.into_iter().zip(&namespaces).enumerate() {
        let place = Place {
            whose,
            address: LEFT[index],
            // All of it on the way to the receiver: the sum of both ways is what counts.
            further: Duration::from_millis(further),
            seed: task.seed + index as u64,
            namespace: namespace.as_ref(),
            identities: wireguard.then_some((&one, &other)),
        };
        left.push(place.sender(server, products)?);
    }
    let mut rig = rig(left, right, path, fault, task.seed);
    start(&mut rig, server)?;
    rig.run(time)?;
    Ok(Outcome { mbps: goodput(&rig, time), counters: rig.counters(), late: rig.late() })
}

fn rig<'a>(left: Vec<Host<'a>>, right: Host<'a>, path: Path, fault: Fault, seed: u64) -> Rig<'a> {
    let back = Shape {
        rate: path.rate_mbps * 1_000_000,
        queue_bytes: path.queue_bytes(),
        delay: path.one_way(),
        fault: Fault::None,
    };
    Rig::new(left, right, Shape { fault, ..back }, back, seed)
}

/// Begins to send, now that everything is there. Stacks in this process begin when they are polled.
fn start(rig: &mut Rig<'_>, server: SocketAddrV4) -> Result<()> {
    for host in &mut rig.left {
        if let End::Kernel(kernel) = &mut host.end {
            kernel.start_source(if kernel.has_forwarder() { LOCAL } else { server })?;
        }
    }
    Ok(())
}

impl<'a> Place<'a> {
    fn sender(&self, server: SocketAddrV4, products: Option<&Products>) -> Result<Host<'a>> {
        let Some(mut kernel) = self.kernel()? else { return self.stack(Role::Source(server)) };
        if let Some((own, other)) = self.identities {
            match self.whose {
                Whose::Node => {
                    let products = products.ok_or("the programs of a node are missing")?;
                    let rule = format!("tcp:{PORT}:{server},bind=127.0.0.1");
                    kernel.add_node(products, own, other, |node| node.egress(rule));
                }
                Whose::Onetun => kernel.add_onetun(own, other, LOCAL, server)?,
                Whose::Linux | Whose::Smoltcp | Whose::Ours => kernel.add_wireguard(own, other),
            }
        }
        Ok(self.host(End::Kernel(kernel)))
    }

    fn receiver(&self, server: SocketAddrV4, products: Option<&Products>) -> Result<Host<'a>> {
        let Some(mut kernel) = self.kernel()? else { return self.stack(Role::Sink(PORT)) };
        let mut address = server;
        if let Some((own, other)) = self.identities {
            if self.whose == Whose::Node {
                let products = products.ok_or("the programs of a node are missing")?;
                let rule = format!("tcp:{PORT}:{LOCAL}");
                kernel.add_node(products, own, other, |node| node.ingress(rule));
                address = LOCAL;
            } else {
                kernel.add_wireguard(own, other);
            }
        }
        kernel.start_sink(address)?;
        Ok(self.host(End::Kernel(kernel)))
    }

    fn kernel(&self) -> Result<Option<Kernel<'a>>> {
        self.namespace.map(|namespace| Kernel::new(namespace, self.address, MTU)).transpose()
    }

    fn stack(&self, role: Role) -> Result<Host<'a>> {
        let spec = Spec { address: self.address, role, seed: self.seed, mtu: MTU, buffer: FIXED_BUFFER };
        let stack: Box<dyn Stack> = match (self.identities, self.whose) {
            (Some((own, other)), _) => Box::new(Tunnelled::new(&spec, own, other)?),
            (None, Whose::Smoltcp) => Box::new(Smoltcp::new(&spec)),
            (None, _) => Box::new(Ours::new(&spec)),
        };
        Ok(self.host(End::Stack(stack)))
    }

    const fn host(&self, end: End<'a>) -> Host<'a> {
        Host { address: self.address, further: self.further, end }
    }
}

/// Mbit/s that the receiving application got from each sender.
fn goodput(rig: &Rig<'_>, time: Duration) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a rate to be read")]
    let mbps = |bytes: u64| bytes as f64 * 8.0 / 1e6 / time.as_secs_f64();
    match (&rig.right.end, &rig.left[..]) {
        (End::Stack(stack), _) => vec![mbps(stack.received())],
        // In a tunnel, and behind a node, senders have other addresses.
        (End::Kernel(kernel), [_]) => vec![mbps(kernel.received().values().sum())],
        (End::Kernel(kernel), several) => {
            let received = kernel.received();
            let of = |host: &Host<'_>| received.get(&host.address.into()).copied().unwrap_or(0);
            several.iter().map(|host| mbps(of(host))).collect()
        }
    }
}
