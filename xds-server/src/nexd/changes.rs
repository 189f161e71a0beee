//! Changes of the rules while the node runs: one at a time, all or nothing.
//!
//! A rule is added by making it active in Envoy, then writing it to disk, then saying so. Killed at any moment, the
//! node comes back with every rule that it acknowledged and with none that never worked. A rule is removed in the other
//! order. What cannot be finished is undone.

use std::{net::IpAddr, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    activation::{ActivationError, Target, reached},
    admin::Admin,
    ports::PortError,
    probe::Probe,
    recovery::Waiting,
    runtime_dir::{RuntimeDirError, check_socket},
    view::{Phase, View},
};
use crate::{
    ads::Ads,
    names::{resolver::Names, schedule::Trouble},
    rules::{Direction, Rule, RuleKey, RuleSet, RuleSetError, Source, file::FileRule},
    rules_file::Reading,
    snapshot::Snapshot,
    state::{StateError, StateFile, StoredRules},
    translate::{Settings, TranslateError, translate},
};

/// How long Envoy may take to make a change active.
const ACTIVATION_LIMIT: Duration = Duration::from_secs(10);

/// How long Envoy may take to undo one; after that it is undone when Envoy comes round.
pub(super) const UNDO_LIMIT: Duration = Duration::from_secs(3);

/// How long the change that adds a rule waits for the name in it.
pub(super) const LOOKUP_LIMIT: Duration = Duration::from_secs(3);

/// How often rules that could not be made active are tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Add or remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Add and store.
    Add,
    /// Remove, wherever it comes from.
    Remove,
}

