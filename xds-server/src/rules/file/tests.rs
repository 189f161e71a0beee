use proptest::{collection::vec, option, prelude::*};

use super::*;

fn rules(text: &str) -> Vec<String> {
    let rules = parse(text.as_bytes()).unwrap();
    rules.iter().map(|rule| format!("{} --{} {}", rule.place.line, rule.direction, rule.rule)).collect()
}

#[track_caller]
fn error(text: &str) -> String {
    parse(text.as_bytes()).unwrap_err().to_string()
}

const FILE: &str = r#"# Comments are fine.
ingress:
- tcp:443:10.0.0.1:8443, weight=2
- protocol: tcp
  port: 443
  destination: "[fd00::5]:8443"
  bind: 100.64.0.1
  weight: 3
  connect-timeout: 2s
  health-check: 5

egress:
  - {protocol: udp, port: 53, destination: 100.64.0.2:53}
  # A string in quotes is the same string.
  - "udp:53:[fd00::2]:53"
"#;

#[test]
fn rules_as_text_and_field_by_field() {
    let expected = [
        "13 --egress udp:53:100.64.0.2:53",
        "15 --egress udp:53:[fd00::2]:53",
        "3 --ingress tcp:443:10.0.0.1:8443,weight=2",
        "4 --ingress tcp:443:[fd00::5]:8443,bind=100.64.0.1,weight=3,connect-timeout=2s,health-check=5s",
    ];
    assert_eq!(rules(FILE), expected);
    assert_eq!(rules(&FILE.replace('\n', "\r\n")), expected);
    assert_eq!(rules(&format!("\u{feff}{FILE}")), expected);
    assert_eq!(parse(FILE.as_bytes()).unwrap()[0].place, Place { line: 13, column: 5 });
}

#[test]
fn a_file_without_rules_says_so() {
    for text in ["egress: []", "ingress:\n", "---\negress:\n# - tcp:1:h:1\ningress: null\n"] {
        assert_eq!(rules(text), [""; 0], "{text}");
    }
    // What a file is for a moment while it is written.
    for text in ["", "\n", "# only a comment\n", "---\n", "{}", "null"] {
        assert!(error(text).contains("neither `egress:` nor `ingress:`"), "{text:?}: {}", error(text));
    }
}

#[test]
fn errors_name_the_place_the_reason_and_the_remedy() {
    for (text, expected) in [
        (
            "egress:\n- tcp:80",
            "line 2, column 3: invalid proxy rule format, must specify 4 colon-separated values (tcp:80)",
        ),
        ("egress:\n- tcp:1:h:1\n- tcp:0:h:1", "line 3, column 3: invalid port (0): out of range 1-65535"),
        (
            "egress:\n- tcp:1:h:1,wait=1",
            "line 2, column 3: unknown option (wait=1): there are bind, weight, connect-timeout and health-check",
        ),
        ("ingres:\n- tcp:1:h:1", "line 1, column 1: unknown key `ingres`: there are egress and ingress"),
        ("egress: []\nfoo:\n  bar: 1\n", "line 2, column 1: unknown key `foo`: there are egress and ingress"),
        ("egress: []\negress: []", "line 2, column 1: `egress` is given twice: delete one of the two"),
        ("egress: tcp:1:h:1", "line 1, column 9: this is not a list: "),
        ("- tcp:1:h:1", "line 1, column 1: this is not a rules file: "),
        (
            "egress:\n- 80",
            "line 2, column 3: this is integer `80`, not a rule such as tcp:443:10.0.0.1:8443, or a mapping",
        ),
        ("egress:\n-\n", "line 2, column 2: this is nothing, not a rule"),
        ("egress:\n- [tcp]", "line 2, column 3: this is sequence, not a rule such as"),
        (
            "egress:\n- tcp: 80",
            "line 2, column 3: unknown key `tcp`: there are protocol, port, destination, bind, weight, connect-timeout and health-check",
        ),
        ("egress:\n- protocol: tcp\n  port: 80\n", "line 3, column 3: the rule has no `destination`: add it"),
        (
            "egress:\n- protocol: sctp\n  port: 80\n  destination: h:1",
            "line 2, column 13: invalid protocol (sctp): there are tcp and udp",
        ),
        (
            "egress:\n- protocol: tcp\n  port: 65536\n  destination: h:1",
            "line 3, column 9: invalid port (65536): out of range 1-65535",
        ),
        (
            "egress:\n- protocol: tcp\n  port: -1\n  destination: h:1",
            "line 3, column 9: invalid port (-1): out of range 1-65535",
        ),
        (
            "egress:\n- protocol: tcp\n  port: '80'\n  destination: h:1",
            "line 3, column 3: this is string \"80\", not a whole number without quotes",
        ),
        (
            "egress:\n- protocol: tcp\n  port: 1\n  destination: h",
            "line 4, column 16: invalid destination host:port (h): address h: missing port in address",
        ),
        ("egress:\n- protocol: tcp\n  port: 1\n  destination: [fd00::1]:80", "line 4, column "),
        (
            "egress:\n- protocol: tcp\n  port: 1\n  destination: 8080",
            "line 4, column 3: this is integer `8080`, not a string: put it in quotes",
        ),
        (
            "egress:\n- protocol: tcp\n  port: 1\n  destination: h:1\n  bind: any",
            "line 5, column 9: invalid option (bind=any): it is not an IP address",
        ),
        (
            "egress:\n- protocol: tcp\n  port: 1\n  destination: h:1\n  weight: 0",
            "line 5, column 11: invalid option (weight=0): it is not a whole number from 1 to 1000",
        ),
        (
            "egress:\n- protocol: tcp\n  port: 1\n  destination: h:1\n  weight: 1.5",
            "line 5, column 3: this is floating point `1.5`, not a whole number",
        ),
        (
            "egress:\n- protocol: tcp\n  port: 1\n  destination: h:1\n  health-check: 0s",
            "line 5, column 17: invalid option (health-check=0s): it must be more than 0",
        ),
        (
            "egress:\n- protocol: tcp\n  port: 1\n  destination: h:1\n  connect-timeout: 1.5s",
            "line 5, column 20: invalid option (connect-timeout=1.5s): write it like 10s",
        ),
        (
            "egress:\n- protocol: tcp\n  port: 1\n  port: 2\n  destination: h:1",
            "line 4, column 3: `port` is given twice",
        ),
        (
            "egress:\n- protocol: tcp\n  port: 1\n  connect_timeout: 2s\n  destination: h:1",
            "line 4, column 3: unknown key `connect_timeout`",
        ),
        (
            "egress:\n- protocol: tcp\n  port: 1\n  destination: a,weight=2:1",
            "line 2, column 3: the host of tcp:1:a,weight=2:1 looks like options",
        ),
        ("egress:\n  - tcp:1:h:1\n - tcp:2:h:2\n", "line 3, column "),
        ("egress:\n\t- tcp:1:h:1\n", "line 2, column "),
        ("egress: [\"tcp:1:h:1\"", "line 1, column "),
        ("egress:\n- *a\n", "line 2, column 3: "),
        ("egress: []\n---\ningress: []\n", "line 3, column 1: "),
    ] {
        let found = error(text);
        assert!(found.starts_with(expected), "{text:?}:\n     {found}\n  not {expected}");
        assert!(!found.contains('\n') && found.len() > expected.len().min(25), "{found}");
    }
}

