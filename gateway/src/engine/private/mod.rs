//! The door's decisions in mode private: passkeys in the path, strict parameters, texts of their own.
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

use hayate_state::actor::{PeerForm, PeerList, Question, Reply, Words};
use hayate_state::admission::Beyond;
use hayate_state::admission::hooks::Spoken;
use hayate_state::private::{Denial, Member, Register, passkey_path};
use hayate_state::{InfoHash, Now, PeerId, Policy, Subscriber, Tally};

use crate::config::DoorConfig;
use crate::engine::client_address::{Headers, Trust};
use crate::engine::open_mode::Wish;
use crate::engine::refusal::Refusal;
use crate::engine::routes::Action;
use crate::engine::stats::{Family, Stats};
use crate::engine::{Head, Page, Response};
use crate::wire::query::StrictParameters;
use crate::wire::reply::{self, Address, Form};
use failure::Failure;

/// Decides about the requests of members.
#[derive(Debug)]
pub(crate) struct Site {
    register: Subscriber<Register>,
}

/// What the door decides with.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) config: &'a DoorConfig,
    pub(crate) policy: &'a Policy,
    pub(crate) stats: &'a Stats,
}

/// What must be remembered of a request until the tracker has replied.
#[derive(Debug)]
pub(crate) enum Context {
    Announce { form: Form, external: Option<IpAddr>, peer_id: PeerId, left: u64 },
    Scrape(Vec<InfoHash>),
}

/// What to do about a request.
pub(crate) enum Step {
    Ask(Question, Context),
    Answer(Response),
    Page(Page),
}

impl Site {
    pub(crate) fn new(register: Subscriber<Register>) -> Self {
        Self { register }
    }

    pub(crate) fn refresh(&mut self) {
        self.register.refresh();
    }

    /// Reads a request for `path`, which is not empty, with `query`. A member's address is told to `heard`.
    pub(crate) fn read<H: Headers + ?Sized>(
        &self,
        means: Means<'_>,
        head: &Head<'_, H>,
        path: &[u8],
        query: &[u8],
        heard: impl FnOnce(IpAddr),
    ) -> Step {
        let mut buffer = Vec::new();
        if !passkey_path::is_plain(path) {
            buffer.resize(path.len(), 0);
        }
        let place = passkey_path::read(path, &mut buffer);
        let Some(passkey) = place.passkey else {
            return match place.leaf {
                b"alive" => Step::Page(Page::AliveSince),
                b"metrics" => Step::Page(Page::Metrics),
                _ => Step::Answer(means.nothing()),
            };
        };
        let action = match place.leaf {
            b"announce" => Some(Action::Announce),
            b"scrape" => Some(Action::Scrape),
            _ => None,
        };
        let trust = means.trust();
        let seen = trust.seen(head.source, head.headers);
        let action = action.filter(|action| *action == Action::Announce || means.policy.enable_scrape);
        if action.is_some() && head.method != b"GET" {
            return Step::Answer(means.stats.counted(Response::not_allowed()));
        }
        if let Some(action) = action {
            means.stats.request(action, Family::of(seen.ok()));
        }
        let Some(member) = self.register.get().member(passkey) else {
            return Step::Answer(means.fail(&Refusal::from(hayate_state::Refusal::InvalidPasskey).into()));
        };
        if let Ok(seen) = seen {
            heard(seen);
        }
        let words = seen.ok().and_then(|seen| means.words(seen, path, query, &[]));
        let asked = match action {
            Some(Action::Announce) => means.announce(member, query, seen, &trust, words),
            Some(Action::Scrape) => means.scrape(member, query, words),
            None => return Step::Answer(means.nothing()),
        };
        match asked {
            Ok((question, context)) => Step::Ask(question, context),
            Err(failure) => Step::Answer(means.fail(&failure)),
        }
    }
}

