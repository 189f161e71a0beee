//! A name server whose records a test changes as it goes. Standard library only: other crates' tests include this file.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How soon a server notices that it is to end.
const TICK: Duration = Duration::from_millis(50);
/// What a datagram may hold without EDNS (RFC 1035, section 4.2.1).
const DATAGRAM: usize = 512;
const A: u16 = 1;
const AAAA: u16 = 28;
const NXDOMAIN: u8 = 3;

/// The server. It ends when dropped.
pub struct DnsServer {
    address: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

/// What becomes of questions for IPv6 addresses.
#[derive(Clone, Copy, Default)]
pub enum Ipv6 {
    /// They are answered.
    #[default]
    Answered,
    /// They are not.
    Silent,
    /// They are refused, with this code.
    Refused(u8),
}

#[derive(Default)]
struct State {
    /// Lower-case names without the last dot.
    records: Mutex<BTreeMap<String, (u32, Vec<IpAddr>)>>,
    silent: AtomicBool,
    ipv6: Mutex<Ipv6>,
    ended: AtomicBool,
    datagrams: AtomicU64,
    connections: AtomicU64,
}

impl DnsServer {
    /// A server for UDP and TCP at an address; port 0 is any that is free for both.
    ///
    /// # Errors
    /// Those of binding.
    pub fn at(address: SocketAddr) -> io::Result<DnsServer> {
        loop {
            let tcp = TcpListener::bind(address)?;
            match UdpSocket::bind(tcp.local_addr()?) {
                Ok(udp) => return DnsServer::on(udp, tcp),
                // Any port, and of UDP somebody else has it.
                Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A server on these sockets.
    ///
    /// # Errors
    /// Those of setting the sockets up.
    pub fn on(udp: UdpSocket, tcp: TcpListener) -> io::Result<DnsServer> {
        let address = udp.local_addr()?;
        udp.set_read_timeout(Some(TICK))?;
        tcp.set_nonblocking(true)?;
        let state = Arc::<State>::default();
        let (of_udp, of_tcp) = (state.clone(), state.clone());
        let threads = vec![
            thread::spawn(move || of_udp.serve_datagrams(&udp)),
            thread::spawn(move || of_tcp.serve_connections(&tcp)),
        ];
        Ok(DnsServer { address, state, threads })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The addresses of a name from now on, with their time to live in seconds.
    pub fn set(&self, name: &str, ttl: u32, addresses: &[IpAddr]) {
        self.state.records().insert(name.to_ascii_lowercase(), (ttl, addresses.to_vec()));
    }

    /// The name does not exist any more.
    pub fn remove(&self, name: &str) {
        self.state.records().remove(name);
    }

    /// Whether it keeps its answers to itself.
    pub fn set_silent(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::Relaxed);
    }

    /// What becomes of questions for IPv6 addresses from now on.
    pub fn set_ipv6(&self, ipv6: Ipv6) {
        *self.state.ipv6.lock().unwrap_or_else(PoisonError::into_inner) = ipv6;
    }

    /// Questions that came as datagrams.
    pub fn datagrams(&self) -> u64 {
        self.state.datagrams.load(Ordering::Relaxed)
    }

    /// Questions that came over connections.
    pub fn over_tcp(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a name server's thread panicked");
            }
        }
    }
}

impl State {
    fn records(&self) -> MutexGuard<'_, BTreeMap<String, (u32, Vec<IpAddr>)>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve_datagrams(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while !self.ended.load(Ordering::Relaxed) {
            let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
            self.datagrams.fetch_add(1, Ordering::Relaxed);
            if let Some(answer) = self.answer(&buffer[..length], DATAGRAM) {
                // The client may be gone.
                let _ = socket.send_to(&answer, client);
            }
        }
    }

    fn serve_connections(&self, listener: &TcpListener) {
        while !self.ended.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    // One after the other, each for a short while: there is one client.
                    let served = stream
                        .set_nonblocking(false)
                        .and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(1))))
                        .and_then(|()| self.serve_stream(&mut stream));
                    if let Err(error) = served {
                        // How clients end a connection.
                        eprintln!("a name server's client: {error}");
                    }
                }
                Err(_) => thread::sleep(TICK),
            }
        }
    }

    fn serve_stream(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut question)?;
            self.connections.fetch_add(1, Ordering::Relaxed);
            if let Some(answer) = self.answer(&question, usize::from(u16::MAX)) {
                let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
                stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat())?;
            }
        }
    }

    /// The answer to a query with one question (RFC 1035, section 4.1); truncated to none when it is too long.
    fn answer(&self, query: &[u8], limit: usize) -> Option<Vec<u8>> {
        if self.silent.load(Ordering::Relaxed) {
            return None;
        }
        let (name, after) = name(query.get(12..)?)?;
        let question = query.get(12..12 + after + 4)?;
        let kind = u16::from_be_bytes([question[after], question[after + 1]]);
        let found = self.records().get(&name).cloned();
        let ipv6 = *self.ipv6.lock().unwrap_or_else(PoisonError::into_inner);
        let (code, found) = match ipv6 {
            Ipv6::Silent if kind == AAAA => return None,
            Ipv6::Refused(code) if kind == AAAA => (code, None),
            _ => (if found.is_none() { NXDOMAIN } else { 0 }, found),
        };
        let (ttl, addresses) = found.unwrap_or_default();
        let mut records = Vec::new();
        let mut count = 0u16;
        for address in addresses {
            let data: Vec<u8> = match address {
                IpAddr::V4(v4) if kind == A => v4.octets().to_vec(),
                IpAddr::V6(v6) if kind == AAAA => v6.octets().to_vec(),
                _ => continue,
            };
            count += 1;
            // The name is the question's, at offset 12.
            records.extend([0xc0, 12]);
            records.extend(kind.to_be_bytes());
            records.extend([0, 1]);
            records.extend(ttl.to_be_bytes());
            records.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            records.extend(data);
        }
        let truncated = 12 + question.len() + records.len() > limit;
        if truncated {
            (count, records) = (0, Vec::new());
        }
        // A response to a recursive query, which recursion is available for.
        let flags = [0x81 | if truncated { 0x02 } else { 0 }, 0x80 | code];
        let [high, low] = count.to_be_bytes();
        Some([&query[..2], &flags, &[0, 1, high, low, 0, 0, 0, 0], question, &records].concat())
    }
}

/// The name at the start, and where it ends.
fn name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}
