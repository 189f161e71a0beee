//! Envoy's life under nexd: started, waited for, started again, let out.

use std::{process::ExitStatus, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    activation::{Target, reached},
    admin::Admin,
    backoff::Backoff,
    changes::Changes,
    envoy::{Envoy, EnvoyCommand, EnvoyError},
    error::StartError,
    node::Signals,
    recovery::START_LIMIT,
    view::{Phase, View},
};
use crate::ads::Ads;

/// How long Envoy may take to end when asked. It takes milliseconds, but the machine may have more to do.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How often connections are counted while they end.
const COUNT: Duration = Duration::from_millis(100);

/// Runs Envoy.
#[derive(Debug)]
pub struct Supervisor<'a> {
    /// How to start it.
    pub command: EnvoyCommand,
    /// What it is served.
    pub ads: Ads,
    /// To ask it.
    pub admin: Admin,
    /// What others see.
    pub view: watch::Sender<View>,
    /// Whether there is an Envoy, for who brings it up to date.
    pub envoys: watch::Sender<bool>,
    /// What ends it.
    pub signals: &'a mut Signals,
}

impl Supervisor<'_> {
    /// Starts Envoy, hands over to `started` once it is what it should be, and keeps it running until a signal.
    ///
    /// # Errors
    /// [`StartError`], of the first start only: later ones are tried again for ever.
    pub async fn run(
        mut self,
        target: Target,
        mut changes: Changes,
        started: impl FnOnce(Changes),
    ) -> Result<(), StartError> {
        let mut backoff = Backoff::default();
        let mut envoy = Envoy::spawn(&self.command)?;
        if !self.first_start(&mut envoy, target, &mut changes).await? {
            return Ok(());
        }
        self.show(Phase::Running);
        tracing::info!("{}", self.view.borrow().address_line());
        tracing::info!("Status: Running");
        started(changes);
        loop {
            let status = tokio::select! {
                status = envoy.ended() => status.map_err(StartError::io("Envoy"))?,
                signal = self.signals.next() => {
                    self.let_out(&mut envoy, signal).await;
                    return Ok(());
                }
            };
            let last_words = envoy.last_words().map(|words| format!(": {words}")).unwrap_or_default();
            let mut text = format!("Envoy ended ({status}){last_words}");
            let mut uptime = envoy.uptime();
            self.envoys.send_replace(false);
            envoy = loop {
                let delay = backoff.after(uptime);
                tracing::error!("{text}; starting it again in {} s", delay.as_secs_f64());
                self.show(Phase::Restarting(text));
                tokio::select! {
                    () = sleep(delay) => {}
                    signal = self.signals.next() => {
                        tracing::info!("{signal}");
                        return Ok(());
                    }
                }
                match Envoy::spawn(&self.command) {
                    Ok(envoy) => break envoy,
                    Err(error) => (text, uptime) = (error.to_string(), Duration::ZERO),
                }
            };
            self.envoys.send_replace(true);
        }
    }

    /// Whether Envoy is what it should be; otherwise nexd was asked to end. Rules that Envoy rejects wait, unless a flag asks
    /// for them.
    async fn first_start(
        &mut self,
        envoy: &mut Envoy,
        mut target: Target,
        changes: &mut Changes,
    ) -> Result<bool, StartError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let outcome = tokio::select! {
                outcome = reached(&self.ads, &self.admin, &target, deadline) => outcome,
                status = envoy.ended() => return Err(ended_early(envoy, status).into()),
                signal = self.signals.next() => {
                    tracing::info!("{signal}");
                    self.end(envoy).await;
                    return Ok(false);
                }
            };
            let Err(error) = outcome else { return Ok(true) };
            match changes.without_rejected(&error) {
                Some(rest) => target = rest,
                None => {
                    self.end(envoy).await;
                    return Err(error.into());
                }
            }
        }
    }

    /// Lets open connections go on until the drain time is over or a second signal comes, then ends Envoy.
    async fn let_out(&mut self, envoy: &mut Envoy, signal: &str) {
        self.show(Phase::Stopping);
        let deadline = Instant::now() + self.command.drain_time;
        tracing::info!("{signal}: no new connections");
        if let Ok(Err(error)) = timeout_at(deadline, self.admin.drain()).await {
            tracing::warn!("{error}");
        }
        let admin = &self.admin;
        let empty = async {
            loop {
                match admin.connections().await {
                    Ok(0) => return,
                    Ok(open) => tracing::debug!(open, "connections"),
                    Err(error) => tracing::debug!("{error}"),
                }
                sleep(COUNT).await;
            }
        };
        tokio::select! {
            () = empty => {}
            () = sleep_until(deadline) => tracing::info!("the drain time is over: closing what is still open"),
            signal = self.signals.next() => tracing::info!("{signal} again: closing what is still open"),
            _ = envoy.ended() => return,
        }
        self.end(envoy).await;
    }

    /// Ends Envoy, politely if it lets itself be asked.
    async fn end(&mut self, envoy: &mut Envoy) {
        envoy.terminate();
        let ended = tokio::time::timeout(END_LIMIT, envoy.ended()).await;
        if ended.is_err() {
            tracing::warn!("Envoy does not end when asked: killing it");
            if let Err(error) = envoy.kill().await {
                tracing::warn!("killing Envoy: {error}");
            }
        }
    }

    fn show(&self, phase: Phase) {
        self.view.send_modify(|view| view.phase = phase);
    }
}

fn ended_early(envoy: &Envoy, status: std::io::Result<ExitStatus>) -> EnvoyError {
    match status {
        Ok(status) => EnvoyError::Ended {
            status,
            cause: envoy.cause().unwrap_or_else(|| "it gives no reason".to_owned()),
        },
        Err(error) => EnvoyError::Spawn { error },
    }
}
