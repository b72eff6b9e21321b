//! The operator's pages: `/metrics`, `/alive`, `/health`.
//!
//! `profile` is for pprof.

pub(crate) mod profile;

use std::borrow::Cow;
use std::sync::Arc;

use hayate_state::metrics::{Kind, Reading, Shown};
use hayate_state::{Board, Clock};
use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};

use crate::engine::{Page, Response};

/// Says how the whole process is.
pub type Health = Arc<dyn Fn() -> Condition + Send + Sync>;

/// What `/health` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All is well: 200 `ok`.
    Good,
    /// Clients are served, but the operator should look: 200 `degraded:` and why.
    Degraded(Vec<&'static str>),
    /// Clients are not served, or not all of them: 503.
    Bad,
}

/// Answers requests that change a site, on the operator's address.
pub trait Admin: Send + Sync {
    /// Status and text of the answer to a request for this path and query from `source`; it may take a while.
    /// `None`: there is nothing at that path.
    fn answer(&self, path: &[u8], query: &[u8], source: &str) -> Option<(u16, String)>;
}

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// Who changes a site, if anybody may.
    pub admin: Option<Arc<dyn Admin>>,
    /// Every number of the process.
    pub board: Arc<Board>,
    /// Whether the process serves.
    pub health: Health,
    /// The time that `/alive` tells in mode private.
    pub clock: Clock,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").field("board", &self.board).finish_non_exhaustive()
    }
}

impl Pages {
    /// Shows a page; `prefix` begins every metric name, and is `None` where metrics are not shown.
    #[must_use]
    pub fn show(&self, page: Page, prefix: Option<&str>) -> Response {
        match page {
            Page::Alive => Response::text(200, "ok\n"),
            Page::AliveSince => {
                let (now, uptime) = (self.clock.unix_milliseconds(), self.clock.uptime().as_millis());
                Response::said(200, format!("{{\"now\":{now},\"uptime\":{uptime}}}"))
            }
            Page::Health => match (self.health)() {
                Condition::Good => Response::text(200, "ok\n"),
                Condition::Degraded(why) => {
                    let lines: String = why.iter().map(|why| format!("degraded: {why}\n")).collect();
                    Response::said(200, lines)
                }
                Condition::Bad => Response::text(503, "unavailable\n"),
            },
            Page::Metrics => prefix.map_or_else(Response::not_found, |prefix| self.metrics(prefix)),
        }
    }

    fn families(&self, prefix: &str) -> Vec<MetricFamily> {
        let mut all = families(&self.board.read(), prefix);
        all.extend(distributions(&self.board.distributions(), prefix));
        // Without the prefix: every process has these names.
        all.extend(ProcessCollector::for_self().collect());
        all
    }

    fn metrics(&self, prefix: &str) -> Response {
        let mut body = Vec::new();
        match TextEncoder::new().encode(&self.families(prefix), &mut body) {
            Ok(()) => Response {
                status: 200,
                content_type: prometheus::TEXT_FORMAT,
                body: Cow::Owned(body),
                close: false,
            },
            Err(error) => {
                log::error!("http: the metrics cannot be shown: {error}");
                Response::text(500, "internal server error\n")
            }
        }
    }
}

/// One family for each name; the readings come sorted by name.
fn families(readings: &[Reading], prefix: &str) -> Vec<MetricFamily> {
    readings
        .chunk_by(|a, b| a.name == b.name)
        .filter_map(|same| {
            let first = same.first()?;
            let mut family = MetricFamily::default();
            family.set_name(format!("{prefix}_{}", first.name));
            family.set_help(first.help.to_owned());
            family.set_field_type(match first.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
            });
            family.set_metric(same.iter().map(metric).collect());
            Some(family)
        })
        .collect()
}

/// The same for distributions.
fn distributions(all: &[Shown], prefix: &str) -> Vec<MetricFamily> {
    let family = |same: &[Shown]| {
        let first = same.first()?;
        let mut family = MetricFamily::default();
        family.set_name(format!("{prefix}_{}", first.name));
        family.set_help(first.help.to_owned());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(same.iter().map(distribution).collect());
        Some(family)
    };
    all.chunk_by(|a, b| a.name == b.name).filter_map(family).collect()
}

