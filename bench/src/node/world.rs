//! The rig: two namespaces, a WireGuard peer in each, a service in the far one.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use e2e::{Identity, Namespace, Node, Products, WgPeer, connect, free_port};

use super::service::{Service, answers};
use super::udp::Datagrams;
use crate::{Result, onetun};

/// Where the service listens, on every address of the far namespace.
pub(super) const SERVICE: u16 = 9000;

/// From the start of the near side to the first byte.
const FIRST_BYTE: Duration = Duration::from_secs(20);

/// What Envoy says when datagrams come faster than it takes them, which the measure `udp` makes sure of.
const UDP_LOSS: &str = "Kernel dropped";

/// What is between the client and the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Side {
    /// wireguard-go with a TUN device, to the same: the reference.
    WireguardGo,
    /// Our node, to wireguard-go.
    Ours,
    /// Our node, to our node.
    OursBoth,
    /// onetun, to wireguard-go.
    Onetun,
}

impl Side {
    /// As on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::WireguardGo => "wireguard-go",
            Self::Ours => "ours",
            Self::OursBoth => "ours-both",
            Self::Onetun => "onetun",
        }
    }
}

/// Two namespaces joined by a veth pair.
pub(super) struct Cable {
    near: Namespace,
    far: Namespace,
}

impl Cable {
    pub(super) fn new() -> Result<Self> {
        let (near, far) = Namespace::pair();
        for namespace in [&near, &far] {
            room_for_connections(namespace)?;
        }
        Ok(Self { near, far })
    }
}

/// A rig that is up. What is near ends first, then what is far.
pub(super) struct World<'a> {
    pub(super) side: Side,
    /// Where the clients are.
    pub(super) near: &'a Namespace,
    /// Where the service is.
    pub(super) far: &'a Namespace,
    /// Where they connect.
    pub(super) target: SocketAddr,
    /// The process whose cost counts: the near WireGuard.
    pub(super) process: u32,
    /// From the start of that process to a byte that came back.
    pub(super) first_byte: Duration,
    pub(super) products: &'a Products,
    /// What the clients use.
    pub(super) service: Service,
    /// The same for datagrams, at the same port.
    pub(super) datagrams: Datagrams,
    /// Where its service is in the overlay.
    pub(super) overlay: SocketAddr,
    /// What is near, where it is our node.
    pub(super) node: Option<Node<'a>>,
    /// Its rules file, which is empty at first.
    pub(super) rules: PathBuf,
    _near: Box<dyn End + 'a>,
    _far: Box<dyn End + 'a>,
}

/// What speaks WireGuard in a namespace, for as long as it is held.
trait End: Sync {}

impl<T: Sync> End for T {}

impl<'a> World<'a> {
    /// Sets everything up and waits until a byte has come back.
    pub(super) fn new(side: Side, cable: &'a Cable, products: &'a Products) -> Result<Self> {
        let Cable { near, far } = cable;
        let [near_id, far_id] = Identity::several();
        let (near_id, far_id) = (near_id.at(Namespace::NEAR), far_id.at(Namespace::FAR));
        let service = Service::start(far, (Ipv4Addr::UNSPECIFIED, SERVICE).into())?;
        let datagrams = Datagrams::start(far, (Ipv4Addr::UNSPECIFIED, SERVICE).into())?;
        let overlay = SocketAddr::from((far_id.v4, SERVICE));
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));

        let far_end: Box<dyn End + 'a> = match side {
            Side::OursBoth => {
                let node = Node::with(products, &far_id)
                    .default_workers()
                    .peer(&near_id)
                    .within(far)
                    .expect_complaint(UDP_LOSS);
                let rule = |protocol| format!("{protocol}:{SERVICE}:127.0.0.1:{SERVICE}");
                Box::new(node.ingress(rule("tcp")).ingress(rule("udp")).start())
            }
            _ => Box::new(WgPeer::start(far, &far_id, &[&near_id])),
        };
        let directory = tempfile::tempdir()?;
        let rules = directory.path().join("rules.yaml");
        let mut node = None;
        let start = Instant::now();
        let (near_end, target, process, first_byte): (Box<dyn End + 'a>, _, _, _) = match side {
            Side::WireguardGo => {
                let peer = WgPeer::start(near, &near_id, &[&far_id]);
                let process = peer.process_id();
                (Box::new(peer), overlay, process, wait_first_byte(near, overlay, start)?)
            }
            Side::Ours | Side::OursBoth => {
                let ours = Node::with(products, &near_id)
                    .default_workers()
                    .peer(&far_id)
                    .within(near)
                    .expect_complaint(UDP_LOSS);
                let rule = |protocol| format!("{protocol}:{}:{overlay}", local.port());
                fs::write(&rules, "egress: []\n")?;
                let flag = format!("--rules={}", rules.display());
                let mut ours = ours.egress(rule("tcp")).egress(rule("udp")).flag(flag).build();
                ours.launch();
                let first_byte = wait_first_byte(near, local, start)?;
                ours.wait_ready();
                let envoy = ours.envoy_id().ok_or("the node has no Envoy")?;
                node = Some(ours);
                (Box::new(directory), local, envoy, first_byte)
            }
            Side::Onetun => {
                let onetun = onetun::start(near, directory.path(), &near_id, &far_id, local, overlay)?;
                let process = onetun.id();
                (Box::new((onetun, directory)), local, process, wait_first_byte(near, local, start)?)
            }
        };
        Ok(Self {
            side,
            near,
            far,
            target,
            process,
            first_byte,
            products,
            service,
            datagrams,
            overlay,
            node,
            rules,
            _near: near_end,
            _far: far_end,
        })
    }
}

/// Until a byte comes back: everything is up, the handshake is over.
fn wait_first_byte(near: &Namespace, target: SocketAddr, start: Instant) -> Result<Duration> {
    while !near.run(|| connect(target)).is_ok_and(answers) {
        if start.elapsed() > FIRST_BYTE {
            return Err(format!("no byte came back within {FIRST_BYTE:?}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(start.elapsed())
}

/// Loads with many short connections are not to wait for ports in TIME-WAIT.
fn room_for_connections(namespace: &Namespace) -> Result<()> {
    namespace.run(|| {
        let settings = Path::new("/proc/sys/net/ipv4");
        fs::write(settings.join("ip_local_port_range"), "32768 65535")?;
        fs::write(settings.join("tcp_tw_reuse"), "1")?;
        Ok(())
    })
}
