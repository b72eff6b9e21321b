//! The operator's pages: `/metrics`, `/alive`, `/health`.
//!
//! | module | what is in it |
//! |---|---|
//! | [`routes`] | the operator's paths in one table |
//! | `profile` | profiles on demand, in the form of pprof |

pub(crate) mod profile;
pub mod routes;

use std::borrow::Cow;
use std::sync::Arc;

use hayate_state::metrics::{HistogramReading, SeriesKind, SeriesReading};
use hayate_state::{Board, Clock};
use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};

use crate::engine::message::Response;
use crate::operator::routes::Page;
use crate::wire::query::QueryRules;

/// A function that returns the health of the whole process.
pub type HealthCheck = Arc<dyn Fn() -> HealthStatus + Send + Sync>;

/// What `/health` reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// All is well: 200 `ok`.
    Good,
    /// Clients are served, but the operator should look: 200 `degraded:` and why.
    Degraded(Vec<&'static str>),
    /// Clients are not served, or not all of them: 503.
    Bad,
}

/// The handler of the admin API, on the operator's addresses.
pub trait AdminHandler: Send + Sync {
    /// Returns status and text of the answer to a request for this path and query from `source`, or `None` if
    /// there is nothing at that path. It may block for a while.
    fn answer(&self, path: &[u8], query: &[u8], source: &str) -> Option<(u16, String)>;
}

/// The sources of what the operator's pages show.
#[derive(Clone)]
pub struct OperatorPages {
    /// The handler of the admin API; `None` where there is no token for it.
    pub admin: Option<Arc<dyn AdminHandler>>,
    /// Every number of the process.
    pub board: Arc<Board>,
    /// What `/health` reports.
    pub health: HealthCheck,
    /// The clock behind `/alive` in mode private.
    pub clock: Clock,
}

impl std::fmt::Debug for OperatorPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorPages").field("board", &self.board).finish_non_exhaustive()
    }
}

impl OperatorPages {
    /// Returns a page, as it is where requests are read with `rules`. `prefix` begins every metric
    /// name, and is `None` where metrics are not shown.
    #[must_use]
    pub fn render(&self, page: Page, rules: QueryRules, prefix: Option<&str>) -> Response {
        match page {
            Page::Alive if rules == QueryRules::Open => Response::text(200, "ok\n"),
            Page::Alive => {
                let (now, uptime) = (self.clock.unix_milliseconds(), self.clock.uptime().as_millis());
                Response::owned_text(200, format!("{{\"now\":{now},\"uptime\":{uptime}}}"))
            }
            Page::Health => match (self.health)() {
                HealthStatus::Good => Response::text(200, "ok\n"),
                HealthStatus::Degraded(why) => {
                    let lines: String = why.iter().map(|why| format!("degraded: {why}\n")).collect();
                    Response::owned_text(200, lines)
                }
                HealthStatus::Bad => Response::text(503, "unavailable\n"),
            },
            Page::Metrics => prefix.map_or_else(Response::not_found, |prefix| self.render_metrics(prefix)),
        }
    }

    fn metric_families(&self, prefix: &str) -> Vec<MetricFamily> {
        let mut all = scalar_families(&self.board.read_series(), prefix);
        all.extend(histogram_families(&self.board.read_histograms(), prefix));
        // Without the prefix: these names are the same for every process.
        all.extend(ProcessCollector::for_self().collect());
        all
    }

