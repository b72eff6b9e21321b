//! Durable sessions that a start did not find in the snapshot: they began after it, or it is missing. A
//! session that announces again continues from its last totals. Empty in normal operation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::peer::{Moment, moment_from_unix};
use crate::clock::Now;
use crate::store::total::{SessionKey, SessionTotals};

/// Durable sessions that have not announced since the start.
#[derive(Debug, Default)]
pub(super) struct DormantSessions {
    /// The number of sessions: every new session reads it without the lock.
    left: AtomicUsize,
    sessions: Mutex<DormantMap>,
}

#[derive(Debug, Default)]
struct DormantMap {
    /// The totals of each session, and its last announce.
    sessions: HashMap<SessionKey, (SessionTotals, Moment)>,
    /// The last announce of all sessions.
    last: Moment,
}

impl DormantSessions {
    /// Replaces all dormant sessions.
    pub(super) fn replace_all(&self, sessions: HashMap<SessionKey, SessionTotals>, now: Now) {
        let heard = |totals: &SessionTotals| moment_from_unix(totals.announced.into(), now);
        let sessions: HashMap<_, _> =
            sessions.into_iter().map(|(key, totals)| (key, (totals, heard(&totals)))).collect();
        let last = sessions.values().map(|(_, heard)| *heard).max().unwrap_or(0);
        self.left.store(sessions.len(), Ordering::Relaxed);
        *self.sessions.lock() = DormantMap { sessions, last };
    }

    /// Takes a session out, unless it has been silent since `limit`. Once all of them have been, they are
    /// dropped.
    pub(super) fn take_session(&self, key: &SessionKey, limit: Moment) -> Option<(SessionTotals, Moment)> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut all = self.sessions.lock();
        if all.last < limit {
            *all = DormantMap::default();
        }
        let found = all.sessions.remove(key);
        self.left.store(all.sessions.len(), Ordering::Relaxed);
        found.filter(|(_, heard)| *heard >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PeerId;

    #[test]
    fn a_stray_is_known_once_and_until_it_was_silent_for_too_long() {
        let key = |user| SessionKey { torrent: 7, user, peer_id: PeerId::default() };
        let totals = |announced| SessionTotals { uploaded: 11, announced, ..SessionTotals::default() };
        let (dormant, now) = (DormantSessions::default(), Now::at(0));
        let started = u32::try_from(now.unix_seconds).unwrap();
        let [early, late] = [started - 200, started - 100];
        let moment = |announced: u32| moment_from_unix(announced.into(), now);
        let all = [(key(1), totals(early)), (key(2), totals(late)), (key(3), totals(late))];
        dormant.replace_all(all.into(), now);
        let take = |user, limit| dormant.take_session(&key(user), limit).map(|(totals, _)| totals);
        assert_eq!((take(4, moment(early)), take(1, moment(early) + 1)), (None, None));
        assert_eq!((take(2, moment(late)), take(2, moment(late))), (Some(totals(late)), None));
        assert_eq!((take(9, moment(late) + 1), dormant.left.into_inner()), (None, 0));
    }
}
