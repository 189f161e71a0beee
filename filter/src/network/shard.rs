//! One thread's part of a network: what others leave for it, and how it is woken.
//!
//! A network has one such part, or several, among which its peers are dealt out ([`placement`](super::placement)). A flow is the
//! part's that has the peer of its destination.

use crate::flow::Flow;
use crate::health::{Latest, Wanted};
use crate::network::lock;
use crate::network::visits::{self, Visited};
use crate::status::ShardStatus;
use nexodus_netstack::Handover;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// What other threads may leave before they are refused: more than a turn takes.
const MAX_POSTS: usize = 4096;
const MAX_POST_BYTES: usize = 4 << 20;

/// See the module.
pub(crate) struct Shard {
    /// Its number, from 0.
    pub(crate) index: usize,
    changed: AtomicBool,
    work: Mutex<Work>,
    waker: OnceLock<mio::Waker>,
    waking: AtomicBool,
    /// See [`Self::set_visit`].
    visit: OnceLock<Visit>,
    /// Relays whose end of stream waited for their filter; each once.
    attached: Mutex<Vec<usize>>,
    posts: Mutex<Posts>,
    /// Health checks of destinations behind its peers.
    pub(crate) checks: Latest<Wanted>,
    pub(crate) status: Mutex<ShardStatus>,
}

/// Flows with something for the network thread to do; each at most once ([`Flow::queued`]).
#[derive(Default)]
struct Work {
    flows: VecDeque<Arc<Flow>>,
    /// Some of them have more to do than a worker should.
    much: bool,
}

impl Work {
    fn push(&mut self, flow: &Arc<Flow>, much: bool) {
        self.flows.push_back(flow.clone());
        self.much |= much;
    }

    /// Into an empty list.
    fn take(&mut self, into: &mut VecDeque<Arc<Flow>>) {
        std::mem::swap(&mut self.flows, into);
        self.much = false;
    }
}

/// What other threads of the network have handed over, and who.
#[derive(Default)]
struct Posts {
    waiting: Vec<(usize, Handover)>,
    bytes: usize,
}

impl Posts {
    /// False: too much waits already. The last quarter is for datagrams of WireGuard: handshakes are not to wait for a flood of
    /// what they make possible.
    fn add(&mut self, from: usize, handover: Handover) -> bool {
        let part = if matches!(handover, Handover::Datagram { .. }) { 4 } else { 3 };
        let room = self.waiting.len() < MAX_POSTS / 4 * part
            && self.bytes + handover.len() <= MAX_POST_BYTES / 4 * part;
        if room {
            self.bytes += handover.len();
            self.waiting.push((from, handover));
        }
        room
    }
}

/// Serves the work list on the calling thread; `false` when another thread is at it.
pub(crate) type Visit = Box<dyn Fn() -> bool + Send + Sync>;

impl Shard {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            changed: AtomicBool::new(true),
            work: Mutex::default(),
            waker: OnceLock::new(),
            waking: AtomicBool::new(false),
            visit: OnceLock::new(),
            attached: Mutex::default(),
            posts: Mutex::default(),
            checks: Latest::default(),
            status: Mutex::default(),
        }
    }

    /// The network thread is about to wait on `waker`.
    pub(crate) fn set_waker(&self, waker: mio::Waker) {
        // Only ever set by the one thread of this shard.
        let _ = self.waker.set(waker);
    }

    pub(crate) fn wake(&self) {
        if !self.waking.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            // An eventfd write fails only when its counter overflows; then it is readable anyway.
            let _ = waker.wake();
        }
    }

    /// Network thread: from here on the next [`Self::wake`] wakes it again. What those that came before have left is to be seen
    /// from here on: a plain store would let what follows be read first.
    pub(crate) fn awake(&self) {
        self.waking.swap(false, Ordering::AcqRel);
    }

    /// Has the network thread look at `flow`.
    pub(super) fn work(&self, flow: &Arc<Flow>) {
        if !flow.queued.swap(true, Ordering::AcqRel) {
            lock(&self.work).push(flow, true);
            self.wake();
        }
    }

    /// Has `flow` looked at by this worker, at the end of its event loop's turn: for what is little and urgent. True: somebody has to
    /// see to it that [`visits::run`] is called then.
    #[must_use]
    pub(super) fn work_soon(self: &Arc<Self>, flow: &Arc<Flow>) -> bool {
        if flow.queued.swap(true, Ordering::AcqRel) {
            return false;
        }
        lock(&self.work).push(flow, false);
        visits::add(self.clone())
    }

    /// How a worker runs the network.
    pub(crate) fn set_visit(&self, visit: Visit) {
        // Only ever set by the one thread of this shard.
        let _ = self.visit.set(visit);
    }

    /// Network thread: the flows with work, once each.
    pub(crate) fn take_work(&self, into: &mut VecDeque<Arc<Flow>>) {
        lock(&self.work).take(into);
        for flow in &*into {
            flow.queued.store(false, Ordering::Release);
        }
    }

    /// The configuration has changed.
    pub(super) fn changed(&self) {
        self.changed.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether there is a configuration that the network thread has not seen.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// Network thread: whether the configuration has changed since it asked last.
    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// Has the network thread look at a relay: its filter is there.
    pub(super) fn relay_attached(&self, relay: usize) {
        lock(&self.attached).push(relay);
        self.wake();
    }

    /// Network thread: the relays whose filter has come.
    pub(crate) fn take_attached(&self) -> Vec<usize> {
        std::mem::take(&mut *lock(&self.attached))
    }

    /// Another thread of the network: something that is this one's to do. False: too much of that waits already.
    pub(crate) fn post(&self, from: usize, handover: Handover) -> bool {
        let taken = lock(&self.posts).add(from, handover);
        self.wake();
        taken
    }

    /// Network thread: what others have handed over, and their numbers.
    pub(crate) fn take_posts(&self) -> Vec<(usize, Handover)> {
        std::mem::take(&mut *lock(&self.posts)).waiting
    }
}

