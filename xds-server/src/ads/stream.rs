//! One stream: requests in, responses out, until either side ends it.

use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::{Ads, Client, Stream, lock};
use crate::subscription::{Delta, Rejection, StateOfTheWorld, Subscription};

/// Responses that are on their way to the client. A stream has at most four unanswered, one of each type.
pub(super) const QUEUE: usize = 4;

/// The most bytes of a node's id that are kept.
const MAX_NODE_ID: usize = 256;

/// A request says who sends it; the first one has to, others may.
pub(super) trait Request {
    fn node(&self) -> Option<&Node>;
}

impl Request for DiscoveryRequest {
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }
}

impl Request for DeltaDiscoveryRequest {
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }
}

/// A protocol of the service.
pub(super) trait Protocol: Subscription + Default + Send + 'static {
    const DELTA: bool;
}

impl Protocol for StateOfTheWorld {
    const DELTA: bool = false;
}

impl Protocol for Delta {
    const DELTA: bool = true;
}

/// A place among the streams; given up when dropped.
pub(super) struct Registration<P> {
    ads: Ads,
    id: u64,
    subscription: Arc<Mutex<P>>,
}

impl<P: Protocol> Registration<P> {
    /// None when there is no place left.
    pub(super) fn new(ads: &Ads) -> Option<Self> {
        let mut state = ads.shared.lock();
        if state.streams.len() >= super::MAX_STREAMS {
            state.refused += 1;
            return None;
        }
        let id = state.next_stream;
        state.next_stream += 1;
        let subscription = Arc::new(Mutex::new(P::default()));
        let client = Client { delta: P::DELTA, ..Client::default() };
        state.streams.insert(id, Stream { client, subscription: subscription.clone() });
        drop(state);
        ads.shared.progress();
        Some(Self { ads: ads.clone(), id, subscription })
    }

    fn name(&self, node: &Node) {
        let mut id = node.id.clone();
        id.truncate(id.floor_char_boundary(MAX_NODE_ID));
        tracing::info!(stream = self.id, node = id, delta = P::DELTA, "an Envoy is connected");
        if let Some(stream) = self.ads.shared.lock().streams.get_mut(&self.id) {
            stream.client.node = id;
        }
    }

    fn report(&self, rejection: &Rejection) {
        let Rejection { kind, names, detail } = rejection;
        tracing::warn!(stream = self.id, "Envoy rejected {kind} {}: {detail}", names.join(", "));
    }
}

impl<P> Drop for Registration<P> {
    fn drop(&mut self) {
        let mut state = self.ads.shared.lock();
        if let Some(stream) = state.streams.remove(&self.id) {
            let counters = lock(&stream.subscription).counters();
            state.past = state.past + counters;
        }
        drop(state);
        tracing::info!(stream = self.id, "an Envoy is disconnected");
        self.ads.shared.progress();
    }
}

/// Runs a stream to its end.
pub(super) async fn run<P: Protocol>(
    registration: Registration<P>,
    mut requests: Streaming<P::Request>,
    responses: mpsc::Sender<Result<P::Response, Status>>,
    mut closing: watch::Receiver<bool>,
) where
    P::Request: Request,
{
    let Registration { ads, subscription, .. } = &registration;
    let mut published = ads.shared.published.subscribe();
    published.mark_changed();
    let mut is_named = false;
    loop {
        tokio::select! {
            request = requests.message() => {
                let request = match request {
                    Ok(Some(request)) => request,
                    Ok(None) => return,
                    Err(status) => {
                        tracing::debug!(stream = registration.id, "{status}");
                        return;
                    }
                };
                if !is_named && let Some(node) = request.node() {
                    is_named = true;
                    registration.name(node);
                }
                let outcome = lock(subscription).handle_request(request);
                match outcome {
                    Ok(None) => {}
                    Ok(Some(rejection)) => registration.report(&rejection),
                    Err(violation) => {
                        tracing::warn!(stream = registration.id, "ending the stream: {violation}");
                        // The client may be gone already.
                        let _ = responses.send(Err(Status::resource_exhausted(violation.to_string()))).await;
                        return;
                    }
                }
            }
            Ok(()) = published.changed() => {
                let snapshot = ads.shared.lock().snapshot.clone();
                if let Some(snapshot) = snapshot {
                    lock(subscription).handle_snapshot(snapshot);
                }
            }
            () = closed(&mut closing) => return,
        }
        loop {
            let response = lock(subscription).poll_response();
            let Some(response) = response else { break };
            tokio::select! {
                sent = responses.send(Ok(response)) => if sent.is_err() { return },
                () = closed(&mut closing) => return,
            }
        }
        ads.shared.progress();
    }
}

/// Resolves when the listener that a stream belongs to ends.
pub(super) async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error is the sender's end: nobody serves any more.
    let _ = closing.wait_for(|closing| *closing).await;
}
