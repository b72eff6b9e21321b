//! The admin API: queries and changes over HTTP on `metrics.addr`, behind a token, in every mode.
//!
//! | path | what | module |
//! |---|---|---|
//! | `/<token>/access/add`, `remove`, `list` | the list of torrents in force, and its file | `access_list` |
//! | `/<token>/export` | the counts of all torrents, in a file | `report` |
//! | `/<token>/clients`, `torrents`, `offenders` | reports, in JSON | `report` |
//! | `/<token>/update`, `explain` | changes to a site (mode private) | `site` |
//!
//! `query` reads the parameters of these requests. `src/commands/remote.rs` is the other side: the commands
//! that send such requests to a running tracker. Whatever changes something is logged, never with the token.

mod access_list;
mod query;
mod report;
mod site;

use std::sync::{Arc, OnceLock};

use hayate_gateway::operator::AdminHandler;
use hayate_state::private::Site;
use hayate_state::private::sync::AdminQueue;
use hayate_state::report::Reporter;
use hayate_state::report::export::Exporter;
use hayate_state::{Policy, Published};
use ring::digest::{SHA256, digest};

pub(crate) use self::access_list::AccessListFile;
use self::query::AdminQuery;
pub(crate) use self::query::TorrentName;
use self::site::SiteAdmin;
use crate::config::settings::AdminToken;

/// Status and text of a reply.
type Answer = (u16, String);

/// Answers the requests of the admin API.
pub(crate) struct AdminApi {
    /// The SHA-256 of the token. It is compared instead of the token, so that the time of the comparison
    /// tells nothing about the token.
    token_digest: [u8; 32],
    context: AdminContext,
    /// The administration of the site; `None` except in mode private.
    site: Option<SiteAdmin>,
}

/// What the admin API reads and changes.
pub(crate) struct AdminContext {
    pub(crate) policy: Arc<Published<Policy>>,
    pub(crate) access_list: Arc<AccessListFile>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) exporter: Arc<Exporter>,
}

impl AdminApi {
    pub(crate) fn new(token: &AdminToken, context: AdminContext) -> Self {
        Self { token_digest: sha256(&token.0), context, site: None }
    }

    /// Adds the paths of mode private.
    pub(crate) fn with_site(
        self,
        passkey_grace_seconds: u32,
        site: Arc<Site>,
        admin_queue: Arc<OnceLock<AdminQueue>>,
    ) -> Self {
        let policy = Arc::clone(&self.context.policy);
        Self { site: Some(SiteAdmin { passkey_grace_seconds, site, admin_queue, policy }), ..self }
    }
}

impl AdminHandler for AdminApi {
    fn answer(&self, path: &[u8], query: &[u8], source: &str) -> Option<Answer> {
        let mut parts = path.strip_prefix(b"/")?.splitn(2, |&octet| octet == b'/');
        let (token, rest) = (parts.next()?, parts.next()?);
        if sha256(token) != self.token_digest {
            return None;
        }
        let query = AdminQuery::parse(query);
        match rest {
            b"access/add" => Some(self.context.change_list(&query, true, source)),
            b"access/remove" => Some(self.context.change_list(&query, false, source)),
            b"access/list" => Some(self.context.show_list()),
            b"export" => Some(self.context.export(source)),
            b"clients" => Some(self.context.clients(&query)),
            b"torrents" => Some(self.context.torrents(&query)),
            b"offenders" => Some(self.context.offenders(&query)),
            b"update" => self.site.as_ref().map(|site| site.update(&query, source)),
            b"explain" => self.site.as_ref().map(|site| site.explain(&query)),
            _ => None,
        }
    }
}

fn failure(status: u16, text: impl std::fmt::Display) -> Answer {
    (status, format!("failure: {text}\n"))
}

fn sha256(octets: &[u8]) -> [u8; 32] {
    digest(&SHA256, octets).as_ref().try_into().unwrap_or_default()
}
