//! [`Policy`]: the settings by which announces and scrapes are decided. A reload publishes a new policy;
//! sockets and swarms stay.
//!
//! | module | what is in it |
//! |---|---|
//! | [`access`] | lists of torrents |
//! | [`hooks`] | what an operator may put between policy and swarm |
//! | [`rate_limit`] | which addresses send too many requests |
//! | [`client_stats`] | how often each kind of client announces |

pub mod access;
pub mod client_stats;
pub mod hooks;
pub mod rate_limit;

use std::sync::Arc;

use crate::address::{AddressScope, PrivatePeers};
use crate::admission::access::{Access, TorrentList};
use crate::admission::client_stats::ClientStats;
use crate::admission::hooks::{AnnounceVisit, Hooks, RequestUrl};
use crate::admission::rate_limit::RateLimiter;
use crate::announce::{Announce, Answer, Refusal, Tally};
use crate::clock::{Now, Tick};
use crate::ids::InfoHash;

/// Longest lifetime of a peer in seconds: ages are kept in 15 bits, with room for a late sweep.
pub const PEER_INACTIVITY_SECONDS_MAX: u32 = 6 * 3600;
/// Intervals after which a full tracker asks its clients to announce again.
pub const FULL_INTERVALS: u32 = 2;
/// Octets a second that are believed by default: those of a line of some 17 Gbit/s.
pub const OCTETS_PER_SECOND_MAX: u64 = 2 << 30;
/// The `interval` of a failure where `min_announce` is 0, in seconds (`rules/http.md#failure-reply`).
pub const FAILURE_INTERVAL_SECONDS: u32 = 900;

/// The settings by which announces and scrapes are decided, in every mode.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Which torrents may be announced; in mode listed the registered ones.
    pub access: Access,
    /// In mode listed, the registered torrents that the store knows, beside those of `access`.
    pub registered: Option<Arc<TorrentList>>,
    /// Seconds between two announces of a client; at least 1 (BEP 3 `interval`).
    pub announce_seconds: u32,
    /// Shortest time between two announces of a client, in seconds; 0 = not sent (`min interval`).
    pub min_announce_seconds: u32,
    /// A random number of seconds below this is added to each interval; 0 = none.
    pub announce_drift_seconds: u32,
    /// Seconds for which a peer stays without announcing; at most [`PEER_INACTIVITY_SECONDS_MAX`].
    pub peer_inactivity_seconds: u32,
    /// Seconds within which an announce that changes nothing does not renew its peer, so that nodes of a
    /// cluster publish it less often; 0 = every announce renews it, as without a cluster.
    pub renew_after_seconds: u32,
    /// Seconds after `peer_inactivity_seconds` within which an expired peer is removed; at least 1.
    pub purge_seconds: u32,
    /// The `min_request_interval` of scrapes, in seconds; 0 = not sent.
    pub scrape_seconds: u32,
    /// Most octets a second, in each direction, that are believed of a session; 0 = any number (mode
    /// private).
    pub octets_per_second_max: u64,
    /// Whether ports below 1024 are refused.
    pub strict_port: bool,
    /// Whether peer ids are kept, for the list form of BEP 3.
    pub keep_peer_ids: bool,
    /// To whom peers with private addresses are handed out.
    pub private_peers: PrivatePeers,
    /// Ports whose peers are counted but not handed out; port 1 is always such a port.
    pub denied_ports: Vec<u16>,
    /// The memory budget of the swarms in octets, by their own count; 0 = no limit.
    pub memory_max: u64,
    /// Most torrents without peers whose completed count is remembered.
    pub idle_torrents_max: usize,
    /// Whether scrapes are answered.
    pub enable_scrape: bool,
    /// The hooks that see announces and scrapes before they are decided.
    pub hooks: Arc<Hooks>,
    /// The rate limit of one address; `None` = no limit.
    pub rate_limit: Option<RateLimitRule>,
    /// Where announces are counted by kind of client; `None` = nowhere.
    pub client_stats: Option<Arc<ClientStats>>,
}

/// A rate limit, and what becomes of requests beyond it.
#[derive(Clone, Debug)]
pub struct RateLimitRule {
    /// The token buckets of all addresses.
    pub limiter: Arc<RateLimiter>,
    /// What becomes of requests beyond the limit.
    pub action: OverLimitAction,
}

/// What the prehooks have made of an announce that all of them let pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassedHooks {
    /// The answer so far: its intervals.
    pub(crate) answer: Answer,
    /// Whether peers and counts stay out of the reply.
    pub(crate) skip_reply: bool,
}

