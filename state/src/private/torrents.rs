//! Registered torrents with their peers, in shards: many small locks. Everything an announce changes is
//! changed under one of them, and its records are queued under it too, so that later counts never overtake
//! earlier ones on their way to the store.

use std::sync::Arc;

use hashbrown::HashTable;

use super::anomalies::Anomalies;
use super::dormant::DormantSessions;
use super::peer::UnixSeconds;
use super::swarm::{ClassCursor, Swarm};
use super::torrent_type::{TorrentType, TorrentTypes};
use crate::announce::Tally;
use crate::ids::InfoHash;
use crate::metrics::Board;
use crate::metrics::histogram::Histogram;
use crate::peer_counts::{PeerCounts, ReportRow};
use crate::snapshot::site::Multipliers;
use crate::store::RegisteredTorrent;
use crate::store::record::TorrentRow;
use crate::table::keyed_hash::KeyedHash;
use crate::table::prefetch::prefetch;
use crate::table::sharded::{ShardMemory, Sharded};

/// Shards; a power of two.
pub(super) const SHARDS: usize = 4096;

/// Peers that a walk through all of them looks at under one lock. Large swarms take several slices.
pub(super) const SLICE: usize = 1024;

/// `Status` of a torrent whose peers are handed out.
pub(super) const LIVE: i32 = 0;
/// `Status` of a torrent that comes back to life with its first seeder.
pub(super) const PRUNED: i32 = 1;

/// All registered torrents of a site, shared by both servers, the site sync and the snapshot thread.
#[derive(Debug)]
pub struct Torrents {
    shards: Sharded<SiteShard, SHARDS>,
    torrent_types: TorrentTypes,
    /// Durations of the rounds of [`PeerExpiry`](super::PeerExpiry).
    pub(crate) expiry_durations: Arc<Histogram>,
    /// Announces that were not believed.
    pub(super) anomalies: Arc<Anomalies>,
    pub(super) dormant: DormantSessions,
}

/// The torrents behind one lock.
#[derive(Debug, Default)]
pub(super) struct SiteShard {
    torrents: HashTable<TorrentState>,
    totals: ShardTotals,
    /// Announces for which there was no memory.
    full_total: u64,
    /// Peers that were replaced by another of the same user.
    replaced_total: u64,
}

/// The totals of a torrent or a shard.
#[derive(Clone, Copy, Debug, Default)]
struct ShardTotals {
    peers: RoleCounts,
    peer_counts: PeerCounts,
    /// Torrents with peers.
    live: usize,
    /// Octets that the swarms take.
    octets: usize,
}

/// Side effects of an announce, which are counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AnnounceEffects {
    /// Whether there was no memory for the peer.
    pub(super) full: bool,
    /// Whether another peer of the same user was replaced.
    pub(super) replaced: bool,
}

/// A walk through the torrents of one shard.
#[derive(Debug)]
pub(super) struct ShardWalk {
    shard: usize,
    /// The torrents still to be visited, the next one last.
    remaining: Vec<InfoHash>,
    cursor: Option<ClassCursor>,
}

/// Numbers of peers by role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleCounts {
    /// Peers that have the whole torrent.
    pub seeders: usize,
    /// All other peers.
    pub leechers: usize,
}

/// One registered torrent.
#[derive(Debug)]
pub(super) struct TorrentState {
    pub(super) info: TorrentInfo,
    pub(super) last_action: UnixSeconds,
    /// The number of the last reload in which it occurred.
    generation: u32,
    pub(super) swarm: Option<Box<Swarm>>,
}

/// What the store says about a torrent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TorrentInfo {
    pub(super) info_hash: InfoHash,
    pub(super) id: u32,
    pub(super) torrent_type: TorrentType,
    pub(super) group: u32,
    pub(super) snatched: u32,
    pub(super) status: i32,
    pub(super) multipliers: Multipliers,
}

impl TorrentInfo {
    /// Returns the torrent that a row of the store describes.
    pub(super) fn from_store(row: &RegisteredTorrent, torrent_types: &TorrentTypes) -> Self {
        Self {
            info_hash: row.info_hash,
            id: row.id,
            torrent_type: torrent_types.intern(&row.group.type_name),
            group: row.group.id,
            snatched: row.snatched,
            status: row.status,
            multipliers: row.multipliers,
        }
    }
}

