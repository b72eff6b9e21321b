//! The URL of a request, as hooks see it: its path and query, over UDP as BEP 41 carries them.

use std::borrow::Cow;
use std::net::IpAddr;

use percent_encoding::percent_decode;

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
        let (path, query) = match url.iter().position(|&octet| octet == b'?') {
            Some(at) => (url.get(..at).unwrap_or_default(), url.get(at + 1..).unwrap_or_default()),
            None => (url, &[][..]),
        };
        Self { source, path, query, captures: &[] }
    }

    /// Returns the value of a parameter, decoded. Names are compared without regard to case, and the last
    /// value wins.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let pairs = self.query.split(|&octet| octet == b'&');
        let mut values = pairs.filter_map(|pair| {
            let at = pair.iter().position(|&octet| octet == b'=').unwrap_or(pair.len());
            let (known, value) = pair.split_at_checked(at)?;
            let known: Cow<'_, [u8]> = percent_decode(known).into();
            known.eq_ignore_ascii_case(name.as_bytes()).then(|| value.get(1..).unwrap_or_default())
        });
        values.next_back().map(|value| percent_decode(value).into())
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
