//! The site sync: a thread that reads all sets of a site from the store, at the start and every so often
//! (`rules/private.md#reload-of-the-site`). Each set is built apart and swapped whole; one that cannot be
//! read to its end leaves the old one.
//!
//! `loading` has what was read of a set so far, `metrics` the numbers.

pub(super) mod loading;
mod metrics;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::admin::{self, AdminCommand, AdminError, AdminOutcome, records};
use super::approved_clients::ApprovedClients;
use super::site::Site;
use super::torrents::TorrentInfo;
use crate::background::{Background, BackgroundTask, Waker};
use crate::clock::Clock;
use crate::metrics::Board;
use crate::snapshot::keeper::Pace;
use crate::store::{Backend, Queues, Record, Set, SiteReading, SiteRow, Store, StoreError};
use loading::LoadingSet;
use metrics::SyncMetrics;

/// Rows that are read between two pauses.
const ROWS_SLICE: usize = 64;
/// Changes that wait for the site sync at most.
const QUEUED_MAX: usize = 64;
/// How long whoever asks for a change waits.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads a site, by a connection of its own.
pub struct SiteSync {
    site: Arc<Site>,
    queues: Arc<Queues>,
    backend: Backend,
    store: Option<Box<dyn Store>>,
    metrics: Arc<SyncMetrics>,
    /// Readings of the torrents so far.
    generation: u32,
    /// How long rows of hayate's own tables stay, in seconds; 0 = for ever.
    retention_seconds: u32,
    /// Old rows could not be removed; it is said once.
    retention_fails: bool,
    /// The sets were read while another process served the site, and may have changed since.
    is_early: bool,
}

impl std::fmt::Debug for SiteSync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SiteSync").field("backend", &self.backend).finish_non_exhaustive()
    }
}

impl SiteSync {
    /// Has not read anything yet.
    #[must_use]
    pub fn new(backend: Backend, site: Arc<Site>, queues: Arc<Queues>) -> Self {
        let metrics = Arc::default();
        Self {
            site,
            queues,
            backend,
            store: None,
            metrics,
            generation: 0,
            retention_seconds: 0,
            retention_fails: false,
            is_early: false,
        }
    }

    /// Removes rows of the audit, of deletions and of passkeys that are older than that; 0 = none.
    #[must_use]
    pub fn with_retention(self, keep_seconds: u32) -> Self {
        Self { retention_seconds: keep_seconds, ..self }
    }

