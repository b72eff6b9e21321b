//! Why a user is refused, and the text that they get.

use std::fmt;
use std::sync::Arc;

use crate::announce::Refusal;

/// A refusal, with the details that only the tracker knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub refusal: Refusal,
    /// For [`Refusal::UnavailableTorrent`]: the status of the torrent in the database; otherwise 0.
    pub status: i32,
    /// For [`Refusal::UnknownTorrent`]: why the torrent was deleted, if a reason was given; printable ASCII.
    pub reason: Option<Arc<str>>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, status: 0, reason: None }
    }
}

/// The text for the client, without the details that HTTP adds in brackets.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.refusal.text())?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}
