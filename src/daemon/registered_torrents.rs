//! The registered torrents of mode listed, read from the store again and again by a thread of its own, so
//! that nobody waits for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hayate_state::admission::access::TorrentList;
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
    /// Has not read anything yet.
    pub(crate) fn new(backend: Backend) -> Self {
        Self { backend, store: None, metrics: Arc::default() }
    }

    /// Reads all of them; where that fails, what is known already stays.
    ///
    /// # Errors
    /// When the store does not answer.
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

    /// Reads every `seconds` from now on, and sends what it reads to the main thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        mut self,
        seconds: Arc<AtomicU64>,
        main_events: MainEvents,
        clock: Clock,
        board: &Board,
    ) -> io::Result<RegisteredThread> {
        self.metrics.register_metrics(board);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("registered".into()).spawn(move || {
            let (mut last, mut failing) = (clock.uptime(), false);
            while !stopped.load(Ordering::Acquire) {
                let due = last + Duration::from_secs(seconds.load(Ordering::Relaxed));
                let rest = due.saturating_sub(clock.uptime());
                if !rest.is_zero() {
                    // Not all at once: a reload may make it shorter.
                    thread::park_timeout(rest.min(Duration::from_secs(1)));
                    continue;
                }
                last = clock.uptime();
                let result = self.read_list();
                log_outcome(&result, failing);
                failing = result.is_err();
                if let Ok(list) = result {
                    main_events.send(MainEvent::Registered(Arc::new(list)));
                }
            }
        })?;
        Ok(RegisteredThread { thread, stop })
    }
}

/// One line when it begins to fail, and one when it works again.
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

/// The running thread.
#[derive(Debug)]
pub(crate) struct RegisteredThread {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl RegisteredThread {
    /// False once the thread has ended by itself, which takes a panic.
    pub(crate) fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends the thread without waiting for an answer of the store.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }
}
