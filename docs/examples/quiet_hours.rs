//! An example hook: between two hours of the day (UTC) clients are told to come back less often.
//!
//! ```json
//! "prehooks": [{ "name": "quiet hours", "options": { "from": 22, "to": 6, "factor": 2 } }]
//! ```

use hayate_state::Refusal;
use hayate_state::admission::hooks::{AnnounceVisit, Hook, HookError, HookInputs, Verdict, parse_options};
use hayate_state::announce::HookText;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What the configuration says. Unknown keys are errors, as everywhere.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuietHours {
    from: u64,
    to: u64,
    #[serde(default = "twice")]
    factor: u32,
    /// Clients may name themselves night owls; nobody else may start a download then.
    #[serde(default)]
    owls_only: bool,
}

fn twice() -> u32 {
    2
}

/// Builds the hook: the line in `HOOKS` is `("quiet hours", quiet_hours::build)`.
///
/// # Errors
/// When the options are not good; a start or reload is refused with this text.
pub fn build(from: &Map<String, Value>, _: HookInputs<'_>) -> Result<Box<dyn Hook>, HookError> {
    let read: QuietHours = parse_options(from)?;
    if read.from > 23 || read.to > 23 {
        return Err(HookError::Options("from and to are hours, 0 to 23".to_owned()));
    }
    Ok(Box::new(read))
}

impl Hook for QuietHours {
    fn announce(&self, visit: &mut AnnounceVisit<'_>) -> Verdict {
        // Time is told, never read: tests own the clock.
        let hour = visit.now.unix_seconds / 3600 % 24;
        let quiet = if self.from <= self.to {
            (self.from..self.to).contains(&hour)
        } else {
            hour >= self.from || hour < self.to
        };
        if !quiet {
            return Ok(());
        }
        let owl = visit.url.parameter("owl").is_some_and(|value| &*value == b"1");
        if self.owls_only && !owl && visit.announce.event == hayate_state::Event::Started {
            // A static text: what a client sent is never told back.
            return Err(Refusal::Hook(HookText("we sleep; come back in the morning")));
        }
        visit.interval_seconds = visit.interval_seconds.saturating_mul(self.factor);
        Ok(())
    }
}
