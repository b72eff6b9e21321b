//! Test doubles for [`Store`]: a test overrides some methods; a fallback store, by default [`Nothing`], does
//! the rest.

use hayate_state::InfoHash;
use hayate_state::store::{
    Batch, Channel, PurgeProgress, PurgeSlice, Saved, SiteRow, SiteSet, Store, StoreError, Tables,
};

/// What [`Store::edit`] runs in its transaction.
type Work<'w> = &'w mut dyn FnMut(&mut dyn Tables) -> Result<(), StoreError>;

/// A store that discards every batch and is always empty.
pub(crate) struct Nothing;

impl Store for Nothing {
    fn save(&mut self, _: &Batch) -> Result<Saved, StoreError> {
        Ok(Saved::default())
    }

    fn rehearse(&mut self, _: &Batch) -> Result<(), StoreError> {
        Ok(())
    }

    fn acknowledged(&mut self, _: Channel) -> Result<Option<u64>, StoreError> {
        Ok(Some(0))
    }

    fn read_completed(&mut self, _: usize, _: &mut dyn FnMut(InfoHash, u32)) -> Result<(), StoreError> {
        Ok(())
    }

    fn read_registered(&mut self) -> Result<(Vec<InfoHash>, u64), StoreError> {
        Ok((Vec::new(), 0))
    }

    fn read_rows(&mut self, _: SiteSet, _: &mut dyn FnMut(Option<SiteRow>)) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn edit(&mut self, _: Work<'_>) -> Result<(), StoreError> {
        // There are no tables to work on.
        Ok(())
    }
}

/// The methods of [`Store`] that a test may override; the others go to [`fallback`](Self::fallback).
pub(crate) trait StoreOverrides: Send {
    /// The store that handles what is not overridden.
    fn fallback(&mut self) -> &mut dyn Store {
        // `Nothing` is zero-sized, so the leak costs no memory.
        Box::leak(Box::new(Nothing))
    }

    /// See [`Store::save`].
    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError> {
        self.fallback().save(batch)
    }

    /// See [`Store::rehearse`].
    fn rehearse(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.fallback().rehearse(batch)
    }

    /// See [`Store::acknowledged`].
    fn acknowledged(&mut self, channel: Channel) -> Result<Option<u64>, StoreError> {
        self.fallback().acknowledged(channel)
    }

    /// See [`Store::read_rows`].
    fn read_rows(&mut self, set: SiteSet, each: &mut dyn FnMut(Option<SiteRow>)) -> Result<u64, StoreError> {
        self.fallback().read_rows(set, each)
    }

    /// See [`Store::purge`].
    fn purge(&mut self, slice: &PurgeSlice) -> Result<PurgeProgress, StoreError> {
        self.fallback().purge(slice)
    }
}

/// Adapts [`StoreOverrides`] to [`Store`].
pub(crate) struct OverriddenStore<O>(pub(crate) O);

impl<O: StoreOverrides> Store for OverriddenStore<O> {
    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError> {
        self.0.save(batch)
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.0.rehearse(batch)
    }

    fn acknowledged(&mut self, channel: Channel) -> Result<Option<u64>, StoreError> {
        self.0.acknowledged(channel)
    }

    fn read_completed(&mut self, most: usize, each: &mut dyn FnMut(InfoHash, u32)) -> Result<(), StoreError> {
        self.0.fallback().read_completed(most, each)
    }

    fn read_registered(&mut self) -> Result<(Vec<InfoHash>, u64), StoreError> {
        self.0.fallback().read_registered()
    }

    fn read_rows(&mut self, set: SiteSet, each: &mut dyn FnMut(Option<SiteRow>)) -> Result<u64, StoreError> {
        self.0.read_rows(set, each)
    }

    fn purge(&mut self, slice: &PurgeSlice) -> Result<PurgeProgress, StoreError> {
        self.0.purge(slice)
    }

    fn edit(&mut self, work: Work<'_>) -> Result<(), StoreError> {
        self.0.fallback().edit(work)
    }

    // `has_lost_its_file` is not forwarded: it borrows the store shared, and the fallback exclusively.
}