impl TorrentState {
    pub(super) fn tally(&self) -> Tally {
        let count = |peers: usize| u32::try_from(peers).unwrap_or(u32::MAX);
        let (seeders, leechers) =
            self.swarm.as_ref().map_or((0, 0), |swarm| (count(swarm.seeders()), count(swarm.leechers())));
        Tally { seeders, completed: self.info.snatched, leechers, paused: 0 }
    }

    /// Returns a record of the swarm's counts and nothing else.
    pub(super) fn counts_row(&self) -> TorrentRow {
        let tally = self.tally();
        let (seeders, leechers) = (tally.seeders, tally.leechers);
        TorrentRow { id: self.info.id, seeders, leechers, has_counts: true, ..TorrentRow::default() }
    }
}

impl Default for Torrents {
    fn default() -> Self {
        Self {
            shards: Sharded::new(KeyedHash::new(0)),
            torrent_types: TorrentTypes::default(),
            expiry_durations: Arc::new(Histogram::milliseconds()),
            anomalies: Arc::default(),
            dormant: DormantSessions::default(),
        }
    }
}

impl Torrents {
    /// Returns an empty set of torrents.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Registers the counters of announces that were not believed.
    pub fn register_metrics(&self, board: &Board) {
        self.anomalies.register_metrics(board);
    }

    /// The types of the torrents.
    #[must_use]
    pub fn torrent_types(&self) -> &TorrentTypes {
        &self.torrent_types
    }

