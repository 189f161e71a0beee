use super::*;

mod missing;

#[derive(Default)]
struct Client {
    stream: Delta,
}

#[derive(Debug, Default, PartialEq)]
struct Response {
    kind: Option<ResourceType>,
    updates: Vec<(String, String)>,
    removals: Vec<String>,
    nonce: String,
}

fn request(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..Default::default() }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

impl Client {
    fn send(&mut self, request: DeltaDiscoveryRequest) -> Option<Rejection> {
        self.stream.handle_request(request).unwrap()
    }

    fn subscribe(&mut self, kind: ResourceType, names: &[&str]) {
        self.send(DeltaDiscoveryRequest { resource_names_subscribe: owned(names), ..request(kind) });
    }

    fn unsubscribe(&mut self, kind: ResourceType, names: &[&str]) {
        self.send(DeltaDiscoveryRequest { resource_names_unsubscribe: owned(names), ..request(kind) });
    }

    fn answer(&mut self, kind: ResourceType, nonce: &str, error: Option<rpc::Status>) -> Option<Rejection> {
        self.send(DeltaDiscoveryRequest {
            response_nonce: nonce.to_owned(),
            error_detail: error,
            ..request(kind)
        })
    }

    fn next(&mut self) -> Option<Response> {
        let DeltaDiscoveryResponse { type_url, resources, removed_resources, nonce, .. } =
            self.stream.poll_response()?;
        let updates = resources.iter().map(|wire| {
            let body = wire.resource.as_ref().unwrap();
            let (name, content) = content(body);
            assert_eq!(name, wire.name);
            (name, content)
        });
        Some(Response {
            kind: ResourceType::from_type_url(&type_url),
            updates: updates.collect(),
            removals: removed_resources,
            nonce,
        })
    }

    fn expect(&mut self, kind: ResourceType, updates: &[(&str, &str)], removals: &[&str]) -> String {
        let found = self.next().unwrap_or_else(|| panic!("expected {kind} {updates:?} {removals:?}"));
        let updates = updates.iter().map(|&(name, content)| (name.to_owned(), content.to_owned())).collect();
        let expected =
            Response { kind: Some(kind), updates, removals: owned(removals), nonce: found.nonce.clone() };
        assert_eq!(found, expected);
        found.nonce
    }

    fn accept(&mut self, kind: ResourceType, updates: &[(&str, &str)], removals: &[&str]) {
        let nonce = self.expect(kind, updates, removals);
        assert_eq!(self.answer(kind, &nonce, None), None);
    }

    fn expect_nothing(&mut self) {
        assert_eq!(self.next(), None);
    }
}

fn settled() -> Client {
    let mut client = Client::default();
    client.stream.handle_snapshot(rules(&["a", "b"], "1"));
    client.subscribe(CDS, &[]);
    let clusters = client.expect(CDS, &[("a", "1"), ("b", "1")], &[]);
    client.subscribe(EDS, &["a", "b"]);
    client.accept(EDS, &[("a", "1"), ("b", "1")], &[]);
    client.answer(CDS, &clusters, None);
    client.subscribe(LDS, &[]);
    client.accept(LDS, &[("a", "1"), ("b", "1")], &[]);
    client.subscribe(ECDS, &["a", "b"]);
    client.accept(ECDS, &[("a", "1"), ("b", "1")], &[]);
    client.expect_nothing();
    client
}

#[test]
fn nothing_is_sent_before_the_first_snapshot() {
    let mut client = Client::default();
    client.subscribe(CDS, &[]);
    client.expect_nothing();
    client.stream.handle_snapshot(rules(&["a"], "1"));
    client.accept(CDS, &[("a", "1")], &[]);
}

#[test]
fn only_what_changed_is_sent_in_order() {
    let mut client = settled();
    client.stream.handle_snapshot(rules(&["a", "b"], "1"));
    client.expect_nothing();
    client.stream.handle_snapshot(rules(&["a", "b", "c"], "1"));
    let clusters = client.expect(CDS, &[("c", "1")], &[]);
    client.expect_nothing();
    client.subscribe(EDS, &["c"]);
    client.accept(EDS, &[("c", "1")], &[]);
    client.expect_nothing();
    client.answer(CDS, &clusters, None);
    client.accept(LDS, &[("c", "1")], &[]);
    client.subscribe(ECDS, &["c"]);
    client.accept(ECDS, &[("c", "1")], &[]);
    client.expect_nothing();
}

