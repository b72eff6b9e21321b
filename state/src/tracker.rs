//! [`Tracker`]: the one place where announces and scrapes are decided, by the policy first, then by the
//! swarm.

use std::sync::Arc;

use crate::address::AddressScope;
use crate::admission::hooks::{RequestUrl, ScrapeVisit};
use crate::admission::{PassedHooks, Policy};
use crate::announce::{Announce, Answer, Handout, Refusal, Tally};
use crate::clock::{Now, Tick};
use crate::ids::{ClientId, InfoHash};
use crate::private::announce::{PeerPicker, UserAnnounce, UserAnswer};
use crate::private::event_log::EventLine;
use crate::private::site::RefusalLog;
use crate::private::{PeerExpiry, Refused, Site, SiteData, User};
use crate::published::{Published, Subscriber};
use crate::store::Queues;
use crate::swarm::{AnnounceOutcome, Swarms};

/// One thread's handle on the tracker: the shared swarms, and a random generator and a view of the policy of
/// its own.
///
/// ```
/// use hayate_state::{Announce, Event, Handout, InfoHash, PeerId, Policy, Published, Swarms, Tick, Tracker};
///
/// let policy = Published::new(Policy::default());
/// let mut tracker = Tracker::new(Swarms::new(0), &policy, 7);
/// let seeder = Announce {
///     info_hash: InfoHash([7; 20]),
///     peer_id: PeerId(*b"-XX0001-abcdefghijkl"),
///     address: [192, 0, 2, 7].into(),
///     port: 6881,
///     uploaded: 0,
///     downloaded: 0,
///     left: 0,
///     event: Event::Started,
///     num_want: 50,
/// };
/// tracker.announce(Tick(100), &seeder, &mut Handout::new(&mut [], &mut []))?;
///
/// // Room for 50 IPv4 peers and no IPv6 peer; the seeder is handed to the leecher.
/// let mut v4 = [0; 6 * 50];
/// let mut handout = Handout::new(&mut v4, &mut []);
/// let leecher = Announce { address: [192, 0, 2, 11].into(), left: 9, ..seeder };
/// let answer = tracker.announce(Tick(101), &leecher, &mut handout)?;
/// assert_eq!((answer.tally.seeders, answer.tally.leechers), (1, 1));
/// assert_eq!(handout.v4.used(), 6);
/// assert_eq!(v4[..6], [192, 0, 2, 7, 0x1a, 0xe1]);
/// # Ok::<(), hayate_state::Refusal>(())
/// ```
#[derive(Debug)]
pub struct Tracker {
    swarms: Arc<Swarms>,
    policy: Subscriber<Policy>,
    random: fastrand::Rng,
    /// Queues to the store, where there is one.
    queues: Option<Arc<Queues>>,
    /// Clients of this batch; filled only where the policy counts clients.
    batch_clients: Vec<ClientId>,
    private: Option<PrivateMode>,
}

/// The site and the state of this handle in mode private.
#[derive(Debug)]
struct PrivateMode {
    site: Arc<Site>,
    site_data: Subscriber<SiteData>,
    picker: PeerPicker,
    refusal_log: Arc<RefusalLog>,
}

impl Tracker {
    /// Makes a handle on `swarms` that decides by `policy`. The same `seed` makes the same choices.
    #[must_use]
    pub fn new(swarms: Arc<Swarms>, policy: &Arc<Published<Policy>>, seed: u64) -> Self {
        Self {
            swarms,
            policy: policy.subscribe(),
            random: fastrand::Rng::with_seed(seed),
            queues: None,
            batch_clients: Vec::new(),
            private: None,
        }
    }

    /// Puts what has to last into `queues`, for a store.
    #[must_use]
    pub fn with_queues(self, queues: Arc<Queues>) -> Self {
        Self { queues: Some(queues), ..self }
    }

    /// Switches to mode private: users announce the registered torrents of `site`.
    #[must_use]
    pub fn with_site(self, site: Arc<Site>) -> Self {
        let picker = PeerPicker::new(self.random.clone());
        let (site_data, refusal_log) = (site.site_data.subscribe(), site.new_refusal_log());
        Self { private: Some(PrivateMode { site, site_data, picker, refusal_log }), ..self }
    }

