//! The site sync: a thread that reads all sets of a site from the store, at the start and then at an interval
//! (`rules/private.md#reload-of-the-site`). Each set is built apart and swapped as a whole; if a set cannot
//! be read to its end, the old one stays.
//!
//! `loading` holds what was read of a set so far, `metrics` its metrics.

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
use crate::snapshot::thread::Pace;
use crate::store::{Backend, Queues, Record, SiteReading, SiteRow, SiteSet, Store, StoreError};
use loading::LoadingSet;
use metrics::SyncMetrics;

/// Rows that are read between two pauses.
const ROWS_SLICE: usize = 64;
/// Commands that may wait for the site sync.
const QUEUED_MAX: usize = 64;
/// How long the requester of a command waits for its outcome.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads a site from the store through a connection of its own; moves into its thread with
/// [`start`](Self::start).
pub struct SiteSync {
    site: Arc<Site>,
    queues: Arc<Queues>,
    backend: Backend,
    store: Option<Box<dyn Store>>,
    metrics: Arc<SyncMetrics>,
    /// The number of the last reload of the torrents.
    generation: u32,
    /// How long rows of hayate's own tables are kept, in seconds; 0 = for ever.
    retention_seconds: u32,
    /// Whether old rows could not be removed; logged once.
    retention_fails: bool,
    /// Whether the sets were read while another process served the site, and may have changed since.
    is_early: bool,
}

impl std::fmt::Debug for SiteSync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SiteSync").field("backend", &self.backend).finish_non_exhaustive()
    }
}

impl SiteSync {
    /// Returns a site sync that has not read anything yet.
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

    /// Removes rows of the audit, of deletions and of passkeys older than `keep_seconds`; 0 = never.
    #[must_use]
    pub fn with_retention(self, keep_seconds: u32) -> Self {
        Self { retention_seconds: keep_seconds, ..self }
    }

    /// Reads all sets, without pauses.
    ///
    /// # Errors
    /// Fails when one of the sets cannot be read.
    pub fn load_sets(&mut self, clock: &Clock) -> Result<(), StoreError> {
        SiteSet::RELOADED.into_iter().try_for_each(|set| self.read_set(set, &mut Pace::unpaced(clock)))?;
        self.correct_counts()
    }

    /// Like [`load_sets`](Self::load_sets), while another process still serves the site: nothing is recorded
    /// about its swarms, and all sets are read again as soon as the thread starts.
    ///
    /// # Errors
    /// Fails when one of the sets cannot be read.
    pub fn load_sets_early(&mut self, clock: &Clock) -> Result<(), StoreError> {
        self.is_early = true;
        SiteSet::RELOADED.into_iter().try_for_each(|set| self.read_set(set, &mut Pace::unpaced(clock)))
    }

    /// Records the counts of swarms that differ from those in the store: the latter are of an earlier run,
    /// whose peers are not all here. Called before the first announce.
    fn correct_counts(&mut self) -> Result<(), StoreError> {
        let (mut wrong, site, queues) = (0, &self.site, &self.queues);
        let Some(store) = &mut self.store else { return Ok(()) };
        store.read_rows(SiteSet::Counts, &mut |row| {
            let Some(SiteRow::Counts { info_hash, seeders, leechers }) = row else { return };
            let stands = site.torrents.with_torrent(&info_hash, |torrent| torrent.counts_row());
            if let Some(row) = stands.filter(|row| (row.seeders, row.leechers) != (seeders, leechers)) {
                queues.put(Record::Torrent(row));
                wrong += 1;
            }
        })?;
        if wrong > 0 {
            log::info!("seeders and leechers of {wrong} torrents are corrected in the database");
        }
        Ok(())
    }

    /// Reads all sets, beside a tracker that serves. A set that cannot be read stays as it is.
    pub fn reload_sets(&mut self, clock: &Clock, stopping: &AtomicBool) {
        for set in SiteSet::RELOADED {
            let result = self.read_set(set, &mut Pace::in_background(clock, stopping));
            if stopping.load(Ordering::Acquire) {
                return;
            }
            self.metrics.record_result(set, &result);
            if result.is_err() {
                // The next set gets a new connection, or if there is none, the next reload does.
                self.store = None;
            }
        }
        self.clean_up(clock.now().unix_seconds);
    }

