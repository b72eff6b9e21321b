//! [`WorkerMetrics`]: what one worker counts. The worker alone adds; `/metrics` reads and sums over workers.

use std::net::IpAddr;
use std::sync::Arc;

use hayate_state::metrics::durations::{MetricKey, RequestDurations};
use hayate_state::metrics::{Series, SeriesKind};
use hayate_state::{Board, Counter};

use crate::dropped::Dropped;

/// Actions of durations, by [`RequestKind`].
const ACTIONS: [&str; 4] = ["connect", "announce", "scrape", "empty"];

/// The kind of request in a datagram, as a label of durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum RequestKind {
    /// BEP 15 connect.
    Connect,
    /// BEP 15 announce.
    Announce,
    /// BEP 15 scrape.
    Scrape,
    /// Nothing that can be recognised.
    Empty,
}

/// One counter for each family of sources; an IPv4-mapped source is IPv4.
#[derive(Debug, Default)]
pub struct PerFamily {
    /// Counts IPv4 sources.
    pub v4: Counter,
    /// Counts IPv6 sources.
    pub v6: Counter,
}

impl PerFamily {
    /// Returns the counter for a source.
    #[must_use]
    pub fn for_source(&self, source: IpAddr) -> &Counter {
        if source.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

/// The numbers of one worker. Aligned so that two workers never write to one cache line, nor to two that
/// processors fetch as a pair.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Connects answered.
    pub connects: PerFamily,
    /// Announces from verified sources, also those the tracker refused; a malformed one is a refusal only.
    pub announces: PerFamily,
    /// Scrapes from verified sources, also those the tracker refused; a malformed one is a refusal only.
    pub scrapes: PerFamily,
    /// Datagrams that were given a reply, error replies too.
    pub replies: PerFamily,
    /// Replies that the kernel did not take.
    pub send_errors: Counter,
    /// Receive calls that failed.
    pub receive_errors: Counter,
    /// Datagrams the kernel dropped because the receive buffer was full.
    pub socket_drops: Counter,
    dropped: [Counter; Dropped::COUNT],
    /// Durations of datagrams, by kind and outcome.
    pub durations: Arc<RequestDurations>,
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        Self {
            connects: PerFamily::default(),
            announces: PerFamily::default(),
            scrapes: PerFamily::default(),
            replies: PerFamily::default(),
            send_errors: Counter::default(),
            receive_errors: Counter::default(),
            socket_drops: Counter::default(),
            dropped: std::array::from_fn(|_| Counter::default()),
            durations: Arc::new(RequestDurations::new(&ACTIONS, Dropped::all().map(Dropped::error_label))),
        }
    }
}

impl WorkerMetrics {
    /// Counts one dropped or refused datagram. Only the owner may call it.
    pub fn count_dropped(&self, dropped: Dropped) {
        if let Some(counter) = self.dropped.get(dropped.index()) {
            counter.add(1);
        }
    }

    /// Returns the key of a datagram in [`Self::durations`]; `source` is `None` before its request is
    /// understood.
    #[must_use]
    pub fn metric_key(
        &self,
        kind: RequestKind,
        source: Option<IpAddr>,
        dropped: Option<Dropped>,
    ) -> MetricKey {
        self.durations.key(kind as usize, source, dropped.map(Dropped::index))
    }

    /// Returns the number of datagrams dropped or refused for one reason.
    #[must_use]
    pub fn dropped_count(&self, dropped: Dropped) -> u64 {
        self.dropped.get(dropped.index()).map_or(0, Counter::value)
    }

    /// Registers all counters on a board.
    pub fn register_metrics(self: &Arc<Self>, board: &Board) {
        self.register_requests(board);
        let help = "Time from datagram to reply, taken once per batch.";
        self.durations.register_metrics(board, "udp_response_duration_milliseconds", help);
        for refusal in Dropped::all() {
            let labels = vec![("reason", refusal.label())];
            let help = "Datagrams refused, by reason; verified sources got the reason, all others no answer.";
            self.register_counter(board, "udp_refusals_total", help, labels, move |c| {
                c.dropped_count(refusal)
            });
        }
        let help = "Datagrams the kernel dropped because the receive buffer was full.";
        self.register_counter(board, "udp_socket_drops_total", help, Vec::new(), |c| c.socket_drops.value());
        let help = "Receive calls that failed.";
        self.register_counter(board, "udp_receive_errors_total", help, Vec::new(), |c| {
            c.receive_errors.value()
        });
        let help = "Replies the kernel did not take.";
        self.register_counter(board, "udp_send_errors_total", help, Vec::new(), |c| c.send_errors.value());
    }

    fn register_requests(self: &Arc<Self>, board: &Board) {
        const HELP: &str = "Connects answered; announces and scrapes from verified sources.";
        const NAME: &str = "udp_requests_total";
        for family in [Family::V4, Family::V6] {
            let labels = |action| vec![("action", action), ("family", family.label())];
            self.register_counter(board, NAME, HELP, labels("connect"), move |c| family.value(&c.connects));
            self.register_counter(board, NAME, HELP, labels("announce"), move |c| family.value(&c.announces));
            self.register_counter(board, NAME, HELP, labels("scrape"), move |c| family.value(&c.scrapes));
            let labels = vec![("family", family.label())];
            let help = "Datagrams that were given a reply, error replies too.";
            self.register_counter(board, "udp_replies_total", help, labels, move |c| {
                family.value(&c.replies)
            });
        }
    }

    fn register_counter(
        self: &Arc<Self>,
        board: &Board,
        name: &'static str,
        help: &'static str,
        labels: Vec<(&'static str, &'static str)>,
        value: impl Fn(&Self) -> u64 + Send + Sync + 'static,
    ) {
        let counters = Arc::clone(self);
        let read = Box::new(move || value(&counters));
        board.register(Series { name, help, kind: SeriesKind::Counter, labels, read });
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn label(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    fn value(self, counters: &PerFamily) -> u64 {
        match self {
            Self::V4 => counters.v4.value(),
            Self::V6 => counters.v6.value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_sums_over_workers() {
        let board = Board::default();
        let workers = [Arc::new(WorkerMetrics::default()), Arc::new(WorkerMetrics::default())];
        for (counters, n) in workers.iter().zip([7, 11]) {
            counters.register_metrics(&board);
            counters.announces.v6.add(n);
            counters.count_dropped(Dropped::StaleConnection);
        }
        let value = |name: &str, label: (&str, &str)| {
            let readings = board.read_series();
            readings
                .iter()
                .filter(|r| r.name == name && r.labels.contains(&label))
                .map(|r| r.value)
                .sum::<u64>()
        };
        assert_eq!(value("udp_requests_total", ("action", "announce")), 18);
        assert_eq!(value("udp_requests_total", ("family", "ipv6")), 18);
        assert_eq!(value("udp_requests_total", ("family", "ipv4")), 0);
        assert_eq!(value("udp_refusals_total", ("reason", "stale_connection")), 2);
        assert_eq!(value("udp_refusals_total", ("reason", "forged_connection")), 0);
    }
}
