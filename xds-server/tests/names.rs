//! Names, looked up at a real name server.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
#![allow(clippy::allow_attributes, reason = "the shared file serves more than this")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use xds_server::names::{
    lookup::{Lookup, OverlayServer, Source},
    resolver::Names,
    schedule::Family,
};

#[path = "../../tests/src/dns.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the end-to-end tests")]
mod dns;

use dns::{DnsServer, Ipv6};

/// A server, and the source that asks it. The name in errors is the one in the overlay.
fn server() -> (DnsServer, Source) {
    let server = DnsServer::at((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let overlay = SocketAddr::from(([100, 64, 0, 53], 53));
    let source = Source::Overlay(vec![OverlayServer { server: overlay, relay: server.address() }]);
    (server, source)
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn both_families_are_asked_for_and_the_time_to_live_is_told() {
    let (server, source) = server();
    server.set("db.example", 30, &addresses(&["100.64.0.2", "fd00::2", "100.64.0.3", "0.0.0.0"]));
    server.set("v4.example", 0, &addresses(&["100.64.0.2"]));
    server.set("nowhere.example", 60, &[]);
    let lookup = Lookup::new(&source);
    let found =
        |texts: &[&str], ttl| Family::Found { addresses: addresses(texts), ttl: Duration::from_secs(ttl) };
    let none = |reason: &str| Family::None(format!("{reason} from 100.64.0.53"));
    assert_eq!(
        lookup.addresses("db.example").await,
        [found(&["100.64.0.2", "100.64.0.3"], 30), found(&["fd00::2"], 30)]
    );
    assert_eq!(lookup.addresses("V4.Example.").await, [found(&["100.64.0.2"], 0), none("no address")]);
    assert_eq!(lookup.addresses("nowhere.example").await, [none("no address"), none("no address")]);
    assert_eq!(lookup.addresses("absent.example").await, [none("NXDOMAIN"), none("NXDOMAIN")]);
}

#[tokio::test]
async fn what_does_not_fit_into_a_datagram_comes_over_tcp() {
    let (server, source) = server();
    let many: Vec<IpAddr> = (0..200).map(|n| Ipv4Addr::new(100, 64, 1, n).into()).collect();
    server.set("many.example", 30, &many);
    let [v4, _] = Lookup::new(&source).addresses("many.example").await;
    assert_eq!(v4, Family::Found { addresses: many, ttl: Duration::from_secs(30) });
    assert!(server.over_tcp() >= 1);
}

#[tokio::test]
async fn a_server_that_does_not_answer_fails_the_lookup_in_time() {
    let (server, source) = server();
    server.set_silent(true);
    let start = std::time::Instant::now();
    let [v4, v6] = Lookup::new(&source).addresses("db.example").await;
    let failed = Family::Failed("no answer from 100.64.0.53".to_owned());
    assert_eq!([v4, v6], [failed.clone(), failed]);
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert!(server.datagrams() >= 4, "each family is asked for twice");
}

#[tokio::test]
async fn a_family_that_is_not_answered_does_not_hold_up_the_other() {
    let (server, source) = server();
    server.set("db.example", 300, &addresses(&["100.64.0.2", "fd00::2"]));
    let lookup = Lookup::new(&source);
    let v4 = Family::Found { addresses: addresses(&["100.64.0.2"]), ttl: Duration::from_secs(300) };
    server.set_ipv6(Ipv6::Silent);
    let start = std::time::Instant::now();
    let silent = Family::Failed("no answer from 100.64.0.53".to_owned());
    assert_eq!(lookup.addresses("db.example").await, [v4.clone(), silent]);
    // Three questions of two seconds each, as for a server that is silent, take six.
    assert!(start.elapsed() < Duration::from_millis(5500), "{:?}", start.elapsed());

    // SERVFAIL.
    server.set_ipv6(Ipv6::Refused(2));
    let [found, failed] = lookup.addresses("db.example").await;
    assert_eq!(found, v4);
    assert!(matches!(failed, Family::Failed(_)), "{failed:?}");
    let (names, task) = Names::new(source);
    let task = tokio::spawn(task.run());
    names.want(&BTreeSet::from(["db.example".to_owned()]));
    assert_eq!(names.tried(Some("db.example"), Duration::from_secs(5)).await, None);
    assert_eq!(names.resolved().of("db.example"), addresses(&["100.64.0.2"]));
    assert_eq!(names.status(), "");
    task.abort();
}

#[tokio::test]
async fn names_follow_their_records_and_what_is_wrong_is_told() {
    let (server, source) = server();
    server.set("db.example", 1, &addresses(&["100.64.0.2"]));
    let (mut names, task) = Names::new(source);
    let task = tokio::spawn(task.run());
    names.want(&BTreeSet::from(["db.example".to_owned(), "late.example".to_owned()]));
    let limit = Duration::from_secs(5);
    let trouble = names.tried(Some("late.example"), limit).await.unwrap();
    assert_eq!(trouble.reason, "NXDOMAIN from 100.64.0.53");
    names.tried(None, limit).await;
    let status = names.status();
    assert!(status.starts_with("unresolved: late.example: NXDOMAIN from 100.64.0.53, "), "{status}");
    assert_eq!(status.lines().count(), 1, "{status}");
    assert_eq!(names.resolved().of("db.example"), addresses(&["100.64.0.2"]));

    server.set("db.example", 3600, &addresses(&["100.64.0.3", "fd00::3"]));
    server.set("late.example", 3600, &addresses(&["100.64.0.4"]));
    tokio::time::timeout(limit, async {
        while names.resolved().of("db.example").len() < 2 || names.resolved().of("late.example").is_empty() {
            names.changed().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(names.resolved().of("db.example"), addresses(&["100.64.0.3", "fd00::3"]));
    assert_eq!((names.status().as_str(), task.is_finished()), ("", false));
    task.abort();
}
