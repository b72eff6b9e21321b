//! The choice of peers for an answer. Every peer that may be handed out has the same chance, in each role and
//! over all. Where all peers of a group may be handed out, they are copied in blocks from a random place;
//! where each has to be examined, because scopes are mixed or ids are compared, they are chosen one by one.

use crate::address::{AddressScope, ScopeSet};
use crate::admission::Policy;
use crate::announce::{Endpoint, PeerWriter};
use crate::ids::{ID_LEN, PeerId};
use crate::lock_cost;
use crate::swarm::buckets::PeerBuckets;
use crate::swarm::peer::{PeerPos, scope_of_peer};
use crate::swarm::scope_group::ScopeGroup;

/// Most peers that are all looked at where not all of them may be handed out.
const LOOK_MAX: usize = 1024;
/// Peers drawn for each that is wanted, in a swarm with more, before fewer have to do: some of them may have
/// the requester's id, or were drawn already.
const LOOKS_PER_PEER: usize = 8;
/// Draws for each of them, where buckets are sparse and most places are empty.
const DRAWS_PER_LOOK: usize = 8;
/// Draws after which the first place of a bucket has to do. Of the places drawn from, at least one in eight
/// has a peer, and usually nearly half have one.
const START_DRAWS_MAX: usize = 64;

/// The roles of the peers that a requester is handed (`rules/swarms.md#selection`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantedRoles {
    /// A seeder: leechers.
    Leechers,
    /// A client that says `left` = 0 when it starts: leechers, then seeders, because it may only lack the
    /// metadata.
    LeechersThenSeeders,
    /// A leecher: both, mixed.
    Both,
}

/// The peers to choose from.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'a, const LEN: usize> {
    pub(crate) seeders: RolePeers<'a, LEN>,
    pub(crate) leechers: RolePeers<'a, LEN>,
    /// The scopes that these may have.
    pub(crate) scopes: ScopeSet,
    /// Peers that not every client can reach, in a large swarm.
    pub(crate) others: &'a [ScopeGroup<LEN>],
    /// Whether ids are kept.
    pub(crate) with_ids: bool,
}

/// Some peers of one role.
#[derive(Clone, Copy)]
pub(crate) enum RolePeers<'a, const LEN: usize> {
    Array(PeerSlice<'a, LEN>),
    Buckets(&'a PeerBuckets<LEN>),
}

/// The peers of one role and group.
#[derive(Clone, Copy)]
struct Candidates<'a, const LEN: usize> {
    peers: RolePeers<'a, LEN>,
    seeder: bool,
    scope: AddressScope,
    /// The requester, if it is among them.
    own: Option<PeerPos>,
}

/// Some peers of one role, in a row.
#[derive(Clone, Copy)]
pub(crate) struct PeerSlice<'a, const LEN: usize> {
    pub(crate) octets: &'a [[u8; LEN]],
    /// One for each, where ids are kept.
    pub(crate) ids: &'a [[u8; ID_LEN]],
}

impl<'a, const LEN: usize> RolePeers<'a, LEN>
where
    [u8; LEN]: Endpoint,
{
    fn len(self) -> usize {
        match self {
            Self::Array(peers) => peers.octets.len(),
            Self::Buckets(buckets) => buckets.len(),
        }
    }

    fn bucket_count(self) -> usize {
        match self {
            Self::Array(_) => 1,
            Self::Buckets(buckets) => buckets.bucket_count(),
        }
    }

    /// Returns an upper bound of the peers in any one bucket.
    fn bucket_len_max(self) -> usize {
        match self {
            Self::Array(peers) => peers.octets.len(),
            Self::Buckets(buckets) => buckets.bucket_len_max(),
        }
    }

    fn bucket(self, bucket: usize) -> PeerSlice<'a, LEN> {
        match self {
            Self::Array(peers) => peers,
            Self::Buckets(buckets) => {
                buckets.bucket(bucket).map_or(PeerSlice { octets: &[], ids: &[] }, |block| PeerSlice {
                    octets: block.octets(),
                    ids: block.ids().unwrap_or_default(),
                })
            }
        }
    }
}

