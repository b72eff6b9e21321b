//! The gateway's decisions, without a socket, a clock or a thread: from the head of a request to a question for
//! the tracker, and from the tracker's reply to the octets of the answer.
//!
//! ```text
//! head --read_request--> Step::Ask(question, plan) --> whoever asks the tracker --> reply --write_reply(plan)-->
//! Response            \-> Step::Answer(Response), Step::Page(page)
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`message`] | the head of a request, the answer to it |
//! | [`routes`] | which path is an announce, which a scrape |
//! | [`client_address`] | who the client is: socket, trusted proxy, claimed address |
//! | [`open_mode`] | from parameters to the words of the tracker, check by check |
//! | [`private`] | the same in mode private |
//! | [`bad_request`] | why a request is refused, in the client's words |
//! | [`metrics`] | what is counted |

pub mod bad_request;
pub mod client_address;
pub mod message;
pub mod metrics;
pub mod open_mode;
pub mod private;
pub mod routes;

use std::net::IpAddr;
use std::sync::Arc;

use hayate_state::actor::{self, PeerForm, PeerList, Question, Reply, UrlForHooks};
use hayate_state::address::special::is_never_a_peer;
use hayate_state::admission::OverLimitAction;
use hayate_state::private::SiteData;
use hayate_state::{InfoHash, Now, Policy, Subscriber, Tally, Tick, Tracker};

use crate::config::HttpConfig;
use crate::engine::bad_request::BadRequest;
use crate::engine::client_address::{AddressTrust, FORWARDED, Headers, Source};
use crate::engine::message::{Page, check_head, collapse_leading_slashes, origin_form};
use crate::engine::metrics::{Family, Metrics, RequestLabels};
use crate::engine::open_mode::NumWantLimits;
use crate::engine::private::{EngineContext, PrivateEngine};
use crate::engine::routes::{Action, RouteError, TrackerRoutes};
use crate::wire::query::{Parameters, Strictness};
use crate::wire::reply::{self, ReplyAddress, ReplyForm};

pub use message::{Head, Response};

/// Seconds between two log lines about proxies that are not believed.
const WARNING_INTERVAL_SECONDS: u32 = 60;
/// What to do about a request.
#[derive(Debug)]
pub enum Step {
    /// Ask the tracker, then call [`Engine::write_reply`] with its reply, or [`Engine::write_overloaded`].
    Ask(Question, ReplyPlan),
    /// Answer this.
    Answer(Response),
    /// Show an operator's page.
    Page(Page),
}

/// What must be remembered of a request until the tracker has replied.
#[derive(Debug)]
pub struct ReplyPlan {
    kind: ReplyKind,
    /// The client asks too often and is told to come again later than others.
    slowed: bool,
    labels: RequestLabels,
}

#[derive(Debug)]
enum ReplyKind {
    Announce { form: ReplyForm, address: ReplyAddress },
    Scrape(Vec<InfoHash>),
    Private(private::PrivateReplyPlan),
}

/// Decides about requests, by the configuration in force.
#[derive(Debug)]
pub struct Engine {
    config: Subscriber<HttpConfig>,
    policy: Subscriber<Policy>,
    routes: TrackerRoutes,
    /// In mode private.
    private_mode: Option<PrivateEngine>,
    metrics: Arc<Metrics>,
    /// When the log last warned of a proxy that is not believed.
    last_proxy_warning: Option<Tick>,
}

impl Engine {
    /// An engine that follows `config` and `policy` as they are published.
    ///
    /// # Errors
    /// When a route cannot be served.
    pub fn new(config: Subscriber<HttpConfig>, policy: Subscriber<Policy>) -> Result<Self, RouteError> {
        let routes = TrackerRoutes::new(&config.get().announce_routes, &config.get().scrape_routes)?;
        Ok(Self {
            config,
            policy,
            routes,
            private_mode: None,
            metrics: Arc::default(),
            last_proxy_warning: None,
        })
    }

