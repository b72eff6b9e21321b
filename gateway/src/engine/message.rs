//! The head of a request, the answer to it, and the form of a target.

use std::borrow::Cow;

use crate::config::{HEADER_BLOCK_MAX, REQUEST_LINE_MAX};
use crate::engine::client_address::Source;

/// Octets of a request line besides method and target: two spaces and the version.
const LINE_OVERHEAD: usize = " ".len() + " HTTP/1.1".len();
/// The content type of most answers; `/metrics` and profiles have their own.
pub const TEXT_PLAIN: &str = "text/plain";

/// The head of a request.
#[derive(Debug)]
pub struct Head<'r, H: ?Sized> {
    /// The method, as sent.
    pub method: &'r [u8],
    /// The target, as sent: path and query, or a whole URL (RFC 9112, 3.2).
    pub target: &'r [u8],
    /// The other end of the connection.
    pub source: Source,
    /// The header lines.
    pub headers: &'r H,
    /// Octets of all header lines.
    pub header_octets: usize,
    /// Whether a body follows, or a transfer coding is named.
    pub has_body: bool,
}

/// An answer: status and body. `Content-Length` is exact, and 405 names what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The body; a HEAD gets its length only.
    pub body: Cow<'static, [u8]>,
    /// Whether the connection closes after the answer.
    pub close: bool,
}

impl Response {
    /// Returns a status with a constant text.
    #[must_use]
    pub fn text(status: u16, text: &'static str) -> Self {
        Self {
            status,
            content_type: TEXT_PLAIN,
            body: Cow::Borrowed(text.as_bytes()),
            close: matches!(status, 400 | 414 | 431),
        }
    }

    /// Returns a status with a text made for one request.
    pub(crate) fn owned_text(status: u16, text: String) -> Self {
        Self { body: Cow::Owned(text.into_bytes()), ..Self::text(status, "") }
    }

    /// Returns the answer to a method that the path does not have.
    #[must_use]
    pub(crate) fn method_not_allowed() -> Self {
        Self::text(405, "Method Not Allowed\n")
    }

    /// Returns the answer to a path where there is nothing.
    #[must_use]
    pub fn not_found() -> Self {
        Self::text(404, "404 page not found\n")
    }

    /// Returns a bencoded reply.
    #[must_use]
    pub(crate) fn bencoded(body: Vec<u8>) -> Self {
        Self { status: 200, content_type: TEXT_PLAIN, body: Cow::Owned(body), close: false }
    }
}

/// Fails with the answer to a request that cannot be served at all (`rules/http.md#methods`,
/// `rules/http.md#sizes-of-a-request`).
pub(crate) fn check_head<H: ?Sized>(head: &Head<'_, H>) -> Result<(), Response> {
    if head.method.len() + head.target.len() + LINE_OVERHEAD > REQUEST_LINE_MAX {
        return Err(Response::text(414, "URI Too Long\n"));
    }
    if head.header_octets > HEADER_BLOCK_MAX {
        return Err(Response::text(431, "Request Header Fields Too Large\n"));
    }
    // Pages may be asked for by HEAD; everything else refuses it later.
    if !matches!(head.method, b"GET" | b"HEAD") {
        return Err(Response { close: head.has_body, ..Response::method_not_allowed() });
    }
    // hyper lets UTF-8 through; a target is ASCII (RFC 9112, 3.2).
    if head.has_body || !head.target.is_ascii() {
        return Err(Response::text(400, "Bad Request\n"));
    }
    Ok(())
}

/// Returns path and query of a target that may be a whole URL.
pub(crate) fn origin_form(target: &[u8]) -> &[u8] {
    if target.first() == Some(&b'/') {
        return target;
    }
    let authority = match target.windows(3).position(|octets| octets == b"://") {
        Some(at) => target.get(at + 3..).unwrap_or_default(),
        None => return target,
    };
    let end = authority.iter().position(|&octet| octet == b'/' || octet == b'?');
    end.and_then(|at| authority.get(at..)).unwrap_or(b"/")
}
