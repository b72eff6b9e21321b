//! The sweep over a million peers. A whole round: its milliseconds are nanoseconds per peer. A beat: what
//! the actor does every tenth of a second, in slices of about a thousand peers under one lock each.

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use hayate_state::swarm::Sweeper;
use hayate_state::{Policy, Tick};

use crate::kit::{Desk, NOW};

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
            let (desk, sweeper) = built.get_or_insert_with(|| swept(torrents));
            bencher.iter(|| sweeper.round(NOW, &policy));
            assert_eq!(desk.swarms.census().peers(), PEERS);
        });
        group.bench_function(format!("round-all-expired/{name}"), |bencher| {
            // Swarms are built for each round, outside of what is measured.
            let round = |(desk, sweeper): &mut (Desk, Sweeper)| {
                sweeper.round(later, &policy);
                assert_eq!(desk.swarms.census().peers(), 0);
            };
            bencher.iter_batched_ref(|| swept(torrents), round, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// What one beat of the actor does while nobody expires.
pub(crate) fn beats(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    let policy = Policy::default();
    for (name, torrents) in SHAPES {
        let mut built = None;
        group.bench_function(format!("beat/{name}"), |bencher| {
            let (_, sweeper) = built.get_or_insert_with(|| swept(torrents));
            bencher.iter(|| sweeper.beat(NOW, &policy, Duration::from_millis(100)));
        });
    }
    group.finish();
}

fn swept(torrents: u32) -> (Desk, Sweeper) {
    let desk = Desk::filled(torrents, PEERS);
    let sweeper = Sweeper::new(desk.swarms.clone());
    (desk, sweeper)
}
