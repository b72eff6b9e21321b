//! The metrics of the gateway. The server's thread owns every counter; the board reads them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hayate_state::metrics::durations::RequestDurations;
use hayate_state::metrics::{Series, SeriesKind};
use hayate_state::{Board, Counter};

use crate::engine::bad_request::BadRequest;
use crate::engine::message::Response;
use crate::engine::routes::Action;
use crate::wire::query::QueryRules;

/// The address family of a client, if it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// The client's address is unknown.
    Unknown,
}

impl Family {
    /// Returns the family of an address.
    #[must_use]
    pub fn of_address(address: Option<IpAddr>) -> Self {
        match address {
            Some(IpAddr::V4(_)) => Self::V4,
            Some(IpAddr::V6(_)) => Self::V6,
            None => Self::Unknown,
        }
    }
}

/// The phase in which a connection's time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The request's head did not arrive in time.
    Head,
    /// The client did not take the reply in time.
    Reply,
    /// No further request came in time.
    Idle,
}

/// The counters of one HTTP server.
#[derive(Debug, Default)]
pub struct Metrics {
    announces: PerFamily,
    scrapes: PerFamily,
    refusals: RefusalCounters,
    /// Connections accepted and not refused.
    pub opened: Counter,
    /// Connections that ended.
    pub closed: Counter,
    /// Connections closed at once, because there were too many.
    pub refused: Counter,
    /// Idle connections closed to make room for others.
    pub displaced: Counter,
    /// Connections closed because their answers filled too much memory and their clients did not take them.
    pub stalled: Counter,
    /// Announces and scrapes answered without the tracker, because its inbox was full.
    pub overloads: Counter,
    /// Calls of accept that failed.
    pub accept_errors: Counter,
    /// Connections that did not get through their TLS handshake.
    pub tls_failures: Counter,
    /// Requests whose header names a client and is not believed.
    pub proxy_header_ignored: Counter,
    timeouts_head: Counter,
    timeouts_reply: Counter,
    timeouts_idle: Counter,
    other_2xx: Counter,
    other_4xx: Counter,
    other_5xx: Counter,
    /// All requests that were answered.
    pub handled: Counter,
    /// Requests that were answered within the last whole minute.
    pub per_minute: AtomicU64,
    /// Requests that hyper itself refused: not HTTP/1, or a head beyond all bounds.
    pub malformed: Counter,
    /// Durations of announces and scrapes, by outcome.
    response_durations: ResponseDurations,
    /// Labels of the request in progress.
    labels: AtomicU64,
}

#[derive(Debug)]
struct ResponseDurations(Arc<RequestDurations>);

impl Default for ResponseDurations {
    fn default() -> Self {
        Self(Arc::new(RequestDurations::new(
            &["announce", "scrape"],
            BadRequest::all().map(|(refusal, rules)| refusal.words(rules).text),
        )))
    }
}

/// Labels of a request whose duration is measured: its action, its family, and why it was refused. Only the
/// server's thread makes and reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestLabels(u64);

impl RequestLabels {
    const PRESENT: u64 = 1 << 63;
    const ERROR_SHIFT: u32 = 16;
}

/// One counter for each refusal, in the order of [`BadRequest::all`].
#[derive(Debug)]
struct RefusalCounters([Counter; BadRequest::COUNT]);

impl Default for RefusalCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

#[derive(Debug, Default)]
struct PerFamily {
    v4: Counter,
    v6: Counter,
    unknown: Counter,
}

impl Metrics {
    /// Counts an announce or scrape.
    pub fn count_request(&self, action: Action, family: Family) {
        let labels = (family as u64) << 8 | action as u64;
        self.labels.store(RequestLabels::PRESENT | labels, Ordering::Relaxed);
        let counters = match action {
            Action::Announce => &self.announces,
            Action::Scrape => &self.scrapes,
        };
        match family {
            Family::V4 => counters.v4.add(1),
            Family::V6 => counters.v6.add(1),
            Family::Unknown => counters.unknown.add(1),
        }
    }

    /// Counts a refusal of a request that was read with this rules.
    pub fn count_refusal(&self, refusal: BadRequest, rules: QueryRules) {
        let Some(at) = refusal.counter_index(rules) else { return };
        if let Some(counter) = self.refusals.0.get(at) {
            counter.add(1);
        }
        let labels = self.labels.load(Ordering::Relaxed);
        self.labels.store(labels | (at as u64 + 1) << RequestLabels::ERROR_SHIFT, Ordering::Relaxed);
    }

