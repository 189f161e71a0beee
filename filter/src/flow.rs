//! One egress connection as its two owners see it: the Envoy worker that runs its filter, and the network
//! thread that runs its TCP flow.
//!
//! Each direction is a bounded queue of chunks; a flow that is idle holds none. Each side wakes the other at
//! most once until the other has looked: [`Flow::wake_worker`] by the filter's scheduler, `Network::work` by
//! the network thread's waker. The lock is held for a push, a pop or a flag, never while bytes are copied or
//! the other side is woken: it would wake up and wait for the lock.

use crate::greeting::Outcome;
use bytes::Bytes;
use envoy_proxy_dynamic_modules_rust_sdk::EnvoyNetworkFilterScheduler;
use nexodus_netstack::FlowId;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A direction stops taking bytes when it holds this many, of memory.
pub(crate) const QUEUE_HIGH: usize = 256 * 1024;
/// The same when the network's queues together are over their budget.
const QUEUE_HIGH_UNDER_PRESSURE: usize = 16 * 1024;

/// What a chunk costs beyond its bytes: its place in the queue, and an allocation's own. Envoy may hand over a byte at a time.
const CHUNK_OVERHEAD: usize = 64;

/// Event of the filter's scheduler: the network thread has left something.
const LOOK: u64 = 0;
/// Event of the filter's scheduler: see [`Flow::call_at_end_of_turn`].
pub(crate) const END_OF_TURN: u64 = 1;

/// See the module.
pub(crate) struct Flow {
    pub(crate) token: u64,
    /// In the network thread's work list, at most once.
    pub(crate) queued: AtomicBool,
    /// Which thread of the network has it; this changes only before it is open there.
    shard: AtomicUsize,
    state: Mutex<State>,
    /// Until [`Locked::detach_worker`].
    scheduler: Mutex<Option<Box<dyn EnvoyNetworkFilterScheduler>>>,
}

/// Where a flow stands in the netstack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FlowState {
    #[default]
    New,
    Open(FlowId),
    Gone,
}

/// What both sides share. Fields named by the side that writes them.
#[derive(Default)]
pub(crate) struct State {
    /// Bytes from Envoy for the overlay.
    pub(crate) to_overlay: ChunkQueue,
    /// Bytes from the overlay for Envoy.
    pub(crate) to_envoy: ChunkQueue,

    /// Worker: it stopped reading because `to_overlay` was full; wake it when half of that is gone.
    pub(crate) worker_paused: bool,
    /// Network thread: it left bytes in the netstack because `to_envoy` was full; have it look when half of that is gone.
    pub(crate) network_paused: bool,
    /// Worker: Envoy is done with this connection after both ends finished; let TCP end by itself.
    pub(crate) released: bool,
    /// Worker or `nexodus.connect`: Envoy gave the connection up; reset the overlay side.
    pub(crate) aborted: bool,
    /// `nexodus.connect`: its end of the internal connection is gone, close the filter's end.
    pub(crate) client_gone: bool,

    /// Whoever knows them, then the network thread: where to connect, in the order of trying; it takes each out. None yet
    /// while a name is being looked up.
    pub(crate) destinations: VecDeque<SocketAddr>,
    /// Network thread: where the flow stands there.
    pub(crate) network_side: FlowState,
    /// Network thread: how opening ended, once it has.
    pub(crate) outcome: Option<Outcome>,
    /// Network thread: the overlay side was reset after it had been open.
    pub(crate) reset: bool,

    /// A wake-up of the worker is under way.
    worker_woken: bool,
}

/// The state, locked.
pub(crate) struct Locked<'a> {
    // Dropped before `wake`, which is the order of the fields.
    state: MutexGuard<'a, State>,
    wake: WakeAfter<'a>,
}

/// Wakes the worker when the state is not locked any more.
struct WakeAfter<'a> {
    flow: &'a Flow,
    due: bool,
}

impl Flow {
    pub(crate) fn new(
        token: u64,
        scheduler: Box<dyn EnvoyNetworkFilterScheduler>,
        queued_bytes: Arc<QueueBudget>,
    ) -> Self {
        let state = State {
            to_overlay: ChunkQueue::new(queued_bytes.clone()),
            to_envoy: ChunkQueue::new(queued_bytes),
            ..State::default()
        };
        let scheduler = Mutex::new(Some(scheduler));
        let (queued, shard) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { token, queued, shard, state: Mutex::new(state), scheduler }
    }

    pub(crate) fn shard(&self) -> usize {
        self.shard.load(Ordering::Acquire)
    }

    /// Whoever knows the next destination, and then the network thread that passes the flow on.
    pub(crate) fn set_shard(&self, shard: usize) {
        self.shard.store(shard, Ordering::Release);
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        // A panic elsewhere leaves plain data behind; the flow is being closed then anyway.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { state, wake: WakeAfter { flow: self, due: false } }
    }

    /// Worker: has the filter's `on_scheduled` called with [`END_OF_TURN`], when what Envoy has to hand out now is handed out.
    pub(crate) fn call_at_end_of_turn(&self) {
        if let Some(scheduler) = &*self.scheduler() {
            scheduler.commit(END_OF_TURN);
        }
    }

