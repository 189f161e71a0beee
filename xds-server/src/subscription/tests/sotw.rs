use super::*;

/// A response: its type, its resources, its nonce.
type Response = (ResourceType, Vec<(String, String)>, String);

/// A stream with a client that keeps the names it wants.
#[derive(Default)]
struct Client {
    stream: StateOfTheWorld,
    names: BTreeMap<ResourceType, Vec<String>>,
    nonces: BTreeMap<ResourceType, String>,
}

impl Client {
    fn subscribe(&mut self, kind: ResourceType, names: &[&str]) {
        self.names.insert(kind, names.iter().map(|&name| name.to_owned()).collect());
        self.request(kind, "", None);
    }

    fn request(&mut self, kind: ResourceType, nonce: &str, error: Option<rpc::Status>) -> Option<Rejection> {
        let request = DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names: self.names.get(&kind).cloned().unwrap_or_default(),
            response_nonce: nonce.to_owned(),
            error_detail: error,
            ..Default::default()
        };
        self.stream.handle_request(request).unwrap()
    }

    fn next(&mut self) -> Option<Response> {
        let DiscoveryResponse { type_url, resources, nonce, version_info, .. } =
            self.stream.poll_response()?;
        assert!(!version_info.is_empty());
        let kind = ResourceType::from_type_url(&type_url).unwrap();
        self.nonces.insert(kind, nonce.clone());
        Some((kind, resources.iter().map(content).collect(), nonce))
    }

    /// The next response must be this; returns its nonce.
    fn expect(&mut self, kind: ResourceType, resources: &[(&str, &str)]) -> String {
        let (found, contents, nonce) = self.next().unwrap_or_else(|| panic!("expected {kind} {resources:?}"));
        let contents: Vec<_> =
            contents.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
        assert_eq!((found, contents.as_slice()), (kind, resources));
        nonce
    }

    fn accept(&mut self, kind: ResourceType, resources: &[(&str, &str)]) {
        let nonce = self.expect(kind, resources);
        assert_eq!(self.request(kind, &nonce, None), None);
    }

    fn expect_nothing(&mut self) {
        assert_eq!(self.next(), None);
    }
}

/// A client that has accepted everything of two rules.
fn settled() -> Client {
    let mut client = Client::default();
    client.stream.handle_snapshot(rules(&["a", "b"], "1"));
    client.subscribe(CDS, &[]);
    let clusters = client.expect(CDS, &[("a", "1"), ("b", "1")]);
    client.subscribe(EDS, &["a", "b"]);
    client.accept(EDS, &[("a", "1"), ("b", "1")]);
    client.request(CDS, &clusters, None);
    client.subscribe(LDS, &[]);
    client.accept(LDS, &[("a", "1"), ("b", "1")]);
    client.subscribe(ECDS, &["a", "b"]);
    client.accept(ECDS, &[("a", "1"), ("b", "1")]);
    client.expect_nothing();
    client
}

#[test]
fn nothing_is_sent_before_the_first_snapshot() {
    let mut client = Client::default();
    client.subscribe(CDS, &[]);
    client.subscribe(LDS, &[]);
    client.expect_nothing();
    // An empty one is an answer, which Envoy waits for.
    client.stream.handle_snapshot(Snapshot::default());
    client.accept(CDS, &[]);
    client.accept(LDS, &[]);
    client.expect_nothing();
}

#[test]
fn what_is_gone_is_known_only_when_the_client_has_answered() {
    let gone = |client: &Client| verdict(&client.stream, &Snapshot::default(), LDS, "gone");
    let mut client = Client::default();
    assert_eq!(gone(&client), Verdict::Pending);
    client.subscribe(LDS, &[]);
    client.stream.handle_snapshot(Snapshot::default());
    assert_eq!(gone(&client), Verdict::Pending);
    let nonce = client.expect(LDS, &[]);
    assert_eq!(gone(&client), Verdict::Pending);
    client.request(LDS, &nonce, None);
    assert_eq!(gone(&client), Verdict::Accepted);
}

#[test]
fn the_same_content_is_not_sent_again() {
    let mut client = settled();
    client.stream.handle_snapshot(rules(&["a", "b"], "1"));
    client.expect_nothing();
    client.request(CDS, "", None);
    client.request(EDS, "", None);
    client.expect_nothing();
}

