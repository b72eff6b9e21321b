//! What happens between two slices of a sweep, and the memory that a sweep frees.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hayate_state::{Announce, Event, Policy, Tick};

use crate::test_tracker::{TestTracker, announce_from};

const SLICE_PERIOD: Duration = Duration::from_millis(100);

fn public(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xC633_0000 + number)
}

#[test]
fn a_worker_whose_clock_is_a_second_ahead_loses_no_peer() {
    let mut tracker = TestTracker::new(Policy::default(), 0, 7);
    tracker.now += 1;
    tracker.announce(&announce_from(1, [192, 0, 2, 7], 6881, 9)).unwrap();
    tracker.now -= 1;
    tracker.sweep();
    assert_eq!(tracker.tally(1).leechers, 1);
}

/// The private peer is the first leecher: the one that makes room for a new seeder.
#[test]
fn a_peer_that_moves_behind_the_sweep_is_still_known_as_private() {
    let requester = Announce { num_want: 200, ..announce_from(1, [198, 18, 0, 1], 7001, 9) };
    for phase in 0..40 {
        let mut tracker = TestTracker::new(Policy::default(), 0, 7);
        tracker.announce(&announce_from(1, [10, 0, 0, 1], 6881, 9)).unwrap();
        for number in 0..5000 + 97 * phase {
            tracker.announce(&announce_from(1, public(number), 6881, 9)).unwrap();
        }
        let policy = tracker.policy.current();
        for slice in 0..6 {
            tracker.sweeper.advance(Tick(tracker.now), &policy, SLICE_PERIOD);
            if slice == phase % 4 {
                tracker.announce(&announce_from(1, public(60_000), 6881, 0)).unwrap();
            }
            for _ in 0..30 {
                let (_, peers) = tracker.announce(&requester).unwrap();
                let private = peers.iter().filter(|peer| peer.0 == Ipv4Addr::new(10, 0, 0, 1)).count();
                assert_eq!(private, 0, "phase {phase}, slice {slice}");
            }
        }
    }
}

#[test]
fn idle_torrents_of_one_second_are_bounded_too() {
    let max = 256 * 400;
    let mut tracker = TestTracker::new(Policy { idle_torrents_max: max, ..Policy::default() }, 0, 7);
    for torrent in 0..1_500_000 {
        let finished =
            Announce { event: Event::Completed, ..announce_from(torrent, [192, 0, 2, 7], 6881, 0) };
        tracker.announce(&finished).unwrap();
        tracker.announce(&Announce { event: Event::Stopped, ..finished }).unwrap();
    }
    assert!(tracker.swarms.idle() <= max, "{}", tracker.swarms.idle());
}

#[test]
fn a_swarm_that_shrinks_gives_its_index_back() {
    let mut tracker = TestTracker::new(Policy::default(), 0, 7);
    for number in 0..300_000 {
        tracker.announce(&announce_from(1, Ipv4Addr::from(0xC600_0000 + number), 6881, 9)).unwrap();
    }
    let full = tracker.swarms.memory();
    for number in 1000..300_000 {
        let stopped = Announce {
            event: Event::Stopped,
            ..announce_from(1, Ipv4Addr::from(0xC600_0000 + number), 6881, 9)
        };
        tracker.announce(&stopped).unwrap();
    }
    tracker.sweep();
    assert!(tracker.swarms.memory() < full / 20, "{} of {full}", tracker.swarms.memory());
}

#[test]
fn ids_that_are_not_kept_any_more_are_given_back() {
    let mut tracker = TestTracker::new(Policy { keep_peer_ids: true, ..Policy::default() }, 0, 7);
    for number in 0..1000 {
        tracker.announce(&announce_from(1, public(number), 6881, 9)).unwrap();
    }
    let with_ids = tracker.swarms.memory();
    tracker.policy.publish(Policy::default());
    tracker.announce(&announce_from(1, public(0), 6881, 9)).unwrap();
    tracker.sweep();
    assert!(tracker.swarms.memory() + 15_000 < with_ids);
}

#[test]
fn a_swarm_that_became_large_again_under_the_sweep_hides_its_private_peers() {
    let mut tracker = TestTracker::new(Policy::default(), 0, 7);
    let silent = |announce: Announce| Announce { num_want: 0, ..announce };
    for number in 0..9000 {
        tracker.announce(&silent(announce_from(1, public(number), 6881, 9))).unwrap();
    }
    // The sweep stops in the middle of the large swarm.
    let policy = tracker.policy.current();
    tracker.sweeper.advance(Tick(tracker.now), &policy, Duration::from_secs(10));
    for number in 0..9000 {
        let leave = Announce { event: Event::Stopped, ..announce_from(1, public(number), 6881, 9) };
        tracker.announce(&leave).unwrap();
    }
    assert_eq!(tracker.swarms.live(), 0);
    for number in 0..30_u8 {
        tracker.announce(&silent(announce_from(1, [10, 0, 0, number], 6881, 0))).unwrap();
    }
    for number in 0..30 {
        tracker.announce(&silent(announce_from(1, public(number), 6881, 9))).unwrap();
    }
    for _ in 0..20 {
        tracker.sweeper.advance(Tick(tracker.now), &policy, Duration::from_secs(1));
        let (_, peers) = tracker.announce(&announce_from(1, [198, 18, 0, 1], 7001, 9)).unwrap();
        let private = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.is_private());
        assert!(peers.iter().all(|(address, _)| !private(address)), "{peers:?}");
    }
}

#[test]
fn a_port_that_a_reload_denies_is_not_handed_out_once_its_peer_has_come_again() {
    let v6 = |number: u32| IpAddr::V6((0x2001_0db8_u128 << 96 | u128::from(number)).into());
    let v4 = |number: u32| IpAddr::from(public(number));
    // A pair, a small and a large swarm of one family, and a large one of the other.
    for (others, address) in [(0, &v4 as &dyn Fn(u32) -> IpAddr), (20, &v4), (200, &v4), (5, &v6)] {
        let mut tracker = TestTracker::new(Policy::default(), 0, 7);
        let denied = announce_from(1, address(999), 7001, 0);
        tracker.announce(&denied).unwrap();
        for number in 0..others {
            tracker.announce(&announce_from(1, address(number), 6881, 9)).unwrap();
        }
        tracker.policy.publish(Policy { denied_ports: vec![7001], ..Policy::default() });
        tracker.announce(&denied).unwrap();
        for _ in 0..50 {
            let (_, peers) = tracker.announce(&announce_from(1, address(998), 6881, 9)).unwrap();
            assert!(!peers.contains(&(address(999), 7001)), "among {others}");
        }
    }
}
