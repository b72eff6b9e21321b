//! The choice of peers. Every peer that may be handed out has the same chance, in each role and over all: in
//! large swarms, where those that may not be are in camps of their own, by block copies from a random place;
//! in small ones, and where ids have to be compared, one by one.

use crate::address::{Reach, ReachSet};
use crate::admission::Policy;
use crate::announce::Lane;
use crate::ids::{ID_LEN, PeerId};
use crate::swarm::buckets::Pack;
use crate::swarm::camp::Camp;
use crate::swarm::peer::{Endpoint, Spot, reach_of};
use crate::touch;

/// Peers up to which a swarm is looked at whole where not all of it may be handed out.
const LOOK_MAX: usize = 1024;
/// Peers drawn from a larger one for each that is wanted before we are content with fewer: there may be the
/// asker's other addresses among them, and peers that were drawn already.
const LOOKS_PER_PEER: usize = 8;
/// Draws for each of them, where buckets are sparse and most places empty.
const DRAWS_PER_LOOK: usize = 8;
/// Draws after which we are content with the start of a bucket; of the places drawn from, one in eight has a
/// peer at the least, and nearly half as a rule.
const START_DRAWS_MAX: usize = 64;

/// Which peers an asker is useful to (`rules/swarms.md#selection`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// A seeder: leechers.
    Leechers,
    /// Somebody who says `left` = 0 at the start: leechers, then seeders, because he may only not have the
    /// metadata.
    LeechersThenSeeders,
    /// A leecher: both, mixed.
    Both,
}

/// The peers to choose from.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'a, const LEN: usize> {
    pub(crate) seeders: Stock<'a, LEN>,
    pub(crate) leechers: Stock<'a, LEN>,
    /// What the reach of these may be.
    pub(crate) reach: ReachSet,
    /// Peers that not everybody reaches, where they are apart.
    pub(crate) others: &'a [Camp<LEN>],
    /// Are ids kept?
    pub(crate) with_ids: bool,
}

/// Some peers of one role.
#[derive(Clone, Copy)]
pub(crate) enum Stock<'a, const LEN: usize> {
    Row(&'a [[u8; LEN]]),
    Pack(&'a Pack<LEN>),
}

/// The peers of one role and camp.
#[derive(Clone, Copy)]
struct Side<'a, const LEN: usize> {
    stock: Stock<'a, LEN>,
    seeder: bool,
    camp: Reach,
    /// The asker, who has this role, too.
    own: Option<Spot>,
}

/// Some peers of one role, in a row.
#[derive(Clone, Copy)]
struct Bucket<'a, const LEN: usize> {
    octets: &'a [[u8; LEN]],
    /// One for each, where ids are kept.
    ids: &'a [[u8; ID_LEN]],
}

impl<'a, const LEN: usize> Stock<'a, LEN>
where
    [u8; LEN]: Endpoint,
{
    fn len(self) -> usize {
        match self {
            Self::Row(peers) => peers.len(),
            Self::Pack(pack) => pack.len(),
        }
    }

    fn buckets(self) -> usize {
        match self {
            Self::Row(_) => 1,
            Self::Pack(pack) => pack.buckets(),
        }
    }

    /// More peers than this are in no bucket.
    fn widest(self) -> usize {
        match self {
            Self::Row(peers) => peers.len(),
            Self::Pack(pack) => pack.widest(),
        }
    }

    fn bucket(self, bucket: usize) -> Bucket<'a, LEN> {
        match self {
            Self::Row(octets) => Bucket { octets, ids: &[] },
            Self::Pack(pack) => pack.bucket(bucket).map_or(Bucket { octets: &[], ids: &[] }, |block| {
                Bucket { octets: block.octets(), ids: block.ids().unwrap_or_default() }
            }),
        }
    }
}

impl<const LEN: usize> Side<'_, LEN>
where
    [u8; LEN]: Endpoint,
{
    /// Peers without the asker.
    fn others(&self) -> usize {
        self.stock.len() - usize::from(self.own.is_some())
    }

    /// A place from which to go round: any peer with the same chance, but not the asker; else the one behind
    /// him would be met twice as often.
    fn start(&self, random: &mut fastrand::Rng) -> (usize, usize) {
        let (stock, own) = (self.stock, self.own);
        let buckets = stock.buckets();
        if buckets == 1 {
            let own = own.map_or(usize::MAX, |own| own.place.into());
            let place = random.usize(..(stock.len() - usize::from(own != usize::MAX)).max(1));
            return (0, place + usize::from(place >= own));
        }
        let mut bucket = 0;
        for _ in 0..START_DRAWS_MAX {
            touch::looked_at(1);
            bucket = random.usize(..buckets);
            let place = random.usize(..stock.widest().max(1));
            let is_own = |own: Spot| own.bucket as usize == bucket && usize::from(own.place) == place;
            if place < stock.bucket(bucket).octets.len() && !own.is_some_and(is_own) {
                return (bucket, place);
            }
        }
        (bucket, 0)
    }

    fn spot(self, bucket: usize, place: usize) -> Spot {
        let bucket = u32::try_from(bucket).unwrap_or(u32::MAX);
        let place = u16::try_from(place).unwrap_or(u16::MAX);
        Spot { seeder: self.seeder, camp: self.camp, bucket, place }
    }
}

