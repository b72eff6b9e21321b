//! [`Engine`]: decides how one datagram is answered. It never sends, allocates nothing, and gets the time as
//! an argument.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hayate_state::address::AddressClass;
use hayate_state::admission::OverLimitAction;
use hayate_state::admission::hooks::RequestUrl;
use hayate_state::announce::{PEER_V4_LEN, PEER_V6_LEN};
use hayate_state::metrics::durations::MetricKey;
use hayate_state::private::Refused;
use hayate_state::{Answer, Handout, InfoHash, Now, Refusal as TrackerRefusal, Subscriber, Tally, Tracker};

use crate::config::UdpConfig;
use crate::connection_id::{ConnectionIds, Unverified, Verified};
use crate::dropped::{Dropped, ErrorReason};
use crate::metrics::{RequestKind, WorkerMetrics};
use crate::private;
use crate::wire::PROTOCOL_ID;
use crate::wire::option::Options;
use crate::wire::reply::{self, AnnounceHead, Buffer};
use crate::wire::request::{Action, AnnounceView, Head, Malformed, Short};

/// Most datagrams of a batch whose durations are recorded.
const BATCH_KEYS_MAX: usize = 256;
/// Most octets of a URL that hooks see: as many as a datagram can hold.
const URL_MAX: usize = 2048;

/// The outcome of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'r> {
    /// Send these octets to the source, from the address to which the datagram came.
    Reply(&'r [u8]),
    /// Send nothing.
    Silence(Dropped),
}

/// One worker's engine: everything between a datagram and its reply. Owned by the worker's thread.
///
/// ```
/// use std::sync::Arc;
///
/// use hayate_state::{Now, Policy, Published, Swarms, Tracker};
/// use hayate_udp::config::REPLY_MAX;
/// use hayate_udp::wire::PROTOCOL_ID;
/// use hayate_udp::{Dropped, Engine, Outcome, UdpConfig};
///
/// let tracker = Tracker::new(Swarms::new(0), &Published::new(Policy::default()), 7);
/// let config = Published::new(UdpConfig::with_key("an example, do not copy"));
/// let mut engine = Engine::new(tracker, config.subscribe());
/// let (now, source) = (Now::at(0), "192.0.2.7:6881".parse()?);
/// let mut reply = [0; REPLY_MAX];
///
/// // A connect (BEP 15): the protocol's magic number, action 0, and a transaction id.
/// let connect = [&PROTOCOL_ID[..], &[0, 0, 0, 0, 7, 11, 13, 17]].concat();
/// engine.begin_batch(now);
/// let Outcome::Reply(octets) = engine.handle(now, source, &connect, &mut reply) else { panic!("silence") };
/// assert_eq!(octets.len(), 16);
/// assert_eq!(octets[..8], [0, 0, 0, 0, 7, 11, 13, 17], "action and transaction id");
///
/// // Octets 8 to 15 are the connection id. A source without one is not answered.
/// let scrape = [&[0; 8][..], &[0, 0, 0, 2, 7, 11, 13, 17], &[7; 20]].concat();
/// let outcome = engine.handle(now, source, &scrape, &mut reply);
/// assert_eq!(outcome, Outcome::Silence(Dropped::ForgedConnection));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    tracker: Tracker,
    config: Subscriber<UdpConfig>,
    connection_ids: ConnectionIds,
    metrics: Arc<WorkerMetrics>,
    /// Kinds of the datagrams of this batch; never grows beyond [`BATCH_KEYS_MAX`].
    batch_keys: Vec<MetricKey>,
    /// The labels of the current datagram.
    labels: RequestLabels,
}

/// What is known about a datagram, for the labels of its duration.
#[derive(Clone, Copy, Debug)]
struct RequestLabels {
    kind: RequestKind,
    source: Option<IpAddr>,
    dropped: Option<Dropped>,
}

impl RequestLabels {
    const UNKNOWN: Self = Self { kind: RequestKind::Empty, source: None, dropped: None };
}

impl Engine {
    /// Makes an engine that decides with `tracker`.
    #[must_use]
    pub fn new(tracker: Tracker, config: Subscriber<UdpConfig>) -> Self {
        let connection_ids = ConnectionIds::new(config.get());
        let batch_keys = Vec::with_capacity(BATCH_KEYS_MAX);
        Self {
            tracker,
            config,
            connection_ids,
            metrics: Arc::default(),
            batch_keys,
            labels: RequestLabels::UNKNOWN,
        }
    }

