//! What lasts: the lock on `state_dir`, the store, the snapshot of the swarms. In this order at the start:
//! lock, store, rows that an earlier run left, snapshot, completed counts; and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use hayate_state::access::TorrentList;
use hayate_state::snapshot::keeper::{Ending, FILE_NAME, Keeper, Plan};
use hayate_state::snapshot::load::load;
use hayate_state::snapshot::swarms::{CompletedFrom, Restore};
use hayate_state::store::{Backend, Demand, Opened, Pace, Queues, Recorder, RecorderError, Store};
use hayate_state::{Board, Clock, Policy, Published, Swarms};

use crate::config::settings::Keep;
use crate::lock::StateLock;
use crate::registered::{Reader, Registrar};
use crate::signals::{Boat, Wish, Wishes};

/// Torrents whose completed count is kept in the store; the latest ones.
const COMPLETED_ROWS_MAX: usize = 2_000_000;

/// Everything that lasts.
pub(crate) struct Storage {
    pub(crate) swarms: Arc<Swarms>,
    /// Where records wait for the store; `None` without a store.
    pub(crate) queues: Option<Arc<Queues>>,
    pub(crate) lock: StateLock,
    keep: Keep,
    clock: Clock,
    knobs: Knobs,
    listed: bool,
    opened: Option<Opened>,
    reader: Option<Reader>,
    threads: Option<Threads>,
}

/// What a reload may change.
struct Knobs {
    pace: Arc<Published<Pace>>,
    serialize_seconds: Arc<AtomicU32>,
    reload_seconds: Arc<AtomicU64>,
}

/// What runs for it.
struct Threads {
    recorder: Option<Recorder>,
    keeper: Keeper,
    registrar: Option<Registrar>,
}

impl Storage {
    /// Nothing known yet. `listed`: the registered torrents matter.
    pub(crate) fn new(keep: Keep, listed: bool, lock: StateLock, swarms: Arc<Swarms>, clock: Clock) -> Self {
        let queues = keep.dsn.is_some().then(|| Arc::new(Queues::new(clock, &keep.bounds)));
        let knobs = Knobs {
            pace: Published::new(keep.pace),
            serialize_seconds: Arc::new(AtomicU32::new(keep.serialize_seconds)),
            reload_seconds: Arc::new(AtomicU64::new(keep.reload_seconds)),
        };
        Self { swarms, queues, lock, keep, clock, knobs, listed, opened: None, reader: None, threads: None }
    }

    /// Opens the store, and brings back what the last run knew.
    ///
    /// # Errors
    /// When the store cannot be opened or read.
    pub(crate) fn load(&mut self, policy: &Policy) -> anyhow::Result<()> {
        let Some(mut opened) = self.open()? else {
            self.restore(policy, CompletedFrom::Snapshot);
            return Ok(());
        };
        self.restore(policy, CompletedFrom::Store);
        if let Some(store) = opened.store() {
            self.load_completed(store.as_mut(), policy).context("reading the database")?;
        }
        self.opened = Some(opened);
        Ok(())
    }