    fn render_metrics(&self, prefix: &str) -> Response {
        let mut body = Vec::new();
        match TextEncoder::new().encode(&self.metric_families(prefix), &mut body) {
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

/// Returns one family of scalars for each name; the readings come sorted by name.
fn scalar_families(readings: &[SeriesReading], prefix: &str) -> Vec<MetricFamily> {
    readings
        .chunk_by(|a, b| a.name == b.name)
        .filter_map(|same| {
            let first = same.first()?;
            let mut family = MetricFamily::default();
            family.set_name(format!("{prefix}_{}", first.name));
            family.set_help(first.help.to_owned());
            family.set_field_type(match first.kind {
                SeriesKind::Counter => MetricType::COUNTER,
                SeriesKind::Gauge => MetricType::GAUGE,
            });
            family.set_metric(same.iter().map(scalar_metric).collect());
            Some(family)
        })
        .collect()
}

/// Returns one family of histograms for each name; the readings come sorted by name.
fn histogram_families(all: &[HistogramReading], prefix: &str) -> Vec<MetricFamily> {
    let family = |same: &[HistogramReading]| {
        let first = same.first()?;
        let mut family = MetricFamily::default();
        family.set_name(format!("{prefix}_{}", first.name));
        family.set_help(first.help.to_owned());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(same.iter().map(histogram_metric).collect());
        Some(family)
    };
    all.chunk_by(|a, b| a.name == b.name).filter_map(family).collect()
}

fn histogram_metric(shown: &HistogramReading) -> Metric {
    let read = &shown.distribution;
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
    metric.set_label(label_pairs(&shown.labels));
    metric.set_histogram(histogram);
    metric
}

fn label_pairs(labels: &[(&'static str, &'static str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&'static str, &'static str)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    };
    labels.iter().map(pair).collect()
}

#[expect(clippy::cast_precision_loss, reason = "the text format knows floating point only")]
fn scalar_metric(reading: &SeriesReading) -> Metric {
    let mut metric = Metric::default();
    metric.set_label(label_pairs(&reading.labels));
    match reading.kind {
        SeriesKind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(reading.value as f64);
            metric.set_counter(counter);
        }
        SeriesKind::Gauge => {
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
    use hayate_state::metrics::{HistogramSeries, Series};

    fn pages(condition: HealthStatus) -> OperatorPages {
        let board = Arc::new(Board::default());
        for (name, kind, labels, value) in [
            ("requests_total", SeriesKind::Counter, vec![("server", "udp")], 7),
            ("requests_total", SeriesKind::Counter, vec![("server", "http")], 11),
            ("swarms", SeriesKind::Gauge, vec![], 13),
        ] {
            board.register(Series { name, help: "A number.", kind, labels, read: Box::new(move || value) });
        }
        let clock = Clock::start();
        OperatorPages { admin: None, board, health: Arc::new(move || condition.clone()), clock }
    }

    #[test]
    fn metrics_are_prometheus_text_under_the_prefix() {
        let response = pages(HealthStatus::Good).render(Page::Metrics, QueryRules::Open, Some("hayate"));
        assert_eq!((response.status, response.content_type), (200, "text/plain; version=0.0.4"));
        let text = str::from_utf8(&response.body).unwrap();
        // The series of the process follow, under their own names.
        let (own, process) = text.split_at(text.find("# HELP process_").unwrap());
        assert!(process.contains("\nprocess_resident_memory_bytes "));
        assert_eq!(
            own,
            "# HELP hayate_requests_total A number.\n\
             # TYPE hayate_requests_total counter\n\
             hayate_requests_total{server=\"http\"} 11\n\
             hayate_requests_total{server=\"udp\"} 7\n\
             # HELP hayate_swarms A number.\n\
             # TYPE hayate_swarms gauge\n\
             hayate_swarms 13\n"
        );
        assert_eq!(pages(HealthStatus::Good).render(Page::Metrics, QueryRules::Open, None).status, 404);
    }

    #[test]
    fn distributions_are_histograms_with_buckets_sum_and_count() {
        let pages = pages(HealthStatus::Good);
        let histogram = Arc::new(hayate_state::Histogram::rows());
        let (name, help, labels) = ("channel_len", "Rows.", vec![("channel", "users")]);
        pages.board.register_histogram(HistogramSeries {
            name,
            help,
            labels,
            histogram: Arc::clone(&histogram),
        });
        histogram.record_value(7);
        let response = pages.render(Page::Metrics, QueryRules::Open, Some("hayate"));
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
        assert_eq!(pages(HealthStatus::Good).render(Page::Health, QueryRules::Open, None).status, 200);
        let degraded =
            pages(HealthStatus::Degraded(vec!["one", "two"])).render(Page::Health, QueryRules::Open, None);
        assert_eq!((degraded.status, &*degraded.body), (200, &b"degraded: one\ndegraded: two\n"[..]));
        assert_eq!(pages(HealthStatus::Bad).render(Page::Health, QueryRules::Open, None).status, 503);
        assert_eq!(&*pages(HealthStatus::Bad).render(Page::Alive, QueryRules::Open, None).body, b"ok\n");
    }
}
