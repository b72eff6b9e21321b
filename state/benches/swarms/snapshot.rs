//! Snapshots in memory, without a disk: what a snapshot of five million peers takes of the processor, and
//! what a restart with a million torrents waits for.

use criterion::{BatchSize, Criterion, Throughput};
use hayate_state::snapshot::container::{Reader, Writer};
use hayate_state::snapshot::swarms::{CompletedFrom, Restore, Walk, check, restore, write};
use hayate_state::{Now, Policy};

use crate::kit::{Desk, NOW};

/// Peers that are written, and into how many swarms they go.
const WRITTEN: [(&str, u32, u32); 2] =
    [("5M-peers-in-1M-torrents", 1_000_000, 5_000_000), ("5M-peers-in-one-swarm", 1, 5_000_000)];
/// Peers that are restored.
const RESTORED: [(&str, u32, u32); 2] =
    [("4M-peers-in-1M-torrents", 1_000_000, 4_000_000), ("4M-peers-in-one-swarm", 1, 4_000_000)];

/// Whole walks, into blocks with checksums.
pub(crate) fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(10);
    for (name, torrents, peers) in WRITTEN {
        let mut built = None;
        group.throughput(Throughput::Elements(peers.into()));
        group.bench_function(format!("write/{name}"), |bencher| {
            let desk = built.get_or_insert_with(|| Desk::filled(torrents, peers));
            bencher.iter(|| walk(desk, std::io::sink()));
        });
    }
    group.finish();
}

/// The two passes of a start: every block is looked at, then restored.
pub(crate) fn restores(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(10);
    let policy = Policy::default();
    let now = Now { tick: NOW, unix_seconds: 1000 };
    for (name, torrents, peers) in RESTORED {
        let mut built = None;
        group.throughput(Throughput::Elements(peers.into()));
        group.bench_function(format!("restore/{name}"), |bencher| {
            let file = built.get_or_insert_with(|| walk(&Desk::filled(torrents, peers), Vec::new()));
            let start = |desk: &mut Desk| {
                let mut blocks = Reader::new(file.as_slice()).unwrap();
                while let Some((_, payload)) = blocks.next_block().unwrap() {
                    check(payload).unwrap();
                }
                let mut to = Restore::new(&desk.swarms, &policy, CompletedFrom::Snapshot);
                let mut reader = Reader::new(file.as_slice()).unwrap();
                let summary = restore(&mut to, &mut reader, || now, |_| {}).unwrap();
                assert_eq!(summary.peers, u64::from(peers));
            };
            bencher.iter_batched_ref(Desk::new, start, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn walk<W: std::io::Write>(desk: &Desk, to: W) -> W {
    let mut to = Writer::new(to, 1000).unwrap();
    write(&mut Walk::new(desk.swarms.clone(), NOW), &mut to, || NOW, || Ok(())).unwrap();
    to.finish().unwrap()
}
