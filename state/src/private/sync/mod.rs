//! The clerk: a thread that reads all sets of a site from the store, at the start and every so often
//! (`rules/private.md#reload-of-the-site`). Each set is built apart and swapped whole; one that cannot be
//! read to its end leaves the old one.
//!
//! `loading` has what was read of a set so far, `metrics` the numbers.

pub(super) mod loading;
mod metrics;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::admin::{self, OfficeError, Outcome, Verb, records};
use super::approved_clients::Clients;
use super::site::Site;
use super::torrents::Row;
use crate::clock::Clock;
use crate::metrics::Board;
use crate::snapshot::keeper::Pace;
use crate::store::{Backend, Line, Queues, Reading, Record, Set, Store, StoreError};
use loading::Heap;
use metrics::Figures;

/// All sets, in the order in which they are read.
pub(super) const SETS: [Set; 8] = [
    Set::Users,
    Set::HitAndRuns,
    Set::Torrents,
    Set::Freeleech,
    Set::GlobalFreeleech,
    Set::Clients,
    Set::Tokens,
    Set::Deletions,
];
/// Rows that are read between two pauses.
const ROWS_SLICE: usize = 64;
/// Changes that wait for the clerk at most.
const ERRANDS_MAX: usize = 64;
/// How long whoever asks for a change waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a sleeping clerk looks whether a reload of the configuration has changed the interval.
const LOOK: Duration = Duration::from_secs(1);

/// Reads a site, by a connection of its own.
pub struct Clerk {
    site: Arc<Site>,
    queues: Arc<Queues>,
    backend: Backend,
    store: Option<Box<dyn Store>>,
    figures: Arc<Figures>,
    /// Readings of the torrents so far.
    generation: u32,
    /// How long rows of hayate's own tables stay, in seconds; 0 = for ever.
    keep_seconds: u32,
    /// Old rows could not be removed; it is said once.
    keeps_all: bool,
    /// The sets were read while another process served the site, and may have changed since.
    is_early: bool,
}

impl std::fmt::Debug for Clerk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clerk").field("backend", &self.backend).finish_non_exhaustive()
    }
}

impl Clerk {
    /// Has not read anything yet.
    #[must_use]
    pub fn new(backend: Backend, site: Arc<Site>, queues: Arc<Queues>) -> Self {
        let figures = Arc::default();
        Self {
            site,
            queues,
            backend,
            store: None,
            figures,
            generation: 0,
            keep_seconds: 0,
            keeps_all: false,
            is_early: false,
        }
    }

    /// Removes rows of the audit, of deletions and of passkeys that are older than that; 0 = none.
    #[must_use]
    pub fn keeping(self, keep_seconds: u32) -> Self {
        Self { keep_seconds, ..self }
    }

