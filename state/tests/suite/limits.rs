//! Refusals, expiry, and the bounds of memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hayate_state::admission::access::{Access, TorrentList};
use hayate_state::{Announce, Event, PeerId, Policy, Refusal, Tally};

use crate::test_tracker::{TestTracker, announce_from, info_hash};

const PUBLIC: [u8; 4] = [192, 0, 2, 7];

fn tracker_with(policy: Policy) -> TestTracker {
    TestTracker::new(policy, 0, 7)
}

#[test]
fn bad_ports_and_addresses_are_refused_and_change_nothing() {
    let mut tracker = tracker_with(Policy { strict_port: true, ..Policy::default() });
    assert_eq!(tracker.announce(&announce_from(1, PUBLIC, 0, 9)), Err(Refusal::InvalidPort));
    assert_eq!(tracker.announce(&announce_from(1, PUBLIC, 1023, 9)), Err(Refusal::InvalidPort));
    assert!(tracker.announce(&announce_from(2, PUBLIC, 1024, 9)).is_ok());
    for address in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "fe80::1", "::"] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(
            tracker.announce(&announce_from(1, address, 6881, 9)),
            Err(Refusal::InvalidAddress),
            "{address}"
        );
    }
    assert_eq!(tracker.tally(1), Tally::default());
}

#[test]
fn lists_admit_and_deny() {
    let list = || std::sync::Arc::new([info_hash(1)].into_iter().collect::<TorrentList>());
    let mut tracker = tracker_with(Policy { access: Access::Allow(list()), ..Policy::default() });
    assert!(tracker.announce(&announce_from(1, PUBLIC, 6881, 9)).is_ok());
    assert_eq!(tracker.announce(&announce_from(2, PUBLIC, 6881, 9)), Err(Refusal::UnregisteredTorrent));
    tracker.policy.publish(Policy { access: Access::Deny(list()), ..Policy::default() });
    assert_eq!(tracker.announce(&announce_from(1, PUBLIC, 6881, 9)), Err(Refusal::UnregisteredTorrent));
    assert!(tracker.announce(&announce_from(2, PUBLIC, 6881, 9)).is_ok());
    assert_eq!(tracker.tally(1), Tally::default(), "a denied torrent scrapes as zeros");
}

#[test]
fn stopped_and_scrape_create_nothing() {
    let mut tracker = tracker_with(Policy::default());
    let before = tracker.swarms.memory();
    for torrent in 0..1000 {
        tracker
            .announce(&Announce { event: Event::Stopped, ..announce_from(torrent, PUBLIC, 6881, 9) })
            .unwrap();
        tracker.tally(torrent);
    }
    assert_eq!((tracker.swarms.live(), tracker.swarms.memory()), (0, before));
}

#[test]
fn peers_live_for_their_lifetime_and_not_a_sweep_longer() {
    let policy = Policy { peer_inactivity_seconds: 600, purge_seconds: 60, ..Policy::default() };
    let mut tracker = tracker_with(policy);
    for number in 0..5000 {
        let announce = announce_from(
            1 + number % 7,
            Ipv4Addr::from(0xC633_0000 + u32::try_from(number).unwrap()),
            6881,
            9,
        );
        tracker.announce(&announce).unwrap();
    }
    tracker.now += 600;
    tracker.sweep();
    assert_eq!(tracker.swarms.peer_counts().total(), 5000);
    // The slices of one sweep, as the actor does them.
    tracker.now += 1;
    let policy = tracker.policy.current();
    for _ in 0..600 {
        tracker.sweeper.advance(
            hayate_state::Tick(tracker.now),
            &policy,
            std::time::Duration::from_millis(100),
        );
    }
    assert_eq!((tracker.swarms.peer_counts().total(), tracker.swarms.live()), (0, 0));
}

