#![expect(clippy::unwrap_used, reason = "tests")]

use clap::CommandFactory as _;

use super::*;

fn parse(arguments: &[&str]) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(arguments)
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn flags_stand_before_and_after_the_word_proxy() {
    let arguments = parse(&[
        "nexd",
        "--egress",
        "a",
        "--wg-config",
        "f",
        "proxy",
        "--egress",
        "b",
        "--state-dir=d",
        "--check",
    ])
    .unwrap();
    assert_eq!(arguments.egress, ["a", "b"]);
    assert_eq!(arguments.wg_config, Some("f".into()));
    assert_eq!(arguments.state_dir, Some("d".into()));
    assert!(arguments.check);
}

#[test]
fn flags_of_the_control_plane_are_recognized() {
    let given = |arguments: &[&str]| parse(arguments).unwrap().control_plane.given();
    assert_eq!(given(&["nexd", "proxy"]), None);
    assert_eq!(given(&["nexd", "--service-url", "https://try.nexodus.io", "proxy"]), Some("--service-url"));
    assert_eq!(given(&["nexd", "proxy", "--request-ip", "100.100.0.50"]), Some("--request-ip"));
    assert_eq!(given(&["nexd", "--relay-only", "proxy"]), Some("--relay-only"));
    assert_eq!(given(&["nexd", "proxy", "https://try.nexodus.io"]), Some("a service URL"));
}

#[test]
fn wrong_usage() {
    for arguments in [
        &["nexd"][..],
        &["nexd", "router"],
        &["nexd", "proxy", "--unknown"],
        &["nexd", "proxy", "--drain-time", "soon"],
        &["nexd", "proxy", "--drain-time", "2h"],
        &["nexd", "proxy", "--listen-port", "65536"],
        &["nexd", "proxy", "--envoy-log-level", "loud"],
        &["nexd", "proxy", "--concurrency", "0"],
        &["nexd", "proxy", "--udp-idle-timeout", "99ms"],
        &["nexd", "proxy", "--max-udp-flows", "0"],
        &["nexd", "proxy", "--tunnel-threads", "0"],
        &["nexd", "proxy", "--tunnel-threads", "65"],
        &["nexd", "proxy", "--max-udp-flows", "1048577"],
    ] {
        assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
    }
}

#[test]
fn access_logs() {
    let log = |text| parse(&["nexd", "proxy", "--access-log", text]).unwrap().access_log;
    assert_eq!(log("off"), AccessLog::Off);
    assert_eq!(log("./off"), AccessLog::File("./off".into()));
}
