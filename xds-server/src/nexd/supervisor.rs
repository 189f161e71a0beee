//! Envoy's life under nexd: started, waited for, started again, let out.

use std::{convert::Infallible, process::ExitStatus, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    activation::{Target, reached},
    admin::Admin,
    backoff::Backoff,
    envoy::{Envoy, EnvoyCommand, EnvoyError},
    error::StartError,
    node::Signals,
    view::{Phase, View},
};
use crate::ads::Ads;

/// How long Envoy and the module may take to their first open listeners. The module resolves peers' names in it.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How soon to look again when an Envoy that was started again is not what it should be.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How long Envoy may take to end when asked.
const END_LIMIT: Duration = Duration::from_secs(2);

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
    /// What ends it.
    pub signals: &'a mut Signals,
}

/// How a wait for an Envoy that was started again goes on.
enum Run {
    /// It ended by itself.
    Ended(ExitStatus),
    /// nexd is asked to end.
    Asked(&'static str),
}

impl Supervisor<'_> {
    /// Starts Envoy, calls `started` once it is what it should be, and keeps it running until a signal.
    ///
    /// # Errors
    /// [`StartError`], of the first start only: later ones are tried again for ever.
    pub async fn run(mut self, target: Target, started: impl FnOnce()) -> Result<(), StartError> {
        let mut backoff = Backoff::default();
        let mut envoy = Envoy::spawn(&self.command)?;
        if !self.first_start(&mut envoy, &target).await? {
            return Ok(());
        }
        self.show(Phase::Running);
        tracing::info!("{}", self.view.borrow().address_line());
        tracing::info!("Status: Running");
        started();
        loop {
            let status = match self.follow(&mut envoy).await? {
                Run::Asked(signal) => {
                    self.let_out(&mut envoy, signal).await;
                    return Ok(());
                }
                Run::Ended(status) => status,
            };
            let delay = backoff.after(envoy.uptime());
            let cause = envoy.cause().map(|cause| format!(": {cause}")).unwrap_or_default();
            let text = format!("Envoy ended ({status}){cause}");
            tracing::error!("{text}; starting it again in {} s", delay.as_secs_f64());
            self.show(Phase::Restarting(text));
            tokio::select! {
                () = sleep(delay) => {}
                signal = self.signals.next() => {
                    tracing::info!("{signal}");
                    return Ok(());
                }
            }
            envoy = Envoy::spawn(&self.command)?;
        }
    }

    /// Whether Envoy is what it should be; otherwise nexd was asked to end.
    async fn first_start(&mut self, envoy: &mut Envoy, target: &Target) -> Result<bool, StartError> {
        let deadline = Instant::now() + START_LIMIT;
        let outcome = tokio::select! {
            outcome = reached(&self.ads, &self.admin, target, deadline) => outcome,
            status = envoy.ended() => return Err(ended_early(envoy, status).into()),
            signal = self.signals.next() => {
                tracing::info!("{signal}");
                self.end(envoy).await;
                return Ok(false);
            }
        };
        if let Err(error) = outcome {
            self.end(envoy).await;
            return Err(error.into());
        }
        Ok(true)
    }

    /// Waits for Envoy's end or nexd's, and looks meanwhile whether an Envoy that was started again has everything.
    async fn follow(&mut self, envoy: &mut Envoy) -> Result<Run, StartError> {
        let (ads, admin, view) = (&self.ads, &self.admin, &self.view);
        let recovery = async {
            if view.borrow().phase != Phase::Running {
                recover(ads, admin, view).await;
            }
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            status = envoy.ended() => Ok(Run::Ended(status.map_err(StartError::io("Envoy"))?)),
            signal = self.signals.next() => Ok(Run::Asked(signal)),
            never = recovery => match never {},
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

/// Waits until an Envoy that was started again has what is published, and says meanwhile what is wrong.
async fn recover(ads: &Ads, admin: &Admin, view: &watch::Sender<View>) {
    loop {
        let target = Target::all(&view.borrow().published);
        match reached(ads, admin, &target, Instant::now() + START_LIMIT).await {
            Ok(()) => {
                tracing::info!("Envoy is back");
                view.send_modify(|view| view.phase = Phase::Running);
                return;
            }
            Err(error) => {
                tracing::warn!("Envoy is back, but not with all rules: {error}");
                view.send_modify(|view| view.phase = Phase::Degraded(error.to_string()));
            }
        }
        sleep(LOOK_AGAIN).await;
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
