//! Metrics of the swarms: the same series in every mode.

use std::sync::Arc;

use crate::metrics::histogram::Histogram;
use crate::metrics::{Board, HistogramSeries, Series, SeriesKind};
use crate::peer_counts::PeerCounts;
use crate::private::Torrents;
use crate::report::TorrentSource;
use crate::swarm::Swarms;

impl TorrentSource {
    /// Returns the octets that all swarms take, by hayate's own count.
    #[must_use]
    pub fn memory(&self) -> usize {
        match self {
            Self::Swarms(swarms) => swarms.memory(),
            Self::Site(torrents) => torrents.memory(),
        }
    }

    /// Registers the metrics of the swarms.
    pub fn register_metrics(&self, board: &Board) {
        match self {
            Self::Swarms(swarms) => register(swarms, swarms.sweep_durations(), board),
            Self::Site(torrents) => register(torrents, &torrents.expiry_durations, board),
        }
    }
}

/// A holder of swarms: those of mode open and listed, or those of a site.
trait SwarmMetrics: Send + Sync + 'static {
    fn peer_counts(&self) -> PeerCounts;
    fn seeders(&self) -> u64;
    fn leechers(&self) -> u64;
    fn live(&self) -> usize;
    fn idle(&self) -> usize;
    fn memory(&self) -> usize;
    fn full_total(&self) -> u64;
    fn crowded_total(&self) -> u64;
}

impl SwarmMetrics for Swarms {
    fn peer_counts(&self) -> PeerCounts {
        self.peer_counts()
    }

    fn seeders(&self) -> u64 {
        let counts = self.peer_counts();
        u64::from(counts.v4_seeders) + u64::from(counts.v6_seeders)
    }

    fn leechers(&self) -> u64 {
        let counts = self.peer_counts();
        u64::from(counts.v4_leechers) + u64::from(counts.v6_leechers)
    }

    fn live(&self) -> usize {
        self.live()
    }

    fn idle(&self) -> usize {
        self.idle()
    }

    fn memory(&self) -> usize {
        self.memory()
    }

    fn full_total(&self) -> u64 {
        self.full_total()
    }

    fn crowded_total(&self) -> u64 {
        self.crowded_total()
    }
}

impl SwarmMetrics for Torrents {
    fn peer_counts(&self) -> PeerCounts {
        self.peer_counts()
    }

    // A peer that is reached over both families counts once.
    fn seeders(&self) -> u64 {
        self.peers().seeders as u64
    }

    fn leechers(&self) -> u64 {
        self.peers().leechers as u64
    }

    fn live(&self) -> usize {
        self.live()
    }

    fn idle(&self) -> usize {
        self.len().saturating_sub(self.live())
    }

    fn memory(&self) -> usize {
        self.memory()
    }

    fn full_total(&self) -> u64 {
        self.full_total()
    }

    // Mode private has no `announce.peers_per_address`: its users are known.
    fn crowded_total(&self) -> u64 {
        0
    }
}

fn register<T: SwarmMetrics>(swarms: &Arc<T>, sweeps: &Arc<Histogram>, board: &Board) {
    board.register_histogram(HistogramSeries {
        name: "storage_gc_duration_milliseconds",
        help: "Time that a round of the sweep has worked.",
        labels: Vec::new(),
        histogram: Arc::clone(sweeps),
    });
    let register = |name, help, kind, labels, read: fn(&T) -> u64| {
        let swarms = Arc::clone(swarms);
        board.register(Series { name, help, kind, labels, read: Box::new(move || read(&swarms)) });
    };
    let peers = |family, role, read| {
        let labels = vec![("family", family), ("role", role)];
        register("swarm_peers", "Peers in all swarms.", SeriesKind::Gauge, labels, read);
    };
    peers("ipv4", "seeder", |swarms| u64::from(swarms.peer_counts().v4_seeders));
    peers("ipv4", "leecher", |swarms| u64::from(swarms.peer_counts().v4_leechers));
    peers("ipv6", "seeder", |swarms| u64::from(swarms.peer_counts().v6_seeders));
    peers("ipv6", "leecher", |swarms| u64::from(swarms.peer_counts().v6_leechers));
    let gauge = |name, help, read| register(name, help, SeriesKind::Gauge, Vec::new(), read);
    gauge("swarms", "Torrents with peers.", |swarms| swarms.live() as u64);
    // The names that the reference tracker has for these.
    gauge("storage_infohashes_count", "Torrents with peers.", |swarms| swarms.live() as u64);
    gauge("storage_seeders_count", "Seeders in all swarms.", T::seeders);
    gauge("storage_leechers_count", "Leechers in all swarms.", T::leechers);
    gauge("swarms_idle", "Torrents without peers whose completed count is remembered.", |swarms| {
        swarms.idle() as u64
    });
    gauge("swarms_memory_bytes", "Memory of all swarms, by hayate's own count.", |swarms| {
        swarms.memory() as u64
    });
    let counter = |name, help, read| register(name, help, SeriesKind::Counter, Vec::new(), read);
    counter(
        "swarms_full_total",
        "Announces answered without peers because memory.max was reached.",
        T::full_total,
    );
    counter(
        "swarms_crowded_total",
        "Peers not stored because of announce.peers_per_address.",
        T::crowded_total,
    );
}
