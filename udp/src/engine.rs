//! Decides what one datagram is answered with. It never sends, allocates nothing, and is told the time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hayate_state::address::is_public;
use hayate_state::address::special::is_never_a_peer;
use hayate_state::admission::Beyond;
use hayate_state::admission::hooks::Said;
use hayate_state::announce::{PEER_V4_LEN, PEER_V6_LEN};
use hayate_state::metrics::durations::Sort;
use hayate_state::private::Denial;
use hayate_state::{Answer, Handout, InfoHash, Now, Refusal as TrackerRefusal, Subscriber, Tally, Tracker};

use crate::config::DoorConfig;
use crate::connection_id::{Keeper, Unverified, Verified};
use crate::counters::{Counters, Sorted};
use crate::private;
use crate::refusal::{Complaint, Refusal};
use crate::wire::PROTOCOL_ID;
use crate::wire::option::Options;
use crate::wire::reply::{self, AnnounceHead, Buffer};
use crate::wire::request::{Action, AnnounceView, Head, Malformed, Short};

/// Datagrams of a batch that are sorted by kind.
const SORTS_MAX: usize = 256;
/// Octets of a URL that hooks get to see: as many as a datagram can hold.
const URL_MAX: usize = 2048;

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'r> {
    /// Send this to the source, from the address the datagram came to.
    Reply(&'r [u8]),
    /// Send nothing.
    Silence(Refusal),
}

/// One worker's engine.
#[derive(Debug)]
pub struct Engine {
    tracker: Tracker,
    config: Subscriber<DoorConfig>,
    keeper: Keeper,
    counters: Arc<Counters>,
    /// Kinds of the datagrams of this batch; as many as a batch can have fit in without growing.
    sorts: Vec<Sort>,
    /// What the datagram at hand has turned out to be.
    sorting: Sorting,
}

/// What is known of a datagram for its kind.
#[derive(Clone, Copy, Debug)]
struct Sorting {
    asked: Sorted,
    source: Option<IpAddr>,
    refusal: Option<Refusal>,
}

impl Sorting {
    const NOTHING: Self = Self { asked: Sorted::Empty, source: None, refusal: None };
}

impl Engine {
    /// An engine that decides with `tracker`.
    #[must_use]
    pub fn new(tracker: Tracker, config: Subscriber<DoorConfig>) -> Self {
        let keeper = Keeper::new(config.get());
        let sorts = Vec::with_capacity(SORTS_MAX);
        Self { tracker, config, keeper, counters: Arc::default(), sorts, sorting: Sorting::NOTHING }
    }

    /// What this engine counts; its worker is the owner.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Takes over a reloaded policy and configuration; call it before the datagrams of one batch.
    pub fn begin_batch(&mut self, now: Now) {
        self.tracker.refresh();
        if self.config.refresh() {
            self.keeper.reload(self.config.get());
        }
        self.keeper.refresh(now.unix_seconds);
    }

    /// The datagrams since [`begin_batch`](Self::begin_batch) took so long, each.
    pub fn end_batch(&mut self, time: Duration) {
        self.counters.durations.took(&self.sorts, time);
        self.sorts.clear();
    }

    /// Counts a datagram that is dropped before it is looked at.
    pub fn drop_datagram(&mut self, refusal: Refusal) {
        self.counters.refuse(refusal);
        self.sorting = Sorting { refusal: Some(refusal), ..Sorting::NOTHING };
        self.sort();
    }

    fn sort(&mut self) {
        let Sorting { asked, source, refusal } = self.sorting;
        if self.sorts.len() < SORTS_MAX {
            self.sorts.push(self.counters.sort(asked, source, refusal));
        }
    }

