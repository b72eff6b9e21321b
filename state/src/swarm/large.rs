//! [`LargeSwarm`]: a swarm of any size. The peers of each family are in groups by their scope: a swarm may
//! have few peers that can be handed out among many that cannot, and a choice must not pay for those.

use crate::address::{AddressScope, ScopeSet};
use crate::admission::Policy;
use crate::announce::{Endpoint, PEER_V4_LEN, PEER_V6_LEN, WirePeer, have_same_address_key};
use crate::clock::Tick;
use crate::ids::PeerId;
use crate::swarm::block::{Block, allocation};
use crate::swarm::buckets::{PeerBuckets, position};
use crate::swarm::peer::{LastSeen, PeerPos, StoredPeer, scope_of_peer};
use crate::swarm::peer_set::PeerSet;
use crate::swarm::scope_group::ScopeGroup;
use crate::swarm::select::{Pool, RolePeers};
use crate::table::keyed_hash::KeyedHash;

/// A swarm of any size, with peers of both families, and with ids where they are kept.
#[derive(Debug)]
pub(crate) struct LargeSwarm {
    pub(crate) v4: LargeFamily<PEER_V4_LEN>,
    pub(crate) v6: Option<Box<LargeFamily<PEER_V6_LEN>>>,
}

/// Peers of one family, of any number.
#[derive(Debug)]
pub(crate) struct LargeFamily<const LEN: usize> {
    /// Peers that every client can reach; in most swarms, all.
    public: ScopeGroup<LEN>,
    /// The groups of the other scopes, sorted by scope; a group without peers is dropped.
    others: Vec<ScopeGroup<LEN>>,
    // Kept because each announce needs them several times.
    seeders: u32,
    leechers: u32,
    /// Octets of all buckets.
    buckets_heap: usize,
    paused: u32,
}

/// The position of a sweep in one torrent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum SweepCursor {
    /// Not begun.
    #[default]
    Start,
    V4(LargeCursor),
    /// IPv4 is done.
    V6(Option<LargeCursor>),
}

/// The position of a sweep in a large swarm: one group after the other, seeders first, the last bucket first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LargeCursor {
    scope: AddressScope,
    seeders: bool,
    /// The bucket before which to go on.
    bucket: usize,
}

impl LargeCursor {
    fn at(scope: AddressScope, seeders: bool) -> Self {
        Self { scope, seeders, bucket: usize::MAX }
    }
}

impl LargeSwarm {
    pub(crate) fn new(with_ids: bool) -> Self {
        Self { v4: LargeFamily::new(with_ids), v6: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.v4.len() + self.v6.as_ref().map_or(0, |v6| v6.len())
    }

    /// Octets on the heap, this struct included.
    pub(crate) fn heap(&self) -> usize {
        let heap_of_v6 = |v6: &LargeFamily<_>| allocation(size_of_val(v6)) + v6.heap();
        allocation(size_of::<Self>()) + self.v4.heap() + self.v6.as_deref().map_or(0, heap_of_v6)
    }

    /// Makes sure that the peer's family is there, and keeps ids from now on if `keep_ids`.
    pub(crate) fn make_room(&mut self, wire: WirePeer, keep_ids: bool) {
        if matches!(wire, WirePeer::V6(_)) {
            self.v6_or_new();
        }
        if keep_ids {
            self.keep_ids(true);
        }
    }

    /// Returns the peers of IPv6, which most swarms do not have.
    pub(crate) fn v6_or_new(&mut self) -> &mut LargeFamily<PEER_V6_LEN> {
        let with_ids = self.v4.with_ids();
        self.v6.get_or_insert_with(|| Box::new(LargeFamily::new(with_ids)))
    }

    pub(crate) fn drop_empty_v6(&mut self) {
        self.v6.take_if(|v6| v6.len() == 0);
    }

    /// Keeps peer ids from now on, or drops them; see [`LargeFamily::keep_ids`].
    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        self.v4.keep_ids(with_ids);
        self.v6.iter_mut().for_each(|v6| v6.keep_ids(with_ids));
    }

