//! Starts that must fail, each with one clear line.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use e2e::{Identity, Node, NodeBuilder, Products, as_nobody, free_port, need, products, run, run_ok};

fn lone_node(products: &Products) -> NodeBuilder<'static> {
    Node::with(products, &Identity::new(1))
}

/// Starts the node, expects it to fail, and to say all of these words in one line.
#[track_caller]
fn refuses(builder: NodeBuilder<'_>, words: &[&str]) {
    // What it says is what the test is about.
    let mut node = builder.expect_complaint("").build();
    let (status, output) = node.run_to_end();
    assert!(!status.success() && status.code().is_some(), "ended with {status}:\n{output}");
    let says = |line: &str| words.iter().all(|word| line.to_lowercase().contains(&word.to_lowercase()));
    assert!(output.lines().any(says), "no line with {words:?} in:\n{output}");
    assert!(!output.contains("panicked"), "{output}");
}

#[test]
fn upstreams_invalid_configurations_are_refused() {
    let products = need!(products());
    // TestProxyInvalidConfig without the four cases that became legal with load balancing.
    let cases = [
        ("--ingress", "tcp:90000:127.0.0.1:80", "invalid port (90000)"),
        ("--egress", "tcp:90000:127.0.0.1:80", "invalid port (90000)"),
        ("--ingress", "udp:90000:127.0.0.1:80", "invalid port (90000)"),
        ("--egress", "udp:0:100.10j0.0.1:4242", "invalid port (0)"),
        ("--ingress", "tcp:8080:127.0.0.1:90000", "invalid port (90000)"),
        ("--egress", "tcp:8080:127.0.0.1:0", "invalid port (0)"),
        ("--ingress", "udp:8080:127.0.0.1:90000", "invalid port (90000)"),
        ("--egress", "udp:8080:127.0.0.1:0", "invalid port (0)"),
        ("--ingress", "tcpa:8080:127.0.0.1:80", "invalid protocol (tcpa)"),
        ("--egress", "tcpa:8080:127.0.0.1:80", "invalid protocol (tcpa)"),
        ("--ingress", "tcp:8080", "must specify 4 colon-separated values (tcp:8080)"),
        ("--egress", "tcp:8080", "must specify 4 colon-separated values (tcp:8080)"),
        ("--ingress", "tcp:8080::80", "host cannot be empty"),
    ];
    for (direction, rule, reason) in cases {
        let node = lone_node(&products);
        refuses(
            if direction == "--ingress" { node.ingress(rule) } else { node.egress(rule) },
            &[reason, rule],
        );
    }
}

#[test]
fn the_same_rule_twice_is_refused() {
    let products = need!(products());
    let rule = "tcp:8080:127.0.0.1:80";
    refuses(lone_node(&products).ingress(rule).ingress(rule), &["port already in use by another proxy rule"]);
}

#[test]
fn an_egress_port_in_use_is_named() {
    let products = need!(products());
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    refuses(lone_node(&products).egress(format!("tcp:{port}:100.64.0.2:80")), &["in use", &port.to_string()]);
}

#[test]
fn a_wireguard_port_in_use_is_named() {
    let products = need!(products());
    let identity = Identity::new(1);
    let taken =
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, identity.endpoint.port())).expect("the identity's port");
    let port = taken.local_addr().expect("bound").port().to_string();
    refuses(Node::with(&products, &identity), &["in use", &port]);
}

#[test]
fn a_port_below_1024_needs_a_right_and_the_error_names_it() {
    let products = need!(products());
    let nobody = need!(as_nobody(&products));
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if start.trim() != "1024" {
        return e2e::skipped(&e2e::Missing("privileged ports, which this machine has given up".into()));
    }
    refuses(lone_node(&products).through(nobody).egress("tcp:81:100.64.0.2:80"), &["81", "1024"]);
}

#[test]
fn a_second_node_in_the_same_directories_is_refused_and_the_first_goes_on() {
    let products = need!(products());
    let first = lone_node(&products).ingress("tcp:8080:127.0.0.1:9").start();
    let (status, out, error) = run(&mut first.command());
    let output = out + &error;
    assert!(!status.success(), "{output}");
    assert!(output.contains("already"), "no clear line in: {output}");
    assert!(first.nexctl_ok(&["status"]).contains("Running"), "the first node's socket was taken");
    assert_eq!(first.nexctl_ok(&["proxy", "list"]), "--ingress tcp:8080:127.0.0.1:9\n");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let products = need!(products());
    let mut node = lone_node(&products).expect_complaint("").build();
    fs::set_permissions(node.wg_config(), fs::Permissions::from_mode(0o644)).expect("an own file");
    let (status, output) = node.run_to_end();
    assert!(!status.success(), "{output}");
    assert!(output.contains("wg0.conf") && output.contains("0644"), "{output}");
}

