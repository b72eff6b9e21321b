//! Torrents that are live again here while the store still says that they are pruned.

use std::collections::HashSet;

use parking_lot::Mutex;

/// Ids of torrents that are live again here.
#[derive(Debug, Default)]
pub(super) struct Unprunes {
    /// The store does not know of them yet.
    pub(super) pending: HashSet<u32>,
    /// The store learned of them since the current read began: the rows read may be older.
    pub(super) acknowledged: Option<HashSet<u32>>,
}

/// A read of the torrents from the store, from before its first row until the rows are applied. One at a
/// time.
#[derive(Debug)]
pub struct SiteReading<'q>(pub(super) &'q Mutex<Unprunes>);

impl SiteReading<'_> {
    /// Whether this torrent came back to life in a way that the rows read may not show.
    #[must_use]
    pub fn is_unpruned(&self, id: u32) -> bool {
        let unprunes = self.0.lock();
        unprunes.pending.contains(&id) || unprunes.acknowledged.as_ref().is_some_and(|ids| ids.contains(&id))
    }
}

impl Drop for SiteReading<'_> {
    fn drop(&mut self) {
        self.0.lock().acknowledged = None;
    }
}