#[test]
fn swarms_of_any_size_expire_within_a_sweep() {
    const PEERS: u32 = 60_000;
    for size in [1, 2, 3, 30, 300, 30_000] {
        let policy = Policy { peer_inactivity_seconds: 600, purge_seconds: 60, ..Policy::default() };
        let mut tracker = tracker_with(policy);
        for number in 0..PEERS {
            let address = Ipv4Addr::from(0xC633_0000 + number % size);
            let announce = announce_from((number / size).into(), address, 6881, 9);
            tracker.announce(&Announce { num_want: 0, ..announce }).unwrap();
        }
        tracker.now += 601;
        let policy = tracker.policy.current();
        for _ in 0..600 {
            tracker.sweeper.advance(
                hayate_state::Tick(tracker.now),
                &policy,
                std::time::Duration::from_millis(100),
            );
        }
        assert_eq!((tracker.swarms.peer_counts().total(), tracker.swarms.live()), (0, 0), "of {size} peers");
    }
}

#[test]
fn ages_survive_the_wrap_of_their_fifteen_bits() {
    let mut tracker = tracker_with(Policy { peer_inactivity_seconds: 600, ..Policy::default() });
    tracker.now = (1 << 15) - 100;
    tracker.announce(&announce_from(1, PUBLIC, 6881, 9)).unwrap();
    tracker.now += 600;
    tracker.sweep();
    assert_eq!(tracker.tally(1).leechers, 1);
    tracker.now += 1;
    tracker.sweep();
    assert_eq!(tracker.tally(1).leechers, 0);
}

#[test]
fn the_completed_count_outlives_the_peers_until_newer_ones_push_it_out() {
    let mut tracker = tracker_with(Policy { idle_torrents_max: 1024 * 4, ..Policy::default() });
    let finish = |tracker: &mut TestTracker, torrent| {
        tracker
            .announce(&Announce { event: Event::Completed, ..announce_from(torrent, PUBLIC, 6881, 0) })
            .unwrap();
        tracker
            .announce(&Announce { event: Event::Stopped, ..announce_from(torrent, PUBLIC, 6881, 0) })
            .unwrap();
    };
    finish(&mut tracker, 0);
    assert_eq!(tracker.tally(0), Tally { completed: 1, ..Tally::default() });
    finish(&mut tracker, 0);
    assert_eq!(tracker.tally(0).completed, 2);
    for torrent in 1..40_000 {
        finish(&mut tracker, torrent);
    }
    assert_eq!(tracker.tally(0).completed, 0, "the oldest is forgotten");
    assert_eq!(tracker.tally(39_999).completed, 1);
    assert!(
        tracker.swarms.idle() <= 1024 * 4 && tracker.swarms.idle() > 1024 * 3,
        "{}",
        tracker.swarms.idle()
    );
}

#[test]
fn a_torrent_that_starts_and_stops_makes_no_other_forgotten() {
    let mut tracker = tracker_with(Policy { idle_torrents_max: 1024 * 32, ..Policy::default() });
    let finish = |tracker: &mut TestTracker, torrent| {
        tracker.announce(&announce_from(torrent, PUBLIC, 6881, 9)).unwrap();
        tracker
            .announce(&Announce { event: Event::Completed, ..announce_from(torrent, PUBLIC, 6881, 0) })
            .unwrap();
        tracker
            .announce(&Announce { event: Event::Stopped, ..announce_from(torrent, PUBLIC, 6881, 0) })
            .unwrap();
    };
    (0..5000).for_each(|torrent| finish(&mut tracker, torrent));
    let before = tracker.swarms.memory();
    for round in 0..2000 {
        tracker.now += round % 2;
        for torrent in 0..10 {
            tracker.announce(&announce_from(torrent, PUBLIC, 6881, 9)).unwrap();
            tracker
                .announce(&Announce { event: Event::Stopped, ..announce_from(torrent, PUBLIC, 6881, 9) })
                .unwrap();
        }
    }
    assert_eq!(tracker.swarms.idle(), 5000);
    assert!((0..5000).all(|torrent| tracker.tally(torrent).completed == 1));
    // Nor does the queue of idle torrents grow.
    assert!(tracker.swarms.memory() < before + 100_000, "{before} to {}", tracker.swarms.memory());
}

#[test]
fn the_memory_budget_holds_and_the_full_are_answered_with_a_long_interval() {
    let v4 = |number: u32| IpAddr::from(Ipv4Addr::from(0xC600_0000 + number));
    let v6 = |number: u32| IpAddr::from(Ipv6Addr::from(0x2A00_u128 << 112 | u128::from(number)));
    let both = |number| if number % 2 == 0 { v4(number) } else { v6(number) };
    for keep_peer_ids in [false, true] {
        assert_budget_holds(keep_peer_ids, v4);
        assert_budget_holds(keep_peer_ids, v6);
        assert_budget_holds(keep_peer_ids, both);
    }
}

