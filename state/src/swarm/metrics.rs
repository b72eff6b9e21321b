//! Numbers of the swarms, for `/metrics`: the same series in every mode.

use std::sync::Arc;

use crate::metrics::histogram::Histogram;
use crate::metrics::{Board, Distributed, Kind, Series};
use crate::peer_counts::Census;
use crate::private::Torrents;
use crate::report::Place;
use crate::swarm::Swarms;

impl Place {
    /// Octets that all swarms take, by hayate's own count.
    #[must_use]
    pub fn memory(&self) -> usize {
        match self {
            Self::Swarms(swarms) => swarms.memory(),
            Self::Site(torrents) => torrents.memory(),
        }
    }

    /// Lists the numbers of the swarms.
    pub fn list_on(&self, board: &Board) {
        match self {
            Self::Swarms(swarms) => list(swarms, swarms.sweeps(), board),
            Self::Site(torrents) => list(torrents, &torrents.purges, board),
        }
    }
}

/// What has swarms.
trait Numbers: Send + Sync + 'static {
    fn census(&self) -> Census;
    fn seeders(&self) -> u64;
    fn leechers(&self) -> u64;
    fn live(&self) -> usize;
    fn idle(&self) -> usize;
    fn memory(&self) -> usize;
    fn full(&self) -> u64;
    fn crowded(&self) -> u64;
}

impl Numbers for Swarms {
    fn census(&self) -> Census {
        self.census()
    }

    fn seeders(&self) -> u64 {
        let census = self.census();
        u64::from(census.v4_seeders) + u64::from(census.v6_seeders)
    }

    fn leechers(&self) -> u64 {
        let census = self.census();
        u64::from(census.v4_leechers) + u64::from(census.v6_leechers)
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

    fn full(&self) -> u64 {
        self.full()
    }

    fn crowded(&self) -> u64 {
        self.crowded()
    }
}

impl Numbers for Torrents {
    fn census(&self) -> Census {
        self.census()
    }

    // A peer that is reached over both families is one.
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

    fn full(&self) -> u64 {
        self.full()
    }

    // `announce.peers_per_address` is none of this mode: its members are known.
    fn crowded(&self) -> u64 {
        0
    }
}

fn list<T: Numbers>(of: &Arc<T>, sweeps: &Arc<Histogram>, board: &Board) {
    board.distribute(Distributed {
        name: "storage_gc_duration_milliseconds",
        help: "Time that a round of the sweep has worked.",
        labels: Vec::new(),
        histogram: Arc::clone(sweeps),
    });
    let list = |name, help, kind, labels, read: fn(&T) -> u64| {
        let of = Arc::clone(of);
        board.list(Series { name, help, kind, labels, read: Box::new(move || read(&of)) });
    };
    let peers = |family, role, read| {
        let labels = vec![("family", family), ("role", role)];
        list("swarm_peers", "Peers in all swarms.", Kind::Gauge, labels, read);
    };
    peers("ipv4", "seeder", |of| u64::from(of.census().v4_seeders));
    peers("ipv4", "leecher", |of| u64::from(of.census().v4_leechers));
    peers("ipv6", "seeder", |of| u64::from(of.census().v6_seeders));
    peers("ipv6", "leecher", |of| u64::from(of.census().v6_leechers));
    let gauge = |name, help, read| list(name, help, Kind::Gauge, Vec::new(), read);
    gauge("swarms", "Torrents with peers.", |of| of.live() as u64);
    // The names that the reference tracker has for these.
    gauge("storage_infohashes_count", "Torrents with peers.", |of| of.live() as u64);
    gauge("storage_seeders_count", "Seeders in all swarms.", T::seeders);
    gauge("storage_leechers_count", "Leechers in all swarms.", T::leechers);
    gauge("swarms_idle", "Torrents without peers whose completed count is remembered.", |of| {
        of.idle() as u64
    });
    gauge("swarms_memory_bytes", "Memory of all swarms, by hayate's own count.", |of| of.memory() as u64);
    let counter = |name, help, read| list(name, help, Kind::Counter, Vec::new(), read);
    counter("swarms_full_total", "Announces answered without peers because memory.max was reached.", T::full);
    counter("swarms_crowded_total", "Peers not stored because of announce.peers_per_address.", T::crowded);
}
