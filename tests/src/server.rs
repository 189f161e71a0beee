//! TCP servers with a behaviour.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::net::Shutdown;

use crate::client::CLIENT_LIMIT;

/// A listening socket with a thread per connection. It ends when dropped; its connections end by themselves.
pub struct Server {
    listener: TcpListener,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// A server on a free port of 127.0.0.1.
    pub fn local(behaviour: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        Server::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"), behaviour)
    }

    /// A server on a socket, which may be in another namespace.
    pub fn on(listener: TcpListener, behaviour: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let (incoming, behaviour) = (listener.try_clone().expect("a second handle"), Arc::new(behaviour));
        let accept = move || {
            while let Ok((stream, _)) = incoming.accept() {
                let behaviour = Arc::clone(&behaviour);
                let limited = stream
                    .set_read_timeout(Some(CLIENT_LIMIT))
                    .and(stream.set_write_timeout(Some(CLIENT_LIMIT)));
                limited.expect("a timeout can be set");
                let name = std::thread::Builder::new().name("connection".into()).stack_size(512 * 1024);
                name.spawn(move || behaviour(stream)).expect("a thread");
            }
        };
        let acceptor = std::thread::Builder::new().name("server".into()).spawn(accept).expect("a thread");
        Server { listener, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket")
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address().port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the acceptor: on Linux, accept() then fails.
        rustix::net::shutdown(&self.listener, Shutdown::Both).expect("a listening socket");
        let acceptor = self.acceptor.take().expect("joined once");
        if acceptor.join().is_err() {
            eprintln!("a server's acceptor panicked");
        }
    }
}

/// Sends back what comes, and the end of it too.
pub fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            // As a read with a time limit ends when its process was stopped and goes on (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(count) if stream.write_all(&buffer[..count]).is_err() => break,
            Ok(_) => {}
        }
    }
}

/// Answers one HTTP request with this page.
pub fn http(page: impl Into<String>) -> impl Fn(TcpStream) + Send + Sync + 'static {
    let page = page.into();
    move |mut stream| {
        // A client that left is no concern of a web server.
        let _: io::Result<()> = read_request(&mut stream).and_then(|()| {
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", page.len());
            stream.write_all((head + &page).as_bytes())
        });
    }
}

fn read_request(stream: &mut TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
        if request.len() > 16 * 1024 {
            return Err(io::Error::other("too long a request"));
        }
    }
    Ok(())
}
