//! The swarms of a snapshot as plain values, for tools that inspect or create them: whole blocks instead of
//! single entries, and addresses and times instead of octets and ages. What the tracker itself writes and
//! restores never takes this form.
//!
//! Times are kept to the second: [`written_at`] finds the time for the head relative to which every age can
//! be encoded, however far apart the announces are.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use crate::announce::WirePeer;
use crate::ids::{InfoHash, PeerId};
use crate::snapshot::container::{BlockSink, SnapshotError};
use crate::snapshot::entry::{
    AGE_MAX, ENTRY_PEERS_MAX, PendingEntry, SavedPeer, TorrentEntry, is_possible, take_array,
};
use crate::snapshot::entry::{BLOCK_OCTETS, TAG_SWARMS};
pub use crate::snapshot::site::Role;

/// Seconds that the ages of one base cover.
const BASE_SECONDS: u64 = AGE_MAX as u64 + 1;

/// A torrent, or some of its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainTorrent {
    /// Its info_hash.
    pub info_hash: InfoHash,
    /// Finished downloads.
    pub completed: u32,
    /// The peers in its swarm.
    pub peers: Vec<PlainPeer>,
}

/// One peer of a swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainPeer {
    /// Its address and port.
    pub address: SocketAddr,
    /// Seeder or leecher.
    pub role: Role,
    /// Whether it is a partial seed (BEP 21); leechers only.
    pub paused: bool,
    /// Its last announce, in Unix seconds.
    pub announced_at: i64,
    /// Its `peer_id`, if it is kept.
    pub peer_id: Option<PeerId>,
}

/// Why a peer can be in no swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeer {
    /// Port 0, or an address from which no peer can announce.
    #[error("{0}: no peer can have this address and port")]
    Address(SocketAddr),
    /// A seeder that is a partial seed: it has nothing to leave out.
    #[error("{0}: a seeder cannot be paused")]
    PausedSeeder(SocketAddr),
}

impl PlainPeer {
    /// Checks that the peer could be in a swarm.
    ///
    /// # Errors
    /// Fails when it could not; a snapshot with it would be damaged.
    pub fn check_peer(&self) -> Result<(), InvalidPeer> {
        let is_possible = match self.wire() {
            WirePeer::V4(octets) => is_possible(&octets),
            WirePeer::V6(octets) => is_possible(&octets),
        };
        // Scope ids and flow labels are not kept.
        if !is_possible || SocketAddr::new(self.address.ip(), self.address.port()) != self.address {
            return Err(InvalidPeer::Address(self.address));
        }
        if self.paused && self.role == Role::Seeder {
            return Err(InvalidPeer::PausedSeeder(self.address));
        }
        Ok(())
    }

    fn wire(&self) -> WirePeer {
        WirePeer::from_address(self.address.ip(), self.address.port())
    }

    fn from_saved(saved: &SavedPeer, with_ids: bool, base: i64) -> Self {
        Self {
            address: saved.wire.socket_addr(),
            role: if saved.seeder { Role::Seeder } else { Role::Leecher },
            paused: saved.paused,
            announced_at: base.saturating_sub(saved.age_seconds.into()),
            peer_id: with_ids.then_some(saved.id),
        }
    }
}

/// Reads a block with the tag [`TAG_SWARMS`] of a snapshot that was begun at `written_at`, in Unix seconds;
/// `sink` gets each entry. The peers of a torrent may be in several entries: [`merge_torrents`] joins them.
///
/// # Errors
/// Fails when the block is damaged; what precedes the damage was passed on.
pub fn read_block(
    written_at: i64,
    payload: &[u8],
    mut sink: impl FnMut(PlainTorrent),
) -> Result<(), SnapshotError> {
    let mut from = payload;
    let base = written_at.saturating_add(u32::from_le_bytes(take_array(&mut from)?).into());
    while !from.is_empty() {
        let entry = TorrentEntry::parse_entry(&mut from)?;
        sink(PlainTorrent {
            info_hash: entry.info_hash,
            completed: entry.completed,
            peers: entry.peers().map(|peer| PlainPeer::from_saved(&peer, entry.with_ids, base)).collect(),
        });
    }
    Ok(())
}