    /// Takes over a reloaded policy and site data. Call it once per batch.
    pub fn refresh(&mut self) {
        if let (false, Some(clients)) = (self.batch_clients.is_empty(), &self.policy.get().client_stats) {
            clients.count_announces(&self.batch_clients);
        }
        self.batch_clients.clear();
        self.policy.refresh();
        if let Some(private) = &mut self.private {
            private.site_data.refresh();
        }
    }

    /// Whether this is mode private, where only users may announce.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Returns the user with this passkey (mode private).
    #[must_use]
    pub fn find_user(&self, passkey: &[u8]) -> Option<User> {
        self.private.as_ref()?.site_data.get().find_user(passkey)
    }

    /// Decides a user's announce: rows 7 and 13 to 16 of `rules/private.md#failures`, then the swarm and what
    /// is credited, in one atomic step of that torrent. Hooks see the `url` after row 13: the rows behind it
    /// are decided under the torrent's lock.
    ///
    /// # Errors
    /// Fails with the refusal for the client; nothing has changed then.
    pub fn announce_user(
        &mut self,
        now: Now,
        user: User,
        announce: &Announce,
        url: Option<RequestUrl<'_>>,
        handout: &mut Handout<'_>,
    ) -> Result<Answer, Refused> {
        // Without a site there are no users.
        let Some(private) = &mut self.private else { return Err(Refusal::InvalidPasskey.into()) };
        let (policy, queues) = (self.policy.get(), self.queues.as_deref());
        let planned = policy.answer(Tally::default(), &mut self.random);
        if policy.client_stats.is_some() {
            self.batch_clients.push(announce.peer_id.client());
        }
        let PrivateMode { site, site_data, picker, refusal_log } = private;
        let site_data = site_data.get();
        let mut decide = || {
            if policy.refuses_port(announce.port) {
                return Err(Refusal::WellKnownPort.into());
            }
            let client = site_data.clients.find(&announce.peer_id).ok_or(Refusal::ClientNotApproved)?;
            let (passed, changes) = match url {
                Some(url) => policy.run_hooks(now, announce, url, planned)?,
                None => (PassedHooks { answer: planned, skip_reply: false }, true),
            };
            let silent = Announce { num_want: 0, ..*announce };
            let announce = if passed.skip_reply { &silent } else { announce };
            let request = UserAnnounce { now, policy, site_data, user, client, announce };
            let (tally, full) = match changes {
                true => site.announce_and_log(&request, queues, picker, handout)?,
                false => (site.torrents.hand_out_only(&request, picker, handout)?, false),
            };
            let tally = if passed.skip_reply { Tally::default() } else { tally };
            Ok(if full { policy.full_answer(tally) } else { Answer { tally, ..passed.answer } })
        };
        decide().inspect_err(|refused| refusal_log.record_refusal(now, user.id, announce, refused))
    }

    /// Makes the expiry of the site's peers (mode private).
    pub(crate) fn peer_expiry(&self) -> Option<PeerExpiry> {
        let private = self.private.as_ref()?;
        let expiry = PeerExpiry::new(Arc::clone(&private.site.torrents), self.queues.clone());
        Some(expiry.with_histogram(private.site.expiry_durations()))
    }

    /// Returns the counts of the swarm of a registered torrent; `None` where it is unknown, pruned, or this
    /// user may not download it (`rules/private.md#user-scrapes`). Changes nothing.
    #[must_use]
    pub fn scrape_user(&self, user: User, info_hash: &InfoHash) -> Option<Tally> {
        let private = self.private.as_ref()?;
        private.site.torrents.scrape(private.site_data.get(), &user, info_hash)
    }

