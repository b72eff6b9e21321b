//! Swarms most of whose peers the requester cannot reach.

use super::{TestSite, over_v6, peer};

/// Most have no IPv4 address or a well-known port, and belong to classes of their own.
#[test]
fn every_peer_is_as_likely_as_any_other_where_most_cannot_be_reached() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut test_site = TestSite::seeded(TestSite::new().site, seed);
    let shown: Vec<u32> = (0..6000).filter(|number| number % 100 < 2).collect();
    for number in 0..6000_u32 {
        let at = |port: u32| peer(number, u16::try_from(port).unwrap());
        let user = 1 + number % 500;
        match number % 100 {
            // Over IPv4 alone, and over both.
            0 => _ = test_site.announce(0, user, &at(2000 + number)),
            1 => {
                test_site.announce(0, user, &at(2000 + number));
                test_site.announce(0, user, &over_v6(at(2000 + number)));
            }
            2..50 => _ = test_site.announce(0, user, &over_v6(at(80))),
            _ => _ = test_site.announce(0, user, &at(80)),
        }
    }
    for wanted in [1, 4, 30] {
        test_site.assert_uniform("most of them", &shown, wanted);
    }
}
