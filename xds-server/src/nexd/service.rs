//! The control methods of a running node.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep},
};

use super::{
    admin::{Admin, AdminError},
    changes::{Change, Operation},
    debug::Debug,
    ping::{self, Family, Wanted},
    view::{Phase, View},
};
use crate::{
    ads::Ads,
    control::{
        Method,
        server::{self, Refusals},
    },
    names::resolver::Names,
    rules::{Direction, Rule, RuleError},
};

/// How long Envoy may take to its admin interface, from its start.
const ENVOY_LIMIT: Duration = Duration::from_secs(5);

const RETRY: Duration = Duration::from_millis(100);

/// Answers from the node's view at once; a change waits for its turn, a question about peers for the module.
#[derive(Clone, Debug)]
pub struct Service {
    /// What the node publishes of itself.
    pub view: watch::Receiver<View>,
    /// Who makes changes.
    pub changes: mpsc::Sender<Change>,
    /// Host names of destinations.
    pub names: Names,
    /// What Envoy has been given.
    pub ads: Ads,
    /// To ask Envoy and the module.
    pub admin: Admin,
    /// How much is logged.
    pub debug: Debug,
    /// What this socket did not take.
    pub refusals: Arc<Refusals>,
    /// What a client compares with its own.
    pub version: Arc<str>,
}

impl Service {
    async fn change(&self, operation: Operation, direction: Direction, text: &str) -> Result<String, String> {
        let rule: Rule = text.parse().map_err(|error: RuleError| error.to_string())?;
        let (reply, outcome) = oneshot::channel();
        let change = Change { operation, direction, rule, reply };
        let stopping = || "nexd is stopping".to_owned();
        match self.changes.try_send(change) {
            Ok(()) => outcome.await.map_err(|_| stopping())?,
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err("too many changes are waiting, try again".to_owned())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(stopping()),
        }
    }

    async fn status(&self) -> String {
        let module = self.admin.module_status().await;
        let view = self.view.borrow();
        let failures = match module {
            Ok(module) => module.failures(),
            Err(error) if matches!(view.phase, Phase::Running | Phase::Degraded(_)) => format!(
                "{error}: nobody knows whether clients are served; if it stays so, end Envoy's process, and nexd starts another\n"
            ),
            // That Envoy is not there stands in the view.
            Err(_) => String::new(),
        };
        let status = view.status(self.ads.status().last_nack.as_ref());
        format!("{status}{}{failures}{}", self.names.status(), self.refusals)
    }

    async fn peers(&self) -> Result<String, String> {
        let status = self.admin.module_status().await.map_err(|error| not_answering(&error))?;
        json(&status.peer_list(unix_now()))
    }

    async fn ping(&self, wanted: Wanted) -> Result<String, String> {
        let status = self.admin.module_status().await.map_err(|error| not_answering(&error))?;
        json(&ping::ping(&self.admin, &status, &wanted).await?)
    }

    async fn set_debug(&self, on: bool) -> Result<String, String> {
        self.debug.set(on)?;
        // One that is being started may have been given the level before, and answers soon.
        let deadline = Instant::now() + ENVOY_LIMIT;
        // The level of this moment: somebody else may have moved the switch again.
        while let Err(error) = self.admin.set_log_level(self.debug.envoy_level()).await {
            if Instant::now() >= deadline {
                return Err(format!(
                    "nexd's own log is switched; Envoy's will be when it starts again: {error}"
                ));
            }
            sleep(RETRY).await;
        }
        Ok(format!("Debug logging {}", if on { "enabled" } else { "disabled" }))
    }

    fn address(&self, ipv6: bool) -> String {
        self.view.borrow().address(ipv6).map(|address| address.to_string()).unwrap_or_default()
    }
}

