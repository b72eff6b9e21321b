//! The two threads behind the queues: `store` writes to the store, `spill` meanwhile keeps the queues within
//! their bounds. No other thread waits for the store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use super::dead_letter::DeadLetters;
use super::in_flight::InFlight;
use super::metrics::StoreMetrics;
use super::queue::Queues;
use super::record::Channel;
use super::total::DurableTotals;
use super::writer::{OpenStore, Writer, WriterSettings};
use super::{Store, StoreError};
use crate::clock::Clock;
use crate::metrics::Board;
use crate::published::{Published, Subscriber};

/// Interval of the spiller: rows that go to the disk are there at the latest after this time.
const SPILL_INTERVAL: Duration = Duration::from_millis(500);
/// Least time between two cuts that are due by time alone.
const CUT_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Where records are kept that cannot be written now.
#[derive(Clone, Debug)]
pub struct SpillPaths {
    /// Folder of the spill files (`database.spill_dir`); created when it is needed.
    pub spill_dir: PathBuf,
    /// File of the rows that fit no column (`database.dead_letter`).
    pub dead_letter: PathBuf,
}

/// Why the recorder cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The store cannot be reached, or is unfit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Files of an earlier process cannot be read.
    #[error("{}: {source}", path.display())]
    Spill {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The files of an earlier process are of a newer program, and hold records that this one does not know.
    #[error(
        "{} holds records of a newer hayate, which this one cannot read: start that one once more, or move \
         the folder away and lose them",
        path.display()
    )]
    Newer {
        /// The folder.
        path: PathBuf,
    },
    /// Rows that an earlier process left on the disk cannot be written to the store.
    #[error("the rows in {} cannot be written to the database; the log says why", path.display())]
    Leftovers {
        /// The folder.
        path: PathBuf,
    },
}

/// What happens to rows that an earlier process left on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They are written before the store counts as open.
    Written,
    /// They are written once the recorder runs: for the successor of a process that has just ended.
    Kept,
}

/// A store that was opened, before a thread writes to it; becomes a [`Recorder`] with [`start`](Self::start).
pub struct OpenedStore {
    in_flight: Arc<InFlight>,
    writer: Writer,
    clock: Clock,
    settings: Subscriber<WriterSettings>,
    spill_dir: PathBuf,
}

