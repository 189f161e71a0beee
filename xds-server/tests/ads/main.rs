//! A real Envoy that gets its configuration from this server, over kernel sockets in place of the tunnel. Every case
//! runs with both protocols.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::allow_attributes, reason = "the shared file serves more than this")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../tests/src/ports.rs"]
#[allow(dead_code, unreachable_pub, clippy::expect_used, reason = "shared with the end-to-end tests")]
mod ports;
mod rig;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use ports::{ClosedPort, free_port};
use rig::{Rig, echo, echo_server, read, with_both};
use xds_server::{
    ads::{Ads, ApplyError},
    rules::Direction,
    snapshot::{ResourceName, ResourceType},
};

#[test]
fn rules_come_and_go_while_connections_stay() {
    with_both("rules_come_and_go_while_connections_stay", |mut rig| {
        let (one, two) = (echo_server("one"), echo_server("two"));
        let (port, other) = (free_port(), free_port());
        let (first, second) = (format!("tcp:{port}:127.0.0.1:{one}"), format!("tcp:{port}:127.0.0.1:{two}"));
        let name = format!("egress/tcp/{port}");

        rig.add(Direction::Egress, &first);
        rig.apply(&name).unwrap();
        let mut old = rig.connect(port);
        assert_eq!(read(&mut old, 3), "one");

        // A second destination: no listener and no cluster is touched.
        rig.add(Direction::Egress, &second);
        rig.apply(&name).unwrap();
        let names: Vec<_> = (0..8).map(|_| read(&mut rig.connect(port), 3)).collect();
        assert!(names.contains(&"one".to_owned()) && names.contains(&"two".to_owned()), "{names:?}");

        // Another rule beside it.
        rig.add(Direction::Ingress, &format!("tcp:{other}:127.0.0.1:{two}"));
        rig.apply(&format!("ingress/tcp/{other}")).unwrap();

        // The first destination goes; its connection lives on, longer than Envoy drains anything.
        rig.remove(Direction::Egress, &first);
        rig.apply(&name).unwrap();
        thread::sleep(Duration::from_millis(1500));
        echo(&mut old, "still here");
        let names: Vec<_> = (0..8).map(|_| read(&mut rig.connect(port), 3)).collect();
        assert_eq!(names, ["two"; 8]);
        for modified in ["listener_manager.listener_modified", "cluster_manager.cluster_modified"] {
            assert_eq!(rig.envoy.stat(modified), 0, "{modified}");
        }
        assert_eq!(rig.envoy.stat("listener_manager.listener_in_place_updated"), 0);

        // The last destination goes, and with it the listener.
        rig.remove(Direction::Egress, &second);
        rig.apply(&name).unwrap();
        rig.envoy.until("closed", || TcpStream::connect(("127.0.0.1", port)).err());
        assert_eq!(rig.envoy.stat("cluster_manager.cluster_removed"), 1);
        assert_eq!(rig.ads.status().last_nack, None);
        rig.assert_log(&[]);
    });
}