impl<const LEN: usize> Candidates<'_, LEN>
where
    [u8; LEN]: Endpoint,
{
    /// Returns the number of peers without the requester.
    fn others(&self) -> usize {
        self.peers.len() - usize::from(self.own.is_some())
    }

    /// Draws a bucket and a place from which to begin: any peer with the same chance, but not the requester,
    /// or the peer behind it would be met twice as often.
    fn random_start(&self, random: &mut fastrand::Rng) -> (usize, usize) {
        let (peers, own) = (self.peers, self.own);
        let buckets = peers.bucket_count();
        if buckets == 1 {
            let own = own.map_or(usize::MAX, |own| own.place.into());
            let place = random.usize(..(peers.len() - usize::from(own != usize::MAX)).max(1));
            return (0, place + usize::from(place >= own));
        }
        let mut bucket = 0;
        for _ in 0..START_DRAWS_MAX {
            lock_cost::peers_visited(1);
            bucket = random.usize(..buckets);
            let place = random.usize(..peers.bucket_len_max().max(1));
            let is_own = |own: PeerPos| own.bucket as usize == bucket && usize::from(own.place) == place;
            if place < peers.bucket(bucket).octets.len() && !own.is_some_and(is_own) {
                return (bucket, place);
            }
        }
        (bucket, 0)
    }

    fn pos(self, bucket: usize, place: usize) -> PeerPos {
        let bucket = u32::try_from(bucket).unwrap_or(u32::MAX);
        let place = u16::try_from(place).unwrap_or(u16::MAX);
        PeerPos { seeder: self.seeder, scope: self.scope, bucket, place }
    }
}

impl<'a, const LEN: usize> PeerSlice<'a, LEN> {
    fn get(self, place: usize) -> Option<(&'a [u8; LEN], PeerId)> {
        let id = self.ids.get(place).map(|id| PeerId(*id)).unwrap_or_default();
        self.octets.get(place).map(|peer| (peer, id))
    }
}

/// The client for which peers are chosen.
#[derive(Clone, Copy)]
pub(crate) struct Requester<'a> {
    pub(crate) wants: WantedRoles,
    pub(crate) visible: ScopeSet,
    pub(crate) id: PeerId,
    pub(crate) policy: &'a Policy,
}

/// Hands out up to `want` peers of the pool, never the one at `own`, which is the requester.
pub(crate) fn select_peers<const LEN: usize>(
    pool: Pool<'_, LEN>,
    requester: &Requester<'_>,
    own: Option<PeerPos>,
    want: usize,
    random: &mut fastrand::Rng,
    out: &mut PeerWriter<'_, LEN>,
) where
    [u8; LEN]: Endpoint,
{
    let want = want.min(out.room());
    if want == 0 {
        return;
    }
    let mut selection = Selection { pool, requester, own, random, out };
    let before = selection.out.peers();
    match requester.wants {
        WantedRoles::Leechers => selection.take_roles(&[false], want),
        WantedRoles::LeechersThenSeeders => {
            selection.take_roles(&[false], want);
            let taken = selection.out.peers() - before;
            selection.take_roles(&[true], want - taken);
        }
        WantedRoles::Both => selection.take_roles(&[true, false], want),
    }
}

struct Selection<'h, 'b, const LEN: usize> {
    pool: Pool<'h, LEN>,
    requester: &'h Requester<'h>,
    own: Option<PeerPos>,
    random: &'h mut fastrand::Rng,
    out: &'h mut PeerWriter<'b, LEN>,
}