impl std::fmt::Debug for OpenedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedStore").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl OpenedStore {
    /// Opens the store, and writes to it what an earlier process left on the disk, so that what is then read
    /// from the store is complete.
    ///
    /// # Errors
    /// Fails when the store cannot be reached, is unfit, or does not take these rows.
    pub fn new(
        queues: &Arc<Queues>,
        clock: Clock,
        settings: &Arc<Published<WriterSettings>>,
        paths: &SpillPaths,
        opener: OpenStore,
    ) -> Result<Self, RecorderError> {
        Self::open(queues, clock, settings, paths, opener, Leftovers::Written)
    }

    /// Like [`new`](Self::new), with a choice of what happens to these rows.
    ///
    /// # Errors
    /// Fails when the store cannot be reached, is unfit, or does not take the rows that are to be written.
    pub fn open(
        queues: &Arc<Queues>,
        clock: Clock,
        settings: &Arc<Published<WriterSettings>>,
        paths: &SpillPaths,
        opener: OpenStore,
        leftovers: Leftovers,
    ) -> Result<Self, RecorderError> {
        let path = || paths.spill_dir.clone();
        let spill = |source| RecorderError::Spill { path: path(), source };
        let in_flight =
            InFlight::open(Arc::clone(queues), Arc::new(StoreMetrics::default()), &paths.spill_dir);
        let in_flight = Arc::new(in_flight.map_err(spill)?);
        let dead_letters = DeadLetters::new(&paths.dead_letter);
        let mut writer =
            Writer::open(Arc::clone(&in_flight), clock, settings.subscribe(), dead_letters, opener)?;
        let left: u64 = Channel::ALL.iter().map(|&channel| in_flight.rows_on_disk(channel)).sum();
        if left > 0 && leftovers == Leftovers::Written {
            log::info!("writing {left} rows to the database that an earlier run left in the spill");
            if !writer.drain_all(&AtomicBool::new(false)) && !in_flight.has_newer() {
                return Err(RecorderError::Leftovers { path: path() });
            }
        }
        if in_flight.has_newer() {
            return Err(RecorderError::Newer { path: path() });
        }
        Ok(Self { in_flight, writer, clock, settings: settings.subscribe(), spill_dir: path() })
    }

    /// Returns the durable totals of sessions, for restoring them (mode private).
    ///
    /// # Errors
    /// Fails when they cannot be read.
    pub fn durable_totals(&self) -> Result<DurableTotals, RecorderError> {
        self.in_flight
            .durable_totals()
            .map_err(|source| RecorderError::Spill { path: self.spill_dir.clone(), source })
    }

    /// Returns a handle that saves the rows in memory; see [`Recorder::emergency_flush`].
    #[must_use]
    pub fn emergency_flush(&self) -> EmergencyFlush {
        EmergencyFlush(Arc::clone(&self.in_flight))
    }

    /// Writes the rows on the disk and, except in mode private, those in memory to the store; returns whether
    /// that succeeded.
    pub fn drain(&mut self) -> bool {
        self.writer.drain_all(&AtomicBool::new(false))
    }

    /// The store, for reads before the recorder starts.
    pub fn store(&mut self) -> Option<&mut Box<dyn Store>> {
        self.writer.store()
    }

    /// Starts both threads.
    ///
    /// # Errors
    /// Fails when a thread cannot be started.
    pub fn start(self) -> io::Result<Recorder> {
        let Self { in_flight, writer, clock, settings, .. } = self;
        let (stop_writing, give_up) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let stop_guarding = Arc::new(AtomicBool::new(false));
        let (stop, enough) = (Arc::clone(&stop_writing), Arc::clone(&give_up));
        let (alive, ended) = sync_channel::<()>(0);
        let writer = thread::Builder::new().name("store".into()).spawn(move || {
            // Dropped when the thread ends, also by a panic.
            let _alive = alive;
            writer.run_loop(&stop, &enough);
        })?;
        let spiller = Spiller {
            in_flight: Arc::clone(&in_flight),
            clock,
            settings,
            writer: writer.thread().clone(),
            last_cut: clock.uptime(),
        };
        let stop = Arc::clone(&stop_guarding);
        let spiller = thread::Builder::new().name("spill".into()).spawn(move || spiller.run(&stop))?;
        in_flight.queues.set_spiller(spiller.thread().clone());
        Ok(Recorder {
            in_flight,
            stop_writing,
            give_up,
            stop_spilling: stop_guarding,
            writer,
            ended,
            spiller,
        })
    }
}

/// The running threads. Owned by the daemon, which ends them with one of the `stop` methods.
#[derive(Debug)]
pub struct Recorder {
    in_flight: Arc<InFlight>,
    stop_writing: Arc<AtomicBool>,
    give_up: Arc<AtomicBool>,
    stop_spilling: Arc<AtomicBool>,
    writer: JoinHandle<()>,
    /// Nothing is ever sent: it is closed when the writer has ended.
    ended: Receiver<()>,
    spiller: JoinHandle<()>,
}

impl Recorder {
    /// Registers the metrics of the store.
    pub fn register_metrics(&self, board: &Board) {
        self.in_flight.metrics.register_metrics(&self.in_flight.queues, board);
    }

    /// Whether both threads are running; they end by themselves only by a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.writer.is_finished() && !self.spiller.is_finished()
    }

    /// Returns a handle that puts the rows in memory on the disk when there is no time for the store.
    #[must_use]
    pub fn emergency_flush(&self) -> EmergencyFlush {
        EmergencyFlush(Arc::clone(&self.in_flight))
    }

    /// Writes everything that waits to the store or, if the store is unreachable, to the disk; waits for the
    /// store without limit. Returns whether no rows are lost.
    pub fn stop(self) -> bool {
        self.stop_within(Duration::MAX)
    }

    /// Puts everything that waits on the disk and leaves it there, for another process that continues at
    /// once. The store is closed when the current batch is done, which may take `timeout`.
    pub fn stop_for_successor(self, timeout: Duration) -> bool {
        self.give_up.store(true, Ordering::Release);
        self.stop_within(timeout)
    }

    /// Puts everything that waits on the disk at once, and then gives the store `timeout` to take it from
    /// there. What it does not take by then waits for the next start; a writer that hangs in a call to the
    /// store is abandoned. Returns false if rows are lost because the disk takes none either.
    pub fn stop_within(self, timeout: Duration) -> bool {
        EmergencyFlush(Arc::clone(&self.in_flight)).flush_to_disk();
        self.stop_writing.store(true, Ordering::Release);
        self.writer.thread().unpark();
        if self.ended.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
            self.give_up.store(true, Ordering::Release);
            let rows: u64 = Channel::ALL.iter().map(|&channel| self.in_flight.rows_waiting(channel)).sum();
            log::warn!("the database did not take everything in {timeout:?}; {rows} rows wait on the disk");
        } else if self.writer.join().is_err() {
            log::error!("the writer ended with a panic");
        }
        self.stop_spilling.store(true, Ordering::Release);
        self.spiller.thread().unpark();
        if self.spiller.join().is_err() {
            log::error!("the spill thread ended with a panic");
        }
        let lost = EmergencyFlush(Arc::clone(&self.in_flight)).flush_to_disk();
        self.in_flight.write_final_cut();
        lost == 0
    }
}

