//! What a node remembers: `<state-dir>/state.json`, in upstream's schema.
//!
//! Of upstream's keys (`auth-token`, `public-key`, `private-key`, `port`, `proxy-rules-config`) this server reads and
//! writes the last, `{"egress": [rule, ...] | null, "ingress": [rule, ...] | null}`; every other key stays as it is.
//! Only rules added at run time are stored: those given as flags come back with their flags.

mod error;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::error::StateError;
use crate::{
    lock::{self, LockError},
    rules::{Direction, Rule},
};

/// Room for ten thousand rules with the longest host names, and for what other programs keep in the file.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

const RULES_KEY: &str = "proxy-rules-config";

/// The rules added at run time, in the order of adding. Unlike a [`RuleSet`](crate::rules::RuleSet) it also holds
/// rules that cannot be active here and now, such as one that a flag gives too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredRules {
    rules: Vec<(Direction, Rule)>,
}

impl StoredRules {
    /// Adds a rule behind all others; a rule that is there already stays where it is, with the new one's options.
    pub fn add(&mut self, direction: Direction, rule: Rule) {
        let same =
            |(other, stored): &&mut (_, Rule)| *other == direction && stored.identity() == rule.identity();
        match self.rules.iter_mut().find(same) {
            Some((_, stored)) => *stored = rule,
            None => self.rules.push((direction, rule)),
        }
    }

    /// Removes a rule and says whether it was there.
    pub fn remove(&mut self, direction: Direction, rule: &Rule) -> bool {
        let before = self.rules.len();
        self.rules.retain(|(other, stored)| *other != direction || stored.identity() != rule.identity());
        self.rules.len() != before
    }

    /// Whether a rule is stored.
    #[must_use]
    pub fn contains(&self, direction: Direction, rule: &Rule) -> bool {
        self.rules.iter().any(|(other, stored)| *other == direction && stored.identity() == rule.identity())
    }

    /// All rules in the order of adding.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &(Direction, Rule)> {
        self.rules.iter()
    }

    fn texts(&self, direction: Direction) -> Option<Vec<String>> {
        let of_direction = self.rules.iter().filter(|(other, _)| *other == direction);
        let texts: Vec<_> = of_direction.map(|(_, rule)| rule.to_string()).collect();
        (!texts.is_empty()).then_some(texts)
    }
}

/// The state directory of one node, locked for as long as this lives: two writers would lose each other's rules.
#[derive(Debug)]
pub struct StateFile {
    /// The file itself: where a symbolic link in the directory leads, so that the link stays.
    path: PathBuf,
    /// Everything in the file but the rules.
    document: Map<String, Value>,
    _lock: File,
}

/// `proxy-rules-config`. Other keys in it stay as they are.
#[derive(Default, Serialize, Deserialize)]
struct RulesDocument {
    egress: Option<Vec<String>>,
    ingress: Option<Vec<String>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl StateFile {
    /// Makes the directory (mode 0700) if need be, locks it, and reads the file if there is one.
    ///
    /// # Errors
    /// [`StateError`]. A file that cannot be understood is left alone.
    pub fn open(directory: &Path) -> Result<(Self, StoredRules), StateError> {
        let io = |error| StateError::Directory { path: directory.to_owned(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
        let lock = lock::acquire(&directory.join("state.lock")).map_err(|error| match error {
            LockError::Held { holder } => StateError::InUse { path: directory.to_owned(), holder },
            LockError::Io(error) => io(error),
        })?;
        let path = followed(directory.join("state.json")).map_err(io)?;
        let mut state = Self { path, document: Map::new(), _lock: lock };
        let rules =
            match state.read().map_err(|error| StateError::Read { path: state.path.clone(), error })? {
                Some(text) => state.parse(&text)?,
                None => StoredRules::default(),
            };
        Ok((state, rules))
    }

    /// Replaces the stored rules. When this returns, they survive a crash of the machine; when it fails, or the
    /// process dies in it, the file is the one from before or, at the very end, the new one, and never a mixture.
    ///
    /// # Errors
    /// [`StateError::Write`].
    pub fn save(&mut self, rules: &StoredRules) -> Result<(), StateError> {
        self.replace(rules).map_err(|error| StateError::Write { path: self.path.clone(), error })
    }

    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_file() => {}
            // Opening a pipe would wait for its writer.
            Ok(_) => return Err(io::Error::other("it is not a regular file; move it away")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let file = File::open(&self.path)?;
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
        }
        Ok(Some(text))
    }

    fn parse(&mut self, text: &[u8]) -> Result<StoredRules, StateError> {
        let broken = |reason: String| StateError::Broken { path: self.path.clone(), reason };
        // Read as plain JSON first: its errors tell a place only, while those of typed reading repeat content, and
        // there may be a key in it.
        let document: Map<String, Value> = match serde_json::from_slice(text) {
            Ok(Value::Object(document)) => document,
            Ok(_) => return Err(broken("it is not a JSON object".to_owned())),
            Err(error) => return Err(broken(format!("it is not JSON: {error}"))),
        };
        let section = document.get(RULES_KEY).cloned().unwrap_or(Value::Null);
        let section: Option<RulesDocument> = serde_json::from_value(section)
            .map_err(|error| broken(format!("`{RULES_KEY}` cannot be read: {error}")))?;
        let section = section.unwrap_or_default();
        let mut rules = StoredRules::default();
        // Upstream's order: egress first.
        for (direction, texts) in [(Direction::Egress, section.egress), (Direction::Ingress, section.ingress)]
        {
            for text in texts.unwrap_or_default() {
                let rule = text.parse().map_err(|error| StateError::Rule {
                    path: self.path.clone(),
                    direction,
                    text,
                    error,
                })?;
                rules.add(direction, rule);
            }
        }
        self.document = document;
        Ok(rules)
    }

    fn replace(&mut self, rules: &StoredRules) -> io::Result<()> {
        let others = match self.document.get(RULES_KEY) {
            Some(Value::Object(section)) => section.clone(),
            _ => Map::new(),
        };
        let mut section = RulesDocument { others, ..RulesDocument::default() };
        section.others.retain(|key, _| key != "egress" && key != "ingress");
        section.egress = rules.texts(Direction::Egress);
        section.ingress = rules.texts(Direction::Ingress);
        self.document.insert(RULES_KEY.to_owned(), serde_json::to_value(section)?);

        // One name, not a random one: what a killed writer leaves behind is overwritten by the next.
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".tmp");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(&serde_json::to_vec_pretty(&self.document)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        // The rename itself is durable only when the directory is.
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

/// Where a symbolic link leads in the end, also when nothing is there yet.
fn followed(mut path: PathBuf) -> io::Result<PathBuf> {
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => {
                path.pop();
                path.push(target);
            }
            // No link, or nothing.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("state.json leads over more than {MAX_LINKS} symbolic links")))
}

#[cfg(test)]
mod tests;
