//! All connections of one role: their clock, and which of them close when there are too many, or too many
//! octets wait.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::rc::Rc;
use std::time::Duration;

use super::timeouts::{CloseOrder, ConnTimeouts, ConnTimer, TimerShared};
use crate::engine::metrics::Phase;

/// The most octets of answers that wait for their clients, all connections together.
const WAITING_MAX: usize = 4 << 20;
/// Idle connections that one search finds for making room, so that not every new connection costs a search.
const CANDIDATES_MAX: usize = 256;

/// All connections of one role.
#[derive(Debug, Default)]
pub(super) struct Connections {
    shared: Rc<TimerShared>,
    timers: RefCell<Vec<Rc<ConnTimer>>>,
    /// Connections that were idle at the last search, and since when; the longest idle is the last.
    candidates: RefCell<Vec<(u64, Rc<ConnTimer>)>>,
    /// The time of the last search that found none.
    all_busy_at: Cell<Option<u64>>,
}

impl Connections {
    /// The number of connections.
    pub(super) fn len(&self) -> usize {
        self.timers.borrow().len()
    }

    /// Adds a connection and returns its timer.
    pub(super) fn add(&self, times: ConnTimeouts) -> Rc<ConnTimer> {
        let mut timers = self.timers.borrow_mut();
        let timer = ConnTimer::new(&self.shared, times, timers.len());
        timers.push(Rc::clone(&timer));
        timer
    }

    /// Removes a connection; a second call does nothing.
    pub(super) fn remove(&self, timer: &ConnTimer) {
        let mut timers = self.timers.borrow_mut();
        let index = timer.index.replace(usize::MAX);
        if index < timers.len() {
            timers.swap_remove(index);
        }
        if let Some(moved) = timers.get(index) {
            moved.index.set(index);
        }
    }

    /// Sets the coarse clock and closes every connection whose time is up. `now` counts from an arbitrary
    /// start.
    pub(super) fn close_expired(&self, now: Duration, mut expired: impl FnMut(Phase)) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        // The clock stood still since the last check, so that no connection pays for a check that came late.
        let slack = now.saturating_sub(self.shared.now.replace(now));
        self.timers.borrow().iter().filter_map(|timer| timer.close_if_expired(slack)).for_each(&mut expired);
    }

    /// Closes the connection that has been without a request for longest; one that has sent part of a request
    /// only where there are no others. Returns false if all are busy.
    pub(super) fn make_room(&self) -> bool {
        loop {
            let Some((since, timer)) = self.candidates.borrow_mut().pop() else {
                if self.find_idle() {
                    continue;
                }
                return false;
            };
            // A connection that became idle after the search has been so for less time than all it found.
            if timer.idle_since().is_some_and(|(_, now_since)| now_since == since) {
                timer.set_order(CloseOrder::Drop);
                self.remove(&timer);
                return true;
            }
        }
    }

    fn find_idle(&self) -> bool {
        let now = self.shared.now.get();
        if self.all_busy_at.get() == Some(now) {
            return false;
        }
        let mut found: Vec<_> = {
            let timers = self.timers.borrow();
            let idle =
                timers.iter().filter_map(|timer| timer.idle_since().map(|key| (key, Rc::clone(timer))));
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
        self.all_busy_at.set(found.is_empty().then_some(now));
        let mut candidates = self.candidates.borrow_mut();
        *candidates = found.into_iter().map(|((_, since), timer)| (since, timer)).collect();
        !candidates.is_empty()
    }

    /// Closes the connections whose answers have waited longest, until the rest is within bounds; returns
    /// their number.
    pub(super) fn close_stalled(&self) -> u64 {
        let mut closed = 0;
        while self.shared.waiting.get() > WAITING_MAX {
            let timers = self.timers.borrow();
            let stalled = timers.iter().filter_map(|timer| Some((timer.stalled_since()?, timer)));
            let worst = stalled.min_by_key(|((since, octets), _)| (*since, Reverse(*octets)));
            let Some((_, timer)) = worst else { break };
            timer.set_order(CloseOrder::Drop);
            closed += 1;
        }
        closed
    }

    /// Tells every connection to finish except those from which nothing has come yet.
    pub(super) fn finish_active(&self) {
        self.order_finish(|timer| timer.has_received());
    }

    /// Tells every connection to finish, unless it is to close at once anyway.
    pub(super) fn finish_all(&self) {
        self.order_finish(|_| true);
    }

    fn order_finish(&self, which: impl Fn(&ConnTimer) -> bool) {
        let timers = self.timers.borrow();
        let chosen = timers.iter().filter(|timer| timer.has_no_order() && which(timer));
        chosen.for_each(|timer| timer.set_order(CloseOrder::Finish));
    }
}

