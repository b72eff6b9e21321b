//! What every form of a swarm can do, and how the two small forms do it.

use crate::address::{Reach, ReachSet};
use crate::admission::Policy;
use crate::ids::PeerId;
use crate::swarm::peer::{Endpoint, Member, Seen, Spot, are_near, reach_of};
use crate::table::keyed_hash::Keys;

/// The peers of one family in a swarm, in any form. Each is there once.
pub(crate) trait Roster<const LEN: usize>
where
    [u8; LEN]: Endpoint,
{
    /// Where a peer stands; `seeder` is the role in which it is likely to be found.
    fn find(&self, peer: &[u8; LEN], seeder: bool, keys: &Keys) -> Option<Spot>;
    /// Adds a peer that is not there yet; `None` where there is no room for it.
    fn insert(&mut self, member: &Member<LEN>, seeder: bool, reach: Reach, keys: &Keys) -> Option<Spot>;
    /// Takes a peer out.
    fn remove(&mut self, spot: Spot, keys: &Keys);
    /// A peer came again.
    fn renew(&mut self, spot: Spot, seen: Seen, id: PeerId);
    /// A peer has this role and this reach from now on; gives where it stands then.
    fn place(&mut self, spot: Spot, seeder: bool, reach: Reach, keys: &Keys) -> Option<Spot>;
    /// Peers at the address of `peer`, as `announce.peers_per_address` counts.
    fn neighbours(&self, peer: &[u8; LEN], keys: &Keys) -> usize;
}

/// Peers in one array, seeders first: few enough to be searched without help.
pub(crate) trait Row<const LEN: usize> {
    fn octets(&self) -> &[[u8; LEN]];
    fn seen(&self, place: usize) -> Seen;
    fn set_seen(&mut self, place: usize, seen: Seen);
    fn seeders(&self) -> usize;
    fn set_seeders(&mut self, seeders: usize);
    /// Adds behind all others; false where the row is full.
    fn push(&mut self, member: &Member<LEN>) -> bool;
    /// Drops the last.
    fn pop(&mut self);
    fn swap(&mut self, a: usize, b: usize);
    fn add_reach(&mut self, reach: Reach);

    /// The peer of a place; rows keep no ids.
    fn member(&self, place: usize) -> Option<Member<LEN>> {
        let octets = *self.octets().get(place)?;
        Some(Member { octets, seen: self.seen(place), id: PeerId::default() })
    }

    /// Partial seeds (BEP 21).
    fn paused(&self) -> u32 {
        (0..self.octets().len()).map(|place| u32::from(self.seen(place).paused())).sum()
    }

    /// Every reach a peer has now.
    fn reach_now(&self, policy: &Policy) -> ReachSet
    where
        [u8; LEN]: Endpoint,
    {
        self.octets().iter().fold(ReachSet::NONE, |set, peer| set.with(reach_of(peer, policy)))
    }

    /// Drops a peer. Only peers behind it change their place.
    fn drop_at(&mut self, place: usize) {
        let hole = if place < self.seeders() { self.demote(place) } else { place };
        self.swap(hole, self.octets().len() - 1);
        self.pop();
    }

    /// A leecher becomes a seeder; gives its new place.
    fn promote(&mut self, place: usize) -> usize {
        let first_leecher = self.seeders();
        self.swap(place, first_leecher);
        self.set_seeders(first_leecher + 1);
        first_leecher
    }

    /// A seeder becomes a leecher; gives its new place.
    fn demote(&mut self, place: usize) -> usize {
        let last_seeder = self.seeders() - 1;
        self.swap(place, last_seeder);
        self.set_seeders(last_seeder);
        last_seeder
    }

    /// Drops the peers that `expired` says have.
    fn expire(&mut self, mut expired: impl FnMut(Seen) -> bool) {
        for place in (0..self.octets().len()).rev() {
            if expired(self.seen(place)) {
                self.drop_at(place);
            }
        }
    }

    /// The spot of a place in the array.
    fn spot(&self, place: usize) -> Spot {
        let seeder = place < self.seeders();
        let place = if seeder { place } else { place - self.seeders() };
        Spot { seeder, camp: Reach::Public, bucket: 0, place: u16::try_from(place).unwrap_or(u16::MAX) }
    }

    /// The place in the array of a spot.
    fn at(&self, spot: Spot) -> usize {
        usize::from(spot.place) + if spot.seeder { 0 } else { self.seeders() }
    }
}

impl<const LEN: usize, R: Row<LEN>> Roster<LEN> for R
where
    [u8; LEN]: Endpoint,
{
    fn find(&self, peer: &[u8; LEN], _: bool, _: &Keys) -> Option<Spot> {
        self.octets().iter().position(|other| other == peer).map(|place| self.spot(place))
    }

    fn insert(&mut self, member: &Member<LEN>, seeder: bool, reach: Reach, _: &Keys) -> Option<Spot> {
        if !self.push(member) {
            return None;
        }
        self.add_reach(reach);
        let last = self.octets().len() - 1;
        let place = if seeder { self.promote(last) } else { last };
        Some(self.spot(place))
    }

    fn remove(&mut self, spot: Spot, _: &Keys) {
        self.drop_at(self.at(spot));
    }

    fn renew(&mut self, spot: Spot, seen: Seen, _: PeerId) {
        self.set_seen(self.at(spot), seen);
    }

    fn place(&mut self, spot: Spot, seeder: bool, reach: Reach, _: &Keys) -> Option<Spot> {
        self.add_reach(reach);
        if spot.seeder == seeder {
            return Some(spot);
        }
        let at = self.at(spot);
        let at = if seeder { self.promote(at) } else { self.demote(at) };
        Some(self.spot(at))
    }

    fn neighbours(&self, peer: &[u8; LEN], _: &Keys) -> usize {
        self.octets().iter().filter(|other| are_near(*other, peer)).count()
    }
}
