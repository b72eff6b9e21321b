//! A thread that does one task again and again: how it is started, woken and stopped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use crate::clock::Clock;

/// Longest sleep of the thread: a reload may have changed the period meanwhile.
const PERIOD_CHECK: Duration = Duration::from_secs(1);

/// What a [`Background`] thread does.
pub trait BackgroundTask: Send + 'static {
    /// Time from the beginning of one run to the next, as it is now; `None` if no run is due by itself.
    fn period(&self) -> Option<Duration>;

    /// Runs once. A run that takes long looks at `stopping` and gives up when it is set.
    fn run(&mut self, stopping: &AtomicBool);

    /// Handles requests that wait. Called each time the thread wakes up, before a run.
    fn serve(&mut self) {}

    /// Ends the task in its thread, after [`Background::stop`]. Returns false if something is lost.
    fn finish(&mut self) -> bool {
        true
    }
}

/// A running thread with a periodic task. Dropped, the thread is told to stop and not waited for.
#[derive(Debug)]
pub struct Background {
    thread: Option<JoinHandle<bool>>,
    waker: Waker,
    stopping: Arc<AtomicBool>,
}

/// Wakes the thread of a [`Background`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct Waker {
    thread: Thread,
    is_due: Arc<AtomicBool>,
}

impl Waker {
    /// Wakes the thread, so that it handles requests that wait.
    pub fn wake(&self) {
        self.thread.unpark();
    }

    /// Makes a run due at once.
    pub fn run_now(&self) {
        self.is_due.store(true, Ordering::Release);
        self.wake();
    }
}

impl Background {
    /// Starts the thread `name`; the first run is due after one period.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub fn start(name: &str, clock: Clock, task: impl BackgroundTask) -> io::Result<Self> {
        let (stopping, is_due) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stops, due) = (Arc::clone(&stopping), Arc::clone(&is_due));
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run_until_stopped(task, clock, &stops, &due))?;
        let waker = Waker { thread: thread.thread().clone(), is_due };
        Ok(Self { thread: Some(thread), waker, stopping })
    }

    /// False once the thread has ended by itself, which takes a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Returns what wakes the thread.
    #[must_use]
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Stops the thread and waits for it. Returns what [`BackgroundTask::finish`] has returned, and `None`
    /// after a panic.
    pub fn stop(mut self) -> Option<bool> {
        self.tell_to_stop();
        let thread = self.thread.take()?;
        thread.join().ok()
    }

    fn tell_to_stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

fn run_until_stopped(
    mut task: impl BackgroundTask,
    clock: Clock,
    stopping: &AtomicBool,
    is_due: &AtomicBool,
) -> bool {
    let mut last = clock.uptime();
    while !stopping.load(Ordering::Acquire) {
        task.serve();
        let rest = task.period().map(|period| (last + period).saturating_sub(clock.uptime()));
        if rest.is_some_and(|rest| rest.is_zero()) || is_due.swap(false, Ordering::AcqRel) {
            last = clock.uptime();
            task.run(stopping);
        } else {
            thread::park_timeout(rest.map_or(PERIOD_CHECK, |rest| rest.min(PERIOD_CHECK)));
        }
    }
    task.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct Reporting {
        events: Sender<&'static str>,
        period: Option<Duration>,
    }

    impl BackgroundTask for Reporting {
        fn period(&self) -> Option<Duration> {
            self.period
        }

        fn run(&mut self, _: &AtomicBool) {
            self.events.send("run").unwrap();
        }

        fn finish(&mut self) -> bool {
            self.events.send("finish").unwrap();
            false
        }
    }

    #[test]
    fn a_task_without_period_runs_when_asked_and_finishes_once() {
        let (events, received) = channel();
        let background =
            Background::start("test", Clock::start(), Reporting { events, period: None }).unwrap();
        background.waker().run_now();
        assert_eq!(received.recv(), Ok("run"));
        assert!(background.is_alive());
        assert_eq!(background.stop(), Some(false));
        assert_eq!(received.iter().collect::<Vec<_>>(), ["finish"]);
    }

    #[test]
    fn a_task_runs_each_period_until_it_is_dropped() {
        let (events, received) = channel();
        let period = Some(Duration::from_millis(1));
        let background = Background::start("test", Clock::start(), Reporting { events, period }).unwrap();
        assert!(received.iter().take(3).all(|event| event == "run"));
        drop(background);
        assert_eq!(received.iter().last(), Some("finish"));
    }
}
