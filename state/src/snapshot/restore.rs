//! Restores the swarms of a snapshot, beside those that are in memory already.

use std::fmt;
use std::io::Read;

use crate::admission::Policy;
use crate::announce::{Endpoint, WirePeer};
use crate::clock::{Now, Tick};
use crate::snapshot::container::{SnapshotError, SnapshotReader};
use crate::snapshot::entry::{SavedPeer, TAG_SWARMS, TorrentEntry, take_array};
use crate::swarm::Swarms;
use crate::swarm::peer::{LastSeen, StoredPeer, scope_of_peer};
use crate::swarm::peer_set::PeerSet;
use crate::swarm::torrent::{SwarmForm, Torrent};
use crate::table::keyed_hash::KeyedHash;

/// Peers that are added under one lock.
const CHUNK_PEERS: usize = 256;

/// The source of completed counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletedFrom {
    /// The snapshot; the higher of its count and the one in memory is kept.
    Snapshot,
    /// A store, from which the counts are set by [`Swarms::set_completed`]. Those of the snapshot are
    /// ignored, and torrents without peers are left to the store.
    Store,
}

/// What happened to the torrents and peers of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Torrents that were not there before.
    pub torrents: u64,
    /// Peers added.
    pub peers: u64,
    /// Peers that were there already, and stay as they are.
    pub known: u64,
    /// Peers that have been silent for too long.
    pub expired: u64,
    /// Peers for which there was no room: `memory.max`, or `announce.peers_per_address`.
    pub left_out: u64,
    /// Torrents for which there was no room; their peers are among those left out.
    pub torrents_left_out: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} torrents and {} peers; {} had expired", self.torrents, self.peers, self.expired)?;
        if self.known > 0 {
            write!(f, ", {} were known", self.known)?;
        }
        if self.left_out > 0 || self.torrents_left_out > 0 {
            let (peers, torrents) = (self.left_out, self.torrents_left_out);
            write!(f, ", {peers} were left out for lack of room, and {torrents} torrents")?;
        }
        Ok(())
    }
}

/// What happened to one peer.
enum PeerOutcome {
    Added,
    Known,
    Full,
}

/// A restore in progress.
#[derive(Debug)]
pub struct Restore<'a> {
    swarms: &'a Swarms,
    policy: &'a Policy,
    completed: CompletedFrom,
    summary: Summary,
}

impl<'a> Restore<'a> {
    /// Returns a restore that has not restored anything yet.
    #[must_use]
    pub fn new(swarms: &'a Swarms, policy: &'a Policy, completed: CompletedFrom) -> Self {
        Self { swarms, policy, completed, summary: Summary::default() }
    }

    /// The results so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Restores one block with the tag [`TAG_SWARMS`] of a snapshot that was begun at `written_at`, in Unix
    /// seconds.
    ///
    /// # Errors
    /// Fails when the block is damaged; what precedes the damage is restored.
    pub fn restore_swarms(&mut self, now: Now, written_at: i64, payload: &[u8]) -> Result<(), SnapshotError> {
        let mut from = payload;
        let base = written_at.saturating_add(u32::from_le_bytes(take_array(&mut from)?).into());
        let unix = i64::try_from(now.unix_seconds).unwrap_or(i64::MAX);
        // A clock that was set back does not make peers younger.
        let elapsed = unix.saturating_sub(base).max(0).unsigned_abs();
        while !from.is_empty() {
            self.restore_entry(now.tick, elapsed, &TorrentEntry::parse_entry(&mut from)?);
        }
        Ok(())
    }

    fn restore_entry(&mut self, now: Tick, elapsed: u64, entry: &TorrentEntry<'_>) {
        let (swarms, policy) = (self.swarms, self.policy);
        let completed = match self.completed {
            CompletedFrom::Snapshot => entry.completed,
            CompletedFrom::Store => 0,
        };
        let is_alive = |peer: &SavedPeer| {
            elapsed.saturating_add(peer.age_seconds.into()) <= policy.peer_inactivity_seconds.into()
        };
        let (all, mut left) = (entry.peers().count(), entry.peers().filter(is_alive).count());
        self.summary.expired += (all - left) as u64;
        if left == 0 && completed == 0 {
            return;
        }
        let mut alive = entry.peers().filter(is_alive);
        loop {
            let (may_grow, summary) = (swarms.may_grow(policy), &mut self.summary);
            let chunk = |torrent: &mut Torrent| {
                torrent.completed = torrent.completed.max(completed);
                for peer in alive.by_ref().take(CHUNK_PEERS) {
                    left -= 1;
                    match torrent.restore_peer(now, elapsed, &peer, may_grow, policy, swarms.hasher()) {
                        PeerOutcome::Added => summary.peers += 1,
                        PeerOutcome::Known => summary.known += 1,
                        PeerOutcome::Full => summary.left_out += 1,
                    }
                }
            };
            let Some(((), is_new)) = swarms.with_torrent(now, policy, &entry.info_hash, may_grow, chunk)
            else {
                self.summary.left_out += left as u64;
                self.summary.torrents_left_out += 1;
                return;
            };
            self.summary.torrents += u64::from(is_new);
            if left == 0 {
                return;
            }
        }
    }
}

