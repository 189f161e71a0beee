//! The shell over loopback TCP with the generated client: what reaches the client, and what reaches who publishes.

use std::{net::SocketAddr, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::{protobuf::Any, rpc},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::*;

const LDS: ResourceType = ResourceType::Listener;

fn listeners(contents: &[(&str, &str)]) -> Snapshot {
    let resource = |(name, content): &(&str, &str)| {
        let body = Any { type_url: LDS.type_url().to_owned(), value: content.as_bytes().to_vec() };
        (ResourceName::new(LDS, *name), body)
    };
    contents.iter().map(resource).collect()
}

fn names(names: &[&str]) -> Vec<ResourceName> {
    names.iter().map(|name| ResourceName::new(LDS, *name)).collect()
}

fn error(text: &str) -> Option<rpc::Status> {
    Some(rpc::Status { code: 13, message: text.to_owned(), ..Default::default() })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(100)
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

struct Server {
    ads: Ads,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ads = Ads::new();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(ads.clone().serve(listener, shutdown));
        Self { ads, address, stop, task }
    }

    async fn client(&self) -> AggregatedDiscoveryServiceClient<tonic::transport::Channel> {
        AggregatedDiscoveryServiceClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    async fn sotw(&self) -> Peer<DiscoveryRequest, DiscoveryResponse> {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = self.client().await;
        let responses = client.stream_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap();
        Peer { requests, responses: responses.into_inner() }
    }

    async fn delta(&self) -> Peer<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = self.client().await;
        let responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap();
        Peer { requests, responses: responses.into_inner() }
    }

    /// Waits until the server counts so many streams.
    async fn connected(&self, count: usize) {
        let mut progress = self.ads.shared.progress.subscribe();
        while self.ads.status().connected != count {
            progress.changed().await.unwrap();
        }
    }
}

struct Peer<Request, Response> {
    requests: mpsc::Sender<Request>,
    responses: Streaming<Response>,
}

impl Peer<DiscoveryRequest, DiscoveryResponse> {
    async fn request(&self, nonce: &str, error_detail: Option<rpc::Status>) {
        let request = DiscoveryRequest {
            type_url: LDS.type_url().to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail,
            node: Some(Node { id: "node1".to_owned(), ..Default::default() }),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> DiscoveryResponse {
        self.responses.message().await.unwrap().unwrap()
    }
}

impl Peer<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
    async fn request(&self, nonce: &str, error_detail: Option<rpc::Status>) {
        let request = DeltaDiscoveryRequest {
            type_url: LDS.type_url().to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail,
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        self.responses.message().await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn applied_waits_for_every_stream() {
    let server = Server::start().await;
    let ads = &server.ads;
    ads.publish(listeners(&[("a", "1")]));
    assert_eq!(ads.applied(&names(&["a"]), soon()).await, Err(ApplyError::NotConnected));

    let mut one = server.sotw().await;
    let mut other = server.delta().await;
    server.connected(2).await;
    assert_eq!(ads.applied(&names(&["a"]), soon()).await, Err(ApplyError::TimedOut));
    one.request("", None).await;
    other.request("", None).await;
    let nonce = one.next().await.nonce;
    one.request(&nonce, None).await;
    let nonce = other.next().await.nonce;
    assert_eq!(ads.applied(&names(&["a"]), soon()).await, Err(ApplyError::TimedOut));
    other.request(&nonce, None).await;
    assert_eq!(ads.applied(&names(&["a"]), later()).await, Ok(()));
    // What is not there and never was.
    assert_eq!(ads.applied(&names(&["b"]), later()).await, Ok(()));

    // A removal.
    ads.publish(listeners(&[]));
    assert_eq!(ads.applied(&names(&["a"]), soon()).await, Err(ApplyError::TimedOut));
    let removal = one.next().await;
    assert_eq!(removal.resources, []);
    one.request(&removal.nonce, None).await;
    let removal = other.next().await;
    assert_eq!(removal.removed_resources, ["a"]);
    other.request(&removal.nonce, None).await;
    assert_eq!(ads.applied(&names(&["a"]), later()).await, Ok(()));

    let status = ads.status();
    assert_eq!((status.connected, status.last_nack), (2, None));
    assert_eq!(status.streams[0].client, Client { node: "node1".to_owned(), delta: false });
    assert_eq!(status.streams[1].client, Client { node: String::new(), delta: true });
}

#[tokio::test]
async fn a_rejection_reaches_who_made_the_change_and_nobody_else() {
    let server = Server::start().await;
    let ads = &server.ads;
    ads.publish(listeners(&[("a", "1"), ("b", "bad")]));
    let mut client = server.sotw().await;
    client.request("", None).await;
    let nonce = client.next().await.nonce;
    let (waiting, bad) = (ads.clone(), names(&["a", "b"]));
    let waiting = tokio::spawn(async move { waiting.applied(&bad, later()).await });
    client.request(&nonce, error("b: cannot bind")).await;
    let nacked =
        ApplyError::Nacked { resource: "listener b".to_owned(), detail: "b: cannot bind".to_owned() };
    assert_eq!(waiting.await.unwrap(), Err(nacked));
    assert_eq!(ads.applied(&names(&["a"]), later()).await, Ok(()));
    let status = ads.status();
    let nack = Nack { resource: "listener b".to_owned(), detail: "b: cannot bind".to_owned() };
    assert_eq!(status.last_nack, Some(nack));
    assert_eq!(status.counters.rejected, 1);

    // Taken out, it is no rejection any more.
    ads.publish(listeners(&[("a", "1")]));
    let nonce = client.next().await.nonce;
    client.request(&nonce, None).await;
    assert_eq!(ads.applied(&names(&["a", "b"]), later()).await, Ok(()));
    assert_eq!(ads.status().last_nack, None);
    assert_eq!(ads.status().counters.rejected, 1);
}

#[tokio::test]
async fn a_stream_that_ends_is_waited_for_no_more() {
    let server = Server::start().await;
    let ads = &server.ads;
    ads.publish(listeners(&[("a", "1")]));
    let mut one = server.delta().await;
    let other = server.delta().await;
    one.request("", None).await;
    let nonce = one.next().await.nonce;
    one.request(&nonce, None).await;
    assert_eq!(ads.applied(&names(&["a"]), soon()).await, Err(ApplyError::TimedOut));
    drop(other);
    assert_eq!(ads.applied(&names(&["a"]), later()).await, Ok(()));
    drop(one);
    server.connected(0).await;
    assert_eq!(ads.applied(&names(&["a"]), soon()).await, Err(ApplyError::NotConnected));
}

#[tokio::test]
async fn shutdown_ends_every_stream_and_the_handle_serves_again() {
    let Server { ads, address, stop, task } = Server::start().await;
    let server = Server {
        ads: ads.clone(),
        address,
        stop: oneshot::channel().0,
        task: tokio::spawn(async { Ok(()) }),
    };
    ads.publish(listeners(&[]));
    let mut idle = server.delta().await;
    let mut busy = server.sotw().await;
    busy.request("", None).await;
    busy.next().await;
    server.connected(2).await;
    stop.send(()).unwrap();
    assert!(matches!(idle.responses.message().await, Ok(None) | Err(_)));
    assert!(matches!(busy.responses.message().await, Ok(None) | Err(_)));
    task.await.unwrap().unwrap();
    server.connected(0).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let again = Server {
        ads: ads.clone(),
        address,
        stop: oneshot::channel().0,
        task: tokio::spawn(ads.clone().serve(listener, std::future::pending())),
    };
    let mut client = again.sotw().await;
    client.request("", None).await;
    client.next().await;
}

#[tokio::test]
async fn streams_and_names_are_bounded() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        let (requests, receiver) = mpsc::channel(1);
        streams.push((
            requests,
            client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap(),
        ));
    }
    let (requests, receiver) = mpsc::channel::<DiscoveryRequest>(1);
    let status: Status = client.stream_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "too many streams: the limit is 64")
    );
    drop(requests);
    assert_eq!((server.ads.status().connected, server.ads.status().refused), (MAX_STREAMS, 1));

    drop(streams.pop());
    server.connected(MAX_STREAMS - 1).await;
    let mut client = server.sotw().await;
    let request = DiscoveryRequest {
        type_url: LDS.type_url().to_owned(),
        resource_names: vec![String::new(); crate::subscription::MAX_NAMES + 1],
        ..Default::default()
    };
    client.requests.send(request).await.unwrap();
    assert_eq!(client.responses.message().await.unwrap_err().code(), Code::ResourceExhausted);
    server.connected(MAX_STREAMS - 1).await;
}
