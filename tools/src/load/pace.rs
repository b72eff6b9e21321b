//! When requests are sent: the fixed grid of the open loop, and the peers a fill has yet to announce.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// A fixed rate. Request n is due n/rate seconds after the start, however slow the requests before it were: a
/// request that is sent late keeps its due time, so that the wait is part of its latency.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    per_second: f64,
    sent: u64,
}

impl Schedule {
    /// Makes a schedule of `per_second` requests per second, more than 0.
    #[must_use]
    pub fn new(per_second: f64) -> Self {
        Self { per_second, sent: 0 }
    }

    /// Returns the number of requests that are due at `now` (nanoseconds) and not yet sent.
    #[must_use]
    pub fn waiting(&self, now: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "requests of a run of days stay below 2^53")]
        let due = (now as f64 * self.per_second / SECOND as f64) as u64 + 1;
        usize::try_from(due.saturating_sub(self.sent)).unwrap_or(usize::MAX)
    }

    /// Returns when the request after `ahead` further ones is due, in nanoseconds.
    #[must_use]
    pub fn due(&self, ahead: usize) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "nanoseconds of a run of days stay below 2^53")]
        let due = ((self.sent + ahead as u64) as f64 * SECOND as f64 / self.per_second) as u64;
        due
    }

    /// Notes that `count` requests were sent.
    pub fn note_sent(&mut self, count: usize) {
        self.sent += count as u64;
    }
}

/// The new peers of a fill, identified by numbers. Lane i of n announces the numbers i, i+n, i+2n, ..
#[derive(Clone, Debug)]
pub struct Fill {
    total: u64,
    lanes: u64,
    answered: u64,
}

/// The part of a fill that one lane announces.
#[derive(Clone, Debug)]
pub struct Share {
    next: u64,
    /// Peers whose announce was lost.
    lost: Vec<u64>,
}

impl Fill {
    /// Makes a fill of `total` peers, announced by `lanes` sockets or connections.
    #[must_use]
    pub fn new(total: u64, lanes: u64) -> Self {
        Self { total, lanes, answered: 0 }
    }

    /// Returns the next peer of a lane, or `None` if all have been announced.
    pub fn next_peer(&self, share: &mut Share) -> Option<u64> {
        share.lost.pop().or_else(|| {
            let number = share.next;
            let taken = number < self.total;
            share.next += if taken { self.lanes } else { 0 };
            taken.then_some(number)
        })
    }

    /// Counts a peer whose announce was answered.
    pub fn count_answered(&mut self) {
        self.answered += 1;
    }

    /// Whether every peer was answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.answered >= self.total
    }
}

impl Share {
    /// Makes the share of lane `lane`.
    #[must_use]
    pub fn new(lane: u64) -> Self {
        Self { next: lane, lost: Vec::new() }
    }

    /// Puts back a peer whose announce was lost.
    pub fn announce_again(&mut self, number: u64) {
        self.lost.push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_kept_after_a_stall() {
        let mut schedule = Schedule::new(1000.0);
        assert_eq!((schedule.waiting(0), schedule.due(0)), (1, 0));
        schedule.note_sent(1);
        assert_eq!((schedule.waiting(999_999), schedule.waiting(1_000_000)), (0, 1));
        // Nothing was sent for half a second: all 500 are waiting, each with the time it was due.
        assert_eq!(schedule.waiting(500_000_000), 500);
        assert_eq!((schedule.due(0), schedule.due(499)), (1_000_000, 500_000_000));
        schedule.note_sent(500);
        assert_eq!((schedule.waiting(500_000_001), schedule.due(0)), (0, 501_000_000));
    }

    #[test]
    fn rates_that_divide_nothing_evenly_do_not_drift() {
        let mut schedule = Schedule::new(29_999.7);
        schedule.note_sent(schedule.waiting(3600 * SECOND));
        assert!(schedule.due(0) > 3600 * SECOND && schedule.due(0) < 3600 * SECOND + 40_000);
    }

    #[test]
    fn a_fill_hands_out_every_peer_once_and_lost_ones_again() {
        let mut fill = Fill::new(11, 3);
        let mut shares = [0, 1, 2].map(Share::new);
        let mut taken = Vec::new();
        for share in &mut shares {
            taken.extend(std::iter::from_fn(|| fill.next_peer(share)));
        }
        taken.sort_unstable();
        assert_eq!(taken, (0..11).collect::<Vec<_>>());
        shares[1].announce_again(7);
        assert_eq!((fill.next_peer(&mut shares[1]), fill.next_peer(&mut shares[1])), (Some(7), None));
        (0..10).for_each(|_| fill.count_answered());
        assert!(!fill.is_done());
        fill.count_answered();
        assert!(fill.is_done());
    }
}