/// Reads all blocks of a snapshot and restores those of the swarms as they arrive: the reader may be a
/// socket. `now` is called for each block, `progress` after each.
///
/// # Errors
/// Fails when the snapshot cannot be read or is damaged; what precedes that is restored.
pub fn restore_all<R: Read>(
    restore: &mut Restore<'_>,
    reader: &mut SnapshotReader<R>,
    now: impl Fn() -> Now,
    mut progress: impl FnMut(&Summary),
) -> Result<Summary, SnapshotError> {
    let written_at = reader.written_at();
    while let Some((tag, payload)) = reader.next_block()? {
        if tag == TAG_SWARMS {
            restore.restore_swarms(now(), written_at, payload)?;
            progress(&restore.summary);
        }
    }
    Ok(restore.summary)
}

/// Checks the payload of a block.
///
/// # Errors
/// Fails when it is damaged.
pub fn check_swarms(payload: &[u8]) -> Result<(), SnapshotError> {
    let mut from = payload;
    take_array::<4>(&mut from)?;
    while !from.is_empty() {
        TorrentEntry::parse_entry(&mut from)?;
    }
    Ok(())
}

impl Torrent {
    /// Adds a peer if it is not there yet.
    fn restore_peer(
        &mut self,
        now: Tick,
        elapsed: u64,
        peer: &SavedPeer,
        may_grow: bool,
        policy: &Policy,
        hasher: &KeyedHash,
    ) -> PeerOutcome {
        if may_grow {
            self.make_room(peer.wire, policy, hasher);
        }
        let age_seconds = u32::try_from(elapsed.saturating_add(peer.age_seconds.into())).unwrap_or(u32::MAX);
        // Peers older than this process have a tick below zero, which wraps as all ticks do.
        let seen = LastSeen::new(Tick(now.0.wrapping_sub(age_seconds)), peer.paused);
        let context = RestoreContext { seen, peer, may_grow, policy, hasher };
        match (&mut self.peers, peer.wire) {
            (SwarmForm::Pair(pair), WirePeer::V4(octets)) => context.add_to_set(pair, octets),
            (SwarmForm::One(one), WirePeer::V6(octets)) => context.add_to_set(one, octets),
            (SwarmForm::Small(small), WirePeer::V4(octets)) => context.add_to_set(small, octets),
            (SwarmForm::Small(small), WirePeer::V6(octets)) => context.add_to_set(small, octets),
            (SwarmForm::Large(swarm), WirePeer::V4(octets)) => context.add_to_set(&mut swarm.v4, octets),
            (SwarmForm::Large(swarm), WirePeer::V6(octets)) => match &mut swarm.v6 {
                Some(large) => context.add_to_set(&mut **large, octets),
                None => PeerOutcome::Full,
            },
            (SwarmForm::Idle(_), _)
            | (SwarmForm::Pair(_), WirePeer::V6(_))
            | (SwarmForm::One(_), WirePeer::V4(_)) => PeerOutcome::Full,
        }
    }
}

/// The settings and time by which peers are restored.
struct RestoreContext<'a> {
    seen: LastSeen,
    peer: &'a SavedPeer,
    may_grow: bool,
    policy: &'a Policy,
    hasher: &'a KeyedHash,
}

impl RestoreContext<'_> {
    fn add_to_set<const LEN: usize>(&self, peer_set: &mut impl PeerSet<LEN>, octets: [u8; LEN]) -> PeerOutcome
    where
        [u8; LEN]: Endpoint,
    {
        let (peer, policy, hasher) = (self.peer, self.policy, self.hasher);
        if peer_set.find(&octets, peer.seeder, hasher).is_some() {
            return PeerOutcome::Known;
        }
        let crowded = || {
            hasher
                .peers_limit(&octets)
                .is_some_and(|limit| peer_set.count_at_address(&octets, hasher) >= limit)
        };
        if !self.may_grow || crowded() {
            return PeerOutcome::Full;
        }
        let stored = StoredPeer { octets, seen: self.seen, id: peer.id };
        let pos = peer_set.insert(&stored, peer.seeder, scope_of_peer(&octets, policy), hasher);
        pos.map_or(PeerOutcome::Full, |_| PeerOutcome::Added)
    }
}
