//! The door's decisions, without a socket, a clock or a thread: from the head of a request to a question for
//! the tracker, and from the tracker's reply to the octets of the answer.
//!
//! ```text
//! head --read--> Step::Ask(question, context) --> whoever asks the tracker --> reply --write(context)-->
//! Response            \-> Step::Answer(Response), Step::Page(page)
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`routes`] | which path is an announce, which a scrape |
//! | [`client_address`] | who the client is: socket, trusted proxy, claimed address |
//! | [`open_mode`] | from parameters to the words of the tracker, check by check |
//! | [`private`] | the same in mode private |
//! | [`refusal`] | why a request is refused, in the client's words |
//! | [`stats`] | what is counted |

pub mod client_address;
pub mod open_mode;
pub mod private;
pub mod refusal;
pub mod routes;
pub mod stats;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use hayate_state::actor::{self, PeerForm, PeerList, Question, Reply, Words};
use hayate_state::address::special::is_never_a_peer;
use hayate_state::admission::Beyond;
use hayate_state::private::Register;
use hayate_state::{InfoHash, Now, Policy, Subscriber, Tally, Tick, Tracker};

use crate::config::{DoorConfig, HEADER_BLOCK_MAX, REQUEST_LINE_MAX};
use crate::engine::client_address::{FORWARDED, Headers, Source, Trust};
use crate::engine::open_mode::Wish;
use crate::engine::private::{Means, Site};
use crate::engine::refusal::Refusal;
use crate::engine::routes::{Action, RouteError, Routes};
use crate::engine::stats::{Family, Note, Stats};
use crate::wire::query::Parameters;
use crate::wire::reply::{self, Address, Form};

/// Octets of a request line besides method and target: two spaces and the version.
const LINE_REST: usize = " ".len() + " HTTP/1.1".len();
/// Seconds between two log lines about proxies that are not believed.
const COMPLAINT_SECONDS: u32 = 60;
/// The type of every answer but `/metrics`.
pub const TEXT_PLAIN: &str = "text/plain";

/// The head of a request.
#[derive(Debug)]
pub struct Head<'r, H: ?Sized> {
    /// The method, as sent.
    pub method: &'r [u8],
    /// The target, as sent: path and query, or a whole URL (RFC 9112, 3.2).
    pub target: &'r [u8],
    /// The other end of the connection.
    pub source: Source,
    /// The header lines.
    pub headers: &'r H,
    /// Octets of all header lines.
    pub header_octets: usize,
    /// A body follows, or a transfer coding is named.
    pub has_body: bool,
}

/// What to do about a request.
#[derive(Debug)]
pub enum Step {
    /// Ask the tracker, then call [`Engine::write`] with its reply, or [`Engine::overloaded`].
    Ask(Question, Context),
    /// Answer this.
    Answer(Response),
    /// Show an operator's page.
    Page(Page),
}

/// The operator's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The process works.
    Alive,
    /// The same in mode private: the time, and since when.
    AliveSince,
    /// The process serves.
    Health,
    /// Every number of the process.
    Metrics,
}

impl Page {
    /// The page at `path`. Slashes at its begin count as one.
    #[must_use]
    pub fn at(path: &[u8]) -> Option<Self> {
        match one_slash(path) {
            b"/alive" => Some(Self::Alive),
            b"/health" => Some(Self::Health),
            b"/metrics" => Some(Self::Metrics),
            _ => None,
        }
    }
}

/// What must be remembered of a request until the tracker has replied.
#[derive(Debug)]
pub struct Context {
    asked: Asked,
    /// The client asks too often and is told to come again later than others.
    slow: bool,
    note: Note,
}

#[derive(Debug)]
enum Asked {
    Announce { form: Form, address: Address },
    Scrape(Vec<InfoHash>),
    Member(private::Context),
}

/// An answer: status and body. `Content-Length` is exact, and 405 names what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The body; a HEAD gets its length only.
    pub body: Cow<'static, [u8]>,
    /// The connection must not be used again.
    pub close: bool,
}

impl Response {
    /// A status with a short text.
    #[must_use]
    pub fn text(status: u16, text: &'static str) -> Self {
        Self {
            status,
            content_type: TEXT_PLAIN,
            body: Cow::Borrowed(text.as_bytes()),
            close: matches!(status, 400 | 414 | 431),
        }
    }

