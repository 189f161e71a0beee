//! What rules become, as text that a person can review, and as a configuration that Envoy accepts.
//!
//! After a change that is meant, run with `UPDATE_GOLDEN=1` and read the difference.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::{env, fs, path::PathBuf, time::Duration};

use common::{as_bootstrap, as_json, envoy, rule_set, with_the_network, without_the_module};
use xds_server::{
    names::ResolvedNames,
    rules::RuleSet,
    translate::{AccessLog, Settings, translate},
};

fn settings() -> Settings {
    Settings { runtime_dir: PathBuf::from("/run/nexd"), ..Settings::default() }
}

fn cases() -> Vec<(&'static str, RuleSet, Settings)> {
    let every_kind = rule_set(&[
        ("egress", "tcp:80:100.64.0.2:8080"),
        ("egress", "tcp:81:[fd00::2]:8080"),
        ("egress", "tcp:81:100.64.0.1:8080"),
        ("ingress", "tcp:443:10.10.100.152:8443"),
        ("ingress", "tcp:444:[::1]:8443"),
        ("ingress", "tcp:444:127.0.0.1:8443"),
        ("ingress", "tcp:445:example.com:8443"),
        ("ingress", "tcp:445:127.0.0.1:8443"),
    ]);
    let options = rule_set(&[
        ("egress", "tcp:80:100.64.0.2:80,bind=127.0.0.1,weight=3"),
        ("egress", "tcp:80:100.64.0.3:80,bind=127.0.0.1,connect-timeout=1500ms"),
        ("egress", "tcp:80:100.64.0.2:80,bind=::1,health-check=2s"),
        ("ingress", "tcp:80:127.0.0.1:80,weight=2,connect-timeout=2s"),
        ("ingress", "tcp:80:127.0.0.1:80,bind=fd00::1,health-check=10s"),
    ]);
    let other = Settings {
        network: "office".to_owned(),
        runtime_dir: PathBuf::from("/tmp/run"),
        connect_timeout: Some(Duration::from_millis(1500)),
        udp_idle_timeout: Duration::from_millis(2500),
        access_log: AccessLog::File(PathBuf::from("/tmp/access.log")),
        peers: Some(
            serde_json::from_str(
                r#"[{"public_key": "jqe7cNRk1+ZtQp0nLFZ7eM3cnVtWmtgy/v6cdGNyQlk=", "endpoint": "192.0.2.1:51820",
                     "allowed_ips": ["100.64.0.2/32", "fd00::2/128"], "persistent_keepalive": 25}]"#,
            )
            .unwrap(),
        ),
        overlay_dns: vec!["100.64.0.9:53".parse().unwrap(), "[fd00::9]:5353".parse().unwrap()],
        listen_port: Some(51820),
        ipv6: false,
    };
    let one_of_each = rule_set(&[
        ("egress", "tcp:80:100.64.0.2:80"),
        ("ingress", "tcp:80:127.0.0.1:80"),
        ("egress", "udp:53:100.64.0.2:53"),
    ]);
    vec![
        ("no_rules", RuleSet::new(), settings()),
        ("every_kind", every_kind, settings()),
        ("options", options, settings()),
        ("other_settings", one_of_each, other),
    ]
}

#[test]
fn golden() {
    for (name, rules, settings) in cases() {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
        let found =
            format!("{:#}\n", as_json(&translate(&rules, &ResolvedNames::default(), &settings).unwrap()));
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &found).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert!(found == expected, "{name} differs from {}:\n{found}", file.display());
    }
}

#[test]
fn envoy_accepts_it() {
    let Some(binary) = envoy::binary("envoy_accepts_it") else { return };
    for (name, rules, settings) in cases() {
        let mut bootstrap =
            as_bootstrap(&as_json(&translate(&rules, &ResolvedNames::default(), &settings).unwrap()));
        let directory = tempfile::tempdir().unwrap();
        if envoy::has_module() {
            bootstrap = with_the_network(&bootstrap, &settings.network, directory.path());
        } else {
            eprintln!("{name}: validated without the dynamic module");
            bootstrap = without_the_module(&bootstrap);
        }
        if let Err(said) = envoy::validate(&binary, &bootstrap) {
            panic!("{name}: {said}\n{bootstrap:#}");
        }
    }
}