impl server::Service for Service {
    async fn call(&self, method: Method, argument: String) -> Result<String, String> {
        use Direction::{Egress, Ingress};
        use Operation::{Add, Remove};
        match method {
            Method::Status => Ok(self.status().await),
            Method::Version => Ok(self.version.to_string()),
            Method::GetTunnelIPv4 => Ok(self.address(false)),
            Method::GetTunnelIPv6 => Ok(self.address(true)),
            Method::ProxyList => Ok(self.view.borrow().list()),
            Method::ProxyAddIngress => self.change(Add, Ingress, &argument).await,
            Method::ProxyAddEgress => self.change(Add, Egress, &argument).await,
            Method::ProxyRemoveIngress => self.change(Remove, Ingress, &argument).await,
            Method::ProxyRemoveEgress => self.change(Remove, Egress, &argument).await,
            Method::ListPeers => self.peers().await,
            Method::ConnectivityV4 => self.ping(Wanted::peers(Family::V4)).await,
            Method::ConnectivityV6 => self.ping(Wanted::peers(Family::V6)).await,
            Method::Ping => self.ping(Wanted::parse(&argument)?).await,
            Method::SetDebugOn => self.set_debug(true).await,
            Method::SetDebugOff => self.set_debug(false).await,
            Method::GetDebug => Ok(if self.debug.is_on() { "on" } else { "off" }.to_owned()),
            Method::Unsupported(name) => Err(format!("{name} is not supported by this nexd")),
        }
    }
}

fn not_answering(error: &AdminError) -> String {
    format!("the peers are known to Envoy's module alone, and there is no answer: {error}")
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::{control::server::Service as _, nexd::cli::EnvoyLogLevel};

    fn service(capacity: usize) -> (Service, watch::Sender<View>, mpsc::Receiver<Change>) {
        let (view, receiver) = watch::channel(View::default());
        let (sender, changes) = mpsc::channel(capacity);
        let refusals = Arc::<Refusals>::default();
        let (names, _) = Names::new(crate::names::lookup::Source::System);
        let service = Service {
            view: receiver,
            changes: sender,
            names,
            ads: Ads::new(),
            admin: Admin::new("/nonexistent/admin.sock".into()),
            debug: Debug::new(false, EnvoyLogLevel::Warning, |_| Ok(())),
            refusals,
            version: "2024.07.23-f9f7919".into(),
        };
        (service, view, changes)
    }

    fn call(service: &Service, method: Method, argument: &str) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(service.call(method, argument.to_owned()))
    }

    #[test]
    fn questions_are_answered_from_the_view() {
        let (service, view, _changes) = service(1);
        assert_eq!(call(&service, Method::Status, ""), Ok("Status: Starting\n".to_owned()));
        view.send_modify(|view| {
            view.phase = Phase::Running;
            view.addresses = vec!["fd00::1".parse().unwrap()];
            view.rules = vec!["--egress tcp:1:h:1".to_owned()];
        });
        // Nobody is at the admin socket here.
        let status = call(&service, Method::Status, "").unwrap();
        assert!(status.starts_with("Status: Running\nEnvoy's admin socket: No such file"), "{status}");
        assert_eq!(call(&service, Method::ProxyList, ""), Ok("--egress tcp:1:h:1\n".to_owned()));
        view.send_modify(|view| view.phase = Phase::Restarting("Envoy ended".to_owned()));
        assert_eq!(call(&service, Method::Status, ""), Ok("Status: Starting\nEnvoy ended\n".to_owned()));
        assert_eq!(call(&service, Method::GetTunnelIPv4, ""), Ok(String::new()));
        assert_eq!(call(&service, Method::GetTunnelIPv6, ""), Ok("fd00::1".to_owned()));
        assert_eq!(call(&service, Method::Version, ""), Ok("2024.07.23-f9f7919".to_owned()));
        assert!(call(&service, Method::Unsupported("ListExitNodes"), "").is_err());
    }

    #[test]
    fn without_envoy_there_is_a_status_and_no_list_of_peers() {
        let (service, _view, _changes) = service(1);
        assert_eq!(call(&service, Method::Status, ""), Ok("Status: Starting\n".to_owned()));
        let error = call(&service, Method::ListPeers, "").unwrap_err();
        assert!(error.contains("no answer: Envoy's admin socket: No such file"), "{error}");
    }

    #[test]
    fn changes_are_bounded_and_end_with_the_node() {
        let (service, _view, changes) = service(1);
        let add = |rule| call(&service, Method::ProxyAddEgress, rule);
        assert!(add("tcp:80").unwrap_err().starts_with("invalid proxy rule format"));
        let (reply, _outcome) = oneshot::channel();
        let rule = "tcp:1:h:1".parse().unwrap();
        let change = Change { operation: Operation::Add, direction: Direction::Egress, rule, reply };
        service.changes.try_send(change).unwrap();
        assert_eq!(add("tcp:2:h:2").unwrap_err(), "too many changes are waiting, try again");
        drop(changes);
        assert_eq!(add("tcp:2:h:2").unwrap_err(), "nexd is stopping");
    }
}