    fn scheduler(&self) -> MutexGuard<'_, Option<Box<dyn EnvoyNetworkFilterScheduler>>> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Locked<'_> {
    /// Network thread (or another worker): makes the filter's `on_scheduled` run, once however often called.
    pub(crate) fn wake_worker(&mut self) {
        self.wake.due |= !std::mem::replace(&mut self.state.worker_woken, true);
    }

    /// Worker: from here on the next [`Self::wake_worker`] wakes it again.
    pub(crate) fn worker_looks(&mut self) {
        self.state.worker_woken = false;
    }

    /// Whoever finds that the network has ended: nobody will look at the flow any more. One that has ended before stays as it is.
    pub(crate) fn network_down(&mut self) {
        if self.state.network_side == FlowState::Gone {
            return;
        }
        self.state.network_side = FlowState::Gone;
        if self.state.outcome.is_none() {
            self.state.outcome = Some(Outcome::NetworkDown);
        } else {
            self.state.reset = true;
        }
        self.wake_worker();
    }

    /// Worker: the filter is going away; no wake-up is under way or comes after this.
    pub(crate) fn detach_worker(&mut self) {
        *self.wake.flow.scheduler() = None;
        self.state.to_envoy.clear();
    }
}

impl Drop for WakeAfter<'_> {
    fn drop(&mut self) {
        // Under the scheduler's lock, so that `detach_worker` cannot return while this call holds the last reference
        // to Envoy's filter object: it would then be destroyed on the wrong thread.
        if self.due
            && let Some(scheduler) = &*self.flow.scheduler()
        {
            scheduler.commit(LOOK);
        }
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// Memory held by all queues of a network, against the limit above which each queue gets less.
pub(crate) struct QueueBudget {
    held: AtomicUsize,
    limit: usize,
}

impl QueueBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { held: AtomicUsize::new(0), limit }
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// A queue of byte chunks with an end mark; its bounds are of memory. Who pushes checks [`ChunkQueue::is_full`] first; one push past it
/// is possible, because Envoy hands over what it has read, at most its connection buffer limit.
#[derive(Default)]
pub(crate) struct ChunkQueue {
    chunks: VecDeque<Bytes>,
    /// What they hold, as [`cost`] has it.
    held: usize,
    finished: bool,
    budget: Option<Arc<QueueBudget>>,
}

impl ChunkQueue {
    fn new(budget: Arc<QueueBudget>) -> Self {
        Self { chunks: VecDeque::new(), held: 0, finished: false, budget: Some(budget) }
    }

    pub(crate) fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        let cost = cost(&chunk);
        self.held += cost;
        if let Some(budget) = &self.budget {
            budget.held.fetch_add(cost, Ordering::Relaxed);
        }
        self.chunks.push_back(chunk);
    }

    /// No byte follows those pushed so far.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held >= self.high()
    }

    pub(crate) fn is_below_half(&self) -> bool {
        self.held <= self.high() / 2
    }

    fn high(&self) -> usize {
        match &self.budget {
            Some(budget) if budget.held() > budget.limit => QUEUE_HIGH_UNDER_PRESSURE,
            _ => QUEUE_HIGH,
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.pop_front()?;
        self.took(cost(&chunk));
        Some(chunk)
    }

    fn clear(&mut self) {
        self.took(self.held);
    }

    fn took(&mut self, cost: usize) {
        self.held -= cost;
        if let Some(budget) = &self.budget {
            budget.held.fetch_sub(cost, Ordering::Relaxed);
        }
        if self.held == 0 {
            // An idle flow holds nothing.
            self.chunks = VecDeque::new();
        }
    }
}

impl Drop for ChunkQueue {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What a chunk in a queue holds of memory.
fn cost(chunk: &Bytes) -> usize {
    chunk.len() + CHUNK_OVERHEAD
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn queue(limit: usize) -> (ChunkQueue, Arc<QueueBudget>) {
        let budget = Arc::new(QueueBudget::new(limit));
        (ChunkQueue::new(budget.clone()), budget)
    }

    #[test]
    fn chunks_leave_in_order_and_an_empty_queue_holds_nothing() {
        let (mut queue, budget) = queue(1 << 20);
        queue.push(Bytes::from("hello "));
        queue.push(Bytes::new());
        queue.push(Bytes::from("world"));
        assert_eq!((queue.pop().unwrap(), budget.held()), (Bytes::from("hello "), 5 + CHUNK_OVERHEAD));
        assert_eq!(queue.pop().unwrap(), "world");
        assert!(queue.is_empty() && queue.pop().is_none());
        assert_eq!((budget.held(), queue.chunks.capacity()), (0, 0));
    }

    #[test]
    fn a_queue_is_full_at_its_mark_and_earlier_when_the_network_is_over_budget() {
        let (mut queue, budget) = queue(100 * 1024);
        queue.push(vec![0; 20 * 1024].into());
        assert!(!queue.is_full());
        let mut other = ChunkQueue::new(budget.clone());
        other.push(vec![0; 90 * 1024].into());
        assert!(queue.is_full(), "over the budget of the network");
        drop(other);
        assert!(!queue.is_full(), "the budget is given back when a flow ends");
        queue.push(vec![0; QUEUE_HIGH].into());
        assert!(queue.is_full());
    }

    #[test]
    fn a_queue_of_single_bytes_is_full_before_they_take_much_memory() {
        let (mut queue, budget) = queue(1 << 30);
        while !queue.is_full() {
            queue.push(Bytes::from(vec![0]));
        }
        assert!(queue.chunks.len() <= QUEUE_HIGH / CHUNK_OVERHEAD);
        while queue.pop().is_some() {}
        assert_eq!(budget.held(), 0);
    }
}
