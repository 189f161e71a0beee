//! The control methods of a running node.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    changes::{Change, Operation},
    view::View,
};
use crate::{
    ads::Ads,
    control::{Method, server},
    rules::{Direction, Rule, RuleError},
};

/// Answers from the node's view at once; a change waits for its turn.
#[derive(Clone, Debug)]
pub struct Service {
    view: watch::Receiver<View>,
    changes: mpsc::Sender<Change>,
    ads: Ads,
    version: Arc<str>,
}

impl Service {
    /// Answers for the node that publishes `view` and takes `changes`.
    #[must_use]
    pub fn new(
        view: watch::Receiver<View>,
        changes: mpsc::Sender<Change>,
        ads: Ads,
        version: String,
    ) -> Self {
        Self { view, changes, ads, version: version.into() }
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
            Method::Status => Ok(self.view.borrow().status(self.ads.status().last_nack.as_ref())),
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