    /// Drops expired peers; looks at `most` peers, or a few more. Returns how many were looked at, and
    /// whether all were.
    pub(crate) fn expire(
        &mut self,
        now: Tick,
        policy: &Policy,
        cursor: &mut SweepCursor,
        most: usize,
        hasher: &KeyedHash,
    ) -> (usize, bool) {
        let mut looked = 0;
        let v4 = match *cursor {
            SweepCursor::Start => Some(None),
            SweepCursor::V4(at) => Some(Some(at)),
            SweepCursor::V6(_) => None,
        };
        if let Some(mut at) = v4 {
            looked = self.v4.expire(now, policy, &mut at, most, hasher);
            *cursor = at.map_or(SweepCursor::V6(None), SweepCursor::V4);
        }
        match (cursor, &mut self.v6) {
            (SweepCursor::V6(_), None) => (looked, true),
            (SweepCursor::V6(at), Some(v6)) if looked < most => {
                looked += v6.expire(now, policy, at, most - looked, hasher);
                (looked, at.is_none())
            }
            _ => (looked, false),
        }
    }
}

impl<const LEN: usize> LargeFamily<LEN>
where
    [u8; LEN]: Endpoint,
{
    pub(crate) fn new(with_ids: bool) -> Self {
        let (public, others) = (ScopeGroup::new(AddressScope::Public, with_ids), Vec::new());
        Self { buckets_heap: public.heap(), public, others, seeders: 0, leechers: 0, paused: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.seeders as usize + self.leechers as usize
    }

    /// Returns the numbers of seeders and leechers.
    pub(crate) fn role_counts(&self) -> (u32, u32) {
        (self.seeders, self.leechers)
    }

    pub(crate) fn paused(&self) -> u32 {
        self.paused
    }

    pub(crate) fn with_ids(&self) -> bool {
        self.public.role(true).with_ids()
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.buckets_heap + self.others.capacity() * size_of::<ScopeGroup<LEN>>()
    }

    /// Keeps peer ids from now on (those of the peers already here are unknown), or drops them.
    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        self.public.keep_ids(with_ids);
        self.others.iter_mut().for_each(|group| group.keep_ids(with_ids));
    }

    /// Returns the peers to choose from.
    pub(crate) fn pool(&self) -> Pool<'_, LEN> {
        Pool {
            seeders: RolePeers::Buckets(self.public.role(true)),
            leechers: RolePeers::Buckets(self.public.role(false)),
            others: &self.others,
            with_ids: self.with_ids(),
            scopes: ScopeSet::NONE.with(AddressScope::Public),
        }
    }

    /// Iterates over all peers with their roles, for a swarm that takes another form.
    pub(crate) fn stored_peers(&self) -> impl Iterator<Item = (StoredPeer<LEN>, bool)> {
        self.groups().flat_map(ScopeGroup::roles).flat_map(|(buckets, seeder)| {
            let blocks = (0..buckets.bucket_count()).filter_map(|bucket| buckets.bucket(bucket));
            blocks.flat_map(move |block| {
                (0..block.len()).filter_map(|place| block.peer_at(place)).map(move |stored| (stored, seeder))
            })
        })
    }

    /// Shows `take` the peers from a position on, until at least `most` were looked at, and at most one
    /// bucket of each role and group more. A peer that is here from the first call to the last is shown once,
    /// whatever becomes of its bucket, role and group meanwhile. Returns how many were looked at; the cursor
    /// is `None` when all were.
    pub(crate) fn walk(
        &self,
        cursor: &mut Option<u32>,
        most: usize,
        hasher: &KeyedHash,
        mut take: impl FnMut(&Block<LEN>, usize, bool),
    ) -> usize {
        let mut looked = 0;
        while let Some(first) = *cursor
            && looked < most
        {
            let all_buckets = || self.groups().flat_map(ScopeGroup::roles);
            // All buckets up to the same position: otherwise a peer that changes its role would be missed.
            let last = all_buckets()
                .fold(u32::MAX, |last, (buckets, _)| last.min(*buckets.bucket_at(first).1.end()));
            for (buckets, seeder) in all_buckets() {
                let (bucket, range) = buckets.bucket_at(first);
                let Some(block) = buckets.bucket(bucket) else { continue };
                let all = range == (first..=last);
                for (place, peer) in block.octets().iter().enumerate() {
                    if all || (first..=last).contains(&position(hasher.peer(peer))) {
                        take(block, place, seeder);
                    }
                }
                looked += block.len();
            }
            looked += 1;
            *cursor = last.checked_add(1);
        }
        looked
    }

    /// Drops expired peers, and moves peers that are in the wrong group, because a reload has changed which
    /// ports are denied. Stops after `most` peers, or up to one bucket later. Returns how many were looked
    /// at; the cursor is `None` when all were.
    pub(crate) fn expire(
        &mut self,
        now: Tick,
        policy: &Policy,
        cursor: &mut Option<LargeCursor>,
        most: usize,
        hasher: &KeyedHash,
    ) -> usize {
        self.keep_ids(policy.keep_peer_ids);
        let mut at = cursor.take().unwrap_or(LargeCursor::at(AddressScope::Public, true));
        let mut looked = 0;
        while looked < most {
            let buckets = self.group(at.scope).map_or(0, |group| group.role(at.seeders).bucket_count());
            if let Some(bucket) = at.bucket.min(buckets).checked_sub(1) {
                at.bucket = bucket;
                looked += self.expire_bucket(now, policy, at, hasher).max(1);
                continue;
            }
            if at.seeders {
                at = LargeCursor::at(at.scope, false);
                continue;
            }
            self.drop_empty_group(at.scope);
            let Some(next) = self.others.iter().map(ScopeGroup::scope).find(|scope| *scope > at.scope) else {
                return looked;
            };
            at = LargeCursor::at(next, true);
        }
        *cursor = Some(at);
        looked
    }

    /// Expires one bucket; returns how many peers were in it.
    fn expire_bucket(&mut self, now: Tick, policy: &Policy, at: LargeCursor, hasher: &KeyedHash) -> usize {
        let mut misplaced = Vec::new();
        let mut paused = 0;
        let leaves = |block: &Block<LEN>, place: usize| {
            let seen = block.seen(place);
            let expired = seen.age_seconds(now) > policy.peer_inactivity_seconds;
            let misplaced_peer =
                block.octets().get(place).filter(|peer| scope_of_peer(*peer, policy) != at.scope);
            if !expired && misplaced_peer.is_some() {
                misplaced.extend(block.peer_at(place));
            }
            let leaves = expired || misplaced_peer.is_some();
            paused += u32::from(leaves && seen.paused());
            leaves
        };
        let looked =
            self.update_role(at.scope, at.seeders, |buckets| buckets.expire(at.bucket, hasher, leaves));
        self.paused -= paused;
        for misplaced_peer in misplaced {
            self.insert(&misplaced_peer, at.seeders, scope_of_peer(&misplaced_peer.octets, policy), hasher);
        }
        looked.unwrap_or(0)
    }

    /// Changes the buckets of a role and keeps the counts correct.
    fn update_role<T>(
        &mut self,
        scope: AddressScope,
        seeder: bool,
        work: impl FnOnce(&mut PeerBuckets<LEN>) -> T,
    ) -> Option<T> {
        let buckets = self.group_mut(scope)?.role_mut(seeder);
        let (len, heap) = (buckets.len(), buckets.heap());
        let result = work(buckets);
        let (grown, len) = (buckets.heap(), count_u32(buckets.len()).wrapping_sub(count_u32(len)));
        self.buckets_heap = self.buckets_heap + grown - heap;
        let peers = if seeder { &mut self.seeders } else { &mut self.leechers };
        *peers = peers.wrapping_add(len);
        Some(result)
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &ScopeGroup<LEN>> + Clone {
        std::iter::once(&self.public).chain(&self.others)
    }

    fn group(&self, scope: AddressScope) -> Option<&ScopeGroup<LEN>> {
        self.groups().find(|group| group.scope() == scope)
    }

    fn group_mut(&mut self, scope: AddressScope) -> Option<&mut ScopeGroup<LEN>> {
        if scope == AddressScope::Public {
            return Some(&mut self.public);
        }
        self.others.iter_mut().find(|group| group.scope() == scope)
    }

    /// Makes sure that a scope has a group.
    fn ensure_group(&mut self, scope: AddressScope) {
        if scope == AddressScope::Public {
            return;
        }
        if let Err(place) = self.others.binary_search_by_key(&scope, ScopeGroup::scope) {
            let group = ScopeGroup::new(scope, self.with_ids());
            self.buckets_heap += group.heap();
            self.others.reserve_exact(1);
            self.others.insert(place, group);
        }
    }

    fn drop_empty_group(&mut self, scope: AddressScope) {
        let heap = &mut self.buckets_heap;
        self.others.retain(|group| {
            let stays = group.scope() != scope || group.len() > 0;
            *heap -= if stays { 0 } else { group.heap() };
            stays
        });
        self.others.shrink_to_fit();
    }

    fn remove_peer(&mut self, pos: PeerPos, hasher: &KeyedHash) -> Option<StoredPeer<LEN>> {
        let stored =
            self.update_role(pos.scope, pos.seeder, |buckets| buckets.remove(pos, hasher)).flatten()?;
        self.paused -= u32::from(stored.seen.paused());
        Some(stored)
    }
}

