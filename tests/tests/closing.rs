//! How connections end: every way of ending one arrives at the other side as what it was.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use e2e::{CLIENT_LIMIT, Server, Tunnel, connect, is_reset, need, products, read_end, reset};

/// A server that does one thing with each connection and reports its result.
fn server<T: Send + 'static>(work: impl Fn(TcpStream) -> T + Send + Sync + 'static) -> (Server, Receiver<T>) {
    let (results, received): (Sender<T>, _) = mpsc::channel();
    let server = Server::local(move |stream| {
        // The test may have ended.
        let _ = results.send(work(stream));
    });
    (server, received)
}

fn client(tunnel: &Tunnel) -> TcpStream {
    connect(([127, 0, 0, 1], tunnel.port)).expect("a connection")
}

#[test]
fn a_client_may_finish_sending_and_still_get_the_reply() {
    let products = need!(products());
    let (server, _) = server(|mut stream| {
        let mut question = String::new();
        stream.read_to_string(&mut question).expect("the question to its end");
        write!(stream, "answer to {question}").expect("the reply goes back");
    });
    let tunnel = Tunnel::to(&products, server.address());
    for round in 0..10 {
        let mut client = client(&tunnel);
        write!(client, "question {round}").expect("sent");
        client.shutdown(Shutdown::Write).expect("an open connection");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("the reply to its end");
        assert_eq!(answer, format!("answer to question {round}"));
    }
}

#[test]
fn a_server_may_close_first_and_the_client_sees_the_end() {
    let products = need!(products());
    let (server, _) = server(|mut stream| stream.write_all(b"goodbye"));
    let tunnel = Tunnel::to(&products, server.address());
    let mut client = client(&tunnel);
    // Nothing is written: the end must arrive by itself.
    let mut all = String::new();
    client.read_to_string(&mut all).expect("an ordered end");
    assert_eq!(all, "goodbye");
}

#[test]
fn a_server_may_finish_sending_and_still_read() {
    let products = need!(products());
    let (server, results) = server(|mut stream| {
        stream.write_all(b"your turn").expect("sent");
        stream.shutdown(Shutdown::Write).expect("an open connection");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).map(|_| rest)
    });
    let tunnel = Tunnel::to(&products, server.address());
    let mut client = client(&tunnel);
    let mut all = String::new();
    client.read_to_string(&mut all).expect("the server's half-close");
    assert_eq!(all, "your turn");
    client.write_all(b"after your end").expect("the other direction is open");
    drop(client);
    assert_eq!(
        results.recv_timeout(CLIENT_LIMIT).expect("the server is through").expect("an ordered end"),
        "after your end"
    );
}

#[test]
fn a_client_that_closes_at_once_ends_in_order_at_the_server() {
    let products = need!(products());
    let (server, results) = server(|mut stream| read_end(&mut stream));
    let tunnel = Tunnel::to(&products, server.address());
    drop(client(&tunnel));
    let end = results.recv_timeout(CLIENT_LIMIT).expect("the server saw the end");
    assert_eq!(end.expect("an ordered end"), 0);
}

#[test]
fn a_clients_reset_mid_transfer_resets_at_the_server() {
    let products = need!(products());
    let (server, results) = server(|mut stream| {
        stream.write_all(b"ready").expect("sent");
        read_end(&mut stream)
    });
    let tunnel = Tunnel::to(&products, server.address());
    let mut client = client(&tunnel);
    client.read_exact(&mut [0; 5]).expect("the whole way is open");
    client.write_all(&[1; 100_000]).expect("sent");
    reset(client);
    let end = results.recv_timeout(CLIENT_LIMIT).expect("the server saw an end");
    assert!(is_reset(&end), "the server saw {end:?}");
}

#[test]
fn a_servers_reset_mid_transfer_resets_at_the_client() {
    let products = need!(products());
    let (server, _) = server(|mut stream| {
        stream.read_exact(&mut [0; 5]).expect("the whole way is open");
        stream.write_all(&[1; 100_000]).expect("sent");
        reset(stream);
    });
    let tunnel = Tunnel::to(&products, server.address());
    let mut client = client(&tunnel);
    client.write_all(b"ready").expect("sent");
    let end = read_end(&mut client);
    assert!(is_reset(&end), "the client saw {end:?}");
}

/// A server that only takes may end its own stream first. What it has of a stream that is cut off must not look whole.
#[test]
fn a_clients_reset_after_the_servers_end_resets_at_the_server() {
    let products = need!(products());
    for greeting in [&b""[..], b"goodbye", &[1; 300_000]] {
        let (server, results) = server(move |mut stream| {
            stream.write_all(greeting).expect("sent");
            stream.shutdown(Shutdown::Write).expect("an open connection");
            read_end(&mut stream)
        });
        let tunnel = Tunnel::to(&products, server.address());
        for sent in [0, 5, 100_000] {
            let mut client = client(&tunnel);
            assert_eq!(read_end(&mut client).expect("the server's end"), greeting.len() as u64);
            client.write_all(&vec![2; sent]).expect("sent");
            reset(client);
            let end = results.recv_timeout(CLIENT_LIMIT).expect("the server saw an end");
            assert!(is_reset(&end), "{} bytes there, {sent} back: the server saw {end:?}", greeting.len());
        }
    }
}

