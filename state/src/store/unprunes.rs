//! Torrents that are live again here, while the store says that they are pruned.

use std::collections::HashSet;

use parking_lot::Mutex;

/// Ids of torrents that are live again here.
#[derive(Debug, Default)]
pub(super) struct Unprunes {
    /// The store has not heard of them.
    pub(super) pending: HashSet<u32>,
    /// It has since the reading that goes on began: what is read may be older.
    pub(super) acknowledged: Option<HashSet<u32>>,
}

/// A reading of the store, from before its first row is asked for until the last one counts. One at a time.
#[derive(Debug)]
pub struct SiteReading<'q>(pub(super) &'q Mutex<Unprunes>);

impl SiteReading<'_> {
    /// Has this torrent come back to life in a way that what is read need not know of?
    #[must_use]
    pub fn is_unpruned(&self, id: u32) -> bool {
        let unprunes = self.0.lock();
        unprunes.pending.contains(&id)
            || unprunes.acknowledged.as_ref().is_some_and(|heard| heard.contains(&id))
    }
}

impl Drop for SiteReading<'_> {
    fn drop(&mut self) {
        self.0.lock().acknowledged = None;
    }
}