    /// Takes the labels of a request that continues later.
    #[must_use]
    pub fn take_labels(&self) -> RequestLabels {
        RequestLabels(self.labels.swap(0, Ordering::Relaxed))
    }

    /// Continues the request with these labels.
    pub fn restore_labels(&self, labels: RequestLabels) {
        self.labels.store(labels.0, Ordering::Relaxed);
    }

    /// Records `time` as the duration of the request in progress, if that is an announce or scrape.
    pub fn record_duration(&self, time: Duration) {
        let RequestLabels(labels) = self.take_labels();
        if labels == 0 {
            return;
        }
        let (action, family) = ((labels & 0xff) as usize, labels >> 8 & 0xff);
        let address = match family {
            0 => Some(IpAddr::from([0; 4])),
            1 => Some(IpAddr::from([0; 16])),
            _ => None,
        };
        let error = usize::try_from((labels & !RequestLabels::PRESENT) >> RequestLabels::ERROR_SHIFT)
            .unwrap_or_default();
        let durations = &self.response_durations.0;
        durations.record(&[durations.key(action, address, error.checked_sub(1))], time);
    }

    /// The number of refusals of this kind, of requests that were read with this rules.
    #[must_use]
    pub fn refusals_of(&self, refusal: BadRequest, rules: QueryRules) -> u64 {
        let counter = refusal.counter_index(rules).and_then(|at| self.refusals.0.get(at));
        counter.map_or(0, Counter::value)
    }

    /// Counts an answer that is not a reply to an announce or scrape, and returns it.
    #[must_use]
    pub fn count_response(&self, answer: Response) -> Response {
        match answer.status {
            ..400 => self.other_2xx.add(1),
            400..500 => self.other_4xx.add(1),
            500.. => self.other_5xx.add(1),
        }
        answer
    }

    /// The number of open connections.
    #[must_use]
    pub fn connections(&self) -> u64 {
        let closed = self.closed.value();
        self.opened.value().saturating_sub(closed)
    }

    /// Counts a connection that was closed because its time ran out.
    pub fn count_timeout(&self, phase: Phase) {
        self.timeout_counter(phase).add(1);
    }

    /// The number of connections closed in this phase because their time ran out.
    #[must_use]
    pub fn timeouts_of(&self, phase: Phase) -> u64 {
        self.timeout_counter(phase).value()
    }

    fn timeout_counter(&self, phase: Phase) -> &Counter {
        match phase {
            Phase::Head => &self.timeouts_head,
            Phase::Reply => &self.timeouts_reply,
            Phase::Idle => &self.timeouts_idle,
        }
    }

    /// Registers every series on the board.
    pub fn register_metrics(self: &Arc<Self>, board: &Board) {
        self.register_requests(board);
        let help = "Time from the head of an announce or scrape to its answer.";
        self.response_durations.0.register_metrics(board, "http_response_duration_milliseconds", help);
        for (at, (refusal, rules)) in BadRequest::all().enumerate() {
            let labels = vec![("reason", refusal.words(rules).label)];
            let read = move |metrics: &Self| metrics.refusals.0.get(at).map_or(0, Counter::value);
            self.register_counter(
                board,
                "http_refusals_total",
                "Announces and scrapes refused.",
                labels,
                read,
            );
        }
        for (phase, label) in [(Phase::Head, "head"), (Phase::Reply, "reply"), (Phase::Idle, "idle")] {
            let read = move |metrics: &Self| metrics.timeouts_of(phase);
            let help = "Connections closed because their time ran out.";
            self.register_counter(board, "http_timeouts_total", help, vec![("phase", label)], read);
        }
        self.register_others(board);
        let metrics = Arc::clone(self);
        board.register(Series {
            name: "throughput",
            help: "HTTP requests answered within the last whole minute.",
            kind: SeriesKind::Gauge,
            labels: Vec::new(),
            read: Box::new(move || metrics.per_minute.load(Ordering::Relaxed)),
        });
        let metrics = Arc::clone(self);
        board.register(Series {
            name: "http_connections",
            help: "Open HTTP connections.",
            kind: SeriesKind::Gauge,
            labels: Vec::new(),
            read: Box::new(move || metrics.connections()),
        });
    }

