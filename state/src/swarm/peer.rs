//! One peer in memory: its octets as they go on the wire, when it was last seen, and its position in a swarm.

use crate::address::AddressScope;
use crate::admission::{PEER_INACTIVITY_SECONDS_MAX, Policy};
use crate::announce::Endpoint;
use crate::clock::Tick;
use crate::ids::PeerId;

const SECONDS_MASK: u16 = 0x7fff;
const PAUSED_BIT: u16 = 0x8000;
/// Seconds by which the clock reading of another thread may be ahead of ours, because it was made later.
pub(crate) const AHEAD_SECONDS_MAX: u32 = 60;
// An age must not wrap before a late sweep has seen it.
const _: () = assert!(PEER_INACTIVITY_SECONDS_MAX < SECONDS_MASK as u32 - AHEAD_SECONDS_MAX - 3600);

/// When a peer was last seen, in 15 bits of seconds, and whether it is a partial seed (BEP 21).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastSeen(pub(crate) u16);

/// Octets that a [`LastSeen`] takes in a block.
pub(crate) const SEEN_LEN: usize = size_of::<LastSeen>();

impl LastSeen {
    #[expect(clippy::cast_possible_truncation, reason = "masked to 15 bits")]
    pub(crate) fn new(now: Tick, paused: bool) -> Self {
        Self((now.0 as u16 & SECONDS_MASK) | if paused { PAUSED_BIT } else { 0 })
    }

    pub(crate) fn paused(self) -> bool {
        self.0 & PAUSED_BIT != 0
    }

    pub(crate) fn from_octets(octets: [u8; SEEN_LEN]) -> Self {
        Self(u16::from_ne_bytes(octets))
    }

    pub(crate) fn to_octets(self) -> [u8; SEEN_LEN] {
        self.0.to_ne_bytes()
    }

    /// Returns the seconds since then; 0 for a peer seen by a thread that has read the clock after `now`.
    pub(crate) fn age_seconds(self, now: Tick) -> u32 {
        let age = now.0.wrapping_sub(u32::from(self.0)) & u32::from(SECONDS_MASK);
        if age > u32::from(SECONDS_MASK) - AHEAD_SECONDS_MAX { 0 } else { age }
    }

    /// Returns by how many seconds it is later than `now`: where [`age_seconds`](Self::age_seconds) is 0, by
    /// up to [`AHEAD_SECONDS_MAX`].
    pub(crate) fn ahead_seconds(self, now: Tick) -> u32 {
        let ahead = u32::from(self.0).wrapping_sub(now.0) & u32::from(SECONDS_MASK);
        if ahead <= AHEAD_SECONDS_MAX { ahead } else { 0 }
    }

    /// Returns the time in ticks; below zero for a peer that another process has seen.
    pub(crate) fn tick(self, now: Tick) -> i64 {
        i64::from(now.0) + i64::from(self.ahead_seconds(now)) - i64::from(self.age_seconds(now))
    }
}

/// A peer as it is stored in a swarm, in one piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredPeer<const LEN: usize> {
    pub(crate) octets: [u8; LEN],
    pub(crate) seen: LastSeen,
    pub(crate) id: PeerId,
}

/// The position of a peer in its swarm, valid until the swarm changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerPos {
    pub(crate) seeder: bool,
    /// The group of its large swarm; `Public` in the small forms, which have none.
    pub(crate) scope: AddressScope,
    /// The bucket among those of its role and group; 0 where there is only one.
    pub(crate) bucket: u32,
    /// The place in the bucket.
    pub(crate) place: u16,
}

/// Returns the scope of a peer, with its port taken into account.
pub(crate) fn scope_of_peer<E: Endpoint>(peer: &E, policy: &Policy) -> AddressScope {
    policy.scope_with_port(AddressScope::of(peer.address()).unwrap_or(AddressScope::Hidden), peer.port())
}
