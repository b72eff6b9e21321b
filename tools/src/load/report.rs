//! What was measured, for people and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::session::Measured;
use super::target::Protocol;
use super::usage::Used;

/// The report of a run.
#[derive(Clone, Copy, Debug)]
pub struct Report<'r> {
    /// The URL.
    pub target: &'r str,
    /// The protocol.
    pub protocol: Protocol,
    /// Requests per second that were offered; `None` in the closed loop.
    pub offered: Option<f64>,
    /// What was measured.
    pub measured: Measured,
}

impl Report<'_> {
    /// Returns the report as one JSON object on a line.
    #[must_use]
    pub fn json(&self) -> String {
        let Measured { seconds, counts, latency, tracker, generator } = self.measured;
        let object = json!({
            "target": self.target,
            "protocol": self.protocol_name(),
            "loop": if self.offered.is_some() { "open" } else { "closed" },
            "seconds": seconds,
            "offered_per_second": self.offered,
            "sent": counts.sent,
            "replies": counts.replies(),
            "lost": counts.lost,
            "errors": counts.errors,
            "forged": counts.forged,
            "replies_per_second": self.replies_per_second(),
            "connects": counts.connects,
            "announces": counts.announces,
            "scrapes": counts.scrapes,
            "replies_ipv4": counts.replies() - counts.over_ipv6,
            "replies_ipv6": counts.over_ipv6,
            "latency_us": {
                "mean": latency.mean,
                "p50": latency.p50,
                "p90": latency.p90,
                "p99": latency.p99,
                "p99.9": latency.p99_9,
                "p99.99": latency.p99_99,
                "max": latency.max,
            },
            "tracker": tracker.map(|used| self.tracker_json(&used)),
            "generator": {
                "cpu_seconds": generator.cpu_seconds,
                "cpus_used": generator.cpu_seconds / seconds,
            },
        });
        format!("{object}\n")
    }

    fn tracker_json(&self, used: &Used) -> Value {
        json!({
            "cpu_seconds": used.cpu_seconds,
            "user_seconds": used.user_seconds,
            "system_seconds": used.system_seconds,
            "cpus_used": used.cpu_seconds / self.measured.seconds,
            "replies_per_cpu_second": self.replies() / used.cpu_seconds,
            "us_per_reply": used.cpu_seconds * 1e6 / self.replies(),
            "rss_bytes": used.rss_bytes,
            "peak_rss_bytes": used.peak_rss_bytes,
            "voluntary_switches": used.voluntary_switches,
            "involuntary_switches": used.involuntary_switches,
        })
    }

    /// Returns the report for people, one line for each figure.
    #[must_use]
    pub fn text(&self) -> String {
        let Measured { seconds, counts, latency, tracker, generator } = self.measured;
        let mut text = String::new();
        let mut line = |name: &str, words: String| {
            // Writing to a String cannot fail.
            _ = writeln!(text, "{name:<10} {words}");
        };
        let load_text =
            self.offered.map_or("closed loop".to_owned(), |rate| format!("{rate} requests/s offered"));
        line("target", format!("{} ({}, {load_text}, {seconds:.2} s)", self.target, self.protocol_name()));
        line(
            "replies",
            format!(
                "{:.0} per second; {} of {} requests, {} lost, {} errors",
                self.replies_per_second(),
                counts.replies(),
                counts.sent,
                counts.lost,
                counts.errors
            ),
        );
        let forged = if counts.forged > 0 { format!("; {} forged", counts.forged) } else { String::new() };
        let kinds = (counts.connects, counts.announces, counts.scrapes);
        line("kinds", format!("{} connects, {} announces, {} scrapes{forged}", kinds.0, kinds.1, kinds.2));
        let over_ipv4 = counts.replies() - counts.over_ipv6;
        line("families", format!("{over_ipv4} over IPv4, {} over IPv6", counts.over_ipv6));
        line(
            "latency",
            format!(
                "mean {:.0}, p50 {:.0}, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, p99.99 {:.0}, max {:.0} us",
                latency.mean,
                latency.p50,
                latency.p90,
                latency.p99,
                latency.p99_9,
                latency.p99_99,
                latency.max
            ),
        );
        if let Some(used) = tracker {
            line("tracker", self.tracker_text(&used));
        }
        line("generator", format!("{:.2} CPUs", generator.cpu_seconds / seconds));
        text
    }

    fn tracker_text(&self, used: &Used) -> String {
        format!(
            "{:.2} CPUs (user {:.2} s, system {:.2} s), {:.0} replies per CPU-second, {:.2} us per reply; \
             RSS {:.1} MiB (peak {:.1}); {} + {} context switches (voluntary + not)",
            used.cpu_seconds / self.measured.seconds,
            used.user_seconds,
            used.system_seconds,
            self.replies() / used.cpu_seconds,
            used.cpu_seconds * 1e6 / self.replies(),
            used.rss_bytes as f64 / 1_048_576.0,
            used.peak_rss_bytes as f64 / 1_048_576.0,
            used.voluntary_switches,
            used.involuntary_switches,
        )
    }

    fn protocol_name(&self) -> &'static str {
        match self.protocol {
            Protocol::Udp => "udp",
            Protocol::Http => "http",
        }
    }

    fn replies(&self) -> f64 {
        self.measured.counts.replies() as f64
    }

    fn replies_per_second(&self) -> f64 {
        self.replies() / self.measured.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::measure::{Counts, Latency};

    fn report() -> Report<'static> {
        let counts = Counts {
            sent: 30,
            connects: 3,
            announces: 5,
            scrapes: 2,
            over_ipv6: 4,
            errors: 7,
            lost: 13,
            forged: 11,
        };
        let latency = Latency { mean: 1.0, p50: 2.0, p90: 3.0, p99: 4.0, p99_9: 5.0, p99_99: 6.0, max: 7.0 };
        let tracker = Used {
            cpu_seconds: 2.0,
            user_seconds: 0.5,
            system_seconds: 1.5,
            rss_bytes: 1_048_576,
            peak_rss_bytes: 2_097_152,
            voluntary_switches: 17,
            involuntary_switches: 19,
        };
        let generator = Used { cpu_seconds: 3.0, ..Used::default() };
        let measured = Measured { seconds: 4.0, counts, latency, tracker: Some(tracker), generator };
        Report { target: "udp://x:7", protocol: Protocol::Udp, offered: None, measured }
    }

    #[test]
    fn json_has_every_figure_at_its_place() {
        let object: Value = serde_json::from_str(&report().json()).unwrap();
        let expected = json!({
            "target": "udp://x:7", "protocol": "udp", "loop": "closed", "seconds": 4.0,
            "offered_per_second": null, "sent": 30, "replies": 10, "lost": 13, "errors": 7, "forged": 11,
            "replies_per_second": 2.5, "connects": 3, "announces": 5, "scrapes": 2,
            "replies_ipv4": 6, "replies_ipv6": 4,
            "latency_us": {
                "mean": 1.0, "p50": 2.0, "p90": 3.0, "p99": 4.0, "p99.9": 5.0, "p99.99": 6.0, "max": 7.0
            },
            "tracker": {
                "cpu_seconds": 2.0, "user_seconds": 0.5, "system_seconds": 1.5, "cpus_used": 0.5,
                "replies_per_cpu_second": 5.0, "us_per_reply": 200_000.0, "rss_bytes": 1_048_576,
                "peak_rss_bytes": 2_097_152, "voluntary_switches": 17, "involuntary_switches": 19
            },
            "generator": {"cpu_seconds": 3.0, "cpus_used": 0.75},
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn open_loops_report_what_was_offered() {
        let mut report = Report { offered: Some(30.5), protocol: Protocol::Http, ..report() };
        report.measured.tracker = None;
        let object: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&object["loop"], &object["offered_per_second"]), (&json!("open"), &json!(30.5)));
        assert_eq!((&object["protocol"], &object["tracker"]), (&json!("http"), &json!(null)));
    }

    #[test]
    fn text_has_the_same_figures() {
        let text = report().text();
        for part in [
            "2 per second; 10 of 30 requests, 13 lost, 7 errors",
            "11 forged",
            "6 over IPv4, 4 over IPv6",
            "p99.99 6",
            "peak 2.0",
            "0.75",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
