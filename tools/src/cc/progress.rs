//! Reports progress once a second, if the work takes longer than that.

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hayate_state::Clock;

/// Time between two lines, and before the first.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The progress of the work. Lines go to standard error until this is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    work: Arc<Mutex<Phase>>,
    /// Dropped first, which ends the thread.
    stop: Option<Sender<()>>,
    printer: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Phase {
    action: &'static str,
    file: &'static str,
    records: u64,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action, self.file)?;
        if self.records > 0 { write!(f, ", {} records", self.records) } else { Ok(()) }
    }
}

impl Progress {
    /// Starts without any work.
    pub(super) fn start() -> Self {
        let work = Arc::new(Mutex::new(Phase::default()));
        let (stop, stopped) = mpsc::channel::<()>();
        let shown = Arc::clone(&work);
        let tell = move || {
            let clock = Clock::start();
            while stopped.recv_timeout(LINE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let work = *shown.lock().unwrap_or_else(PoisonError::into_inner);
                eprintln!("hayate-cc: {work}, {} s", clock.uptime().as_secs());
            }
        };
        // Without the thread there are no lines, but the work is done.
        let printer = std::thread::Builder::new().name("progress".into()).spawn(tell).ok();
        Self { work, stop: Some(stop), printer }
    }

    /// Begins another step of the work.
    pub(super) fn begin_phase(&self, verb: &'static str, file: &'static str) {
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = Phase { action: verb, file, records: 0 };
    }

    /// Counts one more record.
    pub(super) fn step(&self) {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).records += 1;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(teller) = self.printer.take() {
            // It holds nothing that could be lost.
            let _ = teller.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_done_and_how_far() {
        let progress = Progress::start();
        progress.begin_phase("reading", "cache");
        assert_eq!(progress.work.lock().unwrap().to_string(), "reading cache");
        (0..7).for_each(|_| progress.step());
        assert_eq!(progress.work.lock().unwrap().to_string(), "reading cache, 7 records");
    }
}
