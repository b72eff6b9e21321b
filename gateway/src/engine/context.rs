//! From a request to a question for the tracker, and from its reply to the answer, in both modes alike.

use std::net::IpAddr;

use hayate_state::actor::{PeerList, Question, Reply, UrlForHooks};
use hayate_state::address::AddressClass;
use hayate_state::admission::OverLimitAction;
use hayate_state::admission::hooks::OwnedUrl;
use hayate_state::private::User;
use hayate_state::{InfoHash, Now, PeerId, Policy, Tally};

use crate::config::HttpConfig;
use crate::engine::announce_query::{self, AnnounceQuery, NumWantLimits};
use crate::engine::bad_request::BadRequest;
use crate::engine::client_address::{AddressTrust, Source};
use crate::engine::failure::FailureReason;
use crate::engine::message::Response;
use crate::engine::metrics::{Metrics, RequestLabels};
use crate::engine::private::peer_address;
use crate::operator::routes::Page;
use crate::wire::query::{Parameters, QueryRules};
use crate::wire::reply::{self, ReplyAddress, ReplyForm};

/// What to do about a request.
#[derive(Debug)]
pub enum Step {
    /// Ask the tracker, then call [`Engine::write_reply`](crate::Engine::write_reply) with its reply, or
    /// [`Engine::write_overloaded`](crate::Engine::write_overloaded).
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
    /// Whether the client is over the rate limit: its reply gets the long interval.
    slowed: bool,
    labels: RequestLabels,
}

/// What a request asks for, and how the reply to it is written.
#[derive(Debug)]
pub(super) enum ReplyKind {
    Announce {
        form: ReplyForm,
        address: ReplyAddress,
        /// Some refusals of mode private name it.
        peer_id: PeerId,
        /// Some refusals of mode private name it.
        left: u64,
    },
    Scrape(Vec<InfoHash>),
}

/// The client's address, or why it is unknown.
pub(super) type SeenAddress = Result<IpAddr, BadRequest>;

/// Borrowed settings and metrics that both modes need to answer a request.
#[derive(Clone, Copy)]
pub(super) struct EngineContext<'a> {
    pub(super) config: &'a HttpConfig,
    pub(super) policy: &'a Policy,
    pub(super) metrics: &'a Metrics,
    /// How the mode reads requests; replies and refusals follow it as well.
    pub(super) rules: QueryRules,
}

impl<'a> EngineContext<'a> {
    /// Counts a request of `seen`, and returns what to do about it if it is beyond the rate limit.
    pub(super) fn rate_limit(self, now: Now, seen: IpAddr) -> Option<OverLimitAction> {
        self.policy.check_rate_limit(now.tick, seen).filter(|action| *action != OverLimitAction::Count)
    }

    /// Returns the request's URL, if a hook is configured.
    pub(super) fn url_for_hooks(
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

    /// Returns the settings by which the mode trusts claims about the client's address.
    pub(super) fn address_trust(self) -> AddressTrust<'a> {
        let trust = AddressTrust::from_config(self.config);
        match self.rules {
            QueryRules::Open => trust,
            QueryRules::Private => {
                AddressTrust { read_entry: peer_address::parse_proxy_entry, read_any_list: false, ..trust }
            }
        }
    }

    /// Reads an announce of a client of the open modes, or of `user` in mode private.
    pub(super) fn read_announce(
        self,
        parameters: &Parameters<'_>,
        user: Option<User>,
        source: Source,
        seen: SeenAddress,
        url: UrlForHooks,
    ) -> Result<(Question, ReplyKind), FailureReason> {
        let limits = NumWantLimits { default: self.config.num_want, max: self.config.num_want_max };
        let client = self.peer_address(parameters, source, seen);
        let query = AnnounceQuery::read(parameters, self.rules, client, limits, self.policy)?;
        let (seen, peers, announce) = (seen?, query.peer_form(), query.announce);
        let over_v6 = match self.rules {
            QueryRules::Open => seen.is_ipv6() || announce.address.is_ipv6(),
            // `peers6` is written only if it has peers, so that an IPv4 swarm looks as it always did.
            QueryRules::Private => false,
        };
        let address = ReplyAddress { external: self.config.external_ip.then_some(seen), over_v6 };
        let (peer_id, left) = (announce.peer_id, announce.left);
        let question = match user {
            Some(user) => Question::UserAnnounce(user, announce, peers, url),
            None => Question::Announce(announce, peers, url),
        };
        Ok((question, ReplyKind::Announce { form: query.form, address, peer_id, left }))
    }

    /// Reads a scrape of a client of the open modes, or of `user` in mode private.
    pub(super) fn read_scrape(
        self,
        parameters: &Parameters<'_>,
        user: Option<User>,
        url: UrlForHooks,
    ) -> Result<(Question, ReplyKind), FailureReason> {
        let max = self.config.max_scrape_infohashes;
        let info_hashes = announce_query::read_scrape(parameters, self.rules, max)?;
        let question = match user {
            Some(user) => Question::UserScrape(user, info_hashes.clone(), url),
            None => Question::Scrape(info_hashes.clone(), url),
        };
        Ok((question, ReplyKind::Scrape(info_hashes)))
    }

