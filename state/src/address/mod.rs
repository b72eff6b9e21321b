//! Which peers a requester may be handed (`rules/swarms.md#private-peers`): public peers for everybody, private
//! ones only within their own range, loopback on loopback, hidden ports nobody.
//!
//! [`special`] has the addresses that no peer has.

pub mod special;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::special::is_never_a_peer;

/// Where an address can be reached from.
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
    /// From nowhere: port 1, or a denied port. Counted, never handed out.
    Hidden,
}

/// Is this an address that mode private takes from a client's word? Not one of a private or local range
/// (`rules/private.md#member-address`), and not one that no peer has.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    scope_of_address(address) == Some(AddressScope::Public) && !is_never_a_peer(address)
}

/// A set of [`Reach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ScopeSet(u16);

impl ScopeSet {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Everything but hidden peers.
    pub const ANY: Self = Self((1 << AddressScope::Hidden as u8) - 1);

    /// The set and one more.
    #[must_use]
    pub const fn with(self, scope: AddressScope) -> Self {
        Self(self.0 | 1 << scope as u8)
    }

    /// What is in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Is `scope` in the set?
    #[must_use]
    pub const fn contains(self, scope: AddressScope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }

    /// Is everything of `self` in `other` too?
    #[must_use]
    pub const fn is_subset_of(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

/// How private peers are handed out (`announce.allow_private_peers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PrivatePeers {
    /// To askers in the same range.
    #[default]
    SameRange,
    /// To everybody.
    Always,
    /// To nobody.
    Never,
}

impl PrivatePeers {
    /// What a requester at `scope` may be handed.
    #[must_use]
    pub fn visible_to(self, scope: AddressScope) -> ScopeSet {
        match self {
            Self::SameRange => ScopeSet::NONE.with(AddressScope::Public).with(scope),
            Self::Always => ScopeSet::ANY,
            Self::Never => ScopeSet::NONE.with(AddressScope::Public),
        }
    }
}

/// Where a peer at `address` can be reached from; `None` where no peer can be: unspecified, multicast,
/// broadcast and reserved addresses, and IPv6 link-local, whose scope the wire format loses
/// (`rules/swarms.md#addresses`).
#[must_use]
pub fn scope_of_address(address: IpAddr) -> Option<AddressScope> {
    match address {
        IpAddr::V4(v4) => scope_of_v4(v4),
        IpAddr::V6(v6) => scope_of_v6(v6),
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
        scope_of_address(text.parse::<IpAddr>().unwrap().to_canonical())
    }

    #[test]
    fn what_mode_private_takes_for_public_is_what_the_spec_lists() {
        let public = |text: &str| is_public(text.parse().unwrap());
        for text in [
            "0.0.0.0",
            "127.0.0.2",
            "10.10.10.1",
            "172.18.0.254",
            "192.168.0.125",
            "169.254.69.2",
            "100.64.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80:dead:beef::1",
            "fc00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "192.0.2.7",
            "2001:db8::7",
        ] {
            assert!(!public(text), "{text}");
        }
        for text in ["45.128.19.54", "2606:4700:4700::1111", "100.128.0.1"] {
            assert!(public(text), "{text}");
        }
    }

    #[test]
    fn every_range_has_its_reach() {
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
    fn an_asker_sees_public_peers_and_its_own_range() {
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
