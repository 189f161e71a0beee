//! The rules file: the rules of a node in YAML, each as text or as a mapping.
//!
//! ```yaml
//! egress:
//! - tcp:5432:100.100.0.2:5432,weight=2
//! ingress:
//! - protocol: tcp
//!   port: 443
//!   destination: "[fd00::5]:8443"
//!   connect-timeout: 2s
//! ```
//!
//! Here is its content only; reading it again when it changes is [`crate::rules_file`]'s.

mod document;

use std::{collections::HashMap, fmt, str};

use serde_saphyr::{Error, MessageFormatter as _, UserMessageFormatter};

use self::document::{Document, Item};
use super::{Direction, Identity, MAX_RULES, Rule, RuleSet, RuleSetError, Source, set::DUPLICATE};

/// The most bytes of a rules file: room for [`MAX_RULES`] mappings with every option and the longest host names.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// A rule of a rules file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRule {
    /// Ingress or egress.
    pub direction: Direction,
    /// The rule.
    pub rule: Rule,
    /// Where it stands.
    pub place: Place,
}

/// A place in a text. Displays as `line 3, column 5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// What is wrong with a rules file: displays as the place, the reason and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", place.map(|place| format!("{place}: ")).unwrap_or_default())]
pub struct ContentError {
    /// Where; none when it is the file as a whole.
    pub place: Option<Place>,
    /// What, and the remedy.
    pub reason: String,
}

impl ContentError {
    fn whole(reason: impl Into<String>) -> Self {
        Self { place: None, reason: reason.into() }
    }

    fn at(place: Place, reason: impl Into<String>) -> Self {
        Self { place: Some(place), reason: reason.into() }
    }
}

/// Reads the rules of a file, egress before ingress as everywhere, each list in its order.
///
/// # Errors
/// [`ContentError`], for the first thing that is wrong. Whether the rules get along is for [`RuleSet::with_file`].
pub fn parse(content: &[u8]) -> Result<Vec<FileRule>, ContentError> {
    if content.len() > MAX_FILE_BYTES {
        return Err(ContentError::whole(format!(
            "it has more than {} MiB: a node has at most {MAX_RULES} rules, is this another file?",
            MAX_FILE_BYTES >> 20
        )));
    }
    let text = str::from_utf8(content).map_err(|error| {
        let before = String::from_utf8_lossy(&content[..error.valid_up_to()]);
        ContentError::at(end_of(&before), "this is not UTF-8: save the file as UTF-8")
    })?;
    let document: Document = serde_saphyr::from_str_with_options(
        text,
        // The errors carry a place already; with an excerpt they would have several lines.
        serde_saphyr::options! { with_snippet: false, duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error },
    )
    .map_err(|error| explain(&error))?;
    if document.is_empty() {
        return Err(ContentError::whole(
            "it has neither `egress:` nor `ingress:`; a file without rules says so: `egress: []`",
        ));
    }
    let mut rules = Vec::new();
    for (direction, items) in [(Direction::Egress, document.egress), (Direction::Ingress, document.ingress)] {
        for item in items.into_iter().flatten() {
            let place = Place::from(item.referenced);
            let rule = match item.value {
                Item::Text(text) => {
                    text.parse().map_err(|error| ContentError::at(place, format!("{error}")))?
                }
                Item::Mapping(mapping) => mapping.rule(place)?,
            };
            rules.push(FileRule { direction, rule, place });
        }
    }
    Ok(rules)
}

impl RuleSet {
    /// These rules in place of all that came from a file before; the others stay, before them.
    ///
    /// # Errors
    /// [`ContentError`] for the first rule that does not get along with the others or cannot be carried.
    pub fn with_file(&self, rules: &[FileRule]) -> Result<Self, ContentError> {
        let mut all = self.clone();
        all.retain(|entry| entry.source != Source::File);
        let mut places: HashMap<(Direction, Identity<'_>), Place> = HashMap::new();
        for FileRule { direction, rule, place } in rules {
            let identity = (*direction, rule.identity());
            match all.add(*direction, rule.clone(), Source::File) {
                Ok(()) => {}
                Err(RuleSetError::Duplicate) => {
                    let other = match (places.get(&identity), all.source(*direction, rule)) {
                        (Some(other), _) => format!("it stands in line {} too", other.line),
                        (None, Some(Source::Stored)) => "it was added with nexctl".to_owned(),
                        (None, _) => "it is given as a flag too".to_owned(),
                    };
                    let reason =
                        format!("{direction} proxy rule {rule}: {DUPLICATE}: {other}; delete one of the two");
                    return Err(ContentError::at(*place, reason));
                }
                Err(error) => {
                    return Err(ContentError::at(*place, format!("{direction} proxy rule {rule}: {error}")));
                }
            }
            places.insert(identity, *place);
        }
        Ok(all)
    }
}

impl From<serde_saphyr::Location> for Place {
    fn from(location: serde_saphyr::Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

/// The place behind a text.
fn end_of(text: &str) -> Place {
    let last = text.rsplit('\n').next().unwrap_or_default();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Place { line: count(text.matches('\n').count() + 1), column: count(last.chars().count() + 1) }
}

/// The parser's errors, with what to do about the frequent ones.
fn explain(error: &Error) -> ContentError {
    let reason = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key `{field}`: there are {}", list(expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("invalid protocol ({variant}): there are {}", list(expected))
        }
        Error::SerdeMissingField { field, .. } => format!("the rule has no `{field}`: add it"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("`{key}` is given twice: delete one of the two")
        }
        Error::SerdeInvalidType { unexpected, expected, .. } => {
            let unexpected = if unexpected == "unit value" { "nothing" } else { unexpected };
            format!("this is {unexpected}, not {expected}")
        }
        Error::Unexpected { expected: "sequence start", .. } => {
            "this is not a list: write each rule on a line of its own, behind `- `".to_owned()
        }
        Error::Unexpected { expected: "mapping start", .. } => {
            "this is not a rules file: it has a list of rules behind `egress:`, behind `ingress:`, or both"
                .to_owned()
        }
        other => UserMessageFormatter.format_message(other).into_owned(),
    };
    let place = error.location().map(Place::from).filter(|place| place.line > 0);
    // Some of the parser's own texts have several lines.
    ContentError { place, reason: reason.split_whitespace().collect::<Vec<_>>().join(" ") }
}

fn list(names: &[&str]) -> String {
    match names {
        [most @ .., last] if !most.is_empty() => format!("{} and {last}", most.join(", ")),
        names => names.concat(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
