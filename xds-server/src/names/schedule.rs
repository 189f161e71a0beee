//! Which name is looked up when, and what is known of each. Pure: time comes as an argument.
//!
//! Call order: [`Schedule::want`] with the names in the rules; [`Schedule::next`] until it gives none; for each name it
//! gave, [`Schedule::answered`] once; [`Schedule::deadline`] says when `next` has something again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{MAX_ADDRESSES, ResolvedNames};

/// Lookups at one time.
pub const MAX_LOOKUPS: usize = 8;

/// However short a record's time to live, its name is not asked for again before this.
pub const MIN_TTL: Duration = Duration::from_secs(1);

/// However long it is, the name is asked for again after this.
pub const MAX_TTL: Duration = Duration::from_secs(3600);

/// The pause after the first failure; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest pause after a failure.
const LAST_RETRY: Duration = Duration::from_secs(10);

/// When one family has addresses and the other could not be looked up, the name is asked for again after this at most.
const HALF_TTL: Duration = Duration::from_secs(300);

/// How long addresses of a family that cannot be looked up stay beside fresh ones of the other.
const KEPT: Duration = Duration::from_secs(3600);

/// What became of the question for one family of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Family {
    /// There are some, for this long.
    Found {
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// Their time to live.
        ttl: Duration,
    },
    /// The answer is that there are none, and how it says so.
    None(String),
    /// There is no answer, and why.
    Failed(String),
}

/// What became of one lookup: IPv4, then IPv6.
pub type Answer = [Family; 2];

/// The names, and when they are looked up.
#[derive(Debug, Default)]
pub struct Schedule {
    names: BTreeMap<Arc<str>, Name>,
    /// Names that nobody is looking up, by the time of their next lookup.
    due: BTreeSet<(Instant, Arc<str>)>,
    running: usize,
    asked: u64,
}

#[derive(Debug)]
struct Name {
    /// Of each family, as it was found last.
    families: [Vec<IpAddr>; 2],
    /// When that was.
    found: [Instant; 2],
    /// Those in use.
    addresses: Vec<IpAddr>,
    /// How many there are beyond those.
    cut: usize,
    /// Failures without a success between them.
    failures: u32,
    /// Why the last lookup failed, if it did.
    problem: Option<String>,
    /// None: it is being looked up.
    next: Option<Instant>,
    tried: bool,
    /// The lookup whose answer counts.
    ticket: u64,
}

/// A name to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: Arc<str>,
    ticket: u64,
}

impl Schedule {
    /// The names that there are from now on. New ones are looked up at once.
    pub fn want(&mut self, now: Instant, wanted: &BTreeSet<String>) {
        let due = &mut self.due;
        self.names.retain(|name, state| {
            let stays = wanted.contains(&**name);
            if !stays && let Some(next) = state.next {
                due.remove(&(next, name.clone()));
            }
            stays
        });
        for name in wanted {
            if !self.names.contains_key(name.as_str()) {
                let name: Arc<str> = name.as_str().into();
                self.due.insert((now, name.clone()));
                self.names.insert(name, Name::new(now));
            }
        }
    }

    /// The next name to look up now, if there is one and not too many are being looked up. Its answer is waited for.
    pub fn next(&mut self, now: Instant) -> Option<Question> {
        if self.running >= MAX_LOOKUPS || self.due.first()?.0 > now {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        let state = self.names.get_mut(&name)?;
        state.next = None;
        self.asked += 1;
        state.ticket = self.asked;
        self.running += 1;
        Some(Question { ticket: state.ticket, name })
    }

    /// When [`Self::next`] has something, unless an answer comes before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let free = self.running < MAX_LOOKUPS;
        self.due.first().filter(|_| free).map(|(next, _)| *next)
    }

    /// Everything is looked up again: who answers has changed.
    pub fn refresh(&mut self, now: Instant) {
        for (name, state) in &mut self.names {
            if let Some(next) = state.next.replace(now).filter(|next| *next != now) {
                self.due.remove(&(next, name.clone()));
            }
            self.due.insert((now, name.clone()));
        }
    }

    /// What became of a lookup. Says whether the name's addresses are other ones than before.
    pub fn answered(&mut self, now: Instant, question: &Question, answer: Answer) -> bool {
        self.running = self.running.saturating_sub(1);
        let Some(state) = self.names.get_mut(&question.name) else { return false };
        if state.ticket != question.ticket || state.next.is_some() {
            return false;
        }
        let before = std::mem::take(&mut state.addresses);
        let pause = state.take(now, answer);
        let next = now + pause;
        state.next = Some(next);
        self.due.insert((next, question.name.clone()));
        if state.cut > 0 && state.addresses != before {
            let (name, all) = (&question.name, state.addresses.len() + state.cut);
            tracing::warn!("{name} has {all} addresses, of which the first {MAX_ADDRESSES} are used");
        }
        state.addresses != before
    }