#[test]
fn a_rule_goes_listener_first() {
    let mut client = settled();
    let after = rules(&["a", "c"], "1");
    client.stream.handle_snapshot(after.clone());
    let clusters = client.expect(CDS, &[("c", "1")], &[]);
    // Going needs no warm cluster.
    let gone = client.expect(LDS, &[], &["b"]);
    client.expect(ECDS, &[], &["b"]);
    client.expect_nothing();
    client.answer(LDS, &gone, None);
    client.expect_nothing();
    client.answer(CDS, &clusters, None);
    let listeners = client.expect(LDS, &[("c", "1")], &[]);
    client.expect_nothing();
    assert_eq!(verdict(&client.stream, &after, CDS, "b"), Verdict::Pending);
    client.answer(LDS, &listeners, None);
    let clusters = client.expect(CDS, &[], &["b"]);
    // Envoy drops the endpoints with the cluster.
    client.unsubscribe(EDS, &["b"]);
    client.answer(CDS, &clusters, None);
    assert_eq!(verdict(&client.stream, &after, CDS, "b"), Verdict::Accepted);
    client.expect_nothing();
    for kind in [CDS, LDS] {
        assert_eq!(verdict(&client.stream, &after, kind, "c"), Verdict::Accepted);
    }
    assert_eq!(verdict(&client.stream, &after, EDS, "c"), Verdict::Pending);
}

#[test]
fn endpoints_that_are_still_subscribed_are_removed_last() {
    let mut client = settled();
    client.stream.handle_snapshot(rules(&["a"], "1"));
    client.accept(LDS, &[], &["b"]);
    client.accept(ECDS, &[], &["b"]);
    let clusters = client.expect(CDS, &[], &["b"]);
    client.expect_nothing();
    client.answer(CDS, &clusters, None);
    client.accept(EDS, &[], &["b"]);
    client.expect_nothing();
}

#[test]
fn a_rejected_group_is_taken_apart_and_only_the_bad_stays_out() {
    let mut client = settled();
    let names = ["a", "b", "c", "d", "e", "f"];
    let after: Snapshot = names
        .iter()
        .map(|name| resource(LDS, name, "1"))
        .chain(["a", "b"].iter().flat_map(|n| [CDS, EDS, ECDS].map(|kind| resource(kind, n, "1"))))
        .collect();
    client.stream.handle_snapshot(after.clone());
    let nonce = client.expect(LDS, &[("c", "1"), ("d", "1"), ("e", "1"), ("f", "1")], &[]);
    assert_eq!(client.answer(LDS, &nonce, error("d: no")), None);
    let nonce = client.expect(LDS, &[("c", "1"), ("d", "1")], &[]);
    assert_eq!(client.answer(LDS, &nonce, error("d: no")), None);
    client.accept(LDS, &[("c", "1")], &[]);
    let nonce = client.expect(LDS, &[("d", "1"), ("e", "1")], &[]);
    client.answer(LDS, &nonce, error("d: no"));
    let nonce = client.expect(LDS, &[("d", "1")], &[]);
    let rejection = client.answer(LDS, &nonce, error("d: no")).unwrap();
    assert_eq!(rejection, Rejection { kind: LDS, names: owned(&["d"]), detail: "d: no".to_owned() });
    client.accept(LDS, &[("e", "1")], &[]);
    client.accept(LDS, &[("f", "1")], &[]);
    client.expect_nothing();
    for name in names {
        let expected = if name == "d" { rejected("d: no") } else { Verdict::Accepted };
        assert_eq!(verdict(&client.stream, &after, LDS, name), expected);
    }
    assert_eq!(client.stream.rejections(), [rejection]);
    assert_eq!(client.stream.counters().rejected, 4);

    // Published again: not sent again.
    client.stream.handle_snapshot(after);
    client.expect_nothing();
}

