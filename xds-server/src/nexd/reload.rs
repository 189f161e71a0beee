//! The rules file while the node runs: what it says now takes the place of what it said before, and nothing else changes.

use std::{path::Path, time::Duration};

use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

use super::{
    activation::Target,
    changes::{Changes, LOOKUP_LIMIT, UNDO_LIMIT},
    recovery::{Waiting, set_aside},
    view::{Phase, RulesFileView},
};
use crate::{
    rules::{RuleKey, RuleSet, Source, file::FileRule},
    rules_file::{Reading, RulesFileError},
    translate::translate,
};

/// How long Envoy may take to make the rules of a file active.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);

/// A file that was read without a problem just now, of which these rules are.
pub(super) fn view(path: &Path, rules: &RuleSet) -> RulesFileView {
    RulesFileView { path: path.to_owned(), rules: count(rules), read: now(), problem: None }
}

impl Changes {
    /// Takes over what the rules file says. What is wrong with the file as a whole changes nothing and is shown.
    pub(super) async fn reload(&mut self, reading: Reading) {
        self.refused = None;
        let outcome = match reading {
            Ok(rules) => self.take_over_or_keep(rules).await,
            Err(error) => Err(error.to_string()),
        };
        if let Err(problem) = outcome {
            self.refuse(problem, true);
        }
    }

    /// Tries the rules of a refused file again: the rule that was in their way may be gone.
    pub(super) async fn reload_refused(&mut self) {
        if let Some(rules) = self.refused.take()
            && let Err(problem) = self.take_over_or_keep(rules).await
        {
            self.refuse(problem, false);
        }
    }

    async fn take_over_or_keep(&mut self, rules: Vec<FileRule>) -> Result<(), String> {
        let outcome = self.take_over(&rules).await;
        self.refused = outcome.is_err().then_some(rules);
        outcome
    }

    /// Shows what is wrong with the file; in the log too, if it is `news` or another problem than before.
    fn refuse(&self, problem: String, news: bool) {
        self.names.want(&self.rules.egress_names());
        self.view.send_modify(|view| {
            if let Some(file) = &mut view.rules_file {
                let is_known = file.problem.as_ref() == Some(&problem);
                file.problem = Some(problem);
                if news || !is_known {
                    tracing::warn!("{file}");
                }
            }
        });
    }

    async fn take_over(&mut self, in_file: &[FileRule]) -> Result<(), String> {
        let Some(path) = self.view.borrow().rules_file.as_ref().map(|file| file.path.clone()) else {
            return Ok(());
        };
        let refused = |error| RulesFileError::content(&path, error).to_string();
        let mut wanted = self.rules.with_file(in_file).map_err(refused)?;
        // A stored rule that stood in the file too is there without it.
        let mut conflicting = Vec::new();
        for (direction, rule) in self.stored.iter() {
            if !self.waiting.iter().any(|waiting| waiting.is(*direction, rule))
                && let Err(error) = wanted.add(*direction, rule.clone(), Source::Stored)
            {
                conflicting.extend(Waiting::stored(*direction, rule, &error));
            }
        }
        // No destination is without addresses while one of them gives way to a name.
        let mut names = self.rules.egress_names();
        names.extend(wanted.egress_names());
        self.names.want(&names);
        self.names.tried(None, LOOKUP_LIMIT).await;
        translate(&wanted, &self.names.resolved(), &self.settings)
            .map_err(|error| format!("rules file {}: {error}", path.display()))?;

        let now = view(&path, &wanted);
        self.waiting.retain(|waiting| waiting.source != Source::File);
        self.waiting.extend(conflicting);
        self.change_to(wanted).await;
        // Who reads that it applies should find it so.
        tracing::info!("{now}");
        self.view.send_modify(|view| view.rules_file = Some(now));
        self.show();
        Ok(())
    }

    /// Makes these rules the active ones, but for those that cannot be: they wait.
    async fn change_to(&mut self, wanted: RuleSet) {
        let before = self.rules.clone();
        if before.iter().eq(wanted.iter()) {
            return;
        }
        let (had, has) = (before.keys(), wanted.keys());
        let gone: Vec<RuleKey> = had.difference(&has).copied().collect();
        if !gone.is_empty() {
            // Before others, which may be on the same port with another address.
            let mut rest = wanted.clone();
            rest.retain(|entry| had.contains(&entry.key()));
            self.publish_rules(rest);
            if self.has_envoy()
                && let Err(error) = self.reached(&Target::without(&gone, &self.settings), UNDO_LIMIT).await
            {
                tracing::warn!("removing rules that the rules file has no more: {error}");
            }
        }
        let mut active = wanted;
        for key in has.difference(&had) {
            if let Err(reason) = self.probe.check(*key).await {
                self.waiting.extend(set_aside(&mut active, *key, &reason.to_string(), |_| false));
            }
        }
        self.publish_rules(active);
        if self.has_envoy()
            && let Err(error) = self.settle(RELOAD_LIMIT, &before).await
        {
            tracing::warn!("the rules of the rules file are not all active: {error}");
        }
    }

    fn publish_rules(&mut self, rules: RuleSet) {
        match translate(&rules, &self.names.resolved(), &self.settings) {
            Ok(snapshot) => {
                self.rules = rules;
                self.publish(snapshot);
            }
            // More of them could be.
            Err(error) => tracing::error!("{error}"),
        }
    }

    fn has_envoy(&self) -> bool {
        !matches!(self.view.borrow().phase, Phase::Restarting(_) | Phase::Stopping)
    }
}

fn count(rules: &RuleSet) -> usize {
    rules.iter().filter(|entry| entry.source == Source::File).count()
}

/// The time as the log writes it, without fractions of a second.
fn now() -> String {
    let mut text = String::new();
    // A clock that cannot be read leaves the text empty.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text.split_once('.').map(|(seconds, _)| format!("{seconds}Z")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_seconds_and_its_zone() {
        let now = now();
        assert!(now.len() == 20 && now.starts_with("20") && now.ends_with('Z'), "{now}");
    }
}
