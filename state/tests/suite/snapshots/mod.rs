//! Swarms into a snapshot and back.

mod files;
mod forms;
mod nonsense;
mod walks;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hayate_state::snapshot::container::{SnapshotReader, SnapshotWriter};
use hayate_state::snapshot::swarms::{
    CompletedFrom, Restore, Summary, TAG_SWARMS, Walk, restore_all, write_swarms,
};
use hayate_state::{InfoHash, Now, Swarms, Tick};

use crate::test_tracker::TestTracker;

/// When the snapshots of these tests are begun, in Unix seconds.
const WRITTEN_AT: u64 = 1_700_000_000;

/// A peer as a snapshot has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Saved {
    seeder: bool,
    paused: bool,
    /// Seconds before the beginning of the snapshot; below zero for peers that came later.
    age: i32,
    id: [u8; 20],
}

/// A torrent as a snapshot has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct SavedTorrent {
    completed: u64,
    peers: BTreeMap<(IpAddr, u16), Saved>,
    /// Peers that appear more than once.
    twice: usize,
}

fn at(tick: u32, seconds_later: i64) -> Now {
    Now { tick: Tick(tick), unix_seconds: WRITTEN_AT.checked_add_signed(seconds_later).unwrap() }
}

fn snapshot(swarms: &Arc<Swarms>, now: u32) -> Vec<u8> {
    snapshot_of(swarms, now, i64::try_from(WRITTEN_AT).unwrap())
}

fn snapshot_of(swarms: &Arc<Swarms>, now: u32, written_at: i64) -> Vec<u8> {
    let mut to = SnapshotWriter::new(Vec::new(), written_at).unwrap();
    let mut walk = Walk::new(Arc::clone(swarms), Tick(now));
    write_swarms(&mut walk, &mut to, || Tick(now), || Ok(())).unwrap();
    to.finish().unwrap()
}

fn restore_into(tracker: &TestTracker, file: &[u8], seconds_later: i64) -> Summary {
    let policy = tracker.policy.current();
    let mut to = Restore::new(&tracker.swarms, &policy, CompletedFrom::Snapshot);
    restore_all(&mut to, &mut SnapshotReader::new(file).unwrap(), || at(tracker.now, seconds_later), |_| {})
        .unwrap()
}

/// Reads a snapshot by the words of its documentation, with nothing of the code that is tested.
fn read_snapshot(file: &[u8]) -> BTreeMap<InfoHash, SavedTorrent> {
    let (mut reader, mut torrents) = (SnapshotReader::new(file).unwrap(), BTreeMap::new());
    while let Some((tag, mut octets)) = reader.next_block().unwrap() {
        assert_eq!(tag, TAG_SWARMS);
        let base = u32::from_le_bytes(cut(&mut octets, 4).try_into().unwrap());
        while !octets.is_empty() {
            read_torrent(&mut octets, i32::try_from(base).unwrap(), &mut torrents);
        }
    }
    torrents
}

fn read_torrent(octets: &mut &[u8], base: i32, torrents: &mut BTreeMap<InfoHash, SavedTorrent>) {
    let info_hash = InfoHash(cut(octets, 20).try_into().unwrap());
    let torrent = torrents.entry(info_hash).or_default();
    let flags = cut(octets, 1)[0];
    if flags & 32 != 0 {
        torrent.completed = number(octets);
    }
    let counts = [1, 2, 4, 8].map(|flag| if flags & flag != 0 { number(octets) } else { 0 });
    for (list, count) in counts.into_iter().enumerate() {
        let (count, len) = (usize::try_from(count).unwrap(), if list < 2 { 6 } else { 18 });
        let (peers, ages) = (cut(octets, count * len), cut(octets, count * 2));
        let ids = if flags & 16 != 0 { cut(octets, count * 20) } else { &[] };
        for (place, peer) in crate::test_tracker::peers_of(peers, len == 18).into_iter().enumerate() {
            let age = u16::from_le_bytes(ages[2 * place..][..2].try_into().unwrap());
            let saved = Saved {
                seeder: list % 2 == 0,
                paused: age >> 15 != 0,
                age: i32::from(age & 0x7fff) - base,
                id: ids.get(20 * place..20 * (place + 1)).map_or([0; 20], |id| id.try_into().unwrap()),
            };
            torrent.twice += usize::from(torrent.peers.insert(peer, saved).is_some());
        }
    }
}

fn cut<'a>(octets: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (front, rest) = octets.split_at(len);
    *octets = rest;
    front
}

fn number(octets: &mut &[u8]) -> u64 {
    let octet = u64::from(cut(octets, 1)[0]);
    if octet < 128 { octet } else { octet - 128 + 128 * number(octets) }
}

/// The same with every age so much higher.
fn aged(mut torrents: BTreeMap<InfoHash, SavedTorrent>, seconds: i32) -> BTreeMap<InfoHash, SavedTorrent> {
    let peers = torrents.values_mut().flat_map(|torrent| torrent.peers.values_mut());
    peers.for_each(|peer| peer.age += seconds);
    torrents
}
