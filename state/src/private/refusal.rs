//! Why a user is refused, and what he is told.

use std::fmt;
use std::sync::Arc;

use crate::announce::Refusal;

/// A refusal, with what only the tracker knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// Of [`Refusal::UnavailableTorrent`]: what the database says of the torrent; else 0.
    pub status: i32,
    /// Of [`Refusal::UnknownTorrent`]: why the torrent was deleted, if anybody said; printable ASCII.
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
