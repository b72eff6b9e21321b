//! The metrics of the links of a node.

use std::sync::Arc;

use crate::cluster::link::events::LinkCounts;
use crate::cluster::running::Cluster;
use crate::metrics::{Board, Labels, Series, SeriesKind};

type Read = fn(&LinkCounts) -> u64;
type Label = Option<(&'static str, &'static str)>;

/// Gauges of each stream that this node writes to.
const GAUGES: [(&str, &str, Read); 4] = [
    ("cluster_up", "1 while the server of the cluster can be used.", |counts| counts.up),
    ("cluster_backlog_records", "Peers with changes of this node that other nodes may not have.", |counts| {
        counts.backlog_records
    }),
    (
        "cluster_lag_milliseconds",
        "Time from the sealing of the last own entry to the moment when it was read back.",
        |counts| counts.lag_milliseconds,
    ),
    ("cluster_behind_milliseconds", "Age of the last entry that was applied, when it was read.", |counts| {
        counts.behind_milliseconds
    }),
];

/// Counters, summed over all streams, with a label.
const COUNTERS: [(&str, &str, Label, Read); 23] = [
    (SENT, SENT_HELP, Some(("kind", "live")), |counts| counts.sent_live),
    (SENT, SENT_HELP, Some(("kind", "republished")), |counts| counts.sent_republished),
    (RECEIVED, RECEIVED_HELP, Some(("outcome", "applied")), |counts| counts.records.applied),
    (RECEIVED, RECEIVED_HELP, Some(("outcome", "in_flight")), |counts| counts.records.in_flight),
    (RECEIVED, RECEIVED_HELP, Some(("outcome", "old")), |counts| counts.records.old),
    (RECEIVED, RECEIVED_HELP, Some(("outcome", "expired")), |counts| counts.records.expired),
    (RECEIVED, RECEIVED_HELP, Some(("outcome", "full")), |counts| counts.records.full),
    (REPUBLISHED, REPUBLISHED_HELP, Some(("reason", "lost")), |counts| counts.republished_lost),
    (REPUBLISHED, REPUBLISHED_HELP, Some(("reason", "late")), |counts| counts.waited_too_long),
    (REPUBLISHED, REPUBLISHED_HELP, Some(("reason", "walk")), |counts| counts.republished_walk),
    (REFUSED, REFUSED_HELP, Some(("reason", "sealed")), |counts| counts.refused_sealed),
    (REFUSED, REFUSED_HELP, Some(("reason", "format")), |counts| counts.refused_format),
    (REFUSED, REFUSED_HELP, Some(("reason", "replayed")), |counts| counts.refused_replayed),
    (REFUSED, REFUSED_HELP, Some(("reason", "damaged")), |counts| counts.refused_damaged),
    (ERRORS, ERRORS_HELP, Some(("kind", "away")), |counts| counts.errors_away),
    (ERRORS, ERRORS_HELP, Some(("kind", "out_of_memory")), |counts| counts.errors_out_of_memory),
    (ERRORS, ERRORS_HELP, Some(("kind", "denied")), |counts| counts.errors_denied),
    (ERRORS, ERRORS_HELP, Some(("kind", "unsuitable")), |counts| counts.errors_unsuitable),
    (BYTES, BYTES_HELP, Some(("direction", "out")), |counts| counts.octets_out),
    (BYTES, BYTES_HELP, Some(("direction", "in")), |counts| counts.octets_in),
    ("cluster_reconnects_total", "Connections to the server after the first.", None, |counts| {
        counts.reconnects
    }),
    (
        "cluster_history_gaps_total",
        "How often entries were dropped by the server before they were read here.",
        None,
        |counts| counts.history_gaps,
    ),
    ("cluster_flushes_total", "How often the server has lost a stream.", None, |counts| counts.flushes),
];
const SENT: &str = "cluster_sent_records_total";
const SENT_HELP: &str = "Changes of peers that were published.";
const RECEIVED: &str = "cluster_received_records_total";
const RECEIVED_HELP: &str = "Changes of peers that other nodes have published, by what became of them.";
const REPUBLISHED: &str = "cluster_republished_total";
const REPUBLISHED_HELP: &str = "Peers that were to be published again.";
const REFUSED: &str = "cluster_refused_entries_total";
const REFUSED_HELP: &str = "Entries that were not read.";
const ERRORS: &str = "cluster_redis_errors_total";
const ERRORS_HELP: &str = "Failed exchanges with the server.";
const BYTES: &str = "cluster_bytes_total";
const BYTES_HELP: &str = "Octets of entries.";

impl Cluster {
    /// Registers the metrics of the links.
    pub fn register_metrics(self: &Arc<Self>, board: &Board) {
        let list = |name, help, kind, labels: Labels, read: Box<dyn Fn(&Self) -> u64 + Send + Sync>| {
            let cluster = Arc::clone(self);
            board.register(Series { name, help, kind, labels, read: Box::new(move || read(&cluster)) });
        };
        for stream in 0..self.streams() {
            // Made once for each stream of the process.
            let label: &'static str = Box::leak(stream.to_string().into_boxed_str());
            for (name, help, read) in GAUGES {
                let of_stream = move |cluster: &Self| {
                    let counts = cluster.counts().into_iter().find(|(number, _)| *number == stream);
                    counts.map_or(0, |(_, counts)| read(&counts))
                };
                list(name, help, SeriesKind::Gauge, vec![("stream", label)], Box::new(of_stream));
            }
        }
        for (name, help, label, read) in COUNTERS {
            let sum = move |cluster: &Self| cluster.counts().iter().map(|(_, counts)| read(counts)).sum();
            list(name, help, SeriesKind::Counter, label.into_iter().collect(), Box::new(sum));
        }
        let help =
            "History that the streams keep; less than configured while the memory of the server is full.";
        let least = |cluster: &Self| {
            cluster.counts().iter().map(|(_, counts)| counts.retention_seconds).min().unwrap_or_default()
        };
        list("cluster_retention_seconds", help, SeriesKind::Gauge, Vec::new(), Box::new(least));
        let help = "Nodes that are there, with this one.";
        let most = |cluster: &Self| {
            cluster.counts().iter().map(|(_, counts)| counts.nodes).max().unwrap_or_default()
        };
        list("cluster_nodes", help, SeriesKind::Gauge, Vec::new(), Box::new(most));
        let help =
            "Leaves and finished downloads that other nodes will not know of, because too much waited.";
        let dropped = |cluster: &Self| cluster.dropped_total();
        list("cluster_dropped_total", help, SeriesKind::Counter, Vec::new(), Box::new(dropped));
    }
}