    /// Returns the policy in force, as of the last [`refresh`](Self::refresh).
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.policy.get()
    }

    /// Returns the shared swarms.
    #[must_use]
    pub fn swarms(&self) -> &Arc<Swarms> {
        &self.swarms
    }

    /// Makes the announces of a batch faster by fetching into the cache what they will look at, for the first
    /// 64 of them. Changes no answer.
    pub fn prefetch_batch(&self, info_hashes: impl Iterator<Item = InfoHash>) {
        match &self.private {
            None => self.swarms.prefetch_batch(info_hashes),
            Some(private) => private.site.torrents.prefetch_batch(info_hashes),
        }
    }

    /// Decides one announce, changes its swarm and hands out peers, in one atomic step of that swarm. Hooks
    /// do not see it; where there are hooks, a server calls
    /// [`announce_with_hooks`](Self::announce_with_hooks).
    ///
    /// # Errors
    /// Fails with the refusal for the client; nothing has changed then.
    pub fn announce(
        &mut self,
        now: Tick,
        announce: &Announce,
        handout: &mut Handout<'_>,
    ) -> Result<Answer, Refusal> {
        let scope = self.policy.get().admit(announce)?;
        let (outcome, tally) = self.announce_admitted(now, scope, announce, handout);
        let policy = self.policy.get();
        Ok(match outcome {
            AnnounceOutcome::Full => policy.full_answer(tally),
            AnnounceOutcome::Done { .. } => policy.answer(tally, &mut self.random),
        })
    }

    /// Shows one announce to the hooks, and then decides it like [`announce`](Self::announce).
    ///
    /// # Errors
    /// Fails with the refusal of the policy or of a prehook; nothing has changed then.
    pub fn announce_with_hooks(
        &mut self,
        now: Now,
        announce: &Announce,
        url: RequestUrl<'_>,
        handout: &mut Handout<'_>,
    ) -> Result<Answer, Refusal> {
        let policy = self.policy.get();
        let scope = policy.admit(announce)?;
        let planned = policy.answer(Tally::default(), &mut self.random);
        let (passed, changes) = policy.run_hooks(now, announce, url, planned)?;
        let silent = Announce { num_want: 0, ..*announce };
        let announce = if passed.skip_reply { &silent } else { announce };
        let (outcome, tally) = if changes {
            self.announce_admitted(now.tick, scope, announce, handout)
        } else {
            let shown = self.swarms.hand_out_only(
                now.tick,
                self.policy.get(),
                scope,
                announce,
                &mut self.random,
                handout,
            );
            (AnnounceOutcome::Done { completed: false }, shown)
        };
        let tally = if passed.skip_reply { Tally::default() } else { tally };
        Ok(match outcome {
            AnnounceOutcome::Full => self.policy.get().full_answer(tally),
            AnnounceOutcome::Done { .. } => Answer { tally, ..passed.answer },
        })
    }

    /// Changes the swarm, hands out peers, and records what has to last.
    fn announce_admitted(
        &mut self,
        now: Tick,
        scope: AddressScope,
        announce: &Announce,
        handout: &mut Handout<'_>,
    ) -> (AnnounceOutcome, Tally) {
        let policy = self.policy.get();
        let (outcome, tally) = self.swarms.announce(now, policy, scope, announce, &mut self.random, handout);
        if policy.client_stats.is_some() {
            self.batch_clients.push(announce.peer_id.client());
        }
        if let (AnnounceOutcome::Done { completed: true }, Some(queues)) = (outcome, &self.queues) {
            queues.put_completed(announce.info_hash, 1);
        }
        (outcome, tally)
    }

    /// Shows a scrape to the hooks.
    ///
    /// # Errors
    /// Fails with the refusal of a prehook.
    pub fn scrape_with_hooks(
        &self,
        now: Now,
        info_hashes: &[InfoHash],
        url: RequestUrl<'_>,
    ) -> Result<(), Refusal> {
        self.policy.get().hooks.run_scrape_hooks(&ScrapeVisit { now, info_hashes, url })
    }

    /// Returns the counts of a swarm; zeros where it is unknown or not admitted. Changes nothing.
    ///
    /// # Errors
    /// Fails when scrapes are switched off.
    pub fn scrape(&self, info_hash: &InfoHash) -> Result<Tally, Refusal> {
        let policy = self.policy.get();
        if !policy.enable_scrape {
            return Err(Refusal::ScrapeDisabled);
        }
        Ok(if policy.admits_torrent(info_hash) { self.swarms.tally(info_hash) } else { Tally::default() })
    }
}

impl Site {
    /// Changes the swarm of a user's torrent, hands out peers, and logs what is credited. Returns whether
    /// there was no memory for the peer, beside the counts.
    fn announce_and_log(
        &self,
        request: &UserAnnounce<'_>,
        queues: Option<&Queues>,
        picker: &mut PeerPicker,
        handout: &mut Handout<'_>,
    ) -> Result<(Tally, bool), Refused> {
        let UserAnswer { torrent, tally, full } = self.torrents.announce(request, queues, picker, handout)?;
        if let Some(events) = self.event_log().filter(|_| !full) {
            let UserAnnounce { now, user, announce, .. } = request;
            let line =
                EventLine::from_announce(now.unix_seconds, torrent, user.id, user.tracker_hide, announce);
            line.into_iter().for_each(|line| events.push_line(line));
        }
        Ok((tally, full))
    }
}