#[test]
fn what_is_no_text_or_too_long() {
    let latin1 = parse(b"egress:\n- tcp:1:h:1 # f\xfcr\n").unwrap_err();
    assert_eq!(latin1.to_string(), "line 2, column 16: this is not UTF-8: save the file as UTF-8");
    let mut long = b"egress: []\n#".to_vec();
    long.resize(MAX_FILE_BYTES, b'x');
    assert_eq!(parse(&long).unwrap(), []);
    long.push(b'x');
    assert!(parse(&long).unwrap_err().to_string().starts_with("it has more than 4 MiB"));
}

/// Aliases that expand to each other, deep nesting, and other things that a parser can be kept busy with.
#[test]
fn hostile_files_end_soon() {
    let lines: String = (0..200_000).map(|_| "- *a\n").collect();
    let started = std::time::Instant::now();
    for text in [
        format!("egress:\n- &a tcp:1:h:1\n{lines}"),
        format!("egress: {}", "[".repeat(1 << 20)),
        format!("egress: {}", "{a: ".repeat(1 << 18)),
        format!("egress:\n- {}", "x".repeat(4 << 20 >> 1)),
        "- ".repeat(1 << 20),
    ] {
        parse(text.as_bytes()).unwrap_err();
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

fn in_set(set: &RuleSet, text: &str) -> Result<Vec<String>, String> {
    let set = set.with_file(&parse(text.as_bytes()).unwrap()).map_err(|error| error.to_string())?;
    Ok(set.iter().map(ToString::to_string).collect())
}

#[test]
fn a_file_takes_the_place_of_the_last_one_and_of_nothing_else() {
    let mut set = RuleSet::new();
    set.add(Direction::Ingress, "tcp:1:h:1".parse().unwrap(), Source::Flag).unwrap();
    set.add(Direction::Ingress, "tcp:2:h:2".parse().unwrap(), Source::Stored).unwrap();
    let set = set.with_file(&parse(b"ingress: ['tcp:3:h:3', 'tcp:4:h:4']").unwrap()).unwrap();
    assert_eq!(set.source(Direction::Ingress, &"tcp:3:h:3".parse().unwrap()), Some(Source::File));
    assert_eq!(
        in_set(&set, "ingress: ['tcp:4:h:4,weight=2', 'tcp:5:h:5']").unwrap(),
        ["--ingress tcp:1:h:1", "--ingress tcp:2:h:2", "--ingress tcp:4:h:4,weight=2", "--ingress tcp:5:h:5"]
    );
    assert_eq!(in_set(&set, "ingress:").unwrap(), ["--ingress tcp:1:h:1", "--ingress tcp:2:h:2"]);
}

#[test]
fn rules_that_do_not_get_along() {
    let mut set = RuleSet::of_node(vec!["100.64.0.1".parse().unwrap()]);
    set.add(Direction::Ingress, "tcp:1:h:1".parse().unwrap(), Source::Flag).unwrap();
    set.add(Direction::Ingress, "tcp:2:h:2,connect-timeout=2s".parse().unwrap(), Source::Stored).unwrap();
    for (text, expected) in [
        (
            "ingress:\n- tcp:3:h:3\n- tcp:1:h:1",
            "line 3, column 3: ingress proxy rule tcp:1:h:1: port already in use by another proxy rule: it is given as a flag too; delete one of the two",
        ),
        (
            "ingress:\n- tcp:2:h:2",
            "line 2, column 3: ingress proxy rule tcp:2:h:2: port already in use by another proxy rule: it was added with nexctl; delete one of the two",
        ),
        (
            "ingress:\n- tcp:3:h:3\n- {protocol: tcp, port: 3, destination: 'h:3', weight: 2}",
            "line 3, column 3: ingress proxy rule tcp:3:h:3,weight=2: port already in use by another proxy rule: it stands in line 2 too; delete one of the two",
        ),
        (
            "ingress:\n- tcp:2:h:3,connect-timeout=3s",
            "line 2, column 3: ingress proxy rule tcp:2:h:3,connect-timeout=3s: connect-timeout=3s differs from connect-timeout=2s",
        ),
        (
            "ingress:\n- tcp:3:h:3,bind=100.64.0.2",
            "line 2, column 3: ingress proxy rule tcp:3:h:3,bind=100.64.0.2: bind=100.64.0.2 is no overlay address of this node",
        ),
        (
            "ingress:\n- udp:3:h:3,health-check=1s",
            "line 2, column 3: ingress proxy rule udp:3:h:3,health-check=1s: UDP rules have no health-check",
        ),
    ] {
        let found = in_set(&set, text).unwrap_err();
        assert!(found.starts_with(expected), "{text:?}:\n     {found}\n  not {expected}");
    }
}

#[test]
fn as_many_rules_as_a_node_can_have() {
    let file = |count: usize| -> String {
        let rule = |number: usize| format!("- tcp:{}:host{number}:80\n", number % 60_000 + 1);
        "ingress:\n".to_owned() + &(0..count).map(rule).collect::<String>()
    };
    let started = std::time::Instant::now();
    assert_eq!(in_set(&RuleSet::new(), &file(MAX_RULES)).unwrap().len(), MAX_RULES);
    println!("{:?}", started.elapsed());
    let error = in_set(&RuleSet::new(), &file(MAX_RULES + 1)).unwrap_err();
    assert!(error.starts_with("line 10002, column 3: ") && error.contains("the limit is 10000"), "{error}");
}

/// The YAML of a rule as a mapping.
fn mapping(rule: &Rule) -> String {
    let mut text = format!(
        "- protocol: {}\n  port: {}\n  destination: '{}'\n",
        rule.protocol,
        rule.port,
        rule.destination()
    );
    let options = rule.options.to_string();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap();
        text += &format!("  {name}: {value}\n");
    }
    text
}

proptest! {
    #[test]
    fn both_forms_of_a_rule_are_the_same_rule(
        protocol in "tcp|udp",
        port in 1..=u16::MAX,
        host in "[a-z0-9.-]{1,20}|\\[[0-9a-f:]{2,20}\\]",
        destination_port in 1..=u16::MAX,
        bind in option::of(any::<std::net::IpAddr>().prop_filter("one address", |bind| !bind.to_canonical().is_unspecified())),
        weight in option::of(1..=1000_u32),
        times in vec(option::of("[1-9][0-9]{0,2}(ms|s|)|[1-9]m"), 2),
    ) {
        let mut text = format!("{protocol}:{port}:{host}:{destination_port}");
        if let Some(bind) = bind {
            text += &format!(",bind={bind}");
        }
        if let Some(weight) = weight {
            text += &format!(",weight={weight}");
        }
        for (name, time) in ["connect-timeout", "health-check"].into_iter().zip(&times) {
            if let Some(time) = time {
                text += &format!(",{name}={time}");
            }
        }
        let rule: Rule = text.parse().unwrap();
        for item in [format!("- '{text}'"), mapping(&rule)] {
            let file = format!("egress:\n{item}\ningress:\n{item}\n");
            let found = parse(file.as_bytes()).unwrap();
            prop_assert_eq!(found.len(), 2);
            prop_assert!(found.iter().all(|found| found.rule == rule), "{}", file);
        }
    }

    #[test]
    fn no_content_makes_it_panic(content in vec(any::<u8>(), 0..200), text in "(egress|ingress|- |tcp|:|[0-9]|\n|  |\\{|\\[|\"|&a|\\*a|!|<<){0,60}") {
        let _ = parse(&content);
        let _ = parse(text.as_bytes());
    }
}
