//! What an Envoy worker does for a network by itself, once for each turn of its event loop.
//!
//! Envoy hands out what its connections have read one after the other. To run the network after each of them would be a
//! system call each, so the worker notes which parts of a network have work, and runs them when Envoy has handed out everything: then
//! what goes to one peer leaves together. Envoy tells when that is: what a filter schedules runs behind the events that are
//! waiting already.

use super::shard::Shard;
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    /// A worker's own, like the event loop whose turn it is about.
    static DUE: RefCell<Vec<Arc<Shard>>> = const { RefCell::new(Vec::new()) };
}

/// Notes a part with work. True: it is the first, and somebody has to see to it that [`run`] is called.
#[must_use]
pub(super) fn add(shard: &Arc<Shard>) -> bool {
    DUE.with_borrow_mut(|due| {
        let first = due.is_empty();
        if !due.iter().any(|known| Arc::ptr_eq(known, shard)) {
            due.push(shard.clone());
        }
        first
    })
}

/// Runs them; false when there is none.
pub(crate) fn run() -> bool {
    let due = DUE.take();
    due.iter().for_each(|shard| shard.visit());
    !due.is_empty()
}

#[cfg(test)]
mod tests {
    use super::super::lock;
    use super::*;
    use crate::flow::{Flow, QueueBudget};
    use envoy_proxy_dynamic_modules_rust_sdk::EnvoyNetworkFilterScheduler;
    use std::collections::VecDeque;
    use std::sync::Mutex;

    struct Nobody;

    impl EnvoyNetworkFilterScheduler for Nobody {
        fn commit(&self, _event_id: u64) {}
    }

    fn flow() -> Arc<Flow> {
        Arc::new(Flow::new(1, Box::new(Nobody), Arc::new(QueueBudget::new(1))))
    }

    #[test]
    fn each_part_with_work_is_visited_once_however_often_it_was_noted() {
        let visited = Arc::<Mutex<Vec<usize>>>::default();
        let shard = |index| {
            let (shard, visited) = (Arc::new(Shard::new(index)), visited.clone());
            shard.set_visit(Box::new(move || {
                lock(&visited).push(index);
                true
            }));
            shard
        };
        let (first, second) = (shard(0), shard(1));
        let flows = [flow(), flow(), flow()];
        assert!(first.work_soon(&flows[0]));
        assert!(!second.work_soon(&flows[1]) && !first.work_soon(&flows[2]) && !first.work_soon(&flows[2]));
        assert!(run());
        assert_eq!(*lock(&visited), [0, 1]);
        assert!(!run(), "there is nothing left");
        // It begins anew; and who was served meanwhile is passed over.
        let mut served = VecDeque::new();
        first.take_work(&mut served);
        assert_eq!(served.len(), 2);
        assert!(first.work_soon(&flows[0]));
        first.take_work(&mut served);
        assert!(run());
        assert_eq!(*lock(&visited), [0, 1]);
    }
}
