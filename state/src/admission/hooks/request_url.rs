//! The URL of a request, as hooks see it: its path and query, over UDP as BEP 41 carries them.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::query::{decoded, pairs, split_target};

/// The URL of one request, as the client sent it.
#[derive(Clone, Copy, Debug)]
pub struct RequestUrl<'a> {
    /// The address of the client, as the server sees it: not what an announce claims.
    pub source: IpAddr,
    /// The path, percent-encoded; empty where there was none.
    pub path: &'a [u8],
    /// What follows the first `?`, percent-encoded; empty where there was none.
    pub query: &'a [u8],
    /// What the route has captured (`:name`, `*name`), decoded; empty over UDP, which has no routes.
    pub captures: &'a [(String, Vec<u8>)],
}

impl<'a> RequestUrl<'a> {
    /// Makes a URL with nothing but a source.
    #[must_use]
    pub fn empty(source: IpAddr) -> Self {
        Self { source, path: &[], query: &[], captures: &[] }
    }

    /// Splits the path and query of a URL.
    #[must_use]
    pub fn parse(source: IpAddr, url: &'a [u8]) -> Self {
        let (path, query) = split_target(url);
        Self { source, path, query, captures: &[] }
    }

    /// Returns the value of a parameter, decoded. Names are compared without regard to case, and the last
    /// value wins.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let lowercase = name.bytes().map(|octet| octet.to_ascii_lowercase());
        let is_same =
            |known: &[u8]| decoded(known).map(|octet| octet.to_ascii_lowercase()).eq(lowercase.clone());
        let (_, value) = pairs(self.query).rfind(|(known, _)| is_same(known))?;
        let value = value.unwrap_or_default();
        Some(if value.contains(&b'%') { decoded(value).collect::<Vec<_>>().into() } else { value.into() })
    }

    /// Returns what the route has captured under that name.
    #[must_use]
    pub fn capture(&self, name: &str) -> Option<&'a [u8]> {
        self.captures.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }
}

/// A [`RequestUrl`] that owns its octets, on its way to another thread.
#[derive(Clone, Debug)]
pub struct OwnedUrl {
    /// See [`RequestUrl::source`].
    pub source: IpAddr,
    /// See [`RequestUrl::path`].
    pub path: Box<[u8]>,
    /// See [`RequestUrl::query`].
    pub query: Box<[u8]>,
    /// See [`RequestUrl::captures`].
    pub captures: Box<[(String, Vec<u8>)]>,
}

impl OwnedUrl {
    /// Returns the URL, borrowed.
    #[must_use]
    pub fn as_url(&self) -> RequestUrl<'_> {
        RequestUrl { source: self.source, path: &self.path, query: &self.query, captures: &self.captures }
    }
}