    /// The same in mode private: only members of `site_data` are served.
    #[must_use]
    pub fn private(self, site_data: Subscriber<SiteData>) -> Self {
        Self { private_mode: Some(PrivateEngine::new(site_data)), ..self }
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &HttpConfig {
        self.config.get()
    }

    /// What the engine counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Takes over what a reload published. Routes that cannot be served leave the old ones in force.
    pub fn refresh(&mut self) {
        self.policy.refresh();
        if let Some(site) = &mut self.private_mode {
            site.refresh();
        }
        if self.config.refresh() {
            let config = self.config.get();
            match TrackerRoutes::new(&config.announce_routes, &config.scrape_routes) {
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
        match self.read_request(now, head) {
            Step::Ask(question, plan) => {
                tracker.refresh();
                let reply = actor::answer_question(tracker, now, question);
                self.write_reply(reply, plan)
            }
            Step::Answer(response) => response,
            Step::Page(_) => Response::not_found(),
        }
    }

    /// Reads the head of a request.
    pub fn read_request<H: Headers + ?Sized>(&mut self, now: Now, head: &Head<'_, H>) -> Step {
        self.refresh();
        if let Err(response) = check_head(head) {
            return Step::Answer(self.metrics.count_response(response));
        }
        let target = origin_form(head.target);
        let (path, query) = match target.iter().position(|&octet| octet == b'?') {
            Some(at) => (target.get(..at).unwrap_or_default(), target.get(at + 1..).unwrap_or_default()),
            None => (target, &[][..]),
        };
        let path = collapse_leading_slashes(path);
        self.warn_of_untrusted_proxy(now, head);
        if let Some(site) = &self.private_mode {
            let mut slow = false;
            let engine_context = self.engine_context();
            let step = site.read_request(engine_context, head, path, query, |seen| {
                slow = engine_context.rate_limit(now, seen).is_some()
            });
            return match step {
                private::PrivateStep::Ask(question, plan) => Step::Ask(
                    question,
                    ReplyPlan {
                        kind: ReplyKind::Private(plan),
                        slowed: slow,
                        labels: self.metrics.take_labels(),
                    },
                ),
                private::PrivateStep::Answer(response) => Step::Answer(response),
                private::PrivateStep::Page(page) => Step::Page(page),
            };
        }
        let (action, captures) = match (self.routes.find(path), Page::from_path(path)) {
            (Some(found), page) if found.literal || page.is_none() => (found.action, found.captures),
            (_, Some(page)) => return Step::Page(page),
            (_, None) => return Step::Answer(self.metrics.count_response(Response::not_found())),
        };
        if head.method != b"GET" {
            return Step::Answer(self.metrics.count_response(Response::method_not_allowed()));
        }
        let parameters = Parameters::parse(query);
        let seen = self.address_trust().client_address(head.source, head.headers);
        self.metrics.count_request(action, Family::of_address(seen.ok()));
        let url =
            seen.ok().and_then(|seen| self.engine_context().url_for_hooks(seen, path, query, &captures));
        let asked = match action {
            Action::Announce => self.read_announce(&parameters, head.source, seen, url),
            Action::Scrape => self.read_scrape(&parameters, url),
        };
        let beyond = seen.ok().and_then(|seen| self.engine_context().rate_limit(now, seen));
        match (asked, beyond) {
            (Err(refusal), _) => Step::Answer(self.write_refusal(refusal)),
            (Ok((_, asked)), Some(OverLimitAction::Empty)) => Step::Answer(self.write_empty(asked)),
            (Ok((question, asked)), beyond) => {
                let slow = beyond == Some(OverLimitAction::Slow);
                Step::Ask(
                    question,
                    ReplyPlan { kind: asked, slowed: slow, labels: self.metrics.take_labels() },
                )
            }
        }
    }

    /// Counts a header that names the client and is not believed, and says so once a minute: as long as that
    /// goes on, the proxy itself is taken for the peer.
    fn warn_of_untrusted_proxy<H: Headers + ?Sized>(&mut self, now: Now, head: &Head<'_, H>) {
        let trust = self.address_trust();
        let Some((source, header)) = trust.untrusted_header(head.source, head.headers) else { return };
        self.metrics.proxy_header_ignored.add(1);
        if self
            .last_proxy_warning
            .is_some_and(|last| now.tick.0.saturating_sub(last.0) < WARNING_INTERVAL_SECONDS)
        {
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
        let count = self.metrics.proxy_header_ignored.value();
        log::warn!("http: {source} names its client by {header}, and {advice} ({count} requests so far)");
        self.last_proxy_warning = Some(now.tick);
    }

    /// The page at `path`, as this mode has it.
    pub(crate) fn operator_page(&self, path: &[u8]) -> Option<Page> {
        match Page::from_path(path) {
            Some(Page::Alive) if self.private_mode.is_some() => Some(Page::AliveSince),
            page => page,
        }
    }

    /// The answer where there is nothing: in mode private it says nothing.
    pub(crate) fn not_found_response(&self) -> Response {
        if self.private_mode.is_some() { Response::text(404, "") } else { Response::not_found() }
    }

    /// Writes the answer to a request from the tracker's reply.
    #[must_use]
    pub fn write_reply(&self, mut reply: Reply, plan: ReplyPlan) -> Response {
        self.metrics.restore_labels(plan.labels);
        if let (true, Reply::Announce(Ok((answer, _)))) = (plan.slowed, &mut reply) {
            *answer = self.policy.get().slow_answer(*answer);
        }
        match (reply, &plan.kind) {
            (reply, ReplyKind::Private(plan)) => self.engine_context().write_reply(Some(reply), plan),
            (Reply::Announce(Ok((answer, peers))), ReplyKind::Announce { form, address }) => {
                Response::bencoded(reply::announce(&answer, &peers, *form, *address))
            }
            (Reply::Scrape(Ok(tallies)), ReplyKind::Scrape(info_hashes)) => {
                let entries = info_hashes.iter().zip(tallies);
                Response::bencoded(reply::scrape(entries, self.policy.get().scrape_seconds))
            }
            (Reply::Announce(Err(denial)), _) => self.write_refusal(denial.refusal.into()),
            (Reply::Scrape(Err(refusal)), _) => self.write_refusal(refusal.into()),
            (Reply::Announce(Ok(_)) | Reply::Scrape(Ok(_)) | Reply::UserScrape(_), _) => {
                self.write_overloaded(plan)
            }
        }
    }

    /// Writes the answer to a request that the tracker had no room for: valid, without peers, and with a long
    /// interval (`rules/http.md#overload`). Errors would make clients come back at once.
    #[must_use]
    pub fn write_overloaded(&self, plan: ReplyPlan) -> Response {
        self.metrics.restore_labels(plan.labels);
        if let ReplyKind::Private(plan) = &plan.kind {
            return self.engine_context().write_reply(None, plan);
        }
        self.metrics.overloads.add(1);
        self.write_empty(plan.kind)
    }

    /// An answer to a request that changes nothing, in the open modes.
    fn write_empty(&self, asked: ReplyKind) -> Response {
        let policy = self.policy.get();
        match asked {
            ReplyKind::Private(_) => Response::text(500, ""),
            ReplyKind::Announce { form, address } => {
                let answer = policy.full_answer(Tally::default());
                Response::bencoded(reply::announce(&answer, &PeerList::default(), form, address))
            }
            ReplyKind::Scrape(info_hashes) => {
                let entries = info_hashes.iter().map(|info_hash| (info_hash, Tally::default()));
                Response::bencoded(reply::scrape(entries, policy.full_interval_seconds()))
            }
        }
    }

    fn read_announce(
        &self,
        parameters: &Parameters<'_>,
        source: Source,
        seen: Result<IpAddr, BadRequest>,
        url: UrlForHooks,
    ) -> Result<(Question, ReplyKind), BadRequest> {
        let config = self.config.get();
        let client =
            seen.and_then(|seen| Ok(self.address_trust().claimed_address(seen, parameters)?.unwrap_or(seen)));
        let limits = NumWantLimits { default: config.num_want, max: config.num_want_max };
        let query = open_mode::read_announce(parameters, client, limits)?;
        if source.is_other_than(query.announce.address) && is_never_a_peer(query.announce.address) {
            return Err(hayate_state::Refusal::InvalidAddress.into());
        }
        let peers = if query.with_ids { PeerForm::WithIds } else { PeerForm::Compact };
        let seen = seen?;
        let over_v6 = seen.is_ipv6() || query.announce.address.is_ipv6();
        let address = ReplyAddress { external: config.external_ip.then_some(seen), over_v6 };
        let question = Question::Announce(query.announce, peers, url);
        Ok((question, ReplyKind::Announce { form: query.form, address }))
    }

    fn read_scrape(
        &self,
        parameters: &Parameters<'_>,
        url: UrlForHooks,
    ) -> Result<(Question, ReplyKind), BadRequest> {
        let info_hashes = open_mode::read_scrape(parameters, self.config.get().max_scrape_infohashes)?;
        Ok((Question::Scrape(info_hashes.clone(), url), ReplyKind::Scrape(info_hashes)))
    }

    fn write_refusal(&self, refusal: BadRequest) -> Response {
        self.metrics.count_refusal(refusal, Strictness::Lenient);
        let interval_seconds = self.policy.get().failure_interval_seconds();
        Response::bencoded(reply::failure(
            refusal.words(Strictness::Lenient).text.as_bytes(),
            interval_seconds,
        ))
    }

    fn address_trust(&self) -> AddressTrust<'_> {
        AddressTrust::from_config(self.config.get())
    }

    fn engine_context(&self) -> EngineContext<'_> {
        EngineContext { config: self.config.get(), policy: self.policy.get(), metrics: &self.metrics }
    }
}

#[cfg(test)]
mod tests;
