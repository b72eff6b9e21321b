//! What a member is told who is refused: texts and intervals of `rules/private.md#failures`.

use std::io::Write as _;

use hayate_state::PeerId;
use hayate_state::private::Refused;

use crate::engine::bad_request::BadRequest;
use crate::wire::query::Strictness;

/// A refusal, and what the text says in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FailureReason {
    pub(super) cause: BadRequest,
    pub(super) detail: FailureDetail,
}

/// What a text says in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FailureDetail {
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
    /// A denial by the tracker of an announce with this `peer_id` and `left`.
    pub(super) fn from_refused(denial: &Refused, peer_id: PeerId, left: u64) -> Self {
        use hayate_state::Refusal as Tracker;
        let detail = match (denial.refusal, &denial.reason) {
            (Tracker::ClientNotApproved, _) => FailureDetail::PeerId(peer_id),
            (Tracker::UnavailableTorrent, _) => FailureDetail::Torrent { status: denial.status, left },
            (_, Some(reason)) => FailureDetail::Reason(reason.to_string()),
            _ => FailureDetail::None,
        };
        Self { cause: denial.refusal.into(), detail }
    }

    /// The text for the client: octets, because a `peer_id` is no text.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = self.cause.words(Strictness::Strict).text.as_bytes().to_vec();
        // Writing to a vector cannot fail.
        let _ = match &self.detail {
            FailureDetail::None => Ok(()),
            FailureDetail::Port(port) => write!(text, " (port: {port})"),
            FailureDetail::Ip(ip) => write_bracketed(&mut text, b"ip", ip),
            FailureDetail::PeerId(peer_id) => write_bracketed(&mut text, b"peer_id", &peer_id.0),
            FailureDetail::Torrent { status, left } => write!(text, " (status: {status}, left: {left})"),
            FailureDetail::Reason(reason) => write!(text, ": {reason}"),
        };
        text
    }

    /// Seconds the client is told to wait; 0 = it is told nothing.
    pub(super) fn interval_seconds(&self) -> u32 {
        match self.cause {
            BadRequest::NothingToScrape => 0,
            BadRequest::Refused(refusal) => refusal.interval_seconds(),
            _ => hayate_state::Refusal::InvalidPasskey.interval_seconds(),
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
    fn from(refusal: BadRequest) -> Self {
        Self { cause: refusal, detail: FailureDetail::None }
    }
}
