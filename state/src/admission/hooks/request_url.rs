//! What a request said beside its own words: the path and query of its URL, over UDP as BEP 41 carries them.

use std::borrow::Cow;
use std::net::IpAddr;

use percent_encoding::percent_decode;

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
        let (path, query) = match url.iter().position(|&octet| octet == b'?') {
            Some(at) => (url.get(..at).unwrap_or_default(), url.get(at + 1..).unwrap_or_default()),
            None => (url, &[][..]),
        };
        Self { source, path, query, captures: &[] }
    }

    /// The value of a parameter, decoded. Names are compared without regard to case, and the last value wins.
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
