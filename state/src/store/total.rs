//! What clients have reported: the totals of each session, kept beside the rows that were credited for them, so
//! that what is credited next begins where the last durable row ended.

use std::collections::HashMap;
use std::io;

use super::frames::{self, PAYLOAD_MAX};
use crate::ids::{ID_LEN, PeerId};

/// Octets of a [`Total`] in a file.
pub(super) const TOTAL_LEN: usize = 4 + 4 + ID_LEN + 8 + 8 + 4 + 4 + 1;
/// First octet of a payload with totals.
pub(super) const TOTALS_TAG: u8 = b'=';
/// Totals in one frame.
pub(super) const TOTALS_MOST: usize = (PAYLOAD_MAX - 1) / TOTAL_LEN;
/// Totals in memory from which on those of the same session are merged.
const MERGE_LEAST: usize = 1 << 16;

/// Names a session: one client of one user on one torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The torrent, as the site numbers it.
    pub torrent: u32,
    /// The user, as the site numbers it.
    pub user: u32,
    /// What the client calls itself.
    pub peer_id: PeerId,
}

/// What a session has reported.
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
    /// It has said `stopped`: there is no session any more.
    pub is_gone: bool,
}

/// A session and what it has reported.
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

/// `None` where it is too short.
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

/// Adds a frame with totals, at most [`TOTALS_MOST`].
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
    /// Takes one more. Where nobody takes them out, it stays bounded by the number of sessions.
    pub(super) fn push(&mut self, total: Total) {
        if self.totals.len() >= self.merge_at.max(MERGE_LEAST) {
            self.totals = last_of_each(&self.totals);
            self.merge_at = 2 * self.totals.len();
        }
        self.totals.push(total);
    }

    /// Takes all of them out.
    pub(super) fn take_all(&mut self) -> Vec<Total> {
        self.merge_at = 0;
        // As many will come until the next time, about.
        let room = Vec::with_capacity(self.totals.len().min(MERGE_LEAST));
        std::mem::replace(&mut self.totals, room)
    }

    /// Puts those back that were taken, before what has come since.
    pub(super) fn put_back(&mut self, mut older: Vec<Total>) {
        older.append(&mut self.totals);
        self.totals = older;
    }
}

/// The last total of each session.
pub(super) fn last_of_each(totals: &[Total]) -> Vec<Total> {
    // It grows as it must: there are often many totals of few sessions.
    let mut last = hashbrown::HashMap::new();
    for &(key, totals) in totals {
        last.insert(key, totals);
    }
    last.into_iter().collect()
}

/// All totals that are durable at a start: what sessions are restored by.
#[derive(Debug, Default)]
pub struct DurableTotals {
    pub(crate) sessions: HashMap<SessionKey, SessionTotals>,
    /// All sessions that have announced later than this are here; `None` where nothing is known at all.
    pub(crate) since: Option<u32>,
    /// The last announce of all.
    pub(crate) until: u32,
}

/// Who remembers a session that is to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOrigin {
    /// A snapshot of this tracker: it may hold what never became durable.
    ThisTracker,
    /// The cache of another tracker, which has credited on its own.
    OtherTracker,
}

impl DurableTotals {
    /// What to restore a session with that `witness` remembers so; `None` where it is not one any more.
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
            // It has announced since, but nothing of that became durable, or it has gone.
            None if totals.announced > since => None,
            None => Some(totals),
        };
        self.sessions.remove(key);
        known
    }

    /// The sessions that nobody has remembered.
    #[must_use]
    pub fn into_unresolved(mut self) -> HashMap<SessionKey, SessionTotals> {
        self.sessions.retain(|_, totals| !totals.is_gone);
        self.sessions.shrink_to_fit();
        self.sessions
    }
}