#[test]
fn a_port_in_use_is_told_and_keeps_nothing_else_out() {
    with_both("a_port_in_use_is_told_and_keeps_nothing_else_out", |mut rig| {
        let server = echo_server("one");
        // Not one that the kernel gives to others, when it is free again.
        let (taken, port) = (free_port(), free_port());
        let blocker = TcpListener::bind(("0.0.0.0", taken)).unwrap();
        rig.add(Direction::Egress, &format!("tcp:{taken}:127.0.0.1:{server}"));
        rig.add(Direction::Egress, &format!("tcp:{port}:127.0.0.1:{server}"));
        let error = rig.apply(&format!("egress/tcp/{taken}")).unwrap_err();
        let ApplyError::Nacked { resource, detail } = &error else { panic!("{error}") };
        eprintln!("{}: {detail}", rig.protocol);
        assert_eq!(resource, &format!("listener egress/tcp/{taken}"));
        assert!(detail.contains("cannot bind") && detail.contains("Address already in use"), "{detail}");
        rig.apply(&format!("egress/tcp/{port}")).unwrap();
        assert_eq!(read(&mut rig.connect(port), 3), "one");
        let nack = rig.ads.status().last_nack.unwrap();
        assert_eq!((nack.resource, nack.detail), (resource.clone(), detail.clone()));

        // It is asked once: Envoy's counter of rejections does not run.
        let rejected = rig.envoy.stat("listener_manager.lds.update_rejected");
        thread::sleep(Duration::from_millis(500));
        assert_eq!(rig.envoy.stat("listener_manager.lds.update_rejected"), rejected);
        eprintln!("{}: {rejected} rejected responses", rig.protocol);

        // Who made the change takes it back, and tries again when the port is free.
        rig.remove(Direction::Egress, &format!("tcp:{taken}:127.0.0.1:{server}"));
        rig.apply(&format!("egress/tcp/{taken}")).unwrap();
        assert_eq!(rig.ads.status().last_nack, None);
        drop(blocker);
        rig.add(Direction::Egress, &format!("tcp:{taken}:127.0.0.1:{server}"));
        rig.apply(&format!("egress/tcp/{taken}")).unwrap();
        assert_eq!(read(&mut rig.connect(taken), 3), "one");
        rig.assert_log(&["cannot bind", "config rejected", "Error adding/updating"]);
    });
}

#[test]
fn a_bad_destination_is_told_and_keeps_nothing_else_out() {
    with_both("a_bad_destination_is_told_and_keeps_nothing_else_out", |mut rig| {
        let server = echo_server("one");
        // Envoy takes a zone only of an interface that exists.
        rig.add(Direction::Ingress, "tcp:1:[fe80::1%nosuchif]:80");
        rig.add(Direction::Ingress, &format!("tcp:2:127.0.0.1:{server}"));
        rig.add(Direction::Ingress, &format!("tcp:3:127.0.0.1:{server}"));
        let error = rig.apply("ingress/tcp/1").unwrap_err();
        let ApplyError::Nacked { resource, detail } = &error else { panic!("{error}") };
        eprintln!("{}: {detail}", rig.protocol);
        assert_eq!(resource, "endpoints ingress/tcp/1");
        assert!(detail.contains("malformed IP address: fe80::1%nosuchif"), "{detail}");
        rig.apply("ingress/tcp/2").unwrap();
        rig.apply("ingress/tcp/3").unwrap();
        assert_eq!(read(&mut ingress(&rig, 2), 3), "one");
        rig.assert_log(&["malformed IP address"]);
    });
}

/// Envoy accepts a cluster when its names are looked up, found or not.
#[test]
fn a_name_that_does_not_resolve_holds_nothing_up_for_long() {
    with_both("a_name_that_does_not_resolve_holds_nothing_up_for_long", |mut rig| {
        let server = echo_server("one");
        rig.add(Direction::Ingress, &format!("tcp:1:127.0.0.1:{server}"));
        rig.add(Direction::Ingress, "tcp:2:no-such-host.invalid:80");
        for key in ["ingress/tcp/1", "ingress/tcp/2"] {
            rig.apply(key).unwrap();
        }
        // The same again while Envoy runs, which is another way through Envoy.
        rig.add(Direction::Ingress, "tcp:3:bad host!:80");
        rig.apply("ingress/tcp/3").unwrap();
        assert_eq!(read(&mut ingress(&rig, 1), 3), "one");
        assert_eq!(ingress(&rig, 2).read(&mut [0]).unwrap_or(0), 0);
        rig.assert_log(&[]);
    });
}

/// A connection as the module makes it: with a PROXY header that names the overlay peer.
fn ingress(rig: &Rig, port: u16) -> UnixStream {
    let socket = rig.ingress_socket(port);
    let mut stream = rig.envoy.until("listening", || UnixStream::connect(&socket).ok());
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([100, 64, 0, 2, 100, 64, 0, 1]);
    header.extend(40_000_u16.to_be_bytes());
    header.extend(port.to_be_bytes());
    stream.write_all(&header).unwrap();
    stream
}