/// What becomes of a request beyond the rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimitAction {
    /// It is counted and served.
    Count,
    /// It is served, and answered with a long interval.
    Slow,
    /// It changes nothing, and is answered as by a full tracker.
    Empty,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            access: Access::Off,
            registered: None,
            announce_seconds: 1800,
            min_announce_seconds: 900,
            announce_drift_seconds: 300,
            peer_inactivity_seconds: 4200,
            renew_after_seconds: 0,
            purge_seconds: 120,
            scrape_seconds: 900,
            octets_per_second_max: OCTETS_PER_SECOND_MAX,
            strict_port: false,
            keep_peer_ids: false,
            private_peers: PrivatePeers::SameRange,
            denied_ports: Vec::new(),
            memory_max: 0,
            idle_torrents_max: 1_000_000,
            enable_scrape: true,
            hooks: Arc::default(),
            rate_limit: None,
            client_stats: None,
        }
    }
}

impl Policy {
    /// Counts a request from a proven source. Returns what becomes of it if it is beyond the rate limit.
    #[must_use]
    pub fn check_rate_limit(&self, now: Tick, source: std::net::IpAddr) -> Option<OverLimitAction> {
        let rate_limit = self.rate_limit.as_ref()?;
        (!rate_limit.limiter.admits(now, source)).then_some(rate_limit.action)
    }

    /// Decides whether this announce may change a swarm. Returns the scope of its address.
    ///
    /// # Errors
    /// Fails with the refusal for the client.
    pub fn admit(&self, announce: &Announce) -> Result<AddressScope, Refusal> {
        if announce.port == 0 || self.refuses_port(announce.port) {
            return Err(Refusal::InvalidPort);
        }
        let scope = AddressScope::of(announce.address).ok_or(Refusal::InvalidAddress)?;
        if !self.admits_torrent(&announce.info_hash) {
            return Err(Refusal::UnregisteredTorrent);
        }
        Ok(scope)
    }

    /// Whether `announce.strict_port` refuses this port.
    #[must_use]
    pub fn refuses_port(&self, port: u16) -> bool {
        self.strict_port && port < 1024
    }

    /// Returns the answer to an announce that was carried out. Its interval is drawn anew each time.
    pub(crate) fn answer(&self, tally: Tally, random: &mut fastrand::Rng) -> Answer {
        let drift = self.announce_drift_seconds;
        let drift = if drift == 0 { 0 } else { random.u32(..drift) };
        let interval_seconds = self.announce_seconds.saturating_add(drift);
        Answer { interval_seconds, min_interval_seconds: self.min_announce_seconds, tally }
    }

    /// Whether this torrent may be announced and scraped.
    #[must_use]
    pub fn admits_torrent(&self, info_hash: &InfoHash) -> bool {
        self.access.admits(info_hash) || self.registered.as_ref().is_some_and(|list| list.contains(info_hash))
    }

    /// Returns `scope`, or [`AddressScope::Hidden`] where the port must not be handed out.
    #[must_use]
    pub fn scope_with_port(&self, scope: AddressScope, port: u16) -> AddressScope {
        if port <= 1 || self.denied_ports.contains(&port) { AddressScope::Hidden } else { scope }
    }

    /// Returns the seconds that a failure tells an HTTP client to wait.
    #[must_use]
    pub fn failure_interval_seconds(&self) -> u32 {
        if self.min_announce_seconds == 0 { FAILURE_INTERVAL_SECONDS } else { self.min_announce_seconds }
    }

    /// Returns the seconds that a client waits after an answer of a full tracker.
    #[must_use]
    pub fn full_interval_seconds(&self) -> u32 {
        self.announce_seconds.saturating_mul(FULL_INTERVALS)
    }

    /// Shows all hooks an announce that will be answered with the intervals of `planned`. Returns what they
    /// have made of the answer, and whether the swarm may change.
    ///
    /// # Errors
    /// Fails with the refusal of a prehook.
    pub(crate) fn run_hooks(
        &self,
        now: Now,
        announce: &Announce,
        url: RequestUrl<'_>,
        planned: Answer,
    ) -> Result<(PassedHooks, bool), Refusal> {
        let intervals = (planned.interval_seconds, planned.min_interval_seconds);
        let mut visit = AnnounceVisit::new(now, announce, url, intervals);
        self.hooks.run_prehooks(&mut visit)?;
        // The answer is settled here: posthooks decide about the swarm only.
        let (interval_seconds, min_interval_seconds) = (visit.interval_seconds, visit.min_interval_seconds);
        let skip_reply = visit.skip_reply;
        let changes = self.hooks.run_posthooks(&mut visit);
        let answer = Answer { interval_seconds, min_interval_seconds, tally: Tally::default() };
        Ok((PassedHooks { answer, skip_reply }, changes))
    }

    /// Returns the same answer with a long interval.
    #[must_use]
    pub fn slow_answer(&self, answer: Answer) -> Answer {
        self.full_answer(answer.tally)
    }

    /// Returns the answer to an announce for which there is no room: valid, without peers, and with a long
    /// interval (`rules/swarms.md#full-tracker`). The minimum is as long, because some clients announce again
    /// after it.
    #[must_use]
    pub fn full_answer(&self, tally: Tally) -> Answer {
        let interval_seconds = self.full_interval_seconds();
        let min_interval_seconds = if self.min_announce_seconds == 0 { 0 } else { interval_seconds };
        Answer { interval_seconds, min_interval_seconds, tally }
    }
}
