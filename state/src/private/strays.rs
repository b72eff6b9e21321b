//! Sessions that a start knows from what is durable, but not from the snapshot: they began after it, or it is
//! missing. Whoever of them announces again goes on where it was. Empty in normal life.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::peer::{Moment, moment_of};
use crate::clock::Now;
use crate::store::total::{SessionKey, Standing};

/// Sessions that have not announced since the start.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// How many there are: asked without the lock by every session that is new.
    left: AtomicUsize,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    /// What each has told, and when it was heard of.
    sessions: HashMap<SessionKey, (Standing, Moment)>,
    /// The last announce of all.
    last: Moment,
}

impl Strays {
    /// Remembers these, and nothing else.
    pub(super) fn put(&self, sessions: HashMap<SessionKey, Standing>, now: Now) {
        let heard = |standing: &Standing| moment_of(standing.announced.into(), now);
        let sessions: HashMap<_, _> =
            sessions.into_iter().map(|(key, standing)| (key, (standing, heard(&standing)))).collect();
        let last = sessions.values().map(|(_, heard)| *heard).max().unwrap_or(0);
        self.left.store(sessions.len(), Ordering::Relaxed);
        *self.sessions.lock() = Sessions { sessions, last };
    }

    /// Takes a session out, unless it was silent since `limit`. When all of them were, they are forgotten.
    pub(super) fn take(&self, key: &SessionKey, limit: Moment) -> Option<(Standing, Moment)> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut all = self.sessions.lock();
        if all.last < limit {
            *all = Sessions::default();
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
        let standing = |announced| Standing { uploaded: 11, announced, ..Standing::default() };
        let (strays, now) = (Strays::default(), Now::at(0));
        let started = u32::try_from(now.unix_seconds).unwrap();
        let [early, late] = [started - 200, started - 100];
        let moment = |announced: u32| moment_of(announced.into(), now);
        let all = [(key(1), standing(early)), (key(2), standing(late)), (key(3), standing(late))];
        strays.put(all.into(), now);
        let take = |user, limit| strays.take(&key(user), limit).map(|(standing, _)| standing);
        assert_eq!((take(4, moment(early)), take(1, moment(early) + 1)), (None, None));
        assert_eq!((take(2, moment(late)), take(2, moment(late))), (Some(standing(late)), None));
        assert_eq!((take(9, moment(late) + 1), strays.left.into_inner()), (None, 0));
    }
}
