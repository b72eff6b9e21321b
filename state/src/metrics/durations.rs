//! Durations of requests by action, family and error, as the reference tracker shows them
//! (`rules/operations.md#request-durations`). One thread adds, any thread reads.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::histogram::Distribution;
use crate::metrics::{Board, Counter, Labels};

/// Upper bounds in nanoseconds: those of the reference, doubled from 9.375 ms up to 4.8 s, and finer ones.
const BOUNDS: [u64; 14] = [
    10_000,
    50_000,
    250_000,
    1_000_000,
    9_375_000,
    18_750_000,
    37_500_000,
    75_000_000,
    150_000_000,
    300_000_000,
    600_000_000,
    1_200_000_000,
    2_400_000_000,
    4_800_000_000,
];
/// Families, in the order of the cells.
const FAMILIES: [&str; 3] = ["IPv4", "IPv6", "Unknown"];
/// Nanoseconds of a millisecond.
const MILLISECOND: f64 = 1e6;

/// The key of one kind of request in [`RequestDurations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricKey(usize);

/// Durations of all kinds of requests of one server, or of one of its workers. The kinds are a closed set:
/// nothing that a client sends adds one.
#[derive(Debug)]
pub struct RequestDurations {
    actions: &'static [&'static str],
    /// Texts of errors, each once; the first is empty: no error.
    errors: Vec<&'static str>,
    /// The index of each error's text in `errors`, by the number that the server has for the error.
    error_indices: Vec<usize>,
    cells: Vec<DurationCell>,
}

#[derive(Debug, Default)]
struct DurationCell {
    buckets: [Counter; BOUNDS.len() + 1],
    nanoseconds: Counter,
}

impl RequestDurations {
    /// Makes the durations of these actions, and of errors with these `texts`, in the order of the server's
    /// numbers. Several errors may have one text.
    pub fn new(actions: &'static [&'static str], texts: impl Iterator<Item = &'static str>) -> Self {
        let (mut errors, mut error_indices) = (vec![""], Vec::new());
        for text in texts {
            error_indices.push(errors.iter().position(|known| *known == text).unwrap_or_else(|| {
                errors.push(text);
                errors.len() - 1
            }));
        }
        let cells =
            (0..actions.len() * FAMILIES.len() * errors.len()).map(|_| DurationCell::default()).collect();
        Self { actions, errors, error_indices, cells }
    }

    /// Returns the kind of a request: `action` is the index of its action, `address` that of the client if it
    /// is known, `error` the server's number of the error with which it was answered, if it was.
    #[must_use]
    pub fn key(&self, action: usize, address: Option<IpAddr>, error: Option<usize>) -> MetricKey {
        let family = match address {
            Some(IpAddr::V4(_)) => 0,
            Some(IpAddr::V6(_)) => 1,
            None => 2,
        };
        let error = error.and_then(|error| self.error_indices.get(error)).copied().unwrap_or_default();
        MetricKey((action * FAMILIES.len() + family) * self.errors.len() + error)
    }

    /// Records `time` as the duration of a request of each of these kinds. Only the owner may call it.
    pub fn record(&self, keys: &[MetricKey], time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < nanoseconds);
        for key in keys {
            let Some(cell) = self.cells.get(key.0) else { continue };
            if let Some(bucket) = cell.buckets.get(bucket) {
                bucket.add(1);
            }
            cell.nanoseconds.add(nanoseconds);
        }
    }

    /// Registers the durations of all kinds that were ever seen, under this name.
    pub fn register_metrics(self: &Arc<Self>, board: &Board, name: &'static str, help: &'static str) {
        let durations = Arc::clone(self);
        board.register_histograms(name, help, Box::new(move || durations.read_cells()));
    }

    fn read_cells(&self) -> Vec<(Labels, Distribution)> {
        let seen = self.cells.iter().enumerate().map(|(at, cell)| (self.labels_of(at), cell.distribution()));
        seen.filter(|(_, distribution)| distribution.count > 0).collect()
    }

    fn labels_of(&self, at: usize) -> Labels {
        let (rest, error) = (at / self.errors.len(), at % self.errors.len());
        let (action, family) = (rest / FAMILIES.len(), rest % FAMILIES.len());
        let word = |words: &[&'static str], at: usize| words.get(at).copied().unwrap_or_default();
        vec![
            ("action", word(self.actions, action)),
            ("address_family", word(&FAMILIES, family)),
            ("error", word(&self.errors, error)),
        ]
    }
}

impl DurationCell {
    #[expect(clippy::cast_precision_loss, reason = "the text format knows floating point only")]
    fn distribution(&self) -> Distribution {
        let mut count = 0;
        let mut below = Vec::with_capacity(BOUNDS.len());
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            count += bucket.value();
            below.push((bound as f64 / MILLISECOND, count));
        }
        count += self.buckets.last().map_or(0, Counter::value);
        Distribution { below, count, sum: self.nanoseconds.value() as f64 / MILLISECOND }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_numbers_and_errors_of_one_text_share_them() {
        let texts = ["malformed packet", "invalid port", "malformed packet"];
        let durations = Arc::new(RequestDurations::new(&["announce", "scrape"], texts.into_iter()));
        let v6 = Some("2001:db8::7".parse().unwrap());
        let took = |action, address, error, milliseconds| {
            let key = durations.key(action, address, error);
            durations.record(&[key], Duration::from_millis(milliseconds));
        };
        (0..7).for_each(|_| took(0, v6, None, 10));
        took(1, None, Some(0), 5000);
        took(1, None, Some(2), 1);
        let board = Board::default();
        durations.register_metrics(&board, "took", "Time.");
        // Another worker.
        durations.register_metrics(&board, "took", "Time.");
        let shown = board.read_histograms();
        let labels =
            |action, family, error| vec![("action", action), ("address_family", family), ("error", error)];
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[0].labels, labels("announce", "IPv6", ""));
        assert_eq!((shown[0].distribution.count, shown[0].distribution.sum.round()), (14, 140.0));
        assert_eq!(shown[0].distribution.below[4..6], [(9.375, 0), (18.75, 14)]);
        assert_eq!(shown[1].labels, labels("scrape", "Unknown", "malformed packet"));
        assert_eq!((shown[1].distribution.count, shown[1].distribution.below[13].1), (4, 2));
    }
}
