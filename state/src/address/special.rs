//! Addresses that no peer has: those of the IANA special-purpose address registries, and deprecated ones.
//!
//! Servers ask here about an address that somebody claims: a proxy in a header, a client by a parameter or a
//! field. Where a connection or datagram really came from is not asked about: a test network may well use
//! what is reserved for documentation. Private, shared, loopback and link-local ranges have rules of their
//! own, in [`address`](crate::address).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// May nobody claim to be reached at this address?
#[must_use]
pub fn is_never_a_peer(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_never_a_v4_peer(v4),
        IpAddr::V6(v6) => is_never_a_v6_peer(v6),
    }
}

/// Is this an address of the internet at large, and one a peer can have?
fn is_global_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    let local = address.is_private() || address.is_loopback() || address.is_link_local();
    !(shared || local || is_never_a_v4_peer(address))
}

fn is_never_a_v4_peer(address: Ipv4Addr) -> bool {
    match address.octets() {
        // "This network"; multicast, reserved, broadcast.
        [0, ..] | [224..=255, ..] => true,
        // Protocol assignments; AS112; AMT; the relays of 6to4.
        [192, 0, 0, _] | [192, 31, 196, _] | [192, 175, 48, _] | [192, 52, 193, _] | [192, 88, 99, _] => true,
        // Documentation and benchmarks.
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [198, 18..=19, ..] => true,
        _ => false,
    }
}

fn is_never_a_v6_peer(address: Ipv6Addr) -> bool {
    if address.is_loopback() || address.is_unique_local() {
        return false;
    }
    match address.segments() {
        // Protocol assignments, Teredo and ORCHID among them; documentation; AS112.
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] | [0x2620, 0x4f, 0x8000, ..] => true,
        // 6to4 reaches whoever has the address that is in it.
        [0x2002, high, low, ..] => !is_global_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))),
        // All that is assigned for the internet at large (RFC 4291, 2.4).
        [0x2000..=0x3fff, ..] => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{self, AddressScope};
    use ipnet::IpNet;

    fn never(text: &str) -> bool {
        is_never_a_peer(text.parse().unwrap())
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
                let own = address::scope_of_address(address.to_canonical())
                    .is_some_and(|scope| scope != AddressScope::Public);
                let is_never = is_never_a_peer(address);
                assert_eq!(
                    (is_never, own && !is_never),
                    (rule == "never", rule == "own"),
                    "{row}: {address}"
                );
                assert!(!address::is_public(address), "{row}: {address}");
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
            assert!(!never(text) && address::is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_embedded_counts_where_it_is_reached_through() {
        assert!(never("2002:7f00:1::1") && never("2002:c612::1") && never("2002:6440:1::"));
        assert!(never("64:ff9b::2d80:1336"), "the translator is not the client's");
        assert!(never("::ffff:192.0.2.7") && !never("::ffff:10.0.0.1"));
        assert!(never("4000::1") && never("1fff::1"), "nothing is assigned there");
    }
}