impl Visited for Shard {
    /// Serves the work list on this thread, if it is little and the network's own sleeps; else wakes that one.
    fn visit(&self) {
        let (none, much) = {
            let work = lock(&self.work);
            (work.flows.is_empty(), work.much)
        };
        // It may have come by meanwhile.
        if !none && (much || !self.visit.get().is_some_and(|visit| visit())) {
            self.wake();
        }
    }

    fn wake(&self) {
        Self::wake(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::QueueBudget;
    use envoy_proxy_dynamic_modules_rust_sdk::EnvoyNetworkFilterScheduler;
    use std::sync::atomic::AtomicUsize;

    struct NoFilter;

    impl EnvoyNetworkFilterScheduler for NoFilter {
        fn commit(&self, _event_id: u64) {}
    }

    fn flow() -> Arc<Flow> {
        Arc::new(Flow::new(1, Box::new(NoFilter), Arc::new(QueueBudget::new(1 << 20))))
    }

    #[test]
    fn a_worker_visits_for_what_is_little_and_leaves_the_rest_to_the_thread() {
        let (shard, visits) = (Arc::new(Shard::new(0)), Arc::<AtomicUsize>::default());
        let (visited, counts) = (Arc::downgrade(&shard), visits.clone());
        shard.set_visit(Box::new(move || {
            counts.fetch_add(1, Ordering::Relaxed);
            visited.upgrade().is_some_and(|shard| {
                shard.take_work(&mut VecDeque::new());
                true
            })
        }));
        let (little, much) = (flow(), flow());
        assert!(shard.work_soon(&little));
        visits::run();
        assert_eq!(visits.load(Ordering::Relaxed), 1);
        assert!(!shard.waking.load(Ordering::Relaxed));
        assert!(shard.work_soon(&little));
        shard.work(&much);
        shard.awake();
        visits::run();
        assert_eq!(visits.load(Ordering::Relaxed), 1);
        assert!(shard.waking.load(Ordering::Relaxed), "the thread serves both");
        shard.take_work(&mut VecDeque::new());
        shard.awake();
        assert!(shard.work_soon(&little));
        visits::run();
        assert_eq!(visits.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_nobody_fetches_is_bounded() {
        for (len, most) in [(0, MAX_POSTS / 4 * 3), (65_000, MAX_POST_BYTES / 4 * 3 / 65_000)] {
            let mut posts = Posts::default();
            let taken = (0..MAX_POSTS + 10).filter(|_| posts.add(0, Handover::Send(vec![0; len]))).count();
            assert_eq!((taken, posts.waiting.len()), (most, most));
            let remote = ([192, 0, 2, 1], 51820).into();
            let handshake = || Handover::Datagram { remote, datagram: vec![0; 148] };
            let taken = (0..MAX_POSTS + 10).filter(|_| posts.add(0, handshake())).count();
            assert_eq!(taken, MAX_POSTS - most);
        }
    }
}