    fn register_requests(self: &Arc<Self>, board: &Board) {
        let help = "Announces and scrapes over HTTP.";
        let list = |action, family, read: fn(&Self) -> &Counter| {
            let labels = vec![("action", action), ("family", family)];
            self.register_counter(board, "http_requests_total", help, labels, move |metrics| {
                read(metrics).value()
            });
        };
        list("announce", "ipv4", |metrics| &metrics.announces.v4);
        list("announce", "ipv6", |metrics| &metrics.announces.v6);
        list("announce", "unknown", |metrics| &metrics.announces.unknown);
        list("scrape", "ipv4", |metrics| &metrics.scrapes.v4);
        list("scrape", "ipv6", |metrics| &metrics.scrapes.v6);
        list("scrape", "unknown", |metrics| &metrics.scrapes.unknown);
    }

    fn register_others(self: &Arc<Self>, board: &Board) {
        let list = |name, help, labels, read: fn(&Self) -> &Counter| {
            self.register_counter(board, name, help, labels, move |metrics| read(metrics).value());
        };
        let help = "HTTP requests answered, pages of the operator included.";
        list("requests", help, Vec::new(), |metrics| &metrics.handled);
        let help = "HTTP requests answered with status 500.";
        list("requests_fail", help, Vec::new(), |metrics| &metrics.other_5xx);
        let help = "HTTP answers that are no reply to an announce or scrape.";
        let class = |value| vec![("class", value)];
        list("http_other_answers_total", help, class("2xx"), |metrics| &metrics.other_2xx);
        list("http_other_answers_total", help, class("4xx"), |metrics| &metrics.other_4xx);
        list("http_other_answers_total", help, class("5xx"), |metrics| &metrics.other_5xx);
        let help = "HTTP connections closed at once, because there were too many, and none of them idle.";
        list("http_connections_refused_total", help, Vec::new(), |metrics| &metrics.refused);
        let help = "HTTP connections closed before their time, because others needed the room.";
        let why = |reason| vec![("reason", reason)];
        list("http_connections_displaced_total", help, why("idle"), |metrics| &metrics.displaced);
        list("http_connections_displaced_total", help, why("stalled"), |metrics| &metrics.stalled);
        let help = "Announces and scrapes answered without peers, because the tracker was full.";
        list("http_overloads_total", help, Vec::new(), |metrics| &metrics.overloads);
        let help = "Connections that could not be accepted.";
        list("http_accept_errors_total", help, Vec::new(), |metrics| &metrics.accept_errors);
        let help = "Connections that did not get through their TLS handshake.";
        list("http_tls_failures_total", help, Vec::new(), |metrics| &metrics.tls_failures);
        let help = "Requests whose header names a client and is not believed.";
        list("proxy_header_ignored_total", help, Vec::new(), |metrics| &metrics.proxy_header_ignored);
        let help = "Requests that are no HTTP/1, or larger than any bound.";
        list("http_malformed_total", help, Vec::new(), |metrics| &metrics.malformed);
    }

    fn register_counter(
        self: &Arc<Self>,
        board: &Board,
        name: &'static str,
        help: &'static str,
        labels: Vec<(&'static str, &'static str)>,
        read: impl Fn(&Self) -> u64 + Send + Sync + 'static,
    ) {
        let metrics = Arc::clone(self);
        board.register(Series {
            name,
            help,
            kind: SeriesKind::Counter,
            labels,
            read: Box::new(move || read(&metrics)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_shows_under_its_own_name() {
        let metrics = Arc::new(Metrics::default());
        let board = Board::default();
        metrics.register_metrics(&board);
        for _ in 0..7 {
            metrics.count_request(Action::Announce, Family::V6);
        }
        for _ in 0..11 {
            metrics.count_refusal(BadRequest::ManyInfoHashes, QueryRules::Open);
        }
        for _ in 0..13 {
            metrics.count_timeout(Phase::Idle);
        }
        metrics.opened.add(17);
        metrics.closed.add(12);
        assert_eq!(metrics.count_response(Response::not_found()).status, 404);
        let seen: Vec<_> = board.read_series().into_iter().filter(|reading| reading.value > 0).collect();
        let shown: Vec<_> = seen.iter().map(|r| (r.name, r.labels.as_slice(), r.value)).collect();
        assert_eq!(
            shown,
            [
                ("http_connections", &[][..], 5),
                ("http_other_answers_total", &[("class", "4xx")], 1),
                ("http_refusals_total", &[("reason", "multiple_info_hashes")], 11),
                ("http_requests_total", &[("action", "announce"), ("family", "ipv6")], 7),
                ("http_timeouts_total", &[("phase", "idle")], 13),
            ]
        );
    }
}