    /// The number of registered torrents. Takes every lock once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.fold(0, |sum, shard| sum + shard.torrents.len())
    }

    /// Whether no torrent is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of all peers. Takes every lock once.
    #[must_use]
    pub fn peers(&self) -> RoleCounts {
        self.totals().peers
    }

    /// The numbers of peers by family: one that is reached over both counts in both.
    #[must_use]
    pub fn peer_counts(&self) -> PeerCounts {
        self.totals().peer_counts
    }

    /// The number of torrents with peers.
    #[must_use]
    pub fn live(&self) -> usize {
        self.totals().live
    }

    /// Octets that all torrents and peers take, by the tracker's own count.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.shards.memory()
    }

    /// Announces answered without peers because the memory budget was used up.
    #[must_use]
    pub fn full_total(&self) -> u64 {
        self.shards.fold(0, |sum, shard| sum + shard.full_total)
    }

    /// Peers that were replaced by another one of the same user and torrent.
    #[must_use]
    pub fn replaced_total(&self) -> u64 {
        self.shards.fold(0, |sum, shard| sum + shard.replaced_total)
    }

    /// Whether peers may be added under this memory budget.
    pub(super) fn may_grow(&self, octets_max: u64) -> bool {
        octets_max == 0 || self.shards.is_below(octets_max)
    }

    fn totals(&self) -> ShardTotals {
        self.shards.fold(ShardTotals::default(), |mut sum, shard| {
            sum.replace(ShardTotals::default(), shard.totals);
            sum
        })
    }

    /// Fetches what the announces of a batch will need into the processor's cache.
    pub(crate) fn prefetch_batch(&self, info_hashes: impl Iterator<Item = InfoHash>) {
        let keys = info_hashes.map(|info_hash| (self.hasher().info_hash(&info_hash), info_hash));
        self.shards.prefetch_batch(
            keys,
            &[
                |shard, hash, info_hash| shard.with_swarm(hash, &info_hash, prefetch),
                |shard, hash, info_hash| shard.with_swarm(hash, &info_hash, Swarm::prefetch_columns),
            ],
        );
    }

    /// The hashes of torrents and peers.
    pub(super) fn hasher(&self) -> &KeyedHash {
        &self.shards.hasher
    }

    /// Runs `work` on a torrent under its lock; returns `None` if the torrent is not registered.
    pub(super) fn with_torrent<T>(
        &self,
        info_hash: &InfoHash,
        work: impl FnOnce(&mut TorrentState) -> T,
    ) -> Option<T> {
        let hash = self.hasher().info_hash(info_hash);
        self.shards.update(hash, |shard| shard.work_on(hash, info_hash, work))
    }

    /// Like [`with_torrent`](Self::with_torrent), for an announce: also counts its effects.
    pub(super) fn with_torrent_for_announce<T>(
        &self,
        info_hash: &InfoHash,
        work: impl FnOnce(&mut TorrentState, &mut AnnounceEffects) -> T,
    ) -> Option<T> {
        let hash = self.hasher().info_hash(info_hash);
        self.shards.update(hash, |shard| {
            let mut effects = AnnounceEffects::default();
            let result = shard.work_on(hash, info_hash, |torrent| work(torrent, &mut effects));
            shard.full_total += u64::from(effects.full);
            shard.replaced_total += u64::from(effects.replaced);
            result
        })
    }

    /// Runs `work` on all torrents of one shard under its lock, but not on their peers. Torrents for which it
    /// returns `false` are removed.
    pub(super) fn retain(&self, shard: usize, mut work: impl FnMut(&mut TorrentState) -> bool) {
        let gone = self.shards.update_nth(shard, |shard| {
            let SiteShard { torrents, totals, .. } = shard;
            let mut gone = Vec::new();
            torrents.retain(|torrent| {
                let before = ShardTotals::from_torrent(torrent);
                let stays = work(torrent);
                let after = if stays { ShardTotals::from_torrent(torrent) } else { ShardTotals::default() };
                totals.replace(before, after);
                if !stays {
                    gone.extend(torrent.swarm.take());
                }
                stays
            });
            if torrents.capacity() > 4 * torrents.len().max(16) {
                torrents.shrink_to(2 * torrents.len(), |torrent| {
                    self.hasher().info_hash(&torrent.info.info_hash)
                });
            }
            gone
        });
        // A large swarm is let go when nobody waits for the lock any more.
        drop(gone);
    }

    /// Begins a walk through the torrents of one shard: those with peers, or `all`. Torrents that are added
    /// meanwhile may be left out.
    pub(super) fn walk_shard(&self, shard: usize, all: bool) -> ShardWalk {
        let left = self.shards.read_nth(shard, |shard| {
            let there = shard.torrents.iter().filter(|torrent| all || torrent.swarm.is_some());
            there.map(|torrent| torrent.info.info_hash).collect()
        });
        ShardWalk { shard, remaining: left.unwrap_or_default(), cursor: Some(ClassCursor::default()) }
    }

    /// Continues the walk for a slice of peers under one lock: `work` looks at up to the given number of
    /// peers of a torrent, from where the walk stands, and returns how many it looked at. Returns `false` at
    /// the end.
    pub(super) fn walk_slice(
        &self,
        walk: &mut ShardWalk,
        mut work: impl FnMut(&mut TorrentState, &mut Option<ClassCursor>, usize) -> usize,
    ) -> bool {
        // Fairly, because the next slice takes the lock again at once.
        let more = self.shards.update_nth_fairly(walk.shard, |shard| {
            let mut most = SLICE;
            while most > 0
                && let Some(info_hash) = walk.remaining.last()
            {
                let hash = self.hasher().info_hash(info_hash);
                let looked_at =
                    shard.work_on(hash, info_hash, |torrent| work(torrent, &mut walk.cursor, most));
                // One that is gone costs a little, too.
                most = most.saturating_sub(looked_at.unwrap_or_default().max(1));
                if looked_at.is_none() || walk.cursor.is_none() {
                    walk.remaining.pop();
                    walk.cursor = Some(ClassCursor::default());
                }
            }
            !walk.remaining.is_empty()
        });
        more.unwrap_or_default()
    }

    /// Appends a report row for every torrent of a shard that has counts. Returns false past the last shard.
    pub(crate) fn report_rows(&self, shard: usize, rows: &mut Vec<ReportRow>) -> bool {
        let row = |torrent: &TorrentState| ReportRow {
            info_hash: torrent.info.info_hash,
            peers: torrent.swarm.as_ref().map(|swarm| swarm.peer_counts()).unwrap_or_default(),
            completed: torrent.info.snatched,
        };
        let found = self.shards.read_nth(shard, |shard| {
            rows.extend(shard.torrents.iter().map(row).filter(ReportRow::has_counts));
        });
        found.is_some()
    }

    /// Returns the info_hash of the torrent with this id. Takes every lock once.
    #[must_use]
    pub fn find_by_id(&self, id: u32) -> Option<InfoHash> {
        let with_id = |torrent: &TorrentState| (torrent.info.id == id).then_some(torrent.info.info_hash);
        self.shards.find_map(|shard| shard.torrents.iter().find_map(with_id))
    }

    /// Returns the number of the shard of a torrent.
    pub(super) fn shard_of(&self, info_hash: &InfoHash) -> usize {
        Sharded::<SiteShard, SHARDS>::shard_number(self.hasher().info_hash(info_hash))
    }

    /// Registers torrents of one shard, or updates what is known about them; their peers stay. Torrents that
    /// the store still calls pruned but whose un-prune is pending are live.
    pub(super) fn put_all(
        &self,
        shard: usize,
        rows: &[TorrentInfo],
        generation: u32,
        is_unpruned: &dyn Fn(u32) -> bool,
    ) {
        let hash_of = |torrent: &TorrentState| self.hasher().info_hash(&torrent.info.info_hash);
        self.shards.update_nth(shard, |shard| {
            for row in rows {
                let pending = row.status == PRUNED && is_unpruned(row.id);
                let row = TorrentInfo { status: if pending { LIVE } else { row.status }, ..*row };
                let hash = self.hasher().info_hash(&row.info_hash);
                match shard.torrents.find_mut(hash, |torrent| torrent.info.info_hash == row.info_hash) {
                    Some(torrent) => (torrent.info, torrent.generation) = (row, generation),
                    None => {
                        let torrent = TorrentState { info: row, last_action: 0, generation, swarm: None };
                        shard.torrents.insert_unique(hash, torrent, hash_of);
                    }
                }
            }
        });
    }

    /// Removes the torrents of a shard that this reload did not contain.
    pub(super) fn forget_others(&self, shard: usize, generation: u32) {
        self.retain(shard, |torrent| torrent.generation == generation);
    }
}