    /// Reads all sets, as fast as it goes.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn load_sets(&mut self, clock: &Clock) -> Result<(), StoreError> {
        Set::RELOADED.into_iter().try_for_each(|set| self.read_set(set, &mut Pace::unpaced(clock)))?;
        self.correct_counts()
    }

    /// The same while another process still serves the site: nothing is said about its swarms, and all sets
    /// are read again as soon as the thread starts.
    ///
    /// # Errors
    /// When one of the sets cannot be read.
    pub fn load_sets_early(&mut self, clock: &Clock) -> Result<(), StoreError> {
        self.is_early = true;
        Set::RELOADED.into_iter().try_for_each(|set| self.read_set(set, &mut Pace::unpaced(clock)))
    }

    /// Records how swarms stand whose counts in the store are others: they are those of an earlier run, whose
    /// peers are not all here. To be called before anything announces.
    fn correct_counts(&mut self) -> Result<(), StoreError> {
        let (mut wrong, site, queues) = (0, &self.site, &self.queues);
        let Some(store) = &mut self.store else { return Ok(()) };
        store.read_rows(Set::Counts, &mut |line| {
            let SiteRow::Counts { info_hash, seeders, leechers } = line else { return };
            let stands = site.torrents.with_torrent(&info_hash, |torrent| torrent.counts_row());
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
    pub fn reload_sets(&mut self, clock: &Clock, stopping: &AtomicBool) {
        for set in Set::RELOADED {
            let result = self.read_set(set, &mut Pace::in_background(clock, stopping));
            if stopping.load(Ordering::Acquire) {
                return;
            }
            self.metrics.record_result(set, &result);
            if result.is_err() {
                // The next set gets a new connection, and if there is none, the next reload.
                self.store = None;
            }
        }
        self.clean_up(clock.now().unix_seconds);
    }

    /// Writes down what nobody believes, and forgets what is old.
    fn clean_up(&mut self, now_unix: u64) {
        let now = i64::try_from(now_unix).unwrap_or(i64::MAX);
        let claims = self.site.torrents.anomalies.take_claims();
        claims.iter().for_each(|claim| log::warn!("not credited: {claim}"));
        let Some(store) = &mut self.store else { return };
        let mut result = Ok(0);
        if !claims.is_empty() {
            result = records::write_claims(store.as_mut(), now, &claims).map(|()| 0);
        }
        if result.is_ok() && self.retention_seconds > 0 {
            result = records::remove_old_rows(store.as_mut(), now - i64::from(self.retention_seconds));
        }
        match result {
            Ok(rows) => {
                self.retention_fails = false;
                if rows > 0 {
                    log::info!("{rows} old rows of the audit, of deletions and of passkeys are removed");
                }
            }
            Err(error) if !self.retention_fails => {
                self.retention_fails = true;
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
    pub fn start(self, seconds: Arc<AtomicU64>, clock: Clock, board: &Board) -> io::Result<RunningSync> {
        self.metrics.register_metrics(&self.site, board);
        let (sender, admin_queue) = crossbeam_channel::bounded::<QueuedCommand>(QUEUED_MAX);
        let is_early = self.is_early;
        let task = SyncTask { sync: self, seconds, clock, admin_queue };
        let background = Background::start("site-sync", clock, task)?;
        let waker = background.waker().clone();
        if is_early {
            waker.run_now();
        }
        Ok(RunningSync { background, admin_queue: AdminQueue { sender, waker } })
    }

    /// Changes the store, and then the memory of the tracker at once.
    fn run_command(
        &mut self,
        command: &AdminCommand,
        clock: &Clock,
        source: &str,
    ) -> Result<AdminOutcome, AdminError> {
        let now_unix = clock.now().unix_seconds;
        let queues = Arc::clone(&self.queues);
        let reading = queues.begin_reading();
        let outcome =
            self.open_store().and_then(|store| admin::run_command(store, command, now_unix, source));
        match &outcome {
            Ok(outcome) => {
                let changes = outcome.changes.iter().cloned();
                let generation = self.generation;
                changes.for_each(|change| self.site.apply_change(change, generation, &reading));
                drop(reading);
                // Of several rows with one prefix the next one may count now. The next reload tries again.
                if matches!(
                    command,
                    AdminCommand::AddClient(_) | AdminCommand::RemoveClient(_) | AdminCommand::EditClient(..)
                ) {
                    let result = self.read_set(Set::Clients, &mut Pace::unpaced(clock));
                    self.metrics.record_result(Set::Clients, &result);
                }
            }
            Err(AdminError::Store(_)) => self.store = None,
            Err(AdminError::Bad(_) | AdminError::Busy) => {}
        }
        outcome
    }

    fn open_store(&mut self) -> Result<&mut dyn Store, AdminError> {
        if self.store.is_none() {
            self.store = Some(self.backend.open_reader()?);
        }
        match &mut self.store {
            Some(store) => Ok(store.as_mut()),
            None => Err(StoreError::Lost { text: "not connected".to_owned(), in_doubt: false }.into()),
        }
    }

    fn read_set(&mut self, set: Set, pace: &mut Pace<'_>) -> Result<(), StoreError> {
        if self.store.is_none() {
            self.store = Some(self.backend.open_reader()?);
        }
        let started = pace.uptime();
        let queues = Arc::clone(&self.queues);
        let reading = queues.begin_reading();
        let mut loaded = LoadingSet::for_set(set);
        let mut rows = 0;
        let Some(store) = &mut self.store else { return Ok(()) };
        let skipped = store.read_rows(set, &mut |line| {
            loaded.push_row(line, &self.site.torrents);
            rows += 1;
            if rows % ROWS_SLICE == 0 {
                // When the tracker stops, the rest is read at once and thrown away.
                let _ = pace.pause_if_due();
            }
        })?;
        if skipped > 0 {
            log::warn!("{skipped} rows of {} cannot be read and are left out", set.name());
        }
        pace.pause().map_err(|error| StoreError::Lost { text: error.to_string(), in_doubt: false })?;
        self.publish_set(loaded, &reading, pace);
        self.metrics.record_read(set, skipped, pace.uptime().saturating_sub(started));
        Ok(())
    }

    fn publish_set(&mut self, loaded: LoadingSet, reading: &SiteReading<'_>, pace: &mut Pace<'_>) {
        let site = &self.site;
        match loaded {
            LoadingSet::Users { user_set: members, accounts: users, duplicate: twice } => {
                if let Some((passkey_of, id)) = twice {
                    log::warn!("users {passkey_of} and {id} have the same passkey; that of {id} counts");
                }
                self.metrics.users.store(members.len() as u64, Ordering::Relaxed);
                site.update(|site_data| site_data.users = Arc::new(members));
                site.replace_accounts(users);
            }
            LoadingSet::HitAndRuns(pairs) => {
                self.metrics.hit_and_runs.store(pairs.len() as u64, Ordering::Relaxed);
                site.update(|site_data| site_data.hit_and_runs = Arc::new(pairs));
            }
            LoadingSet::Torrents(shards) => self.publish_torrents(&shards, reading, pace),
            LoadingSet::Freeleech(groups) => site.update(|site_data| site_data.freeleech = Arc::new(groups)),
            LoadingSet::GlobalFreeleech(Some(setting @ (0 | 1))) => {
                site.update(|site_data| site_data.global_freeleech = setting == 1);
            }
            LoadingSet::GlobalFreeleech(Some(setting)) => {
                log::warn!("global_freeleech is {setting}, expected 0 or 1; the old value stays");
            }
            LoadingSet::GlobalFreeleech(None) => {}
            LoadingSet::Clients(clients) => {
                let clients: ApprovedClients = clients.into_iter().collect();
                if clients.approves_all() {
                    log::warn!("an approved client has an empty peer_id: it approves every client");
                }
                self.metrics.clients.store(clients.len() as u64, Ordering::Relaxed);
                site.update(|site_data| site_data.clients = Arc::new(clients));
            }
            LoadingSet::Tokens(pairs) => site.update(|site_data| site_data.tokens = Arc::new(pairs)),
            LoadingSet::Deletions(reasons) => {
                site.update(|site_data| site_data.deletions = Arc::new(reasons))
            }
        }
    }

    /// Takes over the torrents shard by shard; those that are gone lose their peers.
    fn publish_torrents(
        &mut self,
        shards: &[Vec<TorrentInfo>],
        reading: &SiteReading<'_>,
        pace: &mut Pace<'_>,
    ) {
        // 0 is that of a snapshot.
        self.generation = self.generation.wrapping_add(1).max(1);
        let is_unpruned = |id| reading.is_unpruned(id);
        for (shard, rows) in shards.iter().enumerate() {
            self.site.torrents.put_all(shard, rows, self.generation, &is_unpruned);
            self.site.torrents.forget_others(shard, self.generation);
            // All or nothing: a set that was read whole is taken over whole.
            let _ = pace.pause_if_due();
        }
        let count = shards.iter().map(Vec::len).sum::<usize>();
        self.metrics.torrents.store(count as u64, Ordering::Relaxed);
    }
}

/// What the thread of the site sync does: it carries out admin commands, and reads all sets each interval.
struct SyncTask {
    sync: SiteSync,
    seconds: Arc<AtomicU64>,
    clock: Clock,
    admin_queue: crossbeam_channel::Receiver<QueuedCommand>,
}

impl BackgroundTask for SyncTask {
    fn period(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.seconds.load(Ordering::Relaxed)))
    }

    fn run(&mut self, stopping: &AtomicBool) {
        self.sync.reload_sets(&self.clock, stopping);
    }

    fn serve(&mut self) {
        while let Ok(queued) = self.admin_queue.try_recv() {
            (queued.reply)(self.sync.run_command(&queued.command, &self.clock, &queued.source));
        }
    }
}

/// Something that the site sync is asked to do.
struct QueuedCommand {
    command: AdminCommand,
    source: String,
    reply: Box<dyn FnOnce(Result<AdminOutcome, AdminError>) + Send>,
}

/// Where the site sync is asked to change the site.
#[derive(Clone)]
pub struct AdminQueue {
    sender: crossbeam_channel::Sender<QueuedCommand>,
    waker: Waker,
}

impl std::fmt::Debug for AdminQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminQueue").finish_non_exhaustive()
    }
}

impl AdminQueue {
    /// Has the site sync change the site, when the reading that goes on has ended; `source` says who asks. It
    /// waits until that is done: not for the thread of a server.
    ///
    /// # Errors
    /// When it makes no sense, the store refuses, or the site sync has too much to do.
    pub fn run_command(&self, command: AdminCommand, source: &str) -> Result<AdminOutcome, AdminError> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        // Nobody may wait for it any more.
        let reply = Box::new(move |outcome| _ = sender.send(outcome));
        let queued = QueuedCommand { command, source: source.to_owned(), reply };
        self.sender.try_send(queued).map_err(|_| AdminError::Busy)?;
        self.waker.wake();
        answer.recv_timeout(REPLY_TIMEOUT).unwrap_or(Err(AdminError::Busy))
    }
}

/// The running site sync. Dropped, it ends without waiting for an answer of the store.
#[derive(Debug)]
pub struct RunningSync {
    background: Background,
    admin_queue: AdminQueue,
}

impl RunningSync {
    /// Returns where the site sync is asked to change the site.
    #[must_use]
    pub fn admin_queue(&self) -> AdminQueue {
        self.admin_queue.clone()
    }

    /// Has all sets read now.
    pub fn request_reload(&self) {
        self.background.waker().run_now();
    }

    /// False once the thread has ended by itself, which takes a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.background.is_alive()
    }
}

#[cfg(test)]
mod tests;