impl<'a, const LEN: usize> Bucket<'a, LEN> {
    fn get(self, place: usize) -> Option<(&'a [u8; LEN], PeerId)> {
        let id = self.ids.get(place).map(|id| PeerId(*id)).unwrap_or_default();
        self.octets.get(place).map(|peer| (peer, id))
    }
}

/// For whom peers are chosen.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) wants: Wants,
    pub(crate) visible: ReachSet,
    pub(crate) id: PeerId,
    pub(crate) policy: &'a Policy,
}

/// Hands out up to `want` peers of the pool; never the one in spot `own`, who is the asker.
pub(crate) fn choose<const LEN: usize>(
    pool: Pool<'_, LEN>,
    asker: &Asker<'_>,
    own: Option<Spot>,
    want: usize,
    random: &mut fastrand::Rng,
    lane: &mut Lane<'_, LEN>,
) where
    [u8; LEN]: Endpoint,
{
    let want = want.min(lane.room());
    if want == 0 {
        return;
    }
    let mut hand = Hand { pool, asker, own, random, lane };
    let before = hand.lane.peers();
    match asker.wants {
        Wants::Leechers => hand.take(&[false], want),
        Wants::LeechersThenSeeders => {
            hand.take(&[false], want);
            let taken = hand.lane.peers() - before;
            hand.take(&[true], want - taken);
        }
        Wants::Both => hand.take(&[true, false], want),
    }
}

struct Hand<'h, 'b, const LEN: usize> {
    pool: Pool<'h, LEN>,
    asker: &'h Asker<'h>,
    own: Option<Spot>,
    random: &'h mut fastrand::Rng,
    lane: &'h mut Lane<'b, LEN>,
}

