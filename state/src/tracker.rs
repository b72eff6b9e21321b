//! [`Tracker`]: the one place where an announce or scrape is decided: policy first, then the swarm.

use std::sync::Arc;

use crate::address::Reach;
use crate::admission::hooks::{Said, ScrapeVisit};
use crate::admission::{Passed, Policy};
use crate::announce::{Announce, Answer, Handout, Refusal, Tally};
use crate::clock::{Now, Tick};
use crate::ids::{ClientId, InfoHash};
use crate::private::announce::{Asked, Chooser, Done};
use crate::private::event_log::Line;
use crate::private::site::DenialLog;
use crate::private::{Denial, Member, Purger, Register, Site};
use crate::published::{Published, Subscriber};
use crate::store::Queues;
use crate::swarm::{Outcome, Swarms};

/// One thread's handle on the tracker: shared swarms, and a policy and a random generator of its own.
#[derive(Debug)]
pub struct Tracker {
    swarms: Arc<Swarms>,
    policy: Subscriber<Policy>,
    random: fastrand::Rng,
    /// Where what has to last is put, if anything has to.
    records: Option<Arc<Queues>>,
    /// Clients of this batch, where they are counted.
    seen: Vec<ClientId>,
    private: Option<Private>,
}

/// What mode private decides with.
#[derive(Debug)]
struct Private {
    site: Arc<Site>,
    register: Subscriber<Register>,
    chooser: Chooser,
    denials: Arc<DenialLog>,
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
            seen: Vec::new(),
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
    pub fn private(self, site: Arc<Site>) -> Self {
        let chooser = Chooser::new(self.random.clone());
        let (register, denials) = (site.register.subscribe(), site.denial_log());
        Self { private: Some(Private { site, register, chooser, denials }), ..self }
    }

