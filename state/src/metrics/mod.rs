//! Counters that one thread writes and any thread reads, and the board on which every crate registers them
//! for `/metrics`.
//!
//! | module | what is in it |
//! |---|---|
//! | [`histogram`] | distributions of durations and counts |
//! | [`durations`] | durations of requests by action, family and error |

pub mod durations;
pub mod histogram;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::metrics::histogram::{Distribution, Histogram};

/// A number that only grows. One thread owns it and adds; others read. Two writers would lose updates.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owner may call it: this is a plain addition, without a locked instruction.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Returns the value as of now, or of a moment ago.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The kind of the number of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One number that `/metrics` shows. Labels come from a closed set: no client can add a series.
pub struct Series {
    /// The name after the prefix, with its unit: `udp_requests_total`.
    pub name: &'static str,
    /// One sentence for the reader of `/metrics`.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: SeriesKind,
    /// Label names and values.
    pub labels: Vec<(&'static str, &'static str)>,
    /// Reads the number.
    pub read: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// All series of the process. Series with the same name and labels, one per worker, are summed when they are
/// read.
#[derive(Default)]
pub struct Board {
    series: RwLock<Vec<Series>>,
    distributions: RwLock<Vec<HistogramSource>>,
}

/// Label names and values.
pub type Labels = Vec<(&'static str, &'static str)>;

/// Distributions of one name, with the function that reads them.
struct HistogramSource {
    name: &'static str,
    help: &'static str,
    read: Box<dyn Fn() -> Vec<(Labels, Distribution)> + Send + Sync>,
}

/// A distribution that `/metrics` shows.
#[derive(Clone, Debug)]
pub struct HistogramSeries {
    /// The name after the prefix, with its unit.
    pub name: &'static str,
    /// One sentence for the reader of `/metrics`.
    pub help: &'static str,
    /// Label names and values.
    pub labels: Labels,
    /// The histogram that is shown.
    pub histogram: Arc<Histogram>,
}

/// A distribution as it stood when it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramReading {
    /// See [`HistogramSeries::name`].
    pub name: &'static str,
    /// See [`HistogramSeries::help`].
    pub help: &'static str,
    /// See [`HistogramSeries::labels`].
    pub labels: Labels,
    /// Its counts, summed over all histograms with this name and these labels.
    pub distribution: Distribution,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("series", &self.series.read().len()).finish()
    }
}

impl Board {
    /// Registers a series.
    pub fn register(&self, series: Series) {
        self.series.write().push(series);
    }

    /// Registers a histogram.
    pub fn register_histogram(&self, series: HistogramSeries) {
        let HistogramSeries { name, help, labels, histogram } = series;
        self.register_histograms(
            name,
            help,
            Box::new(move || vec![(labels.clone(), histogram.distribution())]),
        );
    }

    /// Registers histograms of one name, whose labels are not known before they are read.
    pub fn register_histograms(
        &self,
        name: &'static str,
        help: &'static str,
        read: Box<dyn Fn() -> Vec<(Labels, Distribution)> + Send + Sync>,
    ) {
        self.distributions.write().push(HistogramSource { name, help, read });
    }

    /// Reads every histogram, sorted by name and labels; those with the same name and labels are summed.
    #[must_use]
    pub fn read_histograms(&self) -> Vec<HistogramReading> {
        let mut all: Vec<HistogramReading> = Vec::new();
        for source in self.distributions.read().iter() {
            for (labels, distribution) in (source.read)() {
                let same =
                    |reading: &&mut HistogramReading| reading.name == source.name && reading.labels == labels;
                match all.iter_mut().find(same) {
                    Some(reading) => reading.distribution.add(&distribution),
                    None => {
                        let (name, help) = (source.name, source.help);
                        all.push(HistogramReading { name, help, labels, distribution });
                    }
                }
            }
        }
        all.sort_by(|a, b| (a.name, &a.labels).cmp(&(b.name, &b.labels)));
        all
    }

    /// Reads every series, sorted by name and labels; those with the same name and labels are summed.
    #[must_use]
    pub fn read_series(&self) -> Vec<SeriesReading> {
        let mut readings: Vec<SeriesReading> = Vec::new();
        for series in self.series.read().iter() {
            let value = (series.read)();
            let same = |r: &&mut SeriesReading| r.name == series.name && r.labels == series.labels;
            match readings.iter_mut().find(same) {
                Some(reading) => reading.value += value,
                None => readings.push(SeriesReading {
                    name: series.name,
                    help: series.help,
                    kind: series.kind,
                    labels: series.labels.clone(),
                    value,
                }),
            }
        }
        readings.sort_by(|a, b| (a.name, &a.labels).cmp(&(b.name, &b.labels)));
        readings
    }
}

/// One series as it stood when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesReading {
    /// See [`Series::name`].
    pub name: &'static str,
    /// See [`Series::help`].
    pub help: &'static str,
    /// See [`Series::kind`].
    pub kind: SeriesKind,
    /// See [`Series::labels`].
    pub labels: Vec<(&'static str, &'static str)>,
    /// The sum over all series of this name and these labels.
    pub value: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_the_same_name_and_labels_are_summed() {
        let board = Board::default();
        for (server, value) in [("udp", 7), ("http", 11), ("udp", 13)] {
            let labels = vec![("server", server)];
            let read = Box::new(move || value);
            board.register(Series {
                name: "announces_total",
                help: "x",
                kind: SeriesKind::Counter,
                labels,
                read,
            });
        }
        let values: Vec<u64> = board.read_series().iter().map(|reading| reading.value).collect();
        assert_eq!(values, [11, 20]);
    }
}
