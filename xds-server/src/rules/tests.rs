use proptest::prelude::*;

use super::*;

/// Upstream's behaviour, run and written down row by row; `Ok` holds the canonical form. The one difference is the
/// range: upstream says `0-65535`.
const CONFORMANCE: &[(&str, Result<&str, &str>)] = &[
    ("tcp:8080:127.0.0.1:80", Ok("tcp:8080:127.0.0.1:80")),
    ("TCP:8080:127.0.0.1:80", Ok("tcp:8080:127.0.0.1:80")),
    ("Udp:8080:127.0.0.1:80", Ok("udp:8080:127.0.0.1:80")),
    ("tcp:080:h:80", Ok("tcp:80:h:80")),
    ("tcp:+80:h:80", Ok("tcp:80:h:80")),
    ("tcp:65535:127.0.0.1:65535", Ok("tcp:65535:127.0.0.1:65535")),
    ("tcp:80:[::1]:80", Ok("tcp:80:[::1]:80")),
    ("tcp:80:[fe80::1%eth0]:80", Ok("tcp:80:[fe80::1%eth0]:80")),
    ("tcp:80:[example.com]:80", Ok("tcp:80:example.com:80")),
    ("tcp:80:example.com:80", Ok("tcp:80:example.com:80")),
    ("tcp:80:bad host!:80", Ok("tcp:80:bad host!:80")),
    ("tcp:80:999.1.1.1:80", Ok("tcp:80:999.1.1.1:80")),
    ("tcp:80:100.10j0.0.1:4242", Ok("tcp:80:100.10j0.0.1:4242")),
    ("", Err("invalid proxy rule format, must specify 4 colon-separated values ()")),
    ("tcp", Err("invalid proxy rule format, must specify 4 colon-separated values (tcp)")),
    ("tcp:8080", Err("invalid proxy rule format, must specify 4 colon-separated values (tcp:8080)")),
    (
        "tcp:8080:127.0.0.1",
        Err("invalid proxy rule format, must specify 4 colon-separated values (tcp:8080:127.0.0.1)"),
    ),
    ("tcpa:8080:127.0.0.1:80", Err("invalid protocol (tcpa)")),
    ("TCPA:8080:127.0.0.1:80", Err("invalid protocol (TCPA)")),
    (" tcp:8080:127.0.0.1:80", Err("invalid protocol ( tcp)")),
    (":8080:127.0.0.1:80", Err("invalid protocol ()")),
    ("tcp:0:127.0.0.1:80", Err("invalid port (0): out of range 1-65535")),
    ("tcp:-1:127.0.0.1:80", Err("invalid port (-1): out of range 1-65535")),
    ("tcp:90000:127.0.0.1:80", Err("invalid port (90000): out of range 1-65535")),
    ("tcp:65536:127.0.0.1:80", Err("invalid port (65536): out of range 1-65535")),
    ("tcp:80:127.0.0.1:0", Err("invalid port (0): out of range 1-65535")),
    ("tcp:80:127.0.0.1:70000", Err("invalid port (70000): out of range 1-65535")),
    ("tcp::h:80", Err("invalid port (): strconv.Atoi: parsing \"\": invalid syntax")),
    ("tcp:http:h:80", Err("invalid port (http): strconv.Atoi: parsing \"http\": invalid syntax")),
    ("tcp:0x50:h:80", Err("invalid port (0x50): strconv.Atoi: parsing \"0x50\": invalid syntax")),
    ("tcp: 80:h:80", Err("invalid port ( 80): strconv.Atoi: parsing \" 80\": invalid syntax")),
    ("tcp:80:h:", Err("invalid port (): strconv.Atoi: parsing \"\": invalid syntax")),
    ("tcp:80:h:http", Err("invalid port (http): strconv.Atoi: parsing \"http\": invalid syntax")),
    ("tcp:80:h:80 ", Err("invalid port (80 ): strconv.Atoi: parsing \"80 \": invalid syntax")),
    (
        "tcp:99999999999999999999:h:80",
        Err(
            "invalid port (99999999999999999999): strconv.Atoi: parsing \"99999999999999999999\": value out of range",
        ),
    ),
    ("tcp:80::80", Err("invalid destination host:port (:80): host cannot be empty")),
    ("tcp:80:[]:80", Err("invalid destination host:port ([]:80): host cannot be empty")),
    (
        "tcp:80:::1:80",
        Err("invalid destination host:port (::1:80): address ::1:80: too many colons in address"),
    ),
    (
        "tcp:80:a:b:80",
        Err("invalid destination host:port (a:b:80): address a:b:80: too many colons in address"),
    ),
    (
        "tcp:80:127.0.0.1:80:x",
        Err(
            "invalid destination host:port (127.0.0.1:80:x): address 127.0.0.1:80:x: too many colons in address",
        ),
    ),
    ("tcp:80:[::1]", Err("invalid destination host:port ([::1]): address [::1]: missing port in address")),
    (
        "tcp:80:[::1]80",
        Err("invalid destination host:port ([::1]80): address [::1]80: missing port in address"),
    ),
    (
        "tcp:80:[::1:80",
        Err("invalid destination host:port ([::1:80): address [::1:80: missing ']' in address"),
    ),
    // The order of the checks.
    ("tcpa:x:h:80", Err("invalid protocol (tcpa)")),
    ("tcp:x:::1:80", Err("invalid port (x): strconv.Atoi: parsing \"x\": invalid syntax")),
    ("udp:0:100.10j0.0.1:4242", Err("invalid port (0): out of range 1-65535")),
    ("tcp:80::x", Err("invalid destination host:port (:x): host cannot be empty")),
    // More of Go's rules than upstream's table asks for.
    ("tcp:8_0:h:80", Err("invalid port (8_0): strconv.Atoi: parsing \"8_0\": invalid syntax")),
    ("tcp:+:h:80", Err("invalid port (+): strconv.Atoi: parsing \"+\": invalid syntax")),
    ("tcp:+-80:h:80", Err("invalid port (+-80): strconv.Atoi: parsing \"+-80\": invalid syntax")),
    ("tcp:-0:h:80", Err("invalid port (-0): out of range 1-65535")),
    ("tcp:9223372036854775807:h:80", Err("invalid port (9223372036854775807): out of range 1-65535")),
    ("tcp:-9223372036854775808:h:80", Err("invalid port (-9223372036854775808): out of range 1-65535")),
    (
        "tcp:9223372036854775808:h:80",
        Err(
            "invalid port (9223372036854775808): strconv.Atoi: parsing \"9223372036854775808\": value out of range",
        ),
    ),
    (
        "tcp:-9223372036854775809:h:80",
        Err(
            "invalid port (-9223372036854775809): strconv.Atoi: parsing \"-9223372036854775809\": value out of range",
        ),
    ),
    (
        "tcp:99999999999999999999x:h:80",
        Err(
            "invalid port (99999999999999999999x): strconv.Atoi: parsing \"99999999999999999999x\": value out of range",
        ),
    ),
    (
        "tcp:9999999999999999999x:h:80",
        Err(
            "invalid port (9999999999999999999x): strconv.Atoi: parsing \"9999999999999999999x\": invalid syntax",
        ),
    ),
    ("tcp:00000000000000000000000080:h:80", Ok("tcp:80:h:80")),
    ("tcp:8\t0:h:80", Err("invalid port (8\t0): strconv.Atoi: parsing \"8\\t0\": invalid syntax")),
    (
        "tcp:\"\\\x1b:h:80",
        Err("invalid port (\"\\\x1b): strconv.Atoi: parsing \"\\\"\\\\\\x1b\": invalid syntax"),
    ),
    ("tcp:８０:h:80", Err("invalid port (８０): strconv.Atoi: parsing \"８０\": invalid syntax")),
    (
        "tcp:\u{a0}\u{200b}\u{e000}\u{10ffff}:h:80",
        Err("invalid port (\u{a0}\u{200b}\u{e000}\u{10ffff}): strconv.Atoi: parsing \
             \"\\u00a0\\u200b\\ue000\\U0010ffff\": invalid syntax"),
    ),
    ("tcp:80:[a:b]:80", Ok("tcp:80:[a:b]:80")),
    (
        "tcp:80:[::1]:80:",
        Err("invalid destination host:port ([::1]:80:): address [::1]:80:: too many colons in address"),
    ),
    (
        "tcp:80:a[b:80",
        Err("invalid destination host:port (a[b:80): address a[b:80: unexpected '[' in address"),
    ),
    (
        "tcp:80:a]b:80",
        Err("invalid destination host:port (a]b:80): address a]b:80: unexpected ']' in address"),
    ),
    (
        "tcp:80:[a[b]:80",
        Err("invalid destination host:port ([a[b]:80): address [a[b]:80: unexpected '[' in address"),
    ),
    (
        "tcp:80:[a]:8]0",
        Err("invalid destination host:port ([a]:8]0): address [a]:8]0: unexpected ']' in address"),
    ),
    ("tcp:80:[::1", Err("invalid destination host:port ([::1): address [::1: missing ']' in address")),
];