    /// Returns what this engine counts; its worker is the owner.
    #[must_use]
    pub fn metrics(&self) -> &Arc<WorkerMetrics> {
        &self.metrics
    }

    /// Takes over a reloaded policy and configuration; call it before the datagrams of one batch.
    pub fn begin_batch(&mut self, now: Now) {
        self.tracker.refresh();
        if self.config.refresh() {
            self.connection_ids.reload(self.config.get());
        }
        self.connection_ids.refresh(now.unix_seconds);
    }

    /// Records `time` as the duration of every datagram since [`begin_batch`](Self::begin_batch).
    pub fn end_batch(&mut self, time: Duration) {
        self.metrics.durations.record(&self.batch_keys, time);
        self.batch_keys.clear();
    }

    /// Counts a datagram that is dropped before it is looked at.
    pub fn drop_datagram(&mut self, dropped: Dropped) {
        self.metrics.count_dropped(dropped);
        self.labels = RequestLabels { dropped: Some(dropped), ..RequestLabels::UNKNOWN };
        self.push_batch_key();
    }

    fn push_batch_key(&mut self) {
        let RequestLabels { kind, source, dropped } = self.labels;
        if self.batch_keys.len() < BATCH_KEYS_MAX {
            self.batch_keys.push(self.metrics.metric_key(kind, source, dropped));
        }
    }

