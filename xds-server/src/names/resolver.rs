//! The task that keeps the names looked up, and the handle on it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    ResolvedNames,
    lookup::{Lookup, Source},
    schedule::{Answer, Question, Schedule, Trouble},
};

/// How often the system's files are looked at for changes.
const LOOK: Duration = Duration::from_secs(5);

/// Changes are gathered for as long as this.
const GATHER: Duration = Duration::from_millis(20);

/// A handle on the names. Clones share one state.
#[derive(Clone, Debug)]
pub struct Names {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Shared {
    schedule: Mutex<Schedule>,
    /// Wakes the task.
    wanted: watch::Sender<()>,
    /// Counts changes of addresses.
    changed: watch::Sender<u64>,
    /// Counts answers.
    answered: watch::Sender<u64>,
}

impl Shared {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // What is in it stays meaningful: a panic leaves a name due or not due.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    /// A handle, and the task to run.
    #[must_use]
    pub fn new(source: Source) -> (Self, Task) {
        let (changed, receiver) = watch::channel(0);
        let shared = Arc::new(Shared {
            schedule: Mutex::default(),
            wanted: watch::Sender::new(()),
            changed,
            answered: watch::Sender::new(0),
        });
        (Self { shared: shared.clone(), changed: receiver }, Task { shared, source })
    }

    /// The names that matter from now on.
    pub fn want(&self, names: &BTreeSet<String>) {
        self.shared.schedule().want(now(), names);
        self.shared.wanted.send_replace(());
    }

    /// What they stand for.
    #[must_use]
    pub fn resolved(&self) -> ResolvedNames {
        self.shared.schedule().resolved()
    }

    /// Waits until one of them stands for something else than at the last call.
    pub async fn changed(&mut self) {
        // The sender lives as long as `self`.
        let _ = self.changed.changed().await;
    }

    /// Waits until this name has been looked up, or all of them, for so long at most. Says what is wrong with the one.
    pub async fn tried(&self, name: Option<&str>, limit: Duration) -> Option<Trouble> {
        let mut answered = self.shared.answered.subscribe();
        let deadline = Instant::now() + limit;
        loop {
            answered.mark_unchanged();
            {
                let schedule = self.shared.schedule();
                if name.map_or_else(|| schedule.all_tried(), |name| schedule.is_tried(name)) {
                    break;
                }
            }
            if tokio::time::timeout_at(deadline, answered.changed()).await.is_err() {
                break;
            }
        }
        name.and_then(|name| self.shared.schedule().trouble_of(now(), name))
    }

    /// What is wrong with the names, one line for each.
    #[must_use]
    pub fn status(&self) -> String {
        self.shared.schedule().trouble(now()).iter().map(|trouble| format!("{trouble}\n")).collect()
    }
}

/// Looks names up until it is dropped.
#[derive(Debug)]
pub struct Task {
    shared: Arc<Shared>,
    source: Source,
}

impl Task {
    /// Runs for ever.
    pub async fn run(self) {
        let Self { shared, source } = self;
        let mut lookup = Arc::new(Lookup::new(&source));
        let mut wanted = shared.wanted.subscribe();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lookups: JoinSet<(Question, Answer)> = JoinSet::new();
        let mut publish: Option<Instant> = None;
        loop {
            let deadline = {
                let mut schedule = shared.schedule();
                while let Some(question) = schedule.next(now()) {
                    let lookup = lookup.clone();
                    lookups.spawn(async move {
                        let answer = lookup.addresses(&question.name).await;
                        (question, answer)
                    });
                }
                schedule.deadline().map(Instant::from_std)
            };
            tokio::select! {
                Some(Ok((question, answer))) = lookups.join_next() => {
                    if take(&shared, &question, answer) {
                        publish.get_or_insert_with(|| Instant::now() + GATHER);
                    }
                }
                () = until(publish) => {
                    publish = None;
                    shared.changed.send_modify(|count| *count += 1);
                }
                () = until(deadline) => {}
                _ = wanted.changed() => {}
                _ = look.tick() => {
                    if lookup.is_outdated(&source) {
                        tracing::info!("the system's resolver has changed: looking all names up again");
                        lookup = Arc::new(Lookup::new(&source));
                        shared.schedule().refresh(now());
                    }
                }
            }
        }
    }
}

/// Takes an answer over; says whether addresses changed.
fn take(shared: &Shared, question: &Question, answer: Answer) -> bool {
    let name = &question.name;
    let (changed, trouble, before) = {
        let mut schedule = shared.schedule();
        let before = schedule.trouble_of(now(), name).map(|trouble| trouble.reason);
        let changed = schedule.answered(now(), question, answer);
        (changed, schedule.trouble_of(now(), name), before)
    };
    match &trouble {
        // Said once, and again when the reason is another one.
        Some(trouble) if before.as_ref() != Some(&trouble.reason) => tracing::warn!("{trouble}"),
        Some(trouble) => tracing::debug!("{trouble}"),
        None if changed => tracing::info!("{name} is resolved"),
        None => {}
    }
    shared.answered.send_modify(|count| *count += 1);
    changed
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
