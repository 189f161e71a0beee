//! A rules file on disk: read at the start, and again when its content changes or SIGHUP asks for it.
//!
//! It is the content that is compared, once in a while, and not notifications or times: so editors that rename, and
//! directories of a Kubernetes config map, where a symbolic link changes its target, are nothing special.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    signal::unix::Signal,
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::rules::file::{ContentError, FileRule, MAX_FILE_BYTES, parse};

/// How often the file is read. A new content counts when it is found twice: the first time somebody may be writing it.
const POLL: Duration = Duration::from_millis(500);

/// Why the rules of a file cannot be had. Displays as the file, the place, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum RulesFileError {
    /// It cannot be read.
    #[error("rules file {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// Its content is not what it should be.
    #[error("rules file {}: {error}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Where and what.
        error: ContentError,
    },
}

impl RulesFileError {
    pub(crate) fn content(path: &Path, error: ContentError) -> Self {
        Self::Content { path: path.to_owned(), error }
    }
}

/// What a file says now.
pub type Reading = Result<Vec<FileRule>, RulesFileError>;

/// A rules file that was read.
#[derive(Debug)]
pub struct RulesFile {
    path: PathBuf,
    polls: Polls,
}

impl RulesFile {
    /// Reads a file for the first time.
    ///
    /// # Errors
    /// [`RulesFileError`].
    pub fn open(path: &Path) -> Result<(Self, Vec<FileRule>), RulesFileError> {
        let content = read(path);
        let polls = Polls::new(Observation::of(&content));
        let rules = reading(path, content)?;
        Ok((Self { path: path.to_owned(), polls }, rules))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends what the file says whenever that changes, and at each of these signals, until nobody listens.
    pub async fn watch(mut self, mut signals: Signal, readings: mpsc::Sender<Reading>) {
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = poll.tick() => false,
                signal = signals.recv() => signal.is_some(),
            };
            let path = self.path.clone();
            // A file system may take its time, or not answer at all.
            let Ok(content) = tokio::task::spawn_blocking(move || read(&path)).await else { return };
            let observation = Observation::of(&content);
            if asked {
                self.polls = Polls::new(observation);
            } else if !self.polls.is_news(observation) {
                continue;
            }
            if readings.send(reading(&self.path, content)).await.is_err() {
                return;
            }
        }
    }
}

fn reading(path: &Path, content: io::Result<Vec<u8>>) -> Reading {
    let content = content.map_err(|error| RulesFileError::Read { path: path.to_owned(), error })?;
    parse(&content).map_err(|error| RulesFileError::content(path, error))
}

/// The content, or one byte more than a rules file can have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer, and its content is there only once.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file: name one, or a link to one"));
    }
    let mut content = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// What a poll finds, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Observation {
    Content { hash: u64 },
    Failed { reason: String },
}

impl Observation {
    fn of(content: &io::Result<Vec<u8>>) -> Self {
        match content {
            Ok(content) => {
                let mut hasher = DefaultHasher::new();
                content.hash(&mut hasher);
                Self::Content { hash: hasher.finish() }
            }
            Err(error) => Self::Failed { reason: error.to_string() },
        }
    }
}

/// Tells news from what is known, and from what is still being written.
#[derive(Debug)]
struct Polls {
    known: Observation,
    /// Found once.
    candidate: Option<Observation>,
}

impl Polls {
    fn new(known: Observation) -> Self {
        Self { known, candidate: None }
    }

    fn is_news(&mut self, found: Observation) -> bool {
        if found == self.known {
            self.candidate = None;
            return false;
        }
        if self.candidate.as_ref() != Some(&found) {
            self.candidate = Some(found);
            return false;
        }
        *self = Self::new(found);
        true
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

    use std::os::unix::fs::symlink;

    use rustix::process::{Signal as SignalNumber, getpid, kill_process};
    use tokio::{
        signal::unix::{SignalKind, signal},
        time::timeout,
    };

    use super::*;

    #[test]
    fn what_is_found_once_is_no_news_yet() {
        let mut polls = Polls::new(Observation::Content { hash: 1 });
        let mut found = |hash| polls.is_news(Observation::Content { hash });
        // Known; while it is written, and written; known.
        assert_eq!([1, 2, 3, 3, 3].map(&mut found), [false, false, false, true, false]);
        // There and back.
        assert_eq!([4, 3, 4, 3].map(&mut found), [false; 4]);
        assert_eq!([4, 4].map(&mut found), [false, true]);
        let mut failed = || polls.is_news(Observation::Failed { reason: "gone".to_owned() });
        assert_eq!([failed(), failed(), failed()], [false, true, false]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = |path: &Path| RulesFile::open(path).unwrap_err().to_string();
        let missing = directory.path().join("missing.yaml");
        assert!(
            error(&missing).starts_with(&format!("rules file {}: No such file", missing.display())),
            "{}",
            error(&missing)
        );
        assert!(error(directory.path()).contains("not a regular file"));
        assert!(error(Path::new("/dev/null")).contains("not a regular file"));
        let file = directory.path().join("file");
        fs::write(&file, "egress:\n- x\n").unwrap();
        assert!(
            error(&file).contains("file: line 2, column 3: invalid proxy rule format"),
            "{}",
            error(&file)
        );
        let size = fs::OpenOptions::new().write(true).open(&file).unwrap();
        size.set_len(1 << 40).unwrap();
        assert!(error(&file).contains("it has more than 4 MiB"), "{}", error(&file));
    }

    #[tokio::test]
    async fn changes_are_sent_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.yaml");
        let write = |name: &str, content: &str| fs::write(directory.path().join(name), content).unwrap();
        write("first", "egress: [tcp:1:h:1]");
        symlink("first", &path).unwrap();
        let (file, rules) = RulesFile::open(&path).unwrap();
        assert_eq!(rules.len(), 1);
        let (sender, mut readings) = mpsc::channel(1);
        let task = tokio::spawn(file.watch(signal(SignalKind::hangup()).unwrap(), sender));
        let limit = Duration::from_secs(10);

        // As Kubernetes does it: the link is replaced.
        write("second", "egress: [tcp:1:h:1, tcp:2:h:2]");
        symlink("second", directory.path().join("new")).unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        let reading = timeout(limit, readings.recv()).await.unwrap().unwrap();
        assert_eq!(reading.unwrap().len(), 2);

        write("second", "egress: [");
        let reading = timeout(limit, readings.recv()).await.unwrap().unwrap();
        assert!(reading.unwrap_err().to_string().contains("line 1"));

        fs::remove_file(&path).unwrap();
        let reading = timeout(limit, readings.recv()).await.unwrap().unwrap();
        assert!(reading.unwrap_err().to_string().contains("No such file"));

        // The same content under another time is no change.
        write("first", "egress: [tcp:1:h:1]");
        symlink("first", &path).unwrap();
        let reading = timeout(limit, readings.recv()).await.unwrap().unwrap();
        assert_eq!(reading.unwrap().len(), 1);
        write("first", "egress: [tcp:1:h:1]");
        timeout(POLL * 4, readings.recv()).await.unwrap_err();

        // But whoever asks is answered.
        kill_process(getpid(), SignalNumber::HUP).unwrap();
        let reading = timeout(limit, readings.recv()).await.unwrap().unwrap();
        assert_eq!(reading.unwrap().len(), 1);

        drop(readings);
        write("first", "egress: []");
        timeout(limit, task).await.unwrap().unwrap();
    }
}