#[test]
fn a_rejected_resource_is_sent_when_it_changes_and_dropped_when_it_goes() {
    let mut client = settled();
    let listeners = |a: &str| {
        let mut resources: Vec<_> =
            ["a", "b"].iter().flat_map(|n| [CDS, EDS, ECDS].map(|kind| resource(kind, n, "1"))).collect();
        resources.push(resource(LDS, "b", "1"));
        if !a.is_empty() {
            resources.push(resource(LDS, "a", a));
        }
        resources.into_iter().collect::<Snapshot>()
    };
    client.stream.handle_snapshot(listeners("bad"));
    let nonce = client.expect(LDS, &[("a", "bad")], &[]);
    assert!(client.answer(LDS, &nonce, error("no")).is_some());
    client.expect_nothing();
    // Back to the version that the client had, and may have in part.
    client.stream.handle_snapshot(listeners("1"));
    client.accept(LDS, &[("a", "1")], &[]);
    assert_eq!(client.stream.rejections(), []);

    client.stream.handle_snapshot(listeners("bad"));
    let nonce = client.expect(LDS, &[("a", "bad")], &[]);
    assert!(client.answer(LDS, &nonce, error("no")).is_some());
    client.stream.handle_snapshot(listeners(""));
    client.accept(LDS, &[], &["a"]);
    assert_eq!(verdict(&client.stream, &listeners(""), LDS, "a"), Verdict::Accepted);
    // The same again is a new attempt: a port may have become free.
    client.stream.handle_snapshot(listeners("bad"));
    client.accept(LDS, &[("a", "bad")], &[]);
    assert_eq!(verdict(&client.stream, &listeners("bad"), LDS, "a"), Verdict::Accepted);
}

#[test]
fn a_reconnected_client_gets_only_what_it_does_not_have() {
    let before = rules(&["a", "b"], "1");
    let mut claims: std::collections::HashMap<String, String> =
        before.resources(CDS).map(|r| (r.name().to_owned(), r.version().to_string())).collect();
    claims.insert("gone".to_owned(), "0123".to_owned());
    claims.insert("foreign".to_owned(), "not one of our versions".to_owned());

    let mut client = Client::default();
    let mut after: Vec<_> = vec![resource(CDS, "a", "1"), resource(CDS, "b", "2"), resource(CDS, "c", "1")];
    after.push(resource(CDS, "foreign", "1"));
    let after: Snapshot = after.into_iter().collect();
    client.stream.handle_snapshot(after.clone());
    // Before the client has said what it has, nothing is known of what is gone either.
    assert_eq!(verdict(&client.stream, &after, CDS, "gone"), Verdict::Pending);
    client.send(DeltaDiscoveryRequest { initial_resource_versions: claims.clone(), ..request(CDS) });
    assert_eq!(verdict(&client.stream, &after, CDS, "a"), Verdict::Accepted);
    assert_eq!(verdict(&client.stream, &after, CDS, "gone"), Verdict::Pending);
    client.accept(CDS, &[("b", "2"), ("c", "1"), ("foreign", "1")], &[]);
    client.accept(CDS, &[], &["gone"]);
    client.expect_nothing();

    // The same for named resources, of which the client says the names anyway; and when the snapshot comes later.
    let mut client = Client::default();
    let version = before.get(EDS, "a").unwrap().version().to_string();
    client.send(DeltaDiscoveryRequest {
        resource_names_subscribe: owned(&["a", "b"]),
        initial_resource_versions: [("a".to_owned(), version)].into(),
        ..request(EDS)
    });
    client.stream.handle_snapshot(before);
    client.accept(EDS, &[("b", "1")], &[]);
    client.expect_nothing();
}

#[test]
fn a_name_that_is_subscribed_again_is_sent_again() {
    let mut client = settled();
    client.subscribe(EDS, &["a"]);
    client.accept(EDS, &[("a", "1")], &[]);
    client.unsubscribe(EDS, &["a"]);
    client.stream.handle_snapshot(snapshot(&[(EDS, "a", "2"), (EDS, "b", "1")]));
    while let Some(response) = client.next() {
        assert_ne!(response.kind, Some(EDS));
        client.answer(response.kind.unwrap(), &response.nonce, None);
    }
    client.subscribe(EDS, &["a"]);
    client.accept(EDS, &[("a", "2")], &[]);
}

#[test]
fn wildcards_come_and_go() {
    let mut client = Client::default();
    client.stream.handle_snapshot(rules(&["a", "b"], "1"));
    client.subscribe(LDS, &["a"]);
    client.accept(LDS, &[("a", "1")], &[]);
    client.subscribe(LDS, &["*"]);
    client.accept(LDS, &[("b", "1")], &[]);
    // The client cannot know whether the wildcard includes it.
    client.unsubscribe(LDS, &["a"]);
    client.accept(LDS, &[("a", "1")], &[]);
    client.unsubscribe(LDS, &["*"]);
    client.stream.handle_snapshot(rules(&["a", "b"], "2"));
    client.expect_nothing();
    client.subscribe(LDS, &["b"]);
    client.accept(LDS, &[("b", "2")], &[]);
    client.expect_nothing();
    // To name nothing means everything only in the first request.
    client.unsubscribe(LDS, &["b"]);
    client.subscribe(LDS, &[]);
    client.stream.handle_snapshot(rules(&["a", "b"], "3"));
    client.expect_nothing();
}