    /// Returns the address at which the client's peer can be reached: claimed or seen.
    fn peer_address(
        self,
        parameters: &Parameters<'_>,
        source: Source,
        seen: SeenAddress,
    ) -> Result<IpAddr, FailureReason> {
        let (seen, trust) = (seen?, self.address_trust());
        match self.rules {
            QueryRules::Open => {
                let address = trust.claimed_address(seen, parameters)?.unwrap_or(seen);
                if source.is_other_than(address) && !AddressClass::of(address).may_be_claimed() {
                    return Err(hayate_state::Refusal::InvalidAddress.into());
                }
                Ok(address)
            }
            QueryRules::Private => peer_address::choose_address(parameters, seen, &trust),
        }
    }

    /// Returns the step that asks the tracker; the labels of the request wait in its plan for the reply.
    pub(super) fn ask(self, question: Question, kind: ReplyKind, slowed: bool) -> Step {
        Step::Ask(question, ReplyPlan { kind, slowed, labels: self.metrics.take_labels() })
    }

    /// Writes the answer from the tracker's reply.
    pub(super) fn write_reply(self, mut reply: Reply, plan: ReplyPlan) -> Response {
        self.metrics.restore_labels(plan.labels);
        if let (true, Reply::Announce(Ok((answer, _)))) = (plan.slowed, &mut reply) {
            *answer = self.policy.slow_answer(*answer);
        }
        let scrape_seconds = self.policy.scrape_seconds;
        match (reply, &plan.kind) {
            (Reply::Announce(Ok((answer, peers))), ReplyKind::Announce { form, address, .. }) => {
                Response::bencoded(reply::announce(&answer, &peers, *form, *address))
            }
            (Reply::Announce(Err(refused)), ReplyKind::Announce { peer_id, left, .. }) => {
                self.write_failure(&match self.rules {
                    QueryRules::Open => refused.refusal.into(),
                    QueryRules::Private => FailureReason::from_refused(&refused, *peer_id, *left),
                })
            }
            (Reply::Scrape(Ok(tallies)), ReplyKind::Scrape(info_hashes)) => {
                Response::bencoded(reply::scrape(info_hashes.iter().zip(tallies), scrape_seconds))
            }
            (Reply::UserScrape(Ok(tallies)), ReplyKind::Scrape(info_hashes)) => {
                let known = info_hashes.iter().zip(tallies);
                let known: Vec<_> = known.filter_map(|(hash, tally)| Some((hash, tally?))).collect();
                Response::bencoded(reply::scrape(known.into_iter(), scrape_seconds))
            }
            (Reply::Scrape(Err(refusal)) | Reply::UserScrape(Err(refusal)), _) => {
                self.write_failure(&refusal.into())
            }
            (Reply::Announce(_) | Reply::Scrape(_) | Reply::UserScrape(_), _) => self.write_overloaded(plan),
        }
    }

    /// Writes the answer to a request that did not fit into the tracker's inbox.
    pub(super) fn write_overloaded(self, plan: ReplyPlan) -> Response {
        self.metrics.restore_labels(plan.labels);
        self.metrics.overloads.add(1);
        self.write_empty(&plan.kind)
    }

    /// Writes a valid answer without peers or counts, to a request that changes nothing.
    pub(super) fn write_empty(self, kind: &ReplyKind) -> Response {
        let seconds = self.policy.full_interval_seconds();
        Response::bencoded(match (kind, self.rules) {
            (ReplyKind::Announce { form, address, .. }, _) => {
                let answer = self.policy.full_answer(Tally::default());
                reply::announce(&answer, &PeerList::default(), *form, *address)
            }
            (ReplyKind::Scrape(info_hashes), QueryRules::Open) => {
                reply::scrape(info_hashes.iter().map(|hash| (hash, Tally::default())), seconds)
            }
            (ReplyKind::Scrape(_), QueryRules::Private) => reply::scrape(std::iter::empty(), seconds),
        })
    }

    /// Writes a refusal, and counts it.
    pub(super) fn write_failure(self, failure: &FailureReason) -> Response {
        self.metrics.count_refusal(failure.cause, self.rules);
        let interval_seconds = failure.interval_seconds(self.rules, self.policy);
        Response::bencoded(reply::failure(&failure.text(self.rules), interval_seconds))
    }

    /// Counts and returns the answer to a path where there is nothing.
    pub(super) fn not_found(self) -> Response {
        self.metrics.count_response(self.not_found_response())
    }

    /// Returns the answer to a path where there is nothing; in mode private it has no text.
    pub(super) fn not_found_response(self) -> Response {
        match self.rules {
            QueryRules::Open => Response::not_found(),
            QueryRules::Private => Response::text(404, ""),
        }
    }
}