    /// What the names stand for.
    #[must_use]
    pub fn resolved(&self) -> ResolvedNames {
        self.names.iter().map(|(name, state)| (name.clone(), state.addresses.clone())).collect()
    }

    /// Whether this name has been looked up, with whatever outcome. One that is not wanted has.
    #[must_use]
    pub fn is_tried(&self, name: &str) -> bool {
        self.names.get(name).is_none_or(|state| state.tried)
    }

    /// Whether every name has been looked up.
    #[must_use]
    pub fn all_tried(&self) -> bool {
        self.names.values().all(|state| state.tried)
    }

    /// What is wrong with the names.
    #[must_use]
    pub fn trouble(&self, now: Instant) -> Vec<Trouble> {
        self.names.iter().filter_map(|(name, state)| state.trouble(now, name)).collect()
    }

    /// What is wrong with one of them.
    #[must_use]
    pub fn trouble_of(&self, now: Instant, name: &str) -> Option<Trouble> {
        self.names.get_key_value(name).and_then(|(name, state)| state.trouble(now, name))
    }
}

impl Name {
    fn new(now: Instant) -> Self {
        Self {
            families: Default::default(),
            found: [now; 2],
            addresses: Vec::new(),
            cut: 0,
            failures: 0,
            problem: None,
            next: Some(now),
            tried: false,
            ticket: 0,
        }
    }

    /// Takes an answer over and says how long it is good for.
    fn take(&mut self, now: Instant, answer: Answer) -> Duration {
        self.tried = true;
        let mut ttl = MAX_TTL;
        let mut absent = None;
        let mut failed = None;
        let mut families = self.families.clone();
        let is_found = answer.iter().any(|outcome| matches!(outcome, Family::Found { .. }));
        for ((family, found), outcome) in families.iter_mut().zip(&mut self.found).zip(answer) {
            match outcome {
                Family::Found { addresses, ttl: lives } => {
                    *family = addresses;
                    *found = now;
                    ttl = ttl.min(lives);
                }
                Family::None(reason) => {
                    family.clear();
                    absent = absent.or(Some(reason));
                }
                // Some name servers never answer for one family: it has nothing that could be out of date.
                Family::Failed(_) if is_found && (family.is_empty() || now >= *found + KEPT) => {
                    family.clear();
                    ttl = ttl.min(HALF_TTL);
                }
                // What was found last stays.
                Family::Failed(reason) => failed = failed.or(Some(reason)),
            }
        }
        if families.iter().all(Vec::is_empty) {
            // A name that is gone may be so by mistake, and live on elsewhere: as after a failure, what was found stays.
            failed = failed.or(absent);
        } else {
            self.families = families;
        }
        let all: BTreeSet<IpAddr> = self.families.iter().flatten().map(IpAddr::to_canonical).collect();
        self.cut = all.len().saturating_sub(MAX_ADDRESSES);
        self.addresses = all.into_iter().take(MAX_ADDRESSES).collect();
        self.problem = failed;
        if self.problem.is_none() {
            self.failures = 0;
            return ttl.clamp(MIN_TTL, MAX_TTL);
        }
        let pause = FIRST_RETRY.saturating_mul(1 << self.failures.min(8)).min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    fn trouble(&self, now: Instant, name: &Arc<str>) -> Option<Trouble> {
        let reason = match (&self.problem, self.tried) {
            (Some(reason), _) => reason.clone(),
            (None, false) => "not looked up yet".to_owned(),
            (None, true) => return None,
        };
        let next = self.next.map(|next| next.saturating_duration_since(now));
        Some(Trouble { name: name.clone(), reason, addresses: self.addresses.clone(), next })
    }
}

/// A name that could not be looked up. Displays for people:
/// `unresolved: db.example: NXDOMAIN from 10.0.0.2, next try in 8 s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The name.
    pub name: Arc<str>,
    /// Why not.
    pub reason: String,
    /// What it goes on standing for.
    pub addresses: Vec<IpAddr>,
    /// When it is tried again; none when that is under way.
    pub next: Option<Duration>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.addresses.is_empty() { "unresolved" } else { "not refreshed" };
        write!(f, "{state}: {}: {}", self.name, self.reason)?;
        if let [first, more @ ..] = self.addresses.as_slice() {
            write!(f, ", so it stays {first}")?;
            more.iter().try_for_each(|address| write!(f, ", {address}"))?;
        }
        match self.next {
            Some(next) => write!(f, ", next try in {} s", next.as_millis().div_ceil(1000)),
            None => f.write_str(", being tried now"),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
