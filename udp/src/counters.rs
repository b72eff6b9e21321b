//! What one worker counts. The worker alone adds; `/metrics` reads and sums over workers.

use std::net::IpAddr;
use std::sync::Arc;

use hayate_state::metrics::durations::{Durations, Sort};
use hayate_state::metrics::{Kind, Series};
use hayate_state::{Board, Counter};

use crate::refusal::Refusal;

/// Actions of durations, by [`Sorted`].
const ACTIONS: [&str; 4] = ["connect", "announce", "scrape", "empty"];

/// What a datagram asked for, as durations are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Sorted {
    /// An id.
    Connect,
    /// BEP 15 announce.
    Announce,
    /// BEP 15 scrape.
    Scrape,
    /// Nothing that can be told.
    Empty,
}

/// One number for each family of sources; an IPv4-mapped source is IPv4.
#[derive(Debug, Default)]
pub struct PerFamily {
    /// Of IPv4 sources.
    pub v4: Counter,
    /// Of IPv6 sources.
    pub v6: Counter,
}

impl PerFamily {
    /// The counter for a source.
    #[must_use]
    pub fn of(&self, source: IpAddr) -> &Counter {
        if source.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

/// The numbers of one worker. Aligned so that two workers never write to one cache line, nor to two that
/// processors fetch as a pair.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    /// Connects answered.
    pub connects: PerFamily,
    /// Announces from verified sources, also those the tracker refused; a malformed one is a refusal only.
    pub announces: PerFamily,
    /// Scrapes from verified sources, also those the tracker refused; a malformed one is a refusal only.
    pub scrapes: PerFamily,
    /// Datagrams that were given a reply, error replies too.
    pub replies: PerFamily,
    /// Replies the kernel did not take.
    pub send_errors: Counter,
    /// Receive calls that failed.
    pub receive_errors: Counter,
    /// Datagrams the kernel dropped because the receive buffer was full.
    pub socket_drops: Counter,
    refusals: [Counter; Refusal::COUNT],
    /// How long datagrams took, by what became of them.
    pub durations: Arc<Durations>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            connects: PerFamily::default(),
            announces: PerFamily::default(),
            scrapes: PerFamily::default(),
            replies: PerFamily::default(),
            send_errors: Counter::default(),
            receive_errors: Counter::default(),
            socket_drops: Counter::default(),
            refusals: std::array::from_fn(|_| Counter::default()),
            durations: Arc::new(Durations::new(&ACTIONS, Refusal::all().map(Refusal::error))),
        }
    }
}

impl Counters {
    /// Counts one refused datagram; only the owner may.
    pub fn refuse(&self, refusal: Refusal) {
        if let Some(counter) = self.refusals.get(refusal.index()) {
            counter.add(1);
        }
    }

    /// The kind of a datagram from `source`, for [`Self::durations`]; `source` is `None` before its request
    /// was understood.
    #[must_use]
    pub fn sort(&self, asked: Sorted, source: Option<IpAddr>, refusal: Option<Refusal>) -> Sort {
        self.durations.sort(asked as usize, source, refusal.map(Refusal::index))
    }

    /// Datagrams refused for one reason.
    #[must_use]
    pub fn refusals(&self, refusal: Refusal) -> u64 {
        self.refusals.get(refusal.index()).map_or(0, Counter::value)
    }

    /// Lists all numbers on a board.
    pub fn list(self: &Arc<Self>, board: &Board) {
        self.list_requests(board);
        let help = "Time from datagram to reply, taken once per batch.";
        self.durations.list(board, "udp_response_duration_milliseconds", help);
        for refusal in Refusal::all() {
            let labels = vec![("reason", refusal.label())];
            let help =
                "Datagrams refused, by reason; verified sources were told, all others were not answered.";
            self.list_one(board, "udp_refusals_total", help, labels, move |c| c.refusals(refusal));
        }
        let help = "Datagrams the kernel dropped because the receive buffer was full.";
        self.list_one(board, "udp_socket_drops_total", help, Vec::new(), |c| c.socket_drops.value());
        let help = "Receive calls that failed.";
        self.list_one(board, "udp_receive_errors_total", help, Vec::new(), |c| c.receive_errors.value());
        let help = "Replies the kernel did not take.";
        self.list_one(board, "udp_send_errors_total", help, Vec::new(), |c| c.send_errors.value());
    }

    fn list_requests(self: &Arc<Self>, board: &Board) {
        const HELP: &str = "Connects answered; announces and scrapes from verified sources.";
        const NAME: &str = "udp_requests_total";
        for family in [Family::V4, Family::V6] {
            let labels = |action| vec![("action", action), ("family", family.label())];
            self.list_one(board, NAME, HELP, labels("connect"), move |c| family.value(&c.connects));
            self.list_one(board, NAME, HELP, labels("announce"), move |c| family.value(&c.announces));
            self.list_one(board, NAME, HELP, labels("scrape"), move |c| family.value(&c.scrapes));
            let labels = vec![("family", family.label())];
            let help = "Datagrams that were given a reply, error replies too.";
            self.list_one(board, "udp_replies_total", help, labels, move |c| family.value(&c.replies));
        }
    }

    fn list_one(
        self: &Arc<Self>,
        board: &Board,
        name: &'static str,
        help: &'static str,
        labels: Vec<(&'static str, &'static str)>,
        value: impl Fn(&Self) -> u64 + Send + Sync + 'static,
    ) {
        let counters = Arc::clone(self);
        let read = Box::new(move || value(&counters));
        board.list(Series { name, help, kind: Kind::Counter, labels, read });
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
        let workers = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        for (counters, n) in workers.iter().zip([7, 11]) {
            counters.list(&board);
            counters.announces.v6.add(n);
            counters.refuse(Refusal::StaleConnection);
        }
        let value = |name: &str, label: (&str, &str)| {
            let readings = board.read();
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
