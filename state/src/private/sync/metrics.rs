//! Numbers of the clerk, for `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{SETS, name};
use crate::metrics::histogram::Histogram;
use crate::metrics::{Board, Distributed, Kind, Series};
use crate::private::site::Site;
use crate::store::{Set, StoreError};

/// What the clerk has read.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) users: AtomicU64,
    pub(super) torrents: AtomicU64,
    pub(super) clients: AtomicU64,
    pub(super) hit_and_runs: AtomicU64,
    sources: [Source; SETS.len()],
}

/// Of one set.
#[derive(Debug, Default)]
struct Source {
    failures: AtomicU64,
    skipped: AtomicU64,
    millis: AtomicU64,
    took: Arc<Histogram>,
    failing: AtomicBool,
}

impl Figures {
    fn source(&self, set: Set) -> &Source {
        #[expect(clippy::indexing_slicing, reason = "one for each set, in their order")]
        &self.sources[set as usize]
    }

    /// Counts a reading that succeeded.
    pub(super) fn took(&self, set: Set, skipped: u64, time: Duration) {
        let source = self.source(set);
        source.skipped.fetch_add(skipped, Ordering::Relaxed);
        source.took.took(time);
        source.millis.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts a reading that failed, and says so when it begins to fail and when it works again.
    pub(super) fn read(&self, set: Set, result: &Result<(), StoreError>) {
        let source = self.source(set);
        let failing = source.failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) => {
                source.failures.fetch_add(1, Ordering::Relaxed);
                if !failing {
                    log::error!("{} cannot be read, the last ones stay: {error}", name(set));
                }
            }
            Ok(()) if failing => log::info!("{} are read again", name(set)),
            Ok(()) => {}
        }
    }

    pub(super) fn list_on(self: &Arc<Self>, site: &Arc<Site>, board: &Board) {
        let gauge = |name, help, number: fn(&Self) -> &AtomicU64| {
            let figures = Arc::clone(self);
            let read = Box::new(move || number(&figures).load(Ordering::Relaxed));
            board.list(Series { name, help, kind: Kind::Gauge, labels: Vec::new(), read });
        };
        gauge("users", "Enabled users.", |figures| &figures.users);
        gauge("torrents", "Registered torrents.", |figures| &figures.torrents);
        gauge("clients", "Approved clients.", |figures| &figures.clients);
        gauge("hnrs", "Hit-and-runs.", |figures| &figures.hit_and_runs);
        let counted = Arc::clone(site);
        board.list(Series {
            name: "sessions_replaced_total",
            help: "Peers that made place for another of the same user and torrent.",
            kind: Kind::Counter,
            labels: Vec::new(),
            read: Box::new(move || counted.torrents.replaced()),
        });
        let counted = Arc::clone(site);
        let read = Box::new(move || {
            let peers = counted.torrents.peers();
            (peers.seeders + peers.leechers) as u64
        });
        let help = "Seeders and leechers of all torrents.";
        board.list(Series { name: "peers", help, kind: Kind::Gauge, labels: Vec::new(), read });
        site.torrents.list_remarks(board);
        let (name_of, help) = ("purge_inactive_peers_seconds", "Time that a purge of silent peers worked.");
        let histogram = Arc::clone(&site.purges);
        board.distribute(Distributed { name: name_of, help, labels: Vec::new(), histogram });
        for set in SETS {
            let labels = vec![("source", name(set))];
            let (name_of, help) = ("reload_seconds", "Time it took to read a set of the site.");
            let histogram = Arc::clone(&self.source(set).took);
            board.distribute(Distributed { name: name_of, help, labels, histogram });
            let series = |name_of, help, kind, number: fn(&Source) -> &AtomicU64| {
                let figures = Arc::clone(self);
                let read = Box::new(move || number(figures.source(set)).load(Ordering::Relaxed));
                let labels = vec![("source", name(set))];
                board.list(Series { name: name_of, help, kind, labels, read });
            };
            series("reload_failures", "Readings of the database that failed.", Kind::Counter, |source| {
                &source.failures
            });
            series("reload_skipped_rows", "Rows that could not be read.", Kind::Counter, |source| {
                &source.skipped
            });
            series("reload_milliseconds", "Time of the last reading.", Kind::Gauge, |source| &source.millis);
        }
    }
}