#[test]
fn stale_answers_do_not_count_but_their_subscriptions_do() {
    let mut client = settled();
    client.stream.handle_snapshot(rules(&["a", "b"], "2"));
    let clusters = client.expect(CDS, &[("a", "2"), ("b", "2")], &[]);
    client.send(DeltaDiscoveryRequest {
        response_nonce: "1".to_owned(),
        error_detail: error("late"),
        resource_names_subscribe: owned(&["a"]),
        ..request(CDS)
    });
    assert_eq!(client.stream.counters(), Counters { stale_nonce: 1, ..Counters::default() });
    assert_eq!(verdict(&client.stream, &rules(&["a"], "2"), CDS, "b"), Verdict::Pending);
    client.answer(CDS, &clusters, None);
    client.accept(CDS, &[("a", "2")], &[]);
    client.accept(EDS, &[("a", "2"), ("b", "2")], &[]);
}

#[test]
fn what_changes_while_an_answer_is_awaited_is_sent_after_it() {
    let mut client = settled();
    client.stream.handle_snapshot(rules(&["a", "b", "c"], "1"));
    let nonce = client.expect(CDS, &[("c", "1")], &[]);
    client.stream.handle_snapshot(rules(&["a", "b", "c"], "2"));
    client.stream.handle_snapshot(rules(&["a", "b"], "1"));
    client.stream.handle_snapshot(rules(&["a", "b", "c"], "3"));
    client.accept(EDS, &[("a", "3"), ("b", "3")], &[]);
    client.expect_nothing();
    client.answer(CDS, &nonce, None);
    client.accept(CDS, &[("a", "3"), ("b", "3"), ("c", "3")], &[]);
    // Clusters that are made anew.
    client.accept(EDS, &[("a", "3"), ("b", "3")], &[]);
    client.accept(LDS, &[("a", "3"), ("b", "3"), ("c", "3")], &[]);
    client.accept(ECDS, &[("a", "3"), ("b", "3")], &[]);
}

#[test]
fn a_removal_that_is_taken_back_while_it_is_awaited() {
    let mut client = settled();
    client.stream.handle_snapshot(rules(&["a"], "1"));
    let nonce = client.expect(LDS, &[], &["b"]);
    client.stream.handle_snapshot(rules(&["a", "b"], "1"));
    client.expect_nothing();
    client.answer(LDS, &nonce, None);
    client.accept(LDS, &[("b", "1")], &[]);
    client.expect_nothing();
}

#[test]
fn names_are_bounded() {
    let numbers = |from: usize, to: usize| (from..to).map(|n| n.to_string()).collect::<Vec<_>>();
    let mut stream = Delta::new();
    let subscribe = |names| DeltaDiscoveryRequest { resource_names_subscribe: names, ..request(EDS) };
    assert_eq!(stream.handle_request(subscribe(numbers(0, MAX_NAMES))), Ok(None));
    let error = stream.handle_request(subscribe(numbers(MAX_NAMES, MAX_NAMES + 1))).unwrap_err();
    assert_eq!(error.to_string(), "too many resource names in one subscription: the limit is 65536");

    let mut stream = Delta::new();
    let claims = numbers(0, MAX_NAMES + 1).into_iter().map(|name| (name, String::new())).collect();
    let claim = DeltaDiscoveryRequest { initial_resource_versions: claims, ..request(CDS) };
    assert_eq!(stream.handle_request(claim), Err(Violation::TooManyNames));
}

#[test]
fn who_asks_for_all_and_there_is_nothing_is_told_so_once() {
    let mut client = Client::default();
    client.stream.handle_snapshot(Snapshot::default());
    client.subscribe(CDS, &[]);
    let nonce = client.expect(CDS, &[], &[]);
    client.answer(CDS, &nonce, None);
    client.subscribe(LDS, &[]);
    let nonce = client.expect(LDS, &[], &[]);
    client.answer(LDS, &nonce, None);
}
