//! What became of the requests: counts and latencies.

use std::net::SocketAddr;

use hdrhistogram::Histogram;

use super::plan::Kind;

/// Longest latency that is measured, in nanoseconds: a minute.
const LATENCY_MAX: u64 = 60_000_000_000;
/// Significant digits of latencies.
const DIGITS: u8 = 3;

/// Counts of requests. Every request that was sent became a reply, an error, or was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests sent, forged ones not among them.
    pub sent: u64,
    /// Replies to connects.
    pub connects: u64,
    /// Replies to announces.
    pub announces: u64,
    /// Replies to scrapes.
    pub scrapes: u64,
    /// Good replies of all kinds that came over IPv6; the others came over IPv4.
    pub over_ipv6: u64,
    /// Error replies, replies of the wrong kind, and broken connections.
    pub errors: u64,
    /// Requests that were not answered in time.
    pub lost: u64,
    /// Announces sent with a forged connection id.
    pub forged: u64,
}

impl Counts {
    /// Good replies of all kinds.
    #[must_use]
    pub fn replies(&self) -> u64 {
        self.connects + self.announces + self.scrapes
    }
}

/// Counts the requests that were due at or after a moment; those of the warm-up do not count.
#[derive(Debug)]
pub struct Recorder {
    from: u64,
    counts: Counts,
    latencies: Histogram<u64>,
}

impl Recorder {
    /// Makes a recorder of the requests that are due from `from` nanoseconds on.
    ///
    /// # Panics
    /// Never: the bounds of the histogram are valid.
    #[must_use]
    #[expect(clippy::expect_used, reason = "constant bounds, tried by every test")]
    pub fn new(from: u64) -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX, DIGITS).expect("valid bounds");
        Self { from, counts: Counts::default(), latencies }
    }

    /// Counts a sent request.
    pub fn record_sent(&mut self, due: u64) {
        self.counts.sent += u64::from(due >= self.from);
    }

    /// Counts a sent announce with a forged connection id.
    pub fn record_forged(&mut self, due: u64) {
        self.counts.forged += u64::from(due >= self.from);
    }

    /// Counts a request to the tracker at `to` that was due at `due` and answered at `now`.
    pub fn record_answered(&mut self, kind: Kind, to: SocketAddr, due: u64, now: u64) {
        if due < self.from {
            return;
        }
        match kind {
            Kind::Connect => self.counts.connects += 1,
            Kind::Announce => self.counts.announces += 1,
            Kind::Scrape => self.counts.scrapes += 1,
        }
        self.counts.over_ipv6 += u64::from(to.is_ipv6());
        self.latencies.saturating_record(now.saturating_sub(due));
    }

    /// Counts a request that was refused, or whose connection broke.
    pub fn record_refused(&mut self, due: u64) {
        self.counts.errors += u64::from(due >= self.from);
    }

    /// Counts a request that was not answered in time.
    pub fn record_lost(&mut self, due: u64) {
        self.counts.lost += u64::from(due >= self.from);
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the latencies of good replies so far.
    #[must_use]
    pub fn latency(&self) -> Latency {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let at = |quantile: f64| micros(self.latencies.value_at_quantile(quantile));
        Latency {
            mean: self.latencies.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: micros(self.latencies.max()),
        }
    }
}

/// Latencies in microseconds, to three digits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// The mean.
    pub mean: f64,
    /// Half of the replies were at least as fast.
    pub p50: f64,
    /// 90 % were.
    pub p90: f64,
    /// 99 % were.
    pub p99: f64,
    /// 99.9 % were.
    pub p99_9: f64,
    /// 99.99 % were.
    pub p99_99: f64,
    /// The slowest.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    const V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7);
    const V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 7);

    #[test]
    fn requests_of_the_warm_up_do_not_count() {
        let mut recorder = Recorder::new(100);
        for due in [99, 100, 101] {
            (0..7).for_each(|_| recorder.record_sent(due));
            recorder.record_forged(due);
            recorder.record_answered(Kind::Connect, V4, due, 200);
            (0..2).for_each(|_| recorder.record_answered(Kind::Announce, V6, due, 200));
            (0..3).for_each(|_| recorder.record_answered(Kind::Scrape, V4, due, 200));
            (0..4).for_each(|_| recorder.record_refused(due));
            (0..5).for_each(|_| recorder.record_lost(due));
        }
        let expected = Counts {
            sent: 14,
            connects: 2,
            announces: 4,
            scrapes: 6,
            over_ipv6: 4,
            errors: 8,
            lost: 10,
            forged: 2,
        };
        assert_eq!(recorder.counts(), expected);
        assert_eq!(recorder.counts().replies(), 12);
    }

    #[test]
    fn percentiles_are_those_of_the_latencies() {
        let mut recorder = Recorder::new(0);
        for micros in 1..=100_000_u64 {
            recorder.record_answered(Kind::Announce, V4, 7000, 7000 + micros * 1000);
        }
        let latency = recorder.latency();
        for (measured, exact) in [
            (latency.mean, 50_000.5),
            (latency.p50, 50_000.0),
            (latency.p90, 90_000.0),
            (latency.p99, 99_000.0),
            (latency.p99_9, 99_900.0),
            (latency.p99_99, 99_990.0),
            (latency.max, 100_000.0),
        ] {
            assert!((measured / exact - 1.0).abs() < 0.002, "{measured} is not {exact}");
        }
    }

    #[test]
    fn one_slow_reply_among_many_shows_in_the_last_percentiles_only() {
        let mut recorder = Recorder::new(0);
        (0..9_998).for_each(|_| recorder.record_answered(Kind::Announce, V4, 0, 1000));
        (0..2).for_each(|_| recorder.record_answered(Kind::Announce, V4, 0, 5_000_000));
        let latency = recorder.latency();
        assert!(latency.p99_9 < 1.01 && latency.p99_99 > 4990.0, "{latency:?}");
    }
}
