//! Envoy's admin interface, on its Unix socket.

use std::{collections::BTreeSet, io, path::PathBuf, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{
    cli::EnvoyLogLevel,
    module::{STATUS_PATH, Status},
};

/// Envoy answers from its main thread, at once unless it is stuck.
const LIMIT: Duration = Duration::from_secs(2);

/// Ten thousand listeners.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Why Envoy gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody is at the socket.
    #[error("Envoy's admin socket: {0}")]
    Connect(#[from] io::Error),
    /// HTTP went wrong.
    #[error("Envoy's admin interface: {0}")]
    Http(#[from] hyper::Error),
    /// Envoy refuses.
    #[error("Envoy's admin interface answered {path} with {status}")]
    Status {
        /// What was asked.
        path: String,
        /// The answer.
        status: StatusCode,
    },
    /// The module refuses, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The answer is too long or not of the expected form.
    #[error("Envoy's admin interface: unexpected answer to {path}")]
    Body {
        /// What was asked.
        path: String,
    },
    /// No answer in time.
    #[error("Envoy's admin interface does not answer")]
    TimedOut,
}

/// A client. Each request is a connection of its own: they are few.
#[derive(Clone, Debug)]
pub struct Admin {
    socket: PathBuf,
}

#[derive(Deserialize)]
struct Listeners {
    #[serde(default)]
    listener_statuses: Vec<ListenerStatus>,
}

#[derive(Deserialize)]
struct ListenerStatus {
    name: String,
}

impl Admin {
    /// A client for this socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Whether the workers run. Listeners are listed before that, and do not accept yet.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn is_live(&self) -> Result<bool, AdminError> {
        let (status, _) = self.request(Method::GET, "/ready").await?;
        Ok(status == StatusCode::OK)
    }

    /// The names of the active listeners.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn listeners(&self) -> Result<BTreeSet<String>, AdminError> {
        let path = "/listeners?format=json";
        let body = self.ask(Method::GET, path).await?;
        let listeners: Listeners =
            serde_json::from_slice(&body).map_err(|_| AdminError::Body { path: path.to_owned() })?;
        Ok(listeners.listener_statuses.into_iter().map(|status| status.name).collect())
    }

    /// What the module tells of its networks.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn module_status(&self) -> Result<Status, AdminError> {
        let body = self.ask(Method::GET, STATUS_PATH).await?;
        serde_json::from_slice(&body).map_err(|_| AdminError::Body { path: STATUS_PATH.to_owned() })
    }

    /// Sets the level of all of Envoy's loggers, the module's among them.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn set_log_level(&self, level: EnvoyLogLevel) -> Result<(), AdminError> {
        self.ask(Method::POST, &format!("/logging?level={}", level.as_str())).await.map(drop)
    }

    /// A page of the module's, read as JSON. What it refuses, it refuses with a line of text.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn module_page<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, AdminError> {
        let (status, body) = self.request(method, path).await?;
        if !status.is_success() {
            return Err(AdminError::Refused(String::from_utf8_lossy(&body).trim().to_owned()));
        }
        serde_json::from_slice(&body).map_err(|_| AdminError::Body { path: path.to_owned() })
    }

    /// Closes every listener, at once and for good. Connections go on.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn drain(&self) -> Result<(), AdminError> {
        self.ask(Method::POST, "/drain_listeners").await.map(drop)
    }

    /// Ends Envoy, at once.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn quit(&self) -> Result<(), AdminError> {
        self.ask(Method::POST, "/quitquitquit").await.map(drop)
    }

    /// How many connections there are over all listeners but this interface's own.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn connections(&self) -> Result<u64, AdminError> {
        let path = "/stats?filter=downstream_cx_active";
        let body = self.ask(Method::GET, path).await?;
        let text = std::str::from_utf8(&body).map_err(|_| AdminError::Body { path: path.to_owned() })?;
        Ok(sum_connections(text))
    }

    /// How many clusters are not in use yet: their names are looked up, or their destinations tried, for the first time.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn warming_clusters(&self) -> Result<u64, AdminError> {
        const GAUGE: &str = "cluster_manager.warming_clusters";
        let path = format!("/stats?filter={GAUGE}");
        let body = self.ask(Method::GET, &path).await?;
        let text = std::str::from_utf8(&body).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(GAUGE)?.strip_prefix(": "));
        value.and_then(|value| value.trim().parse().ok()).ok_or(AdminError::Body { path })
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, AdminError> {
        match self.request(method, path).await? {
            (status, body) if status.is_success() => Ok(body),
            (status, _) => Err(AdminError::Status { path: path.to_owned(), status }),
        }
    }

    async fn request(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), AdminError> {
        tokio::time::timeout(LIMIT, self.exchange(method, path)).await.map_err(|_| AdminError::TimedOut)?
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), AdminError> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let unexpected = || AdminError::Body { path: path.to_owned() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "envoy")
            .body(Empty::<Bytes>::new())
            .map_err(|_| unexpected())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES)
                .collect()
                .await
                .map_err(|_| unexpected())?;
            Ok((status, body.to_bytes()))
        };
        // The connection is driven here, not by a task of its own: it ends with the answer.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        let mut driven = false;
        loop {
            tokio::select! {
                answer = &mut exchange => return answer,
                ended = &mut connection, if !driven => {
                    ended?;
                    driven = true;
                }
            }
        }
    }
}

/// Adds up `listener.<address>.downstream_cx_active: N`, without the admin listener and the same again by worker.
fn sum_connections(stats: &str) -> u64 {
    let of_listener = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        let listener = name.strip_prefix("listener.")?.strip_suffix(".downstream_cx_active")?;
        let counted =
            listener != "admin" && !listener.contains(".worker_") && !listener.contains(".main_thread");
        counted.then(|| value.trim().parse::<u64>().ok()).flatten()
    };
    stats.lines().filter_map(of_listener).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_once() {
        let stats = "\
listener.[__]_19080.downstream_cx_active: 2
listener.[__]_19080.worker_0.downstream_cx_active: 2
listener.admin.downstream_cx_active: 1
listener.admin.main_thread.downstream_cx_active: 1
listener.envoy_internal_tunnel/default.downstream_cx_active: 3
listener.envoy_internal_tunnel/default.worker_0.downstream_cx_active: 3
";
        assert_eq!(sum_connections(stats), 5);
        assert_eq!(sum_connections(""), 0);
    }
}
