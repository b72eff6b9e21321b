//! Puts the swarms of a snapshot back, among those that are there already.

use std::fmt;
use std::io::Read;

use crate::admission::Policy;
use crate::clock::{Now, Tick};
use crate::snapshot::container::{Reader, SnapshotError};
use crate::snapshot::entry::{Entry, SavedPeer, take};
use crate::snapshot::swarms::TAG_SWARMS;
use crate::swarm::Swarms;
use crate::swarm::peer::{Endpoint, Member, Seen, Wire, reach_of};
use crate::swarm::peer_set::Roster;
use crate::swarm::torrent::{Peers, Torrent};
use crate::table::keyed_hash::Keys;

/// Peers that are added under one lock.
const CHUNK: usize = 256;

/// Who knows how often a torrent was downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletedFrom {
    /// The snapshot; of its count and the one that is there the higher holds.
    Snapshot,
    /// A store, from which the counts come or came by [`Swarms::set_completed`]. Those of the snapshot are
    /// not looked at, and torrents without peers are left to the store.
    Store,
}

/// What became of the torrents and peers of a snapshot.
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
    /// Peers there was no room for: `memory.max`, or `announce.peers_per_address`.
    pub left_out: u64,
    /// Torrents there was no room for; their peers are among those left out.
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

/// What became of one peer.
enum Taken {
    Added,
    Known,
    Full,
}

/// A restore that goes on.
#[derive(Debug)]
pub struct Restore<'a> {
    swarms: &'a Swarms,
    policy: &'a Policy,
    completed: CompletedFrom,
    summary: Summary,
}

impl<'a> Restore<'a> {
    /// Nothing restored yet.
    #[must_use]
    pub fn new(swarms: &'a Swarms, policy: &'a Policy, completed: CompletedFrom) -> Self {
        Self { swarms, policy, completed, summary: Summary::default() }
    }

    /// What was done so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Restores one block with the tag [`TAG_SWARMS`] of a snapshot that was begun at `written_at`, in Unix
    /// seconds.
    ///
    /// # Errors
    /// When it is nonsense; what comes before that is restored.
    pub fn block(&mut self, now: Now, written_at: i64, payload: &[u8]) -> Result<(), SnapshotError> {
        let mut from = payload;
        let base = written_at.saturating_add(u32::from_le_bytes(take(&mut from)?).into());
        let unix = i64::try_from(now.unix_seconds).unwrap_or(i64::MAX);
        // A clock that went back makes nobody younger.
        let elapsed = unix.saturating_sub(base).max(0).unsigned_abs();
        while !from.is_empty() {
            self.entry(now.tick, elapsed, &Entry::read(&mut from)?);
        }
        Ok(())
    }

    fn entry(&mut self, now: Tick, elapsed: u64, entry: &Entry<'_>) {
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
                for peer in alive.by_ref().take(CHUNK) {
                    left -= 1;
                    match torrent.take_in(now, elapsed, &peer, may_grow, policy, swarms.keys()) {
                        Taken::Added => summary.peers += 1,
                        Taken::Known => summary.known += 1,
                        Taken::Full => summary.left_out += 1,
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

/// Reads all blocks of a snapshot and restores those of the swarms, as they come: the reader may be at the
/// end of a socket. `now` is asked for each block; `progress` is told after each.
///
/// # Errors
/// When it cannot be read or is damaged; what comes before that is restored.
pub fn restore<R: Read>(
    restore: &mut Restore<'_>,
    reader: &mut Reader<R>,
    now: impl Fn() -> Now,
    mut progress: impl FnMut(&Summary),
) -> Result<Summary, SnapshotError> {
    let written_at = reader.written_at();
    while let Some((tag, payload)) = reader.next_block()? {
        if tag == TAG_SWARMS {
            restore.block(now(), written_at, payload)?;
            progress(&restore.summary);
        }
    }
    Ok(restore.summary)
}

/// Is the payload of a block in order?
///
/// # Errors
/// When it is nonsense.
pub fn check(payload: &[u8]) -> Result<(), SnapshotError> {
    let mut from = payload;
    take::<4>(&mut from)?;
    while !from.is_empty() {
        Entry::read(&mut from)?;
    }
    Ok(())
}

impl Torrent {
    /// Takes a peer in that is not there yet.
    fn take_in(
        &mut self,
        now: Tick,
        elapsed: u64,
        peer: &SavedPeer,
        may_grow: bool,
        policy: &Policy,
        keys: &Keys,
    ) -> Taken {
        if may_grow {
            self.make_room(peer.wire, policy, keys);
        }
        let age_seconds = u32::try_from(elapsed.saturating_add(peer.age_seconds.into())).unwrap_or(u32::MAX);
        // Peers older than this process have a tick below zero, which wraps as all ticks do.
        let seen = Seen::new(Tick(now.0.wrapping_sub(age_seconds)), peer.paused);
        let context = Context { seen, peer, may_grow, policy, keys };
        match (&mut self.peers, peer.wire) {
            (Peers::Pair(pair), Wire::V4(octets)) => context.take_in(pair, octets),
            (Peers::Group(group), Wire::V4(octets)) => context.take_in(group, octets),
            (Peers::Crowd(swarm), Wire::V4(octets)) => context.take_in(&mut swarm.v4, octets),
            (Peers::Crowd(swarm), Wire::V6(octets)) => match &mut swarm.v6 {
                Some(crowd) => context.take_in(&mut **crowd, octets),
                None => Taken::Full,
            },
            (Peers::Idle(_), _) | (Peers::Pair(_) | Peers::Group(_), Wire::V6(_)) => Taken::Full,
        }
    }
}

/// What a peer is taken in by.
struct Context<'a> {
    seen: Seen,
    peer: &'a SavedPeer,
    may_grow: bool,
    policy: &'a Policy,
    keys: &'a Keys,
}

impl Context<'_> {
    fn take_in<const LEN: usize>(&self, roster: &mut impl Roster<LEN>, octets: [u8; LEN]) -> Taken
    where
        [u8; LEN]: Endpoint,
    {
        let (peer, policy, keys) = (self.peer, self.policy, self.keys);
        if roster.find(&octets, peer.seeder, keys).is_some() {
            return Taken::Known;
        }
        let crowded =
            || keys.limit_at(&octets).is_some_and(|limit| roster.neighbours(&octets, keys) >= limit);
        if !self.may_grow || crowded() {
            return Taken::Full;
        }
        let member = Member { octets, seen: self.seen, id: peer.id };
        let spot = roster.insert(&member, peer.seeder, reach_of(&octets, policy), keys);
        spot.map_or(Taken::Full, |_| Taken::Added)
    }
}