/// Joins the entries of each torrent: the highest completed count, and of peers at one address the first, as
/// a restore does. Torrents are then ordered by `info_hash`, peers by address, and torrents with neither
/// peers nor completed count are removed. Returns how many peers were removed.
pub fn merge_torrents(torrents: &mut Vec<PlainTorrent>) -> usize {
    // Sorting is stable: of equal entries the first stays first.
    torrents.sort_by_key(|torrent| torrent.info_hash);
    torrents.dedup_by(|next, first| {
        let is_same = next.info_hash == first.info_hash;
        if is_same {
            first.completed = first.completed.max(next.completed);
            first.peers.append(&mut next.peers);
        }
        is_same
    });
    let mut dropped = 0;
    for torrent in &mut *torrents {
        let before = torrent.peers.len();
        torrent.peers.sort_by_key(|peer| peer.address);
        torrent.peers.dedup_by_key(|peer| peer.address);
        dropped += before - torrent.peers.len();
    }
    torrents.retain(|torrent| torrent.completed > 0 || !torrent.peers.is_empty());
    dropped
}

/// Returns the begin time for a snapshot of these torrents, in Unix seconds, with which no time is lost: the
/// last announce, or earlier if some are very old. `None` without peers: then any time will do.
#[must_use]
pub fn written_at(torrents: &[PlainTorrent]) -> Option<i64> {
    let times = torrents.iter().flat_map(|torrent| &torrent.peers).map(|peer| peer.announced_at);
    let (first, last) = (times.clone().min()?, times.max()?);
    let spans = last.abs_diff(first) / BASE_SECONDS;
    Some(last.saturating_sub_unsigned(spans * BASE_SECONDS))
}

/// Writes blocks of swarms, at least one, into a snapshot that was begun at `written_at`.
///
/// # Errors
/// Fails when `to` does, when a peer is [invalid](PlainPeer::check_peer), or when one announced more than
/// 2^15 seconds before `written_at`, or 2^32 after it.
pub fn write_torrents(torrents: &[PlainTorrent], written_at: i64, to: &mut dyn BlockSink) -> io::Result<()> {
    let mut bases = BTreeSet::from([0]);
    for peer in torrents.iter().flat_map(|torrent| &torrent.peers) {
        peer.check_peer().map_err(io::Error::other)?;
        bases.insert(base_and_age(written_at, peer)?.0);
    }
    for base in bases {
        let mut draft =
            BlockDraft { to, written_at, base, payload: Vec::new(), batch: PendingEntry::default() };
        draft.begin();
        torrents.iter().try_for_each(|torrent| draft.write_torrent(torrent))?;
        if draft.payload.len() > size_of::<u32>() || base == 0 {
            draft.flush_block()?;
        }
    }
    Ok(())
}

/// Returns the base relative to which the age of a peer can be encoded, and that age.
fn base_and_age(written_at: i64, peer: &PlainPeer) -> io::Result<(u32, u32)> {
    let seconds = written_at.abs_diff(peer.announced_at);
    let base = if peer.announced_at > written_at {
        seconds.div_ceil(BASE_SECONDS).saturating_mul(BASE_SECONDS)
    } else {
        0
    };
    let age = if base > 0 { base - seconds } else { seconds };
    match (u32::try_from(base), u32::try_from(age)) {
        (Ok(base), Ok(age)) if age <= AGE_MAX => Ok((base, age)),
        _ => Err(io::Error::other(format!("{}: it announced too long before or after others", peer.address))),
    }
}

/// A block of one base that is being built.
struct BlockDraft<'t> {
    to: &'t mut dyn BlockSink,
    written_at: i64,
    base: u32,
    payload: Vec<u8>,
    batch: PendingEntry,
}

