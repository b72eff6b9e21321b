//! What a request said beside its own words: the path and query of its URL, over UDP as BEP 41 carries them.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::query::{decoded, pairs, split_target};

/// The URL of one request, as the client sent them.
#[derive(Clone, Copy, Debug)]
pub struct RequestUrl<'a> {
    /// Who asks, as the server sees it: not what an announce claims.
    pub source: IpAddr,
    /// The path, percent-encoded; empty where there was none.
    pub path: &'a [u8],
    /// What follows the first `?`, percent-encoded; empty where there was none.
    pub query: &'a [u8],
    /// What the route has captured (`:name`, `*name`), decoded; over UDP there are no routes.
    pub captures: &'a [(String, Vec<u8>)],
}

impl<'a> RequestUrl<'a> {
    /// Nothing but who asks.
    #[must_use]
    pub fn empty(source: IpAddr) -> Self {
        Self { source, path: &[], query: &[], captures: &[] }
    }

    /// The parts of a URL's path and query.
    #[must_use]
    pub fn parse(source: IpAddr, url: &'a [u8]) -> Self {
        let (path, query) = split_target(url);
        Self { source, path, query, captures: &[] }
    }

    /// The value of a parameter, decoded. Names are compared without regard to case, and the last value wins.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let lowercase = name.bytes().map(|octet| octet.to_ascii_lowercase());
        let is_same =
            |known: &[u8]| decoded(known).map(|octet| octet.to_ascii_lowercase()).eq(lowercase.clone());
        let (_, value) = pairs(self.query).rfind(|(known, _)| is_same(known))?;
        let value = value.unwrap_or_default();
        Some(if value.contains(&b'%') { decoded(value).collect::<Vec<_>>().into() } else { value.into() })
    }

    /// What the route has captured under that name.
    #[must_use]
    pub fn capture(&self, name: &str) -> Option<&'a [u8]> {
        self.captures.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }
}

/// The same, kept on its way to another thread.
#[derive(Clone, Debug)]
pub struct OwnedUrl {
    /// See [`Said::source`].
    pub source: IpAddr,
    /// See [`Said::path`].
    pub path: Box<[u8]>,
    /// See [`Said::query`].
    pub query: Box<[u8]>,
    /// See [`Said::captures`].
    pub captures: Box<[(String, Vec<u8>)]>,
}

impl OwnedUrl {
    /// The same, borrowed.
    #[must_use]
    pub fn as_url(&self) -> RequestUrl<'_> {
        RequestUrl { source: self.source, path: &self.path, query: &self.query, captures: &self.captures }
    }
}