impl SiteShard {
    fn work_on<T>(
        &mut self,
        hash: u64,
        info_hash: &InfoHash,
        work: impl FnOnce(&mut TorrentState) -> T,
    ) -> Option<T> {
        let torrent = self.torrents.find_mut(hash, |torrent| torrent.info.info_hash == *info_hash)?;
        let before = ShardTotals::from_torrent(torrent);
        let result = work(torrent);
        self.totals.replace(before, ShardTotals::from_torrent(torrent));
        Some(result)
    }

    fn with_swarm(&self, hash: u64, info_hash: &InfoHash, work: fn(&Swarm)) {
        let found = self.torrents.find(hash, |torrent| torrent.info.info_hash == *info_hash);
        if let Some(swarm) = found.and_then(|torrent| torrent.swarm.as_deref()) {
            work(swarm);
        }
    }
}

impl ShardMemory for SiteShard {
    fn memory(&self) -> usize {
        self.torrents.capacity() * (size_of::<TorrentState>() + 1) + self.totals.octets
    }
}

impl ShardTotals {
    fn from_torrent(torrent: &TorrentState) -> Self {
        let Some(swarm) = torrent.swarm.as_ref() else { return Self::default() };
        Self {
            peers: RoleCounts { seeders: swarm.seeders(), leechers: swarm.leechers() },
            peer_counts: swarm.peer_counts(),
            live: 1,
            octets: swarm.memory(),
        }
    }

    fn replace(&mut self, before: Self, after: Self) {
        self.peers.seeders = self.peers.seeders + after.peers.seeders - before.peers.seeders;
        self.peers.leechers = self.peers.leechers + after.peers.leechers - before.peers.leechers;
        self.peer_counts.replace(before.peer_counts, after.peer_counts);
        self.live = self.live + after.live - before.live;
        self.octets = self.octets + after.octets - before.octets;
    }
}
