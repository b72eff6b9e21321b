//! [`ServerTime`]: the server's clock, as ticks of this process see it.

use std::time::Duration;

/// The server's time at the start of this process. Ages are differences of whole seconds of it, so it moves only
/// when it is wrong by more than a second.
#[derive(Debug, Default)]
pub(super) struct ServerTime {
    /// Seconds since 1970-01-01 UTC at tick 0, rounded down, so that no entry is sealed in the future.
    base: Option<i64>,
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl ServerTime {
    /// Notes what the server's clock was at the beginning of an exchange.
    pub(super) fn sample(&mut self, uptime: Duration, server_time: Duration, round_trip: Duration) {
        let at_start = milliseconds(server_time) - milliseconds(uptime);
        // More than the round trip can explain.
        let slack = milliseconds(round_trip);
        let is_off = |base: i64| !(-1000 - slack..=2000 + slack).contains(&(at_start - base * 1000));
        if self.base.is_none_or(is_off) {
            self.base = Some(at_start.div_euclid(1000));
        }
    }

    /// Returns the server's time, or zero where it is not known yet.
    pub(super) fn at(&self, uptime: Duration) -> Duration {
        let now = self.base.unwrap_or_default() * 1000 + milliseconds(uptime);
        Duration::from_millis(u64::try_from(now).unwrap_or_default())
    }

    /// Returns the tick of a moment of the server's clock; below zero before the start of this process.
    pub(super) fn tick_of(&self, server_milliseconds: i64) -> i64 {
        server_milliseconds.div_euclid(1000) - self.base.unwrap_or_default()
    }
}
