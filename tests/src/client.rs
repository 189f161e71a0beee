//! TCP clients.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

/// How long any one read, write or connect may take.
pub const CLIENT_LIMIT: Duration = Duration::from_secs(30);

/// Opens a connection with limits.
///
/// # Errors
/// Those of connecting.
pub fn connect(to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.into(), CLIENT_LIMIT)?;
    stream.set_read_timeout(Some(CLIENT_LIMIT))?;
    stream.set_write_timeout(Some(CLIENT_LIMIT))?;
    Ok(stream)
}

/// The body of the page at this port of 127.0.0.1.
///
/// # Errors
/// Those of the connection, and an answer that is no page (such as none at all).
pub fn http_get(to: impl Into<Target>) -> io::Result<String> {
    let mut stream = connect(to.into().0)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let page = answer.strip_prefix("HTTP/1.1 200 OK\r\n").and_then(|rest| rest.split_once("\r\n\r\n"));
    page.map(|(_, body)| body.to_owned()).ok_or_else(|| io::Error::other(format!("no page: {answer:?}")))
}

/// Where a client goes: a port of 127.0.0.1, or a whole address.
pub struct Target(SocketAddr);

impl From<u16> for Target {
    fn from(port: u16) -> Target {
        Target((Ipv4Addr::LOCALHOST, port).into())
    }
}

impl<T: Into<std::net::IpAddr>> From<(T, u16)> for Target {
    fn from(address: (T, u16)) -> Target {
        Target(address.into())
    }
}

/// Closes a connection with a reset instead of an orderly end.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an open socket");
}

/// Reads until the other side ends the connection, one way or the other; throws away what comes before.
///
/// # Errors
/// How it ended, if not in order: `ConnectionReset` for a reset, `WouldBlock` when it did not end within the limit.
pub fn read_end(stream: &mut TcpStream) -> io::Result<u64> {
    io::copy(stream, &mut io::sink())
}

/// How a connection ends that the other side accepts and then ends by itself.
///
/// # Errors
/// As [`read_end`]. A reset can come so soon that connecting fails with it.
///
/// # Panics
/// When the connection is not accepted.
#[track_caller]
pub fn accepted_and_ended(to: impl Into<SocketAddr>) -> io::Result<u64> {
    let connected = connect(to);
    if is_reset(&connected) {
        return connected.map(|_| 0);
    }
    read_end(&mut connected.expect("accepted"))
}

/// Whether the other side reset the connection.
pub fn is_reset<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Server, http};

    #[test]
    fn a_page_arrives() {
        let server = Server::local(http("hello"));
        assert_eq!(http_get(server.port()).expect("a page"), "hello");
    }

    #[test]
    fn a_reset_is_seen_as_one() {
        let server = Server::local(|mut stream| {
            // Not before the client is through with connecting.
            stream.read_exact(&mut [0]).expect("a byte");
            reset(stream);
        });
        let mut stream = connect(server.address()).expect("a connection");
        stream.write_all(b"x").expect("sent");
        assert!(is_reset(&read_end(&mut stream)));
    }
}