impl Means<'_> {
    /// What becomes of a request from there, if it is one too many.
    pub(crate) fn limit(self, now: Now, seen: IpAddr) -> Option<Beyond> {
        self.policy.limit(now.tick, seen).filter(|beyond| *beyond != Beyond::Count)
    }

    /// What was said, if hooks want to know.
    pub(crate) fn words(
        self,
        source: IpAddr,
        path: &[u8],
        query: &[u8],
        captures: &[(&str, Vec<u8>)],
    ) -> Words {
        let captured = || captures.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let spoken = || Spoken { source, path: path.into(), query: query.into(), captures: captured() };
        (!self.policy.hooks.is_empty()).then(|| Box::new(spoken()))
    }

    fn announce(
        self,
        member: Member,
        query: &[u8],
        seen: Result<IpAddr, Refusal>,
        trust: &Trust<'_>,
        words: Words,
    ) -> Result<(Question, Context), Failure> {
        let wish = Wish { default: self.config.num_want, max: self.config.num_want_max };
        let asked = parameters::announce(&StrictParameters::read(query), seen, trust, wish, self.policy)?;
        let peers = if asked.with_ids { PeerForm::WithIds } else { PeerForm::Compact };
        let context = Context::Announce {
            form: asked.form,
            external: seen.ok().filter(|_| self.config.external_ip),
            peer_id: asked.announce.peer_id,
            left: asked.announce.left,
        };
        Ok((Question::MemberAnnounce(member, asked.announce, peers, words), context))
    }

    fn scrape(self, member: Member, query: &[u8], words: Words) -> Result<(Question, Context), Failure> {
        let info_hashes = parameters::scrape(&StrictParameters::read(query))?;
        Ok((Question::MemberScrape(member, info_hashes.clone(), words), Context::Scrape(info_hashes)))
    }

    /// Writes the answer from the tracker's reply, or, without one, what is said when there is no room.
    pub(crate) fn write(self, reply: Option<Reply>, context: &Context) -> Response {
        match (reply, context) {
            (Some(Reply::Announce(Ok((answer, peers)))), Context::Announce { form, external, .. }) => {
                self.announced(&answer, &peers, *form, *external)
            }
            (Some(Reply::Announce(Err(denial))), Context::Announce { peer_id, left, .. }) => {
                self.deny(&denial, *peer_id, *left)
            }
            (Some(Reply::MemberScrape(Err(refusal))), _) => self.fail(&Refusal::from(refusal).into()),
            (Some(Reply::MemberScrape(Ok(tallies))), Context::Scrape(info_hashes)) => {
                let known = info_hashes.iter().zip(tallies);
                let known: Vec<_> = known.filter_map(|(hash, tally)| Some((hash, tally?))).collect();
                Response::bencoded(reply::scrape(known.into_iter(), self.policy.scrape_seconds))
            }
            (_, Context::Announce { form, external, .. }) => {
                self.stats.overloads.add(1);
                let answer = self.policy.full_answer(Tally::default());
                self.announced(&answer, &PeerList::default(), *form, *external)
            }
            (_, Context::Scrape(_)) => {
                self.stats.overloads.add(1);
                Response::bencoded(reply::scrape(std::iter::empty(), self.policy.full_interval_seconds()))
            }
        }
    }

    fn announced(
        self,
        answer: &hayate_state::Answer,
        peers: &PeerList,
        form: Form,
        external: Option<IpAddr>,
    ) -> Response {
        // `peers6` is there only if there is something in it, so that an IPv4 swarm looks as it always did.
        let address = Address { external, over_v6: false };
        Response::bencoded(reply::announce(answer, peers, form, address))
    }

    fn deny(self, denial: &Denial, peer_id: PeerId, left: u64) -> Response {
        self.fail(&Failure::denied(denial, peer_id, left))
    }

    fn fail(self, failure: &Failure) -> Response {
        self.stats.refusal(failure.refusal);
        Response::bencoded(reply::failure(&failure.text(), failure.interval_seconds()))
    }

    /// There is nothing at that path, and nothing is said about it.
    fn nothing(self) -> Response {
        self.stats.counted(Response::text(404, ""))
    }

    fn trust(&self) -> Trust<'_> {
        Trust { read_entry: peer_address::read_entry, read_any_list: false, ..Trust::of(self.config) }
    }
}
