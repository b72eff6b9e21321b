//! What lasts: the lock on `state_dir`, the store, the snapshot of the swarms. The order at the start is
//! lock, store, rows that an earlier run left, snapshot, then completed counts or, in mode private, all sets
//! of the site; a stop goes the other way.
//!
//! | module | what is in it |
//! |---|---|
//! | `site` | what lasts of a site (mode private) |

mod site;

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use hayate_gateway::AdminHandler;
use hayate_state::admission::access::TorrentList;
use hayate_state::background::Background;
use hayate_state::cluster::running::{Cluster, ClusterSection};
use hayate_state::cluster::saved::{ClusterRestore, SavedCluster};
use hayate_state::private::event_log::EventLog;
use hayate_state::private::snapshot::SiteSection;
use hayate_state::private::sync::{AdminQueue, RunningSync};
use hayate_state::private::{Site, SiteSync};
use hayate_state::report::export::{Exporter, RunningExporter};
use hayate_state::report::{Reporter, TorrentSource};
use hayate_state::snapshot::load::load_snapshot;
use hayate_state::snapshot::swarms::{CompletedFrom, Restore};
use hayate_state::snapshot::thread::{Ending, FILE_NAME, Section, SnapshotPlan, SnapshotThread};
use hayate_state::store::{
    Backend, Dsn, Leftovers, OpenedStore, Queues, Recorder, RequiredTables, SpillPaths, Store,
    WriterSettings, claim_spill, spill_unnumbered,
};
use hayate_state::{Board, Clock, Policy, Published, Swarms};

use crate::admin::{AccessListFile, AdminApi, AdminContext};
use crate::config::document::{Document, Mode};
use crate::config::settings::{AdminToken, StorageSettings};
use crate::daemon::registered_torrents::RegisteredReader;
use crate::daemon::signals::{FlushSlot, MainEvent, MainEvents};
use crate::process::lock::StateLock;

/// Longest time that the database may take at a stop for rows that wait; the rest is on the disk already.
pub(crate) const DATABASE_MAX: Duration = Duration::from_millis(2750);
/// Most torrents whose completed count is read from the store; the latest ones.
const COMPLETED_ROWS_MAX: usize = 2_000_000;

/// Folder of recorded announces, in `state_dir`.
const EVENTS: &str = "events";

/// Everything that lasts beyond the process.
pub(crate) struct Storage {
    pub(crate) swarms: Arc<Swarms>,
    /// Where records wait for the store; `None` without a store.
    pub(crate) queues: Option<Arc<Queues>>,
    pub(crate) lock: Arc<StateLock>,
    settings: StorageSettings,
    clock: Clock,
    live: LiveStorageSettings,
    /// The site; `None` except in mode private.
    pub(crate) site: Option<Arc<Site>>,
    site_sync: Option<SiteSync>,
    /// The queue of admin commands for the site sync; set once it runs.
    admin_queue: Arc<OnceLock<AdminQueue>>,
    /// The file of the list of torrents.
    pub(crate) access_list: Arc<AccessListFile>,
    /// Reports on all torrents.
    pub(crate) reporter: Arc<Reporter>,
    exporter: Arc<Exporter>,
    mode: Mode,
    /// The name of this node in its cluster; empty without one.
    node_id: String,
    cluster: Option<Arc<Cluster>>,
    /// What the last run, or the predecessor, has read of the streams of the cluster.
    saved_cluster: SavedCluster,
    opened: Option<OpenedStore>,
    registered_reader: Option<RegisteredReader>,
    threads: Option<StorageThreads>,
}

/// Settings that a reload may change.
struct LiveStorageSettings {
    writer_settings: Arc<Published<WriterSettings>>,
    snapshot_seconds: Arc<AtomicU32>,
    reload_seconds: Arc<AtomicU64>,
}

/// The threads of the storage, in the order in which they stop.
struct StorageThreads {
    site_sync: Option<RunningSync>,
    exporter: RunningExporter,
    events: Option<(EventLog, JoinHandle<()>)>,
    registered: Option<Background>,
    snapshot_thread: SnapshotThread,
    recorder: Option<Recorder>,
}

/// Everything that opening the store needs.
struct StoreOpener {
    backend: Backend,
    queues: Arc<Queues>,
    clock: Clock,
    writer_settings: Arc<Published<WriterSettings>>,
    paths: SpillPaths,
    node_id: String,
}

impl StoreOpener {
    fn open(&self, leftovers: Leftovers) -> anyhow::Result<OpenedStore> {
        claim_spill(&self.paths.spill_dir, &self.node_id)?;
        log::info!("opening the database {}", self.backend.dsn());
        let backend = self.backend.clone();
        let open_store = Box::new(move || backend.open());
        let (queues, paths) = (&self.queues, &self.paths);
        Ok(OpenedStore::open(queues, self.clock, &self.writer_settings, paths, open_store, leftovers)?)
    }
}