#[test]
fn a_bad_key_is_refused_without_being_shown() {
    let products = need!(products());
    let mut identity = Identity::new(1);
    identity.private_key.truncate(40);
    let mut node = Node::with(&products, &identity).expect_complaint("").build();
    let (status, output) = node.run_to_end();
    assert!(!status.success(), "{output}");
    assert!(output.to_lowercase().contains("key"), "{output}");
    assert!(!output.contains(&identity.private_key[..20]), "the key is in the output");
}

#[test]
fn a_missing_module_or_envoy_or_the_wrong_version_is_named() {
    let products = need!(products());
    let empty = tempfile_directory();
    let no_module = Products { directory: products.directory.clone(), envoy: empty.path().join("envoy") };
    refuses(lone_node(&no_module), &["envoy", "ENVOY_BIN"]);

    let other = empty.path().join("envoy");
    let script = "#!/bin/sh\necho 'envoy  version: 0000000000000000000000000000000000000000/1.31.0/Clean/RELEASE/BoringSSL'\n";
    fs::write(&other, script).expect("a script");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).expect("an own file");
    refuses(lone_node(&no_module), &["1.31.0", "1.40"]);

    let node = lone_node(&products).build();
    let mut command = node.command();
    let (status, out, error) = run(command.env("NEXD_MODULE_DIR", empty.path()));
    assert!(!status.success(), "{out}{error}");
    assert!((out + &error).contains("libnexodus.so"));
}

#[test]
fn without_a_tunnel_configuration_the_error_names_the_flag() {
    let products = need!(products());
    for arguments in [&["proxy"][..], &["--service-url", "https://example.com", "--reg-key", "RK:x", "proxy"]]
    {
        let (status, out, error) = run(nexd(&products).args(arguments));
        assert!(!status.success());
        let output = out + &error;
        assert!(output.lines().any(|line| line.contains("--wg-config")), "{arguments:?}: {output}");
        assert!(!output.contains("RK:x"), "the registration key is in the output");
    }
}

#[test]
fn check_prints_canonical_rules_and_starts_nothing() {
    let products = need!(products());
    let port = free_port();
    let node = lone_node(&products)
        .ingress("TCP:0443:10.10.100.152:8443")
        .egress(format!("tcp:{port}:[fd00::2]:80"))
        .build();
    let (status, out, error) = run(node.command().arg("--check"));
    assert!(status.success(), "{error}");
    let mut lines: Vec<_> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [&format!("--egress tcp:{port}:[fd00::2]:80"), "--ingress tcp:443:10.10.100.152:8443"]);
    assert!(!node.control_socket().exists() && !node.runtime_directory().join("bootstrap.json").exists());

    let bad = lone_node(&products).ingress("tcp:8080::80").build();
    let (status, _, error) = run(bad.command().arg("--check"));
    assert!(!status.success() && error.contains("host cannot be empty"), "{error}");
}

#[test]
fn an_access_log_that_cannot_be_written_is_named() {
    let products = need!(products());
    let node = lone_node(&products).ingress("tcp:81:127.0.0.1:9");
    refuses(
        node.flag("--access-log=/proc/no/x.log"),
        &["--access-log", "/proc/no/x.log", "No such file", "`off`"],
    );
}

#[test]
fn global_flags_may_stand_on_either_side_of_proxy() {
    let products = need!(products());
    let node = lone_node(&products).build();
    let config = node.wg_config();
    let mut command = nexd(&products);
    command.args(["proxy", "--check", "--ingress", "tcp:80:a:80,tcp:81:b:81", "--wg-config"]).arg(&config);
    let out = run_ok(&mut command);
    assert_eq!(out.lines().count(), 2, "a comma separates rules: {out}");
}

#[test]
fn nexctls_keys_are_wireguards_keys() {
    let products = need!(products());
    let nexctl = products.program("nexctl");
    let key = run_ok(Command::new(&nexctl).arg("genkey"));
    let expected = Command::new("sh")
        .args(["-c", "echo \"$1\" | \"$2\" pubkey", "sh", key.trim()])
        .arg(&nexctl)
        .output();
    let public = String::from_utf8(expected.expect("sh").stdout).expect("text");
    assert_eq!((key.trim().len(), public.trim().len()), (44, 44));
    let identity = Identity::new(1);
    let pubkey = Command::new("sh")
        .args(["-c", "echo \"$1\" | \"$2\" pubkey", "sh", &identity.private_key])
        .arg(&nexctl)
        .output();
    assert_eq!(String::from_utf8(pubkey.expect("sh").stdout).expect("text").trim(), identity.public_key);
}

fn nexd(products: &Products) -> Command {
    let mut command = Command::new(products.program("nexd"));
    command.arg("--envoy").arg(&products.envoy).env("NEXD_MODULE_DIR", &products.directory);
    command.env_remove("NEXD_WG_CONFIG");
    command
}

fn tempfile_directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}
