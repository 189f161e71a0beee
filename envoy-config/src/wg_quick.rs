//! The file format of `wg-quick`(8) and `wg setconf`: `[Interface]` and `[Peer]` sections of `Key = value` lines.
//!
//! Sections and keys are case-insensitive, `#` starts a comment, `Address` and `AllowedIPs` are comma-separated and
//! may be repeated. Keys that configure the host (`DNS`, `PostUp`, `Table`, …) have no meaning for a userspace
//! network: they are ignored with a warning, as is every key that is not known.

mod section;

use std::collections::HashMap;
use std::path::Path;

use ipnet::IpNet;
use thiserror::Error;

use self::section::{InterfaceLines, PeerLines};
use crate::value::Shown;
use crate::warnings::Warnings;
use crate::{LoadError, MAX_FILE_BYTES, MAX_PEERS, Peer, PrivateKey, Problem, secret_file};

/// A wg-quick file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WgQuick {
    /// Who this node is.
    pub private_key: PrivateKey,
    /// The node's own overlay addresses, at least one.
    pub addresses: Vec<IpNet>,
    /// The UDP port; `None` is any free one.
    pub listen_port: Option<u16>,
    /// Bytes in a packet inside the tunnel.
    pub mtu: Option<u16>,
    /// The peers, each once.
    pub peers: Vec<Peer>,
    /// Lines that were ignored or changed, each text starting with `line N: `.
    pub warnings: Vec<String>,
}

/// A line of a wg-quick file is refused. The text never repeats the value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Reason {
    /// A value that breaks a rule.
    #[error("{key}: {problem}")]
    Value {
        /// The key of the line.
        key: &'static str,
        /// The rule.
        problem: Problem,
    },
    /// Neither a section nor a key with its value.
    #[error("is neither `[Interface]`, `[Peer]` nor `Key = value`: correct it or put `#` before it")]
    NotKeyValue,
    /// Another section.
    #[error("{section} is not a section of a wg-quick file: only [Interface] and [Peer] are")]
    UnknownSection {
        /// The section.
        section: Shown,
    },
    /// A key before the first section.
    #[error("stands before the first section: put it under [Interface] or [Peer]")]
    NoSection,
    /// A key twice in one section.
    #[error("{key} is given twice (first in line {first}): remove one")]
    Repeated {
        /// The key.
        key: &'static str,
        /// The first line with it.
        first: usize,
    },
    /// A section without a key that it needs.
    #[error("the section [{section}] has no {key}: add a line `{key} = {example}`{}", misspelt(.unknown))]
    Missing {
        /// The section.
        section: &'static str,
        /// The missing key.
        key: &'static str,
        /// A value for it.
        example: &'static str,
        /// What may have been meant to be it: the first key of the section that is none, and its line.
        unknown: Option<(usize, Shown)>,
    },
}

fn misspelt(unknown: &Option<(usize, Shown)>) -> String {
    let text = |(line, key): &(usize, Shown)| format!(" (line {line}: {key} is not a key of this section)");
    unknown.as_ref().map(text).unwrap_or_default()
}

impl WgQuick {
    /// Reads a file of at most [`MAX_FILE_BYTES`] that only its owner (this process's user, or root) may read.
    pub fn load(file: &Path) -> Result<Self, LoadError> {
        crate::value::key_path(file)
            .map_err(|problem| crate::ConfigError::rule("wg_config_file", problem))?;
        let text = secret_file::read(file, MAX_FILE_BYTES)?;
        Self::parse(&text).map_err(|error| LoadError::WgQuick { file: file.to_owned(), error })
    }

    /// Parses and validates a file's text.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut sections = Sections::default();
        for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                sections.line(number, line).map_err(|reason| ParseError { line: number, reason })?;
            }
        }
        sections.finish()
    }
}

#[derive(Default)]
struct Sections {
    interface: InterfaceLines,
    peers: Vec<PeerLines>,
    current: Option<Section>,
    warnings: Warnings,
}

#[derive(Clone, Copy)]
enum Section {
    Interface,
    Peer,
}

impl Sections {
    fn line(&mut self, number: usize, line: &str) -> Result<(), Reason> {
        if let Some(name) = line.strip_prefix('[') {
            return self.start(number, name.strip_suffix(']').ok_or(Reason::NotKeyValue)?.trim());
        }
        let (key, value) = line.split_once('=').ok_or(Reason::NotKeyValue)?;
        let (key, value) = (key.trim(), value.trim());
        let section = self.current.ok_or(Reason::NoSection)?;
        let known = match (section, self.peers.last_mut()) {
            (Section::Peer, Some(peer)) => peer.line(number, key, value, &mut self.warnings)?,
            _ => self.interface.line(number, key, value)?,
        };
        if !known {
            self.warnings.push(|| format!("line {number}: {}", section::ignored(key)));
        }
        Ok(())
    }

    fn start(&mut self, number: usize, name: &str) -> Result<(), Reason> {
        if name.eq_ignore_ascii_case("interface") {
            self.interface.start.get_or_insert(number);
            self.current = Some(Section::Interface);
        } else if name.eq_ignore_ascii_case("peer") {
            if self.peers.len() == MAX_PEERS {
                let problem = Problem::TooMany { what: "peers", found: MAX_PEERS + 1, limit: MAX_PEERS };
                return Err(Reason::Value { key: "[Peer]", problem });
            }
            self.peers.push(PeerLines::new(number));
            self.current = Some(Section::Peer);
        } else {
            return Err(Reason::UnknownSection { section: Shown::new(name) });
        }
        Ok(())
    }

    fn finish(self) -> Result<WgQuick, ParseError> {
        let interface = self.interface.finish()?;
        let mut first_lines = HashMap::with_capacity(self.peers.len());
        let mut peers = Vec::with_capacity(self.peers.len());
        for lines in self.peers {
            let (line, peer) = lines.finish()?;
            if let Some(first) = first_lines.insert(peer.public_key, line) {
                let (public_key, first) = (peer.public_key, format!("line {first}"));
                let problem = Problem::DuplicatePeer { public_key, first };
                return Err(ParseError { line, reason: Reason::Value { key: "PublicKey", problem } });
            }
            peers.push(peer);
        }
        Ok(WgQuick {
            private_key: interface.private_key,
            addresses: interface.addresses,
            listen_port: interface.listen_port,
            mtu: interface.mtu,
            peers,
            warnings: self.warnings.into_texts(),
        })
    }
}
