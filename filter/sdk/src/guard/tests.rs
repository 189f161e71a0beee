use super::*;
use std::{
    cell::RefCell,
    panic::panic_any,
    rc::Rc,
    sync::{atomic::AtomicBool, mpsc},
    thread,
    time::Duration,
};

/// Counts its drops, and panics in them if told to.
struct Droppable {
    drops: Rc<Cell<u32>>,
    panics: bool,
}

impl Drop for Droppable {
    fn drop(&mut self) {
        self.drops.set(self.drops.get() + 1);
        assert!(!self.panics, "expected");
    }
}

fn guarded(panics: bool) -> (Guarded<Droppable>, Rc<Cell<u32>>) {
    let drops = Rc::new(Cell::new(0));
    (Guarded::new(Box::new(Droppable { drops: Rc::clone(&drops), panics })), drops)
}

#[test]
fn a_hook_returns_and_the_object_stays() {
    let (object, drops) = guarded(false);
    assert_eq!(object.enter("hook", |_| 1), Entered::Returned(1));
    assert_eq!(object.enter("hook", |_| 2), Entered::Returned(2));
    assert_eq!(drops.get(), 0);
    object.destroy("destroy");
    assert_eq!(drops.get(), 1);
    assert_eq!(object.enter("hook", |_| 3), Entered::Gone);
}

#[test]
fn a_panic_drops_the_object_once_even_if_the_drop_panics_too() {
    for panics in [false, true] {
        let (object, drops) = guarded(panics);
        assert_eq!(object.enter("hook", |_| panic!("expected")), Entered::<()>::Panicked);
        assert_eq!(drops.get(), 1);
        assert_eq!(object.enter("hook", |_| ()), Entered::Gone);
        object.destroy("destroy");
        assert_eq!(drops.get(), 1);
    }
}

#[test]
fn a_hook_inside_a_hook_finds_the_object_busy() {
    let (object, _) = guarded(false);
    let inner = object.enter("outer", |_| object.enter("inner", |_| ()));
    assert_eq!(inner, Entered::Returned(Entered::Busy));
    assert_eq!(object.enter("hook", |_| ()), Entered::Returned(()));
}

#[test]
fn an_object_destroyed_inside_a_hook_is_dropped_after_it() {
    let (object, drops) = guarded(false);
    let during = object.enter("hook", |_| {
        object.destroy("destroy");
        drops.get()
    });
    assert_eq!(during, Entered::Returned(0));
    assert_eq!(drops.get(), 1);
    assert_eq!(object.enter("hook", |_| ()), Entered::Gone);
}

#[test]
fn an_object_destroyed_inside_a_hook_that_panics_is_dropped_once() {
    let (object, drops) = guarded(false);
    let entered = object.enter("hook", |_| {
        object.destroy("destroy");
        panic!("expected")
    });
    assert_eq!(entered, Entered::<()>::Panicked);
    assert_eq!(drops.get(), 1);
}

#[test]
fn any_payload_is_reported() {
    struct Hostile;
    impl Drop for Hostile {
        fn drop(&mut self) {
            panic!("expected");
        }
    }
    assert_eq!(catch("text", || panic!("expected")), None::<()>);
    assert_eq!(catch("formatted", || panic!("{}", "expected")), None::<()>);
    assert_eq!(catch("number", || panic_any(7)), None::<()>);
    assert_eq!(catch("hostile", || panic_any(Hostile)), None::<()>);
}

#[test]
fn a_gate_does_not_close_while_somebody_passes() {
    let (gate, passed) = (Gate::new(), AtomicBool::new(false));
    let (entered, wait) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            gate.pass(|| {
                entered.send(()).unwrap();
                // Long enough that a gate that does not wait is closed first.
                thread::sleep(Duration::from_millis(20));
                passed.store(true, Ordering::SeqCst);
            });
        });
        wait.recv().unwrap();
        gate.close();
        assert!(passed.load(Ordering::SeqCst));
    });
    gate.pass(|| unreachable!());
}

#[test]
fn hooks_of_a_shared_object_run_one_at_a_time() {
    let object = Shared::new(Box::new(0_u32));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    object.enter("hook", |count| *count += 1);
                }
            });
        }
    });
    object.enter("hook", |count| assert_eq!(*count, 4000));
}

#[test]
fn a_hook_inside_a_hook_of_a_shared_object_is_skipped() {
    let notes = RefCell::new(Vec::new());
    let object = Shared::new(Box::new(()));
    object.enter("outer", |()| {
        object.enter("inner", |()| notes.borrow_mut().push("inner"));
        notes.borrow_mut().push("outer");
    });
    object.enter("later", |()| notes.borrow_mut().push("later"));
    assert_eq!(notes.take(), ["outer", "later"]);
}

#[test]
fn a_shared_object_that_panicked_is_gone() {
    let object = Shared::new(Box::new(()));
    object.enter("hook", |()| panic!("expected"));
    object.enter("hook", |()| unreachable!());
}