/// The thread that keeps the queues within their bounds, and in mode private makes the cuts.
struct Spiller {
    in_flight: Arc<InFlight>,
    clock: Clock,
    settings: Subscriber<WriterSettings>,
    /// Woken when there is something to write.
    writer: Thread,
    last_cut: Duration,
}

impl Spiller {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let rest = self.next_cut_due().saturating_sub(self.clock.uptime());
            thread::park_timeout(if self.in_flight.writes_disk_first() {
                SPILL_INTERVAL.min(rest)
            } else {
                SPILL_INTERVAL
            });
            self.settings.refresh();
            if self.in_flight.writes_disk_first() {
                self.cut_if_due();
            } else {
                spill_queues(&self.in_flight, false);
            }
        }
    }

    fn next_cut_due(&self) -> Duration {
        self.last_cut + self.settings.get().flush.max(CUT_INTERVAL_MIN)
    }

    /// Makes a cut if it is time, or a queue is half full, or the store is unreachable.
    fn cut_if_due(&mut self) {
        let is_due = self.clock.uptime() >= self.next_cut_due();
        if !is_due
            && !self.in_flight.queues.is_cut_due()
            && !self.in_flight.store_lost.load(Ordering::Relaxed)
        {
            return;
        }
        self.in_flight.cut();
        self.last_cut = self.clock.uptime();
        self.writer.unpark();
        let inactivity = self.settings.get().peer_inactivity.as_secs();
        self.in_flight.fold(u32::try_from(inactivity).unwrap_or(u32::MAX));
    }
}

/// A handle that puts rows on the disk in an emergency; see [`Recorder::emergency_flush`].
#[derive(Clone, Debug)]
pub struct EmergencyFlush(Arc<InFlight>);

impl EmergencyFlush {
    /// Whether the file of the store was deleted or replaced while in use.
    #[must_use]
    pub fn has_lost_its_file(&self) -> bool {
        self.0.metrics.file_lost.load(Ordering::Relaxed)
    }

    /// Puts all rows in memory on the disk. Those that the store has kept in the meantime are skipped when
    /// they are replayed. Returns the number of rows still in memory because the disk does not take them.
    pub fn flush_to_disk(&self) -> usize {
        self.0.cut();
        Channel::ALL.iter().for_each(|&channel| self.0.spill_held(channel));
        spill_queues(&self.0, true);
        let lost: usize = Channel::ALL.iter().map(|&channel| self.0.rows_in_memory(channel)).sum();
        if !self.0.disk_fails() {
            // Rows that came since are not lost: the process saves once more at its end.
        } else if lost > 0 && self.0.writes_disk_first() {
            // Their totals are not kept either.
            log::error!("the disk has not taken {lost} rows: they count when their sessions announce again");
        } else if lost > 0 {
            log::error!("{lost} rows are only in memory: neither the database nor the disk takes them");
        }
        lost
    }
}

/// Puts the rows in memory on the disk in a process that never reached its store, so that it does not know
/// which numbers the store has: they are numbered by the microseconds since 1970, beyond all numbers of rows
/// that were counted one by one. Not in mode private. Returns the number of rows that the disk does not take.
///
/// # Errors
/// Fails when the files that are there already cannot be read.
pub fn spill_unnumbered(queues: &Arc<Queues>, clock: Clock, spill_dir: &Path) -> io::Result<usize> {
    let in_flight = InFlight::open(Arc::clone(queues), Arc::default(), spill_dir)?;
    let above = u64::try_from(clock.unix_milliseconds() * 1000).unwrap_or(u64::MAX);
    Channel::ALL.iter().for_each(|&channel| in_flight.number_above(channel, above));
    Ok(EmergencyFlush(Arc::new(in_flight)).flush_to_disk())
}

fn spill_queues(in_flight: &InFlight, always: bool) {
    for channel in Channel::ALL {
        in_flight.spill_queue(channel, always);
        in_flight.sync_spill(channel);
    }
}
