//! Numbers of the swarms, for `/metrics`.

use std::sync::Arc;

use crate::counters::{Board, Distributed, Kind, Series};
use crate::swarms::Swarms;

impl Swarms {
    /// Lists the numbers of the swarms.
    pub fn list_on(self: &Arc<Self>, board: &Board) {
        board.distribute(Distributed {
            name: "storage_gc_duration_milliseconds",
            help: "Time that a round of the sweep has worked.",
            labels: Vec::new(),
            histogram: Arc::clone(self.sweeps()),
        });
        let list = |name, help, kind, labels, read: fn(&Self) -> u64| {
            let swarms = Arc::clone(self);
            board.list(Series { name, help, kind, labels, read: Box::new(move || read(&swarms)) });
        };
        let peers = |family, role, read| {
            let labels = vec![("family", family), ("role", role)];
            list("swarm_peers", "Peers in all swarms.", Kind::Gauge, labels, read);
        };
        peers("ipv4", "seeder", |swarms| u64::from(swarms.census().v4_seeders));
        peers("ipv4", "leecher", |swarms| u64::from(swarms.census().v4_leechers));
        peers("ipv6", "seeder", |swarms| u64::from(swarms.census().v6_seeders));
        peers("ipv6", "leecher", |swarms| u64::from(swarms.census().v6_leechers));
        let gauge = |name, help, read| list(name, help, Kind::Gauge, Vec::new(), read);
        gauge("swarms", "Torrents with peers.", |swarms| swarms.live() as u64);
        // The names that the reference tracker has for these.
        gauge("storage_infohashes_count", "Torrents with peers.", |swarms| swarms.live() as u64);
        gauge("storage_seeders_count", "Seeders in all swarms.", |swarms| {
            let census = swarms.census();
            u64::from(census.v4_seeders) + u64::from(census.v6_seeders)
        });
        gauge("storage_leechers_count", "Leechers in all swarms.", |swarms| {
            let census = swarms.census();
            u64::from(census.v4_leechers) + u64::from(census.v6_leechers)
        });
        gauge("swarms_idle", "Torrents without peers whose completed count is remembered.", |swarms| {
            swarms.idle() as u64
        });
        gauge("swarms_memory_bytes", "Memory of all swarms, by hayate's own count.", |swarms| {
            swarms.memory() as u64
        });
        let counter = |name, help, read| list(name, help, Kind::Counter, Vec::new(), read);
        counter(
            "swarms_full_total",
            "Announces answered without peers because memory.max was reached.",
            Self::full,
        );
        counter(
            "swarms_crowded_total",
            "Peers not stored because of announce.peers_per_address.",
            Self::crowded,
        );
    }
}
