//! Why a request is refused, in the client's words. The texts are static and never echo what the client sent.

use crate::wire::query::QueryRules;

/// A request that is not served: malformed, or refused by the tracker. The client gets the text of
/// [`BadRequest::words`] as `failure reason`, with status 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// A parameter that is used holds a `%` without two hexadecimal digits.
    InvalidEscape,
    /// An `info_hash` that is not twenty octets long.
    InvalidInfoHash,
    /// No `info_hash` at all.
    MissingInfoHash,
    /// An announce of more than one torrent.
    ManyInfoHashes,
    /// No `peer_id`; in mode private an empty one, too.
    MissingPeerId,
    /// A `peer_id` that is not twenty octets long.
    InvalidPeerId,
    /// No `port`, in mode private.
    MissingPort,
    /// A `port` that is not a number up to 65535; in the open modes, one that is absent, too.
    InvalidPort,
    /// No `uploaded`.
    MissingUploaded,
    /// An `uploaded` that is not a number below 2^64.
    InvalidUploaded,
    /// No `downloaded`.
    MissingDownloaded,
    /// A `downloaded` that is not a number below 2^64.
    InvalidDownloaded,
    /// No `left`.
    MissingLeft,
    /// A `left` that is not a number below 2^64.
    InvalidLeft,
    /// A `numwant` that is not a number.
    InvalidNumWant,
    /// The client's address is unknown: the proxy's header or the claimed address cannot be read.
    UnreadableAddress,
    /// `ip` and `ipv4` name different IPv4 addresses.
    ContradictingAddress,
    /// A scrape without an `info_hash`, in mode private.
    NothingToScrape,
    /// What the tracker itself refuses.
    Refused(hayate_state::Refusal),
}

/// Malformed requests of the open modes, in the order of the counters.
const OPEN: [BadRequest; 8] = [
    BadRequest::InvalidEscape,
    BadRequest::InvalidInfoHash,
    BadRequest::MissingInfoHash,
    BadRequest::ManyInfoHashes,
    BadRequest::MissingPeerId,
    BadRequest::InvalidPeerId,
    BadRequest::InvalidPort,
    BadRequest::UnreadableAddress,
];

/// Malformed requests for which mode private has a text of its own, in the order of the counters.
const PRIVATE: [BadRequest; 15] = [
    BadRequest::MissingInfoHash,
    BadRequest::ManyInfoHashes,
    BadRequest::MissingPeerId,
    BadRequest::InvalidPeerId,
    BadRequest::MissingPort,
    BadRequest::InvalidPort,
    BadRequest::MissingUploaded,
    BadRequest::InvalidUploaded,
    BadRequest::MissingDownloaded,
    BadRequest::InvalidDownloaded,
    BadRequest::MissingLeft,
    BadRequest::InvalidLeft,
    BadRequest::InvalidNumWant,
    BadRequest::ContradictingAddress,
    BadRequest::NothingToScrape,
];

/// What a refusal is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalWords {
    /// The text for the client.
    pub text: &'static str,
    /// The value of the label `reason` in metrics.
    pub label: &'static str,
}

impl BadRequest {
    /// The number of refusals that are counted apart.
    pub const COUNT: usize = OPEN.len() + hayate_state::Refusal::ALL.len() + PRIVATE.len();

    /// Every refusal that is counted apart, and how the request was read, in the order of the counters.
    pub fn all() -> impl Iterator<Item = (Self, QueryRules)> {
        let open = OPEN.into_iter().map(|kind| (kind, QueryRules::Open));
        // The tracker's own are the same in all modes.
        let tracker = hayate_state::Refusal::ALL.into_iter().map(|why| (why.into(), QueryRules::Open));
        open.chain(tracker).chain(PRIVATE.into_iter().map(|kind| (kind, QueryRules::Private)))
    }

