//! Which addresses a client or a proxy may claim: not those of the IANA special-purpose address registries,
//! and not deprecated ones.
//!
//! The real source of a connection or datagram is not checked: a test network may well use what is reserved
//! for documentation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::scope::AddressScope;

/// An address that is claimed: by a proxy in a header, or by a client in a parameter or field. An IPv4-mapped
/// address counts as the IPv4 address in it. Each predicate answers one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressClass(IpAddr);

impl AddressClass {
    /// Classifies `address`.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// Returns where a peer there can be reached from; `None` where no peer can be.
    #[must_use]
    pub fn scope(self) -> Option<AddressScope> {
        AddressScope::of(self.0)
    }

    /// Whether a peer there is reached from everywhere, as far as the range tells: no private or local range.
    /// Addresses that are reserved for documentation are public in this sense.
    #[must_use]
    pub fn is_public(self) -> bool {
        self.scope() == Some(AddressScope::Public)
    }

    /// Whether mode open accepts the claim to be there: a peer can be there, and no registry reserves the
    /// address. Private and local ranges may be claimed.
    #[must_use]
    pub fn may_be_claimed(self) -> bool {
        self.scope().is_some() && !is_reserved(self.0)
    }

    /// Whether mode private uses the claim to be there: public, and not reserved
    /// (`rules/private.md#user-address`).
    #[must_use]
    pub fn is_useful_claim(self) -> bool {
        self.is_public() && self.may_be_claimed()
    }
}

/// Whether a registry reserves the address for something other than a host of the internet. Ranges that have
/// a scope of their own, or none, are not covered.
fn is_reserved(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_reserved_v4(v4),
        IpAddr::V6(v6) => is_reserved_v6(v6),
    }
}

fn is_reserved_v4(address: Ipv4Addr) -> bool {
    match address.octets() {
        // Protocol assignments; AS112; AMT; the relays of 6to4.
        [192, 0, 0, _] | [192, 31, 196, _] | [192, 175, 48, _] | [192, 52, 193, _] | [192, 88, 99, _] => true,
        // Documentation and benchmarks.
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [198, 18..=19, ..] => true,
        _ => false,
    }
}

fn is_reserved_v6(address: Ipv6Addr) -> bool {
    if address.is_loopback() || address.is_unique_local() {
        return false;
    }
    match address.segments() {
        // Protocol assignments, Teredo and ORCHID among them; documentation; AS112.
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] | [0x2620, 0x4f, 0x8000, ..] => true,
        // 6to4 reaches whoever has the IPv4 address that is in it.
        [0x2002, high, low, ..] => {
            let v4 = Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
            !AddressClass::of(IpAddr::V4(v4)).is_useful_claim()
        }
        // All that is assigned for the internet at large (RFC 4291, 2.4).
        [0x2000..=0x3fff, ..] => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;

    fn class(text: &str) -> AddressClass {
        AddressClass::of(text.parse().unwrap())
    }

    fn never(text: &str) -> bool {
        !class(text).may_be_claimed()
    }

    #[test]
    fn what_mode_private_uses_is_what_the_specification_lists() {
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
            assert!(!class(text).is_useful_claim(), "{text}");
        }
        for text in ["45.128.19.54", "2606:4700:4700::1111", "100.128.0.1"] {
            assert!(class(text).is_useful_claim(), "{text}");
        }
    }

    #[test]
    fn no_row_of_the_registries_is_a_public_peer() {
        let rows = include_str!("../../tests/fixtures/special-purpose.txt");
        let rows = rows.lines().filter(|line| !line.starts_with('#'));
        let mut seen = 0;
        for row in rows {
            let mut words = row.split(' ');
            let block: IpNet = words.next().unwrap().parse().unwrap();
            let rule = words.next().unwrap();
            for address in [block.network(), block.broadcast()] {
                let class = AddressClass::of(address);
                let own = class.scope().is_some_and(|scope| scope != AddressScope::Public);
                let is_never = !class.may_be_claimed();
                assert_eq!(
                    (is_never, own && !is_never),
                    (rule == "never", rule == "own"),
                    "{row}: {address}"
                );
                assert!(!class.is_useful_claim(), "{row}: {address}");
            }
            seen += 1;
        }
        assert_eq!(seen, 54);
    }

    #[test]
    fn the_neighbours_of_the_blocks_are_peers() {
        for text in [
            "1.0.0.0",
            "9.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.31.195.255",
            "192.52.194.0",
            "192.88.98.255",
            "192.88.100.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "203.0.114.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:db7:ffff::1",
            "2001:db9::1",
            "2002:2d80:1336::1",
            "2606:4700:4700::1111",
            "2620:4f:8001::1",
            "2a00::1",
            "3ffe:ffff::1",
            "::ffff:45.128.19.54",
        ] {
            assert!(!never(text) && class(text).is_useful_claim(), "{text}");
        }
    }

    #[test]
    fn what_is_reserved_is_public_by_range_and_no_useful_claim() {
        let class = class("::ffff:192.0.2.7");
        assert!(class.is_public() && !class.may_be_claimed() && !class.is_useful_claim());
        assert_eq!(class.scope(), Some(AddressScope::Public));
    }

    #[test]
    fn what_is_embedded_counts_where_it_is_reached_through() {
        assert!(never("2002:7f00:1::1") && never("2002:c612::1") && never("2002:6440:1::"));
        assert!(never("64:ff9b::2d80:1336"), "the translator is not the client's");
        assert!(never("::ffff:192.0.2.7") && !never("::ffff:10.0.0.1"));
        assert!(never("4000::1") && never("1fff::1"), "nothing is assigned there");
    }
}