impl<const LEN: usize> PeerSet<LEN> for LargeFamily<LEN>
where
    [u8; LEN]: Endpoint,
{
    fn find(&self, peer: &[u8; LEN], seeder: bool, hasher: &KeyedHash) -> Option<PeerPos> {
        let hash = hasher.peer(peer);
        let public = self.public.find(hash, peer, seeder);
        public.or_else(|| self.others.iter().find_map(|group| group.find(hash, peer, seeder)))
    }

    fn insert(
        &mut self,
        stored: &StoredPeer<LEN>,
        seeder: bool,
        scope: AddressScope,
        hasher: &KeyedHash,
    ) -> Option<PeerPos> {
        self.ensure_group(scope);
        let hash = hasher.peer(&stored.octets);
        let pos =
            self.update_role(scope, seeder, |buckets| buckets.insert(hash, stored, hasher)).flatten()?;
        self.paused += u32::from(stored.seen.paused());
        Some(pos)
    }

    fn stored(&self, pos: PeerPos) -> Option<StoredPeer<LEN>> {
        let buckets = self.group(pos.scope)?.role(pos.seeder);
        buckets.bucket(pos.bucket as usize)?.peer_at(usize::from(pos.place))
    }

    fn remove(&mut self, pos: PeerPos, hasher: &KeyedHash) {
        self.remove_peer(pos, hasher);
    }

    fn renew(&mut self, pos: PeerPos, seen: LastSeen, id: PeerId) {
        let before =
            self.update_role(pos.scope, pos.seeder, |buckets| buckets.renew(pos, seen, id)).flatten();
        self.paused = self.paused + u32::from(seen.paused()) - u32::from(before.unwrap_or(seen).paused());
    }

    fn move_to(
        &mut self,
        pos: PeerPos,
        seeder: bool,
        scope: AddressScope,
        hasher: &KeyedHash,
    ) -> Option<PeerPos> {
        if (pos.seeder, pos.scope) == (seeder, scope) {
            return Some(pos);
        }
        let stored = self.remove_peer(pos, hasher)?;
        self.insert(&stored, seeder, scope, hasher)
    }

    fn count_at_address(&self, peer: &[u8; LEN], hasher: &KeyedHash) -> usize {
        let hash = hasher.peer(peer);
        let near = |other: &[u8; LEN]| have_same_address_key(other, peer);
        self.groups()
            .flat_map(ScopeGroup::roles)
            .map(|(buckets, _)| buckets.count_in_bucket(hash, near))
            .sum()
    }
}

fn count_u32(peers: usize) -> u32 {
    u32::try_from(peers).unwrap_or(u32::MAX)
}
