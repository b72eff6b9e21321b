//! `interval variation` (`rules/hooks.md#interval-variation`): spreads announces by adding seconds to the
//! interval of some peers, always the same for one peer of one torrent.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{AnnounceVisit, Hook, HookError, HookInputs, Verdict, parse_options};
use crate::ids::{InfoHash, PeerId};

/// The first draw is below this number.
const SCALE: u64 = 1 << 24;

/// Most seconds that the hook may be configured to add.
pub const DELTA_MAX: u32 = 86_400;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IntervalOptions {
    #[serde(default)]
    modify_response_probability: f32,
    #[serde(default)]
    max_increase_delta: i64,
    #[serde(default)]
    modify_min_interval: bool,
}

#[derive(Debug)]
struct IntervalVariation {
    probability: f32,
    /// Most seconds added, at least 1.
    delta: u64,
    min_interval_too: bool,
}

/// Builds `interval variation`.
pub(super) fn build(from: &Map<String, Value>, _: HookInputs<'_>) -> Result<Box<dyn Hook>, HookError> {
    let options: IntervalOptions = parse_options(from)?;
    let (probability, max_increase_delta) = (options.modify_response_probability, options.max_increase_delta);
    let bad = |text: &str| HookError::Options(text.to_owned());
    if !(probability > 0.0 && probability <= 1.0) {
        return Err(bad("invalid modify_response_probability"));
    }
    // A day is more than any interval.
    let delta =
        u64::try_from(max_increase_delta).ok().filter(|delta| (1..=u64::from(DELTA_MAX)).contains(delta));
    let delta = delta.ok_or_else(|| bad("invalid max_increase_delta"))?;
    Ok(Box::new(IntervalVariation { probability, delta, min_interval_too: options.modify_min_interval }))
}

impl IntervalVariation {
    /// Returns the seconds added for this peer; `None` where its interval stays.
    #[expect(clippy::cast_precision_loss, reason = "24 bits are exact in 32-bit floating point")]
    fn added_seconds(&self, info_hash: &InfoHash, peer_id: &PeerId) -> Option<u32> {
        let mut random = Xorshift(sum_words(&info_hash.0), sum_words(&peer_id.0));
        let share = random.next_below(SCALE) as f32 / SCALE as f32;
        let chosen = self.probability >= 1.0 || share < self.probability;
        chosen.then(|| u32::try_from(random.next_below(self.delta) + 1).unwrap_or(u32::MAX))
    }
}

impl Hook for IntervalVariation {
    fn announce(&self, visit: &mut AnnounceVisit<'_>) -> Verdict {
        let announce = visit.announce;
        if let Some(seconds) = self.added_seconds(&announce.info_hash, &announce.peer_id) {
            visit.interval_seconds = visit.interval_seconds.saturating_add(seconds);
            if self.min_interval_too && visit.min_interval_seconds > 0 {
                visit.min_interval_seconds = visit.min_interval_seconds.saturating_add(seconds);
            }
        }
        Ok(())
    }

    fn interval_increase_max(&self) -> u32 {
        u32::try_from(self.delta).unwrap_or(u32::MAX)
    }
}

/// Returns the sum of the two big-endian words in the first sixteen octets.
fn sum_words(octets: &[u8; 20]) -> u64 {
    let (words, _) = octets.as_chunks::<8>();
    words.iter().fold(0, |sum, word| u64::from_be_bytes(*word).wrapping_add(sum))
}

/// The generator of `rules/hooks.md#interval-variation` (xorshift128+).
struct Xorshift(u64, u64);

impl Xorshift {
    fn next_below(&mut self, most: u64) -> u64 {
        let Self(s0, s1) = *self;
        let drawn = s0.wrapping_add(s1);
        let x = s0 ^ (s0 << 23);
        *self = Self(s1, x ^ s1 ^ (x >> 18) ^ (s1 >> 5));
        drawn.cast_signed().unsigned_abs() % most
    }
}
