//! All connections of one kind: their clock, and who goes when there are too many, or too many octets wait.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::rc::Rc;
use std::time::Duration;

use super::timeouts::{Order, Shared, Times, Watch};
use crate::engine::stats::Phase;

/// Octets of answers that wait for their clients, all connections together, at most.
const WAITING_MAX: usize = 4 << 20;
/// Connections that are found at once for making room, so that not every newcomer costs a look at all.
const CANDIDATES_MAX: usize = 256;

/// All connections of one kind.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    shared: Rc<Shared>,
    watches: RefCell<Vec<Rc<Watch>>>,
    /// Connections that were idle when it was last looked, and since when; the longest idle is the last.
    candidates: RefCell<Vec<(u64, Rc<Watch>)>>,
    /// When it was last looked in vain.
    all_busy: Cell<Option<u64>>,
}

impl Crowd {
    /// Connections there are.
    pub(super) fn len(&self) -> usize {
        self.watches.borrow().len()
    }

    /// Takes one more.
    pub(super) fn enter(&self, times: Times) -> Rc<Watch> {
        let mut watches = self.watches.borrow_mut();
        let watch = Watch::new(&self.shared, times, watches.len());
        watches.push(Rc::clone(&watch));
        watch
    }

    /// Lets one go, once.
    pub(super) fn leave(&self, watch: &Watch) {
        let mut watches = self.watches.borrow_mut();
        let seat = watch.seat.replace(usize::MAX);
        if seat < watches.len() {
            watches.swap_remove(seat);
        }
        if let Some(moved) = watches.get(seat) {
            moved.seat.set(seat);
        }
    }

    /// Sets the coarse clock and closes every connection whose time is up. `now` is since an arbitrary start.
    pub(super) fn beat(&self, now: Duration, mut expired: impl FnMut(Phase)) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        // The clock stood still since the last beat, so that nobody pays for a beat that came late.
        let slack = now.saturating_sub(self.shared.now.replace(now));
        self.watches.borrow().iter().filter_map(|watch| watch.expire(slack)).for_each(&mut expired);
    }

    /// Closes the connection that has been without a request for longest; of those that have sent a part of
    /// one only where there are no others. False if all are busy.
    pub(super) fn make_room(&self) -> bool {
        loop {
            let Some((since, watch)) = self.candidates.borrow_mut().pop() else {
                if self.find_candidates() {
                    continue;
                }
                return false;
            };
            // Whoever has become idle after the look has been so for less time than all that were found.
            if watch.idle().is_some_and(|(_, now_since)| now_since == since) {
                watch.tell(Order::Drop);
                self.leave(&watch);
                return true;
            }
        }
    }

    fn find_candidates(&self) -> bool {
        let now = self.shared.now.get();
        if self.all_busy.get() == Some(now) {
            return false;
        }
        let mut found: Vec<_> = {
            let watches = self.watches.borrow();
            let idle = watches.iter().filter_map(|watch| watch.idle().map(|key| (key, Rc::clone(watch))));
            idle.collect()
        };
        if found.iter().any(|((begun, _), _)| !begun) {
            found.retain(|((begun, _), _)| !begun);
        }
        if found.len() > CANDIDATES_MAX {
            found.select_nth_unstable_by_key(CANDIDATES_MAX, |(key, _)| *key);
            found.truncate(CANDIDATES_MAX);
        }
        found.sort_unstable_by_key(|(key, _)| Reverse(*key));
        self.all_busy.set(found.is_empty().then_some(now));
        let mut candidates = self.candidates.borrow_mut();
        *candidates = found.into_iter().map(|((_, since), watch)| (since, watch)).collect();
        !candidates.is_empty()
    }

    /// Closes the connections that have let answers wait for longest, until the rest is within bounds; says
    /// how many.
    pub(super) fn relieve(&self) -> u64 {
        let mut closed = 0;
        while self.shared.waiting.get() > WAITING_MAX {
            let watches = self.watches.borrow();
            let stalled = watches.iter().filter_map(|watch| Some((watch.stalled()?, watch)));
            let worst = stalled.min_by_key(|((since, octets), _)| (*since, Reverse(*octets)));
            let Some((_, watch)) = worst else { break };
            watch.tell(Order::Drop);
            closed += 1;
        }
        closed
    }

    /// Tells every connection to finish but those from which nothing has come yet.
    pub(super) fn finish_known(&self) {
        self.tell_to_finish(|watch| watch.has_spoken());
    }

    /// Tells every connection to finish, unless it is to close at once anyway.
    pub(super) fn finish(&self) {
        self.tell_to_finish(|_| true);
    }

    fn tell_to_finish(&self, which: impl Fn(&Watch) -> bool) {
        let watches = self.watches.borrow();
        let told = watches.iter().filter(|watch| watch.is_free() && which(watch));
        told.for_each(|watch| watch.tell(Order::Finish));
    }
}

