//! One announce of a known peer, chosen at random, as swarms grow from 10^3 to 10^7 peers: all in one swarm,
//! and about three to a swarm. What grows with size is the wait for memory. 10^7 peers take a quarter of a
//! minute to build, so they are there only if `HAYATE_BENCH_LARGE` is set.

use criterion::{BenchmarkId, Criterion};
use hayate_state::Announce;

use crate::kit::{BenchTracker, NUM_WANT, announce_of_peer};

const PEERS: [u32; 4] = [1000, 10_000, 100_000, 1_000_000];
const PEERS_LARGE: u32 = 10_000_000;

pub(crate) fn announces(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("announce");
    let large = std::env::var_os("HAYATE_BENCH_LARGE").map(|_| PEERS_LARGE);
    for peers in PEERS.into_iter().chain(large) {
        for (name, torrents) in [("one-swarm", 1), ("swarms-of-three", peers / 3)] {
            // Built by the first call of the closure only: the filter of the command line may leave it out.
            let mut built = None;
            group.bench_function(BenchmarkId::new(name, peers), |bencher| {
                let tracker = built.get_or_insert_with(|| BenchTracker::filled(torrents, peers));
                let mut random = fastrand::Rng::with_seed(11);
                bencher.iter(|| tracker.announce(&announce_of_peer(torrents, random.u32(..peers), NUM_WANT)));
            });
        }
    }
    group.finish();
}

/// The requester may be handed one peer in this many, in a swarm of a hundred thousand; the others have port
/// 1.
pub(crate) fn hidden(criterion: &mut Criterion) {
    const PEERS: u32 = 100_000;
    let mut group = criterion.benchmark_group("announce");
    for (name, one_of) in [("90%-hidden", 10), ("99.9%-hidden", 1000)] {
        let mut built = None;
        group.bench_function(BenchmarkId::new(name, PEERS), |bencher| {
            let tracker = built.get_or_insert_with(|| {
                let mut tracker = BenchTracker::new();
                for number in 0..PEERS {
                    let port = if number % one_of == 0 { 6881 } else { 1 };
                    tracker.announce(&Announce { port, ..announce_of_peer(1, number, 0) });
                }
                tracker
            });
            let mut random = fastrand::Rng::with_seed(11);
            bencher.iter(|| {
                tracker.announce(&announce_of_peer(1, random.u32(..PEERS / one_of) * one_of, NUM_WANT))
            });
        });
    }
    group.finish();
}
