//! The operations that the reference measures of its peer stores, under its names: 1000 info_hashes, 1000
//! IPv4 peers. `1k` takes another peer each time, `1k-infohash` another torrent. Each of the calls of the
//! reference is an announce here:
//!
//! - put: a peer announces and is handed no peers; delete: it announces `event=stopped`
//! - grad (graduate): it announces `event=completed` with `left=0`

use criterion::Criterion;
use hayate_state::{Announce, Event, InfoHash};

use crate::kit::{self, BenchTracker, NUM_WANT};

const TORRENTS: u32 = 1000;
const PEERS: u32 = 1000;

/// One announce of an operation.
#[derive(Clone, Copy)]
enum Step {
    PutLeecher,
    PutSeeder,
    Graduate,
    Delete,
}
use Step::{Delete, Graduate, PutLeecher, PutSeeder};

/// All announces of one operation are measured together. After its first times around, a peer that graduates
/// without having been there is there, as it is in the reference.
const OPERATIONS: [(&str, &[Step]); 5] = [
    ("put", &[PutSeeder]),
    ("put-delete", &[PutSeeder, Delete]),
    ("delete-nonexist", &[Delete]),
    ("put-grad-delete", &[PutLeecher, Graduate, Delete]),
    ("grad-nonexist", &[Graduate]),
];

/// What the name ends with, torrents and peers.
const CYCLES: [(&str, u32, u32); 4] =
    [("", 1, 1), ("/1k", 1, PEERS), ("/1k-infohash", TORRENTS, 1), ("/1k-infohash-1k", TORRENTS, PEERS)];

impl Step {
    fn announce(self, peer: &Announce) -> Announce {
        let (event, left) = match self {
            Self::PutLeecher => (Event::None, 1000),
            Self::PutSeeder => (Event::None, 0),
            Self::Graduate => (Event::Completed, 0),
            Self::Delete => (Event::Stopped, 0),
        };
        Announce { event, left, ..*peer }
    }
}

/// Operations that change swarms, each on a tracker that begins empty.
pub(crate) fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    let hashes = info_hashes();
    group.bench_function("nop", |bencher| {
        let mut cycle = Cycle::new(&hashes, TORRENTS, PEERS);
        bencher.iter(|| cycle.next());
    });
    for (operation, steps) in OPERATIONS {
        for (suffix, torrents, peers) in CYCLES {
            group.bench_function(format!("{operation}{suffix}"), |bencher| {
                let mut tracker = BenchTracker::new();
                let mut cycle = Cycle::new(&hashes, torrents, peers);
                bencher.iter(|| {
                    let peer = cycle.next();
                    steps.iter().for_each(|step| tracker.announce(&step.announce(&peer)));
                });
            });
        }
    }
    group.finish();
}

/// Peers are handed out, or swarms scraped, where each torrent has 500 seeders and 500 leechers.
pub(crate) fn readings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    let hashes = info_hashes();
    let mut tracker = BenchTracker::new();
    for info_hash in &hashes {
        for peer in 0..PEERS {
            tracker.announce(&kit::announce(*info_hash, peer, left(peer), 0));
        }
    }
    for (suffix, torrents) in [("", 1), ("/1k-infohash", TORRENTS)] {
        for (name, peer) in [("announce-leecher", 1), ("announce-seeder", 0)] {
            group.bench_function(format!("{name}{suffix}"), |bencher| {
                let mut cycle = Cycle::new(&hashes, torrents, 1);
                bencher.iter(|| {
                    let announce = kit::announce(cycle.next().info_hash, peer, left(peer), NUM_WANT);
                    tracker.announce(&announce);
                });
            });
        }
        group.bench_function(format!("scrape-swarm{suffix}"), |bencher| {
            let mut cycle = Cycle::new(&hashes, torrents, 1);
            bencher.iter(|| tracker.tracker.scrape(&cycle.next().info_hash));
        });
    }
    group.finish();
}

/// Every other peer is a seeder.
fn left(peer: u32) -> u64 {
    u64::from(peer % 2)
}

fn info_hashes() -> Vec<InfoHash> {
    (0..TORRENTS).map(kit::info_hash).collect()
}

/// Goes around torrents and peers; peers in steps of three, as the reference does.
struct Cycle<'h> {
    hashes: &'h [InfoHash],
    torrents: u32,
    peers: u32,
    turn: u32,
}

impl<'h> Cycle<'h> {
    fn new(hashes: &'h [InfoHash], torrents: u32, peers: u32) -> Self {
        Self { hashes, torrents, peers, turn: 0 }
    }

    fn next(&mut self) -> Announce {
        let info_hash = self.hashes[(self.turn % self.torrents) as usize];
        let peer = self.turn.wrapping_mul(3) % self.peers;
        self.turn = self.turn.wrapping_add(1);
        kit::announce(info_hash, peer, 0, 0)
    }
}
