//! What of an announce is believed: late totals, impossible amounts, and which announce brings a pruned
//! torrent back to life.

use hayate_state::admission::OCTETS_PER_SECOND_MAX;
use hayate_state::metrics::Board;

use super::*;

/// Announces of a site that were late, and those of too many octets up and down.
fn remarks(test_site: &TestSite) -> [u64; 3] {
    let board = Board::default();
    test_site.site.torrents.register_metrics(&board);
    let readings = board.read_series();
    let of = |name: &str, label: Option<&str>| {
        let found = readings
            .iter()
            .find(|reading| reading.name == name && reading.labels.first().map(|(_, value)| *value) == label);
        found.unwrap().value
    };
    let implausible = |label| of("implausible_announces_total", Some(label));
    [of("late_announces_total", None), implausible("up"), implausible("down")]
}

fn starting(announce: Announce) -> Announce {
    Announce { event: Event::Started, ..announce }
}

/// A datagram that was sent again, or a proxy's second try.
#[test]
fn totals_that_come_late_are_no_baseline_from_which_octets_count_twice() {
    let recorded = recorded_by(|test_site| {
        test_site.announce(0, 1, &starting(having(peer(1, 2001), 0, 0)));
        test_site.announce(100, 1, &having(peer(1, 2001), 500, 50));
        for (second, uploaded, downloaded) in [(101, 400, 40), (130, 500, 49), (160, 0, 0)] {
            test_site.announce(second, 1, &having(peer(1, 2001), uploaded, downloaded));
        }
        // The same again adds nothing.
        test_site.announce(160, 1, &having(peer(1, 2001), 500, 50));
        test_site.announce(300, 1, &having(peer(1, 2001), 600, 60));
        assert_eq!(remarks(test_site), [3, 0, 0]);
    });
    let transfer = recorded.transfer.unwrap();
    assert_eq!((transfer.raw_up, transfer.raw_down, transfer.active_time), (600, 60, 300));
}

#[test]
fn a_restarted_client_has_a_new_baseline() {
    // It says so, or a minute is over, or one of its totals grew.
    for (second, announce) in [
        (101, starting(having(peer(1, 2001), 20, 10))),
        (161, having(peer(1, 2001), 20, 10)),
        (101, having(peer(1, 2001), 20, 50)),
    ] {
        let recorded = recorded_by(|test_site| {
            test_site.announce(0, 1, &having(peer(1, 2001), 0, 0));
            test_site.announce(100, 1, &having(peer(1, 2001), 500, 40));
            test_site.announce(second, 1, &announce);
            test_site.announce(300, 1, &having(peer(1, 2001), 90, announce.downloaded));
            assert_eq!(remarks(test_site), [0; 3]);
        });
        let transfer = recorded.transfer.unwrap();
        let down = 40 + announce.downloaded.saturating_sub(40);
        assert_eq!((transfer.raw_up, transfer.raw_down), (500 + 70, down), "{announce:?}");
    }
}

#[test]
fn a_late_announce_says_where_its_peer_is_and_takes_nothing_back() {
    let recorded = recorded_by(|test_site| {
        test_site.announce(0, 1, &having(peer(1, 2001), 0, 0));
        // Complete, and the announce before that comes behind it, over the other family.
        test_site.announce(50, 1, &completing(having(seeder(1, 2001), 500, 9)));
        let tally = test_site.announce(51, 1, &over_v6(having(peer(1, 2001), 400, 5))).tally;
        assert_eq!((tally.seeders, tally.leechers), (1, 0));
        let given = test_site.announce(52, 2, &wanting(peer(2, 2002), 9));
        assert_eq!((given.v4, given.v6), (vec![2001], vec![2001]));
        // A peer that stops is gone, whatever its totals say.
        let tally = test_site.announce(53, 1, &stopping(having(seeder(1, 2001), 0, 0))).tally;
        assert_eq!((tally.seeders, tally.leechers), (0, 1));
        assert_eq!(remarks(test_site), [2, 0, 0]);
    });
    let transfer = recorded.transfer.unwrap();
    assert_eq!((transfer.raw_up, transfer.raw_down, transfer.snatched), (500, 9, 1));
    assert_eq!((transfer.remaining, transfer.seeding, transfer.active), (0, true, false));
}

/// The octets are in no column, but the totals are the new baseline.
#[test]
fn more_octets_than_anybody_transfers_are_not_credited() {
    let most = OCTETS_PER_SECOND_MAX * 300;
    let recorded = recorded_by(|test_site| {
        test_site.announce(0, 1, &having(peer(1, 2001), 7, 11));
        test_site.announce(300, 1, &having(peer(1, 2001), 7 + most, 12));
        test_site.announce(600, 1, &having(peer(1, 2001), u64::MAX / 2, 15));
        test_site.announce(601, 1, &having(peer(1, 2001), u64::MAX / 2 + 100, u64::MAX));
        assert_eq!(remarks(test_site), [0, 1, 1]);
    });
    let transfer = recorded.transfer.unwrap();
    assert_eq!((transfer.raw_up, transfer.raw_down, transfer.active_time), (most + 100, 4, 601));
    assert_eq!(recorded.user.unwrap().raw_up, most + 100);
}

/// Torrent 1 of the fixture.
fn pruned(announce: Announce) -> Announce {
    Announce { info_hash: InfoHash(fixture::PRUNED), ..announce }
}

#[test]
fn stopped_brings_no_pruned_torrent_back_to_life() {
    let records = records_of(|queues| {
        let mut test_site = TestSite::new().with_queues(Arc::clone(&queues));
        test_site.announce(0, 1, &pruned(stopping(seeder(1, 2001))));
        assert!(queues.unprunes().is_empty());
        let text = test_site.site.explain(1, &InfoHash(fixture::PRUNED));
        assert!(text.contains("torrent 1 ") && text.contains(": pruned,"), "{text}");
    });
    let unpruned = records.iter().any(|record| matches!(record, Record::Torrent(row) if row.unprune));
    assert!(!unpruned, "{records:?}");
    let records = records_of(|queues| {
        let mut test_site = TestSite::new().with_queues(Arc::clone(&queues));
        test_site.announce(0, 1, &pruned(seeder(1, 2001)));
        assert_eq!(queues.unprunes(), [1]);
        test_site.announce(1, 1, &pruned(stopping(seeder(1, 2001))));
    });
    let unpruned = records.iter().any(|record| matches!(record, Record::Torrent(row) if row.unprune));
    assert!(unpruned, "it was seeded: {records:?}");
}

/// `rules/private-accounting.md#last-action`: when a peer last had all of it, leaving or not.
#[test]
fn the_last_action_of_a_torrent_is_that_of_a_seeder() {
    let last_action = |announces: &[(u32, Announce)]| {
        let recorded = recorded_by(|test_site| {
            announces.iter().for_each(|(second, announce)| _ = test_site.announce(*second, 1, announce))
        });
        recorded.torrent.unwrap().last_action
    };
    assert_eq!(last_action(&[(7, peer(1, 2001))]), 0);
    assert_eq!(last_action(&[(7, seeder(1, 2001)), (11, peer(1, 2001))]), unix(7));
    assert_eq!(last_action(&[(7, seeder(1, 2001)), (13, stopping(seeder(1, 2001)))]), unix(13));
    assert_eq!(last_action(&[(13, stopping(peer(1, 2001)))]), 0);
}
