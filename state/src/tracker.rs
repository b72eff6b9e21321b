//! [`Tracker`]: the one place where an announce or scrape is decided: policy first, then the swarm.

use std::sync::Arc;

use crate::announce::{Announce, Answer, Handout, Refusal, Tally};
use crate::clock::Tick;
use crate::ids::InfoHash;
use crate::policy::Policy;
use crate::published::{Published, Subscriber};
use crate::snapshot::delta::Delta;
use crate::store::Queues;
use crate::swarms::{Outcome, Swarms};

/// One thread's handle on the tracker: shared swarms, and a policy and a random generator of its own.
#[derive(Debug)]
pub struct Tracker {
    swarms: Arc<Swarms>,
    policy: Subscriber<Policy>,
    random: fastrand::Rng,
    /// Where what has to last is put, if anything has to.
    records: Option<Arc<Queues>>,
}

impl Tracker {
    /// A handle on `swarms`, decided by `policy`. The same `seed` makes the same choices.
    #[must_use]
    pub fn new(swarms: Arc<Swarms>, policy: &Arc<Published<Policy>>, seed: u64) -> Self {
        Self { swarms, policy: policy.subscribe(), random: fastrand::Rng::with_seed(seed), records: None }
    }

    /// The same, but what has to last is put into `records` for a store.
    #[must_use]
    pub fn recording(self, records: Arc<Queues>) -> Self {
        Self { records: Some(records), ..self }
    }

    /// Takes over a reloaded policy; call it once per batch.
    pub fn refresh(&mut self) {
        self.policy.refresh();
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.policy.get()
    }

    /// The swarms behind the handle.
    #[must_use]
    pub fn swarms(&self) -> &Arc<Swarms> {
        &self.swarms
    }

    /// Makes the announces of a batch faster by fetching what they will look at, for
    /// [`LOOK_AHEAD_MAX`](crate::swarms::LOOK_AHEAD_MAX) of them at most. It changes no answer.
    pub fn look_ahead(&self, info_hashes: impl Iterator<Item = InfoHash>) {
        self.swarms.look_ahead(info_hashes);
    }

    /// Decides one announce, changes its swarm and hands out peers, in one atomic step of that swarm.
    ///
    /// # Errors
    /// The refusal the client is told; then nothing has changed.
    pub fn announce(
        &mut self,
        now: Tick,
        announce: &Announce,
        handout: &mut Handout<'_>,
    ) -> Result<Answer, Refusal> {
        let policy = self.policy.get();
        let reach = policy.admit(announce)?;
        let (outcome, tally) = self.swarms.announce(now, policy, reach, announce, &mut self.random, handout);
        let tap = self.swarms.tap();
        if tap.is_open() {
            tap.note(Delta { announce: *announce, completed: tally.completed });
        }
        match outcome {
            Outcome::Full => return Ok(policy.full_answer(tally)),
            Outcome::Done { completed: true } => {
                if let Some(records) = &self.records {
                    records.completed(announce.info_hash);
                }
            }
            Outcome::Done { completed: false } => {}
        }
        let interval_seconds =
            policy.announce_seconds + drift(&mut self.random, policy.announce_drift_seconds);
        Ok(Answer { interval_seconds, min_interval_seconds: policy.min_announce_seconds, tally })
    }

    /// How a swarm stands; zeros where it is unknown or not admitted. Changes nothing.
    ///
    /// # Errors
    /// When scrapes are switched off.
    pub fn scrape(&self, info_hash: &InfoHash) -> Result<Tally, Refusal> {
        let policy = self.policy.get();
        if !policy.enable_scrape {
            return Err(Refusal::ScrapeDisabled);
        }
        Ok(if policy.admits(info_hash) { self.swarms.tally(info_hash) } else { Tally::default() })
    }
}

/// A random number of seconds below `bound`; 0 where there is no bound.
fn drift(random: &mut fastrand::Rng, bound: u32) -> u32 {
    if bound == 0 { 0 } else { random.u32(..bound) }
}
