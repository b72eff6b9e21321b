//! The two threads behind the queues: `store` writes, `spill` keeps the queues within their bounds while it
//! does. Nobody else waits for the store.

use std::io;
use std::path::PathBuf;
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

/// Time between two looks of the spiller: what goes to the disk is there at the latest after so long.
const SPILL_INTERVAL: Duration = Duration::from_millis(500);
/// Least time between two cuts that only the time asks for.
const CUT_INTERVAL_LEAST: Duration = Duration::from_millis(10);

/// Where the records that cannot be written now are kept.
#[derive(Clone, Debug)]
pub struct SpillPaths {
    /// Folder of the spill files (`database.spill_dir`); made when it is needed.
    pub spill_dir: PathBuf,
    /// File of the rows that no column can hold (`database.dead_letter`).
    pub dead_letter: PathBuf,
}

/// Why the recorder cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The store cannot be reached, or is unfit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What an earlier process left on the disk cannot be read.
    #[error("{}: {source}", path.display())]
    Spill {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier process was a newer program, and has left what this one does not know.
    #[error(
        "{} holds records of a newer hayate, which this one cannot read: start that one once more, or move \
         the folder away and lose them",
        path.display()
    )]
    Newer {
        /// The folder.
        path: PathBuf,
    },
    /// What an earlier process left on the disk cannot be written to the store.
    #[error("the rows in {} cannot be written to the database; the log says why", path.display())]
    Leftovers {
        /// The folder.
        path: PathBuf,
    },
}

/// What becomes of rows that an earlier process left on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They are written before the store counts as open.
    Written,
    /// They are written once the recorder runs: by the successor of a process that has just ended.
    Kept,
}

/// A store that was reached, before anything is written to it by a thread.
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
    /// Reaches the store, and writes what an earlier process left on the disk: what is read from the store
    /// then is all there is.
    ///
    /// # Errors
    /// When the store cannot be reached, is unfit, or does not take what is left.
    pub fn new(
        queues: &Arc<Queues>,
        clock: Clock,
        settings: &Arc<Published<WriterSettings>>,
        places: &SpillPaths,
        opener: OpenStore,
    ) -> Result<Self, RecorderError> {
        Self::open(queues, clock, settings, places, opener, Leftovers::Written)
    }

    /// The same, with a choice of what becomes of that.
    ///
    /// # Errors
    /// When the store cannot be reached, is unfit, or does not take what is to be written.
    pub fn open(
        queues: &Arc<Queues>,
        clock: Clock,
        settings: &Arc<Published<WriterSettings>>,
        places: &SpillPaths,
        opener: OpenStore,
        leftovers: Leftovers,
    ) -> Result<Self, RecorderError> {
        let path = || places.spill_dir.clone();
        let spill = |source| RecorderError::Spill { path: path(), source };
        let in_flight =
            InFlight::open(Arc::clone(queues), Arc::new(StoreMetrics::default()), &places.spill_dir);
        let in_flight = Arc::new(in_flight.map_err(spill)?);
        let dead_letters = DeadLetters::new(&places.dead_letter);
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

    /// The totals of sessions that are durable, for what is restored (mode private).
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn durable_totals(&self) -> Result<DurableTotals, RecorderError> {
        self.in_flight
            .durable_totals()
            .map_err(|source| RecorderError::Spill { path: self.spill_dir.clone(), source })
    }

    /// What saves the rows that are in memory; see [`Recorder::lifeboat`].
    #[must_use]
    pub fn emergency_flush(&self) -> EmergencyFlush {
        EmergencyFlush(Arc::clone(&self.in_flight))
    }

    /// Writes what is on the disk to the store, and, but in mode private, what is in memory; false if that
    /// did not succeed.
    pub fn drain(&mut self) -> bool {
        self.writer.drain_all(&AtomicBool::new(false))
    }

    /// The store, to be read before the recorder starts.
    pub fn store(&mut self) -> Option<&mut Box<dyn Store>> {
        self.writer.store()
    }

    /// Starts both threads.
    ///
    /// # Errors
    /// When the system gives no thread.
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

/// The running threads.
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
    /// Lists its numbers.
    pub fn register_metrics(&self, board: &Board) {
        self.in_flight.metrics.register_metrics(&self.in_flight.queues, board);
    }

    /// False once a thread has ended by itself, which takes a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.writer.is_finished() && !self.spiller.is_finished()
    }

    /// What saves the rows that are in memory when there is no time for the store.
    #[must_use]
    pub fn emergency_flush(&self) -> EmergencyFlush {
        EmergencyFlush(Arc::clone(&self.in_flight))
    }

    /// Writes everything that waits to the store, or, where that is away, to the disk; however long the
    /// store takes to answer.
    pub fn stop(self) -> bool {
        self.stop_within(Duration::MAX)
    }

    /// Puts everything that waits on the disk and leaves it there: another process goes on with it at once.
    /// The store is closed when the batch that is under way is done, which may take `patience`.
    pub fn stop_for_successor(self, patience: Duration) -> bool {
        self.give_up.store(true, Ordering::Release);
        self.stop_within(patience)
    }

    /// Puts everything that waits on the disk at once, and then gives the store `patience` to take it from
    /// there. What it does not take by then waits for the next start; a writer that hangs in a call to the
    /// store is left to itself. False if rows are lost, because the disk takes none either.
    pub fn stop_within(self, patience: Duration) -> bool {
        EmergencyFlush(Arc::clone(&self.in_flight)).flush_to_disk();
        self.stop_writing.store(true, Ordering::Release);
        self.writer.thread().unpark();
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            self.give_up.store(true, Ordering::Release);
            let rows: u64 = Channel::ALL.iter().map(|&channel| self.in_flight.rows_waiting(channel)).sum();
            log::warn!("the database did not take everything in {patience:?}; {rows} rows wait on the disk");
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
        self.last_cut + self.settings.get().flush.max(CUT_INTERVAL_LEAST)
    }

    /// Makes a cut if it is time, or a queue is half full, or the store is away.
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

/// See [`Recorder::lifeboat`].
#[derive(Clone, Debug)]
pub struct EmergencyFlush(Arc<InFlight>);

impl EmergencyFlush {
    /// Was the file of the store deleted or replaced while it is in use?
    #[must_use]
    pub fn has_lost_its_file(&self) -> bool {
        self.0.metrics.file_lost.load(Ordering::Relaxed)
    }

    /// Puts all rows that are in memory on the disk. What the store has kept in the meantime is skipped when
    /// they are replayed. Gives how many rows are in memory still, because the disk does not take them.
    pub fn flush_to_disk(&self) -> usize {
        self.0.cut();
        Channel::ALL.iter().for_each(|&channel| self.0.spill_held(channel));
        spill_queues(&self.0, true);
        let lost: usize = Channel::ALL.iter().map(|&channel| self.0.rows_in_memory(channel)).sum();
        if !self.0.disk_fails() {
            // What came since is not lost: whoever ends the process saves once more.
        } else if lost > 0 && self.0.writes_disk_first() {
            // Nor are their totals kept.
            log::error!("the disk has not taken {lost} rows: they count when their sessions announce again");
        } else if lost > 0 {
            log::error!("{lost} rows are in memory alone: neither the database nor the disk takes them");
        }
        lost
    }
}

fn spill_queues(in_flight: &InFlight, always: bool) {
    for channel in Channel::ALL {
        in_flight.spill_queue(channel, always);
        in_flight.sync_spill(channel);
    }
}
