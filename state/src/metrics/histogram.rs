//! Histograms for `/metrics`: of durations, and of counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of durations, in milliseconds.
const SECONDS: &[u64] = &[1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000];
/// Upper bounds of short durations, in microseconds: those of the reference tracker, and finer ones below.
const MILLISECONDS: &[u64] = &[
    10, 50, 250, 1000, 9375, 18_750, 37_500, 75_000, 150_000, 300_000, 600_000, 1_200_000, 2_400_000,
    4_800_000,
];
/// Upper bounds of counts of rows.
const ROWS: &[u64] = &[1, 5, 10, 50, 100, 500, 1000, 5000, 10_000, 50_000, 100_000, 500_000];

/// A distribution that any thread adds to and any thread reads.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// The factor by which bounds and sums are multiplied to be shown.
    scale: f64,
    /// One more than there are bounds: the last is for numbers above all of them.
    buckets: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::seconds()
    }
}

impl Histogram {
    /// Makes a histogram of durations, shown in seconds.
    #[must_use]
    pub fn seconds() -> Self {
        Self::new(SECONDS, 0.001)
    }

    /// Makes a histogram of short durations, shown in milliseconds.
    #[must_use]
    pub fn milliseconds() -> Self {
        Self::new(MILLISECONDS, 0.001)
    }

    /// Makes a histogram of counts of rows.
    #[must_use]
    pub fn rows() -> Self {
        Self::new(ROWS, 1.0)
    }

    fn new(bounds: &'static [u64], scale: f64) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, scale, buckets, sum: AtomicU64::new(0) }
    }

    /// Adds a duration.
    pub fn record(&self, time: Duration) {
        let number = if self.bounds == MILLISECONDS { time.as_micros() } else { time.as_millis() };
        self.record_value(u64::try_from(number).unwrap_or(u64::MAX));
    }

    /// Adds a number, in the unit of the bounds.
    pub fn record_value(&self, number: u64) {
        let at = self.bounds.partition_point(|bound| *bound < number);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    /// Returns the distribution as of now.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "the text format knows floating point only")]
    pub fn distribution(&self) -> Distribution {
        let mut count = 0;
        let mut below = Vec::new();
        for (bucket, bound) in self.buckets.iter().zip(self.bounds) {
            count += bucket.load(Ordering::Relaxed);
            below.push((*bound as f64 * self.scale, count));
        }
        count += self.buckets.last().map_or(0, |above| above.load(Ordering::Relaxed));
        Distribution { below, count, sum: self.sum.load(Ordering::Relaxed) as f64 * self.scale }
    }
}

/// A distribution as it stood when it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Upper bounds, and the count of numbers not above each of them.
    pub below: Vec<(f64, u64)>,
    /// The count of all numbers.
    pub count: u64,
    /// The sum of all numbers.
    pub sum: f64,
}

impl Distribution {
    /// Adds the counts of another distribution with the same bounds.
    pub(crate) fn add(&mut self, other: &Self) {
        for ((_, count), (_, more)) in self.below.iter_mut().zip(&other.below) {
            *count += more;
        }
        self.count += other.count;
        self.sum += other.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_all_that_is_not_above_their_bound() {
        let histogram = Histogram::seconds();
        for milliseconds in [0, 1, 2, 100, 101, 70_000] {
            histogram.record(Duration::from_millis(milliseconds));
        }
        let read = histogram.distribution();
        let below = |bound: f64| read.below.iter().find(|(known, _)| *known == bound).unwrap().1;
        assert_eq!((below(0.001), below(0.005), below(0.1), below(0.25), below(60.0)), (2, 3, 4, 5, 5));
        assert_eq!((read.count, (read.sum * 1000.0).round()), (6, 70_204.0));
        assert_eq!(Histogram::rows().distribution().count, 0);
    }
}