    /// Reads all sets, as fast as it goes.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn load(&mut self, clock: &Clock) -> Result<(), StoreError> {
        SETS.into_iter().try_for_each(|set| self.read(set, &mut Pace::hurried(clock)))?;
        self.settle_counts()
    }

    /// The same while another process still serves the site: nothing is said about its swarms, and all sets
    /// are read again as soon as the thread starts.
    ///
    /// # Errors
    /// When one of the sets cannot be read.
    pub fn load_early(&mut self, clock: &Clock) -> Result<(), StoreError> {
        self.is_early = true;
        SETS.into_iter().try_for_each(|set| self.read(set, &mut Pace::hurried(clock)))
    }

    /// Records how swarms stand whose counts in the store are others: they are those of an earlier run, whose
    /// peers are not all here. To be called before anything announces.
    fn settle_counts(&mut self) -> Result<(), StoreError> {
        let (mut wrong, site, queues) = (0, &self.site, &self.queues);
        let Some(store) = &mut self.store else { return Ok(()) };
        store.lines(Set::Counts, &mut |line| {
            let Line::Counts { info_hash, seeders, leechers } = line else { return };
            let stands = site.torrents.with(&info_hash, |torrent| torrent.counts());
            if let Some(row) = stands.filter(|row| (row.seeders, row.leechers) != (seeders, leechers)) {
                queues.put(Record::Torrent(row));
                wrong += 1;
            }
        })?;
        if wrong > 0 {
            log::info!("seeders and leechers of {wrong} torrents are put right in the database");
        }
        Ok(())
    }

    /// Reads all sets, beside a tracker that serves. What cannot be read stays as it is.
    pub fn reload(&mut self, clock: &Clock, stopping: &AtomicBool) {
        for set in SETS {
            let result = self.read(set, &mut Pace::beside(clock, stopping));
            if stopping.load(Ordering::Acquire) {
                return;
            }
            self.figures.read(set, &result);
            if result.is_err() {
                // The next set gets a new connection, and if there is none, the next reload.
                self.store = None;
            }
        }
        self.keep_house(clock.now().unix_seconds);
    }

    /// Writes down what nobody believes, and forgets what is old.
    fn keep_house(&mut self, now_unix: u64) {
        let now = i64::try_from(now_unix).unwrap_or(i64::MAX);
        let claims = self.site.torrents.remarks.take_claims();
        claims.iter().for_each(|claim| log::warn!("not credited: {claim}"));
        let Some(store) = &mut self.store else { return };
        let mut result = Ok(0);
        if !claims.is_empty() {
            result = records::write_claims(store.as_mut(), now, &claims).map(|()| 0);
        }
        if result.is_ok() && self.keep_seconds > 0 {
            result = records::forget(store.as_mut(), now - i64::from(self.keep_seconds));
        }
        match result {
            Ok(rows) => {
                self.keeps_all = false;
                if rows > 0 {
                    log::info!("{rows} old rows of the audit, of deletions and of passkeys are removed");
                }
            }
            Err(error) if !self.keeps_all => {
                self.keeps_all = true;
                log::warn!("hayate's own tables are not kept as they should: {error}");
            }
            Err(_) => {}
        }
    }

    /// Starts the thread; the first reload is due after so many seconds, or at once after
    /// [`load_early`](Self::load_early).
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(mut self, seconds: Arc<AtomicU64>, clock: Clock, board: &Board) -> io::Result<RunningClerk> {
        self.figures.list_on(&self.site, board);
        let (stopping, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(self.is_early)));
        let (sender, errands) = crossbeam_channel::bounded::<Errand>(ERRANDS_MAX);
        let (stops, asks) = (Arc::clone(&stopping), Arc::clone(&asked));
        let thread = thread::Builder::new().name("clerk".into()).spawn(move || {
            let mut last = clock.uptime();
            while !stops.load(Ordering::Acquire) {
                while let Ok(errand) = errands.try_recv() {
                    (errand.reply)(self.carry_out(&errand.verb, &clock, &errand.source));
                }
                let due = last + Duration::from_secs(seconds.load(Ordering::Relaxed));
                let rest = due.saturating_sub(clock.uptime());
                if rest.is_zero() || asks.swap(false, Ordering::AcqRel) {
                    last = clock.uptime();
                    self.reload(&clock, &stops);
                } else {
                    thread::park_timeout(rest.min(LOOK));
                }
            }
        })?;
        let errands = Errands { sender, thread: thread.thread().clone() };
        Ok(RunningClerk { thread: Some(thread), errands, stopping, asked })
    }

    /// Changes the store, and then the memory of the tracker at once.
    fn carry_out(&mut self, verb: &Verb, clock: &Clock, source: &str) -> Result<Outcome, OfficeError> {
        let now_unix = clock.now().unix_seconds;
        let queues = Arc::clone(&self.queues);
        let reading = queues.begin_reading();
        let outcome = self.store().and_then(|store| admin::carry_out(store, verb, now_unix, source));
        match &outcome {
            Ok(outcome) => {
                let changes = outcome.changes.iter().cloned();
                let generation = self.generation;
                changes.for_each(|change| self.site.take_over(change, generation, &reading));
                drop(reading);
                // Of several rows with one prefix the next one may count now. The next reload tries again.
                if matches!(verb, Verb::AddClient(_) | Verb::RemoveClient(_) | Verb::EditClient(..)) {
                    let result = self.read(Set::Clients, &mut Pace::hurried(clock));
                    self.figures.read(Set::Clients, &result);
                }
            }
            Err(OfficeError::Store(_)) => self.store = None,
            Err(OfficeError::Bad(_) | OfficeError::Busy) => {}
        }
        outcome
    }

    fn store(&mut self) -> Result<&mut dyn Store, OfficeError> {
        if self.store.is_none() {
            self.store = Some(self.backend.open_reader()?);
        }
        match &mut self.store {
            Some(store) => Ok(store.as_mut()),
            None => Err(StoreError::Lost { text: "not connected".to_owned(), in_doubt: false }.into()),
        }
    }

    fn read(&mut self, set: Set, pace: &mut Pace<'_>) -> Result<(), StoreError> {
        if self.store.is_none() {
            self.store = Some(self.backend.open_reader()?);
        }
        let started = pace.uptime();
        let queues = Arc::clone(&self.queues);
        let reading = queues.begin_reading();
        let mut heap = Heap::of(set);
        let mut rows = 0;
        let Some(store) = &mut self.store else { return Ok(()) };
        let skipped = store.lines(set, &mut |line| {
            heap.take(line, &self.site);
            rows += 1;
            if rows % ROWS_SLICE == 0 {
                // When the tracker stops, the rest is read at once and thrown away.
                let _ = pace.breathe();
            }
        })?;
        if skipped > 0 {
            log::warn!("{skipped} rows of {} cannot be read and are left out", name(set));
        }
        pace.pause().map_err(|error| StoreError::Lost { text: error.to_string(), in_doubt: false })?;
        self.publish(heap, &reading, pace);
        self.figures.took(set, skipped, pace.uptime().saturating_sub(started));
        Ok(())
    }

    fn publish(&mut self, heap: Heap, reading: &Reading<'_>, pace: &mut Pace<'_>) {
        let site = &self.site;
        match heap {
            Heap::Users { members, users, twice } => {
                if let Some((passkey_of, id)) = twice {
                    log::warn!("users {passkey_of} and {id} have the same passkey; that of {id} counts");
                }
                self.figures.users.store(members.len() as u64, Ordering::Relaxed);
                site.change(|register| register.members = Arc::new(members));
                site.enroll(users);
            }
            Heap::HitAndRuns(pairs) => {
                self.figures.hit_and_runs.store(pairs.len() as u64, Ordering::Relaxed);
                site.change(|register| register.hit_and_runs = Arc::new(pairs));
            }
            Heap::Torrents(shards) => self.register(&shards, reading, pace),
            Heap::Freeleech(groups) => site.change(|register| register.freeleech = Arc::new(groups)),
            Heap::GlobalFreeleech(Some(setting @ (0 | 1))) => {
                site.change(|register| register.global_freeleech = setting == 1);
            }
            Heap::GlobalFreeleech(Some(setting)) => {
                log::warn!("global_freeleech is {setting}, expected 0 or 1; the old value stays");
            }
            Heap::GlobalFreeleech(None) => {}
            Heap::Clients(clients) => {
                let clients: Clients = clients.into_iter().collect();
                if clients.approves_all() {
                    log::warn!("an approved client has an empty peer_id: it approves every client");
                }
                self.figures.clients.store(clients.len() as u64, Ordering::Relaxed);
                site.change(|register| register.clients = Arc::new(clients));
            }
            Heap::Tokens(pairs) => site.change(|register| register.tokens = Arc::new(pairs)),
            Heap::Deletions(reasons) => site.change(|register| register.deletions = Arc::new(reasons)),
        }
    }

    /// Takes over the torrents shard by shard; those that are gone lose their peers.
    fn register(&mut self, shards: &[Vec<Row>], reading: &Reading<'_>, pace: &mut Pace<'_>) {
        // 0 is that of a snapshot.
        self.generation = self.generation.wrapping_add(1).max(1);
        let is_unpruned = |id| reading.is_unpruned(id);
        for (shard, rows) in shards.iter().enumerate() {
            self.site.torrents.put_all(shard, rows, self.generation, &is_unpruned);
            self.site.torrents.forget_others(shard, self.generation);
            // All or nothing: a set that was read whole is taken over whole.
            let _ = pace.breathe();
        }
        let count = shards.iter().map(Vec::len).sum::<usize>();
        self.figures.torrents.store(count as u64, Ordering::Relaxed);
    }
}

