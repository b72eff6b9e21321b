//! Sessions that a start knows from what is durable, but not from the snapshot: they began after it, or it is
//! missing. Whoever of them announces again goes on where it was. Empty in normal life.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::peer::Seconds;
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
    sessions: HashMap<SessionKey, Standing>,
    /// The last announce of all.
    last: Seconds,
}

impl Strays {
    /// Remembers these, and nothing else.
    pub(super) fn put(&self, sessions: HashMap<SessionKey, Standing>) {
        let last = sessions.values().map(|standing| standing.announced).max().unwrap_or(0);
        self.left.store(sessions.len(), Ordering::Relaxed);
        *self.sessions.lock() = Sessions { sessions, last };
    }

    /// Takes a session out, unless it was silent since `limit`. When all of them were, they are forgotten.
    pub(super) fn take(&self, key: &SessionKey, limit: Seconds) -> Option<Standing> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut all = self.sessions.lock();
        if all.last < limit {
            *all = Sessions::default();
        }
        let found = all.sessions.remove(key);
        self.left.store(all.sessions.len(), Ordering::Relaxed);
        found.filter(|standing| standing.announced >= limit)
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
        let strays = Strays::default();
        strays.put([(key(1), standing(100)), (key(2), standing(200)), (key(3), standing(200))].into());
        assert_eq!((strays.take(&key(4), 150), strays.take(&key(1), 101)), (None, None));
        assert_eq!((strays.take(&key(2), 200), strays.take(&key(2), 200)), (Some(standing(200)), None));
        assert_eq!((strays.take(&key(9), 201), strays.left.into_inner()), (None, 0));
    }
}
