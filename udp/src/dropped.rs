//! [`Dropped`]: every reason for which a datagram is dropped or refused.

use std::fmt;

use hayate_state::Refusal as TrackerRefusal;

/// The reason for which a datagram is dropped or refused. Only [`Dropped::Refused`] is answered; for all
/// others there is silence, because their source is not proven or must not be answered
/// (`rules/udp.md#silence-until-verified`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The datagram is shorter than any request.
    Short,
    /// The datagram is longer than the receive buffer: what was cut off cannot be judged.
    Oversized,
    /// A connect lacks the magic number of the protocol.
    NotAConnect,
    /// The connection id was issued to this source too long ago.
    StaleConnection,
    /// The connection id was never issued to this source, or is older than 256 buckets.
    ForgedConnection,
    /// The datagram is an error reply of another tracker (action 3): two trackers that answered these would
    /// go on forever.
    ErrorReply,
    /// The source port is 0: it cannot be answered.
    SourcePortZero,
    /// The datagram claims to come from an address and port of this server.
    OwnEndpoint,
    /// The source is verified and gets the reason.
    Refused(ErrorReason),
}

/// The reason that a verified source gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorReason {
    /// BEP 15 has no such action.
    UnknownAction,
    /// The request is too short for its action, or a scrape without a whole info_hash.
    Malformed,
    /// The tracker itself has refused.
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
    /// The number of reasons.
    pub const COUNT: usize = BEFORE_TRACKER.len() + TrackerRefusal::ALL.len();

    /// Iterates over every reason, in the order of the counters.
    pub fn all() -> impl Iterator<Item = Self> {
        let tracker =
            TrackerRefusal::ALL.into_iter().map(|refusal| Self::Refused(ErrorReason::Tracker(refusal)));
        BEFORE_TRACKER.into_iter().chain(tracker)
    }

    /// Returns the position in [`Dropped::all`].
    #[must_use]
    pub fn index(self) -> usize {
        Self::all().position(|refusal| refusal == self).unwrap_or_default()
    }

    /// Returns the value of the label `error` of durations (`rules/operations.md#request-durations`).
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

    /// Returns the value of the label `reason` in metrics.
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
    /// Returns the text for the client: static, printable ASCII, at most 72 octets, without a NUL.
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