    /// Records implausible claims, and removes old rows.
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
                log::warn!("hayate's own tables cannot be cleaned up: {error}");
            }
            Err(_) => {}
        }
    }

    /// Starts the thread; the first reload is due after `seconds`, or at once after
    /// [`load_sets_early`](Self::load_sets_early).
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
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

    /// Changes the store, and then at once the memory of the tracker.
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
                // Of several rows with one prefix the next one may count now. If this read fails, the next
                // reload tries again.
                if matches!(
                    command,
                    AdminCommand::AddClient(_) | AdminCommand::RemoveClient(_) | AdminCommand::EditClient(..)
                ) {
                    let result = self.read_set(SiteSet::Clients, &mut Pace::unpaced(clock));
                    self.metrics.record_result(SiteSet::Clients, &result);
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

    fn read_set(&mut self, set: SiteSet, pace: &mut Pace<'_>) -> Result<(), StoreError> {
        if self.store.is_none() {
            self.store = Some(self.backend.open_reader()?);
        }
        let started = pace.uptime();
        let queues = Arc::clone(&self.queues);
        let reading = queues.begin_reading();
        let mut loaded = LoadingSet::for_set(set);
        let mut rows = 0;
        let Some(store) = &mut self.store else { return Ok(()) };
        let skipped = store.read_rows(set, &mut |row| {
            let Some(row) = row else { return pace.restart() };
            loaded.push_row(row, &self.site.torrents);
            rows += 1;
            if rows % ROWS_SLICE == 0 {
                // When the tracker stops, the rest is read without pauses and discarded.
                let _ = pace.pause_if_due();
            }
        })?;
        if skipped > 0 {
            log::warn!("{skipped} rows of {} could not be read and are left out", set.name());
        }
        pace.pause().map_err(|error| StoreError::Lost { text: error.to_string(), in_doubt: false })?;
        self.publish_set(loaded, &reading, pace);
        self.metrics.record_read(set, skipped, pace.uptime().saturating_sub(started));
        Ok(())
    }

    fn publish_set(&mut self, loaded: LoadingSet, reading: &SiteReading<'_>, pace: &mut Pace<'_>) {
        let site = &self.site;
        match loaded {
            LoadingSet::Users { user_set, accounts, duplicate } => {
                if let Some((passkey_of, id)) = duplicate {
                    log::warn!("users {passkey_of} and {id} have the same passkey; that of {id} counts");
                }
                self.metrics.users.store(user_set.len() as u64, Ordering::Relaxed);
                site.update(|site_data| site_data.users = Arc::new(user_set));
                site.replace_accounts(accounts);
            }
            LoadingSet::HitAndRuns(pairs) => {
                self.metrics.hit_and_runs.store(pairs.len() as u64, Ordering::Relaxed);
                site.update(|site_data| site_data.hit_and_runs = Arc::new(pairs));
            }
            LoadingSet::Torrents(shards) => self.publish_torrents(&shards, reading, pace),
            LoadingSet::GroupMultipliers(groups) => {
                site.update(|site_data| site_data.group_multipliers = Arc::new(groups))
            }
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

    /// Takes over the torrents shard by shard; those that are no longer registered lose their peers.
    fn publish_torrents(
        &mut self,
        shards: &[Vec<TorrentInfo>],
        reading: &SiteReading<'_>,
        pace: &mut Pace<'_>,
    ) {
        // 0 is the generation of a snapshot.
        self.generation = self.generation.wrapping_add(1).max(1);
        let is_unpruned = |id| reading.is_unpruned(id);
        for (shard, rows) in shards.iter().enumerate() {
            self.site.torrents.put_all(shard, rows, self.generation, &is_unpruned);
            self.site.torrents.forget_others(shard, self.generation);
            // All or nothing: a set that was read to its end is taken over completely.
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

/// A command that waits for the site sync.
struct QueuedCommand {
    command: AdminCommand,
    source: String,
    reply: Box<dyn FnOnce(Result<AdminOutcome, AdminError>) + Send>,
}

/// The queue of commands for the site sync.
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
    /// Has the site sync run a command when its current read has ended, and waits for the outcome; `source`
    /// says who requests it. Not for a thread of a server.
    ///
    /// # Errors
    /// Fails when the command makes no sense, the store refuses, or the site sync has too much to do.
    pub fn run_command(&self, command: AdminCommand, source: &str) -> Result<AdminOutcome, AdminError> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        // The requester may have stopped waiting.
        let reply = Box::new(move |outcome| _ = sender.send(outcome));
        let queued = QueuedCommand { command, source: source.to_owned(), reply };
        self.sender.try_send(queued).map_err(|_| AdminError::Busy)?;
        self.waker.wake();
        answer.recv_timeout(REPLY_TIMEOUT).unwrap_or(Err(AdminError::Busy))
    }
}

/// The running site sync. When dropped, it ends without waiting for an answer of the store.
#[derive(Debug)]
pub struct RunningSync {
    background: Background,
    admin_queue: AdminQueue,
}

impl RunningSync {
    /// The queue of commands for this site sync.
    #[must_use]
    pub fn admin_queue(&self) -> AdminQueue {
        self.admin_queue.clone()
    }

    /// Requests that all sets are read now.
    pub fn request_reload(&self) {
        self.background.waker().run_now();
    }

    /// Whether the thread is running; it ends by itself only by a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.background.is_alive()
    }
}

#[cfg(test)]
mod tests;
