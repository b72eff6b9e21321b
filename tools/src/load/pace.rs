//! When requests leave: the fixed grid of the open loop, and who is still to be announced in a fill.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// A fixed rate. Request n is due n/rate seconds after the start, whether or not anything before it was slow:
/// a request that leaves late keeps its due time, so that the wait is part of its latency.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    per_second: f64,
    issued: u64,
}

impl Schedule {
    /// Requests per second, more than 0.
    #[must_use]
    pub fn new(per_second: f64) -> Self {
        Self { per_second, issued: 0 }
    }

    /// Requests that are due at `now` (nanoseconds) and have not left.
    #[must_use]
    pub fn waiting(&self, now: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "requests of a run of days stay below 2^53")]
        let due = (now as f64 * self.per_second / SECOND as f64) as u64 + 1;
        usize::try_from(due.saturating_sub(self.issued)).unwrap_or(usize::MAX)
    }

    /// When the request after `ahead` further ones is due, in nanoseconds.
    #[must_use]
    pub fn due(&self, ahead: usize) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "nanoseconds of a run of days stay below 2^53")]
        let due = ((self.issued + ahead as u64) as f64 * SECOND as f64 / self.per_second) as u64;
        due
    }

    /// Notes that `count` requests were sent.
    pub fn issue(&mut self, count: usize) {
        self.issued += count as u64;
    }
}

/// The new peers of a fill, each a number. Lane i of n has the numbers i, i+n, i+2n, ..
#[derive(Clone, Debug)]
pub struct Fill {
    total: u64,
    lanes: u64,
    settled: u64,
}

/// The part of a fill that one lane announces.
#[derive(Clone, Debug)]
pub struct Share {
    next: u64,
    again: Vec<u64>,
}

impl Fill {
    /// `total` peers, announced by `lanes` sockets or connections.
    #[must_use]
    pub fn new(total: u64, lanes: u64) -> Self {
        Self { total, lanes, settled: 0 }
    }

    /// The next peer of a lane; `None` if all have been announced.
    pub fn take(&self, share: &mut Share) -> Option<u64> {
        share.again.pop().or_else(|| {
            let number = share.next;
            let taken = number < self.total;
            share.next += if taken { self.lanes } else { 0 };
            taken.then_some(number)
        })
    }

    /// Counts a peer whose announce was answered.
    pub fn settle(&mut self) {
        self.settled += 1;
    }

    /// Whether every peer was answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.settled >= self.total
    }
}

impl Share {
    /// Makes the share of lane `lane`.
    #[must_use]
    pub fn new(lane: u64) -> Self {
        Self { next: lane, again: Vec::new() }
    }

    /// Puts a peer back whose announce was lost.
    pub fn again(&mut self, number: u64) {
        self.again.push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_kept_after_a_stall() {
        let mut schedule = Schedule::new(1000.0);
        assert_eq!((schedule.waiting(0), schedule.due(0)), (1, 0));
        schedule.issue(1);
        assert_eq!((schedule.waiting(999_999), schedule.waiting(1_000_000)), (0, 1));
        // Nothing left for half a second: all 500 are owed, each with the time it was due.
        assert_eq!(schedule.waiting(500_000_000), 500);
        assert_eq!((schedule.due(0), schedule.due(499)), (1_000_000, 500_000_000));
        schedule.issue(500);
        assert_eq!((schedule.waiting(500_000_001), schedule.due(0)), (0, 501_000_000));
    }

    #[test]
    fn rates_that_divide_nothing_evenly_do_not_drift() {
        let mut schedule = Schedule::new(29_999.7);
        schedule.issue(schedule.waiting(3600 * SECOND));
        assert!(schedule.due(0) > 3600 * SECOND && schedule.due(0) < 3600 * SECOND + 40_000);
    }

    #[test]
    fn a_fill_hands_out_every_peer_once_and_lost_ones_again() {
        let mut fill = Fill::new(11, 3);
        let mut shares = [0, 1, 2].map(Share::new);
        let mut taken = Vec::new();
        for share in &mut shares {
            taken.extend(std::iter::from_fn(|| fill.take(share)));
        }
        taken.sort_unstable();
        assert_eq!(taken, (0..11).collect::<Vec<_>>());
        shares[1].again(7);
        assert_eq!((fill.take(&mut shares[1]), fill.take(&mut shares[1])), (Some(7), None));
        (0..10).for_each(|_| fill.settle());
        assert!(!fill.is_done());
        fill.settle();
        assert!(fill.is_done());
    }
}