/// Floods a tracker with fresh torrents, and then one swarm with fresh peers; `address` returns that of the
/// n-th peer.
fn assert_budget_holds(keep_peer_ids: bool, address: impl Fn(u32) -> IpAddr) {
    let memory_max = 4 << 20;
    let mut tracker = tracker_with(Policy { memory_max, keep_peer_ids, ..Policy::default() });
    let mut full = 0;
    for torrent in 0..200_000 {
        let flooder = announce_from(torrent.into(), address(torrent), 6881, 9);
        let (answer, peers) = tracker.announce(&flooder).unwrap();
        if answer.interval_seconds == 3600 {
            full += 1;
            assert!(peers.is_empty() && answer.tally == Tally::default());
        }
    }
    assert!(full > 100_000, "{full}");
    // The estimate follows a shard's growth in steps.
    assert!((tracker.swarms.memory() as u64) < memory_max * 17 / 16, "{}", tracker.swarms.memory());
    // Existing swarms still accept peers, until the budget is used up.
    let newcomer = Announce { peer_id: PeerId([7; 20]), ..announce_from(0, address(8), 6881, 9) };
    let (answer, peers) = tracker.announce(&newcomer).unwrap();
    assert_eq!((answer.tally.leechers, peers.len()), (2, 1));
    let mut refused = 0;
    for number in 0..300_000 {
        let newcomer = announce_from(0, address(1_000_000 + number), 6881, 9);
        refused += u32::from(tracker.announce(&newcomer).unwrap().0.interval_seconds == 3600);
    }
    assert!(refused > 150_000, "{refused}");
    let overshoot = (tracker.swarms.memory() as u64).saturating_sub(memory_max);
    assert!(overshoot < memory_max / 8, "{overshoot}");
    tracker.now += 4201;
    tracker.sweep();
    assert_eq!(tracker.swarms.live(), 0);
    assert!(tracker.swarms.memory() < 1 << 20, "memory comes back: {}", tracker.swarms.memory());
}

#[test]
fn one_address_has_its_share_of_a_swarm() {
    let mut tracker = TestTracker::new(Policy::default(), 8, 7);
    let v6 = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host]);
    for port in 1000..1100 {
        tracker.announce(&announce_from(1, PUBLIC, port, 9)).unwrap();
        tracker.announce(&announce_from(1, v6(port), 6881, 9)).unwrap();
        tracker.announce(&announce_from(1, [10, 0, 0, 1], port, 0)).unwrap();
        tracker.announce(&announce_from(1, [127, 0, 0, 1], port, 0)).unwrap();
    }
    assert_eq!(tracker.tally(1), Tally { seeders: 200, leechers: 16, ..Tally::default() });
    let (answer, peers) = tracker.announce(&announce_from(1, PUBLIC, 9999, 9)).unwrap();
    assert_eq!((answer.tally.leechers, peers.is_empty()), (16, false), "answered, not stored");
    tracker.announce(&Announce { event: Event::Stopped, ..announce_from(1, PUBLIC, 1003, 9) }).unwrap();
    assert_eq!(tracker.announce(&announce_from(1, PUBLIC, 9999, 9)).unwrap().0.tally.leechers, 16);
}

#[test]
fn intervals_drift_below_their_bound() {
    let mut tracker = tracker_with(Policy { announce_drift_seconds: 300, ..Policy::default() });
    let intervals: Vec<u32> = (0..2000)
        .map(|_| tracker.announce(&announce_from(1, PUBLIC, 6881, 9)).unwrap().0.interval_seconds)
        .collect();
    assert!(intervals.iter().all(|interval| (1800..2100).contains(interval)));
    assert!(intervals.contains(&1800) || intervals.iter().max() > Some(&2000));
    tracker.policy.publish(Policy { announce_drift_seconds: 0, ..Policy::default() });
    assert_eq!(tracker.announce(&announce_from(1, PUBLIC, 6881, 9)).unwrap().0.interval_seconds, 1800);
}
