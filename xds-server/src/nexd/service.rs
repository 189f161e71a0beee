//! The control methods of a running node.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    changes::{Change, Operation},
    view::View,
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

/// Answers from the node's view at once; a change waits for its turn.
#[derive(Clone, Debug)]
pub struct Service {
    view: watch::Receiver<View>,
    changes: mpsc::Sender<Change>,
    names: Names,
    ads: Ads,
    refusals: Arc<Refusals>,
    version: Arc<str>,
}

impl Service {
    /// Answers for the node that publishes `view` and takes `changes`.
    #[must_use]
    pub fn new(
        view: watch::Receiver<View>,
        changes: mpsc::Sender<Change>,
        names: Names,
        ads: Ads,
        refusals: Arc<Refusals>,
        version: String,
    ) -> Self {
        Self { view, changes, names, ads, refusals, version: version.into() }
    }

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

    fn address(&self, ipv6: bool) -> String {
        self.view.borrow().address(ipv6).map(|address| address.to_string()).unwrap_or_default()
    }
}

impl server::Service for Service {
    async fn call(&self, method: Method, argument: String) -> Result<String, String> {
        use Direction::{Egress, Ingress};
        use Operation::{Add, Remove};
        match method {
            Method::Status => {
                let status = self.view.borrow().status(self.ads.status().last_nack.as_ref());
                Ok(format!("{status}{}{}", self.names.status(), self.refusals))
            }
            Method::Version => Ok(self.version.to_string()),
            Method::GetTunnelIPv4 => Ok(self.address(false)),
            Method::GetTunnelIPv6 => Ok(self.address(true)),
            Method::ProxyList => Ok(self.view.borrow().list()),
            Method::ProxyAddIngress => self.change(Add, Ingress, &argument).await,
            Method::ProxyAddEgress => self.change(Add, Egress, &argument).await,
            Method::ProxyRemoveIngress => self.change(Remove, Ingress, &argument).await,
            Method::ProxyRemoveEgress => self.change(Remove, Egress, &argument).await,
            Method::Unsupported(name) => Err(format!("{name} is not supported by this nexd")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::{control::server::Service as _, nexd::view::Phase};

    fn service(capacity: usize) -> (Service, watch::Sender<View>, mpsc::Receiver<Change>) {
        let (view, receiver) = watch::channel(View::default());
        let (sender, changes) = mpsc::channel(capacity);
        let refusals = Arc::<Refusals>::default();
        let (names, _) = Names::new(crate::names::lookup::Source::System);
        let version = "2024.07.23-f9f7919".to_owned();
        (Service::new(receiver, sender, names, Ads::new(), refusals, version), view, changes)
    }

    fn call(service: &Service, method: Method, argument: &str) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
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
        assert_eq!(call(&service, Method::Status, ""), Ok("Status: Running\n".to_owned()));
        assert_eq!(call(&service, Method::ProxyList, ""), Ok("--egress tcp:1:h:1\n".to_owned()));
        assert_eq!(call(&service, Method::GetTunnelIPv4, ""), Ok(String::new()));
        assert_eq!(call(&service, Method::GetTunnelIPv6, ""), Ok("fd00::1".to_owned()));
        assert_eq!(call(&service, Method::Version, ""), Ok("2024.07.23-f9f7919".to_owned()));
        assert!(call(&service, Method::Unsupported("ListPeers"), "").is_err());
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
