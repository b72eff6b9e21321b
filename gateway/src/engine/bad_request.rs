//! Why a request is refused, in the client's words. The texts are static and never echo what the client sent.

use crate::engine::private::failure::StrictBadRequest;

/// The peer's fault. The client is told [`BadRequest::text`] as `failure reason`, with status 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub enum BadRequest {
    /// A parameter that is used holds a `%` without two hexadecimal digits.
    InvalidEscape,
    /// An `info_hash` that is not twenty octets long.
    InvalidInfoHash,
    /// No `info_hash` at all.
    NoInfoHash,
    /// An announce of more than one torrent.
    ManyInfoHashes,
    /// No `peer_id`.
    NoPeerId,
    /// A `peer_id` that is not twenty octets long.
    InvalidPeerId,
    /// A `port` that is absent or no number up to 65535.
    UnreadablePort,
    /// Nobody knows who the client is: the proxy's header or the claimed address cannot be read.
    UnreadableAddress,
    /// What the tracker itself refuses.
    Refused(hayate_state::Refusal),
    /// What is malformed by the rules of mode private.
    Strict(StrictBadRequest),
}

/// Reasons of this crate in the open modes, in the order of the counters.
const OPEN_MODE: [BadRequest; 8] = [
    BadRequest::InvalidEscape,
    BadRequest::InvalidInfoHash,
    BadRequest::NoInfoHash,
    BadRequest::ManyInfoHashes,
    BadRequest::NoPeerId,
    BadRequest::InvalidPeerId,
    BadRequest::UnreadablePort,
    BadRequest::UnreadableAddress,
];

impl BadRequest {
    /// How many there are.
    pub const COUNT: usize = OPEN_MODE.len() + hayate_state::Refusal::ALL.len() + StrictBadRequest::ALL.len();

    /// Every variant, in the order of the counters.
    pub fn all() -> impl Iterator<Item = Self> {
        let tracker = hayate_state::Refusal::ALL.into_iter().map(Self::Refused);
        OPEN_MODE.into_iter().chain(tracker).chain(StrictBadRequest::ALL.into_iter().map(Self::Strict))
    }

    /// The text for the client.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::InvalidEscape => "invalid query escape",
            Self::InvalidInfoHash => "provided invalid infohash",
            Self::NoInfoHash => "no info_hash parameter supplied",
            Self::ManyInfoHashes => "multiple info_hash parameters supplied",
            Self::NoPeerId => "failed to parse parameter: peer_id",
            Self::InvalidPeerId => "failed to provide valid peer_id",
            Self::UnreadablePort => "failed to parse parameter: port",
            Self::UnreadableAddress => "failed to parse peer IP address",
            Self::Refused(refusal) => refusal.text(),
            Self::Strict(fault) => fault.text(),
        }
    }

    /// The value of the label `reason` in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::InvalidEscape => "invalid_query_escape",
            Self::InvalidInfoHash => "invalid_info_hash",
            Self::NoInfoHash => "no_info_hash",
            Self::ManyInfoHashes => "multiple_info_hashes",
            Self::NoPeerId => "no_peer_id",
            Self::InvalidPeerId => "invalid_peer_id",
            Self::UnreadablePort => "unreadable_port",
            Self::UnreadableAddress => "unreadable_address",
            Self::Refused(refusal) => refusal.label(),
            Self::Strict(fault) => fault.label(),
        }
    }
}

impl From<hayate_state::Refusal> for BadRequest {
    fn from(refusal: hayate_state::Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_printable_text_and_a_label_of_its_own() {
        let all: Vec<_> = BadRequest::all().collect();
        assert_eq!(all.len(), BadRequest::COUNT);
        for (at, refusal) in all.iter().enumerate() {
            assert!(refusal.text().bytes().all(|octet| (0x20..0x7f).contains(&octet)));
            for other in &all[..at] {
                assert_ne!(refusal.label(), other.label());
            }
        }
    }
}