impl<'h, const LEN: usize> Hand<'h, '_, LEN>
where
    [u8; LEN]: Endpoint,
{
    /// Takes peers of these roles, seeders being `true`, all with the same chance.
    fn take(&mut self, roles: &[bool], want: usize) {
        if want == 0 {
            return;
        }
        if !self.pool.with_ids && self.pool.reach.within(self.asker.visible) {
            // Everybody but the asker may be handed out, unseen.
            return match roles {
                [seeder] if self.pool.others.is_empty() => self.take_block(&self.first(*seeder), want),
                _ if self.pool.others.is_empty() => self.take_of_two(want),
                _ => self.take_in_proportion(roles, want),
            };
        }
        let len: usize = self.sides(roles).map(|side| side.stock.len()).sum();
        if len <= LOOK_MAX {
            self.take_after_a_look(roles, want);
        } else {
            self.take_by_draws(roles, want);
        }
    }

    /// The peers of these roles, without the camps of which the asker may be handed nobody.
    fn sides<'r>(&self, roles: &'r [bool]) -> impl Iterator<Item = Side<'h, LEN>> + use<'r, 'h, LEN> {
        let (pool, own, visible) = (self.pool, self.own, self.asker.visible);
        roles.iter().flat_map(move |&seeder| {
            let first = (Reach::Public, if seeder { pool.seeders } else { pool.leechers });
            let others = pool.others.iter().filter(move |camp| visible.has(camp.reach()));
            let others = others.map(move |camp| (camp.reach(), Stock::Pack(camp.pack(seeder))));
            std::iter::once(first).chain(others).map(move |(camp, stock)| {
                let own = own.filter(|own| (own.seeder, own.camp) == (seeder, camp));
                Side { stock, seeder, camp, own }
            })
        })
    }

    /// The peers of a role that everybody reaches, or all of a small swarm.
    fn first(&self, seeder: bool) -> Side<'h, LEN> {
        let stock = if seeder { self.pool.seeders } else { self.pool.leechers };
        let own = self.own.filter(|own| (own.seeder, own.camp) == (seeder, Reach::Public));
        Side { stock, seeder, camp: Reach::Public, own }
    }

    /// The same as [`take_in_proportion`](Self::take_in_proportion), for what nearly every swarm is: one
    /// side of each role.
    fn take_of_two(&mut self, want: usize) {
        let (seeders, leechers) = (self.first(true), self.first(false));
        let all = seeders.others() + leechers.others();
        if want >= all {
            self.take_block(&seeders, want);
            return self.take_block(&leechers, want);
        }
        let share = want * seeders.others();
        let drawn = usize::from(self.random.usize(..all) < share % all);
        let of_seeders = share / all + drawn;
        self.take_block(&seeders, of_seeders);
        self.take_block(&leechers, want - of_seeders);
    }

    /// Of each side its share of the whole. Where shares are no whole numbers, it is drawn who gets one more,
    /// so that all peers have the same chance.
    fn take_in_proportion(&mut self, roles: &[bool], want: usize) {
        let all: usize = self.sides(roles).map(|side| side.others()).sum();
        if want >= all {
            return self.sides(roles).for_each(|side| self.take_block(&side, want));
        }
        // Marks at equal distances from a random begin: a side gets as many peers as fall upon it.
        let (begin, mut passed) = (self.random.usize(..all), 0);
        let marks = |passed: usize| (passed * want + begin) / all;
        for side in self.sides(roles) {
            let next = passed + side.others();
            self.take_block(&side, marks(next) - marks(passed));
            passed = next;
        }
    }

    /// `want` peers in a row from a random place, around the end, the asker left out.
    fn take_block(&mut self, side: &Side<'h, LEN>, want: usize) {
        let others = side.others();
        let want = want.min(others);
        if want == 0 {
            return;
        }
        touch::looked_at(want);
        let (first, place) = if want == others { (0, 0) } else { side.start(self.random) };
        let mut left = want - self.copy(side, first, place, usize::MAX, want);
        let buckets = side.stock.buckets();
        for bucket in (first + 1..buckets).chain(0..first) {
            if left == 0 {
                return;
            }
            left -= self.copy(side, bucket, 0, usize::MAX, left);
        }
        self.copy(side, first, 0, place, left);
    }

    /// Copies peers of one bucket from place `from` until place `until`, without the asker, `most` at most;
    /// gives how many.
    fn copy(&mut self, side: &Side<'h, LEN>, bucket: usize, from: usize, until: usize, most: usize) -> usize {
        let peers = side.stock.bucket(bucket).octets;
        let until = until.min(peers.len());
        let is_here = |own: &Spot| own.bucket as usize == bucket && usize::from(own.place) >= from;
        let gap = side.own.filter(is_here).map_or(until, |own| usize::from(own.place).min(until));
        let before = gap.min(from + most);
        let after = (gap + 1).min(until);
        let end = until.min(after + most - (before - from));
        self.lane.extend(peers.get(from..before).unwrap_or_default());
        self.lane.extend(peers.get(after..end).unwrap_or_default());
        before - from + end - after
    }

    fn may_have(&self, peer: &[u8; LEN], id: PeerId, spot: Spot) -> bool {
        self.own != Some(spot)
            && self.asker.visible.has(reach_of(peer, self.asker.policy))
            && !(self.pool.with_ids && id == self.asker.id)
    }

    /// Looks at every peer of these roles, and keeps a random sample of those that may be handed out.
    fn take_after_a_look(&mut self, roles: &[bool], want: usize) {
        let (first, mut met) = (self.lane.peers(), 0);
        for side in self.sides(roles) {
            for bucket in 0..side.stock.buckets() {
                let peers = side.stock.bucket(bucket);
                touch::looked_at(peers.octets.len());
                for place in 0..peers.octets.len() {
                    let Some((peer, id)) = peers.get(place) else { continue };
                    if !self.may_have(peer, id, side.spot(bucket, place)) {
                        continue;
                    }
                    met += 1;
                    if met <= want {
                        self.lane.push(peer, id);
                    } else {
                        // The one met as number n stays with a chance of want / n, in the place of any other.
                        let drawn = self.random.usize(..met);
                        if drawn < want {
                            self.lane.replace(first + drawn, peer, id);
                        }
                    }
                }
            }
        }
    }

    /// Draws peers of these roles until there are enough, or it has cost enough.
    fn take_by_draws(&mut self, roles: &[bool], want: usize) {
        let stocks = || self.sides(roles).map(|side| side.stock);
        let buckets = stocks().map(Stock::buckets).sum::<usize>();
        let widest = stocks().map(Stock::widest).max().unwrap_or(0).max(1);
        let (mut left, mut looks_left) = (want, LOOKS_PER_PEER * want);
        for _ in 0..DRAWS_PER_LOOK * looks_left {
            touch::looked_at(1);
            let (bucket, place) = (self.random.usize(..buckets), self.random.usize(..widest));
            let Some((side, bucket)) = self.nth_bucket(roles, bucket) else { continue };
            let Some((peer, id)) = side.stock.bucket(bucket).get(place) else { continue };
            looks_left -= 1;
            if self.may_have(peer, id, side.spot(bucket, place)) && !self.lane.has(peer) {
                self.lane.push(peer, id);
                left -= 1;
            }
            if left == 0 || looks_left == 0 {
                return;
            }
        }
    }

    /// The side of a bucket and its number there, where those of all sides are counted through.
    fn nth_bucket(&self, roles: &[bool], mut bucket: usize) -> Option<(Side<'h, LEN>, usize)> {
        for side in self.sides(roles) {
            let buckets = side.stock.buckets();
            if bucket < buckets {
                return Some((side, bucket));
            }
            bucket -= buckets;
        }
        None
    }
}
