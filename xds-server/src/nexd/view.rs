//! What a node shows of itself.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
};

use crate::{ads::Nack, rules::RuleSet, snapshot::Snapshot};

/// How far a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Envoy is not ready for the first time yet.
    #[default]
    Starting,
    /// Envoy runs, with all rules.
    Running,
    /// Envoy runs, and something is wrong.
    Degraded(String),
    /// Envoy ended and is started again after a while.
    Restarting(String),
    /// No new connections; open ones may end.
    Stopping,
}

/// A node for its users: what `nexctl nexd status` and `proxy list` show.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// How far it is.
    pub phase: Phase,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// The active rules, each as the flag that gives it.
    pub rules: Vec<String>,
    /// Rules that should be active and are not, and why.
    pub inactive: Vec<String>,
    /// What became of the rules file, when there is one.
    pub rules_file: Option<RulesFileView>,
    /// What Envoy should have.
    pub published: Snapshot,
}

/// The rules file. Displays as a line of the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesFileView {
    /// The file.
    pub path: PathBuf,
    /// How many rules it had when it was last read without a problem.
    pub rules: usize,
    /// When that was.
    pub read: String,
    /// What is wrong with it now: place, reason, remedy.
    pub problem: Option<String>,
}

impl fmt::Display for RulesFileView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, rules, read, problem } = self;
        match problem {
            None => write!(f, "rules file {}: {rules} rules, read {read}", path.display()),
            Some(problem) => write!(f, "{problem}; the {rules} rules read {read} still apply"),
        }
    }
}

impl View {
    /// The rules as flags, one on each line.
    #[must_use]
    pub fn list(&self) -> String {
        self.rules.iter().map(|rule| format!("{rule}\n")).collect()
    }

    /// Upstream's first line, then what there is to say.
    #[must_use]
    pub fn status(&self, nack: Option<&Nack>) -> String {
        let (word, detail) = match &self.phase {
            Phase::Starting => ("Starting", None),
            Phase::Running => ("Running", None),
            Phase::Degraded(detail) => ("Running", Some(detail)),
            Phase::Restarting(detail) => ("Starting", Some(detail)),
            Phase::Stopping => ("Stopping", None),
        };
        let mut text = format!("Status: {word}\n");
        // Writing to a string does not fail.
        if let Some(detail) = detail {
            let _ = writeln!(text, "{detail}");
        }
        if let Some(nack) = nack {
            let _ = writeln!(text, "Envoy rejected {}: {}", nack.resource, nack.detail);
        }
        if let Some(file) = &self.rules_file {
            let _ = writeln!(text, "{file}");
        }
        for rule in &self.inactive {
            let _ = writeln!(text, "Not active: {rule}");
        }
        text
    }

    /// The first own address of a family.
    #[must_use]
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv6() == ipv6)
    }

    /// Upstream's line for the log: the first address of each family.
    #[must_use]
    pub fn address_line(&self) -> String {
        let text = |ipv6| self.address(ipv6).map(|address| address.to_string()).unwrap_or_default();
        format!(
            "New local Wireguard interface addresses assigned IPv4 [ {} ] IPv6 [ {} ]",
            text(false),
            text(true)
        )
    }

    /// Takes over the active rules.
    pub fn set_rules(&mut self, rules: &RuleSet) {
        self.rules = rules.iter().map(ToString::to_string).collect();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::rules::{Direction, Source};

    #[test]
    fn status_has_upstreams_first_line() {
        let mut view = View::default();
        assert_eq!(view.status(None), "Status: Starting\n");
        view.phase = Phase::Running;
        assert_eq!(view.status(None), "Status: Running\n");
        view.phase = Phase::Restarting("Envoy ended".to_owned());
        view.inactive = vec!["--egress tcp:80:10.0.0.1:80: in use".to_owned()];
        view.rules_file = Some(RulesFileView {
            path: PathBuf::from("/r.yaml"),
            rules: 2,
            read: "2026-01-01T00:00:00Z".to_owned(),
            problem: None,
        });
        let nack = Nack { resource: "listener a".to_owned(), detail: "no".to_owned() };
        assert_eq!(
            view.status(Some(&nack)),
            "Status: Starting\nEnvoy ended\nEnvoy rejected listener a: no\nrules file /r.yaml: 2 rules, read 2026-01-01T00:00:00Z\nNot active: --egress tcp:80:10.0.0.1:80: in use\n"
        );
        let file = view.rules_file.as_mut().unwrap();
        file.problem = Some("rules file /r.yaml: line 1, column 2: no".to_owned());
        assert_eq!(
            file.to_string(),
            "rules file /r.yaml: line 1, column 2: no; the 2 rules read 2026-01-01T00:00:00Z still apply"
        );
    }

    #[test]
    fn addresses_and_rules() {
        let mut view = View {
            addresses: ["100.64.0.1", "fd00::1", "100.64.0.9"].map(|text| text.parse().unwrap()).to_vec(),
            ..View::default()
        };
        assert_eq!(
            view.address_line(),
            "New local Wireguard interface addresses assigned IPv4 [ 100.64.0.1 ] IPv6 [ fd00::1 ]"
        );
        let mut rules = RuleSet::new();
        rules.add(Direction::Egress, "tcp:080:[::1]:1".parse().unwrap(), Source::Flag).unwrap();
        rules.add(Direction::Ingress, "tcp:2:h:2".parse().unwrap(), Source::Stored).unwrap();
        view.set_rules(&rules);
        assert_eq!(view.list(), "--egress tcp:80:[::1]:1\n--ingress tcp:2:h:2\n");
    }
}