fn distribution(distributed: &Shown) -> Metric {
    let read = &distributed.distribution;
    let mut histogram = Histogram::default();
    histogram.set_sample_count(read.count);
    histogram.set_sample_sum(read.sum);
    let buckets = read.below.iter().map(|(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(*count);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    let mut metric = Metric::default();
    metric.set_label(labelled(&distributed.labels));
    metric.set_histogram(histogram);
    metric
}

fn labelled(labels: &[(&'static str, &'static str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&'static str, &'static str)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    };
    labels.iter().map(pair).collect()
}

#[expect(clippy::cast_precision_loss, reason = "the text format knows floating point only")]
fn metric(reading: &Reading) -> Metric {
    let mut metric = Metric::default();
    metric.set_label(labelled(&reading.labels));
    match reading.kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(reading.value as f64);
            metric.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(reading.value as f64);
            metric.set_gauge(gauge);
        }
    }
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use hayate_state::metrics::{Distributed, Series};

    fn pages(condition: Condition) -> Pages {
        let board = Arc::new(Board::default());
        for (name, kind, labels, value) in [
            ("requests_total", Kind::Counter, vec![("door", "udp")], 7),
            ("requests_total", Kind::Counter, vec![("door", "http")], 11),
            ("swarms", Kind::Gauge, vec![], 13),
        ] {
            board.list(Series { name, help: "A number.", kind, labels, read: Box::new(move || value) });
        }
        let clock = Clock::start();
        Pages { admin: None, board, health: Arc::new(move || condition.clone()), clock }
    }

    #[test]
    fn metrics_are_prometheus_text_under_the_prefix() {
        let response = pages(Condition::Good).show(Page::Metrics, Some("hayate"));
        assert_eq!((response.status, response.content_type), (200, "text/plain; version=0.0.4"));
        let text = str::from_utf8(&response.body).unwrap();
        // Those of the process come behind, under their own names.
        let (own, process) = text.split_at(text.find("# HELP process_").unwrap());
        assert!(process.contains("\nprocess_resident_memory_bytes "));
        assert_eq!(
            own,
            "# HELP hayate_requests_total A number.\n\
             # TYPE hayate_requests_total counter\n\
             hayate_requests_total{door=\"http\"} 11\n\
             hayate_requests_total{door=\"udp\"} 7\n\
             # HELP hayate_swarms A number.\n\
             # TYPE hayate_swarms gauge\n\
             hayate_swarms 13\n"
        );
        assert_eq!(pages(Condition::Good).show(Page::Metrics, None).status, 404);
    }

    #[test]
    fn distributions_are_histograms_with_buckets_sum_and_count() {
        let pages = pages(Condition::Good);
        let histogram = Arc::new(hayate_state::Histogram::rows());
        let (name, help, labels) = ("channel_len", "Rows.", vec![("channel", "users")]);
        pages.board.distribute(Distributed { name, help, labels, histogram: Arc::clone(&histogram) });
        histogram.add(7);
        let response = pages.show(Page::Metrics, Some("hayate"));
        let text = str::from_utf8(&response.body).unwrap();
        for line in [
            "# TYPE hayate_channel_len histogram",
            "hayate_channel_len_bucket{channel=\"users\",le=\"5\"} 0",
            "hayate_channel_len_bucket{channel=\"users\",le=\"10\"} 1",
            "hayate_channel_len_bucket{channel=\"users\",le=\"+Inf\"} 1",
            "hayate_channel_len_sum{channel=\"users\"} 7",
            "hayate_channel_len_count{channel=\"users\"} 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
    }

    #[test]
    fn health_is_what_the_daemon_says_and_alive_is_always_ok() {
        assert_eq!(pages(Condition::Good).show(Page::Health, None).status, 200);
        let degraded = pages(Condition::Degraded(vec!["one", "two"])).show(Page::Health, None);
        assert_eq!((degraded.status, &*degraded.body), (200, &b"degraded: one\ndegraded: two\n"[..]));
        assert_eq!(pages(Condition::Bad).show(Page::Health, None).status, 503);
        assert_eq!(&*pages(Condition::Bad).show(Page::Alive, None).body, b"ok\n");
    }
}
