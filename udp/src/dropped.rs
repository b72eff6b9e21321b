//! Every reason for which a datagram is not answered as its sender wished.

use std::fmt;

use hayate_state::Refusal as TrackerRefusal;

/// Why a datagram was dropped, or its source told why not. Only [`Dropped::Refused`] is answered; all others are silence, because their
/// source is not proven or must not be answered (`rules/udp.md#silence-until-verified`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Fewer octets than any request has.
    Short,
    /// Longer than the receive buffer: what was cut off cannot be judged.
    Oversized,
    /// A connect without the protocol's magic number.
    NotAConnect,
    /// A connection id that was ours for this source, too long ago.
    StaleConnection,
    /// A connection id that was never ours for this source, or is older than the keeper can tell.
    ForgedConnection,
    /// Another tracker's error reply (action 3); two trackers that answered these would talk for ever.
    ErrorReply,
    /// Source port 0: nobody is there to be answered.
    SourcePortZero,
    /// The datagram claims to come from where it went to.
    OwnEndpoint,
    /// The source is verified and is told the reason.
    Refused(ErrorReason),
}

/// What a verified source is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorReason {
    /// An action that BEP 15 does not know.
    UnknownAction,
    /// Too short for its action, or a scrape without a whole info_hash.
    Malformed,
    /// The tracker itself refused.
    Tracker(TrackerRefusal),
}

/// Reasons of this crate, in the order of the counters; those of the tracker follow.
const BEFORE_TRACKER: [Dropped; 10] = [
    Dropped::Short,
    Dropped::Oversized,
    Dropped::NotAConnect,
    Dropped::StaleConnection,
    Dropped::ForgedConnection,
    Dropped::ErrorReply,
    Dropped::SourcePortZero,
    Dropped::OwnEndpoint,
    Dropped::Refused(ErrorReason::UnknownAction),
    Dropped::Refused(ErrorReason::Malformed),
];

impl Dropped {
    /// How many reasons there are.
    pub const COUNT: usize = BEFORE_TRACKER.len() + TrackerRefusal::ALL.len();

    /// Every reason, in the order of the counters.
    pub fn all() -> impl Iterator<Item = Self> {
        let tracker =
            TrackerRefusal::ALL.into_iter().map(|refusal| Self::Refused(ErrorReason::Tracker(refusal)));
        BEFORE_TRACKER.into_iter().chain(tracker)
    }

    /// The place in [`Dropped::all`].
    #[must_use]
    pub fn index(self) -> usize {
        Self::all().position(|refusal| refusal == self).unwrap_or_default()
    }

    /// The value of the label `error` of durations (`rules/operations.md#request-durations`).
    #[must_use]
    pub fn error_label(self) -> &'static str {
        match self {
            Self::Short | Self::Oversized | Self::ErrorReply | Self::SourcePortZero | Self::OwnEndpoint => {
                ErrorReason::Malformed.text()
            }
            Self::NotAConnect | Self::StaleConnection | Self::ForgedConnection => "bad connection ID",
            Self::Refused(reason) => reason.text(),
        }
    }

    /// The value of the label `reason` in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Oversized => "oversized",
            Self::NotAConnect => "not_a_connect",
            Self::StaleConnection => "stale_connection",
            Self::ForgedConnection => "forged_connection",
            Self::ErrorReply => "error_reply",
            Self::SourcePortZero => "source_port_zero",
            Self::OwnEndpoint => "own_endpoint",
            Self::Refused(ErrorReason::UnknownAction) => "unknown_action",
            Self::Refused(ErrorReason::Malformed) => "malformed",
            Self::Refused(ErrorReason::Tracker(refusal)) => refusal.label(),
        }
    }
}

/// The label, as scenarios name it.
impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl ErrorReason {
    /// The text for the client: static, printable ASCII, at most 64 octets, without a NUL.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::UnknownAction => "unknown action ID",
            Self::Malformed => "malformed packet",
            Self::Tracker(refusal) => refusal.text(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::wire::reply::ERROR_TEXT_MAX;

    #[test]
    fn every_reason_has_its_own_place_and_label() {
        assert_eq!(Dropped::all().count(), Dropped::COUNT);
        assert!(Dropped::all().enumerate().all(|(index, refusal)| refusal.index() == index));
        assert_eq!(Dropped::all().map(Dropped::label).collect::<HashSet<_>>().len(), Dropped::COUNT);
    }

    #[test]
    fn texts_are_short_printable_ascii() {
        for refusal in Dropped::all() {
            let Dropped::Refused(reason) = refusal else { continue };
            let text = reason.text();
            assert!((1..=ERROR_TEXT_MAX).contains(&text.len()), "{text}");
            assert!(text.bytes().all(|octet| (0x20..0x7f).contains(&octet)), "{text}");
        }
    }
}