impl<'h, const LEN: usize> Selection<'h, '_, LEN>
where
    [u8; LEN]: Endpoint,
{
    /// Hands out peers of these roles (`true`: seeders), all with the same chance.
    fn take_roles(&mut self, roles: &[bool], want: usize) {
        if want == 0 {
            return;
        }
        if !self.pool.with_ids && self.pool.scopes.is_subset_of(self.requester.visible) {
            // All but the requester may be handed out, without a look at them.
            return match roles {
                [seeder] if self.pool.others.is_empty() => {
                    self.take_block(&self.public_candidates(*seeder), want)
                }
                _ if self.pool.others.is_empty() => self.take_from_both_roles(want),
                _ => self.take_in_proportion(roles, want),
            };
        }
        let len: usize = self.candidates(roles).map(|candidates| candidates.peers.len()).sum();
        if len <= LOOK_MAX {
            self.sample_all(roles, want);
        } else {
            self.take_by_draws(roles, want);
        }
    }

    /// Iterates over the peers of these roles, without the groups that the requester may not be handed.
    fn candidates<'r>(
        &self,
        roles: &'r [bool],
    ) -> impl Iterator<Item = Candidates<'h, LEN>> + use<'r, 'h, LEN> {
        let (pool, own, visible) = (self.pool, self.own, self.requester.visible);
        roles.iter().flat_map(move |&seeder| {
            let first = (AddressScope::Public, if seeder { pool.seeders } else { pool.leechers });
            let others = pool.others.iter().filter(move |group| visible.contains(group.scope()));
            let others = others.map(move |group| (group.scope(), RolePeers::Buckets(group.role(seeder))));
            std::iter::once(first).chain(others).map(move |(scope, peers)| {
                let own = own.filter(|own| (own.seeder, own.scope) == (seeder, scope));
                Candidates { peers, seeder, scope, own }
            })
        })
    }

    /// Returns the peers of a role that every client can reach, or all of a small swarm.
    fn public_candidates(&self, seeder: bool) -> Candidates<'h, LEN> {
        let peers = if seeder { self.pool.seeders } else { self.pool.leechers };
        let own = self.own.filter(|own| (own.seeder, own.scope) == (seeder, AddressScope::Public));
        Candidates { peers, seeder, scope: AddressScope::Public, own }
    }

    /// The same as [`take_in_proportion`](Self::take_in_proportion), for nearly every swarm: one set of
    /// candidates of each role.
    fn take_from_both_roles(&mut self, want: usize) {
        let (seeders, leechers) = (self.public_candidates(true), self.public_candidates(false));
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

    /// Hands out peers of each set of candidates in proportion to its size. Where the shares are not whole
    /// numbers, a draw decides which sets get one more, so that all peers have the same chance.
    fn take_in_proportion(&mut self, roles: &[bool], want: usize) {
        let all: usize = self.candidates(roles).map(|candidates| candidates.others()).sum();
        if want >= all {
            return self.candidates(roles).for_each(|candidates| self.take_block(&candidates, want));
        }
        // Marks at equal distances from a random start: each set gets as many peers as marks fall upon it.
        let (start, mut passed) = (self.random.usize(..all), 0);
        let marks = |passed: usize| (passed * want + start) / all;
        for candidates in self.candidates(roles) {
            let next = passed + candidates.others();
            self.take_block(&candidates, marks(next) - marks(passed));
            passed = next;
        }
    }

    /// Hands out `want` peers in a row from a random place on, wrapping around, without the requester.
    fn take_block(&mut self, candidates: &Candidates<'h, LEN>, want: usize) {
        let others = candidates.others();
        let want = want.min(others);
        if want == 0 {
            return;
        }
        lock_cost::peers_visited(want);
        let (first, place) = if want == others { (0, 0) } else { candidates.random_start(self.random) };
        let mut left = want - self.copy_peers(candidates, first, place, usize::MAX, want);
        let buckets = candidates.peers.bucket_count();
        for bucket in (first + 1..buckets).chain(0..first) {
            if left == 0 {
                return;
            }
            left -= self.copy_peers(candidates, bucket, 0, usize::MAX, left);
        }
        self.copy_peers(candidates, first, 0, place, left);
    }

    /// Copies at most `most` peers of one bucket, from place `from` up to place `until`, without the
    /// requester. Returns how many.
    fn copy_peers(
        &mut self,
        candidates: &Candidates<'h, LEN>,
        bucket: usize,
        from: usize,
        until: usize,
        most: usize,
    ) -> usize {
        let peers = candidates.peers.bucket(bucket).octets;
        let until = until.min(peers.len());
        let is_here = |own: &PeerPos| own.bucket as usize == bucket && usize::from(own.place) >= from;
        let gap = candidates.own.filter(is_here).map_or(until, |own| usize::from(own.place).min(until));
        let before = gap.min(from + most);
        let after = (gap + 1).min(until);
        let end = until.min(after + most - (before - from));
        self.out.extend(peers.get(from..before).unwrap_or_default());
        self.out.extend(peers.get(after..end).unwrap_or_default());
        before - from + end - after
    }

    fn may_hand_out(&self, peer: &[u8; LEN], id: PeerId, pos: PeerPos) -> bool {
        self.own != Some(pos)
            && self.requester.visible.contains(scope_of_peer(peer, self.requester.policy))
            && !(self.pool.with_ids && id == self.requester.id)
    }

    /// Looks at every peer of these roles, and hands out a random sample of those that may be (reservoir
    /// sampling).
    fn sample_all(&mut self, roles: &[bool], want: usize) {
        let (first, mut met) = (self.out.peers(), 0);
        for candidates in self.candidates(roles) {
            for bucket in 0..candidates.peers.bucket_count() {
                let peers = candidates.peers.bucket(bucket);
                lock_cost::peers_visited(peers.octets.len());
                for place in 0..peers.octets.len() {
                    let Some((peer, id)) = peers.get(place) else { continue };
                    if !self.may_hand_out(peer, id, candidates.pos(bucket, place)) {
                        continue;
                    }
                    met += 1;
                    if met <= want {
                        self.out.push(peer, id);
                    } else {
                        // The n-th one met stays with a chance of want / n, in the place of any other.
                        let drawn = self.random.usize(..met);
                        if drawn < want {
                            self.out.replace(first + drawn, peer, id);
                        }
                    }
                }
            }
        }
    }

    /// Draws peers of these roles until there are enough of them, or enough draws were made.
    fn take_by_draws(&mut self, roles: &[bool], want: usize) {
        let all_peers = || self.candidates(roles).map(|candidates| candidates.peers);
        let buckets = all_peers().map(RolePeers::bucket_count).sum::<usize>();
        let bucket_len_max = all_peers().map(RolePeers::bucket_len_max).max().unwrap_or(0).max(1);
        let (mut left, mut looks_left) = (want, LOOKS_PER_PEER * want);
        for _ in 0..DRAWS_PER_LOOK * looks_left {
            lock_cost::peers_visited(1);
            let (bucket, place) = (self.random.usize(..buckets), self.random.usize(..bucket_len_max));
            let Some((candidates, bucket)) = self.nth_bucket(roles, bucket) else { continue };
            let Some((peer, id)) = candidates.peers.bucket(bucket).get(place) else { continue };
            looks_left -= 1;
            if self.may_hand_out(peer, id, candidates.pos(bucket, place)) && !self.out.contains(peer) {
                self.out.push(peer, id);
                left -= 1;
            }
            if left == 0 || looks_left == 0 {
                return;
            }
        }
    }

    /// Returns the candidates of a bucket and its number among theirs; `bucket` counts through those of all
    /// candidates.
    fn nth_bucket(&self, roles: &[bool], mut bucket: usize) -> Option<(Candidates<'h, LEN>, usize)> {
        for candidates in self.candidates(roles) {
            let buckets = candidates.peers.bucket_count();
            if bucket < buckets {
                return Some((candidates, bucket));
            }
            bucket -= buckets;
        }
        None
    }
}