impl Storage {
    /// Returns a storage that knows nothing yet.
    pub(crate) fn new(
        settings: StorageSettings,
        mode: Mode,
        lock: Arc<StateLock>,
        swarms: Arc<Swarms>,
        clock: Clock,
        node_id: String,
    ) -> Self {
        let queues = if mode == Mode::Private { Queues::accounting } else { Queues::new };
        let queues = settings.dsn.is_some().then(|| Arc::new(queues(clock, &settings.bounds)));
        let live = LiveStorageSettings {
            writer_settings: Published::new(settings.writer_settings),
            snapshot_seconds: Arc::new(AtomicU32::new(settings.snapshot_seconds)),
            reload_seconds: Arc::new(AtomicU64::new(settings.reload_seconds)),
        };
        let site = (mode == Mode::Private).then(Site::new);
        let source = match &site {
            Some(site) => TorrentSource::Site(Arc::clone(&site.torrents)),
            None => TorrentSource::Swarms(Arc::clone(&swarms)),
        };
        let reporter = Arc::new(Reporter::new(source, clock));
        let exporter = Exporter::new(Arc::clone(&reporter), settings.export.clone());
        let access_list = Arc::new(AccessListFile::default());
        access_list.set_path(settings.access_path.clone());
        Self {
            swarms,
            queues,
            lock,
            settings,
            clock,
            live,
            site,
            site_sync: None,
            admin_queue: Arc::default(),
            access_list,
            reporter,
            exporter,
            mode,
            node_id,
            cluster: None,
            saved_cluster: SavedCluster::default(),
            opened: None,
            registered_reader: None,
            threads: None,
        }
    }

    /// Opens the store, and restores what the last run knew.
    ///
    /// # Errors
    /// Fails when the store cannot be opened or read.
    pub(crate) fn load(&mut self, policy: &Policy) -> anyhow::Result<()> {
        // A predecessor has written what it knew to the disk, so that nothing has to be read from the store.
        let leftovers = if self.site_sync.is_some() { Leftovers::Kept } else { Leftovers::Written };
        let Some(mut opened) = self.store_opener().map(|opener| opener.open(leftovers)).transpose()? else {
            self.restore_swarms(policy, CompletedFrom::Snapshot);
            return Ok(());
        };
        if self.site.is_some() {
            let known = opened.durable_totals()?;
            self.opened = Some(opened);
            return self.load_site(known);
        }
        self.restore_swarms(policy, CompletedFrom::Store);
        if let Some(store) = opened.store() {
            self.load_completed(store.as_mut(), policy).context("reading the database")?;
        }
        self.opened = Some(opened);
        Ok(())
    }

    /// Reads the registered torrents for the first time. Returns `None` in modes that have none.
    ///
    /// # Errors
    /// Fails when the store does not answer.
    pub(crate) fn registered(&mut self) -> anyhow::Result<Option<Arc<TorrentList>>> {
        let Some(backend) = self.backend().filter(|_| self.mode == Mode::Listed) else { return Ok(None) };
        let mut reader = RegisteredReader::new(backend);
        let list = reader.read_list().context("reading the registered torrents")?;
        log::info!("{} registered torrents in the database", list.len());
        self.registered_reader = Some(reader);
        Ok(Some(Arc::new(list)))
    }

    fn start_events(&self, board: &Board) -> anyhow::Result<Option<(EventLog, JoinHandle<()>)>> {
        let Some(site) = self.site.as_ref().filter(|_| self.settings.record_announces) else {
            return Ok(None);
        };
        let folder = self.settings.state_dir.join(EVENTS);
        log::info!("recording announces in {}", folder.display());
        let (events, thread) = EventLog::start(&folder, self.clock)?;
        events.register_metrics(board);
        site.set_event_log(events.clone());
        Ok(Some((events, thread)))
    }

    /// Returns the admin API, if there is a token.
    pub(crate) fn admin_api(
        &self,
        token: Option<&AdminToken>,
        document: &Document,
        policy: &Arc<Published<Policy>>,
    ) -> Option<Arc<dyn AdminHandler>> {
        let context = AdminContext {
            policy: Arc::clone(policy),
            access_list: Arc::clone(&self.access_list),
            reporter: Arc::clone(&self.reporter),
            exporter: Arc::clone(&self.exporter),
        };
        let admin_api = AdminApi::new(token?, context);
        let Some(site) = &self.site else { return Some(Arc::new(admin_api)) };
        let grace = document.admin.passkey_grace.as_seconds();
        Some(Arc::new(admin_api.with_site(grace, Arc::clone(site), Arc::clone(&self.admin_queue))))
    }

