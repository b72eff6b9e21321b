//! The peers of one family in one swarm: the octets that go on the wire in one contiguous array, seeders
//! first, ages in another. A swarm too large to search has an index from endpoint to place.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::clock::Tick;
use crate::ids::PeerId;
use crate::index::Index;
use crate::policy::{PEER_INACTIVITY_SECONDS_MAX, Policy};
use crate::reach::{self, Reach, ReachSet};

/// Peers from which a family has an index; below, a search is faster and smaller.
const INDEX_FROM: usize = 32;
/// Peers below which an index is given up again.
const INDEX_UNTIL: usize = 16;
/// What an allocator adds to each block, in octets, for the memory count.
const BLOCK_OVERHEAD: usize = 16;

const SECONDS_MASK: u16 = 0x7fff;
const PAUSED_BIT: u16 = 0x8000;
/// Seconds by which the clock reading of another thread may be ahead of ours: it was made later.
const AHEAD_SECONDS_MAX: u32 = 60;
// An age must not wrap before a late sweep has seen it.
const _: () = assert!(PEER_INACTIVITY_SECONDS_MAX < SECONDS_MASK as u32 - AHEAD_SECONDS_MAX - 3600);

/// When a peer was last seen, in 15 bits of seconds, and whether it is a partial seed (BEP 21).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen(u16);

impl Seen {
    #[expect(clippy::cast_possible_truncation, reason = "masked to 15 bits")]
    pub(crate) fn new(now: Tick, paused: bool) -> Self {
        Self((now.0 as u16 & SECONDS_MASK) | if paused { PAUSED_BIT } else { 0 })
    }

    pub(crate) fn paused(self) -> bool {
        self.0 & PAUSED_BIT != 0
    }

    /// Seconds since then; 0 for a peer seen by a thread that has read the clock after `now`.
    pub(crate) fn age_seconds(self, now: Tick) -> u32 {
        let age = now.0.wrapping_sub(u32::from(self.0)) & u32::from(SECONDS_MASK);
        if age > u32::from(SECONDS_MASK) - AHEAD_SECONDS_MAX { 0 } else { age }
    }
}

/// The octets of one peer on the wire: address, then port (BEP 15, BEP 7).
pub(crate) trait Endpoint: Copy + Eq {
    fn address(&self) -> IpAddr;
    fn port(&self) -> u16;
    /// What `announce.peers_per_address` counts as one address: an IPv4 address, an IPv6 /64.
    fn neighbourhood(&self) -> &[u8];
}

impl Endpoint for [u8; 6] {
    fn address(&self) -> IpAddr {
        let [a, b, c, d, ..] = *self;
        Ipv4Addr::new(a, b, c, d).into()
    }

    fn port(&self) -> u16 {
        let [.., high, low] = *self;
        u16::from_be_bytes([high, low])
    }

    fn neighbourhood(&self) -> &[u8] {
        let (address, _port): (&[u8; 4], &[u8]) = split(self);
        address
    }
}

impl Endpoint for [u8; 18] {
    fn address(&self) -> IpAddr {
        let (address, _port): (&[u8; 16], &[u8]) = split(self);
        Ipv6Addr::from(*address).into()
    }

    fn port(&self) -> u16 {
        let [.., high, low] = *self;
        u16::from_be_bytes([high, low])
    }

    fn neighbourhood(&self) -> &[u8] {
        let (network, _host): (&[u8; 8], &[u8]) = split(self);
        network
    }
}

fn split<const LEN: usize, const N: usize>(octets: &[u8; LEN]) -> (&[u8; N], &[u8]) {
    const { assert!(N <= LEN) };
    #[expect(clippy::expect_used, reason = "N <= LEN is asserted above")]
    octets.split_first_chunk().expect("N <= LEN")
}

/// Where a peer can be reached from, its port considered.
pub(crate) fn reach_of<E: Endpoint>(peer: &E, policy: &Policy) -> Reach {
    policy.reach_of_port(reach::of_address(peer.address()).unwrap_or(Reach::Hidden), peer.port())
}

/// The secret under which keys that clients choose are hashed.
#[derive(Debug)]
pub(crate) struct Keys {
    state: RandomState,
    /// `announce.peers_per_address`: where it is set, the peers of one public address share a hash, so that
    /// they can be counted.
    peers_per_address: u16,
}

