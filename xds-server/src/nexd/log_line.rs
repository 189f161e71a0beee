//! Envoy's output: bytes to lines, lines to messages. Pure.

use std::collections::VecDeque;

/// Given to Envoy as `--log-format`; `%l` is the level, `%n` the logger.
pub const LOG_FORMAT: &str = "[%l][%n] %v";

/// A longer line is cut.
const MAX_LINE_BYTES: usize = 8 << 10;

/// How many messages are remembered to find the cause of Envoy's end.
const REMEMBERED: usize = 32;

/// Cuts a stream of bytes into lines of at most 8 KiB.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes and gives the lines that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, whole) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = MAX_LINE_BYTES - self.partial.len();
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if whole {
                lines.extend(self.finish());
            }
        }
        lines
    }

    /// The line that has no end yet.
    pub fn finish(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).trim_end().to_owned();
        (!line.is_empty()).then_some(line)
    }
}

/// One message of Envoy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How important.
    pub severity: Severity,
    /// The part of Envoy that speaks.
    pub logger: String,
    /// The text.
    pub text: String,
}

/// Envoy's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "Envoy's names")]
pub enum Severity {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

/// Reads a line in [`LOG_FORMAT`]; other lines (an access log, the continuation of a message) are none.
#[must_use]
pub fn parse(line: &str) -> Option<Message> {
    let (level, rest) = line.strip_prefix('[')?.split_once("][")?;
    let (logger, text) = rest.split_once("] ")?;
    let severity = match level {
        "trace" => Severity::Trace,
        "debug" => Severity::Debug,
        "info" => Severity::Info,
        // About fields of our own configuration (the matcher of `udp_proxy`, whose older form is deprecated): an operator
        // could do nothing about it.
        "warning" if logger == "misc" && text.contains(" is marked as work-in-progress") => Severity::Debug,
        "warning" => Severity::Warning,
        "error" => Severity::Error,
        "critical" => Severity::Critical,
        _ => return None,
    };
    Some(Message { severity, logger: logger.to_owned(), text: text.to_owned() })
}

/// The last things Envoy said.
#[derive(Debug, Default)]
pub struct Tail {
    messages: VecDeque<(Severity, String)>,
}

impl Tail {
    /// Remembers a message.
    pub fn push(&mut self, severity: Severity, text: &str) {
        if self.messages.len() == REMEMBERED {
            self.messages.pop_front();
        }
        self.messages.push_back((severity, text.to_owned()));
    }

    /// The last message that Envoy ends with.
    #[must_use]
    pub fn last_words(&self) -> Option<&str> {
        self.last(Severity::Critical)
    }

    /// What most likely kept Envoy from starting: its last words, else the last error.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        let text = self.last_words().or_else(|| self.last(Severity::Error))?;
        // "error `REASON` initializing config 'FILE'": the file is ours.
        let reason = text.strip_prefix("error `").and_then(|rest| rest.rsplit_once("` initializing config"));
        Some(reason.map_or(text, |(reason, _)| reason))
    }

    fn last(&self, wanted: Severity) -> Option<&str> {
        self.messages.iter().rev().find(|(severity, _)| *severity >= wanted).map(|(_, text)| text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_any_pieces() {
        let text = b"one\ntwo\r\n\nthree";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut found: Vec<_> = text.chunks(size).flat_map(|piece| lines.push(piece)).collect();
            found.extend(lines.finish());
            assert_eq!(found, ["one", "two", "three"], "{size}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = Lines::default();
        for _ in 0..3 {
            assert!(lines.push(&[b'x'; MAX_LINE_BYTES - 1]).is_empty());
        }
        let found = lines.push(b"\nnext\n");
        assert_eq!(found.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE_BYTES, 4]);
    }

    #[test]
    fn messages() {
        let message = parse("[warning][main] caught ENVOY_SIGTERM");
        let expected = Message {
            severity: Severity::Warning,
            logger: "main".to_owned(),
            text: "caught ENVOY_SIGTERM".to_owned(),
        };
        assert_eq!(message, Some(expected));
        for other in ["egress/tcp/80 12 bytes", "[x][y] z", "[warning] z", "", "["] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_envoy_thinks_of_our_fields_is_no_warning() {
        let line = "[warning][misc] field 'a.b' is marked as work-in-progress. API features";
        assert_eq!(parse(line).map(|message| message.severity), Some(Severity::Debug));
    }

    #[test]
    fn the_cause_is_the_last_critical_message() {
        let mut tail = Tail::default();
        assert_eq!(tail.cause(), None);
        tail.push(Severity::Error, "first");
        tail.push(Severity::Warning, "caught");
        assert_eq!((tail.cause(), tail.last_words()), (Some("first"), None));
        tail.push(Severity::Critical, "second");
        tail.push(Severity::Error, "third");
        assert_eq!((tail.cause(), tail.last_words()), (Some("second"), Some("second")));
        tail.push(Severity::Critical, "error `no `module`` initializing config 'goo.gle/x");
        assert_eq!(tail.cause(), Some("no `module`"));
        for _ in 0..2 * REMEMBERED {
            tail.push(Severity::Info, "much");
        }
        assert_eq!((tail.cause(), tail.messages.len()), (None, REMEMBERED));
    }
}