    /// The position in [`all`](Self::all). Mode private shares the row of the open modes where it has none.
    #[must_use]
    pub fn counter_index(self, rules: QueryRules) -> Option<usize> {
        let of_mode = Self::all().position(|row| row == (self, rules));
        of_mode.or_else(|| Self::all().position(|(kind, _)| kind == self))
    }

    /// The text for the client and the label in metrics, both as they are for requests read like this. The
    /// texts of mode private are the reference tracker's (`rules/private.md#failures`).
    #[must_use]
    pub fn words(self, rules: QueryRules) -> RefusalWords {
        use QueryRules::{Open, Private};
        let (text, label) = match (self, rules) {
            (Self::InvalidEscape, _) => ("invalid query escape", "invalid_query_escape"),
            (Self::InvalidInfoHash, _) => ("provided invalid infohash", "invalid_info_hash"),
            (Self::MissingInfoHash, Open) => ("no info_hash parameter supplied", "no_info_hash"),
            (Self::MissingInfoHash, Private) => {
                ("Malformed request - missing info_hash", "missing_info_hash")
            }
            (Self::ManyInfoHashes, Open) => {
                ("multiple info_hash parameters supplied", "multiple_info_hashes")
            }
            (Self::ManyInfoHashes, Private) => {
                ("Malformed request - can only announce singular info_hash", "many_info_hashes")
            }
            (Self::MissingPeerId, Open) => ("failed to parse parameter: peer_id", "no_peer_id"),
            (Self::MissingPeerId, Private) => ("Malformed request - missing peer_id", "missing_peer_id"),
            (Self::InvalidPeerId, Open) => ("failed to provide valid peer_id", "invalid_peer_id"),
            (Self::InvalidPeerId, Private) => ("Malformed request - invalid peer_id", "malformed_peer_id"),
            (Self::InvalidPort, Open) => ("failed to parse parameter: port", "unreadable_port"),
            (Self::InvalidPort, Private) => ("Malformed request - invalid port", "malformed_port"),
            (Self::UnreadableAddress, _) => ("failed to parse peer IP address", "unreadable_address"),
            (Self::MissingPort, _) => ("Malformed request - missing port", "missing_port"),
            (Self::MissingUploaded, _) => ("Malformed request - missing uploaded", "missing_uploaded"),
            (Self::InvalidUploaded, _) => ("Malformed request - invalid uploaded", "malformed_uploaded"),
            (Self::MissingDownloaded, _) => ("Malformed request - missing downloaded", "missing_downloaded"),
            (Self::InvalidDownloaded, _) => {
                ("Malformed request - invalid downloaded", "malformed_downloaded")
            }
            (Self::MissingLeft, _) => ("Malformed request - missing left", "missing_left"),
            (Self::InvalidLeft, _) => ("Malformed request - invalid left", "malformed_left"),
            (Self::InvalidNumWant, _) => ("Malformed request - invalid numwant", "malformed_numwant"),
            (Self::ContradictingAddress, _) => ("Invalid IPv4 address", "contradicting_address"),
            (Self::NothingToScrape, _) => {
                ("Unsupported request - must provide at least one info_hash", "nothing_to_scrape")
            }
            (Self::Refused(refusal), _) => (refusal.text(), refusal.label()),
        };
        RefusalWords { text, label }
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
        for (at, (refusal, rules)) in all.iter().enumerate() {
            let words = refusal.words(*rules);
            assert!(words.text.bytes().all(|octet| (0x20..0x7f).contains(&octet)));
            assert_eq!(refusal.counter_index(*rules), Some(at));
            for (other, rules) in &all[..at] {
                assert_ne!(words.label, other.words(*rules).label);
            }
        }
    }

    #[test]
    fn what_mode_private_has_no_words_for_is_told_and_counted_as_in_the_open_modes() {
        let unreadable = BadRequest::UnreadableAddress;
        assert_eq!(unreadable.words(QueryRules::Private), unreadable.words(QueryRules::Open));
        assert_eq!(unreadable.counter_index(QueryRules::Private), Some(7));
    }
}
