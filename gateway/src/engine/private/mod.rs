//! The gateway's decisions in mode private: passkeys in the path, strict parameters, texts of their own.
//!
//! | module | what is in it |
//! |---|---|
//! | `parameters` | from parameters to an announce, in the order of the checks |
//! | `peer_address` | which address a peer is reached at |
//! | [`failure`] | texts and intervals |

pub mod failure;
mod parameters;
mod peer_address;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use hayate_state::actor::{PeerForm, PeerList, Question, Reply, UrlForHooks};
use hayate_state::admission::OverLimitAction;
use hayate_state::admission::hooks::OwnedUrl;
use hayate_state::private::{Refused, SiteData, User, passkey_path};
use hayate_state::{InfoHash, Now, PeerId, Policy, Subscriber, Tally};

use crate::config::HttpConfig;
use crate::engine::bad_request::BadRequest;
use crate::engine::client_address::{AddressTrust, Headers};
use crate::engine::message::{Head, Page, Response};
use crate::engine::metrics::{Family, Metrics};
use crate::engine::open_mode::NumWantLimits;
use crate::engine::routes::Action;
use crate::wire::query::{StrictParameters, Strictness};
use crate::wire::reply::{self, ReplyAddress, ReplyForm};
use failure::FailureReason;

/// Decides about the requests of members.
#[derive(Debug)]
pub(crate) struct PrivateEngine {
    site_data: Subscriber<SiteData>,
}

/// Borrowed settings and metrics that both modes need to answer a request.
#[derive(Clone, Copy)]
pub(crate) struct EngineContext<'a> {
    pub(crate) config: &'a HttpConfig,
    pub(crate) policy: &'a Policy,
    pub(crate) metrics: &'a Metrics,
}

/// What must be remembered of a request until the tracker has replied.
#[derive(Debug)]
pub(crate) enum PrivateReplyPlan {
    Announce { form: ReplyForm, external: Option<IpAddr>, peer_id: PeerId, left: u64 },
    Scrape(Vec<InfoHash>),
}

/// What to do about a request.
pub(crate) enum PrivateStep {
    Ask(Question, PrivateReplyPlan),
    Answer(Response),
    Page(Page),
}

impl PrivateEngine {
    pub(crate) fn new(site_data: Subscriber<SiteData>) -> Self {
        Self { site_data }
    }

    pub(crate) fn refresh(&mut self) {
        self.site_data.refresh();
    }

    /// Reads a request for `path`, which is not empty, with `query`. `on_known_user` gets the address of a user whose passkey is valid.
    pub(crate) fn read_request<H: Headers + ?Sized>(
        &self,
        engine_context: EngineContext<'_>,
        head: &Head<'_, H>,
        path: &[u8],
        query: &[u8],
        on_known_user: impl FnOnce(IpAddr),
    ) -> PrivateStep {
        let mut buffer = Vec::new();
        if !passkey_path::is_plain(path) {
            buffer.resize(path.len(), 0);
        }
        let place = passkey_path::parse_path(path, &mut buffer);
        let Some(passkey) = place.passkey else {
            return match place.leaf {
                b"alive" => PrivateStep::Page(Page::AliveSince),
                b"metrics" => PrivateStep::Page(Page::Metrics),
                _ => PrivateStep::Answer(engine_context.not_found()),
            };
        };
        let action = match place.leaf {
            b"announce" => Some(Action::Announce),
            b"scrape" => Some(Action::Scrape),
            _ => None,
        };
        let trust = engine_context.address_trust();
        let seen = trust.client_address(head.source, head.headers);
        let action =
            action.filter(|action| *action == Action::Announce || engine_context.policy.enable_scrape);
        if action.is_some() && head.method != b"GET" {
            return PrivateStep::Answer(
                engine_context.metrics.count_response(Response::method_not_allowed()),
            );
        }
        if let Some(action) = action {
            engine_context.metrics.count_request(action, Family::of_address(seen.ok()));
        }
        let Some(user) = self.site_data.get().find_user(passkey) else {
            return PrivateStep::Answer(
                engine_context.write_failure(&BadRequest::from(hayate_state::Refusal::InvalidPasskey).into()),
            );
        };
        if let Ok(seen) = seen {
            on_known_user(seen);
        }
        let url = seen.ok().and_then(|seen| engine_context.url_for_hooks(seen, path, query, &[]));
        let asked = match action {
            Some(Action::Announce) => engine_context.read_announce(user, query, seen, &trust, url),
            Some(Action::Scrape) => engine_context.read_scrape(user, query, url),
            None => return PrivateStep::Answer(engine_context.not_found()),
        };
        match asked {
            Ok((question, plan)) => PrivateStep::Ask(question, plan),
            Err(failure) => PrivateStep::Answer(engine_context.write_failure(&failure)),
        }
    }
}