/// The word for a set in logs and metrics.
pub(super) fn name(set: Set) -> &'static str {
    match set {
        Set::Users => "users",
        Set::HitAndRuns => "hit_and_runs",
        Set::Torrents => "torrents",
        Set::Freeleech => "groups_freeleech",
        Set::GlobalFreeleech => "global_freeleech",
        Set::Clients => "clients",
        Set::Tokens => "tokens",
        Set::Deletions => "deletions",
        Set::Counts => "counts",
    }
}

/// Something that the clerk is asked to do.
struct Errand {
    verb: Verb,
    source: String,
    reply: Box<dyn FnOnce(Result<Outcome, OfficeError>) + Send>,
}

/// Where the clerk is asked to change the site.
#[derive(Clone)]
pub struct Errands {
    sender: crossbeam_channel::Sender<Errand>,
    thread: thread::Thread,
}

impl std::fmt::Debug for Errands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Errands").finish_non_exhaustive()
    }
}

impl Errands {
    /// Has the clerk change the site, when the reading that goes on has ended; `source` says who asks. It
    /// waits until that is done: not for the thread of a door.
    ///
    /// # Errors
    /// When it makes no sense, the store refuses, or the clerk has too much to do.
    pub fn ask(&self, verb: Verb, source: &str) -> Result<Outcome, OfficeError> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        // Nobody may wait for it any more.
        let reply = Box::new(move |outcome| _ = sender.send(outcome));
        let errand = Errand { verb, source: source.to_owned(), reply };
        self.sender.try_send(errand).map_err(|_| OfficeError::Busy)?;
        self.thread.unpark();
        answer.recv_timeout(PATIENCE).unwrap_or(Err(OfficeError::Busy))
    }
}

/// The running clerk. Dropped, it ends without waiting for an answer of the store.
#[derive(Debug)]
pub struct RunningClerk {
    thread: Option<JoinHandle<()>>,
    errands: Errands,
    stopping: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
}

impl RunningClerk {
    /// Where it is asked to change the site.
    #[must_use]
    pub fn errands(&self) -> Errands {
        self.errands.clone()
    }

    /// Has all sets read now.
    pub fn reload(&self) {
        self.asked.store(true, Ordering::Release);
        self.wake();
    }

    /// False once the thread has ended by itself, which takes a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for RunningClerk {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }
}

#[cfg(test)]
mod tests;
