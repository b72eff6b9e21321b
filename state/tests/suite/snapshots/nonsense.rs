//! Blocks with a good checksum and contents that no tracker writes.

use hayate_state::snapshot::container::SnapshotError;
use hayate_state::snapshot::swarms::{CompletedFrom, Restore, Walk, check_swarms};
use hayate_state::{Announce, Event, Policy, Tick};

use super::at;
use crate::test_tracker::{TestTracker, announce_from};

fn payload() -> Vec<u8> {
    let mut tracker = TestTracker::new(Policy { keep_peer_ids: true, ..Policy::default() }, 0, 7);
    for number in 0..300_u16 {
        let address: std::net::IpAddr = match number % 3 {
            0 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, number].into(),
            _ => [192, 0, 2, 7].into(),
        };
        let event = [Event::Completed, Event::Paused, Event::None][usize::from(number % 3)];
        let torrent = u64::from(number % 11);
        tracker
            .announce(&Announce {
                event,
                ..announce_from(torrent, address, 1000 + number, u64::from(number % 2))
            })
            .unwrap();
    }
    let mut payload = Vec::new();
    let mut walk = Walk::new(tracker.swarms, Tick(tracker.now));
    while walk.copy_slice(Tick(tracker.now), &mut payload) {}
    payload
}

/// Restores some octets; whatever they are, the counts stay true and all memory comes back.
fn restore_any(octets: &[u8]) -> Result<(), SnapshotError> {
    let mut tracker = TestTracker::new(Policy { idle_torrents_max: 0, ..Policy::default() }, 3, 7);
    let policy = tracker.policy.current();
    let mut restore = Restore::new(&tracker.swarms, &policy, CompletedFrom::Snapshot);
    let result = restore.restore_swarms(at(tracker.now, 10), i64::MAX, octets);
    assert_eq!(u64::from(tracker.swarms.peer_counts().total()), restore.summary().peers);
    assert_eq!(check_swarms(octets).is_ok(), result.is_ok());
    tracker.now += 4201;
    tracker.sweep();
    assert_eq!((tracker.swarms.live(), tracker.swarms.peer_counts().total()), (0, 0));
    result
}

#[test]
fn random_octets_do_no_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut random, good) = (fastrand::Rng::with_seed(seed), payload());
    restore_any(&good).unwrap();
    let mut refused = 0;
    for round in 0..3000 {
        let mut octets = good.clone();
        if round % 4 == 0 {
            octets = (0..random.usize(..400)).map(|_| random.u8(..)).collect();
        }
        for _ in 0..random.u8(1..4) {
            let (place, octet) = (random.usize(..octets.len().max(1)), random.u8(..));
            octets.get_mut(place).into_iter().for_each(|there| *there = octet);
        }
        if random.bool() {
            octets.truncate(random.usize(..=octets.len()));
        }
        refused += u32::from(restore_any(&octets).is_err());
    }
    assert!((500..2900).contains(&refused), "{refused}");
}

#[test]
fn a_payload_that_ends_too_early_is_refused() {
    let good = payload();
    // Cut behind a whole torrent, it is valid.
    let whole = (0..good.len()).filter(|len| restore_any(&good[..*len]).is_ok()).count();
    // Behind the head and each torrent but the last; the end of a slice may have cut one in two.
    assert!((11..=12).contains(&whole), "{whole}");
}
