//! A wall clock that is set while the tracker runs.

use super::*;

#[test]
fn a_wall_clock_two_hours_ahead_purges_nobody() {
    let mut test_site = TestSite::new();
    let policy = Policy { peer_inactivity_seconds: INACTIVITY, ..Policy::default() };
    let records = records_of(|queues| {
        let mut expiry = PeerExpiry::new(Arc::clone(&test_site.site.torrents), Some(queues));
        (1..=100).for_each(|user| _ = test_site.announce(500, user, &peer(user, 2000)));
        let ahead = |second| {
            let now = Now::at(second);
            Now { unix_seconds: now.unix_seconds + 7200, ..now }
        };
        expiry.run_round(Now::at(500), &policy);
        for second in [600, 700, 500 + INACTIVITY] {
            expiry.run_round(ahead(second), &policy);
            assert_eq!(test_site.site.torrents.peers().leechers, 100);
        }
        // A silent peer expires nevertheless.
        expiry.run_round(ahead(501 + INACTIVITY), &policy);
        assert_eq!(test_site.site.torrents.peers().leechers, 0);
    });
    let befores: Vec<_> = records.iter().filter_map(Record::purge_before).collect();
    assert_eq!(befores, [unix(500) - i64::from(INACTIVITY)], "that of the time before");
}

#[test]
fn rows_are_purged_again_once_all_have_announced_by_the_new_time() {
    let test_site = TestSite::new();
    let policy = Policy { peer_inactivity_seconds: INACTIVITY, ..Policy::default() };
    let records = records_of(|queues| {
        let mut expiry = PeerExpiry::new(Arc::clone(&test_site.site.torrents), Some(queues));
        let ahead = |second| {
            let now = Now::at(second);
            Now { unix_seconds: now.unix_seconds + 7200, ..now }
        };
        expiry.run_round(Now::at(500), &policy);
        expiry.run_round(ahead(600), &policy);
        expiry.run_round(ahead(601 + INACTIVITY), &policy);
    });
    let befores: Vec<_> = records.iter().filter_map(Record::purge_before).collect();
    assert_eq!(befores, [unix(601) + 7200]);
}
