//! The choice of peers. Every peer that may be handed out has the same chance, in each role and over both:
//! over a plain swarm by one or two block copies from a random place, otherwise one by one.

use crate::announce::Lane;
use crate::family::{Endpoint, reach_of};
use crate::ids::PeerId;
use crate::policy::Policy;
use crate::reach::ReachSet;

/// Peers up to which a mixed swarm is looked at whole.
const LOOK_MAX: usize = 256;
/// Peers looked at in a larger mixed swarm before we are content with fewer than wanted.
const PROBES_MIN: usize = 1024;

/// Which peers an asker is useful to (`spec` ruling 13).
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
    /// Seeders first.
    pub(crate) octets: &'a [[u8; LEN]],
    pub(crate) seeders: usize,
    /// Where ids are kept.
    pub(crate) ids: Option<&'a [PeerId]>,
    /// What the peers' reach may be.
    pub(crate) reach: ReachSet,
}

/// For whom peers are chosen.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) wants: Wants,
    pub(crate) visible: ReachSet,
    pub(crate) id: PeerId,
    pub(crate) policy: &'a Policy,
}

/// Hands out up to `want` peers of the pool; never the one in place `own`, who is the asker.
pub(crate) fn choose<const LEN: usize>(
    pool: Pool<'_, LEN>,
    asker: &Asker<'_>,
    own: Option<usize>,
    want: usize,
    random: &mut fastrand::Rng,
    lane: &mut Lane<'_, LEN>,
) where
    [u8; LEN]: Endpoint,
{
    let want = want.min(lane.room());
    if want == 0 || pool.octets.is_empty() {
        return;
    }
    let mut hand = Hand { pool, asker, own, random, lane };
    let (seeders, leechers) = (0..pool.seeders, pool.seeders..pool.octets.len());
    let before = hand.lane.peers();
    match asker.wants {
        Wants::Leechers => hand.take(leechers, want),
        Wants::LeechersThenSeeders => {
            hand.take(leechers, want);
            let taken = hand.lane.peers() - before;
            hand.take(seeders, want - taken);
        }
        Wants::Both if hand.is_plain() => hand.take_in_proportion(seeders, leechers, want),
        Wants::Both => hand.take(0..pool.octets.len(), want),
    }
}

type Places = std::ops::Range<usize>;

struct Hand<'h, 'b, const LEN: usize> {
    pool: Pool<'h, LEN>,
    asker: &'h Asker<'h>,
    own: Option<usize>,
    random: &'h mut fastrand::Rng,
    lane: &'h mut Lane<'b, LEN>,
}

impl<const LEN: usize> Hand<'_, '_, LEN>
where
    [u8; LEN]: Endpoint,
{
    /// May everybody but the asker be handed out, unseen?
    fn is_plain(&self) -> bool {
        self.pool.ids.is_none() && self.pool.reach.within(self.asker.visible)
    }

    fn take(&mut self, places: Places, want: usize) {
        if want == 0 {
        } else if self.is_plain() {
            self.take_block(places, want);
        } else if places.len() <= LOOK_MAX {
            self.take_after_a_look(places, want);
        } else {
            self.take_by_probes(places, want);
        }
    }

    /// Peers without the asker's own place.
    fn others(&self, places: &Places) -> usize {
        places.len() - usize::from(self.own.is_some_and(|own| places.contains(&own)))
    }

    /// Both roles, each with its share of the whole; the fraction is drawn, so that all peers have the same
    /// chance.
    fn take_in_proportion(&mut self, seeders: Places, leechers: Places, want: usize) {
        let (seeders_there, all) = (self.others(&seeders), self.others(&seeders) + self.others(&leechers));
        if want >= all {
            self.take_block(seeders, want);
            return self.take_block(leechers, want);
        }
        let share = want * seeders_there;
        let drawn = usize::from(self.random.usize(..all) < share % all);
        let of_seeders = share / all + drawn;
        self.take_block(seeders, of_seeders);
        self.take_block(leechers, want - of_seeders);
    }

    /// `want` peers in a row from a random place, around the end, the asker's own place left out.
    fn take_block(&mut self, places: Places, want: usize) {
        let others = self.others(&places);
        let want = want.min(others);
        if want == 0 {
            return;
        }
        let start = if want == others { 0 } else { self.random.usize(..others) };
        let end = start + want;
        self.copy(&places, start..end.min(others));
        if end > others {
            self.copy(&places, 0..end - others);
        }
    }

    /// Copies the peers of these places, counted from the start of `places` as if the asker were not there.
    fn copy(&mut self, places: &Places, run: Places) {
        let gap = self.own.filter(|own| places.contains(own)).map_or(usize::MAX, |own| own - places.start);
        let (before, after) = (run.start..run.end.min(gap), run.start.max(gap)..run.end);
        for (part, shift) in [(before, 0), (after, 1)] {
            if !part.is_empty() {
                let real = places.start + part.start + shift..places.start + part.end + shift;
                self.lane.extend(self.pool.octets.get(real).unwrap_or_default());
            }
        }
    }

    fn may_have(&self, place: usize) -> bool {
        let Some(peer) = self.pool.octets.get(place) else { return false };
        let own_id = || self.pool.ids.and_then(|ids| ids.get(place)).is_some_and(|id| *id == self.asker.id);
        self.own != Some(place) && self.asker.visible.has(reach_of(peer, self.asker.policy)) && !own_id()
    }

    fn hand_out(&mut self, place: usize) {
        if let Some(peer) = self.pool.octets.get(place) {
            self.lane.extend(std::slice::from_ref(peer));
            if let Some(id) = self.pool.ids.and_then(|ids| ids.get(place)) {
                self.lane.push_id(*id);
            }
        }
    }

    /// Looks at every place, then draws from those that are left.
    fn take_after_a_look(&mut self, places: Places, want: usize) {
        let mut found = [0; LOOK_MAX];
        let mut count = 0;
        for place in places.filter(|&place| self.may_have(place)) {
            if let Some(slot) = found.get_mut(count) {
                *slot = place;
                count += 1;
            }
        }
        let mut left = found.get_mut(..count).unwrap_or_default();
        for _ in 0..want {
            if left.is_empty() {
                return;
            }
            let drawn = self.random.usize(..left.len());
            left.swap(0, drawn);
            let Some((place, rest)) = left.split_first_mut() else { return };
            self.hand_out(*place);
            left = rest;
        }
    }

    /// Goes through the places from a random one, by a random step that meets each place once.
    fn take_by_probes(&mut self, places: Places, want: usize) {
        let len = places.len();
        let mut place = self.random.usize(..len);
        let step = random_step(len, self.random);
        let mut left = want;
        for _ in 0..len.min(PROBES_MIN.max(8 * want)) {
            if self.may_have(places.start + place) {
                self.hand_out(places.start + place);
                left -= 1;
            }
            if left == 0 {
                return;
            }
            place = (place + step) % len;
        }
    }
}

/// A step that leads through all of `len` places before it comes back.
fn random_step(len: usize, random: &mut fastrand::Rng) -> usize {
    let coprime = |step: &usize| gcd(*step, len) == 1;
    (0..16).map(|_| random.usize(1..len.max(2))).find(coprime).unwrap_or(1)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
