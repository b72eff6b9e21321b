//! The choice of peers. Every peer that may be handed out has the same chance, in each role and over both:
//! over a plain swarm by block copies from a random place, otherwise one by one.

use crate::announce::Lane;
use crate::ids::{ID_LEN, PeerId};
use crate::pack::Pack;
use crate::peer::{Endpoint, Spot, reach_of};
use crate::policy::Policy;
use crate::reach::ReachSet;

/// Peers up to which a mixed swarm is looked at whole.
const LOOK_MAX: usize = 1024;
/// Peers drawn from a larger mixed swarm before we are content with fewer than wanted.
const DRAWS_MIN: usize = 1024;
/// Draws for each of them, where buckets are sparse and most places empty.
const DRAWS_PER_PEER: usize = 8;
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
    pub(crate) seeders: Side<'a, LEN>,
    pub(crate) leechers: Side<'a, LEN>,
    /// Are ids kept?
    pub(crate) with_ids: bool,
    /// What the peers' reach may be.
    pub(crate) reach: ReachSet,
}

/// The peers of one role.
#[derive(Clone, Copy)]
pub(crate) enum Side<'a, const LEN: usize> {
    Row(&'a [[u8; LEN]]),
    Pack(&'a Pack<LEN>),
}

/// Some peers of one role, in a row.
#[derive(Clone, Copy)]
struct Bucket<'a, const LEN: usize> {
    octets: &'a [[u8; LEN]],
    /// One for each, where ids are kept.
    ids: &'a [[u8; ID_LEN]],
}

impl<'a, const LEN: usize> Side<'a, LEN>
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

    /// A place from which to go round: any peer with the same chance, but not the asker, who is in `own`;
    /// else the one behind him would be met twice as often.
    fn start(self, own: Option<Spot>, random: &mut fastrand::Rng) -> (usize, usize) {
        let buckets = self.buckets();
        if buckets == 1 {
            let own = own.map_or(usize::MAX, |own| own.place.into());
            let place = random.usize(..(self.len() - usize::from(own != usize::MAX)).max(1));
            return (0, place + usize::from(place >= own));
        }
        let mut bucket = 0;
        for _ in 0..START_DRAWS_MAX {
            bucket = random.usize(..buckets);
            let place = random.usize(..self.widest().max(1));
            let is_own = |own: Spot| own.bucket as usize == bucket && usize::from(own.place) == place;
            if place < self.bucket(bucket).octets.len() && !own.is_some_and(is_own) {
                return (bucket, place);
            }
        }
        (bucket, 0)
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
        Wants::Both if hand.is_plain() => hand.take_in_proportion(want),
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
    /// May everybody but the asker be handed out, unseen?
    fn is_plain(&self) -> bool {
        !self.pool.with_ids && self.pool.reach.within(self.asker.visible)
    }

    /// Takes peers of these roles, seeders being `true`, all with the same chance.
    fn take(&mut self, roles: &[bool], want: usize) {
        let len: usize = roles.iter().map(|&seeder| self.side(seeder).len()).sum();
        match roles {
            _ if want == 0 => {}
            [seeder] if self.is_plain() => self.take_block(*seeder, want),
            _ if len <= LOOK_MAX => self.take_after_a_look(roles, want),
            _ => self.take_by_draws(roles, want),
        }
    }

    fn side(&self, seeder: bool) -> Side<'h, LEN> {
        if seeder { self.pool.seeders } else { self.pool.leechers }
    }

    /// The asker's spot, if he has this role.
    fn own_in(&self, seeder: bool) -> Option<Spot> {
        self.own.filter(|own| own.seeder == seeder)
    }

    /// Peers of a role without the asker.
    fn others(&self, seeder: bool) -> usize {
        self.side(seeder).len() - usize::from(self.own_in(seeder).is_some())
    }

    /// Both roles, each with its share of the whole; the fraction is drawn, so that all peers have the same
    /// chance.
    fn take_in_proportion(&mut self, want: usize) {
        let (seeders, all) = (self.others(true), self.others(true) + self.others(false));
        if want >= all {
            self.take_block(true, want);
            return self.take_block(false, want);
        }
        let share = want * seeders;
        let drawn = usize::from(self.random.usize(..all) < share % all);
        let of_seeders = share / all + drawn;
        self.take_block(true, of_seeders);
        self.take_block(false, want - of_seeders);
    }

    /// `want` peers in a row from a random place, around the end, the asker left out.
    fn take_block(&mut self, seeder: bool, want: usize) {
        let others = self.others(seeder);
        let want = want.min(others);
        if want == 0 {
            return;
        }
        let side = self.side(seeder);
        let (first, place) =
            if want == others { (0, 0) } else { side.start(self.own_in(seeder), self.random) };
        let mut left = want - self.copy(seeder, first, place, usize::MAX, want);
        let buckets = side.buckets();
        for bucket in (first + 1..buckets).chain(0..first) {
            if left == 0 {
                return;
            }
            left -= self.copy(seeder, bucket, 0, usize::MAX, left);
        }
        self.copy(seeder, first, 0, place, left);
    }

    /// Copies peers of one bucket from place `from` until place `until`, without the asker, `most` at most;
    /// gives how many.
    fn copy(&mut self, seeder: bool, bucket: usize, from: usize, until: usize, most: usize) -> usize {
        let peers = self.side(seeder).bucket(bucket).octets;
        let until = until.min(peers.len());
        let is_here = |own: &Spot| own.bucket as usize == bucket && usize::from(own.place) >= from;
        let gap = self.own_in(seeder).filter(is_here).map_or(until, |own| usize::from(own.place).min(until));
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
        for &seeder in roles {
            let side = self.side(seeder);
            for bucket in 0..side.buckets() {
                let peers = side.bucket(bucket);
                for place in 0..peers.octets.len() {
                    let Some((peer, id)) = peers.get(place) else { continue };
                    if !self.may_have(peer, id, spot(seeder, bucket, place)) {
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
        let sides = || roles.iter().map(|&seeder| self.side(seeder));
        let buckets = sides().map(Side::buckets).sum::<usize>();
        let widest = sides().map(Side::widest).max().unwrap_or(0).max(1);
        let (mut left, mut peers_left) = (want, DRAWS_MIN.max(8 * want));
        for _ in 0..DRAWS_PER_PEER * peers_left {
            let (bucket, place) = (self.random.usize(..buckets), self.random.usize(..widest));
            let (seeder, bucket) = self.nth_bucket(roles, bucket);
            let Some((peer, id)) = self.side(seeder).bucket(bucket).get(place) else { continue };
            peers_left -= 1;
            if self.may_have(peer, id, spot(seeder, bucket, place)) && !self.lane.has(peer) {
                self.lane.push(peer, id);
                left -= 1;
            }
            if left == 0 || peers_left == 0 {
                return;
            }
        }
    }

    /// The role and number of a bucket, where those of all roles are counted through.
    fn nth_bucket(&self, roles: &[bool], number: usize) -> (bool, usize) {
        let mut bucket = number;
        for &seeder in roles {
            let buckets = self.side(seeder).buckets();
            if bucket < buckets {
                return (seeder, bucket);
            }
            bucket -= buckets;
        }
        (false, bucket)
    }
}

fn spot(seeder: bool, bucket: usize, place: usize) -> Spot {
    let (bucket, place) =
        (u32::try_from(bucket).unwrap_or(u32::MAX), u16::try_from(place).unwrap_or(u16::MAX));
    Spot { seeder, bucket, place }
}
