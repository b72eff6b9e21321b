//! The sweep over a million peers. A whole round: its milliseconds are nanoseconds per peer. A slice: what
//! the actor does every tenth of a second, in slices of about a thousand peers under one lock each.

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use hayate_state::swarm::Sweeper;
use hayate_state::{Policy, Tick};

use crate::kit::{BenchTracker, NOW};

const PEERS: u32 = 1_000_000;
/// Many small swarms, and few large ones.
const SHAPES: [(&str, u32); 2] = [("swarms-of-three", PEERS / 3), ("swarms-of-1000", PEERS / 1000)];

/// Whole rounds.
pub(crate) fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    let policy = Policy::default();
    let later = Tick(NOW.0 + policy.peer_inactivity_seconds + 1);
    group.throughput(Throughput::Elements(u64::from(PEERS)));
    group.sample_size(10);
    for (name, torrents) in SHAPES {
        let mut built = None;
        group.bench_function(format!("round-none-expired/{name}"), |bencher| {
            let (tracker, sweeper) = built.get_or_insert_with(|| swept(torrents));
            bencher.iter(|| sweeper.sweep_all(NOW, &policy));
            assert_eq!(tracker.swarms.peer_counts().total(), PEERS);
        });
        group.bench_function(format!("round-all-expired/{name}"), |bencher| {
            // Swarms are built for each round, outside of what is measured.
            let round = |(tracker, sweeper): &mut (BenchTracker, Sweeper)| {
                sweeper.sweep_all(later, &policy);
                assert_eq!(tracker.swarms.peer_counts().total(), 0);
            };
            bencher.iter_batched_ref(|| swept(torrents), round, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// What one slice of the actor's work does while no peer expires.
pub(crate) fn slices(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    let policy = Policy::default();
    for (name, torrents) in SHAPES {
        let mut built = None;
        group.bench_function(format!("slice/{name}"), |bencher| {
            let (_, sweeper) = built.get_or_insert_with(|| swept(torrents));
            bencher.iter(|| sweeper.advance(NOW, &policy, Duration::from_millis(100)));
        });
    }
    group.finish();
}

fn swept(torrents: u32) -> (BenchTracker, Sweeper) {
    let tracker = BenchTracker::filled(torrents, PEERS);
    let sweeper = Sweeper::new(tracker.swarms.clone());
    (tracker, sweeper)
}