    /// Starts the threads of the storage. After a handover this waits until the predecessor has ended.
    ///
    /// # Errors
    /// Fails when the store cannot be opened, or a thread cannot be started.
    pub(crate) fn start(
        &mut self,
        board: &Board,
        main_events: &MainEvents,
        flush_slot: &FlushSlot,
    ) -> anyhow::Result<()> {
        let recorder = self.opened.take().map(OpenedStore::start).transpose()?;
        if let Some(recorder) = &recorder {
            recorder.register_metrics(board);
            if let Ok(mut flush_slot) = flush_slot.lock() {
                *flush_slot = Some(recorder.emergency_flush());
            }
        }
        let snapshot_thread = self.start_snapshot_thread()?;
        snapshot_thread.register_metrics(board);
        let seconds = || Arc::clone(&self.live.reload_seconds);
        let reader = self.registered_reader.take();
        let registered = reader.map(|reader| reader.start(seconds(), main_events.clone(), self.clock, board));
        let registered = registered.transpose()?;
        let site_sync = self
            .site_sync
            .take()
            .map(|site_sync| site_sync.start(seconds(), self.clock, board))
            .transpose()?;
        if let Some(site_sync) = &site_sync {
            // It is started once.
            let _ = self.admin_queue.set(site_sync.admin_queue());
        }
        let events = self.start_events(board)?;
        let exporter = self.exporter.start()?;
        self.exporter.register_metrics(board);
        let threads = StorageThreads { site_sync, exporter, events, registered, snapshot_thread, recorder };
        self.threads = Some(threads);
        Ok(())
    }

    fn start_snapshot_thread(&self) -> io::Result<SnapshotThread> {
        let section = self.site.clone().zip(self.queues.clone());
        let section =
            section.map(|(site, queues)| Box::new(SiteSection::new(site, queues)) as Box<dyn Section>);
        let positions = self.cluster.clone().map(|cluster| Box::new(ClusterSection(cluster)) as _);
        let plan = SnapshotPlan {
            path: self.settings.state_dir.join(FILE_NAME),
            every_seconds: Arc::clone(&self.live.snapshot_seconds),
            swarms: Arc::clone(&self.swarms),
            sections: section.into_iter().chain(positions).collect(),
        };
        SnapshotThread::start(plan, self.clock)
    }