impl Keys {
    pub(crate) fn new(peers_per_address: u16) -> Self {
        Self { state: RandomState::new(), peers_per_address }
    }

    pub(crate) fn info_hash(&self, octets: &[u8]) -> u64 {
        self.state.hash_one(octets)
    }

    fn peer<const LEN: usize>(&self, peer: &[u8; LEN]) -> u64
    where
        [u8; LEN]: Endpoint,
    {
        if self.limit_at(peer).is_some() {
            self.state.hash_one(peer.neighbourhood())
        } else {
            self.state.hash_one(peer)
        }
    }

    /// The limit of peers at the address of `peer`; never for private and loopback addresses.
    pub(crate) fn limit_at<E: Endpoint>(&self, peer: &E) -> Option<usize> {
        let public = || reach::of_address(peer.address()) == Some(Reach::Public);
        (self.peers_per_address > 0 && public()).then_some(usize::from(self.peers_per_address))
    }
}

/// Peers in one contiguous array, seeders first. [`Few`](crate::few::Few) and [`Family`] keep it.
pub(crate) trait Roster<const LEN: usize>
where
    [u8; LEN]: Endpoint,
{
    fn octets(&self) -> &[[u8; LEN]];
    fn seen(&self) -> &[Seen];
    fn seeders(&self) -> usize;
    fn set_seeders(&mut self, seeders: usize);
    fn find(&self, peer: &[u8; LEN], keys: &Keys) -> Option<usize>;
    fn set_seen(&mut self, place: usize, seen: Seen);
    fn set_id(&mut self, place: usize, id: PeerId);
    /// Adds behind all others.
    fn push(&mut self, peer: [u8; LEN], seen: Seen, id: PeerId, keys: &Keys);
    /// Drops the last.
    fn pop(&mut self, keys: &Keys);
    fn swap(&mut self, a: usize, b: usize, keys: &Keys);

    /// Adds a peer and gives its place.
    fn insert(&mut self, peer: [u8; LEN], seen: Seen, id: PeerId, seeder: bool, keys: &Keys) -> usize {
        self.push(peer, seen, id, keys);
        let last = self.octets().len() - 1;
        if seeder { self.promote(last, keys) } else { last }
    }

    /// A leecher becomes a seeder; gives its new place.
    fn promote(&mut self, place: usize, keys: &Keys) -> usize {
        let first_leecher = self.seeders();
        self.swap(place, first_leecher, keys);
        self.set_seeders(first_leecher + 1);
        first_leecher
    }

    /// A seeder becomes a leecher; gives its new place.
    fn demote(&mut self, place: usize, keys: &Keys) -> usize {
        let last_seeder = self.seeders() - 1;
        self.swap(place, last_seeder, keys);
        self.set_seeders(last_seeder);
        last_seeder
    }

    /// Drops a peer. Only peers behind it change their place.
    fn remove(&mut self, place: usize, keys: &Keys) {
        let hole = if place < self.seeders() { self.demote(place, keys) } else { place };
        let last = self.octets().len() - 1;
        self.swap(hole, last, keys);
        self.pop(keys);
    }

    /// Looks at the peers before `from`, last first, at most `most` of them, and drops those unseen for
    /// longer than `lifetime_seconds`. Gives the place before which to go on; 0 = done.
    fn expire(&mut self, now: Tick, lifetime_seconds: u32, from: usize, most: usize, keys: &Keys) -> usize {
        let from = from.min(self.octets().len());
        let until = from.saturating_sub(most);
        for place in (until..from).rev() {
            if self.seen().get(place).is_some_and(|seen| seen.age_seconds(now) > lifetime_seconds) {
                self.remove(place, keys);
            }
        }
        until
    }

    /// Peers at the address of `peer`, as `announce.peers_per_address` counts.
    fn neighbours(&self, peer: &[u8; LEN], _keys: &Keys) -> usize {
        self.octets().iter().filter(|other| are_near(*other, peer)).count()
    }
}

/// Do both count as one address?
fn are_near<E: Endpoint>(one: &E, other: &E) -> bool {
    one.neighbourhood() == other.neighbourhood()
}

