//! Command lines as upstream's commands take them.

use std::{collections::HashSet, ffi::OsString};

use clap::{Arg, Command, builder::Resettable};

use crate::rules::is_option;

/// Turns `-ingress` into `--ingress`, for each long flag that the command or one below it has: Go's flag packages make
/// no difference between one dash and two.
pub(crate) fn normalize(command: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let known = long_flags(command);
    let mut over = false;
    let normalize = |argument: OsString| {
        over |= argument == "--";
        let Some(flag) = argument.to_str().and_then(|text| text.strip_prefix('-')).filter(|_| !over) else {
            return argument;
        };
        let name = flag.split('=').next().unwrap_or_default();
        if known.contains(name) { format!("--{flag}").into() } else { argument }
    };
    arguments.into_iter().map(normalize).collect()
}

/// A command to which an environment variable that is empty is one that is not set, as compose files and scripts leave them.
pub(crate) fn without_empty_variables(command: Command) -> Command {
    let is_empty =
        |argument: &Arg| argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command.mut_args(|argument| if is_empty(&argument) { argument.env(Resettable::Reset) } else { argument })
}

/// Splits the values of a flag that can be given several times: also one value can be several, separated by commas,
/// with spaces around them. A rule's options stay with it.
pub(crate) fn split_values(values: &[String]) -> Vec<String> {
    values.iter().flat_map(|value| split_value(value)).collect()
}

fn split_value(value: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in value.split(',').map(str::trim) {
        match parts.last_mut() {
            Some(rule) if is_option(part) => {
                rule.push(',');
                rule.push_str(part);
            }
            // An option without a rule is refused where rules are read.
            _ => parts.push(part.to_owned()),
        }
    }
    parts
}

fn long_flags(command: &Command) -> HashSet<String> {
    let own = command.get_arguments().filter_map(|argument| argument.get_long());
    // Added by clap when it parses; a single letter is a short flag.
    let builtin = ["help", "version"];
    let below = command.get_subcommands().flat_map(long_flags);
    own.chain(builtin).filter(|name| name.len() > 1).map(str::to_owned).chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(arguments: &[&str]) -> Vec<String> {
        let below = Command::new("add").arg(Arg::new("egress").long("egress"));
        let command = Command::new("x").arg(Arg::new("ingress").long("ingress")).subcommand(below);
        let arguments = normalize(&command, arguments.iter().map(OsString::from));
        arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        assert_eq!(normalized(&["x", "-ingress", "a", "-egress=b"]), ["x", "--ingress", "a", "--egress=b"]);
        assert_eq!(normalized(&["x", "-help"]), ["x", "--help"]);
    }

    #[test]
    fn everything_else_stays() {
        let same = ["x", "--ingress", "-6", "-i", "-unknown", "-", "ingress", "--", "-ingress"];
        assert_eq!(normalized(&same), same);
    }

    #[test]
    fn values_split_at_commas() {
        let values = ["tcp:80:a:80, tcp:81:b:81".to_owned(), "c".to_owned(), "d,".to_owned()];
        assert_eq!(split_values(&values), ["tcp:80:a:80", "tcp:81:b:81", "c", "d", ""]);
    }

    #[test]
    fn options_stay_with_the_rule_before_them() {
        let values = ["tcp:80:a:80, weight=2,bind=::1 ,tcp:81:b:81,c=d".to_owned(), "weight=3,e".to_owned()];
        assert_eq!(
            split_values(&values),
            ["tcp:80:a:80,weight=2,bind=::1", "tcp:81:b:81,c=d", "weight=3", "e"]
        );
        assert_eq!(split_values(&["a,Weight=2,=,1=2".to_owned()]), ["a", "Weight=2", "=", "1=2"]);
    }
}
