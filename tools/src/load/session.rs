//! The phases of a run (warm-up, the counted part, the wait for the last replies) and what they cost.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::LoadError;
use super::args::Args;
use super::measure::{Counts, Latency, Recorder};
use super::pace::SECOND;
use super::usage::{Usage, Used};

/// A fill gives up after this time without a reply.
const SILENCE_MAX: u64 = 10 * SECOND;

/// A run in progress. Its times are in nanoseconds since its start.
#[derive(Debug)]
pub struct Session {
    start: Instant,
    /// When counting begins.
    from: u64,
    /// When requests end.
    until: u64,
    /// Counts requests and replies.
    pub recorder: Recorder,
    tracker: Option<i32>,
    before: Option<Cost>,
    progress: Option<ProgressLine>,
}

/// What both sides have used so far.
#[derive(Clone, Copy, Debug)]
struct Cost {
    at: u64,
    tracker: Option<Usage>,
    generator: Usage,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Length of the counted part.
    pub seconds: f64,
    /// What became of the requests.
    pub counts: Counts,
    /// Latency of good replies.
    pub latency: Latency,
    /// What the tracker used, if its process is known.
    pub tracker: Option<Used>,
    /// What the load generator used.
    pub generator: Used,
}

impl Session {
    /// Begins a run now.
    ///
    /// # Errors
    /// Fails when the tracker's process does not exist.
    pub fn start(args: &Args) -> Result<Self, LoadError> {
        let from = nanos(args.warmup);
        let until = if args.fill.is_some() { u64::MAX } else { from.saturating_add(nanos(args.seconds)) };
        let shows_progress = !args.quiet && std::io::stderr().is_terminal();
        Ok(Self {
            start: instant(),
            from,
            until,
            recorder: Recorder::new(from),
            tracker: args.pid,
            before: None,
            progress: shows_progress.then(ProgressLine::default),
        })
    }

    /// Returns the nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(instant().duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether requests are still sent. Call it in every turn: it begins the count and updates the progress
    /// line.
    ///
    /// # Errors
    /// Fails when the tracker's process is gone.
    pub fn is_running(&mut self, now: u64) -> Result<bool, LoadError> {
        if now >= self.from && self.before.is_none() {
            self.before = Some(self.cost(self.from)?);
        }
        if let Some(progress) = &mut self.progress {
            progress.show(now, self.from, self.recorder.counts());
        }
        Ok(now < self.until)
    }

    /// Ends the session, and returns the costs of the counted part.
    ///
    /// # Errors
    /// Fails when the tracker's process is gone.
    pub fn stop(&mut self) -> Result<Costs, LoadError> {
        let now = self.now();
        let before = match self.before {
            Some(before) => before,
            None => self.cost(now)?,
        };
        let after = self.cost(now)?;
        if self.progress.take().is_some() {
            eprint!("\r\x1b[K");
        }
        Ok(Costs { before, after })
    }

    /// Returns the result, after the last reply.
    #[must_use]
    pub fn sum_up(&self, costs: &Costs) -> Measured {
        let Costs { before, after } = costs;
        let used = |after: Option<Usage>, before: Option<Usage>| Some(after?.since(&before?));
        Measured {
            seconds: (after.at - before.at) as f64 / SECOND as f64,
            counts: self.recorder.counts(),
            latency: self.recorder.latency(),
            tracker: used(after.tracker, before.tracker),
            generator: after.generator.since(&before.generator),
        }
    }

    fn cost(&self, at: u64) -> Result<Cost, LoadError> {
        let read =
            |pid| Usage::read(pid).map_err(|error| LoadError::Process { pid, reason: error.to_string() });
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        Ok(Cost { at, tracker: self.tracker.map(read).transpose()?, generator: read(own)? })
    }
}

/// What both sides had used when the counted part began, and when it ended.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    before: Cost,
    after: Cost,
}

/// Detects that the tracker has stopped answering.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence {
    replies: u64,
    since: u64,
}

impl Silence {
    /// Whether no valid reply was counted for ten seconds. Errors do not count: connections that break one
    /// after the other are silence too.
    pub fn is_long(&mut self, now: u64, counts: &Counts) -> bool {
        let replies = counts.replies();
        if replies != self.replies {
            *self = Self { replies, since: now };
        }
        now - self.since > SILENCE_MAX
    }
}

/// A line on the terminal, updated once a second.
#[derive(Debug, Default)]
struct ProgressLine {
    shown: u64,
    replies: u64,
}

impl ProgressLine {
    fn show(&mut self, now: u64, from: u64, counts: Counts) {
        if now < self.shown + SECOND {
            return;
        }
        let rate = (counts.replies() - self.replies) as f64 * SECOND as f64 / (now - self.shown) as f64;
        (self.shown, self.replies) = (now, counts.replies());
        let warming = if now < from { "  warming up" } else { "" };
        let Counts { lost, errors, .. } = counts;
        eprint!("\r{:4} s  {rate:9.0} replies/s  {lost} lost  {errors} errors{warming}\x1b[K", now / SECOND);
        _ = std::io::stderr().flush();
    }
}

fn nanos(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the load generator measures real time; it shares no code with the tracker"
)]
fn instant() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_long_after_ten_seconds_without_a_reply() {
        let mut silence = Silence::default();
        let mut counts = Counts { announces: 7, ..Counts::default() };
        assert!(!silence.is_long(SECOND, &counts));
        assert!(!silence.is_long(11 * SECOND, &counts));
        counts.announces = 8;
        assert!(!silence.is_long(12 * SECOND, &counts));
        counts.errors = 1;
        assert!(!silence.is_long(22 * SECOND, &counts));
        assert!(silence.is_long(22 * SECOND + 1, &counts), "an error ends no silence");
    }
}
