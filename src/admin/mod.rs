//! The operator's desk: questions and changes over HTTP on `metrics.addr`, behind a token, in every mode.
//!
//! | path | what | file |
//! |---|---|---|
//! | `/<token>/access/add`, `remove`, `list` | the list of torrents in force, and its file | `access.rs` |
//! | `/<token>/export` | the figures of all torrents in a file | `report.rs` |
//! | `/<token>/clients`, `torrents`, `offenders` | reports, in JSON | `report.rs` |
//! | `/<token>/update`, `explain` | changes of a site (mode private) | `site.rs` |
//!
//! `src/commands/remote.rs` is the other side: the commands that ask a running tracker. Whatever changes
//! something is logged, never with the token.

mod access_list;
mod query;
mod report;
mod site;

use std::sync::{Arc, OnceLock};

use hayate_gateway::operator::Admin;
use hayate_state::private::Site;
use hayate_state::private::sync::Errands;
use hayate_state::report::Survey;
use hayate_state::report::export::Exporter;
use hayate_state::{Policy, Published};
use ring::digest::{SHA256, digest};

pub(crate) use self::access_list::Book;
use self::query::Parameters;
pub(crate) use self::query::TorrentName;
use self::site::SiteDesk;
use crate::config::settings::Token;

/// Status and text.
type Answer = (u16, String);

/// Who answers.
pub(crate) struct Desk {
    /// Compared instead of the token, so that the time it takes tells nothing about it.
    token: [u8; 32],
    parts: Parts,
    /// In mode private.
    site: Option<SiteDesk>,
}

/// What the desk asks and changes.
pub(crate) struct Parts {
    pub(crate) policy: Arc<Published<Policy>>,
    pub(crate) book: Arc<Book>,
    pub(crate) survey: Arc<Survey>,
    pub(crate) exporter: Arc<Exporter>,
}

impl Desk {
    pub(crate) fn new(token: &Token, parts: Parts) -> Self {
        Self { token: sum(&token.0), parts, site: None }
    }

    /// The same in mode private.
    pub(crate) fn private(
        self,
        grace_seconds: u32,
        site: Arc<Site>,
        errands: Arc<OnceLock<Errands>>,
    ) -> Self {
        let policy = Arc::clone(&self.parts.policy);
        Self { site: Some(SiteDesk { grace_seconds, site, errands, policy }), ..self }
    }
}

impl Admin for Desk {
    fn answer(&self, path: &[u8], query: &[u8], source: &str) -> Option<Answer> {
        let mut parts = path.strip_prefix(b"/")?.splitn(2, |&octet| octet == b'/');
        let (token, rest) = (parts.next()?, parts.next()?);
        if sum(token) != self.token {
            return None;
        }
        let query = Parameters::read(query);
        match rest {
            b"access/add" => Some(self.parts.change_list(&query, true, source)),
            b"access/remove" => Some(self.parts.change_list(&query, false, source)),
            b"access/list" => Some(self.parts.show_list()),
            b"export" => Some(self.parts.export(source)),
            b"clients" => Some(self.parts.clients(&query)),
            b"torrents" => Some(self.parts.torrents(&query)),
            b"offenders" => Some(self.parts.offenders(&query)),
            b"update" => self.site.as_ref().map(|site| site.update(&query, source)),
            b"explain" => self.site.as_ref().map(|site| site.explain(&query)),
            _ => None,
        }
    }
}

fn failure(status: u16, text: impl std::fmt::Display) -> Answer {
    (status, format!("failure: {text}\n"))
}

fn sum(octets: &[u8]) -> [u8; 32] {
    digest(&SHA256, octets).as_ref().try_into().unwrap_or_default()
}