/// One change and who waits for it.
#[derive(Debug)]
pub struct Change {
    /// Add or remove.
    pub operation: Operation,
    /// Ingress or egress.
    pub direction: Direction,
    /// The rule.
    pub rule: Rule,
    /// The text for the user.
    pub reply: oneshot::Sender<Result<String, String>>,
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The set of rules refuses it.
    #[error(transparent)]
    Rules(#[from] RuleSetError),
    /// It cannot be expressed.
    #[error(transparent)]
    Translate(#[from] TranslateError),
    /// The port cannot be bound.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Its socket cannot be.
    #[error(transparent)]
    Socket(#[from] RuntimeDirError),
    /// Envoy does not follow.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// It cannot be stored.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no Envoy now.
    #[error("{0}; it is started again soon")]
    Restarting(String),
    /// There will be none.
    #[error("nexd is stopping")]
    Stopping,
}

/// The rules of a node, and all it takes to change them.
#[derive(Debug)]
pub struct Changes {
    /// The active rules.
    pub rules: RuleSet,
    /// The rules on disk.
    pub stored: StoredRules,
    /// Rules that are not active and may become so.
    pub waiting: Vec<Waiting>,
    /// The disk.
    pub file: StateFile,
    /// What the resources depend on besides the rules.
    pub settings: Settings,
    /// What asks the system for a port before Envoy.
    pub probe: Probe,
    /// What names stand for.
    pub names: Names,
    /// Envoy, as the receiver of resources.
    pub ads: Ads,
    /// Envoy, as the one to ask.
    pub admin: Admin,
    /// What others see.
    pub view: watch::Sender<View>,
    /// Whether there is an Envoy; told anew when one ended and when the next was started.
    pub envoys: watch::Receiver<bool>,
    /// What the rules file says, whenever that changes; closed when there is none.
    pub readings: mpsc::Receiver<Reading>,
    /// The rules of the file when they did not get along with the others.
    pub refused: Option<Vec<FileRule>>,
}

impl Changes {
    /// Makes changes until nobody can ask for one any more.
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => {
                        let has_removed = self.change(change).await;
                        self.reload_refused().await;
                        if has_removed {
                            // It may have been in the way of a rule that waits.
                            retry.reset_immediately();
                        }
                    }
                    None => return,
                },
                Ok(()) = self.envoys.changed() => {
                    if *self.envoys.borrow_and_update() {
                        self.recover().await;
                        // What was refused a moment ago is refused now.
                        retry.reset();
                    }
                }
                Some(reading) = self.readings.recv() => self.reload(reading).await,
                () = self.names.changed() => self.refresh(),
                _ = retry.tick(), if self.is_incomplete() => {
                    if let Some(sooner) = self.retry(|| !changes.is_empty()).await {
                        retry.reset_after(sooner.min(RETRY));
                    }
                }
            }
        }
    }

    /// Makes one change, or says why not. Whether a rule is gone.
    async fn change(&mut self, Change { operation, direction, rule, reply }: Change) -> bool {
        let outcome = match operation {
            Operation::Add => self.add(direction, &rule).await,
            Operation::Remove => self.remove(direction, &rule).await,
        };
        // A refused rule's name is not looked up any more.
        self.names.want(&self.rules.egress_names());
        match &outcome {
            Ok(text) => tracing::info!("{}", text.trim_end().replace('\n', "; ")),
            // Whoever asked is told; the node is as it was.
            Err(error) => tracing::info!("{operation:?} {direction} proxy rule {rule}: {error}"),
        }
        let has_removed = operation == Operation::Remove && outcome.is_ok();
        // Whoever asked may be gone; the change stands.
        let _ = reply.send(outcome.map_err(|error| error.to_string()));
        has_removed
    }

    async fn add(&mut self, direction: Direction, rule: &Rule) -> Result<String, ChangeError> {
        let trouble = self.look_up(direction, rule).await;
        self.activate(direction, rule, Source::Stored).await?;
        let mut stored = self.stored.clone();
        stored.add(direction, rule.clone());
        if let Err(error) = self.file.save(&stored) {
            let _ = self.rules.remove(direction, rule);
            self.undo(RuleKey::of(direction, rule)).await;
            self.show();
            return Err(error.into());
        }
        self.stored = stored;
        self.waiting.retain(|waiting| !waiting.is(direction, rule));
        self.show();
        let trouble = trouble.map(|trouble| format!("Its destination is {trouble}\n")).unwrap_or_default();
        Ok(format!("Added {direction} proxy rule: {rule}\n{trouble}"))
    }

    /// Looks up the name of a rule that is to be added, so that the rule works when it is. One that cannot be looked up is
    /// no reason to refuse the rule: it may come.
    async fn look_up(&self, direction: Direction, rule: &Rule) -> Option<Trouble> {
        let mut rules = self.rules.clone();
        rules.add(direction, rule.clone(), Source::Stored).ok()?;
        self.names.want(&rules.egress_names());
        if direction == Direction::Ingress || rule.host.parse::<IpAddr>().is_ok() {
            return None;
        }
        self.names.tried(Some(&rule.host), LOOKUP_LIMIT).await
    }

    /// Gives Envoy what names stand for now.
    fn refresh(&mut self) {
        match translate(&self.rules, &self.names.resolved(), &self.settings) {
            Ok(snapshot) => self.publish(snapshot),
            // More addresses than the module takes, in all.
            Err(error) => tracing::error!("host names have changed: {error}"),
        }
    }

    async fn remove(&mut self, direction: Direction, rule: &Rule) -> Result<String, ChangeError> {
        let mut rules = self.rules.clone();
        let mut stored = self.stored.clone();
        let was_stored = stored.remove(direction, rule);
        let waiting =
            self.waiting.iter().find(|waiting| waiting.is(direction, rule)).map(|waiting| waiting.source);
        let was_active = rules.remove(direction, rule);
        let source = match (&was_active, waiting) {
            (Ok(source), _) => Some(*source),
            (Err(_), Some(source)) => Some(source),
            (Err(_), None) if was_stored => None,
            (Err(error), None) => return Err(error.clone().into()),
        };
        let snapshot = translate(&rules, &self.names.resolved(), &self.settings)?;
        if was_stored {
            self.file.save(&stored)?;
        }
        self.stored = stored;
        self.rules = rules;
        self.waiting.retain(|waiting| !waiting.is(direction, rule));
        self.show();
        let mut text = format!("Removed {direction} proxy rule: {rule}\n");
        if was_active.is_ok() {
            self.publish(snapshot);
            let key = RuleKey::of(direction, rule);
            let target = Target::key(key, self.has(key), &self.settings);
            // It is removed whatever Envoy does; but who asked should find it so.
            if let Err(error) = self.reached(&target, UNDO_LIMIT).await {
                tracing::warn!("removed {direction} proxy rule {rule}: {error}");
                text += "Envoy has not closed it yet; see `nexctl nexd status`\n";
            }
        }
        text += match source {
            Some(Source::Flag) => {
                "It was given as a flag: it comes back when nexd starts with that flag again\n"
            }
            Some(Source::File) => {
                "It stands in the rules file: it comes back when that file changes, and when nexd starts again\n"
            }
            Some(Source::Stored) | None => "",
        };
        Ok(text)
    }

    /// Makes a rule active or leaves everything as it was.
    pub(super) async fn activate(
        &mut self,
        direction: Direction,
        rule: &Rule,
        source: Source,
    ) -> Result<(), ChangeError> {
        let mut rules = self.rules.clone();
        rules.add(direction, rule.clone(), source)?;
        match &self.view.borrow().phase {
            Phase::Restarting(detail) => return Err(ChangeError::Restarting(detail.clone())),
            Phase::Stopping => return Err(ChangeError::Stopping),
            Phase::Starting | Phase::Running | Phase::Degraded(_) => {}
        }
        let key = RuleKey::of(direction, rule);
        check_socket(&self.settings, key)?;
        if !self.has(key) {
            self.probe.check(key).await?;
        }
        self.publish(translate(&rules, &self.names.resolved(), &self.settings)?);
        if let Err(error) = self.reached(&Target::key(key, true, &self.settings), ACTIVATION_LIMIT).await {
            self.undo(key).await;
            return Err(error.into());
        }
        self.rules = rules;
        Ok(())
    }

    /// Publishes the rules as they were before a change of this key.
    async fn undo(&mut self, key: RuleKey) {
        match translate(&self.rules, &self.names.resolved(), &self.settings) {
            Ok(snapshot) => self.publish(snapshot),
            // They were translated before.
            Err(error) => tracing::error!("undoing a change of {key}: {error}"),
        }
        if let Err(error) = self.reached(&Target::key(key, self.has(key), &self.settings), UNDO_LIMIT).await {
            tracing::warn!("undoing a change of {key}: {error}");
        }
    }

    /// Gives Envoy something else to have.
    pub fn publish(&mut self, snapshot: Snapshot) {
        self.probe.published(Instant::now(), &self.view.borrow().published, &snapshot);
        self.view.send_modify(|view| view.published = snapshot.clone());
        self.ads.publish(snapshot);
    }

    pub(super) async fn reached(&self, target: &Target, limit: Duration) -> Result<(), ActivationError> {
        reached(&self.ads, &self.admin, target, Instant::now() + limit).await
    }

    fn has(&self, key: RuleKey) -> bool {
        self.rules.contains_key(key)
    }

    /// Shows what is active, and what should be and is not.
    pub fn show(&self) {
        let inactive = self.waiting.iter().map(ToString::to_string).collect();
        self.names.want(&self.rules.egress_names());
        self.view.send_modify(|view| {
            view.set_rules(&self.rules);
            view.inactive = inactive;
        });
    }
}
