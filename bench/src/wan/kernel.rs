//! A namespace at one end of the link, with threads that send or take without end: through Linux's TCP, through
//! `wireguard-go` on top, through a node of ours, or through onetun.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::{Identity, Namespace, Node, NodeBuilder, Process, Products, WgPeer, run_ok};
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::{Result, onetun};

/// This kernel's default may be another, so it is asked for.
const CONGESTION_CONTROL: &[u8] = b"cubic";

/// How soon a thread notices that the run is over.
const NOTICE: Duration = Duration::from_millis(100);

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// What stands between the programs and the link.
enum Guest<'a> {
    WireguardGo(#[expect(dead_code, reason = "it runs as long as it is here")] WgPeer),
    Node(#[expect(dead_code, reason = "it runs as long as it is here")] Box<Node<'a>>),
    Onetun(
        #[expect(dead_code, reason = "it runs as long as it is here")] Process,
        #[expect(dead_code, reason = "of the process")] TempDir,
    ),
}

/// A namespace whose only way out is a TUN device. New for every run: Linux remembers paths (`tcp_metrics`).
pub(super) struct Kernel<'a> {
    namespace: &'a Namespace,
    device: SyncDevice,
    over: Arc<AtomicBool>,
    received: Arc<Mutex<HashMap<IpAddr, u64>>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    guest: Option<Guest<'a>>,
}

impl<'a> Kernel<'a> {
    pub(super) fn new(namespace: &'a Namespace, address: Ipv4Addr, mtu: u16) -> Result<Self> {
        let device = namespace.run(|| {
            DeviceBuilder::new()
                .name("link")
                .ipv4(address, 32, None)
                .mtu(mtu)
                .tx_queue_len(10_000)
                .build_sync()
        })?;
        device.set_nonblocking(true)?;
        run_ok(namespace.command("ip").args(["route", "add", "default", "dev", "link"]));
        Ok(Self {
            namespace,
            device,
            over: Arc::default(),
            received: Arc::default(),
            threads: Vec::new(),
            guest: None,
        })
    }

    /// With `wireguard-go` in it.
    pub(super) fn add_wireguard(&mut self, own: &Identity, other: &Identity) {
        self.guest = Some(Guest::WireguardGo(WgPeer::start(self.namespace, own, &[other])));
    }

    /// With a node of ours in it.
    pub(super) fn add_node(
        &mut self,
        products: &Products,
        own: &Identity,
        other: &Identity,
        rules: impl FnOnce(NodeBuilder<'a>) -> NodeBuilder<'a>,
    ) {
        let node = Node::with(products, own).default_workers().peer(other).within(self.namespace);
        self.guest = Some(Guest::Node(Box::new(rules(node).start())));
    }

    /// With onetun in it: what connects to `local` reaches `overlay`.
    pub(super) fn add_onetun(
        &mut self,
        own: &Identity,
        other: &Identity,
        local: SocketAddrV4,
        overlay: SocketAddrV4,
    ) -> Result<()> {
        let directory = tempfile::tempdir()?;
        let process =
            onetun::start(self.namespace, directory.path(), own, other, local.into(), overlay.into())?;
        self.guest = Some(Guest::Onetun(process, directory));
        Ok(())
    }

    /// Whether programs connect to a local port.
    pub(super) const fn has_forwarder(&self) -> bool {
        matches!(self.guest, Some(Guest::Node(_) | Guest::Onetun(..)))
    }

    pub(super) fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// A packet that the kernel sends, if there is one.
    pub(super) fn take(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match self.device.recv(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A packet for the kernel.
    pub(super) fn give(&self, packet: &[u8]) -> Result<()> {
        self.device.send(packet)?;
        Ok(())
    }

    /// Sends to `to` until the end of the run.
    pub(super) fn start_source(&mut self, to: SocketAddrV4) -> Result<()> {
        let over = Arc::clone(&self.over);
        let socket = self.namespace.run(tcp_socket)?;
        self.threads.push(std::thread::spawn(move || {
            connect(&socket, to)?;
            let mut stream = TcpStream::from(socket);
            stream.set_write_timeout(Some(NOTICE))?;
            until(&over, || stream.write(&super::stack::CONTENT).map(drop))
        }));
        Ok(())
    }

    /// Takes what comes to `address` until the end of the run.
    pub(super) fn start_sink(&mut self, address: SocketAddrV4) -> Result<()> {
        let address = SocketAddr::from(address);
        let listener = self.namespace.run(|| -> io::Result<TcpListener> {
            let socket = tcp_socket()?;
            socket.bind(&address.into())?;
            socket.listen(16)?;
            Ok(socket.into())
        })?;
        listener.set_nonblocking(true)?;
        let (over, received) = (Arc::clone(&self.over), Arc::clone(&self.received));
        self.threads.push(std::thread::spawn(move || {
            let mut takers = Vec::new();
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, from)) => {
                        let (over, received) = (Arc::clone(&over), Arc::clone(&received));
                        takers.push(std::thread::spawn(move || take(&stream, from.ip(), &over, &received)));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(error),
                }
            }
            takers
                .into_iter()
                .try_for_each(|taker| taker.join().unwrap_or_else(|_| Err(io::Error::other("panic"))))
        }));
        Ok(())
    }

    /// Bytes that arrived, by the addresses they came from.
    pub(super) fn received(&self) -> HashMap<IpAddr, u64> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Kernel<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Whoever listens may not do so yet.
fn connect(socket: &Socket, to: SocketAddrV4) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match socket.connect_timeout(&SocketAddr::from(to).into(), CONNECT) {
            Err(error) if is_refused(&error) && begin.elapsed() < CONNECT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

/// Linux says that a socket was refused once more, in other words, when it is to connect again.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted)
}

fn tcp_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_congestion(CONGESTION_CONTROL)?;
    // Nothing lingers in a namespace that is about to go.
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

fn take(
    mut stream: &TcpStream,
    from: IpAddr,
    over: &AtomicBool,
    received: &Mutex<HashMap<IpAddr, u64>>,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(NOTICE))?;
    let mut buffer = vec![0; 256 << 10];
    until(over, || {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *received.lock().unwrap_or_else(PoisonError::into_inner).entry(from).or_default() += count as u64;
        Ok(())
    })
}

/// Repeats `step`, which gives up after [`NOTICE`], until the run is over.
fn until(over: &AtomicBool, mut step: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    while !over.load(Ordering::Relaxed) {
        match step() {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