    /// The registered torrents, for the first time; `None` where they do not matter.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) fn registered(&mut self) -> anyhow::Result<Option<Arc<TorrentList>>> {
        let Some(backend) = self.backend().filter(|_| self.listed) else { return Ok(None) };
        let mut reader = Reader::new(backend);
        let list = reader.read().context("reading the registered torrents")?;
        log::info!("{} registered torrents in the database", list.len());
        self.reader = Some(reader);
        Ok(Some(Arc::new(list)))
    }

    /// Starts what runs beside the tracker. After a handover: when the predecessor has ended.
    ///
    /// # Errors
    /// When the store cannot be opened, or the system gives no thread.
    pub(crate) fn start(&mut self, board: &Board, wishes: &Wishes, boat: &Boat) -> anyhow::Result<()> {
        if self.opened.is_none() {
            self.opened = self.open()?;
        }
        let recorder = self.opened.take().map(Opened::start).transpose()?;
        if let Some(recorder) = &recorder {
            recorder.list_on(board);
            if let Ok(mut boat) = boat.lock() {
                *boat = Some(recorder.lifeboat());
            }
        }
        let plan = Plan {
            path: self.keep.state_dir.join(FILE_NAME),
            every_seconds: Arc::clone(&self.knobs.serialize_seconds),
            swarms: Arc::clone(&self.swarms),
            sections: Vec::new(),
        };
        let keeper = Keeper::start(plan, self.clock)?;
        keeper.list_on(board);
        let seconds = || Arc::clone(&self.knobs.reload_seconds);
        let registrar = self.reader.take();
        let registrar =
            registrar.map(|reader| reader.start(seconds(), wishes.clone(), self.clock, board)).transpose()?;
        self.threads = Some(Threads { recorder, keeper, registrar });
        Ok(())
    }

    /// Starts what runs beside the tracker when a predecessor has ended. Where the store is away at that
    /// moment, records wait in memory until the main thread is asked again.
    pub(crate) fn start_late(&mut self, board: &Board, wishes: &Wishes, boat: &Boat) {
        if let Err(error) = self.start(board, wishes, boat) {
            log::error!("after the upgrade: {error:#}; trying again in a second");
            let wishes = wishes.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(1));
                wishes.send(Wish::Inherited);
            });
        }
    }

    /// Everything runs that should.
    pub(crate) fn is_settled(&self) -> bool {
        self.threads.is_some()
    }

    /// False once a thread has ended by itself.
    pub(crate) fn is_alive(&self) -> bool {
        self.threads.as_ref().is_none_or(|threads| {
            threads.recorder.as_ref().is_none_or(Recorder::is_alive)
                && threads.keeper.is_alive()
                && threads.registrar.as_ref().is_none_or(Registrar::is_alive)
        })
    }

    /// Takes over what a reload changes.
    pub(crate) fn reload(&self, keep: &Keep) {
        self.knobs.pace.publish(keep.pace);
        self.knobs.serialize_seconds.store(keep.serialize_seconds, Ordering::Relaxed);
        self.knobs.reload_seconds.store(keep.reload_seconds, Ordering::Relaxed);
    }

    /// Writes all that waits to the store and, unless a successor does, the swarms to their file.
    pub(crate) fn stop(self, ending: Ending) {
        let Some(threads) = self.threads else { return };
        if let Some(registrar) = threads.registrar {
            registrar.stop();
        }
        if let Some(recorder) = threads.recorder {
            recorder.stop();
        }
        threads.keeper.stop(ending);
    }

    fn backend(&self) -> Option<Backend> {
        // The name of a node comes with the cluster.
        self.keep.dsn.clone().map(|dsn| Backend::new(dsn, "", Demand::Own))
    }

    fn open(&self) -> Result<Option<Opened>, RecorderError> {
        let (Some(backend), Some(queues)) = (self.backend(), &self.queues) else { return Ok(None) };
        log::info!("opening the database {}", backend.dsn());
        let opener = Box::new(move || backend.open());
        Opened::new(queues, self.clock, &self.knobs.pace, &self.keep.places, opener).map(Some)
    }

    fn restore(&self, policy: &Policy, completed: CompletedFrom) {
        let mut restore = Restore::new(&self.swarms, policy, completed);
        // It has said in the log what became of it.
        let _ = load(&self.keep.state_dir.join(FILE_NAME), &self.clock, &mut [&mut restore]);
    }

    fn load_completed(&self, store: &mut dyn Store, policy: &Policy) -> anyhow::Result<()> {
        let (now, mut counts) = (self.clock.now().tick, Vec::new());
        store
            .completed(COMPLETED_ROWS_MAX, &mut |info_hash, completed| counts.push((info_hash, completed)))?;
        if !counts.is_empty() {
            log::info!("completed counts of {} torrents read from the database", counts.len());
        }
        // The oldest first: those are forgotten first.
        for (info_hash, completed) in counts.iter().rev() {
            self.swarms.set_completed(now, policy, info_hash, *completed);
        }
        Ok(())
    }
}
