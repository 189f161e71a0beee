//! What an Envoy worker does for a network by itself, once for each turn of its event loop.
//!
//! Envoy hands out what its connections have read one after the other. To run the network after each of them would be a
//! system call each, so the worker notes which parts of a network have work, and runs them when Envoy has handed out everything: then
//! what goes to one peer leaves together. Envoy tells when that is: what a filter schedules runs behind the events that are
//! waiting already.

use std::cell::RefCell;
use std::ptr::addr_eq;
use std::sync::Arc;

/// A part of a network.
pub(super) trait Visited {
    /// Does what there is to do, or has its own thread do it.
    fn visit(&self);

    /// Has its own thread do it.
    fn wake(&self);
}

thread_local! {
    /// A worker's own, like the event loop whose turn it is about.
    static DUE: RefCell<Vec<Arc<dyn Visited>>> = const { RefCell::new(Vec::new()) };
}

/// Notes a part with work. True: it is the first, and somebody has to see to it that [`run`] is called.
#[must_use]
pub(super) fn add(part: Arc<dyn Visited>) -> bool {
    DUE.with_borrow_mut(|due| {
        let first = due.is_empty();
        if !due.iter().any(|known| addr_eq(Arc::as_ptr(known), Arc::as_ptr(&part))) {
            due.push(part);
        }
        first
    })
}

/// Visits them; false when there is none.
pub(crate) fn run() -> bool {
    let mut due = Due(DUE.take());
    let any = !due.0.is_empty();
    while let Some(part) = due.0.pop() {
        part.visit();
    }
    any
}

/// Those that are left when one of them panics are their own threads' to serve.
struct Due(Vec<Arc<dyn Visited>>);

impl Drop for Due {
    fn drop(&mut self) {
        self.0.iter().for_each(|part| part.wake());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Part {
        visits: AtomicUsize,
        wakes: AtomicUsize,
        panics: bool,
    }

    impl Visited for Part {
        fn visit(&self) {
            self.visits.fetch_add(1, Ordering::Relaxed);
            assert!(!self.panics, "as it should");
        }

        fn wake(&self) {
            self.wakes.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Part {
        fn counts(&self) -> (usize, usize) {
            (self.visits.load(Ordering::Relaxed), self.wakes.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn each_part_is_visited_once_however_often_it_was_noted() {
        let (first, second) = (Arc::<Part>::default(), Arc::<Part>::default());
        assert!(add(first.clone()));
        assert!(!add(second.clone()) && !add(first.clone()) && !add(second.clone()));
        assert!(run());
        assert_eq!((first.counts(), second.counts()), ((1, 0), (1, 0)));
        assert!(!run(), "there is nothing left");
        assert!(add(second.clone()), "and it begins anew");
        assert!(run());
        assert_eq!((first.counts(), second.counts()), ((1, 0), (2, 0)));
    }

    #[test]
    fn a_panic_leaves_the_others_to_their_threads() {
        let others = [Arc::<Part>::default(), Arc::<Part>::default()];
        let panics = Arc::new(Part { panics: true, ..Part::default() });
        assert!(add(others[0].clone()) && !add(panics.clone()) && !add(others[1].clone()));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        assert_eq!((others[0].counts(), others[1].counts()), ((0, 1), (1, 0)));
        assert!(add(panics), "the list is empty again");
    }
}
