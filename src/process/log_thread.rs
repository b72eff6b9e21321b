//! The thread that writes log lines to stderr, behind a bounded queue: a thread that logs never waits
//! for the reader of stderr, which may be a pipe that nothing reads.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use hayate_state::metrics::{Series, SeriesKind};
use hayate_state::{Board, Clock};

/// Most octets of lines that wait; further lines are dropped and counted.
const OCTETS_MAX: usize = 1 << 20;
/// Octets that a line takes in the queue besides its text.
const LINE_COST: usize = 64;
/// A single write that takes longer than this means that the log is stalled.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Pause when stderr is full and non-blocking, because another process made it so.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// The queue of lines on their way to stderr. It lives as long as the process.
#[derive(Debug)]
pub(crate) struct LogThread {
    queue: Mutex<Queue>,
    /// Notified when a line comes, and when the last one is written.
    changed: Condvar,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Vec<u8>>,
    octets: usize,
    /// The uptime at which the thread began to write the current line; `None` between two lines.
    writing_since: Option<Duration>,
    /// Lines that were dropped since the start.
    dropped: u64,
    /// Those among them that the log has not reported yet.
    unreported: u64,
}

impl LogThread {
    /// Starts the thread, which writes to `out`.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub(crate) fn start(out: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let lines =
            Arc::new(Self { queue: Mutex::default(), changed: Condvar::new(), clock: Clock::start() });
        let own = Arc::clone(&lines);
        thread::Builder::new().name("log".into()).spawn(move || own.run(out))?;
        Ok(lines)
    }

    /// Takes a line, or drops it if too many wait. Never waits for stderr.
    pub(crate) fn push_line(&self, line: &[u8]) {
        let mut queue = self.queue();
        let cost = line.len() + LINE_COST;
        if queue.octets + cost > OCTETS_MAX {
            queue.dropped += 1;
            queue.unreported += 1;
            return;
        }
        queue.octets += cost;
        queue.waiting.push_back(line.to_vec());
        self.changed.notify_all();
    }

    /// Waits until all lines are written, for `timeout` at most; false if some are not.
    pub(crate) fn finish(&self, timeout: Duration) -> bool {
        let is_busy = |queue: &mut Queue| !queue.waiting.is_empty() || queue.writing_since.is_some();
        let waited = self.changed.wait_timeout_while(self.queue(), timeout, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Returns how long the thread has been writing the current line.
    pub(crate) fn stalled(&self) -> Duration {
        let since = self.queue().writing_since;
        since.map_or(Duration::ZERO, |since| self.clock.uptime().saturating_sub(since))
    }

    /// Whether the log is stalled: nothing reads what is written.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled() >= STALL_MAX
    }

    /// Registers the metrics of the log.
    pub(crate) fn register_metrics(self: &Arc<Self>, board: &Board) {
        let list = |name, help, kind, read: fn(&Self) -> u64| {
            let lines = Arc::clone(self);
            let read = Box::new(move || read(&lines));
            board.register(Series { name, help, kind, labels: Vec::new(), read });
        };
        let help = "Log lines dropped, because stderr took none and too many waited.";
        list("log_dropped_total", help, SeriesKind::Counter, |lines| lines.queue().dropped);
        let help = "How long the log line that is being written has taken so far.";
        list("log_stalled_seconds", help, SeriesKind::Gauge, |lines| lines.stalled().as_secs());
    }

    fn run(&self, mut out: impl Write) {
        loop {
            let line = self.next_line();
            // If stderr is closed, the line is lost.
            let _ = write_line(&mut out, &line);
            let mut queue = self.queue();
            queue.writing_since = None;
            let dropped = std::mem::take(&mut queue.unreported);
            if queue.waiting.is_empty() {
                self.changed.notify_all();
            }
            drop(queue);
            if dropped > 0 {
                // After the lines that waited: that is where the others are missing.
                log::warn!("{dropped} log lines are missing here: nothing read stderr");
            }
        }
    }

    fn next_line(&self) -> Vec<u8> {
        let mut queue = self.queue();
        loop {
            if let Some(line) = queue.waiting.pop_front() {
                queue.octets -= line.len() + LINE_COST;
                queue.writing_since = Some(self.clock.uptime());
                return line;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a whole line, even if `out` is non-blocking and full for a while.
fn write_line(out: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => line = line.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

/// The target of env_logger.
#[derive(Debug)]
pub(crate) struct LogWriter(pub(crate) Arc<LogThread>);

impl Write for LogWriter {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.push_line(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Writes to a socket that has no room left, and the other end of it.
    fn full() -> (Arc<LogThread>, UnixStream, usize) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut filled = 0;
        for some in [4096, 1] {
            while let Ok(written) = ours.write(&[b'x'; 4096][..some]) {
                filled += written;
            }
        }
        ours.set_nonblocking(false).unwrap();
        (LogThread::start(ours).unwrap(), theirs, filled)
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_is_dropped_is_counted() {
        let (lines, mut theirs, filled) = full();
        let line = [b'y'; 1000];
        // The first one may be under way already.
        let fit = OCTETS_MAX / (line.len() + LINE_COST);
        for _ in 0..fit + 8 {
            lines.push_line(&line);
        }
        let dropped = usize::try_from(lines.queue().dropped).unwrap();
        assert!((7..=8).contains(&dropped), "{dropped}");
        assert!(!lines.finish(Duration::from_millis(1)), "a stop does not wait for a reader either");
        while lines.stalled().is_zero() {
            thread::yield_now();
        }
        let mut rest = vec![0; filled + (fit + 8 - dropped) * line.len()];
        io::Read::read_exact(&mut theirs, &mut rest).unwrap();
        assert!(lines.finish(LONG));
        assert_eq!((lines.stalled(), lines.queue().octets), (Duration::ZERO, 0));
        assert_eq!(lines.queue().unreported, 0);
    }

    #[test]
    fn a_full_pipe_that_does_not_block_loses_no_line() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut filled = 0;
        while let Ok(some) = ours.write(&[b'x'; 4096]) {
            filled += some;
        }
        let lines = LogThread::start(ours).unwrap();
        lines.push_line(b"seven\n");
        let mut read = vec![0; filled + 6];
        io::Read::read_exact(&mut theirs, &mut read).unwrap();
        assert!(read.ends_with(b"seven\n"));
        assert!(lines.finish(LONG));
    }

    #[test]
    fn a_closed_stderr_stops_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let lines = LogThread::start(ours).unwrap();
        (0..100).for_each(|_| lines.push_line(b"nobody\n"));
        assert!(lines.finish(LONG));
    }
}
