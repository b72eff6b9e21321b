//! The registered torrents of mode listed, read from the store periodically by a thread of its own, so
//! that nothing else waits for the store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hayate_state::admission::access::TorrentList;
use hayate_state::background::{Background, BackgroundTask};
use hayate_state::metrics::{Series, SeriesKind};
use hayate_state::store::{Backend, Store, StoreError};
use hayate_state::{Board, Clock};

use crate::daemon::signals::{MainEvent, MainEvents};

/// Reads the registered torrents, by a connection of its own.
pub(crate) struct RegisteredReader {
    backend: Backend,
    store: Option<Box<dyn Store>>,
    metrics: Arc<RegisteredMetrics>,
}

#[derive(Debug, Default)]
struct RegisteredMetrics {
    torrents: AtomicU64,
    failures: AtomicU64,
    skipped: AtomicU64,
}

impl RegisteredReader {
    /// Returns a reader that has not read anything yet.
    pub(crate) fn new(backend: Backend) -> Self {
        Self { backend, store: None, metrics: Arc::default() }
    }

    /// Reads all registered torrents. If that fails, the list in force stays.
    ///
    /// # Errors
    /// Fails when the store does not answer.
    pub(crate) fn read_list(&mut self) -> Result<TorrentList, StoreError> {
        let result = self.try_read_list();
        match &result {
            Ok(list) => self.metrics.torrents.store(list.len() as u64, Ordering::Relaxed),
            Err(_) => {
                self.store = None;
                self.metrics.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }

    fn try_read_list(&mut self) -> Result<TorrentList, StoreError> {
        if self.store.is_none() {
            self.store = Some(self.backend.open_reader()?);
        }
        let Some(store) = &mut self.store else { return Ok(TorrentList::default()) };
        let (hashes, skipped) = store.read_registered()?;
        self.metrics.skipped.fetch_add(skipped, Ordering::Relaxed);
        Ok(hashes.into_iter().collect())
    }

    /// Starts the thread `registered`, which reads the list every `seconds` and sends it to the main thread.
    /// Dropped, it ends without waiting for an answer of the store.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub(crate) fn start(
        self,
        seconds: Arc<AtomicU64>,
        main_events: MainEvents,
        clock: Clock,
        board: &Board,
    ) -> io::Result<Background> {
        self.metrics.register_metrics(board);
        let task = RegisteredTask { reader: self, seconds, main_events, is_failing: false };
        Background::start("registered", clock, task)
    }
}

struct RegisteredTask {
    reader: RegisteredReader,
    seconds: Arc<AtomicU64>,
    main_events: MainEvents,
    is_failing: bool,
}

impl BackgroundTask for RegisteredTask {
    fn period(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.seconds.load(Ordering::Relaxed)))
    }

    fn run(&mut self, _: &AtomicBool) {
        let result = self.reader.read_list();
        log_outcome(&result, self.is_failing);
        self.is_failing = result.is_err();
        if let Ok(list) = result {
            self.main_events.send(MainEvent::Registered(Arc::new(list)));
        }
    }
}

/// Logs one line when the reading begins to fail, and one when it works again.
fn log_outcome(result: &Result<TorrentList, StoreError>, failing: bool) {
    match result {
        Err(error) if !failing => {
            log::error!("the registered torrents cannot be read, the last ones stay: {error}");
        }
        Ok(list) if failing => log::info!("{} registered torrents read again", list.len()),
        _ => {}
    }
}

impl RegisteredMetrics {
    fn register_metrics(self: &Arc<Self>, board: &Board) {
        let list = |name, help, kind, labels, number: fn(&Self) -> &AtomicU64| {
            let metrics = Arc::clone(self);
            let read = Box::new(move || number(&metrics).load(Ordering::Relaxed));
            board.register(Series { name, help, kind, labels, read });
        };
        let source = || vec![("source", "torrents")];
        list("torrents", "Registered torrents.", SeriesKind::Gauge, Vec::new(), |metrics| &metrics.torrents);
        list(
            "reload_failures",
            "Readings of the database that failed.",
            SeriesKind::Counter,
            source(),
            |metrics| &metrics.failures,
        );
        list(
            "reload_skipped_rows",
            "Rows that could not be read.",
            SeriesKind::Counter,
            source(),
            |metrics| &metrics.skipped,
        );
    }
}
