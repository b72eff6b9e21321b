//! One peer in memory: its octets as they go on the wire, when it was last seen, and its position in a swarm.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::address::AddressScope;
use crate::admission::{PEER_INACTIVITY_SECONDS_MAX, Policy};
use crate::announce::{Announce, PEER_V4_LEN, PEER_V6_LEN};
use crate::clock::Tick;
use crate::ids::PeerId;

const SECONDS_MASK: u16 = 0x7fff;
const PAUSED_BIT: u16 = 0x8000;
/// Seconds by which the clock reading of another thread may be ahead of ours, because it was made later.
const AHEAD_SECONDS_MAX: u32 = 60;
// An age must not wrap before a late sweep has seen it.
const _: () = assert!(PEER_INACTIVITY_SECONDS_MAX < SECONDS_MASK as u32 - AHEAD_SECONDS_MAX - 3600);

/// When a peer was last seen, in 15 bits of seconds, and whether it is a partial seed (BEP 21).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastSeen(pub(crate) u16);

impl LastSeen {
    #[expect(clippy::cast_possible_truncation, reason = "masked to 15 bits")]
    pub(crate) fn new(now: Tick, paused: bool) -> Self {
        Self((now.0 as u16 & SECONDS_MASK) | if paused { PAUSED_BIT } else { 0 })
    }

    pub(crate) fn paused(self) -> bool {
        self.0 & PAUSED_BIT != 0
    }

    /// Returns the seconds since then; 0 for a peer seen by a thread that has read the clock after `now`.
    pub(crate) fn age_seconds(self, now: Tick) -> u32 {
        let age = now.0.wrapping_sub(u32::from(self.0)) & u32::from(SECONDS_MASK);
        if age > u32::from(SECONDS_MASK) - AHEAD_SECONDS_MAX { 0 } else { age }
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

/// The octets of one peer on the wire: address, then port (BEP 15, BEP 7).
pub(crate) trait Endpoint: Copy + Eq {
    fn address(&self) -> IpAddr;
    fn port(&self) -> u16;
    /// Returns what `announce.peers_per_address` counts as one address: an IPv4 address, an IPv6 /64.
    fn address_key(&self) -> u64;
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

    fn address_key(&self) -> u64 {
        let [a, b, c, d, ..] = *self;
        u32::from_be_bytes([a, b, c, d]).into()
    }
}

impl Endpoint for [u8; 18] {
    fn address(&self) -> IpAddr {
        let [address @ .., _, _] = *self;
        Ipv6Addr::from(address).into()
    }

    fn port(&self) -> u16 {
        let [.., high, low] = *self;
        u16::from_be_bytes([high, low])
    }

    fn address_key(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *self;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Whether both count as one address.
pub(crate) fn have_same_address_key<E: Endpoint>(one: &E, other: &E) -> bool {
    one.address_key() == other.address_key()
}

/// Returns the scope of a peer, with its port taken into account.
pub(crate) fn scope_of_peer<E: Endpoint>(peer: &E, policy: &Policy) -> AddressScope {
    policy.scope_with_port(AddressScope::of(peer.address()).unwrap_or(AddressScope::Hidden), peer.port())
}

/// A peer as it goes on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WirePeer {
    V4([u8; PEER_V4_LEN]),
    V6([u8; PEER_V6_LEN]),
}

impl WirePeer {
    /// Returns the peer that announces.
    pub(crate) fn from_announce(announce: &Announce) -> Self {
        Self::from_address(announce.address, announce.port)
    }

    /// Returns the peer at this address and port.
    #[inline]
    pub(crate) fn from_address(address: IpAddr, port: u16) -> Self {
        match address {
            IpAddr::V4(address) => {
                // As one number: octets written one by one would stall the read of all of them.
                let number = u64::from(address.to_bits()) << 16 | u64::from(port);
                let [_, _, peer @ ..] = number.to_be_bytes();
                Self::V4(peer)
            }
            IpAddr::V6(address) => {
                let mut peer = [0; PEER_V6_LEN];
                if let Some((host, rest)) = peer.split_first_chunk_mut::<16>() {
                    *host = address.octets();
                    rest.copy_from_slice(&port.to_be_bytes());
                }
                Self::V6(peer)
            }
        }
    }

    /// Returns its address and port.
    pub(crate) fn socket_addr(self) -> SocketAddr {
        match self {
            Self::V4(octets) => SocketAddr::new(octets.address(), octets.port()),
            Self::V6(octets) => SocketAddr::new(octets.address(), octets.port()),
        }
    }
}
