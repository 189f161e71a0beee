//! The gRPC side.

use std::{pin::Pin, time::Duration};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::{
    Ads, MAX_STREAMS,
    stream::{self, Protocol, QUEUE, Registration},
};
use crate::subscription::{Delta, StateOfTheWorld};

/// A stream is silent for hours: without this, a client that vanished counts as one that does not answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client that does not read may hold up the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// What [`Ads::serve`] listens on.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket.
    Unix(UnixListener),
    /// A TCP port.
    Tcp(TcpListener),
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener failed.
    #[error("the ADS listener failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl Ads {
    /// Serves until `shutdown` resolves, then ends every stream of this listener. One handle may serve several.
    ///
    /// # Errors
    /// [`ServeError`] when the listener fails.
    pub async fn serve(
        self,
        listener: impl Into<Listener>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let (close, closing) = watch::channel(false);
        let service = AggregatedDiscoveryServiceServer::new(Service { ads: self, closing: closing.clone() });
        let router = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(service);
        let mut closed = closing;
        let stop = async move { stream::closed(&mut closed).await };
        let mut server: Pin<Box<dyn Future<Output = _> + Send>> = match listener.into() {
            Listener::Unix(listener) => {
                Box::pin(router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop))
            }
            Listener::Tcp(listener) => {
                Box::pin(router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop))
            }
        };
        tokio::select! {
            ended = &mut server => return Ok(ended?),
            () = shutdown => {}
        }
        close.send_replace(true);
        match tokio::time::timeout(FAREWELL, server).await {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                tracing::debug!("a client does not let go of its connection");
                Ok(())
            }
        }
    }
}

struct Service {
    ads: Ads,
    closing: watch::Receiver<bool>,
}

impl Service {
    fn start<P>(&self, requests: Streaming<P::Request>) -> StreamResult<P::Response>
    where
        P: Protocol,
        P::Request: stream::Request + Send,
        P::Response: Send,
    {
        let Some(registration) = Registration::<P>::new(&self.ads) else {
            tracing::warn!("refusing a stream: there are {MAX_STREAMS}");
            return Err(Status::resource_exhausted(format!("too many streams: the limit is {MAX_STREAMS}")));
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(stream::run(registration, requests, sender, self.closing.clone()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type StreamResult<T> = Result<Response<ReceiverStream<Result<T, Status>>>, Status>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> StreamResult<DiscoveryResponse> {
        self.start::<StateOfTheWorld>(request.into_inner())
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> StreamResult<DeltaDiscoveryResponse> {
        self.start::<Delta>(request.into_inner())
    }
}