/// The peers of one family in a swarm of any size.
#[derive(Debug, Default)]
pub(crate) struct Family<const LEN: usize> {
    octets: Vec<[u8; LEN]>,
    seen: Vec<Seen>,
    /// Only where peer ids are kept; then one for each peer.
    #[expect(clippy::box_collection, reason = "8 octets instead of 24 where no ids are kept")]
    ids: Option<Box<Vec<PeerId>>>,
    index: Option<Box<Index>>,
    seeders: u32,
    paused: u32,
    /// Every reach a peer has had since the last full look; a sweep narrows it.
    reach: ReachSet,
    /// Every reach that was added since the current look began.
    fresh_reach: ReachSet,
}

impl<const LEN: usize> Family<LEN>
where
    [u8; LEN]: Endpoint,
{
    pub(crate) fn paused(&self) -> u32 {
        self.paused
    }

    pub(crate) fn reach(&self) -> ReachSet {
        self.reach
    }

    pub(crate) fn ids(&self) -> Option<&[PeerId]> {
        self.ids.as_ref().map(|ids| ids.as_slice())
    }

    /// Keeps peer ids from now on; those of the peers already here are unknown.
    pub(crate) fn keep_ids(&mut self) {
        if self.ids.is_none() {
            self.ids = Some(Box::new(vec![PeerId::default(); self.octets.len()]));
        }
    }

    pub(crate) fn add_reach(&mut self, reach: Reach) {
        self.reach = self.reach.with(reach);
        self.fresh_reach = self.fresh_reach.with(reach);
    }

    /// A peer has moved to where the current look may have been already.
    pub(crate) fn look_again(&mut self, place: usize, policy: &Policy) {
        if let Some(peer) = self.octets.get(place) {
            self.fresh_reach = self.fresh_reach.with(reach_of(peer, policy));
        }
    }

    /// Gives the peer ids up.
    pub(crate) fn drop_ids(&mut self) {
        self.ids = None;
    }

    /// A full look at the peers' reach begins.
    pub(crate) fn begin_look(&mut self) {
        self.fresh_reach = ReachSet::NONE;
    }

    /// The reach of the peers in these places.
    pub(crate) fn look(&self, places: std::ops::Range<usize>, policy: &Policy) -> ReachSet {
        let peers = self.octets.get(places).unwrap_or_default();
        peers.iter().fold(ReachSet::NONE, |set, peer| set.with(reach_of(peer, policy)))
    }

    /// A full look has ended and found `found`.
    pub(crate) fn end_look(&mut self, found: ReachSet) {
        self.reach = found.and(self.fresh_reach);
    }

    /// Gives memory back where far fewer peers are left than there is room for.
    pub(crate) fn shrink(&mut self) {
        let len = self.octets.len();
        if self.octets.capacity() > 4 * len.max(1) {
            self.octets.shrink_to(len + len / 8);
            self.seen.shrink_to(len + len / 8);
            if let Some(ids) = &mut self.ids {
                ids.shrink_to(len + len / 8);
            }
        }
        if len < INDEX_UNTIL {
            self.index = None;
        }
    }

    /// Octets on the heap, by our own count.
    pub(crate) fn heap(&self) -> usize {
        let arrays = block(self.octets.capacity() * LEN) + block(self.seen.capacity() * size_of::<Seen>());
        let ids = self.ids.as_ref().map_or(0, |ids| block(24) + block(ids.capacity() * size_of::<PeerId>()));
        let index = self.index.as_ref().map_or(0, |index| block(size_of::<Index>()) + block(index.heap()));
        arrays + ids + index
    }

    fn build_index(&mut self, keys: &Keys) {
        let mut index = Index::with_capacity(self.octets.len() + self.octets.len() / 8);
        let hasher = hasher(&self.octets, keys);
        for place in 0..to_u32(self.octets.len()) {
            index.insert(hasher(&place), place, &hasher);
        }
        self.index = Some(Box::new(index));
    }

    /// Swaps two peers in the index.
    fn swap_in_index(&mut self, a: usize, b: usize, keys: &Keys) {
        /// A place that does not exist: two peers of one hash must not be taken for each other.
        const ASIDE: u32 = u32::MAX;
        let (Some(index), Some(peer_a), Some(peer_b)) =
            (&mut self.index, self.octets.get(a), self.octets.get(b))
        else {
            return;
        };
        let (hash_a, hash_b) = (keys.peer(peer_a), keys.peer(peer_b));
        index.moved(hash_a, to_u32(a), ASIDE);
        index.moved(hash_b, to_u32(b), to_u32(a));
        index.moved(hash_a, ASIDE, to_u32(b));
    }
}

