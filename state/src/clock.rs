//! The one place where time is read. Everything else takes [`Now`] as an argument, so that tests own the
//! clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Whole seconds of a clock that never goes back, from an arbitrary start. Ages are differences of ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u32);

/// One reading of the time, good for a whole batch of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For ages and expiry; not affected when the wall clock is set.
    pub tick: Tick,
    /// Seconds since 1970-01-01 UTC, for connection ids, which other machines must understand, too.
    pub unix_seconds: u64,
}

impl Now {
    /// Returns a moment of virtual time, for tests: `seconds` after a fixed start.
    #[must_use]
    pub fn at(seconds: u32) -> Self {
        Self { tick: Tick(1000 + seconds), unix_seconds: 1_700_000_000 + u64::from(seconds) }
    }
}

/// The machine's clock, counted from the start of the process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts counting ticks.
    #[must_use]
    pub fn start() -> Self {
        Self { start: instant() }
    }

    /// Reads the time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one reading of the wall clock")]
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let seconds = u32::try_from(self.uptime().as_secs()).unwrap_or(u32::MAX);
        Now { tick: Tick(seconds), unix_seconds: unix.as_secs() }
    }

    /// Returns the milliseconds since 1970-01-01 UTC.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "another reading of the wall clock, for people")]
    pub fn unix_milliseconds(&self) -> u128 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis()
    }

    /// Returns the time since [`Clock::start`].
    #[must_use]
    pub fn uptime(&self) -> Duration {
        instant().duration_since(self.start)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one reading of the steady clock")]
fn instant() -> Instant {
    Instant::now()
}