#[test]
fn ingress_by_address_and_by_name_and_the_access_log() {
    with_both("ingress_by_address_and_by_name_and_the_access_log", |mut rig| {
        use std::os::unix::fs::PermissionsExt as _;

        let server = echo_server("one");
        let egress = free_port();
        rig.add(Direction::Ingress, &format!("tcp:443:127.0.0.1:{server}"));
        rig.add(Direction::Ingress, &format!("tcp:444:localhost:{server}"));
        let closed = ClosedPort::any();
        rig.add(Direction::Egress, &format!("tcp:{egress}:{}", closed.address()));
        for key in
            ["ingress/tcp/443".to_owned(), "ingress/tcp/444".to_owned(), format!("egress/tcp/{egress}")]
        {
            rig.apply(&key).unwrap();
        }
        for port in [443, 444] {
            let mut stream = ingress(&rig, port);
            assert_eq!(read(&mut stream, 3), "one");
            echo(&mut stream, "hello");
            let mode = fs::metadata(rig.ingress_socket(port)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(rig.connect(egress).read(&mut [0]).unwrap_or(0), 0);

        // Envoy writes its files when it has enough, or after a while.
        let log_of = |key: &str, what: &str| {
            let is_it = |line: &&str| line.contains(&format!(" {key} ")) && line.contains(what);
            let find = || rig.access_log().lines().find(is_it).map(str::to_owned);
            let line = rig.envoy.until("logged", find);
            eprintln!("{}: {line}", rig.protocol);
            line
        };
        let line = log_of("ingress/tcp/443", "from_client=5");
        let expected = format!(
            " ingress/tcp/443 client=100.64.0.2:40000 local=100.64.0.1:443 destination=127.0.0.1:{server} \
             attempts=1 from_client=5 to_client=8 duration_ms="
        );
        assert!(line.contains(&expected), "{line}");
        assert!(line.ends_with(" flags=- reason=\"-\" details=\"-\""), "{line}");
        let line = log_of("ingress/tcp/444", "from_client=5");
        assert!(line.contains(" to_client=8 "), "{line}");
        let line = log_of(&format!("egress/tcp/{egress}"), "");
        assert!(line.contains(" attempts=1 from_client=0 to_client=0 "), "{line}");
        assert!(line.contains(" flags=UF,URX reason=\""), "{line}");
        rig.assert_log(&[]);
    });
}

#[test]
fn a_server_that_restarts_changes_nothing() {
    with_both("a_server_that_restarts_changes_nothing", |mut rig| {
        let server = echo_server("one");
        let port = free_port();
        rig.add(Direction::Egress, &format!("tcp:{port}:127.0.0.1:{server}"));
        rig.add(Direction::Ingress, &format!("tcp:1:127.0.0.1:{server}"));
        rig.apply(&format!("egress/tcp/{port}")).unwrap();
        rig.apply("ingress/tcp/1").unwrap();
        let mut old = rig.connect(port);
        assert_eq!(read(&mut old, 3), "one");

        rig.stop_serving();
        echo(&mut old, "no server");
        // A new server that knows nothing leaves Envoy as it is; when it knows, only the difference counts.
        rig.ads = Ads::new();
        rig.serve();
        rig.envoy.until("connected", || (rig.ads.status().connected == 1).then_some(()));
        echo(&mut old, "a server without rules");
        rig.remove(Direction::Ingress, &format!("tcp:1:127.0.0.1:{server}"));
        rig.apply("ingress/tcp/1").unwrap();
        rig.apply(&format!("egress/tcp/{port}")).unwrap();
        rig.envoy.until("closed", || UnixStream::connect(rig.ingress_socket(1)).err());
        echo(&mut old, "a server with rules");
        assert_eq!(rig.envoy.stat("listener_manager.listener_modified"), 0);
        assert_eq!(rig.envoy.stat("cluster_manager.cluster_modified"), 0);
        assert_eq!(rig.envoy.stat("listener_manager.listener_added"), 2);
        rig.assert_log(&[
            "DeltaAggregatedResources gRPC config stream",
            "StreamAggregatedResources gRPC config stream",
        ]);
    });
}

/// A cluster without endpoints and a listener without its filter: as Envoy sees a rule that goes before it asks for those.
#[test]
fn what_is_not_there_holds_nothing_up() {
    with_both("what_is_not_there_holds_nothing_up", |mut rig| {
        // The other protocol cannot say that there is nothing.
        if rig.protocol != "delta" {
            return;
        }
        let server = echo_server("one");
        let (port, other) = (free_port(), free_port());
        rig.add(Direction::Egress, &format!("tcp:{other}:127.0.0.1:{server}"));
        rig.apply(&format!("egress/tcp/{other}")).unwrap();
        rig.connect(other);

        // At its start Envoy waits for less.
        let name = format!("egress/tcp/{port}");
        rig.add(Direction::Egress, &format!("tcp:{port}:127.0.0.1:{server}"));
        let whole = rig.snapshot();
        let is_there = |kind: ResourceType, resource: &str| {
            resource != name || matches!(kind, ResourceType::Cluster | ResourceType::Listener)
        };
        let part = ResourceType::ALL.into_iter().flat_map(|kind| {
            let resources = whole.resources(kind).filter(move |r| is_there(kind, r.name()));
            resources.map(move |r| (ResourceName::new(kind, r.name()), r.body().clone()))
        });
        let start = Instant::now();
        rig.ads.publish(part.collect());
        let cluster = ResourceName::new(ResourceType::Cluster, &*name);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        rig.runtime.block_on(rig.ads.applied(&[cluster], deadline)).unwrap();
        // The limit that must not be reached is fifteen.
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        // They come all the same.
        rig.apply(&name).unwrap();
        for port in [port, other] {
            assert_eq!(read(&mut rig.connect(port), 3), "one");
        }
        rig.assert_log(&[]);
    });
}

/// Envoy is ready when it has all listeners and clusters, also when there are none.
#[test]
fn without_rules_envoy_is_ready_at_once() {
    with_both("without_rules_envoy_is_ready_at_once", |rig| {
        rig.publish();
        rig.envoy.until("connected", || (rig.ads.status().connected == 1).then_some(()));
        let start = Instant::now();
        rig.envoy.until("live", || rig.envoy.admin("/ready").contains("LIVE").then_some(()));
        // The limit that must not be reached is fifteen.
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        rig.assert_log(&[]);
    });
}

/// Two of three destinations refuse, and many clients come at once, before Envoy has met any of them.
#[test]
fn dead_destinations_are_passed_over() {
    with_both("dead_destinations_are_passed_over", |mut rig| {
        let server = echo_server("one");
        let dead = [ClosedPort::any(), ClosedPort::any()];
        let ports: Vec<u16> = (0..20).map(|_| free_port()).collect();
        for port in &ports {
            for destination in [dead[0].address(), ([127, 0, 0, 1], server).into(), dead[1].address()] {
                rig.add(Direction::Egress, &format!("tcp:{port}:{destination}"));
            }
        }
        rig.publish();
        let names: Vec<_> = ports
            .iter()
            .flat_map(|port| {
                ResourceType::ALL.map(|kind| ResourceName::new(kind, format!("egress/tcp/{port}")))
            })
            .collect();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        rig.runtime.block_on(rig.ads.applied(&names, deadline)).unwrap();
        let listening = || rig.envoy.stat("listener_manager.total_listeners_active");
        rig.envoy.until("listening", || (listening() == ports.len() as u64).then_some(()));
        for port in &ports {
            let clients: Vec<_> = (0..32)
                .map(|_| {
                    let port = *port;
                    thread::spawn(move || {
                        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                        let mut name = [0; 3];
                        stream.read_exact(&mut name).map(|()| name)
                    })
                })
                .collect();
            for client in clients {
                assert_eq!(client.join().unwrap().unwrap(), *b"one");
            }
        }
        let attempts = |port: u16, name: &str| rig.envoy.stat(&format!("cluster.egress/tcp/{port}.{name}"));
        let most = ports.iter().map(|port| attempts(*port, "upstream_cx_connect_fail")).max().unwrap();
        eprintln!("{}: at most {most} failed attempts of 32 clients", rig.protocol);
        rig.assert_log(&[]);
    });
}
