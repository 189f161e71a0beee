//! `nexctl nexd proxy`.

use serde::Serialize;

use super::{
    Failure,
    cli::Rules,
    complain,
    output::{Format, Table, render},
    print,
};
use crate::{
    argv::split_values,
    control::{Method, client::Client},
};

/// A line of the list: `--egress RULE`.
#[derive(Debug, PartialEq, Serialize)]
struct Line<'a> {
    direction: &'a str,
    rule: &'a str,
}

/// Shows the active rules. The table is upstream's: each rule as the flag that gives it.
pub(super) fn list(client: &Client, format: Format) -> Result<(), Failure> {
    let text = client.call(Method::ProxyList, "")?;
    if matches!(format, Format::Column | Format::NoHeader) {
        return print(&text);
    }
    let lines: Vec<_> = text.lines().filter_map(line).collect();
    print(&render(format, &lines, || Table { headers: [], rows: vec![] })?)
}

fn line(text: &str) -> Option<Line<'_>> {
    let (direction, rule) = text.strip_prefix("--")?.split_once(' ')?;
    Some(Line { direction, rule })
}

/// Each rule for itself: one that fails does not keep the others from being tried.
pub(super) fn change(
    client: &Client,
    verb: &str,
    Rules { ingress, egress }: Rules,
    ingress_method: Method,
    egress_method: Method,
) -> Result<(), Failure> {
    if ingress.is_empty() && egress.is_empty() {
        return Err(Failure::Usage("No rules provided".to_owned()));
    }
    let mut outcome = Ok(());
    let mut printed = Ok(());
    for (direction, method, rules) in
        [("ingress", ingress_method, ingress), ("egress", egress_method, egress)]
    {
        for rule in split_values(&rules) {
            match client.call(method, &rule) {
                // Also when nobody reads what is said: who asked for three rules gets three.
                Ok(text) => printed = printed.and(print(&text)),
                Err(error) => {
                    complain(&format!("Error {verb} {direction} rule ({rule}): {error}"));
                    outcome = Err(Failure::Shown);
                }
            }
        }
    }
    outcome.and(printed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let rule = "tcp:80:[fd00::2]:80,weight=2";
        assert_eq!(line(&format!("--egress {rule}")), Some(Line { direction: "egress", rule }));
        assert_eq!(line("Running"), None);
    }
}
