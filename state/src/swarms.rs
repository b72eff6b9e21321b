//! All swarms, in shards.

use std::sync::Arc;

use crate::announce::{Announce, Handout, Tally};
use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::policy::Policy;
use crate::reach::Reach;

/// Whether an announce was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The swarm knows the peer now (or forgot it, if it stopped).
    Done,
    /// There was no room for the peer: nothing changed, nobody was handed out.
    Full,
}

/// All swarms of the tracker.
#[derive(Debug)]
pub struct Swarms {}

impl Swarms {
    /// No swarms yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {})
    }

    pub(crate) fn announce(
        &self,
        _now: Tick,
        _policy: &Policy,
        _reach: Reach,
        _announce: &Announce,
        _random: &mut fastrand::Rng,
        _handout: &mut Handout<'_>,
    ) -> (Outcome, Tally) {
        (Outcome::Done, Tally::default())
    }

    /// How a swarm stands; zeros where it is unknown.
    #[must_use]
    pub fn tally(&self, _info_hash: &InfoHash) -> Tally {
        Tally::default()
    }
}

/// The incremental sweep over all swarms.
#[derive(Debug)]
pub struct Sweeper {
    _swarms: Arc<Swarms>,
}

impl Sweeper {
    /// A sweep that starts at the first shard.
    #[must_use]
    pub fn new(swarms: Arc<Swarms>) -> Self {
        Self { _swarms: swarms }
    }

    /// The share of a full sweep that is due after `elapsed` more time.
    pub fn beat(&mut self, _now: Tick, _policy: &Policy, _elapsed: std::time::Duration) {}
}