    /// Fetches into the cache what the announces among these datagrams will look at, before they are handled
    /// one by one. This changes no answer, so their sources need not be verified.
    pub fn prefetch_batch<'d>(&self, datagrams: impl Iterator<Item = &'d [u8]>) {
        self.tracker.prefetch_batch(datagrams.filter_map(announced_info_hash));
    }

    /// Decides one datagram. A source that is not verified gets a connect reply of [`reply::CONNECT_LEN`]
    /// octets, never more than it sent, or nothing.
    pub fn handle<'r>(
        &mut self,
        now: Now,
        source: SocketAddr,
        datagram: &[u8],
        reply: &'r mut Buffer,
    ) -> Outcome<'r> {
        // A v6-only socket shows no mapped addresses; a test or a fuzzer may (`rules/udp.md#mapped-sources`).
        let client = Client { now, address: source.ip().to_canonical() };
        self.labels = RequestLabels::UNKNOWN;
        let decided = if source.port() == 0 {
            Err(Dropped::SourcePortZero)
        } else {
            self.decide(client, datagram, reply)
        };
        let outcome = match decided {
            Ok(len) => {
                self.metrics.replies.for_source(client.address).add(1);
                Outcome::Reply(reply.get(..len).unwrap_or_default())
            }
            Err(dropped) => {
                self.count_dropped(dropped);
                Outcome::Silence(dropped)
            }
        };
        self.push_batch_key();
        outcome
    }

    fn count_dropped(&mut self, dropped: Dropped) {
        self.metrics.count_dropped(dropped);
        self.labels.dropped = Some(dropped);
    }

    /// Notes what the request is, as far as it is understood.
    fn note_kind(&mut self, kind: RequestKind, client: Client) {
        self.labels = RequestLabels { kind, source: Some(client.address), ..self.labels };
    }

    /// Returns the length of the reply, or the reason for silence.
    fn decide(&mut self, client: Client, datagram: &[u8], reply: &mut Buffer) -> Result<usize, Dropped> {
        let head = Head::parse(datagram)?;
        match head.action() {
            Action::Connect => self.connect(client, head, reply),
            Action::ErrorReply => Err(Dropped::ErrorReply),
            action => {
                let id = head.connection_id();
                let proof = self.connection_ids.verify(client.now.unix_seconds, client.address, id)?;
                Ok(self.serve_verified(proof, client, action, head, reply))
            }
        }
    }

    fn connect(&mut self, client: Client, head: Head<'_>, reply: &mut Buffer) -> Result<usize, Dropped> {
        self.labels.kind = RequestKind::Connect;
        if head.connection_id() != PROTOCOL_ID {
            return Err(Dropped::NotAConnect);
        }
        self.note_kind(RequestKind::Connect, client);
        self.metrics.connects.for_source(client.address).add(1);
        let id = self.connection_ids.make(client.now.unix_seconds, client.address);
        Ok(reply::connect(reply, head.transaction_id(), id))
    }

    /// Answers a verified source, with the reply to its request or with an error. Returns the length of the
    /// reply.
    fn serve_verified(
        &mut self,
        proof: Verified,
        client: Client,
        action: Action,
        head: Head<'_>,
        reply: &mut Buffer,
    ) -> usize {
        self.labels.kind = match action {
            Action::Announce | Action::AnnounceWide => RequestKind::Announce,
            Action::Scrape => RequestKind::Scrape,
            Action::Connect | Action::ErrorReply | Action::Unknown => RequestKind::Empty,
        };
        let answered = match action {
            Action::Announce => head
                .announce()
                .map_err(ErrorReason::from)
                .and_then(|view| self.announce(proof, client, 1, head, view, reply)),
            Action::AnnounceWide => head
                .announce_wide()
                .map_err(ErrorReason::from)
                .and_then(|view| self.announce(proof, client, 4, head, view, reply)),
            Action::Scrape => self.scrape(proof, client, head, reply),
            Action::Connect | Action::ErrorReply | Action::Unknown => Err(ErrorReason::UnknownAction),
        };
        answered.unwrap_or_else(|reason| {
            self.count_dropped(Dropped::Refused(reason));
            reply::error(reply, head.transaction_id(), &reason.text())
        })
    }

    fn announce(
        &mut self,
        _: Verified,
        client: Client,
        action: u32,
        head: Head<'_>,
        view: AnnounceView<'_>,
        reply: &mut Buffer,
    ) -> Result<usize, ErrorReason> {
        self.note_kind(RequestKind::Announce, client);
        self.metrics.announces.for_source(client.address).add(1);
        let config = self.config.get();
        let user = if self.tracker.is_private() {
            let user = private::with_passkey(view.options(), |passkey| self.tracker.find_user(passkey));
            Some(user.ok_or(ErrorReason::Tracker(TrackerRefusal::InvalidPasskey))?)
        } else {
            None
        };
        let over_limit = self.tracker.policy().check_rate_limit(client.now.tick, client.address);
        if over_limit == Some(OverLimitAction::Empty) && user.is_none() {
            let answer = self.tracker.policy().full_answer(Tally::default());
            return Ok(reply::announce(reply, announce_head(action, head, answer), 0));
        }
        let claim = registered_address(config, client.address, view);
        if user.is_none() && claim != client.address && !AddressClass::of(claim).may_be_claimed() {
            return Err(ErrorReason::Tracker(TrackerRefusal::InvalidAddress));
        }
        // The claim of a user counts only if it is useful (`rules/private.md#user-address`).
        let address =
            if user.is_none() || AddressClass::of(claim).is_useful_claim() { claim } else { client.address };
        // Users get peers of the family over which they announce.
        let family = if user.is_none() { address } else { client.address };
        let (stride, peers_max) = match family {
            IpAddr::V4(_) => (PEER_V4_LEN, reply::PEERS_V4_MAX),
            IpAddr::V6(_) => (PEER_V6_LEN, reply::PEERS_V6_MAX),
        };
        let num_want = view.num_want(config.num_want, config.num_want_max).min(peers_max);
        let peers =
            reply::announce_peers(reply).get_mut(..usize::from(num_want) * stride).unwrap_or_default();
        // Peers of one family only, written straight into the buffer that is sent.
        let mut handout = match family {
            IpAddr::V4(_) => Handout::new(peers, &mut []),
            IpAddr::V6(_) => Handout::new(&mut [], peers),
        };
        let announce = view.to_announce(address, num_want);
        // Zeroed only where there are hooks to look at it.
        let mut url_buffer: [u8; URL_MAX];
        let request_url = if self.tracker.policy().hooks.is_empty() {
            None
        } else {
            url_buffer = [0; URL_MAX];
            Some(RequestUrl::parse(client.address, join_url(view.options(), &mut url_buffer)))
        };
        let answered = match (user, request_url) {
            (None, None) => {
                self.tracker.announce(client.now.tick, &announce, &mut handout).map_err(Refused::from)
            }
            (None, Some(request_url)) => self
                .tracker
                .announce_with_hooks(client.now, &announce, request_url, &mut handout)
                .map_err(Refused::from),
            (Some(user), request_url) => {
                self.tracker.announce_user(client.now, user, &announce, request_url, &mut handout)
            }
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(refused) => {
                self.count_dropped(Dropped::Refused(ErrorReason::Tracker(refused.refusal)));
                return Ok(reply::error(reply, head.transaction_id(), &refused));
            }
        };
        let answer = match over_limit {
            Some(OverLimitAction::Slow | OverLimitAction::Empty) => self.tracker.policy().slow_answer(answer),
            Some(OverLimitAction::Count) | None => answer,
        };
        let peers_len = handout.v4.used() + handout.v6.used();
        Ok(reply::announce(reply, announce_head(action, head, answer), peers_len))
    }

    fn scrape(
        &mut self,
        _: Verified,
        client: Client,
        head: Head<'_>,
        reply: &mut Buffer,
    ) -> Result<usize, ErrorReason> {
        if self.tracker.is_private() {
            // A scrape has no URL, and so no passkey.
            return Err(ErrorReason::Tracker(TrackerRefusal::InvalidPasskey));
        }
        let hashes = head.scrape()?.info_hashes();
        self.note_kind(RequestKind::Scrape, client);
        self.metrics.scrapes.for_source(client.address).add(1);
        let hashes = hashes.take(self.config.get().max_scrape_infohashes);
        let policy = self.tracker.policy();
        // First, so that no client can have hooks run beyond its limit.
        let empty = policy.check_rate_limit(client.now.tick, client.address) == Some(OverLimitAction::Empty);
        if !empty && !policy.hooks.is_empty() {
            let info_hashes: Vec<_> = hashes.clone().collect();
            self.tracker.scrape_with_hooks(client.now, &info_hashes, RequestUrl::empty(client.address))?;
        }
        let mut rows = 0;
        for (info_hash, row) in hashes.zip(reply::scrape_rows(reply)) {
            let tally = if empty { Tally::default() } else { self.tracker.scrape(&info_hash)? };
            reply::scrape_row(row, tally);
            rows += 1;
        }
        Ok(reply::scrape(reply, head.transaction_id(), rows))
    }
}

