//! The gateway's decisions, without a socket, a clock or a thread: from the head of a request to a question
//! for the tracker, and from the tracker's reply to the octets of the answer.
//!
//! ```text
//! head --read_request--> Step::Ask(question, plan) --> tracker --> reply --write_reply(plan)--> Response
//!                    \-> Step::Answer(Response), Step::Page(page)
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`message`] | the head of a request, the answer to it |
//! | [`routes`] | which path is an announce, which a scrape |
//! | [`client_address`] | who the client is: socket, trusted proxy, claimed address |
//! | [`announce_query`] | from parameters to an announce or scrape, check by check |
//! | `context` | from a request to a question, from a reply to the answer, in both modes |
//! | `private` | what only mode private has: passkeys in the path |
//! | [`bad_request`] | why a request is refused, in the client's words |
//! | `failure` | the text of a refusal, and when the client may come again |
//! | [`metrics`] | what is counted |

pub mod announce_query;
pub mod bad_request;
pub mod client_address;
mod context;
mod failure;
pub mod message;
pub mod metrics;
mod private;
pub mod routes;

use std::sync::Arc;

use hayate_state::actor::{self, Reply};
use hayate_state::admission::OverLimitAction;
use hayate_state::private::SiteData;
use hayate_state::query::split_target;
use hayate_state::{Now, Policy, Subscriber, Tick, Tracker};

use crate::config::HttpConfig;
use crate::engine::client_address::{FORWARDED, Headers};
use crate::engine::context::EngineContext;
use crate::engine::message::{check_head, origin_form};
use crate::engine::metrics::{Family, Metrics};
use crate::engine::private::PrivateEngine;
use crate::engine::routes::{Action, RouteError, TrackerRoutes};
use crate::operator::routes::{Routes, collapse_leading_slashes};
use crate::wire::query::{Parameters, QueryRules};

pub use context::{ReplyPlan, Step};
pub use message::{Head, Response};

/// Seconds between two log lines about proxies that are not believed.
const WARNING_INTERVAL_SECONDS: u32 = 60;
/// The gateway's decisions about requests, by the configuration in force. The server's thread owns it.
#[derive(Debug)]
pub struct Engine {
    config: Subscriber<HttpConfig>,
    policy: Subscriber<Policy>,
    routes: TrackerRoutes,
    /// Present in mode private.
    private_mode: Option<PrivateEngine>,
    metrics: Arc<Metrics>,
    /// The time of the last warning about a proxy that is not believed.
    last_proxy_warning: Option<Tick>,
}

impl Engine {
    /// Returns an engine that follows `config` and `policy` as they are published.
    ///
    /// # Errors
    /// Fails when a route cannot be served.
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

    /// Puts the engine into mode private: only users of `site_data` are served.
    #[must_use]
    pub fn private(self, site_data: Subscriber<SiteData>) -> Self {
        Self { private_mode: Some(PrivateEngine::new(site_data)), ..self }
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &HttpConfig {
        self.config.get()
    }

    /// The metrics of the engine.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Adopts what a reload has published. Routes that cannot be served leave the old ones in force.
    pub fn refresh(&mut self) {
        self.policy.refresh();
        if let Some(private) = &mut self.private_mode {
            private.refresh();
        }
        if self.config.refresh() {
            let config = self.config.get();
            match TrackerRoutes::new(&config.announce_routes, &config.scrape_routes) {
                Ok(routes) => self.routes = routes,
                Err(error) => log::error!("http: the old routes stay: {error}"),
            }
        }
    }

    /// Answers a request at once by asking `tracker`, as the server and the state actor do together. The
    /// operator's pages belong to the server; here the answer to them is 404.
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

    /// Reads the head of a request and decides what to do about it.
    pub fn read_request<H: Headers + ?Sized>(&mut self, now: Now, head: &Head<'_, H>) -> Step {
        self.refresh();
        if let Err(response) = check_head(head) {
            return Step::Answer(self.metrics.count_response(response));
        }
        let target = origin_form(head.target);
        let (path, query) = split_target(target);
        let path = collapse_leading_slashes(path);
        self.warn_of_untrusted_proxy(now, head);
        let context = self.context();
        if let Some(private) = &self.private_mode {
            return private.read_request(context, now, head, path, query);
        }
        let (action, captures) = match (self.routes.find(path), Routes::find_on_open_gateway(path)) {
            (Some(found), page) if found.literal || page.is_none() => (found.action, found.captures),
            (_, Some(page)) => return Step::Page(page),
            (_, None) => return Step::Answer(context.not_found()),
        };
        if head.method != b"GET" {
            return Step::Answer(self.metrics.count_response(Response::method_not_allowed()));
        }
        let parameters = Parameters::parse(query);
        let seen = context.address_trust().client_address(head.source, head.headers);
        self.metrics.count_request(action, Family::of_address(seen.ok()));
        let url = seen.ok().and_then(|seen| context.url_for_hooks(seen, path, query, &captures));
        let read = match action {
            Action::Announce => context.read_announce(&parameters, None, head.source, seen, url),
            Action::Scrape => context.read_scrape(&parameters, None, url),
        };
        let over_limit = seen.ok().and_then(|seen| context.rate_limit(now, seen));
        match (read, over_limit) {
            (Err(failure), _) => Step::Answer(context.write_failure(&failure)),
            (Ok((_, kind)), Some(OverLimitAction::Empty)) => Step::Answer(context.write_empty(&kind)),
            (Ok((question, kind)), over_limit) => {
                context.ask(question, kind, over_limit == Some(OverLimitAction::Slow))
            }
        }
    }

    /// Counts a header that names a client and is not believed, and warns once a minute: until the operator
    /// acts, the proxy itself is taken for the peer.
    fn warn_of_untrusted_proxy<H: Headers + ?Sized>(&mut self, now: Now, head: &Head<'_, H>) {
        let trust = self.context().address_trust();
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

    /// How the engine reads requests: strictly in mode private.
    pub(crate) fn rules(&self) -> QueryRules {
        if self.private_mode.is_some() { QueryRules::Private } else { QueryRules::Open }
    }

    /// Returns the answer to a path where there is nothing; in mode private it has no text.
    pub(crate) fn not_found_response(&self) -> Response {
        self.context().not_found_response()
    }

    /// Writes the answer to a request from the tracker's reply.
    #[must_use]
    pub fn write_reply(&self, reply: Reply, plan: ReplyPlan) -> Response {
        self.context().write_reply(reply, plan)
    }

    /// Writes the answer to a request that did not fit into the tracker's inbox: valid, without peers, and
    /// with a long interval (`rules/http.md#overload`). Errors would make clients come back at once.
    #[must_use]
    pub fn write_overloaded(&self, plan: ReplyPlan) -> Response {
        self.context().write_overloaded(plan)
    }

    fn context(&self) -> EngineContext<'_> {
        EngineContext {
            config: self.config.get(),
            policy: self.policy.get(),
            metrics: &self.metrics,
            rules: self.rules(),
        }
    }
}

#[cfg(test)]
mod tests;
