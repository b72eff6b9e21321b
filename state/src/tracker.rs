//! [`Tracker`]: the one place where an announce or scrape is decided: policy first, then the swarm.

use std::sync::Arc;

use crate::announce::{Announce, Answer, Handout, Refusal, Tally};
use crate::clock::{Now, Tick};
use crate::ids::InfoHash;
use crate::policy::Policy;
use crate::private::{Denial, Member, Register, Torrents};
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
    private: Option<Private>,
}

/// What mode private decides with.
#[derive(Debug)]
struct Private {
    register: Subscriber<Register>,
    torrents: Arc<Torrents>,
}

impl Tracker {
    /// A handle on `swarms`, decided by `policy`. The same `seed` makes the same choices.
    #[must_use]
    pub fn new(swarms: Arc<Swarms>, policy: &Arc<Published<Policy>>, seed: u64) -> Self {
        Self {
            swarms,
            policy: policy.subscribe(),
            random: fastrand::Rng::with_seed(seed),
            records: None,
            private: None,
        }
    }

    /// The same, but what has to last is put into `records` for a store.
    #[must_use]
    pub fn recording(self, records: Arc<Queues>) -> Self {
        Self { records: Some(records), ..self }
    }

    /// The same in mode private: members announce registered torrents.
    #[must_use]
    pub fn private(self, register: &Arc<Published<Register>>, torrents: Arc<Torrents>) -> Self {
        Self { private: Some(Private { register: register.subscribe(), torrents }), ..self }
    }

    /// Takes over a reloaded policy and register; call it once per batch.
    pub fn refresh(&mut self) {
        self.policy.refresh();
        if let Some(private) = &mut self.private {
            private.register.refresh();
        }
    }

    /// Is this mode private? Then only members announce.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Whose passkey this is (mode private).
    #[must_use]
    pub fn member(&self, passkey: &[u8]) -> Option<Member> {
        self.private.as_ref()?.register.get().member(passkey)
    }

    /// Decides one announce of a member: rows 7 and 13 to 16 of `private-tracker.md` 7, then the swarm, then
    /// what is credited, in one atomic step of that torrent.
    ///
    /// # Errors
    /// The denial the client is told; then nothing has changed.
    pub fn announce_member(
        &mut self,
        now: Now,
        member: Member,
        announce: &Announce,
        handout: &mut Handout<'_>,
    ) -> Result<Answer, Denial> {
        let _ = (now, member, announce, handout);
        Err(Refusal::UnknownTorrent.into())
    }

    /// How the swarm of a registered torrent stands; `None` where it is unknown, pruned, or this member may
    /// not download it (`private-tracker.md` 12.2). Changes nothing.
    #[must_use]
    pub fn scrape_member(&self, member: Member, info_hash: &InfoHash) -> Option<Tally> {
        let _ = (member, info_hash);
        None
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