    /// Takes over a reloaded policy and register; call it once per batch.
    pub fn refresh(&mut self) {
        if let (false, Some(clients)) = (self.seen.is_empty(), &self.policy.get().clients) {
            clients.count(&self.seen);
        }
        self.seen.clear();
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

    /// Decides a member's announce: rows 7 and 13 to 16 of `rules/private.md#failures`, then the swarm and
    /// what is credited, in one atomic step of that torrent. Hooks hear what was `said`, after row 13: what
    /// comes behind it is decided under the torrent's lock.
    ///
    /// # Errors
    /// The denial the client is told; then nothing has changed.
    pub fn announce_member(
        &mut self,
        now: Now,
        member: Member,
        announce: &Announce,
        said: Option<Said<'_>>,
        handout: &mut Handout<'_>,
    ) -> Result<Answer, Denial> {
        // Without a register nobody is a member.
        let Some(private) = &mut self.private else { return Err(Refusal::InvalidPasskey.into()) };
        let (policy, records) = (self.policy.get(), self.records.as_deref());
        let planned = policy.answer(Tally::default(), &mut self.random);
        if policy.clients.is_some() {
            self.seen.push(announce.peer_id.client());
        }
        let Private { site, register, chooser, denials } = private;
        let register = register.get();
        let mut decide = || {
            if policy.refuses_port(announce.port) {
                return Err(Refusal::WellKnownPort.into());
            }
            let client = register.clients.find(&announce.peer_id).ok_or(Refusal::ClientNotApproved)?;
            let (passed, changes) = match said {
                Some(said) => policy.pass_hooks(now, announce, said, planned)?,
                None => (Passed { answer: planned, skip_reply: false }, true),
            };
            let silent = Announce { num_want: 0, ..*announce };
            let heard = if passed.skip_reply { &silent } else { announce };
            let asked = Asked { now, policy, register, member, client, announce: heard };
            let (tally, full) = match changes {
                true => site.credit(&asked, records, chooser, handout)?,
                false => (site.torrents.show(&asked, chooser, handout)?, false),
            };
            let tally = if passed.skip_reply { Tally::default() } else { tally };
            Ok(if full { policy.full_answer(tally) } else { Answer { tally, ..passed.answer } })
        };
        decide().inspect_err(|denial| denials.deny(now, member.id, announce, denial))
    }

    /// What purges the peers of members (mode private).
    pub(crate) fn purger(&self) -> Option<Purger> {
        let private = self.private.as_ref()?;
        let purger = Purger::new(Arc::clone(&private.site.torrents), self.records.clone());
        Some(purger.timed(private.site.purges()))
    }

    /// How the swarm of a registered torrent stands; `None` where it is unknown, pruned, or this member may
    /// not download it (`rules/private.md#member-scrapes`). Changes nothing.
    #[must_use]
    pub fn scrape_member(&self, member: Member, info_hash: &InfoHash) -> Option<Tally> {
        let private = self.private.as_ref()?;
        private.site.torrents.scrape(private.register.get(), &member, info_hash)
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
    /// [`LOOK_AHEAD_MAX`](crate::swarm::LOOK_AHEAD_MAX) of them at most. It changes no answer.
    pub fn look_ahead(&self, info_hashes: impl Iterator<Item = InfoHash>) {
        match &self.private {
            None => self.swarms.look_ahead(info_hashes),
            Some(private) => private.site.torrents.look_ahead(info_hashes),
        }
    }

    /// Decides one announce, changes its swarm and hands out peers, in one atomic step of that swarm. Hooks
    /// do not see it; where there are some, a door calls [`announce_said`](Self::announce_said).
    ///
    /// # Errors
    /// The refusal the client is told; then nothing has changed.
    pub fn announce(
        &mut self,
        now: Tick,
        announce: &Announce,
        handout: &mut Handout<'_>,
    ) -> Result<Answer, Refusal> {
        let reach = self.policy.get().admit(announce)?;
        let (outcome, tally) = self.carry_out(now, reach, announce, handout);
        let policy = self.policy.get();
        Ok(match outcome {
            Outcome::Full => policy.full_answer(tally),
            Outcome::Done { .. } => policy.answer(tally, &mut self.random),
        })
    }

    /// The same, after the hooks have heard what was said.
    ///
    /// # Errors
    /// The refusal of the policy or of a prehook; then nothing has changed.
    pub fn announce_said(
        &mut self,
        now: Now,
        announce: &Announce,
        said: Said<'_>,
        handout: &mut Handout<'_>,
    ) -> Result<Answer, Refusal> {
        let policy = self.policy.get();
        let reach = policy.admit(announce)?;
        let planned = policy.answer(Tally::default(), &mut self.random);
        let (passed, changes) = policy.pass_hooks(now, announce, said, planned)?;
        let silent = Announce { num_want: 0, ..*announce };
        let announce = if passed.skip_reply { &silent } else { announce };
        let (outcome, tally) = if changes {
            self.carry_out(now.tick, reach, announce, handout)
        } else {
            let shown =
                self.swarms.show(now.tick, self.policy.get(), reach, announce, &mut self.random, handout);
            (Outcome::Done { completed: false }, shown)
        };
        let tally = if passed.skip_reply { Tally::default() } else { tally };
        Ok(match outcome {
            Outcome::Full => self.policy.get().full_answer(tally),
            Outcome::Done { .. } => Answer { tally, ..passed.answer },
        })
    }

    /// Changes the swarm and hands out peers; what has to last is recorded.
    fn carry_out(
        &mut self,
        now: Tick,
        reach: Reach,
        announce: &Announce,
        handout: &mut Handout<'_>,
    ) -> (Outcome, Tally) {
        let policy = self.policy.get();
        let (outcome, tally) = self.swarms.announce(now, policy, reach, announce, &mut self.random, handout);
        if policy.clients.is_some() {
            self.seen.push(announce.peer_id.client());
        }
        if let (Outcome::Done { completed: true }, Some(records)) = (outcome, &self.records) {
            records.completed(announce.info_hash);
        }
        (outcome, tally)
    }

    /// Shows a scrape to the hooks.
    ///
    /// # Errors
    /// The refusal of a prehook.
    pub fn scrape_said(&self, now: Now, info_hashes: &[InfoHash], said: Said<'_>) -> Result<(), Refusal> {
        self.policy.get().hooks.scrape(&ScrapeVisit { now, info_hashes, said })
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

impl Site {
    /// Changes the swarm of a member's torrent, hands out peers, and writes down what is credited; tells
    /// whether there was no memory for the peer.
    fn credit(
        &self,
        asked: &Asked<'_>,
        records: Option<&Queues>,
        chooser: &mut Chooser,
        handout: &mut Handout<'_>,
    ) -> Result<(Tally, bool), Denial> {
        let Done { torrent, tally, full } = self.torrents.announce(asked, records, chooser, handout)?;
        if let Some(events) = self.events().filter(|_| !full) {
            let Asked { now, member, announce, .. } = asked;
            let line = Line::of(now.unix_seconds, torrent, member.id, member.tracker_hide, announce);
            line.into_iter().for_each(|line| events.put(line));
        }
        Ok((tally, full))
    }
}
