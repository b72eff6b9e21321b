//! Reports progress once a second, if the work takes longer than that.

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hayate_state::Clock;

/// Time between two lines, and before the first.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The progress of a command. Lines are printed to standard error until this is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    phase: Arc<Mutex<Phase>>,
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
    /// Starts the thread that prints; no phase has begun.
    pub(super) fn start() -> Self {
        let phase = Arc::new(Mutex::new(Phase::default()));
        let (stop, stopped) = mpsc::channel::<()>();
        let shown = Arc::clone(&phase);
        let print = move || {
            let clock = Clock::start();
            while stopped.recv_timeout(LINE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let phase = *shown.lock().unwrap_or_else(PoisonError::into_inner);
                eprintln!("hayate-cc: {phase}, {} s", clock.uptime().as_secs());
            }
        };
        // Without the thread no lines are printed, but the work is done.
        let printer = std::thread::Builder::new().name("progress".into()).spawn(print).ok();
        Self { phase, stop: Some(stop), printer }
    }

    /// Begins a phase of the work.
    pub(super) fn begin_phase(&self, action: &'static str, file: &'static str) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase { action, file, records: 0 };
    }

    /// Counts one more record.
    pub(super) fn step(&self) {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).records += 1;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(printer) = self.printer.take() {
            // The thread has nothing that could be lost.
            let _ = printer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_action_file_and_number_of_records() {
        let progress = Progress::start();
        progress.begin_phase("reading", "cache");
        assert_eq!(progress.phase.lock().unwrap().to_string(), "reading cache");
        (0..7).for_each(|_| progress.step());
        assert_eq!(progress.phase.lock().unwrap().to_string(), "reading cache, 7 records");
    }
}
