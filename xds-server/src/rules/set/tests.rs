use super::*;

fn rule(text: &str) -> Rule {
    text.parse().unwrap()
}

fn list(set: &RuleSet) -> Vec<String> {
    set.iter().map(ToString::to_string).collect()
}

#[test]
fn rules_keep_their_order_and_group_by_key() {
    let mut set = RuleSet::new();
    for (direction, text) in [
        (Direction::Egress, "tcp:80:100.64.0.2:8080"),
        (Direction::Ingress, "tcp:80:example.com:1"),
        (Direction::Egress, "tcp:81:100.64.0.2:8080"),
        (Direction::Egress, "tcp:80:100.64.0.1:8080"),
        (Direction::Egress, "tcp:80:[fd00::2]:8080"),
    ] {
        set.add(direction, rule(text), Source::Flag).unwrap();
    }
    assert_eq!(
        list(&set),
        [
            "--egress tcp:80:100.64.0.2:8080",
            "--ingress tcp:80:example.com:1",
            "--egress tcp:81:100.64.0.2:8080",
            "--egress tcp:80:100.64.0.1:8080",
            "--egress tcp:80:[fd00::2]:8080",
        ]
    );
    let groups: Vec<(String, Vec<String>)> = set
        .by_key()
        .into_iter()
        .map(|(key, rules)| (key.to_string(), rules.iter().map(|r| r.destination()).collect()))
        .collect();
    let group = |key: &str, destinations: &[&str]| {
        (key.to_owned(), destinations.iter().map(|&d| d.to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(
        groups,
        [
            group("egress/tcp/80", &["100.64.0.2:8080", "100.64.0.1:8080", "[fd00::2]:8080"]),
            group("ingress/tcp/80", &["example.com:1"]),
            group("egress/tcp/81", &["100.64.0.2:8080"]),
        ]
    );
}

#[test]
fn a_rule_is_a_duplicate_whatever_its_source() {
    for first in [Source::Flag, Source::Stored] {
        for second in [Source::Flag, Source::Stored] {
            let mut set = RuleSet::new();
            set.add(Direction::Ingress, rule("tcp:80:[h]:80"), first).unwrap();
            let error = set.add(Direction::Ingress, rule("TCP:080:h:80"), second).unwrap_err();
            assert_eq!(error, RuleSetError::Duplicate);
            assert_eq!(
                error.to_string(),
                "port already in use by another proxy rule (this rule exists already)"
            );
            assert_eq!(set.len(), 1);
        }
    }
}

#[test]
fn the_same_port_in_the_other_direction_or_to_another_destination_is_no_duplicate() {
    let mut set = RuleSet::new();
    for (direction, text) in [
        (Direction::Ingress, "tcp:80:127.0.0.1:80"),
        (Direction::Egress, "tcp:80:127.0.0.1:80"),
        (Direction::Egress, "tcp:80:127.0.0.1:81"),
        (Direction::Egress, "tcp:80:127.0.0.2:80"),
    ] {
        set.add(direction, rule(text), Source::Flag).unwrap();
    }
}

#[test]
fn only_the_bind_address_of_the_options_makes_another_rule() {
    let mut set = RuleSet::new();
    let mut add = |text: &str| set.add(Direction::Egress, rule(text), Source::Flag);
    add("tcp:80:10.0.0.1:80,bind=127.0.0.1,weight=2").unwrap();
    add("tcp:80:10.0.0.1:80,bind=127.0.0.2").unwrap();
    assert_eq!(add("tcp:80:10.0.0.1:80,bind=127.0.0.1,weight=3"), Err(RuleSetError::Duplicate));
    let keys: Vec<_> = set.by_key().iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(keys, ["egress/tcp/80@127.0.0.1", "egress/tcp/80@127.0.0.2"]);

    let error = set.remove(Direction::Egress, &rule("tcp:80:10.0.0.1:80")).unwrap_err().to_string();
    assert_eq!(
        error,
        "no matching egress proxy rule found: tcp:80:10.0.0.1:80; \
         did you mean tcp:80:10.0.0.1:80,bind=127.0.0.1,weight=2?"
    );
    set.remove(Direction::Egress, &rule("tcp:80:10.0.0.1:80,bind=127.0.0.1")).unwrap();
    assert_eq!(list(&set), ["--egress tcp:80:10.0.0.1:80,bind=127.0.0.2"]);
}

#[test]
fn an_egress_port_is_for_all_addresses_or_for_some() {
    for (first, second, keys) in [
        ("tcp:80:10.0.0.1:80", "tcp:80:10.0.0.2:80,bind=::1", "egress/tcp/80@::1 and egress/tcp/80"),
        (
            "udp:80:10.0.0.1:80,bind=127.0.0.1",
            "udp:80:10.0.0.1:80",
            "egress/udp/80 and egress/udp/80@127.0.0.1",
        ),
    ] {
        let mut set = RuleSet::new();
        set.add(Direction::Egress, rule(first), Source::Flag).unwrap();
        let error = set.add(Direction::Egress, rule(second), Source::Flag).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{keys} cannot both be: ")), "{error}");
        // Other ports and protocols are no matter.
        set.add(Direction::Egress, rule("tcp:81:10.0.0.1:80,bind=127.0.0.1"), Source::Flag).unwrap();
    }
}

#[test]
fn an_ingress_rule_is_bound_to_an_address_of_the_node() {
    let mut set = RuleSet::of_node(vec!["100.64.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
    // One address comes before all: both can be.
    for text in ["tcp:80:h:80", "tcp:80:h:80,bind=100.64.0.1", "udp:80:h:80,bind=[fd00:0::1]"] {
        set.add(Direction::Ingress, rule(text), Source::Flag).unwrap();
    }
    let foreign = rule("tcp:80:h:80,bind=127.0.0.1");
    assert_eq!(
        set.add(Direction::Ingress, foreign.clone(), Source::Flag).unwrap_err().to_string(),
        "bind=127.0.0.1 is no overlay address of this node, which has 100.64.0.1, fd00::1: name one of these, or leave \
         bind out to listen on all"
    );
    set.add(Direction::Egress, rule("tcp:80:100.64.0.2:80,bind=127.0.0.1"), Source::Flag).unwrap();
    RuleSet::new().add(Direction::Ingress, foreign, Source::Flag).unwrap();
}

#[test]
fn the_rules_of_a_key_agree_on_what_they_share() {
    let mut set = RuleSet::new();
    let mut add =
        |text: &str| set.add(Direction::Ingress, rule(text), Source::Flag).map_err(|e| e.to_string());
    add("tcp:80:a:80,connect-timeout=2s").unwrap();
    add("tcp:80:b:80").unwrap();
    add("tcp:80:c:80,connect-timeout=2000ms,health-check=5s").unwrap();
    assert_eq!(
        add("tcp:80:d:80,connect-timeout=1500ms").unwrap_err(),
        "connect-timeout=1500ms differs from connect-timeout=2s of another rule of ingress/tcp/80: rules that share a port \
         share it, give all of them the same or only one"
    );
    assert!(
        add("tcp:80:d:80,health-check=6s")
            .unwrap_err()
            .starts_with("health-check=6s differs from health-check=5s")
    );
    add("tcp:81:d:80,connect-timeout=3s").unwrap();
    add("udp:80:d:80,weight=2").unwrap();
    assert_eq!(
        add("udp:80:e:80,connect-timeout=3s").unwrap_err(),
        "UDP rules have no connect-timeout: there are no connections; leave it out"
    );
    assert!(add("udp:80:e:80,health-check=3s").unwrap_err().starts_with("UDP rules have no health-check"));
    assert_eq!(set.len(), 5);
}

#[test]
fn removing_names_the_source_or_what_was_not_found() {
    let mut set = RuleSet::new();
    set.add(Direction::Ingress, rule("tcp:80:h:80"), Source::Flag).unwrap();
    set.add(Direction::Ingress, rule("tcp:81:h:80"), Source::Stored).unwrap();
    let error = set.remove(Direction::Egress, &rule("tcp:80:h:80")).unwrap_err();
    assert_eq!(error.to_string(), "no matching egress proxy rule found: tcp:80:h:80");
    let error = set.remove(Direction::Ingress, &rule("tcp:80:h:81")).unwrap_err();
    assert_eq!(error.to_string(), "no matching ingress proxy rule found: tcp:80:h:81");
    assert_eq!(set.remove(Direction::Ingress, &rule("tcp:80:h:80")), Ok(Source::Flag));
    assert_eq!(set.remove(Direction::Ingress, &rule("tcp:81:h:80")), Ok(Source::Stored));
    assert!(set.is_empty());
}

#[test]
fn an_egress_host_is_an_address_or_a_name() {
    let mut set = RuleSet::new();
    for host in ["999.1.1.1", "100.64.0.01", "[fe80::1%eth0]", "bad host!", "a..b", &"h".repeat(64)] {
        let error = set.add(Direction::Egress, rule(&format!("tcp:80:{host}:80")), Source::Flag).unwrap_err();
        let host = host.trim_matches(['[', ']']);
        let expected = format!("egress destination {host} is neither an IP address nor a host name");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    assert!(set.is_empty());
    for (direction, host) in [
        (Direction::Egress, "db.example"),
        (Direction::Egress, "[fd00::1]"),
        (Direction::Egress, "a_b-c."),
        (Direction::Ingress, "web.example"),
    ] {
        set.add(direction, rule(&format!("udp:53:{host}:53")), Source::Flag).unwrap();
    }
    assert_eq!(set.egress_names().iter().collect::<Vec<_>>(), ["a_b-c.", "db.example"]);
}

#[test]
fn the_length_of_a_host_is_bounded() {
    let mut set = RuleSet::new();
    let with_host = |bytes: usize| rule(&format!("tcp:80:{}:80", "h".repeat(bytes)));
    set.add(Direction::Ingress, with_host(MAX_HOST_BYTES), Source::Flag).unwrap();
    let error = set.add(Direction::Ingress, with_host(MAX_HOST_BYTES + 1), Source::Flag).unwrap_err();
    assert_eq!(error.to_string(), "destination host is longer than 255 bytes");
}

#[test]
fn the_number_of_rules_is_bounded() {
    let mut set = RuleSet::new();
    let numbered = |n: usize| rule(&format!("tcp:80:host-{n}:80"));
    for n in 0..MAX_RULES {
        set.add(Direction::Ingress, numbered(n), Source::Flag).unwrap();
    }
    let error = set.add(Direction::Ingress, numbered(MAX_RULES), Source::Flag).unwrap_err();
    assert_eq!(error.to_string(), "too many proxy rules: the limit is 10000");
    assert_eq!(set.len(), MAX_RULES);
    // A rule that is there already says so, also when the set is full.
    assert_eq!(set.add(Direction::Ingress, numbered(0), Source::Flag), Err(RuleSetError::Duplicate));
}