#[test]
fn conformance() {
    for (input, expected) in CONFORMANCE {
        let found = input.parse::<Rule>().map(|rule| rule.to_string()).map_err(|error| error.to_string());
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{input:?}");
    }
}

#[test]
fn the_parts_of_a_rule() {
    let rule: Rule = "TCP:+0443:[fd00::1%eth0]:08443".parse().unwrap();
    assert_eq!(
        rule,
        Rule {
            protocol: Protocol::Tcp,
            port: 443,
            host: "fd00::1%eth0".to_owned(),
            destination_port: 8443,
            options: RuleOptions::default(),
        }
    );
    assert_eq!(rule.destination(), "[fd00::1%eth0]:8443");
    assert_eq!(RuleKey::of(Direction::Egress, &rule).to_string(), "egress/tcp/443");
    let bound: Rule = "tcp:443:h:1,bind=127.0.0.1".parse().unwrap();
    assert_eq!(RuleKey::of(Direction::Egress, &bound).to_string(), "egress/tcp/443@127.0.0.1");
}

fn any_rule_like_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("tcp".to_owned()),
        Just("UDP".to_owned()),
        Just("80".to_owned()),
        Just(":".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("::1".to_owned()),
        Just("%".to_owned()),
        (0_u32..70_000).prop_map(|port| port.to_string()),
        "[+-]?[0-9_x]{0,22}",
        "\\PC{0,6}",
        ".{0,3}",
    ];
    let parts = |separator: &'static str| {
        prop::collection::vec(part.clone(), 0..8).prop_map(move |parts| parts.join(separator))
    };
    prop_oneof![parts(":"), parts(""), ".*"]
}

proptest! {
    #[test]
    fn parsing_never_panics_and_the_canonical_form_reads_back(text in any_rule_like_text()) {
        if let Ok(rule) = text.parse::<Rule>() {
            prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
        }
    }

    #[test]
    fn any_rule_that_the_grammar_can_express_reads_back(
        udp in any::<bool>(), port in 1_u16.., host in "[^\\[\\]=]{1,20}", destination_port in 1_u16..
    ) {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let rule = Rule { protocol, port, host, destination_port, options: RuleOptions::default() };
        prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
    }
}
