//! What a refused client gets: text and interval (`rules/http.md#failure-reply`,
//! `rules/private.md#failures`).

use std::borrow::Cow;
use std::io::Write as _;

use hayate_state::private::Refused;
use hayate_state::{PeerId, Policy};

use crate::engine::bad_request::BadRequest;
use crate::wire::query::QueryRules;

/// A refusal, and what its text adds about the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailureReason {
    pub(crate) cause: BadRequest,
    pub(crate) detail: FailureDetail,
}

/// What a text adds about the request, in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FailureDetail {
    None,
    Port(u16),
    /// The value of `ip`, decoded.
    Ip(Vec<u8>),
    PeerId(PeerId),
    Torrent {
        status: i32,
        left: u64,
    },
    /// Why a torrent was deleted; not in brackets.
    Reason(String),
}

impl FailureReason {
    /// Returns the failure of mode private when the tracker refuses an announce with this `peer_id` and
    /// `left`.
    pub(crate) fn from_refused(refused: &Refused, peer_id: PeerId, left: u64) -> Self {
        use hayate_state::Refusal as Tracker;
        let detail = match (refused.refusal, &refused.reason) {
            (Tracker::ClientNotApproved, _) => FailureDetail::PeerId(peer_id),
            (Tracker::UnavailableTorrent, _) => FailureDetail::Torrent { status: refused.status, left },
            (_, Some(reason)) => FailureDetail::Reason(reason.to_string()),
            _ => FailureDetail::None,
        };
        Self { cause: refused.refusal.into(), detail }
    }

    /// Returns the text for the client: octets, because a `peer_id` is not text.
    pub(crate) fn text(&self, rules: QueryRules) -> Cow<'static, [u8]> {
        let words = self.cause.words(rules).text.as_bytes();
        if self.detail == FailureDetail::None {
            return Cow::Borrowed(words);
        }
        let mut text = words.to_vec();
        // Writing to a vector cannot fail.
        let _ = match &self.detail {
            FailureDetail::None => Ok(()),
            FailureDetail::Port(port) => write!(text, " (port: {port})"),
            FailureDetail::Ip(ip) => write_bracketed(&mut text, b"ip", ip),
            FailureDetail::PeerId(peer_id) => write_bracketed(&mut text, b"peer_id", &peer_id.0),
            FailureDetail::Torrent { status, left } => write!(text, " (status: {status}, left: {left})"),
            FailureDetail::Reason(reason) => write!(text, ": {reason}"),
        };
        Cow::Owned(text)
    }

    /// Returns the seconds that the client is to wait; 0 = the reply does not say.
    pub(crate) fn interval_seconds(&self, rules: QueryRules, policy: &Policy) -> u32 {
        match (rules, self.cause) {
            (QueryRules::Open, _) => policy.failure_interval_seconds(),
            (QueryRules::Private, BadRequest::NothingToScrape) => 0,
            (QueryRules::Private, BadRequest::Refused(refusal)) => refusal.interval_seconds(),
            (QueryRules::Private, _) => hayate_state::Refusal::InvalidPasskey.interval_seconds(),
        }
    }
}

fn write_bracketed(text: &mut Vec<u8>, name: &[u8], value: &[u8]) -> std::io::Result<()> {
    for part in [b" (", name, b": ", value, b")"] {
        text.write_all(part)?;
    }
    Ok(())
}

impl From<BadRequest> for FailureReason {
    fn from(cause: BadRequest) -> Self {
        Self { cause, detail: FailureDetail::None }
    }
}

impl From<hayate_state::Refusal> for FailureReason {
    fn from(refusal: hayate_state::Refusal) -> Self {
        BadRequest::from(refusal).into()
    }
}
