//! Changes that a predecessor hands over with an upgrade, applied by its successor.

use hayate_state::snapshot::delta::Delta;
use hayate_state::{Announce, Event, Policy, Tick};

use crate::desk::{Desk, from, info_hash};

/// What `work` does on a predecessor, as its successor reads it.
fn deltas_of(predecessor: &mut Desk, work: impl FnOnce(&mut Desk)) -> Vec<Delta> {
    predecessor.swarms.note_deltas();
    work(predecessor);
    let mut payload = Vec::new();
    predecessor.swarms.take_deltas().unwrap().iter().for_each(|delta| delta.write(&mut payload));
    predecessor.swarms.forget_deltas();
    Delta::read(&payload).unwrap()
}

fn apply(successor: &Desk, deltas: &[Delta]) {
    let policy = successor.policy.current();
    deltas.iter().for_each(|delta| successor.swarms.apply(Tick(successor.now), &policy, delta));
}

fn desk_with_completed(completed: u32) -> Desk {
    let desk = Desk::new(Policy::default(), 0, 7);
    assert!(desk.swarms.set_completed(Tick(desk.now), &desk.policy.current(), &info_hash(1), completed));
    desk
}

#[test]
fn a_download_finished_during_an_upgrade_is_counted_by_the_successor() {
    let finish = |desk: &mut Desk| {
        desk.announce(&from(1, [192, 0, 2, 7], 6881, 9)).unwrap();
        let finished = from(1, [192, 0, 2, 7], 6881, 0);
        desk.announce(&Announce { event: Event::Completed, ..finished }).unwrap();
    };
    // The successor read the torrent before, when it was finished 7 times, or it does not know it yet.
    for known in [7, 0] {
        let deltas = deltas_of(&mut desk_with_completed(7), finish);
        let successor = desk_with_completed(known);
        for times in 1..=2 {
            apply(&successor, &deltas);
            let tally = successor.tally(1);
            assert_eq!((tally.completed, tally.seeders, tally.leechers), (8, 1, 0), "applied {times} times");
        }
    }
}

#[test]
fn a_change_older_than_what_the_successor_knows_lowers_no_count() {
    let deltas = deltas_of(&mut desk_with_completed(7), |desk| {
        desk.announce(&from(1, [192, 0, 2, 7], 6881, 0)).unwrap();
    });
    let successor = desk_with_completed(11);
    apply(&successor, &deltas);
    assert_eq!((successor.tally(1).completed, successor.tally(1).seeders), (11, 1));
}