impl EngineContext<'_> {
    /// What becomes of a request from there, if it is one too many.
    pub(crate) fn rate_limit(self, now: Now, seen: IpAddr) -> Option<OverLimitAction> {
        self.policy.check_rate_limit(now.tick, seen).filter(|beyond| *beyond != OverLimitAction::Count)
    }

    /// The request's URL, if a hook is configured.
    pub(crate) fn url_for_hooks(
        self,
        source: IpAddr,
        path: &[u8],
        query: &[u8],
        captures: &[(&str, Vec<u8>)],
    ) -> UrlForHooks {
        let captured = || captures.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let url = || OwnedUrl { source, path: path.into(), query: query.into(), captures: captured() };
        (!self.policy.hooks.is_empty()).then(|| Box::new(url()))
    }

    fn read_announce(
        self,
        user: User,
        query: &[u8],
        seen: Result<IpAddr, BadRequest>,
        trust: &AddressTrust<'_>,
        url: UrlForHooks,
    ) -> Result<(Question, PrivateReplyPlan), FailureReason> {
        let limits = NumWantLimits { default: self.config.num_want, max: self.config.num_want_max };
        let query =
            parameters::read_announce(&StrictParameters::parse(query), seen, trust, limits, self.policy)?;
        let peers = if query.with_ids { PeerForm::WithIds } else { PeerForm::Compact };
        let plan = PrivateReplyPlan::Announce {
            form: query.form,
            external: seen.ok().filter(|_| self.config.external_ip),
            peer_id: query.announce.peer_id,
            left: query.announce.left,
        };
        Ok((Question::UserAnnounce(user, query.announce, peers, url), plan))
    }

    fn read_scrape(
        self,
        user: User,
        query: &[u8],
        url: UrlForHooks,
    ) -> Result<(Question, PrivateReplyPlan), FailureReason> {
        let info_hashes = parameters::read_scrape(&StrictParameters::parse(query))?;
        Ok((Question::UserScrape(user, info_hashes.clone(), url), PrivateReplyPlan::Scrape(info_hashes)))
    }

    /// Writes the answer from the tracker's reply, or, without one, the answer to a request that found the tracker full.
    pub(crate) fn write_reply(self, reply: Option<Reply>, plan: &PrivateReplyPlan) -> Response {
        match (reply, plan) {
            (
                Some(Reply::Announce(Ok((answer, peers)))),
                PrivateReplyPlan::Announce { form, external, .. },
            ) => self.write_announce(&answer, &peers, *form, *external),
            (Some(Reply::Announce(Err(denial))), PrivateReplyPlan::Announce { peer_id, left, .. }) => {
                self.write_refused(&denial, *peer_id, *left)
            }
            (Some(Reply::UserScrape(Err(refusal))), _) => {
                self.write_failure(&BadRequest::from(refusal).into())
            }
            (Some(Reply::UserScrape(Ok(tallies))), PrivateReplyPlan::Scrape(info_hashes)) => {
                let known = info_hashes.iter().zip(tallies);
                let known: Vec<_> = known.filter_map(|(hash, tally)| Some((hash, tally?))).collect();
                Response::bencoded(reply::scrape(known.into_iter(), self.policy.scrape_seconds))
            }
            (_, PrivateReplyPlan::Announce { form, external, .. }) => {
                self.metrics.overloads.add(1);
                let answer = self.policy.full_answer(Tally::default());
                self.write_announce(&answer, &PeerList::default(), *form, *external)
            }
            (_, PrivateReplyPlan::Scrape(_)) => {
                self.metrics.overloads.add(1);
                Response::bencoded(reply::scrape(std::iter::empty(), self.policy.full_interval_seconds()))
            }
        }
    }

    fn write_announce(
        self,
        answer: &hayate_state::Answer,
        peers: &PeerList,
        form: ReplyForm,
        external: Option<IpAddr>,
    ) -> Response {
        // `peers6` is there only if there is something in it, so that an IPv4 swarm looks as it always did.
        let address = ReplyAddress { external, over_v6: false };
        Response::bencoded(reply::announce(answer, peers, form, address))
    }

    fn write_refused(self, denial: &Refused, peer_id: PeerId, left: u64) -> Response {
        self.write_failure(&FailureReason::from_refused(denial, peer_id, left))
    }

    fn write_failure(self, failure: &FailureReason) -> Response {
        self.metrics.count_refusal(failure.cause, Strictness::Strict);
        Response::bencoded(reply::failure(&failure.text(), failure.interval_seconds()))
    }

    /// There is nothing at that path, and nothing is said about it.
    fn not_found(self) -> Response {
        self.metrics.count_response(Response::text(404, ""))
    }

    fn address_trust(&self) -> AddressTrust<'_> {
        AddressTrust {
            read_entry: peer_address::parse_proxy_entry,
            read_any_list: false,
            ..AddressTrust::from_config(self.config)
        }
    }
}
