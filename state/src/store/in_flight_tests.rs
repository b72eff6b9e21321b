//! Tests: where rows are on their way to the store, and how they are counted.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::clock::Clock;
use crate::store::Bounds;
use crate::store::record::UserRow;

fn user(id: u32) -> Record {
    Record::User(UserRow { id, uploaded: 7, ..UserRow::default() })
}

#[test]
fn what_was_under_way_goes_to_the_disk_before_what_came_later() {
    let folder = tempfile::tempdir().unwrap();
    let queues = Arc::new(Queues::new(Clock::start(), &Bounds::default()));
    let in_flight = InFlight::open(Arc::clone(&queues), Arc::default(), folder.path()).unwrap();
    queues.put(user(1));
    let job = in_flight.next_batch(Channel::Users, 0).unwrap().unwrap();
    queues.put(user(2));
    in_flight.spill_queue(Channel::Users, true);
    in_flight.spill_held(Channel::Users);
    drop(job);
    for (number, acknowledged) in [(1, 0), (2, 1)] {
        let job = in_flight.next_batch(Channel::Users, acknowledged).unwrap().unwrap();
        let batch = (job.batch.sequence, job.batch.records.clone());
        assert_eq!(batch, (number, vec![user(u32::try_from(number).unwrap())]));
        in_flight.mark_kept(&job);
    }
    assert!(in_flight.next_batch(Channel::Users, 2).unwrap().is_none());
}

#[test]
fn a_row_is_counted_until_it_is_kept_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (queues, metrics) =
        (Arc::new(Queues::new(Clock::start(), &Bounds::default())), Arc::<StoreMetrics>::default());
    let in_flight = InFlight::open(Arc::clone(&queues), Arc::clone(&metrics), folder.path()).unwrap();
    // Odd while a row waits.
    let (step, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let of_users = metrics.channel(Channel::Users);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let before = step.load(Ordering::Acquire);
                // In the order of the metrics.
                let in_queue = queues.rows(Channel::Users) as u64;
                let under_way = of_users.under_way.load(Ordering::Acquire);
                let counted = in_queue + under_way + of_users.spill_rows.load(Ordering::Acquire);
                let waited = before % 2 == 1 && step.load(Ordering::Acquire) == before;
                assert!(counted > 0 || !waited, "a row is missed in step {before}");
            }
        });
        for number in 1..=200 {
            queues.put(user(number));
            step.fetch_add(1, Ordering::AcqRel);
            // By way of the disk, and from memory.
            if number % 2 == 0 {
                in_flight.spill_queue(Channel::Users, true);
            }
            let job = in_flight.next_batch(Channel::Users, u64::from(number) - 1).unwrap().unwrap();
            step.fetch_add(1, Ordering::AcqRel);
            in_flight.mark_kept(&job);
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn no_row_of_mode_private_goes_to_the_store_before_the_disk_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let spill = folder.path().join("spill");
    let queues = Arc::new(Queues::accounting(Clock::start(), &Bounds::default()));
    let in_flight = InFlight::open(Arc::clone(&queues), Arc::default(), &spill).unwrap();
    // A file where the folder should be: the disk takes nothing.
    std::fs::write(&spill, "in the way").unwrap();
    queues.put(user(1));
    in_flight.cut();
    in_flight.spill_held(Channel::Users);
    in_flight.spill_queue(Channel::Users, true);
    assert!(in_flight.next_batch(Channel::Users, 0).unwrap().is_none());
    assert_eq!((in_flight.rows_in_memory(Channel::Users), in_flight.rows_on_disk(Channel::Users)), (1, 0));
    std::fs::remove_file(&spill).unwrap();
    queues.put(user(2));
    in_flight.cut();
    assert_eq!((in_flight.rows_in_memory(Channel::Users), in_flight.rows_on_disk(Channel::Users)), (0, 2));
    let job = in_flight.next_batch(Channel::Users, 0).unwrap().unwrap();
    assert_eq!((job.batch.sequence, job.batch.records.clone()), (2, vec![user(1), user(2)]));
    in_flight.mark_kept(&job);
    assert_eq!(
        (in_flight.rows_waiting(Channel::Users), in_flight.queues.lag(Channel::Users).as_secs()),
        (0, 0)
    );
}