/// Gives the hash of the peer in a place.
fn hasher<const LEN: usize>(octets: &[[u8; LEN]], keys: &Keys) -> impl Fn(&u32) -> u64
where
    [u8; LEN]: Endpoint,
{
    |&place| octets.get(place as usize).map_or(0, |peer| keys.peer(peer))
}

/// A block of `octets` with what the allocator adds.
pub(crate) fn block(octets: usize) -> usize {
    if octets == 0 { 0 } else { octets + BLOCK_OVERHEAD }
}

fn to_u32(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// Makes room for one more by an eighth, not by doubling: peers are most of the memory.
fn grow<T>(array: &mut Vec<T>) {
    if array.len() == array.capacity() {
        array.reserve_exact((array.len() / 8).max(4));
    }
}

impl<const LEN: usize> Roster<LEN> for Family<LEN>
where
    [u8; LEN]: Endpoint,
{
    fn octets(&self) -> &[[u8; LEN]] {
        &self.octets
    }

    fn seen(&self) -> &[Seen] {
        &self.seen
    }

    fn seeders(&self) -> usize {
        self.seeders as usize
    }

    fn set_seeders(&mut self, seeders: usize) {
        self.seeders = to_u32(seeders);
    }

    fn find(&self, peer: &[u8; LEN], keys: &Keys) -> Option<usize> {
        match &self.index {
            None => self.octets.iter().position(|other| other == peer),
            Some(index) => {
                let same = |place: u32| self.octets.get(place as usize) == Some(peer);
                index.find(keys.peer(peer), same).map(|place| place as usize)
            }
        }
    }

    fn set_seen(&mut self, place: usize, seen: Seen) {
        if let Some(slot) = self.seen.get_mut(place) {
            self.paused = self.paused + u32::from(seen.paused()) - u32::from(slot.paused());
            *slot = seen;
        }
    }

    fn set_id(&mut self, place: usize, id: PeerId) {
        if let Some(slot) = self.ids.as_mut().and_then(|ids| ids.get_mut(place)) {
            *slot = id;
        }
    }

    fn push(&mut self, peer: [u8; LEN], seen: Seen, id: PeerId, keys: &Keys) {
        let place = self.octets.len();
        grow(&mut self.octets);
        grow(&mut self.seen);
        self.octets.push(peer);
        self.seen.push(seen);
        self.paused += u32::from(seen.paused());
        if let Some(ids) = &mut self.ids {
            grow(ids);
            ids.push(id);
        }
        match &mut self.index {
            Some(index) => index.insert(keys.peer(&peer), to_u32(place), hasher(&self.octets, keys)),
            None if place + 1 >= INDEX_FROM => self.build_index(keys),
            None => {}
        }
    }

    fn pop(&mut self, keys: &Keys) {
        let last = self.octets.len().saturating_sub(1);
        if let (Some(index), Some(peer)) = (&mut self.index, self.octets.last()) {
            index.remove(keys.peer(peer), to_u32(last), hasher(&self.octets, keys));
        }
        self.octets.pop();
        let seen = self.seen.pop();
        self.paused -= seen.map_or(0, |seen| u32::from(seen.paused()));
        if let Some(ids) = &mut self.ids {
            ids.pop();
        }
    }

    fn swap(&mut self, a: usize, b: usize, keys: &Keys) {
        if a == b {
            return;
        }
        self.swap_in_index(a, b, keys);
        self.octets.swap(a, b);
        self.seen.swap(a, b);
        if let Some(ids) = &mut self.ids {
            ids.swap(a, b);
        }
    }

    fn neighbours(&self, peer: &[u8; LEN], keys: &Keys) -> usize {
        let near = |place: u32| self.octets.get(place as usize).is_some_and(|other| are_near(other, peer));
        match &self.index {
            Some(index) => index.count(keys.peer(peer), near),
            None => self.octets.iter().filter(|other| are_near(*other, peer)).count(),
        }
    }
}
