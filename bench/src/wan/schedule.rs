//! Runs side by side, as many as the machine carries.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use super::plan::Task;
use crate::Result;

/// Executes every task on a thread of its own. What runs at a time costs `budget` together, or is a single task that costs
/// more. Tasks start in their order, but those that fit go before those that do not.
///
/// `done` hears of every end, with the tasks that are still to be done or under way, and may give one to do again.
pub(super) fn run<T: Send>(
    mut waiting: Vec<Task>,
    budget: f64,
    execute: impl Fn(&Task) -> Result<T> + Sync,
    mut done: impl FnMut(Task, Result<T>, &[Task]) -> Result<Option<Task>>,
) -> Result<()> {
    // With the number of the thread that does it.
    let mut running: Vec<(u64, Task)> = Vec::new();
    let mut threads = 0;
    let execute = &execute;
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        loop {
            while let Some(index) = next(&waiting, &running, budget) {
                let task = waiting.remove(index);
                threads += 1;
                let (sender, number, own) = (sender.clone(), threads, task.clone());
                running.push((number, task));
                scope.spawn(move || {
                    let outcome = catch_unwind(AssertUnwindSafe(|| execute(&own)));
                    // After an error of `done` nobody listens any more.
                    drop(
                        sender.send((number, outcome.unwrap_or_else(|_| Err("the run has panicked".into())))),
                    );
                });
            }
            if running.is_empty() {
                return Ok(());
            }
            let (number, outcome) = receiver.recv()?;
            if let Some(place) = running.iter().position(|(known, _)| *known == number) {
                let (_, task) = running.remove(place);
                let left: Vec<_> = running.iter().map(|(_, task)| task).chain(&waiting).cloned().collect();
                waiting.extend(done(task, outcome, &left)?);
            }
        }
    })
}

/// The first of those that wait which may start.
fn next(waiting: &[Task], running: &[(u64, Task)], budget: f64) -> Option<usize> {
    let taken: f64 = running.iter().map(|(_, task)| task.cell.cost()).sum();
    waiting.iter().position(|task| running.is_empty() || taken + task.cell.cost() <= budget)
}

#[cfg(test)]
#[expect(clippy::expect_used, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a test")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::super::plan::Choice;
    use super::*;

    fn tasks() -> Vec<Task> {
        let rows = ["200 Mbit/s, 20 ms, clean".to_owned(), "200 Mbit/s, 20 ms, loss 1%".to_owned()];
        let columns = ["linux_to_linux", "ours_to_linux"].map(str::to_owned);
        Choice { rows: &rows, columns: &columns, pairs: false }.tasks(3)
    }

    #[test]
    fn the_budget_holds_and_everything_is_done_once() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut names = Vec::new();
        let execute = |task: &Task| {
            let cost = task.cell.cost() as usize;
            most.fetch_max(now.fetch_add(cost, Ordering::SeqCst) + cost, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            // Clean links wait until two have met: the other one may be late.
            let start = Instant::now();
            while cost >= 200
                && most.load(Ordering::SeqCst) < 400
                && start.elapsed() < Duration::from_secs(10)
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            now.fetch_sub(cost, Ordering::SeqCst);
            Ok(())
        };
        let done = |task: Task, outcome: Result<()>, _: &[Task]| {
            assert!(outcome.is_ok());
            names.push((task.cell.name(), task.seed));
            Ok(None)
        };
        run(tasks(), 410.0, execute, done).expect("no error");
        // Two clean links and one of the others: it goes first although clean ones wait.
        assert!((400..=410).contains(&most.load(Ordering::SeqCst)), "{most:?}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 12);
    }

    #[test]
    fn what_is_larger_than_the_budget_runs_alone_and_what_failed_again() {
        let (now, most, mut ends) = (AtomicUsize::new(0), AtomicUsize::new(0), 0);
        let execute = |task: &Task| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
            now.fetch_sub(1, Ordering::SeqCst);
            assert!(task.attempts > 0 || task.seed > 1, "the first seed's first attempts");
            Ok(())
        };
        let done = |mut task: Task, outcome: Result<()>, left: &[Task]| {
            ends += 1;
            task.attempts += 1;
            assert!(left.len() < 12);
            Ok(outcome.is_err().then_some(task))
        };
        run(tasks(), 1.0, execute, done).expect("no error");
        assert_eq!((most.into_inner(), ends), (1, 12 + 4));
    }
}