#[test]
fn a_servers_reset_after_the_clients_end_resets_at_the_client() {
    let products = need!(products());
    let (server, _) = server(|mut stream| {
        read_end(&mut stream).expect("the client's end");
        stream.write_all(&[1; 100_000]).expect("sent");
        reset(stream);
    });
    let tunnel = Tunnel::to(&products, server.address());
    for sent in [&b""[..], b"question", &[1; 300_000]] {
        let mut client = client(&tunnel);
        client.write_all(sent).expect("sent");
        client.shutdown(Shutdown::Write).expect("an open connection");
        let end = read_end(&mut client);
        assert!(is_reset(&end), "{} bytes there: the client saw {end:?}", sent.len());
    }
}

#[test]
fn a_reset_while_nothing_is_sent_arrives_too() {
    let products = need!(products());
    let (server, results) = server(|mut stream| {
        stream.write_all(b"ready").expect("sent");
        let mut kind = [0];
        match stream.read_exact(&mut kind) {
            // Told to reset by the client of the second half.
            Ok(()) => {
                reset(stream);
                Ok(0)
            }
            Err(error) => Err::<u64, io::Error>(error),
        }
    });
    let tunnel = Tunnel::to(&products, server.address());
    let ready = || {
        let mut client = client(&tunnel);
        client.read_exact(&mut [0; 5]).expect("the whole way is open");
        client
    };
    reset(ready());
    let end = results.recv_timeout(CLIENT_LIMIT).expect("the server saw an end");
    assert!(is_reset(&end), "the server saw {end:?}");

    let mut client = ready();
    client.write_all(b"r").expect("sent");
    let end = read_end(&mut client);
    assert!(is_reset(&end), "the client saw {end:?}");
}

#[test]
fn an_ended_connection_leaves_nothing_behind() {
    let products = need!(products());
    let server = Server::local(e2e::echo);
    let tunnel = Tunnel::to(&products, server.address());
    for round in 0..50 {
        let mut client = client(&tunnel);
        client.write_all(b"hello").expect("sent");
        client.read_exact(&mut [0; 5]).expect("echoed");
        // In turn: reset, half-close, close.
        match round % 3 {
            0 => reset(client),
            1 => {
                client.shutdown(Shutdown::Write).expect("an open connection");
                read_end(&mut client).expect("an ordered end");
            }
            _ => drop(client),
        }
    }
    for (node, listener) in
        [(&tunnel.two, tunnel.egress_listener()), (&tunnel.one, tunnel.ingress_listener())]
    {
        let gauge = format!("cluster.{listener}.upstream_cx_active");
        e2e::within(Duration::from_secs(15), &format!("{gauge} to be 0"), || {
            (node.admin().stat(&gauge) == 0).then_some(())
        });
        node.access_log(&listener, 50);
    }
}

/// The server has ended its stream, and the client says nothing, when Envoy gives the connection up: nobody would ever write to
/// what is left of it.
#[test]
fn what_envoy_closes_after_the_servers_end_leaves_no_socket_open() {
    const COUNT: usize = 20;
    let products = need!(products());
    let (go, gone) = mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let server = Server::local(move |mut stream| {
        stream.write_all(b"bye").expect("sent");
        stream.shutdown(Shutdown::Write).expect("an open connection");
        // Until the test has ended.
        drop(gone.lock().map(|gone| gone.recv()));
    });
    let tunnel = Tunnel::to(&products, server.address());
    let envoy = tunnel.one.envoy_id().expect("a running Envoy");
    let sockets = || std::fs::read_dir(format!("/proc/{envoy}/fd")).map_or(0, Iterator::count);
    let before = sockets();
    let clients: Vec<TcpStream> = (0..COUNT)
        .map(|_| {
            let mut client = client(&tunnel);
            let mut said = String::new();
            client.read_to_string(&mut said).expect("the server's stream to its end");
            assert_eq!(said, "bye");
            client
        })
        .collect();
    assert!(sockets() >= before + 2 * COUNT);
    // Its drain time is short.
    let rule = format!("tcp:{}:{}", Tunnel::OVERLAY_PORT, server.address());
    tunnel.one.nexctl_ok(&["proxy", "remove", "--ingress", &rule]);
    e2e::within(Duration::from_secs(15), "sockets to be closed", || {
        (sockets() < before + COUNT / 2).then_some(())
    });
    drop((clients, go));
}
