//! What a member is told who is refused: texts and intervals of `rules/private.md#failures`.

use std::io::Write as _;

use hayate_state::PeerId;
use hayate_state::private::Refused;

use crate::engine::bad_request::BadRequest;

/// A malformed request. The texts are the reference tracker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrictBadRequest {
    /// No `info_hash` of twenty octets.
    MissingInfoHash,
    /// More than one.
    ManyInfoHashes,
    /// No `peer_id`, or an empty one.
    MissingPeerId,
    /// A `peer_id` that is not twenty octets long.
    InvalidPeerId,
    /// No `port`.
    MissingPort,
    /// A `port` that is no number up to 65535.
    InvalidPort,
    /// No `uploaded`.
    MissingUploaded,
    /// An `uploaded` that is no number below 2^64.
    InvalidUploaded,
    /// No `downloaded`.
    MissingDownloaded,
    /// A `downloaded` that is no number below 2^64.
    InvalidDownloaded,
    /// No `left`.
    MissingLeft,
    /// A `left` that is no number below 2^64.
    InvalidLeft,
    /// A `numwant` that is no number.
    InvalidNumWant,
    /// `ip` and `ipv4` name different IPv4 addresses.
    InvalidAddress,
    /// A scrape without an `info_hash`.
    NothingToScrape,
}

impl StrictBadRequest {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 15] = [
        Self::MissingInfoHash,
        Self::ManyInfoHashes,
        Self::MissingPeerId,
        Self::InvalidPeerId,
        Self::MissingPort,
        Self::InvalidPort,
        Self::MissingUploaded,
        Self::InvalidUploaded,
        Self::MissingDownloaded,
        Self::InvalidDownloaded,
        Self::MissingLeft,
        Self::InvalidLeft,
        Self::InvalidNumWant,
        Self::InvalidAddress,
        Self::NothingToScrape,
    ];

    /// The text for the client.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::MissingInfoHash => "Malformed request - missing info_hash",
            Self::ManyInfoHashes => "Malformed request - can only announce singular info_hash",
            Self::MissingPeerId => "Malformed request - missing peer_id",
            Self::InvalidPeerId => "Malformed request - invalid peer_id",
            Self::MissingPort => "Malformed request - missing port",
            Self::InvalidPort => "Malformed request - invalid port",
            Self::MissingUploaded => "Malformed request - missing uploaded",
            Self::InvalidUploaded => "Malformed request - invalid uploaded",
            Self::MissingDownloaded => "Malformed request - missing downloaded",
            Self::InvalidDownloaded => "Malformed request - invalid downloaded",
            Self::MissingLeft => "Malformed request - missing left",
            Self::InvalidLeft => "Malformed request - invalid left",
            Self::InvalidNumWant => "Malformed request - invalid numwant",
            Self::InvalidAddress => "Invalid IPv4 address",
            Self::NothingToScrape => "Unsupported request - must provide at least one info_hash",
        }
    }

    /// The value of the label `reason` in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::MissingInfoHash => "missing_info_hash",
            Self::ManyInfoHashes => "many_info_hashes",
            Self::MissingPeerId => "missing_peer_id",
            Self::InvalidPeerId => "malformed_peer_id",
            Self::MissingPort => "missing_port",
            Self::InvalidPort => "malformed_port",
            Self::MissingUploaded => "missing_uploaded",
            Self::InvalidUploaded => "malformed_uploaded",
            Self::MissingDownloaded => "missing_downloaded",
            Self::InvalidDownloaded => "malformed_downloaded",
            Self::MissingLeft => "missing_left",
            Self::InvalidLeft => "malformed_left",
            Self::InvalidNumWant => "malformed_numwant",
            Self::InvalidAddress => "contradicting_address",
            Self::NothingToScrape => "nothing_to_scrape",
        }
    }
}

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
        let mut text = self.cause.text().as_bytes().to_vec();
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
            BadRequest::Strict(StrictBadRequest::NothingToScrape) => 0,
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

impl From<StrictBadRequest> for FailureReason {
    fn from(fault: StrictBadRequest) -> Self {
        Self { cause: BadRequest::Strict(fault), detail: FailureDetail::None }
    }
}

impl From<BadRequest> for FailureReason {
    fn from(refusal: BadRequest) -> Self {
        Self { cause: refusal, detail: FailureDetail::None }
    }
}
