//! The head of a request as hyper hands it over, and where in a head the octets of an HTTP/1 connection end.
//! hyper keeps what it has read and not yet understood to itself; [`HeadProgress`] tells whether that is part
//! of a further head.

use hyper::HeaderMap;
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderName, HeaderValue, TRANSFER_ENCODING};

use crate::config::REQUEST_LINE_MAX;
use crate::engine::client_address::{Headers, Source};
use crate::engine::message::Head;

/// Calls `look` with the head of `request` in the engine's terms.
pub(super) fn with_head<T>(
    request: &Request<Incoming>,
    source: Source,
    look: impl FnOnce(&Head<'_, HeaderMap>) -> T,
) -> T {
    let uri = request.uri();
    let whole = uri.authority().map(|_| uri.to_string());
    let target = match &whole {
        Some(whole) => whole.as_str(),
        None => uri.path_and_query().map_or("", |target| target.as_str()),
    };
    let headers = request.headers();
    look(&Head {
        method: request.method().as_str().as_bytes(),
        target: target.as_bytes(),
        source,
        headers,
        header_octets: headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum(),
        has_body: !request.body().is_end_stream() || headers.contains_key(TRANSFER_ENCODING),
    })
}

impl Headers for HeaderMap {
    fn values_of<'h>(&'h self, name: &'h str) -> impl DoubleEndedIterator<Item = &'h [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.keys().map(HeaderName::as_str)
    }
}

/// How the octets of an HTTP/1 connection end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum HeadProgress {
    /// With a whole head, or there are no octets.
    #[default]
    Whole,
    /// With a line.
    LineEnd,
    /// Within a line; in a request line these are its octets so far.
    Line(Option<usize>),
}

impl HeadProgress {
    /// Returns the progress after `octets` more.
    pub(super) fn after(self, octets: &[u8]) -> Self {
        let mut last = octets.iter().rev().filter(|octet| **octet != b'\r');
        match (last.next(), last.next()) {
            (None, _) => self,
            (Some(b'\n'), Some(b'\n')) => Self::Whole,
            (Some(b'\n'), Some(_)) => Self::LineEnd,
            (Some(b'\n'), None) => match self {
                Self::Whole | Self::LineEnd => Self::Whole,
                Self::Line(_) => Self::LineEnd,
            },
            (Some(_), _) => self.within(octets),
        }
    }

    /// Returns the progress after octets whose last one is within a line.
    fn within(self, octets: &[u8]) -> Self {
        let Some(at) = octets.iter().rposition(|&octet| octet == b'\n') else {
            return Self::Line(match self {
                Self::Whole => Some(octets.len()),
                Self::LineEnd => None,
                Self::Line(octets_before) => octets_before.map(|before| before + octets.len()),
            });
        };
        let (before, line) = octets.split_at(at);
        let before = before.strip_suffix(b"\r").unwrap_or(before);
        Self::Line(before.ends_with(b"\n").then_some(line.len()))
    }

    /// Whether the unfinished head begins with a line that is too long.
    pub(super) fn is_long_line(self) -> bool {
        matches!(self, Self::Line(Some(octets)) if octets > REQUEST_LINE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pieces: &[&str]) -> HeadProgress {
        pieces.iter().fold(HeadProgress::default(), |tail, piece| tail.after(piece.as_bytes()))
    }

    #[test]
    fn a_head_is_whole_behind_its_empty_line_wherever_it_was_cut() {
        let head = "GET / HTTP/1.1\r\nHost: t\r\n\r\n";
        for at in 0..=head.len() {
            let (first, rest) = head.split_at(at);
            assert_eq!(after(&[first, rest]), HeadProgress::Whole, "{at}");
            assert_eq!(after(&[first]) == HeadProgress::Whole, at == 0 || at == head.len(), "{at}");
        }
        let octets: Vec<_> = (0..head.len()).map(|at| &head[at..=at]).collect();
        for at in 0..=head.len() {
            assert_eq!(
                after(&octets[..at]) == HeadProgress::Whole,
                at == 0 || at == head.len(),
                "{at} octets"
            );
        }
        assert_eq!(after(&["GET / HTTP/1.1\n\n"]), HeadProgress::Whole);
        assert_eq!(after(&[head, "\r\n"]), HeadProgress::Whole);
        for part in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost", "GET / HTTP/1.1\r\nHost: t\r\n\r"] {
            assert_ne!(after(&[&format!("{head}{part}")]), HeadProgress::Whole, "{part}");
        }
    }

    #[test]
    fn only_a_request_line_can_be_a_long_line() {
        let long = "a".repeat(REQUEST_LINE_MAX + 1);
        let (first, rest) = long.split_at(7);
        assert!(after(&[&long]).is_long_line() && after(&[first, rest]).is_long_line());
        assert!(after(&[&format!("GET / HTTP/1.1\r\n\r\n{long}")]).is_long_line());
        assert!(!after(&[&format!("GET / HTTP/1.1\r\nX: {long}")]).is_long_line());
        assert!(!after(&["GET / HTTP/1.1\r\n", &long]).is_long_line());
        assert!(!after(&["GET / HTTP/1.1\r\nX: ", &long]).is_long_line());
    }
}
