//! Changes that a predecessor hands over with an upgrade, applied by its successor.

use hayate_state::snapshot::delta::{Delta, decode_deltas, encode_delta};
use hayate_state::{Announce, Event, Policy, Tick};

use crate::test_tracker::{TestTracker, announce_from, info_hash};

/// Returns what `work` does on a predecessor, as its successor reads it.
fn deltas_of(predecessor: &mut TestTracker, work: impl FnOnce(&mut TestTracker)) -> Vec<Delta> {
    predecessor.swarms.start_deltas();
    work(predecessor);
    let mut payload = Vec::new();
    predecessor.swarms.take_deltas().unwrap().iter().for_each(|delta| encode_delta(delta, &mut payload));
    predecessor.swarms.stop_deltas();
    decode_deltas(&payload).unwrap()
}

fn apply(successor: &TestTracker, deltas: &[Delta]) {
    let policy = successor.policy.current();
    deltas.iter().for_each(|delta| successor.swarms.apply_delta(Tick(successor.now), &policy, delta));
}

fn tracker_with_completed(completed: u32) -> TestTracker {
    let tracker = TestTracker::new(Policy::default(), 0, 7);
    assert!(tracker.swarms.set_completed(
        Tick(tracker.now),
        &tracker.policy.current(),
        &info_hash(1),
        completed
    ));
    tracker
}

#[test]
fn a_download_finished_during_an_upgrade_is_counted_by_the_successor() {
    let finish = |tracker: &mut TestTracker| {
        tracker.announce(&announce_from(1, [192, 0, 2, 7], 6881, 9)).unwrap();
        let finished = announce_from(1, [192, 0, 2, 7], 6881, 0);
        tracker.announce(&Announce { event: Event::Completed, ..finished }).unwrap();
    };
    // The successor read the torrent before, when it was finished 7 times, or it does not know it yet.
    for known in [7, 0] {
        let deltas = deltas_of(&mut tracker_with_completed(7), finish);
        let successor = tracker_with_completed(known);
        for times in 1..=2 {
            apply(&successor, &deltas);
            let tally = successor.tally(1);
            assert_eq!((tally.completed, tally.seeders, tally.leechers), (8, 1, 0), "applied {times} times");
        }
    }
}

#[test]
fn a_change_older_than_what_the_successor_knows_lowers_no_count() {
    let deltas = deltas_of(&mut tracker_with_completed(7), |tracker| {
        tracker.announce(&announce_from(1, [192, 0, 2, 7], 6881, 0)).unwrap();
    });
    let successor = tracker_with_completed(11);
    apply(&successor, &deltas);
    assert_eq!((successor.tally(1).completed, successor.tally(1).seeders), (11, 1));
}
