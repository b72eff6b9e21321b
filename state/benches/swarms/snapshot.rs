//! Snapshots in memory, without a disk: what a snapshot of five million peers takes of the processor, and
//! what a restart with a million torrents waits for.

use criterion::{BatchSize, Criterion, Throughput};
use hayate_state::snapshot::container::{SnapshotReader, SnapshotWriter};
use hayate_state::snapshot::swarms::{CompletedFrom, Restore, Walk, check_swarms, restore_all, write_swarms};
use hayate_state::{Now, Policy};

use crate::kit::{BenchTracker, NOW};

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
            let tracker = built.get_or_insert_with(|| BenchTracker::filled(torrents, peers));
            bencher.iter(|| walk(tracker, std::io::sink()));
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
            let file = built.get_or_insert_with(|| walk(&BenchTracker::filled(torrents, peers), Vec::new()));
            let start = |tracker: &mut BenchTracker| {
                let mut blocks = SnapshotReader::new(file.as_slice()).unwrap();
                while let Some((_, payload)) = blocks.next_block().unwrap() {
                    check_swarms(payload).unwrap();
                }
                let mut to = Restore::new(&tracker.swarms, &policy, CompletedFrom::Snapshot);
                let mut reader = SnapshotReader::new(file.as_slice()).unwrap();
                let summary = restore_all(&mut to, &mut reader, || now, |_| {}).unwrap();
                assert_eq!(summary.peers, u64::from(peers));
            };
            bencher.iter_batched_ref(BenchTracker::new, start, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn walk<W: std::io::Write>(tracker: &BenchTracker, to: W) -> W {
    let mut to = SnapshotWriter::new(to, 1000).unwrap();
    write_swarms(&mut Walk::new(tracker.swarms.clone(), NOW), &mut to, || NOW, || Ok(())).unwrap();
    to.finish().unwrap()
}