#[test]
fn a_new_rule_comes_in_order_and_its_listener_waits_for_its_cluster() {
    let mut client = settled();
    client.stream.handle_snapshot(rules(&["a", "b", "c"], "1"));
    let clusters = client.expect(CDS, &[("a", "1"), ("b", "1"), ("c", "1")]);
    // Envoy asks for the endpoints, and answers the clusters when it has them.
    client.expect_nothing();
    client.names.get_mut(&EDS).unwrap().push("c".to_owned());
    let nonce = client.nonces[&EDS].clone();
    client.request(EDS, &nonce, None);
    let endpoints = client.expect(EDS, &[("c", "1")]);
    client.expect_nothing();
    client.request(EDS, &endpoints, None);
    client.expect_nothing();
    client.request(CDS, &clusters, None);
    client.accept(LDS, &[("a", "1"), ("b", "1"), ("c", "1")]);
    client.expect_nothing();
}

#[test]
fn a_rule_goes_listener_first() {
    let mut client = settled();
    let after = rules(&["a"], "1");
    client.stream.handle_snapshot(after.clone());
    let listeners = client.expect(LDS, &[("a", "1")]);
    client.expect_nothing();
    assert_eq!(verdict(&client.stream, &after, LDS, "b"), Verdict::Pending);
    assert_eq!(verdict(&client.stream, &after, CDS, "b"), Verdict::Pending);
    client.request(LDS, &listeners, None);
    client.accept(CDS, &[("a", "1")]);
    client.expect_nothing();
    for kind in ResourceType::ALL {
        assert_eq!(verdict(&client.stream, &after, kind, "b"), Verdict::Accepted, "{kind}");
    }
}

#[test]
fn a_rule_that_replaces_another_comes_before_that_one_goes() {
    let mut client = settled();
    client.stream.handle_snapshot(rules(&["a", "c"], "1"));
    client.accept(CDS, &[("a", "1"), ("b", "1"), ("c", "1")]);
    client.accept(LDS, &[("a", "1"), ("c", "1")]);
    client.accept(CDS, &[("a", "1"), ("c", "1")]);
    client.expect_nothing();
}

#[test]
fn who_takes_no_listeners_need_not_wait_for_them() {
    let mut client = Client::default();
    client.stream.handle_snapshot(rules(&["a", "b"], "1"));
    client.subscribe(CDS, &[]);
    client.accept(CDS, &[("a", "1"), ("b", "1")]);
    client.stream.handle_snapshot(rules(&["a"], "1"));
    client.accept(CDS, &[("a", "1")]);
    client.expect_nothing();
}

#[test]
fn a_rejection_is_recorded_and_not_answered_until_the_content_changes() {
    let mut client = settled();
    let bad = snapshot(&[(LDS, "a", "1"), (LDS, "b", "bad"), (LDS, "b2", "1"), (LDS, "c", "bad")]);
    client.stream.handle_snapshot(bad.clone());
    let nonce = client.expect(LDS, &[("a", "1"), ("b", "bad"), ("b2", "1"), ("c", "bad")]);
    let text = "Error adding/updating listener(s) b: no, 'a' and b2 are fine\nc: neither";
    let rejection = client.request(LDS, &nonce, error(&format!("{text}\n"))).unwrap();
    let names = vec!["b".to_owned(), "c".to_owned()];
    assert_eq!(rejection, Rejection { kind: LDS, names, detail: text.to_owned() });
    assert_eq!(verdict(&client.stream, &bad, LDS, "a"), Verdict::Accepted);
    assert_eq!(verdict(&client.stream, &bad, LDS, "b"), rejected(text));
    assert_eq!(verdict(&client.stream, &bad, LDS, "b2"), Verdict::Accepted);
    assert_eq!(verdict(&client.stream, &bad, LDS, "c"), rejected(text));
    // The clusters were all removed, which had to wait for the listeners, whatever became of them.
    client.accept(CDS, &[]);
    client.expect_nothing();
    client.stream.handle_snapshot(bad.clone());
    client.request(LDS, &nonce, None);
    client.expect_nothing();
    assert_eq!(client.stream.rejections().len(), 2);

    // One is mended, the other is taken out.
    let good = snapshot(&[(LDS, "a", "1"), (LDS, "b", "1"), (LDS, "b2", "1")]);
    client.stream.handle_snapshot(good.clone());
    client.accept(LDS, &[("a", "1"), ("b", "1"), ("b2", "1")]);
    for name in ["a", "b", "b2", "c"] {
        assert_eq!(verdict(&client.stream, &good, LDS, name), Verdict::Accepted);
    }
    assert_eq!(client.stream.rejections(), []);
    assert_eq!(client.stream.counters(), Counters { rejected: 1, ..Counters::default() });
}