    /// A status with a text that was made for it.
    pub(crate) fn said(status: u16, text: String) -> Self {
        Self { body: Cow::Owned(text.into_bytes()), ..Self::text(status, "") }
    }

    /// What is there is not asked for by this method.
    #[must_use]
    pub(crate) fn not_allowed() -> Self {
        Self::text(405, "Method Not Allowed\n")
    }

    /// There is nothing at that path.
    #[must_use]
    pub fn not_found() -> Self {
        Self::text(404, "404 page not found\n")
    }

    pub(crate) fn bencoded(body: Vec<u8>) -> Self {
        Self { status: 200, content_type: TEXT_PLAIN, body: Cow::Owned(body), close: false }
    }
}

/// Decides about requests, by the configuration in force.
#[derive(Debug)]
pub struct Engine {
    config: Subscriber<DoorConfig>,
    policy: Subscriber<Policy>,
    routes: Routes,
    /// In mode private.
    site: Option<Site>,
    stats: Arc<Stats>,
    /// When the log was last told of a proxy that is not believed.
    complained: Option<Tick>,
}

impl Engine {
    /// An engine that follows `config` and `policy` as they are published.
    ///
    /// # Errors
    /// When a route cannot be served.
    pub fn new(config: Subscriber<DoorConfig>, policy: Subscriber<Policy>) -> Result<Self, RouteError> {
        let routes = Routes::new(&config.get().announce_routes, &config.get().scrape_routes)?;
        Ok(Self { config, policy, routes, site: None, stats: Arc::default(), complained: None })
    }

