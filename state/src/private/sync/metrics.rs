//! The metrics of the site sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::histogram::Histogram;
use crate::metrics::{Board, HistogramSeries, Series, SeriesKind};
use crate::private::site::Site;
use crate::store::{SiteSet, StoreError};

/// The metrics of the site sync; shared with the board.
#[derive(Debug, Default)]
pub(super) struct SyncMetrics {
    pub(super) users: AtomicU64,
    pub(super) torrents: AtomicU64,
    pub(super) clients: AtomicU64,
    pub(super) hit_and_runs: AtomicU64,
    sets: [SetMetrics; SiteSet::RELOADED.len()],
}

/// The metrics of one set.
#[derive(Debug, Default)]
struct SetMetrics {
    failures: AtomicU64,
    skipped: AtomicU64,
    millis: AtomicU64,
    took: Arc<Histogram>,
    failing: AtomicBool,
}

impl SyncMetrics {
    fn set(&self, set: SiteSet) -> &SetMetrics {
        #[expect(clippy::indexing_slicing, reason = "one for each set, in their order")]
        &self.sets[set as usize]
    }

    /// Counts a successful read.
    pub(super) fn record_read(&self, set: SiteSet, skipped: u64, time: Duration) {
        let source = self.set(set);
        source.skipped.fetch_add(skipped, Ordering::Relaxed);
        source.took.record(time);
        source.millis.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts a failed read, and logs when a set begins to fail and when it can be read again.
    pub(super) fn record_result(&self, set: SiteSet, result: &Result<(), StoreError>) {
        let source = self.set(set);
        let failing = source.failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) => {
                source.failures.fetch_add(1, Ordering::Relaxed);
                if !failing {
                    log::error!("{} cannot be read, the old ones stay: {error}", set.name());
                }
            }
            Ok(()) if failing => log::info!("{} are read again", set.name()),
            Ok(()) => {}
        }
    }

    pub(super) fn register_metrics(self: &Arc<Self>, site: &Arc<Site>, board: &Board) {
        let gauge = |name, help, number: fn(&Self) -> &AtomicU64| {
            let metrics = Arc::clone(self);
            let read = Box::new(move || number(&metrics).load(Ordering::Relaxed));
            board.register(Series { name, help, kind: SeriesKind::Gauge, labels: Vec::new(), read });
        };
        gauge("users", "Enabled users.", |metrics| &metrics.users);
        gauge("torrents", "Registered torrents.", |metrics| &metrics.torrents);
        gauge("clients", "Approved clients.", |metrics| &metrics.clients);
        gauge("hnrs", "Hit-and-runs.", |metrics| &metrics.hit_and_runs);
        let counted = Arc::clone(site);
        board.register(Series {
            name: "sessions_replaced_total",
            help: "Peers that were replaced by another of the same user and torrent.",
            kind: SeriesKind::Counter,
            labels: Vec::new(),
            read: Box::new(move || counted.torrents.replaced_total()),
        });
        let counted = Arc::clone(site);
        let read = Box::new(move || {
            let peers = counted.torrents.peers();
            (peers.seeders + peers.leechers) as u64
        });
        let help = "Seeders and leechers of all torrents.";
        board.register(Series { name: "peers", help, kind: SeriesKind::Gauge, labels: Vec::new(), read });
        site.torrents.register_metrics(board);
        let (name_of, help) =
            ("purge_inactive_peers_seconds", "Duration of the work of a purge of silent peers.");
        let histogram = Arc::clone(&site.expiry_durations);
        board.register_histogram(HistogramSeries { name: name_of, help, labels: Vec::new(), histogram });
        for set in SiteSet::RELOADED {
            let labels = vec![("source", set.name())];
            let (name_of, help) = ("reload_seconds", "Time it took to read a set of the site.");
            let histogram = Arc::clone(&self.set(set).took);
            board.register_histogram(HistogramSeries { name: name_of, help, labels, histogram });
            let series = |name_of, help, kind, number: fn(&SetMetrics) -> &AtomicU64| {
                let metrics = Arc::clone(self);
                let read = Box::new(move || number(metrics.set(set)).load(Ordering::Relaxed));
                let labels = vec![("source", set.name())];
                board.register(Series { name: name_of, help, kind, labels, read });
            };
            series("reload_failures", "Reads of the database that failed.", SeriesKind::Counter, |source| {
                &source.failures
            });
            series("reload_skipped_rows", "Rows that could not be read.", SeriesKind::Counter, |source| {
                &source.skipped
            });
            series("reload_milliseconds", "Duration of the last read.", SeriesKind::Gauge, |source| {
                &source.millis
            });
        }
    }
}
