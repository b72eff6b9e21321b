//! The peers of one family in a large swarm, or in one whose peer ids are kept, in camps by their reach: a
//! swarm may have few that can be handed out among many that cannot, and a choice must not pay for those.

use crate::address::{Reach, ReachSet};
use crate::admission::Policy;
use crate::clock::Tick;
use crate::ids::PeerId;
use crate::swarm::block::Block;
use crate::swarm::buckets::{Pack, position};
use crate::swarm::camp::Camp;
use crate::swarm::peer::{Endpoint, Member, Seen, Spot, are_near, reach_of};
use crate::swarm::peer_set::Roster;
use crate::swarm::select::{Pool, Stock};
use crate::table::keyed_hash::Keys;

/// Peers of one family, of any number.
#[derive(Debug)]
pub(crate) struct Crowd<const LEN: usize> {
    /// Those that everybody reaches; in most swarms, all.
    public: Camp<LEN>,
    /// The others, as far as there are any, in the order of their reach.
    others: Vec<Camp<LEN>>,
    // Asked several times at each announce, so that they are not summed each time.
    seeders: u32,
    leechers: u32,
    /// Octets of all packs.
    packs: usize,
    paused: u32,
}

/// Where a sweep stands in a crowd: one camp after the other, seeders first, the last bucket first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrowdCursor {
    camp: Reach,
    seeders: bool,
    /// The bucket before which to go on.
    bucket: usize,
}

impl CrowdCursor {
    fn at(camp: Reach, seeders: bool) -> Self {
        Self { camp, seeders, bucket: usize::MAX }
    }
}

