//! What a client asks for and is not there.

use super::*;

/// Envoy waits for an answer to each name that it asks for, and applies nothing else meanwhile.
#[test]
fn who_asks_for_what_is_not_there_is_told_so_once() {
    let mut client = settled();
    for kind in [EDS, ECDS] {
        client.subscribe(kind, &["gone"]);
        client.accept(kind, &[], &["gone"]);
        client.expect_nothing();
        client.stream.handle_snapshot(rules(&["a", "b"], "1"));
        client.expect_nothing();
        // Asked for again, also while the answer is under way.
        client.subscribe(kind, &["gone"]);
        let nonce = client.expect(kind, &[], &["gone"]);
        client.subscribe(kind, &["gone"]);
        client.expect_nothing();
        client.answer(kind, &nonce, None);
        client.accept(kind, &[], &["gone"]);
        client.expect_nothing();
        // Who is not interested any more is told nothing.
        client.subscribe(kind, &["gone"]);
        client.unsubscribe(kind, &["gone"]);
        client.expect_nothing();
        // It comes all the same.
        client.subscribe(kind, &["late"]);
        client.accept(kind, &[], &["late"]);
    }
    let mut all: Vec<_> =
        ["a", "b"].iter().flat_map(|name| ResourceType::ALL.map(|kind| resource(kind, name, "1"))).collect();
    all.extend([resource(EDS, "late", "1"), resource(ECDS, "late", "1")]);
    client.stream.handle_snapshot(all.into_iter().collect());
    client.accept(EDS, &[("late", "1")], &[]);
    client.accept(ECDS, &[("late", "1")], &[]);
    client.expect_nothing();
}

#[test]
fn a_name_is_not_missing_before_there_is_a_snapshot() {
    let mut client = Client::default();
    client.subscribe(EDS, &["a", "gone"]);
    client.expect_nothing();
    client.stream.handle_snapshot(rules(&["a"], "1"));
    let nonce = client.expect(EDS, &[], &["gone"]);
    client.answer(EDS, &nonce, None);
    client.accept(EDS, &[("a", "1")], &[]);
    client.expect_nothing();
}

/// Envoy accepts a cluster when it has its endpoints: to wait for that before they are said not to be there is to wait for
/// its fetch timeout.
#[test]
fn a_cluster_that_is_withdrawn_before_its_endpoints_are_asked_for_waits_for_nothing() {
    let mut client = settled();
    client.stream.handle_snapshot(rules(&["a", "b", "c", "d"], "1"));
    let clusters = client.expect(CDS, &[("c", "1"), ("d", "1")], &[]);
    // These are due, but something else of their type is under way.
    client.subscribe(EDS, &["a"]);
    let endpoints = client.expect(EDS, &[("a", "1")], &[]);
    client.subscribe(EDS, &["d"]);
    client.stream.handle_snapshot(rules(&["a", "b"], "1"));
    client.subscribe(EDS, &["c"]);
    client.expect_nothing();
    client.answer(EDS, &endpoints, None);
    client.accept(EDS, &[], &["c", "d"]);
    client.expect_nothing();
    client.answer(CDS, &clusters, None);
    client.accept(CDS, &[], &["c", "d"]);
    client.expect_nothing();
}

/// The same of a cluster that is made anew: it asks for nothing by itself.
#[test]
fn a_changed_cluster_that_is_withdrawn_before_it_has_its_endpoints_waits_for_nothing() {
    let mut client = settled();
    client.subscribe(EDS, &["a"]);
    let endpoints = client.expect(EDS, &[("a", "1")], &[]);
    client.stream.handle_snapshot(rules(&["a", "b"], "2"));
    let clusters = client.expect(CDS, &[("a", "2"), ("b", "2")], &[]);
    client.stream.handle_snapshot(rules(&["a"], "2"));
    let gone = client.expect(LDS, &[], &["b"]);
    client.answer(LDS, &gone, None);
    client.accept(ECDS, &[], &["b"]);
    client.answer(EDS, &endpoints, None);
    client.accept(EDS, &[], &["b"]);
    client.accept(EDS, &[("a", "2")], &[]);
    client.answer(CDS, &clusters, None);
}
