//! The totals that clients have reported, by session, kept beside the rows that were credited for them, so
//! that the next credit begins where the last durable row ended.

use std::collections::HashMap;
use std::io;

use super::frames::{self, PAYLOAD_MAX};
use crate::ids::{ID_LEN, PeerId};

/// Octets of a [`Total`] in a file.
pub(super) const TOTAL_LEN: usize = 4 + 4 + ID_LEN + 8 + 8 + 4 + 4 + 1;
/// First octet of a payload with totals.
pub(super) const TOTALS_TAG: u8 = b'=';
/// Totals in one frame, at most.
pub(super) const TOTALS_MAX: usize = (PAYLOAD_MAX - 1) / TOTAL_LEN;
/// Number of totals in memory from which on those of the same session are merged.
const MERGE_MIN: usize = 1 << 16;

/// The key of a session: one client of one user on one torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The site's id of the torrent.
    pub torrent: u32,
    /// The site's id of the user.
    pub user: u32,
    /// The `peer_id` of the client.
    pub peer_id: PeerId,
}

/// The totals that a session has reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionTotals {
    /// Octets the client says it has uploaded.
    pub uploaded: u64,
    /// Octets the client says it has downloaded.
    pub downloaded: u64,
    /// Its first announce, in Unix seconds.
    pub started: u32,
    /// Its last announce, in Unix seconds.
    pub announced: u32,
    /// Whether the session has ended with `stopped`.
    pub is_gone: bool,
}

/// A session and its totals.
pub type Total = (SessionKey, SessionTotals);

pub(super) fn encode_total(&(key, totals): &Total, to: &mut Vec<u8>) {
    to.extend(key.torrent.to_le_bytes());
    to.extend(key.user.to_le_bytes());
    to.extend(key.peer_id.0);
    to.extend(totals.uploaded.to_le_bytes());
    to.extend(totals.downloaded.to_le_bytes());
    to.extend(totals.started.to_le_bytes());
    to.extend(totals.announced.to_le_bytes());
    to.push(u8::from(totals.is_gone));
}

/// Returns `None` if there are too few octets.
pub(super) fn decode_total(octets: &[u8]) -> Option<Total> {
    let (torrent, octets) = octets.split_first_chunk()?;
    let (user, octets) = octets.split_first_chunk()?;
    let (peer_id, octets) = octets.split_first_chunk()?;
    let (uploaded, octets) = octets.split_first_chunk()?;
    let (downloaded, octets) = octets.split_first_chunk()?;
    let (started, octets) = octets.split_first_chunk()?;
    let (announced, octets) = octets.split_first_chunk()?;
    let key = SessionKey {
        torrent: u32::from_le_bytes(*torrent),
        user: u32::from_le_bytes(*user),
        peer_id: PeerId(*peer_id),
    };
    let totals = SessionTotals {
        uploaded: u64::from_le_bytes(*uploaded),
        downloaded: u64::from_le_bytes(*downloaded),
        started: u32::from_le_bytes(*started),
        announced: u32::from_le_bytes(*announced),
        is_gone: *octets.first()? != 0,
    };
    Some((key, totals))
}

/// Appends a frame with totals, at most [`TOTALS_MAX`].
pub(super) fn put_totals(to: &mut Vec<u8>, number: u64, totals: &[Total]) -> io::Result<()> {
    frames::put_frame(to, number, |to| {
        to.push(TOTALS_TAG);
        totals.iter().for_each(|total| encode_total(total, to));
        Ok(())
    })
}

/// Totals that wait for the next cut, in their order.
#[derive(Debug, Default)]
pub(super) struct PendingTotals {
    totals: Vec<Total>,
    merge_at: usize,
}

impl PendingTotals {
    /// Adds a total. If they are never taken out, their number stays bounded by that of the sessions.
    pub(super) fn push(&mut self, total: Total) {
        if self.totals.len() >= self.merge_at.max(MERGE_MIN) {
            self.totals = last_of_each(&self.totals);
            self.merge_at = 2 * self.totals.len();
        }
        self.totals.push(total);
    }

    /// Takes all totals out.
    pub(super) fn take_all(&mut self) -> Vec<Total> {
        self.merge_at = 0;
        // About as many will come until the next time.
        let room = Vec::with_capacity(self.totals.len().min(MERGE_MIN));
        std::mem::replace(&mut self.totals, room)
    }

    /// Puts totals back that were taken, before those added since.
    pub(super) fn put_back(&mut self, mut older: Vec<Total>) {
        older.append(&mut self.totals);
        self.totals = older;
    }
}

/// Returns the last total of each session.
pub(super) fn last_of_each(totals: &[Total]) -> Vec<Total> {
    // Not preallocated: there are often many totals of few sessions.
    let mut last = hashbrown::HashMap::new();
    for &(key, totals) in totals {
        last.insert(key, totals);
    }
    last.into_iter().collect()
}

/// All totals that are durable at a start, by which sessions are restored.
#[derive(Debug, Default)]
pub struct DurableTotals {
    pub(crate) sessions: HashMap<SessionKey, SessionTotals>,
    /// All sessions that announced later than this are here; `None` if nothing is known at all.
    pub(crate) since: Option<u32>,
    /// The last announce of all sessions.
    pub(crate) until: u32,
}

/// The origin of a session that is to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOrigin {
    /// A snapshot of this tracker: it may hold what never became durable.
    ThisTracker,
    /// The cache of another tracker, which has credited on its own.
    OtherTracker,
}

impl DurableTotals {
    /// Returns the totals to restore a session with whose remembered totals are `totals`; `None` if the
    /// session has ended.
    pub fn resolve_session(
        &mut self,
        key: &SessionKey,
        totals: SessionTotals,
        origin: SnapshotOrigin,
    ) -> Option<SessionTotals> {
        let Some(since) = self.since else { return Some(totals) };
        let known = self.sessions.get(key).copied();
        let overtaken = origin == SnapshotOrigin::OtherTracker
            && totals.announced > known.map_or(self.until, |it| it.announced);
        let known = match known {
            _ if overtaken => Some(totals),
            Some(known) => Some(known).filter(|known| !known.is_gone),
            // The session announced later, but none of that became durable, or it has ended.
            None if totals.announced > since => None,
            None => Some(totals),
        };
        self.sessions.remove(key);
        known
    }

    /// The sessions that were not remembered by any snapshot.
    #[must_use]
    pub fn into_unresolved(mut self) -> HashMap<SessionKey, SessionTotals> {
        self.sessions.retain(|_, totals| !totals.is_gone);
        self.sessions.shrink_to_fit();
        self.sessions
    }
}