    /// Fetches what the announces among these datagrams will look at, before they are handled one by one. It
    /// changes no answer, so it does not ask whether their sources are verified.
    pub fn look_ahead<'d>(&self, datagrams: impl Iterator<Item = &'d [u8]>) {
        self.tracker.look_ahead(datagrams.filter_map(announced));
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
        let asker = Asker { now, address: source.ip().to_canonical() };
        self.sorting = Sorting::NOTHING;
        let decided = if source.port() == 0 {
            Err(Refusal::SourcePortZero)
        } else {
            self.decide(asker, datagram, reply)
        };
        let outcome = match decided {
            Ok(len) => {
                self.counters.replies.of(asker.address).add(1);
                Outcome::Reply(reply.get(..len).unwrap_or_default())
            }
            Err(refusal) => {
                self.refuse(refusal);
                Outcome::Silence(refusal)
            }
        };
        self.sort();
        outcome
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.counters.refuse(refusal);
        self.sorting.refusal = Some(refusal);
    }

    /// The request is understood that far.
    fn understood(&mut self, asked: Sorted, asker: Asker) {
        self.sorting = Sorting { asked, source: Some(asker.address), ..self.sorting };
    }

    /// Gives the length of the reply, or the reason for silence.
    fn decide(&mut self, asker: Asker, datagram: &[u8], reply: &mut Buffer) -> Result<usize, Refusal> {
        let head = Head::parse(datagram)?;
        match head.action() {
            Action::Connect => self.connect(asker, head, reply),
            Action::ErrorReply => Err(Refusal::ErrorReply),
            action => {
                let id = head.connection_id();
                let proof = self.keeper.verify(asker.now.unix_seconds, asker.address, id)?;
                Ok(self.serve(proof, asker, action, head, reply))
            }
        }
    }

    fn connect(&mut self, asker: Asker, head: Head<'_>, reply: &mut Buffer) -> Result<usize, Refusal> {
        self.sorting.asked = Sorted::Connect;
        if head.connection_id() != PROTOCOL_ID {
            return Err(Refusal::NotAConnect);
        }
        self.understood(Sorted::Connect, asker);
        self.counters.connects.of(asker.address).add(1);
        let id = self.keeper.make(asker.now.unix_seconds, asker.address);
        Ok(reply::connect(reply, head.transaction_id(), id))
    }

    /// Answers a verified source: with what it asked for, or with the reason why not.
    fn serve(
        &mut self,
        proof: Verified,
        asker: Asker,
        action: Action,
        head: Head<'_>,
        reply: &mut Buffer,
    ) -> usize {
        self.sorting.asked = match action {
            Action::Announce | Action::AnnounceWide => Sorted::Announce,
            Action::Scrape => Sorted::Scrape,
            Action::Connect | Action::ErrorReply | Action::Unknown => Sorted::Empty,
        };
        let answered = match action {
            Action::Announce => head
                .announce()
                .map_err(Complaint::from)
                .and_then(|view| self.announce(proof, asker, 1, head, view, reply)),
            Action::AnnounceWide => head
                .announce_wide()
                .map_err(Complaint::from)
                .and_then(|view| self.announce(proof, asker, 4, head, view, reply)),
            Action::Scrape => self.scrape(proof, asker, head, reply),
            Action::Connect | Action::ErrorReply | Action::Unknown => Err(Complaint::UnknownAction),
        };
        answered.unwrap_or_else(|complaint| {
            self.refuse(Refusal::Told(complaint));
            reply::error(reply, head.transaction_id(), &complaint.text())
        })
    }

    fn announce(
        &mut self,
        _: Verified,
        asker: Asker,
        action: u32,
        head: Head<'_>,
        view: AnnounceView<'_>,
        reply: &mut Buffer,
    ) -> Result<usize, Complaint> {
        self.understood(Sorted::Announce, asker);
        self.counters.announces.of(asker.address).add(1);
        let config = self.config.get();
        let member = if self.tracker.is_private() {
            let passkey = private::with_passkey(view.options(), |passkey| self.tracker.member(passkey));
            Some(passkey.ok_or(Complaint::Tracker(TrackerRefusal::InvalidPasskey))?)
        } else {
            None
        };
        let beyond = self.tracker.policy().limit(asker.now.tick, asker.address);
        if beyond == Some(Beyond::Empty) && member.is_none() {
            let answer = self.tracker.policy().full_answer(Tally::default());
            return Ok(reply::announce(reply, announce_head(action, head, answer), 0));
        }
        let claim = registered_address(config, asker.address, view);
        if member.is_none() && claim != asker.address && is_never_a_peer(claim) {
            return Err(Complaint::Tracker(TrackerRefusal::InvalidAddress));
        }
        // A member's claim counts only if it is of use (`rules/private.md#member-address`).
        let address = if member.is_none() || is_public(claim) { claim } else { asker.address };
        // Members get peers of the family that they ask over.
        let family = if member.is_none() { address } else { asker.address };
        let (stride, peers_max) = match family {
            IpAddr::V4(_) => (PEER_V4_LEN, reply::PEERS_V4_MAX),
            IpAddr::V6(_) => (PEER_V6_LEN, reply::PEERS_V6_MAX),
        };
        let num_want = view.num_want(config.num_want, config.num_want_max).min(peers_max);
        let room = reply::announce_peers(reply).get_mut(..usize::from(num_want) * stride).unwrap_or_default();
        // The peers of one family only, and they go straight to where they are sent from.
        let mut handout = match family {
            IpAddr::V4(_) => Handout::new(room, &mut []),
            IpAddr::V6(_) => Handout::new(&mut [], room),
        };
        let words = view.words(address, num_want);
        // Zeroed only where somebody looks.
        let mut url_room: [u8; URL_MAX];
        let said = if self.tracker.policy().hooks.is_empty() {
            None
        } else {
            url_room = [0; URL_MAX];
            Some(Said::url(asker.address, url(view.options(), &mut url_room)))
        };
        let answered = match (member, said) {
            (None, None) => self.tracker.announce(asker.now.tick, &words, &mut handout).map_err(Denial::from),
            (None, Some(said)) => {
                self.tracker.announce_said(asker.now, &words, said, &mut handout).map_err(Denial::from)
            }
            (Some(member), said) => {
                self.tracker.announce_member(asker.now, member, &words, said, &mut handout)
            }
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(denial) => {
                self.refuse(Refusal::Told(Complaint::Tracker(denial.refusal)));
                return Ok(reply::error(reply, head.transaction_id(), &denial));
            }
        };
        let answer = match beyond {
            Some(Beyond::Slow | Beyond::Empty) => self.tracker.policy().slow(answer),
            Some(Beyond::Count) | None => answer,
        };
        let peers_len = handout.v4.used() + handout.v6.used();
        Ok(reply::announce(reply, announce_head(action, head, answer), peers_len))
    }

    fn scrape(
        &mut self,
        _: Verified,
        asker: Asker,
        head: Head<'_>,
        reply: &mut Buffer,
    ) -> Result<usize, Complaint> {
        if self.tracker.is_private() {
            // A scrape has no path to name a member by.
            return Err(Complaint::Tracker(TrackerRefusal::InvalidPasskey));
        }
        let hashes = head.scrape()?.info_hashes();
        self.understood(Sorted::Scrape, asker);
        self.counters.scrapes.of(asker.address).add(1);
        let hashes = hashes.take(self.config.get().max_scrape_infohashes);
        let policy = self.tracker.policy();
        // First, so that nobody can have hooks work beyond his limit.
        let empty = policy.limit(asker.now.tick, asker.address) == Some(Beyond::Empty);
        if !empty && !policy.hooks.is_empty() {
            let asked: Vec<_> = hashes.clone().collect();
            self.tracker.scrape_said(asker.now, &asked, Said::nothing(asker.address))?;
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

/// The torrent that a datagram announces, if it is an announce.
fn announced(datagram: &[u8]) -> Option<InfoHash> {
    let head = Head::parse(datagram).ok()?;
    let view = match head.action() {
        Action::Announce => head.announce(),
        Action::AnnounceWide => head.announce_wide(),
        _ => return None,
    };
    view.ok().map(AnnounceView::info_hash)
}

/// The path and query behind an announce (BEP 41), empty where there is none. What ran past the datagram, or
/// past the room, is left out.
fn url<'r>(options: Options<'_>, room: &'r mut [u8; URL_MAX]) -> &'r [u8] {
    options.join(room).map_or(&[], |url| url.octets)
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

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
struct Asker {
    now: Now,
    /// The source address, never an IPv4-mapped one.
    address: IpAddr,
}

/// The address a peer is registered with: what it claims if its source may claim (`rules/udp.md#ip-field`),
/// else its source. Over IPv6 the field is never looked at (BEP 15).
fn registered_address(config: &DoorConfig, source: IpAddr, view: AnnounceView<'_>) -> IpAddr {
    let may_claim = source.is_ipv4() && config.spoofing_sources.iter().any(|net| net.contains(&source));
    if may_claim { view.claimed_address().unwrap_or(source) } else { source }
}

impl From<Short> for Refusal {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

impl From<Unverified> for Refusal {
    fn from(unverified: Unverified) -> Self {
        match unverified {
            Unverified::Stale => Self::StaleConnection,
            Unverified::Forged => Self::ForgedConnection,
        }
    }
}

impl From<Malformed> for Complaint {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<hayate_state::Refusal> for Complaint {
    fn from(refusal: hayate_state::Refusal) -> Self {
        Self::Tracker(refusal)
    }
}