#[test]
fn the_way_back_to_what_was_accepted_is_sent() {
    let mut client = settled();
    client.stream.handle_snapshot(rules(&["a", "b"], "1"));
    let with_bad: Snapshot = rules(&["a", "b"], "1")
        .resources(LDS)
        .map(|r| resource(LDS, r.name(), "1"))
        .chain([resource(LDS, "c", "bad")])
        .collect();
    client.stream.handle_snapshot(with_bad);
    let nonce = client.expect(LDS, &[("a", "1"), ("b", "1"), ("c", "bad")]);
    client.request(LDS, &nonce, error("c: no"));
    client.accept(CDS, &[]);
    client.stream.handle_snapshot(snapshot(&[(LDS, "a", "1"), (LDS, "b", "1")]));
    client.accept(LDS, &[("a", "1"), ("b", "1")]);
    client.expect_nothing();
}

#[test]
fn a_rejection_that_names_nothing_holds_for_everything_new() {
    let mut client = settled();
    let after = snapshot(&[(LDS, "a", "1"), (LDS, "c", "1"), (LDS, "d", "1")]);
    client.stream.handle_snapshot(after.clone());
    let nonce = client.expect(LDS, &[("a", "1"), ("c", "1"), ("d", "1")]);
    let rejection = client.request(LDS, &nonce, error("cannot decode")).unwrap();
    assert_eq!(rejection.names, ["c", "d"]);
    assert_eq!(verdict(&client.stream, &after, LDS, "a"), Verdict::Accepted);
    assert_eq!(verdict(&client.stream, &after, LDS, "c"), rejected("cannot decode"));
    // Not even the removal took place.
    assert_eq!(verdict(&client.stream, &after, LDS, "b"), rejected("cannot decode"));
}

#[test]
fn rejected_endpoints_go_again_one_by_one() {
    let mut client = Client::default();
    let names = ["a", "b", "c", "d", "e"];
    let all = rules(&names, "1");
    client.stream.handle_snapshot(all.clone());
    client.subscribe(EDS, &names);
    let nonce = client.expect(EDS, &names.map(|name| (name, "1")));
    assert_eq!(client.request(EDS, &nonce, error("one is bad")), None);
    let nonce = client.expect(EDS, &[("a", "1"), ("b", "1")]);
    assert_eq!(client.request(EDS, &nonce, error("one is bad")), None);
    client.accept(EDS, &[("a", "1")]);
    // An acknowledgement doubles the next group.
    let nonce = client.expect(EDS, &[("b", "1"), ("c", "1")]);
    client.request(EDS, &nonce, error("one is bad"));
    let nonce = client.expect(EDS, &[("b", "1")]);
    let rejection = client.request(EDS, &nonce, error("bad address")).unwrap();
    assert_eq!(
        rejection,
        Rejection { kind: EDS, names: vec!["b".to_owned()], detail: "bad address".to_owned() }
    );
    client.accept(EDS, &[("c", "1")]);
    client.accept(EDS, &[("d", "1"), ("e", "1")]);
    client.expect_nothing();
    assert_eq!(verdict(&client.stream, &all, EDS, "b"), rejected("bad address"));
    assert_eq!(verdict(&client.stream, &all, EDS, "e"), Verdict::Accepted);
}

#[test]
fn answers_to_earlier_responses_are_ignored() {
    let mut client = Client::default();
    client.stream.handle_snapshot(rules(&["a"], "1"));
    client.subscribe(LDS, &[]);
    let first = client.expect(LDS, &[("a", "1")]);
    client.request(LDS, &first, None);
    client.stream.handle_snapshot(rules(&["a"], "2"));
    let second = client.expect(LDS, &[("a", "2")]);
    assert_eq!(client.request(LDS, &first, error("late")), None);
    assert_eq!(client.request(LDS, "made up", error("never sent")), None);
    assert_eq!(verdict(&client.stream, &rules(&["a"], "2"), LDS, "a"), Verdict::Pending);
    assert_eq!(client.stream.counters(), Counters { stale_nonce: 2, ..Counters::default() });
    client.request(LDS, &second, None);
    assert_eq!(verdict(&client.stream, &rules(&["a"], "2"), LDS, "a"), Verdict::Accepted);
}

