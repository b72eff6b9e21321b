//! A store that records what is written to it, to be read at the end.

use std::sync::Arc;

use hayate_state::store::record::{SnatchRow, TorrentRow, TransferRow, UserRow};
use hayate_state::store::{
    Batch, Bounds, OpenedStore, Queues, Record, Saved, SpillPaths, Store, StoreError, WriterSettings,
};
use hayate_state::{Clock, Published};
use parking_lot::Mutex;

use crate::double::{OverriddenStore, StoreOverrides};

#[derive(Clone, Default)]
struct RecordingStore(Arc<Mutex<Vec<Record>>>);

/// The rows recorded for one torrent and one user; rows of addresses are left out.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) torrent: Option<TorrentRow>,
    pub(crate) user: Option<UserRow>,
    pub(crate) transfer: Option<TransferRow>,
    pub(crate) snatch: Option<SnatchRow>,
}

/// Returns all records that `work` puts, those of one row merged; by channel, then by row.
pub(crate) fn records_of(work: impl FnOnce(Arc<Queues>)) -> Vec<Record> {
    let (folder, store, clock) = (tempfile::tempdir().unwrap(), RecordingStore::default(), Clock::start());
    let queues = Arc::new(Queues::new(clock, &Bounds::default()));
    work(Arc::clone(&queues));
    let paths =
        SpillPaths { spill_dir: folder.path().into(), dead_letter: folder.path().join("dead-letter") };
    let settings = Published::new(WriterSettings::default());
    let kept = store.clone();
    let opener = Box::new(move || Ok(Box::new(OverriddenStore(kept.clone())) as Box<dyn Store>));
    OpenedStore::new(&queues, clock, &settings, &paths, opener).unwrap().start().unwrap().stop();
    let mut records = std::mem::take(&mut *store.0.lock());
    records.sort_by_key(|record| (record.channel(), record.key()));
    records.dedup_by(|later, record| {
        let same = (later.channel(), later.key()) == (record.channel(), record.key());
        if same {
            record.merge(later);
        }
        same
    });
    records
}

impl StoreOverrides for RecordingStore {
    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError> {
        self.0.lock().extend(&batch.records);
        Ok(Saved::default())
    }
}