impl<const LEN: usize> Crowd<LEN>
where
    [u8; LEN]: Endpoint,
{
    pub(crate) fn new(with_ids: bool) -> Self {
        let (public, others) = (Camp::new(Reach::Public, with_ids), Vec::new());
        Self { packs: public.heap(), public, others, seeders: 0, leechers: 0, paused: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.seeders as usize + self.leechers as usize
    }

    /// Seeders and leechers.
    pub(crate) fn roles(&self) -> (u32, u32) {
        (self.seeders, self.leechers)
    }

    pub(crate) fn paused(&self) -> u32 {
        self.paused
    }

    pub(crate) fn with_ids(&self) -> bool {
        self.public.pack(true).with_ids()
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.packs + self.others.capacity() * size_of::<Camp<LEN>>()
    }

    /// Keeps peer ids from now on (those of the peers already here are unknown), or gives them up.
    pub(crate) fn keep_ids(&mut self, with_ids: bool) {
        self.public.keep_ids(with_ids);
        self.others.iter_mut().for_each(|camp| camp.keep_ids(with_ids));
    }

    /// What peers are chosen from.
    pub(crate) fn pool(&self) -> Pool<'_, LEN> {
        Pool {
            seeders: Stock::Pack(self.public.pack(true)),
            leechers: Stock::Pack(self.public.pack(false)),
            others: &self.others,
            with_ids: self.with_ids(),
            reach: ReachSet::NONE.with(Reach::Public),
        }
    }

    /// All peers with their roles; for a swarm that takes another form.
    pub(crate) fn members(&self) -> impl Iterator<Item = (Member<LEN>, bool)> {
        self.camps().flat_map(Camp::packs).flat_map(|(pack, seeder)| {
            let blocks = (0..pack.buckets()).filter_map(|bucket| pack.bucket(bucket));
            blocks.flat_map(move |block| {
                (0..block.len()).filter_map(|place| block.member(place)).map(move |member| (member, seeder))
            })
        })
    }

    /// Shows `take` the peers from a position on, each as it stands now, until `most` were looked at, or a
    /// bucket of each role and camp more. A peer that is here from the first look to the last is shown once,
    /// whatever becomes of its bucket, its role and its camp meanwhile. Gives how many were looked at; the
    /// cursor is `None` when all were.
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
            let packs = || self.camps().flat_map(Camp::packs);
            // All of them up to the same position, or one that changes its role would be missed.
            let last = packs().fold(u32::MAX, |last, (pack, _)| last.min(*pack.bucket_at(first).1.end()));
            for (pack, seeder) in packs() {
                let (bucket, range) = pack.bucket_at(first);
                let Some(block) = pack.bucket(bucket) else { continue };
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

    /// Drops expired peers, and moves those to their camp that stand in another one, because a reload has
    /// changed which ports are denied. Stops after `most` peers, or a bucket more. Gives how much was looked
    /// at; the cursor is `None` when all was.
    pub(crate) fn expire(
        &mut self,
        now: Tick,
        policy: &Policy,
        cursor: &mut Option<CrowdCursor>,
        most: usize,
        keys: &Keys,
    ) -> usize {
        self.keep_ids(policy.keep_peer_ids);
        let mut at = cursor.take().unwrap_or(CrowdCursor::at(Reach::Public, true));
        let mut looked = 0;
        while looked < most {
            let buckets = self.camp(at.camp).map_or(0, |camp| camp.pack(at.seeders).buckets());
            if let Some(bucket) = at.bucket.min(buckets).checked_sub(1) {
                at.bucket = bucket;
                looked += self.expire_bucket(now, policy, at, keys).max(1);
                continue;
            }
            if at.seeders {
                at = CrowdCursor::at(at.camp, false);
                continue;
            }
            self.drop_if_empty(at.camp);
            let Some(next) = self.others.iter().map(Camp::reach).find(|reach| *reach > at.camp) else {
                return looked;
            };
            at = CrowdCursor::at(next, true);
        }
        *cursor = Some(at);
        looked
    }

    /// Looks at one bucket; gives how many peers were in it.
    fn expire_bucket(&mut self, now: Tick, policy: &Policy, at: CrowdCursor, keys: &Keys) -> usize {
        let mut strays = Vec::new();
        let mut paused = 0;
        let leaves = |block: &Block<LEN>, place: usize| {
            let seen = block.seen(place);
            let expired = seen.age_seconds(now) > policy.peer_inactivity_seconds;
            let stray = block.octets().get(place).filter(|peer| reach_of(*peer, policy) != at.camp);
            if !expired && stray.is_some() {
                strays.extend(block.member(place));
            }
            let leaves = expired || stray.is_some();
            paused += u32::from(leaves && seen.paused());
            leaves
        };
        let looked = self.change(at.camp, at.seeders, |pack| pack.expire(at.bucket, keys, leaves));
        self.paused -= paused;
        for stray in strays {
            self.insert(&stray, at.seeders, reach_of(&stray.octets, policy), keys);
        }
        looked.unwrap_or(0)
    }

    /// Changes a pack and keeps the counts true.
    fn change<T>(&mut self, camp: Reach, seeder: bool, work: impl FnOnce(&mut Pack<LEN>) -> T) -> Option<T> {
        let pack = self.camp_mut(camp)?.pack_mut(seeder);
        let (len, heap) = (pack.len(), pack.heap());
        let result = work(pack);
        let (grown, len) = (pack.heap(), count(pack.len()).wrapping_sub(count(len)));
        self.packs = self.packs + grown - heap;
        let peers = if seeder { &mut self.seeders } else { &mut self.leechers };
        *peers = peers.wrapping_add(len);
        Some(result)
    }

    pub(crate) fn camps(&self) -> impl Iterator<Item = &Camp<LEN>> + Clone {
        std::iter::once(&self.public).chain(&self.others)
    }

    fn camp(&self, reach: Reach) -> Option<&Camp<LEN>> {
        self.camps().find(|camp| camp.reach() == reach)
    }

    fn camp_mut(&mut self, reach: Reach) -> Option<&mut Camp<LEN>> {
        if reach == Reach::Public {
            return Some(&mut self.public);
        }
        self.others.iter_mut().find(|camp| camp.reach() == reach)
    }

    /// Makes sure that there is a camp of a reach.
    fn pitch(&mut self, reach: Reach) {
        if reach == Reach::Public {
            return;
        }
        if let Err(place) = self.others.binary_search_by_key(&reach, Camp::reach) {
            let camp = Camp::new(reach, self.with_ids());
            self.packs += camp.heap();
            self.others.reserve_exact(1);
            self.others.insert(place, camp);
        }
    }

    fn drop_if_empty(&mut self, reach: Reach) {
        let packs = &mut self.packs;
        self.others.retain(|camp| {
            let stays = camp.reach() != reach || camp.len() > 0;
            *packs -= if stays { 0 } else { camp.heap() };
            stays
        });
        self.others.shrink_to_fit();
    }

    fn take(&mut self, spot: Spot, keys: &Keys) -> Option<Member<LEN>> {
        let member = self.change(spot.camp, spot.seeder, |pack| pack.remove(spot, keys)).flatten()?;
        self.paused -= u32::from(member.seen.paused());
        Some(member)
    }
}

impl<const LEN: usize> Roster<LEN> for Crowd<LEN>
where
    [u8; LEN]: Endpoint,
{
    fn find(&self, peer: &[u8; LEN], seeder: bool, keys: &Keys) -> Option<Spot> {
        let hash = keys.peer(peer);
        let public = self.public.find(hash, peer, seeder);
        public.or_else(|| self.others.iter().find_map(|camp| camp.find(hash, peer, seeder)))
    }

    fn insert(&mut self, member: &Member<LEN>, seeder: bool, reach: Reach, keys: &Keys) -> Option<Spot> {
        self.pitch(reach);
        let hash = keys.peer(&member.octets);
        let spot = self.change(reach, seeder, |pack| pack.insert(hash, member, keys)).flatten()?;
        self.paused += u32::from(member.seen.paused());
        Some(spot)
    }

    fn remove(&mut self, spot: Spot, keys: &Keys) {
        self.take(spot, keys);
    }

    fn renew(&mut self, spot: Spot, seen: Seen, id: PeerId) {
        let before = self.change(spot.camp, spot.seeder, |pack| pack.renew(spot, seen, id)).flatten();
        self.paused = self.paused + u32::from(seen.paused()) - u32::from(before.unwrap_or(seen).paused());
    }

    fn place(&mut self, spot: Spot, seeder: bool, reach: Reach, keys: &Keys) -> Option<Spot> {
        if (spot.seeder, spot.camp) == (seeder, reach) {
            return Some(spot);
        }
        let member = self.take(spot, keys)?;
        self.insert(&member, seeder, reach, keys)
    }

    fn neighbours(&self, peer: &[u8; LEN], keys: &Keys) -> usize {
        let hash = keys.peer(peer);
        let near = |other: &[u8; LEN]| are_near(other, peer);
        self.camps().flat_map(Camp::packs).map(|(pack, _)| pack.count(hash, near)).sum()
    }
}

fn count(peers: usize) -> u32 {
    u32::try_from(peers).unwrap_or(u32::MAX)
}