    /// The same in mode private: only members of `register` are served.
    #[must_use]
    pub fn private(self, register: Subscriber<Register>) -> Self {
        Self { site: Some(Site::new(register)), ..self }
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &DoorConfig {
        self.config.get()
    }

    /// What the engine counts.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Takes over what a reload published. Routes that cannot be served leave the old ones in force.
    pub fn refresh(&mut self) {
        self.policy.refresh();
        if let Some(site) = &mut self.site {
            site.refresh();
        }
        if self.config.refresh() {
            let config = self.config.get();
            match Routes::new(&config.announce_routes, &config.scrape_routes) {
                Ok(routes) => self.routes = routes,
                Err(error) => log::error!("http: the old routes stay: {error}"),
            }
        }
    }

    /// Answers a request at once, asking `tracker` itself: what the server and the state actor do together.
    /// The pages of the operator are the server's; here they are not found.
    pub fn handle<H: Headers + ?Sized>(
        &mut self,
        now: Now,
        tracker: &mut Tracker,
        head: &Head<'_, H>,
    ) -> Response {
        match self.read(now, head) {
            Step::Ask(question, context) => {
                tracker.refresh();
                let reply = actor::answer(tracker, now, question);
                self.write(reply, context)
            }
            Step::Answer(response) => response,
            Step::Page(_) => Response::not_found(),
        }
    }

    /// Reads the head of a request.
    pub fn read<H: Headers + ?Sized>(&mut self, now: Now, head: &Head<'_, H>) -> Step {
        self.refresh();
        if let Err(response) = check(head) {
            return Step::Answer(self.stats.counted(response));
        }
        let target = origin_form(head.target);
        let (path, query) = match target.iter().position(|&octet| octet == b'?') {
            Some(at) => (target.get(..at).unwrap_or_default(), target.get(at + 1..).unwrap_or_default()),
            None => (target, &[][..]),
        };
        let path = one_slash(path);
        self.note_disbelief(now, head);
        if let Some(site) = &self.site {
            let mut slow = false;
            let means = self.means();
            let step = site.read(means, head, path, query, |seen| slow = means.limit(now, seen).is_some());
            return match step {
                private::Step::Ask(question, context) => Step::Ask(
                    question,
                    Context { asked: Asked::Member(context), slow, note: self.stats.take_note() },
                ),
                private::Step::Answer(response) => Step::Answer(response),
                private::Step::Page(page) => Step::Page(page),
            };
        }
        let (action, captures) = match (self.routes.find(path), Page::at(path)) {
            (Some(found), page) if found.literal || page.is_none() => (found.action, found.captures),
            (_, Some(page)) => return Step::Page(page),
            (_, None) => return Step::Answer(self.stats.counted(Response::not_found())),
        };
        if head.method != b"GET" {
            return Step::Answer(self.stats.counted(Response::not_allowed()));
        }
        let parameters = Parameters::read(query);
        let seen = self.trust().seen(head.source, head.headers);
        self.stats.request(action, Family::of(seen.ok()));
        let words = seen.ok().and_then(|seen| self.means().words(seen, path, query, &captures));
        let asked = match action {
            Action::Announce => self.read_announce(&parameters, head.source, seen, words),
            Action::Scrape => self.read_scrape(&parameters, words),
        };
        let beyond = seen.ok().and_then(|seen| self.means().limit(now, seen));
        match (asked, beyond) {
            (Err(refusal), _) => Step::Answer(self.refuse(refusal)),
            (Ok((_, asked)), Some(Beyond::Empty)) => Step::Answer(self.empty(asked)),
            (Ok((question, asked)), beyond) => {
                let slow = beyond == Some(Beyond::Slow);
                Step::Ask(question, Context { asked, slow, note: self.stats.take_note() })
            }
        }
    }

    /// Counts a header that names the client and is not believed, and says so once a minute: as long as that
    /// goes on, the proxy itself is taken for the peer.
    fn note_disbelief<H: Headers + ?Sized>(&mut self, now: Now, head: &Head<'_, H>) {
        let trust = self.trust();
        let Some((source, header)) = trust.disbelieved(head.source, head.headers) else { return };
        self.stats.proxy_header_ignored.add(1);
        if self.complained.is_some_and(|last| now.tick.0.saturating_sub(last.0) < COMPLAINT_SECONDS) {
            return;
        }
        let advice = match (trust.proxy_header, header) {
            (Some(_), _) => "is not believed: if it is your proxy, add it to http.trusted_proxies",
            (None, FORWARDED) => {
                "is taken for the client itself: if it is your proxy, let it send X-Forwarded-For, set \
                 http.proxy_header to that, and have the proxy in http.trusted_proxies"
            }
            (None, _) => {
                "is taken for the client itself: if it is your proxy, set http.proxy_header to that name, \
                 and have the proxy in http.trusted_proxies"
            }
        };
        let count = self.stats.proxy_header_ignored.value();
        log::warn!("http: {source} names its client by {header}, and {advice} ({count} requests so far)");
        self.complained = Some(now.tick);
    }

    /// The page at `path`, as this mode has it.
    pub(crate) fn page(&self, path: &[u8]) -> Option<Page> {
        match Page::at(path) {
            Some(Page::Alive) if self.site.is_some() => Some(Page::AliveSince),
            page => page,
        }
    }

    /// The answer where there is nothing: in mode private it says nothing.
    pub(crate) fn nothing(&self) -> Response {
        if self.site.is_some() { Response::text(404, "") } else { Response::not_found() }
    }

    /// Writes the answer to a request from the tracker's reply.
    #[must_use]
    pub fn write(&self, mut reply: Reply, context: Context) -> Response {
        self.stats.resume(context.note);
        if let (true, Reply::Announce(Ok((answer, _)))) = (context.slow, &mut reply) {
            *answer = self.policy.get().slow(*answer);
        }
        match (reply, &context.asked) {
            (reply, Asked::Member(context)) => self.means().write(Some(reply), context),
            (Reply::Announce(Ok((answer, peers))), Asked::Announce { form, address }) => {
                Response::bencoded(reply::announce(&answer, &peers, *form, *address))
            }
            (Reply::Scrape(Ok(tallies)), Asked::Scrape(info_hashes)) => {
                let entries = info_hashes.iter().zip(tallies);
                Response::bencoded(reply::scrape(entries, self.policy.get().scrape_seconds))
            }
            (Reply::Announce(Err(denial)), _) => self.refuse(denial.refusal.into()),
            (Reply::Scrape(Err(refusal)), _) => self.refuse(refusal.into()),
            (Reply::Announce(Ok(_)) | Reply::Scrape(Ok(_)) | Reply::MemberScrape(_), _) => {
                self.overloaded(context)
            }
        }
    }

    /// Writes the answer to a request that the tracker had no room for: valid, without peers, and with a long
    /// interval (`rules/http.md#overload`). Errors would make clients come back at once.
    #[must_use]
    pub fn overloaded(&self, context: Context) -> Response {
        self.stats.resume(context.note);
        if let Asked::Member(context) = &context.asked {
            return self.means().write(None, context);
        }
        self.stats.overloads.add(1);
        self.empty(context.asked)
    }

    /// An answer to a request that changes nothing, in the open modes.
    fn empty(&self, asked: Asked) -> Response {
        let policy = self.policy.get();
        match asked {
            Asked::Member(_) => Response::text(500, ""),
            Asked::Announce { form, address } => {
                let answer = policy.full_answer(Tally::default());
                Response::bencoded(reply::announce(&answer, &PeerList::default(), form, address))
            }
            Asked::Scrape(info_hashes) => {
                let entries = info_hashes.iter().map(|info_hash| (info_hash, Tally::default()));
                Response::bencoded(reply::scrape(entries, policy.full_interval_seconds()))
            }
        }
    }

    fn read_announce(
        &self,
        parameters: &Parameters<'_>,
        source: Source,
        seen: Result<IpAddr, Refusal>,
        words: Words,
    ) -> Result<(Question, Asked), Refusal> {
        let config = self.config.get();
        let client = seen.and_then(|seen| Ok(self.trust().claimed(seen, parameters)?.unwrap_or(seen)));
        let wish = Wish { default: config.num_want, max: config.num_want_max };
        let asked = open_mode::announce(parameters, client, wish)?;
        if source.is_elsewhere(asked.announce.address) && is_never_a_peer(asked.announce.address) {
            return Err(hayate_state::Refusal::InvalidAddress.into());
        }
        let peers = if asked.with_ids { PeerForm::WithIds } else { PeerForm::Compact };
        let seen = seen?;
        let over_v6 = seen.is_ipv6() || asked.announce.address.is_ipv6();
        let address = Address { external: config.external_ip.then_some(seen), over_v6 };
        let question = Question::Announce(asked.announce, peers, words);
        Ok((question, Asked::Announce { form: asked.form, address }))
    }

    fn read_scrape(&self, parameters: &Parameters<'_>, words: Words) -> Result<(Question, Asked), Refusal> {
        let info_hashes = open_mode::scrape(parameters, self.config.get().max_scrape_infohashes)?;
        Ok((Question::Scrape(info_hashes.clone(), words), Asked::Scrape(info_hashes)))
    }

    fn refuse(&self, refusal: Refusal) -> Response {
        self.stats.refusal(refusal);
        let interval_seconds = self.policy.get().failure_interval_seconds();
        Response::bencoded(reply::failure(refusal.text().as_bytes(), interval_seconds))
    }

    fn trust(&self) -> Trust<'_> {
        Trust::of(self.config.get())
    }

