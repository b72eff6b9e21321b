//! The peers of one family in a large swarm, or in one whose peer ids are kept: a pack of seeders and a pack
//! of leechers.

use crate::block::Block;
use crate::clock::Tick;
use crate::ids::PeerId;
use crate::keys::Keys;
use crate::pack::{Pack, position};
use crate::peer::{Endpoint, Member, Seen, Spot, are_near, reach_of};
use crate::policy::Policy;
use crate::reach::{Reach, ReachSet};
use crate::roster::Roster;

/// Peers of one family, of any number.
#[derive(Debug)]
pub(crate) struct Crowd<const LEN: usize> {
    seeders: Pack<LEN>,
    leechers: Pack<LEN>,
    paused: u32,
    /// Every reach a peer has had since the last full look; a sweep narrows it.
    reach: ReachSet,
    /// Every reach that was added since the current look began.
    fresh_reach: ReachSet,
}

/// Where a sweep stands in a crowd: seeders first, the last bucket first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrowdCursor {
    seeders: bool,
    /// The bucket before which to go on.
    bucket: usize,
    /// The reach of those looked at.
    found: ReachSet,
}

impl<const LEN: usize> Crowd<LEN>
where
    [u8; LEN]: Endpoint,
{
    pub(crate) fn new(with_ids: bool) -> Self {
        Self {
            seeders: Pack::new(true, with_ids),
            leechers: Pack::new(false, with_ids),
            paused: 0,
            reach: ReachSet::NONE,
            fresh_reach: ReachSet::NONE,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.seeders.len() + self.leechers.len()
    }

    pub(crate) fn seeders(&self) -> &Pack<LEN> {
        &self.seeders
    }

    pub(crate) fn leechers(&self) -> &Pack<LEN> {
        &self.leechers
    }

    pub(crate) fn paused(&self) -> u32 {
        self.paused
    }

    pub(crate) fn reach(&self) -> ReachSet {
        self.reach
    }

    pub(crate) fn with_ids(&self) -> bool {
        self.seeders.with_ids()
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.seeders.heap() + self.leechers.heap()
    }

    /// Keeps peer ids from now on (those of the peers already here are unknown), or gives them up.
    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        self.seeders.keep_ids(with_ids);
        self.leechers.keep_ids(with_ids);
    }

    /// Takes over what another form of the swarm knew about its peers' reach.
    pub(crate) fn look_was(&mut self, reach: ReachSet) {
        // Fresh to a sweep that began before the swarm had this form.
        (self.reach, self.fresh_reach) = (reach, reach);
    }

    /// All peers with their roles, seeders first; for a swarm that takes another form.
    pub(crate) fn members(&self) -> impl Iterator<Item = (Member<LEN>, bool)> {
        let packs = [(&self.seeders, true), (&self.leechers, false)].into_iter();
        packs.flat_map(|(pack, seeder)| {
            let blocks = (0..pack.buckets()).filter_map(|bucket| pack.bucket(bucket));
            blocks.flat_map(move |block| {
                (0..block.len()).filter_map(|place| block.member(place)).map(move |member| (member, seeder))
            })
        })
    }

    /// Shows `take` the peers from a position on, each as it stands now, until `most` were looked at, or two
    /// buckets more. A peer that is here from the first look to the last is shown once, whatever becomes of
    /// its bucket and its role meanwhile. Gives how many were looked at; the cursor is `None` when all were.
    pub(crate) fn walk(
        &self,
        cursor: &mut Option<u32>,
        most: usize,
        keys: &Keys,
        mut take: impl FnMut(&Block<LEN>, usize, bool),
    ) -> usize {
        let mut looked = 0;
        while let Some(first) = *cursor
            && looked < most
        {
            let buckets = [(&self.seeders, true), (&self.leechers, false)].map(|(pack, seeder)| {
                let (bucket, range) = pack.bucket_at(first);
                (pack.bucket(bucket), range, seeder)
            });
            // Both roles up to the same position, or one that changes its role would be missed.
            let last = buckets.iter().fold(u32::MAX, |last, (_, range, _)| last.min(*range.end()));
            for (block, range, seeder) in buckets {
                let Some(block) = block else { continue };
                let all = range == (first..=last);
                for (place, peer) in block.octets().iter().enumerate() {
                    if all || (first..=last).contains(&position(keys.peer(peer))) {
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

    /// Drops expired peers, and sees who of the rest can be reached how, because a reload may have changed
    /// which ports are denied. Stops after `most` peers, or a bucket more. Gives how much was looked at; the
    /// cursor is `None` when all was.
    pub(crate) fn expire(
        &mut self,
        now: Tick,
        policy: &Policy,
        cursor: &mut Option<CrowdCursor>,
        most: usize,
        keys: &Keys,
    ) -> usize {
        self.keep_ids(policy.keep_peer_ids);
        let mut at = cursor.take().unwrap_or_else(|| {
            self.fresh_reach = ReachSet::NONE;
            CrowdCursor { seeders: true, bucket: usize::MAX, found: ReachSet::NONE }
        });
        let mut looked = 0;
        while looked < most {
            let pack = if at.seeders { &mut self.seeders } else { &mut self.leechers };
            let Some(bucket) = at.bucket.min(pack.buckets()).checked_sub(1) else {
                if at.seeders {
                    at = CrowdCursor { seeders: false, bucket: usize::MAX, ..at };
                    continue;
                }
                self.reach = at.found.and(self.fresh_reach);
                return looked;
            };
            let (paused, found) = (&mut self.paused, &mut at.found);
            let expired = |block: &Block<LEN>, place: usize| {
                let seen = block.seen(place);
                let gone = seen.age_seconds(now) > policy.peer_inactivity_seconds;
                match block.octets().get(place) {
                    Some(peer) if !gone => *found = found.with(reach_of(peer, policy)),
                    _ => *paused -= u32::from(seen.paused()),
                }
                gone
            };
            looked += pack.expire(bucket, keys, expired).max(1);
            at.bucket = bucket;
        }
        *cursor = Some(at);
        looked
    }

    fn pack(&mut self, seeder: bool) -> &mut Pack<LEN> {
        if seeder { &mut self.seeders } else { &mut self.leechers }
    }
}

impl<const LEN: usize> Roster<LEN> for Crowd<LEN>
where
    [u8; LEN]: Endpoint,
{
    fn find(&self, peer: &[u8; LEN], seeder: bool, keys: &Keys) -> Option<Spot> {
        let hash = keys.peer(peer);
        let (likely, other) =
            if seeder { (&self.seeders, &self.leechers) } else { (&self.leechers, &self.seeders) };
        likely.find(hash, peer).or_else(|| other.find(hash, peer))
    }

    fn insert(&mut self, member: &Member<LEN>, seeder: bool, policy: &Policy, keys: &Keys) -> Option<Spot> {
        // Peers that move may come to stand behind a sweep that has not looked at them.
        let mut moved = ReachSet::NONE;
        let see = |peer: &[u8; LEN]| moved = moved.with(reach_of(peer, policy));
        let spot = self.pack(seeder).insert(keys.peer(&member.octets), member, keys, see);
        self.fresh_reach = self.fresh_reach.and(moved);
        let spot = spot?;
        self.paused += u32::from(member.seen.paused());
        Some(spot)
    }

    fn remove(&mut self, spot: Spot, keys: &Keys) {
        if let Some(member) = self.pack(spot.seeder).remove(spot, keys) {
            self.paused -= u32::from(member.seen.paused());
        }
    }

    fn renew(&mut self, spot: Spot, seen: Seen, id: PeerId) {
        let before = self.pack(spot.seeder).renew(spot, seen, id);
        self.paused = self.paused + u32::from(seen.paused()) - u32::from(before.unwrap_or(seen).paused());
    }

    fn change_role(&mut self, spot: Spot, policy: &Policy, keys: &Keys) -> Option<Spot> {
        let member = self.pack(spot.seeder).remove(spot, keys)?;
        self.paused -= u32::from(member.seen.paused());
        self.insert(&member, !spot.seeder, policy, keys)
    }

    fn add_reach(&mut self, reach: Reach) {
        self.reach = self.reach.with(reach);
        self.fresh_reach = self.fresh_reach.with(reach);
    }

    fn neighbours(&self, peer: &[u8; LEN], keys: &Keys) -> usize {
        let hash = keys.peer(peer);
        let near = |other: &[u8; LEN]| are_near(other, peer);
        self.seeders.count(hash, near) + self.leechers.count(hash, near)
    }
}
