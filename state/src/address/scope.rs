//! Where a peer can be reached from, and so to whom it may be handed out (`rules/swarms.md#private-peers`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The scope of an address: from where a peer there can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AddressScope {
    /// From everywhere.
    #[default]
    Public,
    /// From this machine: 127/8, `::1`.
    Loopback,
    /// From the network 10/8 (RFC 1918).
    Private10,
    /// From the network 172.16/12 (RFC 1918).
    Private172,
    /// From the network 192.168/16 (RFC 1918).
    Private192,
    /// From behind the same carrier: 100.64/10 (RFC 6598).
    Carrier,
    /// From the same link: 169.254/16.
    LinkLocal,
    /// From the same site: `fc00::/7` (RFC 4193).
    UniqueLocal,
    /// From nowhere: port 1, or a denied port. Such a peer is counted and never handed out.
    Hidden,
}

impl AddressScope {
    /// Returns the scope of a canonical address; `None` where no peer can be: unspecified, multicast,
    /// broadcast and reserved addresses, and IPv6 link-local, whose scope the wire format loses
    /// (`rules/swarms.md#addresses`).
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(v4) => scope_of_v4(v4),
            IpAddr::V6(v6) => scope_of_v6(v6),
        }
    }
}

/// A set of [`AddressScope`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ScopeSet(u16);

impl ScopeSet {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Every scope but [`AddressScope::Hidden`].
    pub const ANY: Self = Self((1 << AddressScope::Hidden as u8) - 1);

    /// Returns the set with `scope` in it.
    #[must_use]
    pub const fn with(self, scope: AddressScope) -> Self {
        Self(self.0 | 1 << scope as u8)
    }

    /// Returns the set that [`to_octets`](Self::to_octets) was called on.
    pub(crate) const fn from_octets(octets: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(octets))
    }

    /// Returns the set in octets, which need no alignment.
    pub(crate) const fn to_octets(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }

    /// Returns the union of two sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `scope` is in the set.
    #[must_use]
    pub const fn contains(self, scope: AddressScope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }

    /// Whether every scope of `self` is in `other`, too.
    #[must_use]
    pub const fn is_subset_of(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

/// To whom peers with private addresses are handed out (`announce.allow_private_peers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PrivatePeers {
    /// To clients in the same range.
    #[default]
    SameRange,
    /// To every client.
    Always,
    /// To no client.
    Never,
}

impl PrivatePeers {
    /// Returns the scopes of the peers that a client at `scope` may be handed.
    #[must_use]
    pub fn visible_to(self, scope: AddressScope) -> ScopeSet {
        match self {
            Self::SameRange => ScopeSet::NONE.with(AddressScope::Public).with(scope),
            Self::Always => ScopeSet::ANY,
            Self::Never => ScopeSet::NONE.with(AddressScope::Public),
        }
    }
}

fn scope_of_v4(address: Ipv4Addr) -> Option<AddressScope> {
    match address.octets() {
        [0, ..] | [224..=255, ..] => None,
        [127, ..] => Some(AddressScope::Loopback),
        [10, ..] => Some(AddressScope::Private10),
        [172, 16..=31, ..] => Some(AddressScope::Private172),
        [192, 168, ..] => Some(AddressScope::Private192),
        [100, 64..=127, ..] => Some(AddressScope::Carrier),
        [169, 254, ..] => Some(AddressScope::LinkLocal),
        _ => Some(AddressScope::Public),
    }
}

fn scope_of_v6(address: Ipv6Addr) -> Option<AddressScope> {
    if address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local() {
        None
    } else if address.is_loopback() {
        Some(AddressScope::Loopback)
    } else if address.is_unique_local() {
        Some(AddressScope::UniqueLocal)
    } else {
        address.to_ipv4_mapped().map_or(Some(AddressScope::Public), scope_of_v4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Option<AddressScope> {
        AddressScope::of(text.parse::<IpAddr>().unwrap().to_canonical())
    }

    #[test]
    fn every_range_has_its_scope() {
        for (address, expected) in [
            ("192.0.2.7", Some(AddressScope::Public)),
            ("127.9.9.9", Some(AddressScope::Loopback)),
            ("10.255.0.1", Some(AddressScope::Private10)),
            ("172.15.0.1", Some(AddressScope::Public)),
            ("172.31.0.1", Some(AddressScope::Private172)),
            ("192.168.1.1", Some(AddressScope::Private192)),
            ("100.127.0.1", Some(AddressScope::Carrier)),
            ("100.128.0.1", Some(AddressScope::Public)),
            ("169.254.1.1", Some(AddressScope::LinkLocal)),
            ("0.1.2.3", None),
            ("224.0.0.1", None),
            ("255.255.255.255", None),
            ("::", None),
            ("::1", Some(AddressScope::Loopback)),
            ("fe80::1", None),
            ("ff02::1", None),
            ("fd09::1", Some(AddressScope::UniqueLocal)),
            ("2001:db8::7", Some(AddressScope::Public)),
            ("::ffff:10.0.0.1", Some(AddressScope::Private10)),
        ] {
            assert_eq!(scope(address), expected, "{address}");
        }
    }

    #[test]
    fn a_client_sees_public_peers_and_its_own_range() {
        let seen = PrivatePeers::SameRange.visible_to(AddressScope::Private10);
        assert!(seen.contains(AddressScope::Public) && seen.contains(AddressScope::Private10));
        assert!(
            !seen.contains(AddressScope::Private192)
                && !seen.contains(AddressScope::Loopback)
                && !seen.contains(AddressScope::Hidden)
        );
        assert!(!PrivatePeers::SameRange.visible_to(AddressScope::Public).contains(AddressScope::Loopback));
        assert!(!PrivatePeers::Always.visible_to(AddressScope::Public).contains(AddressScope::Hidden));
        assert!(!PrivatePeers::Never.visible_to(AddressScope::Loopback).contains(AddressScope::Loopback));
    }
}
