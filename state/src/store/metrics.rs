//! The metrics of queues, spill and store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::queue::Queues;
use super::record::Channel;
use crate::metrics::histogram::Histogram;
use crate::metrics::{Board, HistogramSeries, Series, SeriesKind};

/// The metrics of one channel. The writer and the spiller both write them, so they are atomic.
#[derive(Debug, Default)]
pub(super) struct ChannelMetrics {
    /// Rows that have left the queue and are neither in the store nor on the disk.
    pub(super) under_way: AtomicU64,
    pub(super) spill_rows: AtomicU64,
    pub(super) spill_octets: AtomicU64,
    pub(super) spill_write_errors: AtomicU64,
    pub(super) dead_letters: AtomicU64,
    pub(super) dead_letters_dropped: AtomicU64,
    pub(super) without_target: AtomicU64,
    pub(super) rows_written: AtomicU64,
    /// Durations of passes that found rows, and the numbers of these rows.
    pub(super) passes: PassMetrics,
}

/// The passes of one channel.
#[derive(Debug)]
pub(super) struct PassMetrics {
    pub(super) duration: Arc<Histogram>,
    pub(super) rows: Arc<Histogram>,
}

impl Default for PassMetrics {
    fn default() -> Self {
        Self { duration: Arc::new(Histogram::seconds()), rows: Arc::new(Histogram::rows()) }
    }
}

/// The metrics of all channels and of the store; shared by the threads and the board.
#[derive(Debug, Default)]
pub(super) struct StoreMetrics {
    channels: [ChannelMetrics; Channel::ALL.len()],
    /// Whether the store answers.
    pub(super) up: AtomicBool,
    /// Whether the file of the store was deleted or replaced.
    pub(super) file_lost: AtomicBool,
    pub(super) deadlocks: AtomicU64,
    pub(super) deadlocks_aborted: AtomicU64,
    /// Milliseconds waited because of deadlocks.
    pub(super) deadlock_waits: AtomicU64,
    pub(super) errors: AtomicU64,
    /// Cuts that are on the disk (mode private).
    pub(super) cuts: AtomicU64,
    /// Size of all cuts and totals, in octets.
    pub(super) cuts_octets: AtomicU64,
    /// Damaged places in spill files that were skipped.
    pub(super) damaged: AtomicU64,
}

/// Adds `more` to a number.
pub(super) fn add(number: &AtomicU64, more: u64) {
    number.fetch_add(more, Ordering::Relaxed);
}

impl StoreMetrics {
    pub(super) fn channel(&self, channel: Channel) -> &ChannelMetrics {
        #[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
        &self.channels[channel as usize]
    }

    /// Registers all metrics.
    pub(super) fn register_metrics(self: &Arc<Self>, queues: &Arc<Queues>, board: &Board) {
        for channel in Channel::ALL {
            self.register_channel(channel, queues, board);
        }
        let list = |name, help, kind, read: fn(&Self) -> u64| {
            let metrics = Arc::clone(self);
            board.register(Series {
                name,
                help,
                kind,
                labels: Vec::new(),
                read: Box::new(move || read(&metrics)),
            });
        };
        list("database_up", "1 while the store answers.", SeriesKind::Gauge, |metrics| {
            u64::from(metrics.up.load(Ordering::Relaxed))
        });
        let help = "1 while the file of the database is missing or was replaced.";
        list("database_file_lost", help, SeriesKind::Gauge, |metrics| {
            u64::from(metrics.file_lost.load(Ordering::Relaxed))
        });
        list("cuts_bytes", "Size of cuts and totals on the disk.", SeriesKind::Gauge, |metrics| {
            load_number(&metrics.cuts_octets)
        });
        let counter = |name, help, read| list(name, help, SeriesKind::Counter, read);
        counter("cuts_total", "Cuts that were written to the disk.", |metrics| load_number(&metrics.cuts));
        counter("spill_damages_total", "Damaged places in spill files that were skipped.", |metrics| {
            load_number(&metrics.damaged)
        });
        counter("deadlock_count", "Batches that met a deadlock.", |metrics| load_number(&metrics.deadlocks));
        counter(
            "deadlock_aborted_count",
            "Batches put off after database.deadlock_retries deadlocks.",
            |metrics| load_number(&metrics.deadlocks_aborted),
        );
        counter("deadlock_seconds_total", "Time waited because of deadlocks.", |metrics| {
            load_number(&metrics.deadlock_waits) / 1000
        });
        counter("sql_errors_count", "Errors of the store other than deadlocks.", |metrics| {
            load_number(&metrics.errors)
        });
    }

    fn register_channel(self: &Arc<Self>, channel: Channel, queues: &Arc<Queues>, board: &Board) {
        let labels = || vec![("channel", channel.name())];
        let passes = &self.channel(channel).passes;
        let help = "Duration of a pass of the writer that found rows.";
        let histogram = Arc::clone(&passes.duration);
        board.register_histogram(HistogramSeries {
            name: "flush_seconds",
            help,
            labels: labels(),
            histogram,
        });
        let help = "Rows of a pass of the writer that found some.";
        let histogram = Arc::clone(&passes.rows);
        board.register_histogram(HistogramSeries { name: "channel_len", help, labels: labels(), histogram });
        let of_queue = |name, help, value: fn(&Queues, &Self, Channel) -> u64| {
            let (queues, metrics) = (Arc::clone(queues), Arc::clone(self));
            let read = Box::new(move || value(&queues, &metrics, channel));
            board.register(Series { name, help, kind: SeriesKind::Gauge, labels: labels(), read });
        };
        // In this order: rows that move from one to the other meanwhile are counted twice, not missed.
        of_queue("queue_rows", "Rows that wait in memory for the store.", |queues, metrics, channel| {
            queues.rows(channel) as u64 + load_number(&metrics.channel(channel).under_way)
        });
        of_queue("queue_lag_seconds", "Age of the oldest row that is not written.", |queues, _, channel| {
            queues.lag(channel).as_secs()
        });
        let of_channel = |name, help, kind, number: fn(&ChannelMetrics) -> &AtomicU64| {
            let metrics = Arc::clone(self);
            let read = Box::new(move || load_number(number(metrics.channel(channel))));
            board.register(Series { name, help, kind, labels: labels(), read });
        };
        of_channel("spill_rows", "Rows that wait on the disk.", SeriesKind::Gauge, |metrics| {
            &metrics.spill_rows
        });
        of_channel("spill_bytes", "Size of the files they wait in.", SeriesKind::Gauge, |metrics| {
            &metrics.spill_octets
        });
        let counter = |name, help, number| of_channel(name, help, SeriesKind::Counter, number);
        counter("spill_write_errors", "Failures to write to the disk.", |metrics| {
            &metrics.spill_write_errors
        });
        counter("dead_letters", "Rows that fit no column.", |metrics| &metrics.dead_letters);
        counter("dead_letters_dropped", "Such rows that are lost because their file is full.", |metrics| {
            &metrics.dead_letters_dropped
        });
        counter("rows_without_target", "Changes of rows that do not exist.", |metrics| {
            &metrics.without_target
        });
        counter("rows_written_total", "Rows the store has kept.", |metrics| &metrics.rows_written);
    }
}

fn load_number(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}