/// Returns the torrent that a datagram announces, if it is an announce.
fn announced_info_hash(datagram: &[u8]) -> Option<InfoHash> {
    let head = Head::parse(datagram).ok()?;
    let view = match head.action() {
        Action::Announce => head.announce(),
        Action::AnnounceWide => head.announce_wide(),
        _ => return None,
    };
    view.ok().map(AnnounceView::info_hash)
}

/// Returns the path and query behind an announce (BEP 41), empty where there is none. What runs past the
/// datagram or the buffer is left out.
fn join_url<'r>(options: Options<'_>, buffer: &'r mut [u8; URL_MAX]) -> &'r [u8] {
    options.join(buffer).map_or(&[], |url| url.octets)
}

fn announce_head(action: u32, head: Head<'_>, answer: Answer) -> AnnounceHead {
    AnnounceHead {
        action,
        transaction_id: head.transaction_id(),
        interval_seconds: answer.interval_seconds,
        leechers: answer.tally.leechers,
        seeders: answer.tally.seeders,
    }
}

/// The source of a datagram, and when it arrived.
#[derive(Clone, Copy, Debug)]
struct Client {
    now: Now,
    /// The source address, never an IPv4-mapped one.
    address: IpAddr,
}

/// Returns the address under which a peer is registered: the claimed one if its source may claim
/// (`rules/udp.md#ip-field`), otherwise its source. Over IPv6 the field is never looked at (BEP 15).
fn registered_address(config: &UdpConfig, source: IpAddr, view: AnnounceView<'_>) -> IpAddr {
    let may_claim = source.is_ipv4() && config.spoofing_sources.iter().any(|net| net.contains(&source));
    if may_claim { view.claimed_address().unwrap_or(source) } else { source }
}

impl From<Short> for Dropped {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

impl From<Unverified> for Dropped {
    fn from(unverified: Unverified) -> Self {
        match unverified {
            Unverified::Stale => Self::StaleConnection,
            Unverified::Forged => Self::ForgedConnection,
        }
    }
}

impl From<Malformed> for ErrorReason {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<hayate_state::Refusal> for ErrorReason {
    fn from(refusal: hayate_state::Refusal) -> Self {
        Self::Tracker(refusal)
    }
}