    fn means(&self) -> Means<'_> {
        Means { config: self.config.get(), policy: self.policy.get(), stats: &self.stats }
    }
}

/// Is this a request that can be served at all (`rules/http.md#methods`, `rules/http.md#sizes-of-a-request`)?
pub(crate) fn check<H: ?Sized>(head: &Head<'_, H>) -> Result<(), Response> {
    if head.method.len() + head.target.len() + LINE_REST > REQUEST_LINE_MAX {
        return Err(Response::text(414, "URI Too Long\n"));
    }
    if head.header_octets > HEADER_BLOCK_MAX {
        return Err(Response::text(431, "Request Header Fields Too Large\n"));
    }
    // Pages may be asked for by HEAD; whoever has another answer refuses it.
    if !matches!(head.method, b"GET" | b"HEAD") {
        return Err(Response { close: head.has_body, ..Response::not_allowed() });
    }
    // hyper lets UTF-8 through; a target is ASCII (RFC 9112, 3.2).
    if head.has_body || !head.target.is_ascii() {
        return Err(Response::text(400, "Bad Request\n"));
    }
    Ok(())
}

/// The same path, beginning with one slash where it began with several.
fn one_slash(path: &[u8]) -> &[u8] {
    let slashes = path.iter().take_while(|&&octet| octet == b'/').count();
    path.get(slashes.saturating_sub(1)..).unwrap_or(path)
}

/// Path and query of a target that may be a whole URL.
pub(crate) fn origin_form(target: &[u8]) -> &[u8] {
    if target.first() == Some(&b'/') {
        return target;
    }
    let authority = match target.windows(3).position(|octets| octets == b"://") {
        Some(at) => target.get(at + 3..).unwrap_or_default(),
        None => return target,
    };
    let end = authority.iter().position(|&octet| octet == b'/' || octet == b'?');
    end.and_then(|at| authority.get(at..)).unwrap_or(b"/")
}

#[cfg(test)]
mod tests;
