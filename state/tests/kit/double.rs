//! Stores of tests: what a test does not say itself another store does, or none at all.

use hayate_state::InfoHash;
use hayate_state::store::{
    Batch, Channel, PurgeProgress, PurgeSlice, Saved, SiteRow, SiteSet, Store, StoreError, Tables,
};

/// Keeps nothing, shows nothing, refuses nothing.
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
        Ok(())
    }
}

type Work<'w> = &'w mut dyn FnMut(&mut dyn Tables) -> Result<(), StoreError>;

/// The parts of a store that a test overrides; [`Doubled`] is the store.
pub(crate) trait Double: Send {
    /// The store behind, which does what is not overridden.
    fn rest(&mut self) -> &mut dyn Store {
        // It has no size: nothing is allocated, and nothing lost.
        Box::leak(Box::new(Nothing))
    }

    /// See [`Store::save`].
    fn save(&mut self, batch: &Batch) -> Result<Saved, StoreError> {
        self.rest().save(batch)
    }

    /// See [`Store::rehearse`].
    fn rehearse(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.rest().rehearse(batch)
    }

    /// See [`Store::acknowledged`].
    fn acknowledged(&mut self, channel: Channel) -> Result<Option<u64>, StoreError> {
        self.rest().acknowledged(channel)
    }

    /// See [`Store::read_rows`].
    fn lines(&mut self, set: SiteSet, each: &mut dyn FnMut(Option<SiteRow>)) -> Result<u64, StoreError> {
        self.rest().read_rows(set, each)
    }

    /// See [`Store::purge`].
    fn purge(&mut self, slice: &PurgeSlice) -> Result<PurgeProgress, StoreError> {
        self.rest().purge(slice)
    }
}

/// A store that is what a test says.
pub(crate) struct Doubled<D>(pub(crate) D);

impl<D: Double> Store for Doubled<D> {
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
        self.0.rest().read_completed(most, each)
    }

    fn read_registered(&mut self) -> Result<(Vec<InfoHash>, u64), StoreError> {
        self.0.rest().read_registered()
    }

    fn read_rows(&mut self, set: SiteSet, each: &mut dyn FnMut(Option<SiteRow>)) -> Result<u64, StoreError> {
        self.0.lines(set, each)
    }

    fn purge(&mut self, slice: &PurgeSlice) -> Result<PurgeProgress, StoreError> {
        self.0.purge(slice)
    }

    fn edit(&mut self, work: Work<'_>) -> Result<(), StoreError> {
        self.0.rest().edit(work)
    }
}
