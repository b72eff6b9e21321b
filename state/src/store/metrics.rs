//! What the operator sees of queues, spill and store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::queue::Queues;
use super::record::Channel;
use crate::metrics::histogram::Histogram;
use crate::metrics::{Board, Distributed, Kind, Series};

/// Numbers of one channel. The writer and the guard both write, so they are atomic.
#[derive(Debug, Default)]
pub(super) struct ChannelGauges {
    /// Rows that have left the queue and are neither with the store nor on the disk.
    pub(super) under_way: AtomicU64,
    pub(super) spill_rows: AtomicU64,
    pub(super) spill_octets: AtomicU64,
    pub(super) spill_write_errors: AtomicU64,
    pub(super) dead_letters: AtomicU64,
    pub(super) dead_letters_dropped: AtomicU64,
    pub(super) without_target: AtomicU64,
    pub(super) rows_written: AtomicU64,
    /// How long passes with rows took, and how many rows they had.
    pub(super) passes: Passes,
}

/// Of the passes of one channel.
#[derive(Debug)]
pub(super) struct Passes {
    pub(super) took: Arc<Histogram>,
    pub(super) rows: Arc<Histogram>,
}

impl Default for Passes {
    fn default() -> Self {
        Self { took: Arc::new(Histogram::seconds()), rows: Arc::new(Histogram::rows()) }
    }
}

/// All numbers.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    channels: [ChannelGauges; Channel::ALL.len()],
    /// The store answers.
    pub(super) up: AtomicBool,
    /// The file of the store was deleted or replaced.
    pub(super) file_lost: AtomicBool,
    pub(super) deadlocks: AtomicU64,
    pub(super) deadlocks_aborted: AtomicU64,
    /// Milliseconds waited because of them.
    pub(super) deadlock_waits: AtomicU64,
    pub(super) errors: AtomicU64,
    /// Cuts that are on the disk (mode private).
    pub(super) cuts: AtomicU64,
    /// Size of all of them, and of the totals.
    pub(super) cuts_octets: AtomicU64,
    /// Damages in files of the spill that were stepped over.
    pub(super) damaged: AtomicU64,
}

/// Adds to a number.
pub(super) fn add(number: &AtomicU64, more: u64) {
    number.fetch_add(more, Ordering::Relaxed);
}

impl Gauges {
    pub(super) fn of(&self, channel: Channel) -> &ChannelGauges {
        #[expect(clippy::indexing_slicing, reason = "one for each channel, in their order")]
        &self.channels[channel as usize]
    }

    /// Lists all of them.
    pub(super) fn list_on(self: &Arc<Self>, queues: &Arc<Queues>, board: &Board) {
        for channel in Channel::ALL {
            self.list_channel(channel, queues, board);
        }
        let list = |name, help, kind, read: fn(&Self) -> u64| {
            let gauges = Arc::clone(self);
            board.list(Series {
                name,
                help,
                kind,
                labels: Vec::new(),
                read: Box::new(move || read(&gauges)),
            });
        };
        list("database_up", "1 while the store answers.", Kind::Gauge, |gauges| {
            u64::from(gauges.up.load(Ordering::Relaxed))
        });
        let help = "1 while the file of the database is not there any more, or is another one.";
        list("database_file_lost", help, Kind::Gauge, |gauges| {
            u64::from(gauges.file_lost.load(Ordering::Relaxed))
        });
        list("cuts_bytes", "Size of cuts and totals on the disk.", Kind::Gauge, |gauges| {
            read(&gauges.cuts_octets)
        });
        let counter = |name, help, read| list(name, help, Kind::Counter, read);
        counter("cuts_total", "Cuts that were brought to the disk.", |gauges| read(&gauges.cuts));
        counter("spill_damages_total", "Damages in files of the spill that were stepped over.", |gauges| {
            read(&gauges.damaged)
        });
        counter("deadlock_count", "Batches that met a deadlock.", |gauges| read(&gauges.deadlocks));
        counter(
            "deadlock_aborted_count",
            "Batches put off after database.deadlock_retries deadlocks.",
            |gauges| read(&gauges.deadlocks_aborted),
        );
        counter("deadlock_seconds_total", "Time waited because of deadlocks.", |gauges| {
            read(&gauges.deadlock_waits) / 1000
        });
        counter("sql_errors_count", "Errors of the store other than deadlocks.", |gauges| {
            read(&gauges.errors)
        });
    }

    fn list_channel(self: &Arc<Self>, channel: Channel, queues: &Arc<Queues>, board: &Board) {
        let labels = || vec![("channel", channel.name())];
        let passes = &self.of(channel).passes;
        let help = "Time of a pass of the writer that found rows.";
        let histogram = Arc::clone(&passes.took);
        board.distribute(Distributed { name: "flush_seconds", help, labels: labels(), histogram });
        let help = "Rows of a pass of the writer that found some.";
        let histogram = Arc::clone(&passes.rows);
        board.distribute(Distributed { name: "channel_len", help, labels: labels(), histogram });
        let of_queue = |name, help, value: fn(&Queues, &Self, Channel) -> u64| {
            let (queues, gauges) = (Arc::clone(queues), Arc::clone(self));
            let read = Box::new(move || value(&queues, &gauges, channel));
            board.list(Series { name, help, kind: Kind::Gauge, labels: labels(), read });
        };
        // In this order: rows that go from the one to the other meanwhile are counted twice, not missed.
        of_queue("queue_rows", "Rows that wait in memory for the store.", |queues, gauges, channel| {
            queues.rows(channel) as u64 + read(&gauges.of(channel).under_way)
        });
        of_queue("queue_lag_seconds", "Age of the oldest row that is not written.", |queues, _, channel| {
            queues.lag(channel).as_secs()
        });
        let of_channel = |name, help, kind, number: fn(&ChannelGauges) -> &AtomicU64| {
            let gauges = Arc::clone(self);
            let read = Box::new(move || read(number(gauges.of(channel))));
            board.list(Series { name, help, kind, labels: labels(), read });
        };
        of_channel("spill_rows", "Rows that wait on the disk.", Kind::Gauge, |of| &of.spill_rows);
        of_channel("spill_bytes", "Size of the files they wait in.", Kind::Gauge, |of| &of.spill_octets);
        let counter = |name, help, number| of_channel(name, help, Kind::Counter, number);
        counter("spill_write_errors", "Failures to write to the disk.", |of| &of.spill_write_errors);
        counter("dead_letters", "Rows that no column can hold.", |of| &of.dead_letters);
        counter("dead_letters_dropped", "Such rows that are lost, for their file is full.", |of| {
            &of.dead_letters_dropped
        });
        counter("rows_without_target", "Changes of rows that are not there.", |of| &of.without_target);
        counter("rows_written_total", "Rows the store has kept.", |of| &of.rows_written);
    }
}

fn read(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}