#[cfg(test)]
impl Connections {
    /// The coarse clock.
    pub(super) fn now(&self) -> u64 {
        self.shared.now.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: ConnTimeouts = ConnTimeouts { read: 10_000, write: 20_000, idle: 60_000 };

    /// Connections that came one per second, from the first second on.
    fn connections(count: u64) -> (Connections, Vec<Rc<ConnTimer>>) {
        let connections = Connections::default();
        let mut timers = Vec::new();
        for second in 1..=count {
            connections.close_expired(Duration::from_secs(second), |_| {});
            timers.push(connections.add(TIMES));
        }
        (connections, timers)
    }

    fn is_closed(timer: &ConnTimer) -> bool {
        timer.idle_since().is_none() && !timer.has_no_order()
    }

    #[test]
    fn a_connection_that_closes_frees_its_own_place() {
        let connections = Connections::default();
        let times = ConnTimeouts { read: 1, write: 1, idle: 1 };
        let timers: Vec<_> = (0..7).map(|_| connections.add(times)).collect();
        for at in [2, 6, 0, 5, 1] {
            connections.remove(&timers[at]);
        }
        let left: Vec<_> = connections.timers.borrow().iter().map(Rc::as_ptr).collect();
        assert_eq!(left.len(), 2);
        assert!(left.contains(&Rc::as_ptr(&timers[3])) && left.contains(&Rc::as_ptr(&timers[4])));
    }

    #[test]
    fn the_longest_idle_makes_room_and_the_busy_stay() {
        let (connections, timers) = connections(7);
        let busy = [1, 4].map(|at: usize| {
            assert!(timers[at].begin_reply().is_none());
            &timers[at]
        });
        assert!(connections.make_room() && is_closed(&timers[0]));
        // After the search this one has a request, and is idle again later than all others.
        timers[2].set_tls(true);
        connections.close_expired(Duration::from_secs(8), |_| {});
        drop(timers[2].begin_reply());
        for next in [3, 5, 6, 2] {
            assert!(connections.make_room());
            assert!(is_closed(&timers[next]), "{next}");
        }
        assert!(!connections.make_room() && !connections.make_room());
        assert!(busy.iter().all(|timer| timer.has_no_order()));
        assert_eq!(connections.len(), 2);
        timers.iter().for_each(|timer| connections.remove(timer));
        assert_eq!(connections.len(), 0);
    }

    #[test]
    fn many_newcomers_do_not_look_at_all_connections_each() {
        let count = 2 * CANDIDATES_MAX as u64 + 7;
        let connections = Connections::default();
        let timers: Vec<_> = (0..count).map(|_| connections.add(TIMES)).collect();
        let mut looks = 0;
        for left in (0..count).rev() {
            // Without candidates, all connections are searched.
            looks += usize::from(connections.candidates.borrow().is_empty());
            assert!(connections.make_room());
            assert_eq!(connections.len() as u64, left);
        }
        assert_eq!(looks, 3);
        assert!(timers.iter().all(|timer| is_closed(timer)));
    }

    #[test]
    fn those_who_have_stalled_longest_go_until_the_rest_is_within_bounds() {
        let (connections, timers) = connections(5);
        let open: Vec<_> = timers
            .iter()
            .enumerate()
            .map(|(at, timer)| {
                timer.set_tls(true);
                let second = [9, 7, 8, 6, 10][at];
                connections.close_expired(Duration::from_secs(second), |_| {});
                timer.begin_reply().unwrap()
            })
            .collect();
        // The clock of the test goes back and forth; so the order is not that of the indices.
        assert_eq!(connections.close_stalled(), 0);
        open.iter().for_each(|open| open.add_octets(WAITING_MAX / 3));
        assert_eq!(connections.close_stalled(), 3);
        let closed: Vec<_> = timers.iter().map(|timer| is_closed(timer)).collect();
        assert_eq!(closed, [false, true, true, true, false]);
        drop(open);
        assert_eq!(connections.shared.waiting.get(), 0);
    }
}