    /// Opens the store after a predecessor has ended, in a thread that sends it to the main thread: the store
    /// may be unreachable or hang, and records wait in memory meanwhile.
    pub(crate) fn open_late(&self, main_events: &MainEvents) {
        let (opener, main_events) = (self.store_opener(), main_events.clone());
        std::thread::spawn(move || {
            let mut is_logged = false;
            loop {
                match opener.as_ref().map(|opener| opener.open(Leftovers::Written)).transpose() {
                    Ok(opened) => return main_events.send(MainEvent::StoreOpened(Box::new(opened))),
                    Err(error) if is_logged => log::debug!("after the upgrade: {error:#}"),
                    Err(error) => {
                        log::error!("after the upgrade: {error:#}; trying again each second");
                        is_logged = true;
                    }
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        });
    }

    /// Starts the threads of the storage, with the store that [`open_late`](Self::open_late) has opened.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub(crate) fn start_late(
        &mut self,
        opened: Option<OpenedStore>,
        board: &Board,
        main_events: &MainEvents,
        flush_slot: &FlushSlot,
    ) -> anyhow::Result<()> {
        self.opened = opened;
        self.start(board, main_events, flush_slot).context("after the upgrade")
    }

    /// Whether the threads of the storage were started.
    pub(crate) fn is_started(&self) -> bool {
        self.threads.is_some()
    }

    /// Whether no thread has ended by itself.
    pub(crate) fn is_alive(&self) -> bool {
        self.threads.as_ref().is_none_or(|threads| {
            threads.recorder.as_ref().is_none_or(Recorder::is_alive)
                && threads.snapshot_thread.is_alive()
                && threads.exporter.is_alive()
                && threads.registered.as_ref().is_none_or(Background::is_alive)
                && threads.site_sync.as_ref().is_none_or(RunningSync::is_alive)
        })
    }

    /// Applies what a reload changes.
    pub(crate) fn reload(&self, settings: &StorageSettings) {
        self.access_list.set_path(settings.access_path.clone());
        self.exporter.apply_settings(settings.export.clone());
        self.live.writer_settings.publish(settings.writer_settings);
        self.live.snapshot_seconds.store(settings.snapshot_seconds, Ordering::Relaxed);
        self.live.reload_seconds.store(settings.reload_seconds, Ordering::Relaxed);
        if let Some(site_sync) = self.threads.as_ref().and_then(|threads| threads.site_sync.as_ref()) {
            site_sync.request_reload();
        }
    }

    /// Writes rows that wait for the store to the disk: so they survive whatever happens during the stop.
    pub(crate) fn save(&self) {
        if let Some(recorder) = self.threads.as_ref().and_then(|threads| threads.recorder.as_ref()) {
            recorder.emergency_flush().flush_to_disk();
        }
    }

    /// Writes rows that wait for the store to the disk, writes the snapshot unless a successor has the
    /// swarms, and then gives the store [`DATABASE_MAX`] to take what waits.
    ///
    /// # Errors
    /// Fails when something is lost because it could not be written to the disk.
    pub(crate) fn stop(self, ending: Ending) -> anyhow::Result<()> {
        self.save();
        self.stop_threads(ending, |recorder| recorder.stop_within(DATABASE_MAX))
    }

    /// Writes everything that is known to the disk, from which a successor continues.
    ///
    /// # Errors
    /// Fails when something is lost because it could not be written to the disk.
    pub(crate) fn stop_for_successor(self) -> anyhow::Result<()> {
        self.stop_threads(Ending::Write, |recorder| recorder.stop_for_successor(DATABASE_MAX))
    }

    fn stop_threads(self, ending: Ending, stop: impl FnOnce(Recorder) -> bool) -> anyhow::Result<()> {
        let Some(threads) = self.threads else { return self.stop_early(ending) };
        // Neither the site sync nor the reader of the registered torrents is waited for: the store may hang.
        drop((threads.site_sync, threads.exporter));
        if let Some((events, thread)) = threads.events {
            events.stop(thread);
        }
        drop(threads.registered);
        let snapshot = threads.snapshot_thread.stop(ending);
        let rows = threads.recorder.is_none_or(stop);
        match (snapshot, rows) {
            (true, true) => Ok(()),
            (false, true) => bail!("the last snapshot could not be written; the log says why"),
            (_, false) => bail!("rows are lost: neither the database nor the disk has taken them"),
        }
    }

    /// Stops before the store was reached after an upgrade; swarms and rows go to the disk all the same.
    fn stop_early(&self, ending: Ending) -> anyhow::Result<()> {
        let spill_dir = &self.settings.spill_paths.spill_dir;
        let spill = |queues| spill_unnumbered(queues, self.clock, spill_dir).context("writing to the spill");
        let lost = self.queues.as_ref().map_or(Ok(0), spill);
        if !self.start_snapshot_thread()?.stop(ending) {
            bail!("the last snapshot could not be written; the log says why");
        }
        if lost? > 0 {
            bail!("rows are lost: neither the database nor the disk has taken them");
        }
        Ok(())
    }

    /// Returns the queues to a store that no other node writes to.
    pub(crate) fn own_queues(&self) -> Option<Arc<Queues>> {
        self.queues.clone().filter(|_| matches!(self.settings.dsn, Some(Dsn::Sqlite(_))))
    }

    /// Sets what a predecessor has read of the streams of the cluster.
    pub(crate) fn set_saved_cluster(&mut self, saved: SavedCluster) {
        self.saved_cluster = saved;
    }

    pub(crate) fn take_saved_cluster(&mut self) -> SavedCluster {
        std::mem::take(&mut self.saved_cluster)
    }

    /// Sets the links whose positions are saved with the swarms.
    pub(crate) fn set_cluster(&mut self, cluster: &Arc<Cluster>) {
        self.cluster = Some(Arc::clone(cluster));
    }

    fn backend(&self) -> Option<Backend> {
        let required = if self.mode == Mode::Private { RequiredTables::Site } else { RequiredTables::Own };
        self.settings.dsn.clone().map(|dsn| Backend::new(dsn, &self.node_id, required))
    }

    fn store_opener(&self) -> Option<StoreOpener> {
        Some(StoreOpener {
            backend: self.backend()?,
            queues: self.queues.clone()?,
            clock: self.clock,
            writer_settings: Arc::clone(&self.live.writer_settings),
            paths: self.settings.spill_paths.clone(),
            node_id: self.node_id.clone(),
        })
    }

    fn restore_swarms(&mut self, policy: &Policy, completed: CompletedFrom) {
        let mut restore = Restore::new(&self.swarms, policy, completed);
        let mut positions = ClusterRestore::default();
        let path = self.settings.state_dir.join(FILE_NAME);
        // The outcome is in the log already.
        let _ = load_snapshot(&path, &self.clock, &mut [&mut restore, &mut positions]);
        self.saved_cluster = positions.0;
    }

    fn load_completed(&self, store: &mut dyn Store, policy: &Policy) -> anyhow::Result<()> {
        let (now, mut counts) = (self.clock.now().tick, Vec::new());
        store.read_completed(COMPLETED_ROWS_MAX, &mut |info_hash, completed| {
            counts.push((info_hash, completed))
        })?;
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