impl BlockDraft<'_> {
    fn begin(&mut self) {
        self.payload.extend_from_slice(&self.base.to_le_bytes());
    }

    /// Adds the peers that have this base; the completed count goes with the first base.
    fn write_torrent(&mut self, torrent: &PlainTorrent) -> io::Result<()> {
        let mut completed = if self.base == 0 { torrent.completed } else { 0 };
        for with_ids in [false, true] {
            self.batch.with_ids = with_ids;
            for peer in torrent.peers.iter().filter(|peer| peer.peer_id.is_some() == with_ids) {
                let (base, age_seconds) = base_and_age(self.written_at, peer)?;
                if base == self.base {
                    self.push(peer, age_seconds);
                }
                if self.batch.len() == ENTRY_PEERS_MAX {
                    self.write_entry(&torrent.info_hash, &mut completed)?;
                }
            }
            if self.batch.len() > 0 {
                self.write_entry(&torrent.info_hash, &mut completed)?;
            }
        }
        if completed > 0 { self.write_entry(&torrent.info_hash, &mut completed) } else { Ok(()) }
    }

    fn push(&mut self, peer: &PlainPeer, age_seconds: u32) {
        let seeder = peer.role == Role::Seeder;
        match peer.wire() {
            WirePeer::V4(octets) => {
                self.batch.v4.for_role(seeder).push(octets, age_seconds, peer.paused, peer.peer_id)
            }
            WirePeer::V6(octets) => {
                self.batch.v6.for_role(seeder).push(octets, age_seconds, peer.paused, peer.peer_id)
            }
        }
    }

    fn write_entry(&mut self, info_hash: &InfoHash, completed: &mut u32) -> io::Result<()> {
        let completed = std::mem::take(completed);
        self.batch.write_entry(info_hash, completed, ENTRY_PEERS_MAX, &mut self.payload);
        if self.payload.len() >= BLOCK_OCTETS {
            self.flush_block()?;
            self.begin();
        }
        Ok(())
    }

    fn flush_block(&mut self) -> io::Result<()> {
        self.to.write_block(TAG_SWARMS, &self.payload)?;
        self.payload.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::container::{SnapshotReader, SnapshotWriter};
    use crate::snapshot::swarms::{CompletedFrom, Restore, Walk, restore_all};
    use crate::{Now, Policy, Swarms};

    const NOW: i64 = 1_800_000_000;

    fn peer(address: &str, age_seconds: i64) -> PlainPeer {
        let (role, peer_id) = (Role::Leecher, None);
        let address = address.parse().unwrap();
        PlainPeer { address, role, paused: false, announced_at: NOW - age_seconds, peer_id }
    }

    fn torrent(number: u8, completed: u32, peers: Vec<PlainPeer>) -> PlainTorrent {
        PlainTorrent { info_hash: InfoHash([number; 20]), completed, peers }
    }

    fn file(torrents: &[PlainTorrent]) -> Vec<u8> {
        let begun_at = written_at(torrents).unwrap_or(NOW);
        let mut to = SnapshotWriter::new(Vec::new(), begun_at).unwrap();
        write_torrents(torrents, begun_at, &mut to).unwrap();
        to.finish().unwrap()
    }

    fn read_file(file: &[u8]) -> (Vec<PlainTorrent>, u64) {
        let mut reader = SnapshotReader::new(file).unwrap();
        let (written_at, mut torrents, mut blocks) = (reader.written_at(), Vec::new(), 0);
        while let Some((tag, payload)) = reader.next_block().unwrap() {
            assert_eq!(tag, TAG_SWARMS);
            read_block(written_at, payload, |torrent| torrents.push(torrent)).unwrap();
            blocks += 1;
        }
        assert_eq!(merge_torrents(&mut torrents), 0);
        (torrents, blocks)
    }

    fn every_form() -> Vec<PlainTorrent> {
        let id = Some(PeerId([7; 20]));
        let seeder = PlainPeer { role: Role::Seeder, peer_id: id, ..peer("192.0.2.1:7", 11) };
        let paused = PlainPeer { paused: true, ..peer("192.0.2.2:13", 0) };
        let v6 = PlainPeer { role: Role::Seeder, ..peer("[2001:db8::1]:17", 19) };
        let v6_with_id = PlainPeer { peer_id: id, ..peer("[2001:db8::2]:23", 29) };
        vec![torrent(3, 31, vec![seeder, paused, v6, v6_with_id]), torrent(5, 37, Vec::new())]
    }

    #[test]
    fn plain_swarms_are_read_as_they_were_written() {
        assert_eq!(read_file(&file(&every_form())), (every_form(), 1));
        assert_eq!(read_file(&file(&[])), (Vec::new(), 1));
    }

    #[test]
    fn times_far_apart_are_kept_to_the_second() {
        let ages = [0, 1, 32_767, 32_768, 65_535, 65_536, 1_000_000];
        let peers = (1..).zip(ages).map(|(port, age)| peer(&format!("192.0.2.1:{port}"), age)).collect();
        let torrents = vec![torrent(3, 41, peers)];
        let (found, blocks) = read_file(&file(&torrents));
        assert_eq!((found, blocks), (torrents, 4), "four times that ages count from");
        // None of them is in the future, where an age would be too high.
        let octets = file(&every_form());
        assert_eq!(SnapshotReader::new(octets.as_slice()).unwrap().written_at(), NOW);
    }

    #[test]
    fn times_that_cannot_be_encoded_are_errors() {
        let mut to = SnapshotWriter::new(Vec::new(), NOW).unwrap();
        let mut can_encode =
            |age| write_torrents(&[torrent(3, 0, vec![peer("192.0.2.1:7", age)])], NOW, &mut to).is_ok();
        assert!(can_encode(32_767) && can_encode(-1) && can_encode(-(1 << 31)));
        assert!(!can_encode(32_768) && !can_encode(-(1 << 32)));
        let extremes =
            [i64::MIN, i64::MAX, 0].map(|announced_at| PlainPeer { announced_at, ..peer("192.0.2.1:7", 0) });
        let torrents = [torrent(3, 0, extremes.to_vec())];
        let begun_at = written_at(&torrents).unwrap();
        assert!(write_torrents(&torrents, begun_at, &mut to).is_err());
    }

    #[test]
    fn large_swarms_take_several_blocks() {
        let id = Some(PeerId([7; 20]));
        let peers = |count: u32| -> Vec<PlainPeer> {
            (0..count)
                .map(|number| {
                    let peer_id = if number % 3 == 0 { id } else { None };
                    let address = SocketAddr::new((0x0100_0000 + number).to_be_bytes().into(), 7);
                    PlainPeer { address, peer_id, ..peer("192.0.2.1:7", i64::from(number % 11)) }
                })
                .collect()
        };
        let torrents =
            vec![torrent(3, 43, peers(30_000)), torrent(5, 47, peers(8192)), torrent(7, 0, peers(1))];
        let (found, blocks) = read_file(&file(&torrents));
        assert!(found == torrents && blocks > 1, "{blocks} blocks");
    }

    #[test]
    fn what_is_there_twice_counts_as_a_restore_counts_it() {
        let late = PlainPeer { role: Role::Seeder, ..peer("192.0.2.1:7", 11) };
        let mut torrents = vec![
            torrent(5, 0, Vec::new()),
            torrent(3, 2, vec![late, peer("[2001:db8::1]:7", 13)]),
            torrent(3, 31, vec![peer("192.0.2.1:7", 5), peer("192.0.2.1:6", 17)]),
            torrent(3, 7, Vec::new()),
        ];
        assert_eq!(merge_torrents(&mut torrents), 1);
        let peers = vec![peer("192.0.2.1:6", 17), late, peer("[2001:db8::1]:7", 13)];
        assert_eq!(torrents, [torrent(3, 31, peers)]);
    }

    #[test]
    fn a_peer_that_none_can_be_is_refused() {
        let bad = [
            "0.0.0.0:7",
            "224.0.0.1:7",
            "192.0.2.1:0",
            "[::]:7",
            "[ff02::1]:7",
            "[fe80::1]:7",
            "[::ffff:192.0.2.1]:7",
            "[2001:db8::1%3]:7",
        ];
        for address in bad {
            let peer = peer(address, 0);
            assert_eq!(peer.check_peer(), Err(InvalidPeer::Address(peer.address)));
            let mut to = SnapshotWriter::new(Vec::new(), NOW).unwrap();
            assert!(write_torrents(&[torrent(3, 0, vec![peer])], NOW, &mut to).is_err());
        }
        let peer = PlainPeer { role: Role::Seeder, paused: true, ..peer("192.0.2.1:7", 0) };
        assert_eq!(peer.check_peer(), Err(InvalidPeer::PausedSeeder(peer.address)));
    }

    #[test]
    fn the_tracker_restores_plain_swarms_and_they_are_read_from_what_it_writes() {
        let policy = Policy { keep_peer_ids: true, ..Policy::default() };
        let now = Now { unix_seconds: NOW.cast_unsigned(), ..Now::at(100_000) };
        let swarms = Swarms::new(0);
        let mut torrents = every_form();
        // A swarm keeps the ids of all peers or of none, and zeros for those it did not get.
        torrents[0].peers.iter_mut().for_each(|peer| peer.peer_id = Some(PeerId([7; 20])));
        let octets = file(&torrents);
        let mut into = Restore::new(&swarms, &policy, CompletedFrom::Snapshot);
        let summary =
            restore_all(&mut into, &mut SnapshotReader::new(octets.as_slice()).unwrap(), || now, |_| {})
                .unwrap();
        assert_eq!((summary.torrents, summary.peers, summary.expired), (2, 4, 0));
        let mut to = SnapshotWriter::new(Vec::new(), NOW).unwrap();
        let mut walk = Walk::new(swarms, now.tick);
        crate::snapshot::swarms::write_swarms(&mut walk, &mut to, || now.tick, || Ok(())).unwrap();
        assert_eq!(read_file(&to.finish().unwrap()).0, torrents);
    }
}
