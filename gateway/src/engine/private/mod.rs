//! The gateway's decisions in mode private: passkeys in the path, and which user one belongs to.
//!
//! | module | what is in it |
//! |---|---|
//! | `peer_address` | the address at which a user's peer can be reached |

pub(super) mod peer_address;
#[cfg(test)]
mod tests;

use hayate_state::private::{SiteData, passkey_path};
use hayate_state::{Now, Subscriber};

use crate::engine::client_address::Headers;
use crate::engine::context::{EngineContext, Step};
use crate::engine::message::{Head, Response};
use crate::engine::metrics::Family;
use crate::engine::routes::Action;
use crate::operator::routes::Routes;
use crate::wire::query::Parameters;

/// The part of the engine that only mode private has; it knows the users by their passkeys.
#[derive(Debug)]
pub(super) struct PrivateEngine {
    site_data: Subscriber<SiteData>,
}

impl PrivateEngine {
    pub(super) fn new(site_data: Subscriber<SiteData>) -> Self {
        Self { site_data }
    }

    pub(super) fn refresh(&mut self) {
        self.site_data.refresh();
    }

    /// Reads a request for `path`, which is not empty, with `query`.
    pub(super) fn read_request<H: Headers + ?Sized>(
        &self,
        context: EngineContext<'_>,
        now: Now,
        head: &Head<'_, H>,
        path: &[u8],
        query: &[u8],
    ) -> Step {
        let mut buffer = Vec::new();
        if !passkey_path::is_plain(path) {
            buffer.resize(path.len(), 0);
        }
        let parsed = passkey_path::parse_path(path, &mut buffer);
        let Some(passkey) = parsed.passkey else {
            return match Routes::find_on_private_gateway(parsed.leaf) {
                Some(page) => Step::Page(page),
                None => Step::Answer(context.not_found()),
            };
        };
        let action = match parsed.leaf {
            b"announce" => Some(Action::Announce),
            b"scrape" if context.policy.enable_scrape => Some(Action::Scrape),
            _ => None,
        };
        if action.is_some() && head.method != b"GET" {
            return Step::Answer(context.metrics.count_response(Response::method_not_allowed()));
        }
        let seen = context.address_trust().client_address(head.source, head.headers);
        if let Some(action) = action {
            context.metrics.count_request(action, Family::of_address(seen.ok()));
        }
        let Some(user) = self.site_data.get().find_user(passkey) else {
            return Step::Answer(context.write_failure(&hayate_state::Refusal::InvalidPasskey.into()));
        };
        let slowed = seen.is_ok_and(|seen| context.rate_limit(now, seen).is_some());
        let Some(action) = action else { return Step::Answer(context.not_found()) };
        let url = seen.ok().and_then(|seen| context.url_for_hooks(seen, path, query, &[]));
        let parameters = Parameters::parse(query);
        let read = match action {
            Action::Announce => context.read_announce(&parameters, Some(user), head.source, seen, url),
            Action::Scrape => context.read_scrape(&parameters, Some(user), url),
        };
        match read {
            Ok((question, kind)) => context.ask(question, kind, slowed),
            Err(failure) => Step::Answer(context.write_failure(&failure)),
        }
    }
}