#[test]
fn the_nonce_of_an_earlier_stream_is_no_answer() {
    let mut client = Client::default();
    client.stream.handle_snapshot(rules(&["a"], "1"));
    client.request(LDS, "17", None);
    client.accept(LDS, &[("a", "1")]);
    assert_eq!(client.stream.counters(), Counters::default());
}

#[test]
fn names_that_are_dropped_and_taken_again_are_sent_again() {
    let mut client = settled();
    let change = |client: &mut Client, names: &[&str]| {
        client.names.insert(EDS, names.iter().map(|&name| name.to_owned()).collect());
        let nonce = client.nonces[&EDS].clone();
        client.request(EDS, &nonce, None);
    };
    change(&mut client, &["b"]);
    client.expect_nothing();
    client.stream.handle_snapshot(rules(&["a", "b"], "2"));
    let clusters = client.expect(CDS, &[("a", "2"), ("b", "2")]);
    client.accept(EDS, &[("b", "2")]);
    change(&mut client, &["a", "b"]);
    client.accept(EDS, &[("a", "2")]);
    client.request(CDS, &clusters, None);
    client.accept(LDS, &[("a", "2"), ("b", "2")]);
    client.accept(ECDS, &[("a", "2"), ("b", "2")]);
    change(&mut client, &[]);
    change(&mut client, &["a"]);
    client.accept(EDS, &[("a", "2")]);
    client.expect_nothing();
}

#[test]
fn a_changed_cluster_gets_its_endpoints_again() {
    let mut client = settled();
    let mut after: Vec<_> =
        rules(&["a", "b"], "1").resources(EDS).map(|r| resource(EDS, r.name(), "1")).collect();
    after.extend([resource(CDS, "a", "1"), resource(CDS, "b", "2")]);
    after.extend(["a", "b"].map(|name| resource(LDS, name, "1")));
    client.stream.handle_snapshot(after.into_iter().collect());
    client.expect(CDS, &[("a", "1"), ("b", "2")]);
    client.accept(EDS, &[("b", "1")]);
}

#[test]
fn a_client_may_name_listeners_and_may_stop_naming_them() {
    let mut client = Client::default();
    client.stream.handle_snapshot(rules(&["a", "b", "c"], "1"));
    client.subscribe(LDS, &["b"]);
    client.accept(LDS, &[("b", "1")]);
    let nonce = client.nonces[&LDS].clone();
    client.names.insert(LDS, vec!["*".to_owned()]);
    client.request(LDS, &nonce, None);
    client.accept(LDS, &[("a", "1"), ("b", "1"), ("c", "1")]);
    // Naming nothing means everything only to a client that never named something.
    client.names.insert(LDS, Vec::new());
    let nonce = client.nonces[&LDS].clone();
    client.request(LDS, &nonce, None);
    client.accept(LDS, &[]);
    client.expect_nothing();
}

#[test]
fn other_types_are_counted_and_ignored() {
    let mut client = Client::default();
    let request = DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration".to_owned(),
        ..Default::default()
    };
    assert_eq!(client.stream.handle_request(request), Ok(None));
    assert_eq!(client.stream.counters(), Counters { unknown_type: 1, ..Counters::default() });
}

#[test]
fn names_and_texts_are_bounded() {
    let mut client = Client::default();
    let request = |names: usize| DiscoveryRequest {
        type_url: EDS.type_url().to_owned(),
        resource_names: (0..names).map(|n| n.to_string()).collect(),
        ..Default::default()
    };
    assert_eq!(client.stream.handle_request(request(MAX_NAMES)), Ok(None));
    assert_eq!(client.stream.handle_request(request(MAX_NAMES + 1)), Err(Violation::TooManyNames));

    let mut client = settled();
    client.stream.handle_snapshot(snapshot(&[(LDS, "c", "bad")]));
    let nonce = client.expect(LDS, &[("c", "bad")]);
    let rejection = client.request(LDS, &nonce, error(&format!("c: x{}", "é".repeat(MAX_DETAIL)))).unwrap();
    assert_eq!(rejection.detail.len(), MAX_DETAIL);
}
