//! Reading what a node wrote.

/// Envoy's and our own severities that somebody has to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something an operator must act on.
    Warning,
    /// Something failed.
    Error,
    /// Something broke.
    Critical,
}

/// What stock Envoy 1.40 says about any configuration of this kind; nothing of ours.
const ENVOYS_OWN: &[&str] = &[
    // Envoy recommends a limit for edge proxies.
    "there is no configured limit to the number of allowed active downstream connections",
    // How every Envoy ends that is asked to.
    "caught ENVOY_SIGTERM",
];

/// What Envoy says about its xDS server once it is ending: in any other moment it would be a complaint.
const ENDING: &str = "gRPC config stream to ads closed";

/// The lines of a log that complain, apart from those that contain one of the `expected` texts.
pub fn complaints<'a>(log: &'a str, expected: &[String]) -> Vec<&'a str> {
    let known = |line: &str| {
        ENVOYS_OWN.iter().any(|known| line.contains(known)) || expected.iter().any(|text| line.contains(text))
    };
    let mut ending = false;
    let complains = |line: &&str| {
        // A log may tell of several starts.
        ending = (ending && !line.contains("Status: Running")) || line.contains("caught ENVOY_SIGTERM");
        severity(line).is_some() && !known(line) && !(ending && line.contains(ENDING))
    };
    log.lines().filter(complains).collect()
}

/// The access log lines of one listener, such as `egress/tcp/80`. One that is being written does not count.
pub fn access_log<'a>(log: &'a str, listener: &str) -> Vec<&'a str> {
    let whole = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    whole.filter(|line| names_first(line, listener)).collect()
}

/// Whether the line begins with this name, or with a time and this name.
fn names_first(line: &str, name: &str) -> bool {
    line.split_whitespace().take(2).any(|word| word == name)
}

fn severity(line: &str) -> Option<Severity> {
    // Envoy: "[2026-01-01 00:00:00.000][1234][warning][config] text". nexd: "2026-01-01T00:00:00Z  WARN target: text".
    // A panic of ours names its thread first.
    if line.contains("panicked at") {
        return Some(Severity::Critical);
    }
    let head: String = line.chars().take(90).collect();
    let has = |texts: &[&str]| texts.iter().any(|text| head.contains(text));
    if has(&["[critical]"]) {
        Some(Severity::Critical)
    } else if has(&["[error]", " ERROR "]) {
        Some(Severity::Error)
    } else if has(&["[warning]", " WARN "]) {
        Some(Severity::Warning)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
[2026-01-01 00:00:00.000][12][info][main] [source/server/server.cc:1] starting, 0 bytes
[2026-01-01 00:00:00.001][12][warning][dynamic_modules] [x.cc:2] peer 1 is unreachable
2026-01-01T00:00:00Z  WARN nexd: Envoy ended
2026-01-01T00:00:00.000Z egress/tcp/80 100.64.0.1 sent=12
egress/tcp/8080 100.64.0.1 sent=13
[2026-01-01 00:00:00.001][12][info][x] egress/tcp/80 is up
";

    #[test]
    fn warnings_are_found_unless_expected() {
        assert_eq!(complaints(LOG, &[]).len(), 2);
        assert_eq!(
            complaints(LOG, &["unreachable".into()]),
            ["2026-01-01T00:00:00Z  WARN nexd: Envoy ended"]
        );
    }

    #[test]
    fn the_end_of_the_xds_stream_is_right_only_at_the_end() {
        let end = "2026-01-01T00:00:00Z  WARN envoy: [main] caught ENVOY_SIGTERM\n";
        let closed = format!("2026-01-01T00:00:00Z  WARN envoy: [config] {ENDING}: 13\n");
        assert_eq!(complaints(&format!("{end}{closed}"), &[]).len(), 0);
        assert_eq!(complaints(&format!("{closed}{end}"), &[]).len(), 1);
        assert_eq!(complaints(&format!("{end} INFO Status: Running\n{closed}"), &[]).len(), 1);
    }

    #[test]
    fn a_listener_is_not_mistaken_for_a_longer_name() {
        assert_eq!(
            access_log(LOG, "egress/tcp/80"),
            ["2026-01-01T00:00:00.000Z egress/tcp/80 100.64.0.1 sent=12"]
        );
    }
}
