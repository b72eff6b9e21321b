//! What a link has to say: [`LinkEvent`]s for the log, and [`LinkCounts`] for the metrics.

use std::time::Duration;

use crate::cluster::bus::BusError;
use crate::cluster::replica::Applied;

/// A change of state that an operator should read about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The server cannot be used; this node serves alone. Said once, and again when the kind of error
    /// changes.
    Away(BusError),
    /// The server can be used again.
    Back {
        /// How long it could not.
        after: Duration,
        /// Peers that are to be published again.
        republished: u64,
    },
    /// For the first time everything is read that was in the stream at the connect.
    CaughtUp {
        /// Entries that were read.
        entries: u64,
        /// Since the first attempt to connect.
        after: Duration,
    },
    /// Entries were trimmed before they were read here.
    HistoryGap,
    /// The stream was deleted, and is filled again by all nodes.
    Flushed,
    /// Own entries were lost by the server.
    EntriesLost {
        /// Their number.
        entries: u64,
    },
    /// The server's memory is full, and less history is kept.
    RetentionShortened(Duration),
    /// A node writes to more streams than this one.
    MoreStreams(usize),
    /// Another node is there. Said again when it has started with another version.
    NodeHere {
        /// Its configured id.
        id: String,
        /// Its version of hayate.
        version: String,
    },
    /// The node with this id has said goodbye.
    NodeStopped(String),
    /// The node with this id was not heard for a minute, in which this one has read its own hellos back.
    NodeSilent(String),
    /// A node has another setting than this one. Said again when a value of it changes.
    NodeDiffers {
        /// The id of that node.
        id: String,
        /// The setting, by the name that an operator knows.
        what: &'static str,
        /// Its value there.
        theirs: String,
        /// Its value here.
        ours: String,
    },
    /// Two nodes have this id, which may be that of this node.
    SameId(String),
    /// The clock of a node is off by more than five seconds.
    ClockOff {
        /// The id of that node; `None` for this one.
        id: Option<String>,
        /// Seconds that it is ahead of the server's clock; behind it below zero.
        seconds: i64,
    },
}

/// A node that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its configured id.
    pub id: String,
    /// Its version of hayate.
    pub version: String,
    /// Since it has sealed its last hello.
    pub heard_ago: Duration,
}

/// Counts of one link since its start, and its gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// 1 while the server can be used.
    pub up: u64,
    /// Peers with own records that were not read back yet, or wait to be republished.
    pub backlog_records: u64,
    /// Milliseconds that the last applied entry was old when it was read.
    pub behind_milliseconds: u64,
    /// Milliseconds from the sealing of the last own entry to its read-back.
    pub lag_milliseconds: u64,
    /// Nodes that are there. This one is among them once its first hello was read back.
    pub nodes: u64,
    /// Seconds of history that are kept in the stream.
    pub retention_seconds: u64,
    /// Live records that were appended.
    pub sent_live: u64,
    /// Records that were appended by republishing.
    pub sent_republished: u64,
    /// Own entries that were lost by the server.
    pub entries_lost: u64,
    /// What became of the records of other nodes.
    pub records: Applied,
    /// Records that were passed over and could not be kept.
    pub kept_dropped: u64,
    /// Own records that waited too long to be live, most of whose peers were republished.
    pub waited_too_long: u64,
    /// Peers republished because their own record was lost.
    pub republished_lost: u64,
    /// Peers republished by walks: they changed while an outbox was full, or the stream was deleted.
    pub republished_walk: u64,
    /// Entries that did not open.
    pub refused_sealed: u64,
    /// Entries of a format that is not known here.
    pub refused_format: u64,
    /// Entries that were read, or followed by later ones, before.
    pub refused_replayed: u64,
    /// Entries that were sealed more than a minute later than the server says; their time is the server's.
    pub future: u64,
    /// Entries that open, and are not understood.
    pub refused_damaged: u64,
    /// Failed exchanges: no connection or answer.
    pub errors_away: u64,
    /// Failed exchanges: memory full.
    pub errors_out_of_memory: u64,
    /// Failed exchanges: login refused.
    pub errors_denied: u64,
    /// Failed exchanges: the key or the server is not what it should be.
    pub errors_unsuitable: u64,
    /// Connects after the first.
    pub reconnects: u64,
    /// Octets of entries that were appended.
    pub octets_out: u64,
    /// Octets of entries that were read.
    pub octets_in: u64,
    /// See [`LinkEvent::HistoryGap`].
    pub history_gaps: u64,
    /// See [`LinkEvent::Flushed`].
    pub flushes: u64,
}

impl LinkCounts {
    pub(super) fn add_error(&mut self, error: &BusError) {
        match error {
            BusError::Away(_) => self.errors_away += 1,
            BusError::OutOfMemory(_) => self.errors_out_of_memory += 1,
            BusError::Denied(_) => self.errors_denied += 1,
            BusError::WrongType(_) | BusError::Unsuitable(_) => self.errors_unsuitable += 1,
        }
    }

    pub(super) fn add_applied(&mut self, applied: &Applied) {
        self.records.applied += applied.applied;
        self.records.in_flight += applied.in_flight;
        self.records.old += applied.old;
        self.records.expired += applied.expired;
        self.records.full += applied.full;
    }
}