#[cfg(test)]
impl Crowd {
    /// The coarse clock.
    pub(super) fn now(&self) -> u64 {
        self.shared.now.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { read: 10_000, write: 20_000, idle: 60_000 };

    /// Connections that came one a second, from the first second on.
    fn crowd(count: u64) -> (Crowd, Vec<Rc<Watch>>) {
        let crowd = Crowd::default();
        let mut watches = Vec::new();
        for second in 1..=count {
            crowd.beat(Duration::from_secs(second), |_| {});
            watches.push(crowd.enter(TIMES));
        }
        (crowd, watches)
    }

    fn is_closed(watch: &Watch) -> bool {
        watch.idle().is_none() && !watch.is_free()
    }

    #[test]
    fn whoever_leaves_frees_his_own_seat() {
        let crowd = Crowd::default();
        let times = Times { read: 1, write: 1, idle: 1 };
        let watches: Vec<_> = (0..7).map(|_| crowd.enter(times)).collect();
        for at in [2, 6, 0, 5, 1] {
            crowd.leave(&watches[at]);
        }
        let left: Vec<_> = crowd.watches.borrow().iter().map(Rc::as_ptr).collect();
        assert_eq!(left.len(), 2);
        assert!(left.contains(&Rc::as_ptr(&watches[3])) && left.contains(&Rc::as_ptr(&watches[4])));
    }

    #[test]
    fn the_longest_idle_makes_room_and_the_busy_stay() {
        let (crowd, watches) = crowd(7);
        let busy = [1, 4].map(|at: usize| {
            assert!(watches[at].replying().is_none());
            &watches[at]
        });
        assert!(crowd.make_room() && is_closed(&watches[0]));
        // After the look this one has a request, and is idle again later than all others.
        watches[2].secured(true);
        crowd.beat(Duration::from_secs(8), |_| {});
        drop(watches[2].replying());
        for next in [3, 5, 6, 2] {
            assert!(crowd.make_room());
            assert!(is_closed(&watches[next]), "{next}");
        }
        assert!(!crowd.make_room() && !crowd.make_room());
        assert!(busy.iter().all(|watch| watch.is_free()));
        assert_eq!(crowd.len(), 2);
        watches.iter().for_each(|watch| crowd.leave(watch));
        assert_eq!(crowd.len(), 0);
    }

    #[test]
    fn many_newcomers_do_not_look_at_all_connections_each() {
        let count = 2 * CANDIDATES_MAX as u64 + 7;
        let crowd = Crowd::default();
        let watches: Vec<_> = (0..count).map(|_| crowd.enter(TIMES)).collect();
        let mut looks = 0;
        for left in (0..count).rev() {
            // Whoever finds no candidates looks at all.
            looks += usize::from(crowd.candidates.borrow().is_empty());
            assert!(crowd.make_room());
            assert_eq!(crowd.len() as u64, left);
        }
        assert_eq!(looks, 3);
        assert!(watches.iter().all(|watch| is_closed(watch)));
    }

    #[test]
    fn those_who_have_stalled_longest_go_until_the_rest_is_within_bounds() {
        let (crowd, watches) = crowd(5);
        let open: Vec<_> = watches
            .iter()
            .enumerate()
            .map(|(at, watch)| {
                watch.secured(true);
                let second = [9, 7, 8, 6, 10][at];
                crowd.beat(Duration::from_secs(second), |_| {});
                watch.replying().unwrap()
            })
            .collect();
        // The clock of the test goes back and forth; so the order is not that of the seats.
        assert_eq!(crowd.relieve(), 0);
        open.iter().for_each(|open| open.weighs(WAITING_MAX / 3));
        assert_eq!(crowd.relieve(), 3);
        let closed: Vec<_> = watches.iter().map(|watch| is_closed(watch)).collect();
        assert_eq!(closed, [false, true, true, true, false]);
        drop(open);
        assert_eq!(crowd.shared.waiting.get(), 0);
    }
}
