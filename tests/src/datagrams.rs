//! Programs that speak UDP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The largest payload over IPv4 (RFC 768, RFC 791).
pub const MAX_DATAGRAM: usize = 65_507;

/// How long a client waits for an answer.
const WAIT: Duration = Duration::from_secs(10);

/// A UDP server that answers each datagram. It ends when dropped.
pub struct UdpServer {
    socket: UdpSocket,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    /// A server on a socket, which may be in another namespace. Of an answer, at most [`MAX_DATAGRAM`] bytes are sent.
    pub fn on(
        socket: UdpSocket,
        answer: impl Fn(&[u8], SocketAddr) -> Vec<u8> + Send + 'static,
    ) -> UdpServer {
        // Now and then it looks whether it is to end.
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, own) = (ended.clone(), socket.try_clone().expect("a second handle"));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; MAX_DATAGRAM + 1];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, client)) = own.recv_from(&mut buffer) {
                    let mut answer = answer(&buffer[..length], client);
                    answer.truncate(MAX_DATAGRAM);
                    // The client may be gone.
                    let _ = own.send_to(&answer, client);
                }
            }
        });
        UdpServer { socket, ended, thread: Some(thread) }
    }

    /// A server that puts its name before what came.
    pub fn echo_on(socket: UdpSocket, name: &'static str) -> UdpServer {
        UdpServer::on(socket, move |payload, _| [name.as_bytes(), payload].concat())
    }

    /// The same on a free port of 127.0.0.1.
    pub fn echo(name: &'static str) -> UdpServer {
        UdpServer::echo_on(local_socket(), name)
    }

    /// A server on a free port of 127.0.0.1 that says where the datagram came from.
    pub fn mirror() -> UdpServer {
        UdpServer::mirror_on(local_socket())
    }

    /// The same on a socket.
    pub fn mirror_on(socket: UdpSocket) -> UdpServer {
        UdpServer::on(socket, |_, client| client.to_string().into_bytes())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("bound")
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// Sends something that nobody asked for.
    pub fn send_to(&self, payload: &[u8], client: SocketAddr) {
        self.socket.send_to(payload, client).expect("a datagram on its way");
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server's thread");
        }
    }
}

fn local_socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")
}

/// A client: a socket for one server, with a limit for its answers.
pub struct UdpClient(UdpSocket);

impl UdpClient {
    /// A client of this server.
    pub fn of(server: impl Into<SocketAddr>) -> UdpClient {
        let server = server.into();
        let any: IpAddr =
            if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).expect("a free port");
        // Answers from elsewhere do not arrive, ICMP errors do.
        socket.connect(server).expect("a route");
        socket.set_read_timeout(Some(WAIT)).expect("a timeout");
        UdpClient(socket)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// What ICMP said about an earlier one.
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        self.0.send(payload).map(|_| ())
    }

    /// Waits for one datagram.
    ///
    /// # Errors
    /// What ICMP said: `ConnectionRefused` for a closed port; `WouldBlock` when none came.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; MAX_DATAGRAM + 1];
        let length = loop {
            match self.0.recv(&mut buffer) {
                // A process that was stopped goes on.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        buffer.truncate(length);
        Ok(buffer)
    }

    /// One datagram and its answer.
    ///
    /// # Errors
    /// As [`UdpClient::receive`].
    pub fn ask(&self, payload: &[u8]) -> io::Result<Vec<u8>> {
        self.send(payload)?;
        self.receive()
    }

    /// The answer as text.
    ///
    /// # Errors
    /// As [`UdpClient::receive`].
    pub fn ask_text(&self, payload: &[u8]) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.ask(payload)?).into_owned())
    }

    /// Does not wait longer than this for an answer.
    #[must_use]
    pub fn patience(self, limit: Duration) -> UdpClient {
        self.0.set_read_timeout(Some(limit)).expect("a timeout");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_answered() {
        let server = UdpServer::echo("hello ");
        assert_eq!(UdpClient::of(server.address()).ask_text(b"you").expect("an answer"), "hello you");
    }

    #[test]
    fn a_closed_port_refuses() {
        let server = UdpServer::echo("");
        // Before the port is free again: it would be as good as any for the client.
        let client = UdpClient::of(server.address());
        drop(server);
        let error = client.ask(b"anybody?").expect_err("nobody is there");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
