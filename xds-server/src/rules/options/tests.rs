use proptest::prelude::*;

use super::*;

fn canonical(text: &str) -> Result<String, String> {
    text.parse::<Rule>().map(|rule| rule.to_string()).map_err(|error| error.to_string())
}

fn bare() -> Rule {
    "tcp:80:h:80".parse().unwrap()
}

#[test]
fn options_stand_behind_a_rule_and_print_in_one_order() {
    for (input, expected) in [
        ("tcp:443:10.0.0.1:8443,bind=127.0.0.1", "tcp:443:10.0.0.1:8443,bind=127.0.0.1"),
        (
            "TCP:443:h:8443,health-check=1m,connect-timeout=2000ms,weight=002,bind=::1",
            "tcp:443:h:8443,bind=::1,weight=2,connect-timeout=2s,health-check=60s",
        ),
        (
            "tcp:443:h:8443, weight=1000 , connect-timeout=1500ms",
            "tcp:443:h:8443,weight=1000,connect-timeout=1500ms",
        ),
        ("udp:53:[fd00::2]:53,bind=[fd00::1]", "udp:53:[fd00::2]:53,bind=fd00::1"),
        ("tcp:1:h:1,bind=::ffff:127.0.0.1", "tcp:1:h:1,bind=127.0.0.1"),
        ("tcp:1:h:1,health-check=60m", "tcp:1:h:1,health-check=3600s"),
        // A comma that no option follows belongs to the host, as ever.
        ("tcp:1:a,b:1,weight=2", "tcp:1:a,b:1,weight=2"),
        ("tcp:1:a,B=:1", "tcp:1:a,B=:1"),
    ] {
        assert_eq!(canonical(input).as_deref(), Ok(expected), "{input}");
    }
}

#[test]
fn errors_name_the_option_the_value_and_the_remedy() {
    let known = "there are bind, weight, connect-timeout and health-check";
    let weight = "it is not a whole number from 1 to 1000";
    let time = "write it like 10s, 500ms or 2m, at most an hour";
    let zero = "it must be more than 0; leave the option out for the default";
    let all = "it is no single address; leave bind out to listen on all, IPv4 and IPv6";
    let invalid = |option: &str, reason: &str| format!("invalid option ({option}): {reason}");
    for (options, expected) in [
        ("colour=red", format!("unknown option (colour=red): {known}")),
        ("-=", format!("unknown option (-=): {known}")),
        ("weight=2,weight=2", "option weight is given more than once".to_owned()),
        ("weight=0", invalid("weight=0", weight)),
        ("weight=1001", invalid("weight=1001", weight)),
        ("weight=-1", invalid("weight=-1", weight)),
        ("weight=", invalid("weight=", weight)),
        ("weight=99999999999", invalid("weight=99999999999", weight)),
        ("connect-timeout=0s", invalid("connect-timeout=0s", zero)),
        ("connect-timeout=soon", invalid("connect-timeout=soon", time)),
        ("health-check=61m", invalid("health-check=61m", time)),
        ("bind=localhost", invalid("bind=localhost", "it is not an IP address")),
        ("bind=[127.0.0.1", invalid("bind=[127.0.0.1", "it is not an IP address")),
        ("bind=127.0.0.1:80", invalid("bind=127.0.0.1:80", "it is not an IP address")),
        ("bind=0.0.0.0", invalid("bind=0.0.0.0", all)),
        ("bind=[::]", invalid("bind=[::]", all)),
        ("bind=::ffff:0.0.0.0", invalid("bind=::ffff:0.0.0.0", all)),
        (
            "weight=2,tcp:2:h:2",
            "invalid option (tcp:2:h:2): after the first option of a rule come only options, of the form name=value"
                .to_owned(),
        ),
    ] {
        assert_eq!(canonical(&format!("tcp:1:h:1,{options}")), Err(expected), "{options}");
    }
    assert_eq!(
        canonical("weight=2").unwrap_err(),
        "option weight=2 has no rule before it: write it after its rule, as in tcp:80:10.0.0.1:8080,weight=2"
    );
    // What is wrong with the rule itself comes first, in upstream's words.
    assert_eq!(canonical("tcp:0:h:1,weight=0").unwrap_err(), "invalid port (0): out of range 1-65535");
    assert_eq!(
        canonical("tcp:1:h:1,Weight=2").unwrap_err(),
        "invalid port (1,Weight=2): strconv.Atoi: parsing \"1,Weight=2\": invalid syntax"
    );
}

#[test]
fn the_values_of_a_key_are_those_of_the_rule_that_gives_them() {
    let rules: Vec<Rule> = ["tcp:1:a:1", "tcp:1:b:1,connect-timeout=2s", "tcp:1:c:1,health-check=5s"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    let rules: Vec<&Rule> = rules.iter().collect();
    assert_eq!(connect_timeout(&rules), Some(Duration::from_secs(2)));
    assert_eq!(health_check(&rules), Some(Duration::from_secs(5)));
    assert_eq!(connect_timeout(&rules[..1]), None);
}

proptest! {
    #[test]
    fn any_options_read_back(
        bind in any::<Option<IpAddr>>(), weight in prop::option::of(WEIGHTS),
        connect in prop::option::of(1_u64..3_600_000), check in prop::option::of(1_u64..3_600_000)
    ) {
        let options = RuleOptions {
            bind: bind.map(|bind| bind.to_canonical()).filter(|bind| !bind.is_unspecified()),
            weight,
            connect_timeout: connect.map(Duration::from_millis),
            health_check: check.map(Duration::from_millis),
        };
        let rule = Rule { options, ..bare() };
        prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
    }

    #[test]
    fn no_option_text_panics(text in ".{0,20}") {
        let _ = canonical(&format!("tcp:1:h:1,weight=1,{text}"));
        let _ = canonical(&format!("tcp:1:h:1,{text}"));
    }
}
