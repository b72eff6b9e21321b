//! Where in its array is a peer? An index that grows and shrinks one small table at a time (linear hashing),
//! so that not even a swarm of millions stops for a rehash under its lock.

use hashbrown::HashTable;

/// Peers of a table on average at which one more table is split off.
const SPLIT_AT: usize = 1024;
/// Peers of a table on average below which the last table is merged back.
const MERGE_AT: usize = 256;

/// Places by hash. Several places may have one hash.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Never empty while there are places. Table `n` was split off from table `n` without its highest bit.
    tables: Vec<HashTable<u32>>,
    len: usize,
    /// Octets of the tables' blocks; asked at each announce, so that they are not summed each time.
    blocks: usize,
}

impl Index {
    pub(crate) fn with_capacity(places: usize) -> Self {
        let table = HashTable::with_capacity(places);
        let blocks = table.allocation_size();
        Self { tables: vec![table], len: 0, blocks }
    }

    pub(crate) fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        self.tables.get(self.table(hash))?.find(hash, |&place| same(place)).copied()
    }

    /// How many places of this hash fit.
    pub(crate) fn count(&self, hash: u64, fits: impl Fn(u32) -> bool) -> usize {
        let table = self.tables.get(self.table(hash));
        table.map_or(0, |table| table.iter_hash(hash).filter(|&&place| fits(place)).count())
    }

    /// Adds a place; `hasher` gives the hash of any place.
    pub(crate) fn insert(&mut self, hash: u64, place: u32, hasher: impl Fn(&u32) -> u64) {
        if self.tables.is_empty() || self.len >= self.tables.len() * SPLIT_AT {
            self.split(&hasher);
        }
        self.change(hash, |table| _ = table.insert_unique(hash, place, hasher));
        self.len += 1;
    }

    /// Forgets a place.
    pub(crate) fn remove(&mut self, hash: u64, place: u32, hasher: impl Fn(&u32) -> u64) {
        let removed = self.change(hash, |table| {
            let removed = match table.find_entry(hash, |&other| other == place) {
                Ok(entry) => {
                    entry.remove();
                    1
                }
                Err(_) => 0,
            };
            if table.capacity() > 4 * table.len().max(16) {
                table.shrink_to(2 * table.len(), &hasher);
            }
            removed
        });
        self.len -= removed.unwrap_or_default();
        if self.tables.len() > 1 && self.len < self.tables.len() * MERGE_AT {
            self.merge(hasher);
        }
    }

    /// The peer of this hash has moved.
    pub(crate) fn moved(&mut self, hash: u64, from: u32, to: u32) {
        let table = self.table(hash);
        let place = self.tables.get_mut(table).and_then(|table| table.find_mut(hash, |&place| place == from));
        if let Some(place) = place {
            *place = to;
        }
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.blocks + self.tables.capacity() * size_of::<HashTable<u32>>()
    }

    /// Changes the table of a hash and keeps the count of octets true.
    fn change<T>(&mut self, hash: u64, work: impl FnOnce(&mut HashTable<u32>) -> T) -> Option<T> {
        let table = self.table(hash);
        let table = self.tables.get_mut(table)?;
        let before = table.allocation_size();
        let result = work(table);
        self.blocks = self.blocks + table.allocation_size() - before;
        Some(result)
    }

    /// The table of a hash. Its bits must not be those that choose within a table: the lowest and the highest
    /// seven.
    fn table(&self, hash: u64) -> usize {
        let bits = usize::try_from(hash >> 32 & 0xff_ffff).unwrap_or(0);
        let all = self.tables.len().next_power_of_two();
        let table = bits & (all - 1);
        if table < self.tables.len() { table } else { table & (all / 2 - 1) }
    }

    /// Makes one more table from half of the one it belongs to.
    fn split(&mut self, hasher: impl Fn(&u32) -> u64) {
        let new = self.tables.len();
        self.tables.push(HashTable::new());
        let Some(parent) = parent_of(new) else { return };
        let places = self.tables.get_mut(parent).map(std::mem::take).unwrap_or_default();
        self.distribute(places, hasher);
    }

    /// Gives the places of the last table back to the one it was made from.
    fn merge(&mut self, hasher: impl Fn(&u32) -> u64) {
        let places = self.tables.pop().unwrap_or_default();
        self.distribute(places, hasher);
    }

    /// Gives the places of a table that is none of ours any more to those they belong to.
    fn distribute(&mut self, places: HashTable<u32>, hasher: impl Fn(&u32) -> u64) {
        self.blocks -= places.allocation_size();
        for place in places {
            let hash = hasher(&place);
            self.change(hash, |table| _ = table.insert_unique(hash, place, &hasher));
        }
    }
}

/// The table from which table `new` is split off: the same number without its highest bit.
fn parent_of(new: usize) -> Option<usize> {
    (new > 0).then(|| new & !(1 << new.ilog2()))
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn places_are_found_through_growth_and_decline() {
        let state = RandomState::new();
        let hasher = |place: &u32| state.hash_one(place);
        let mut index = Index::with_capacity(8);
        let check = |index: &Index, from: u32, to: u32| {
            assert_eq!(index.len, (to - from) as usize);
            assert_eq!(index.blocks, index.tables.iter().map(HashTable::allocation_size).sum());
            for place in 0..20_000 {
                let found = index.find(hasher(&place), |other| other == place);
                assert_eq!(found.is_some(), (from..to).contains(&place), "{place} of {from}..{to}");
            }
        };
        for place in 0..20_000 {
            index.insert(hasher(&place), place, hasher);
        }
        check(&index, 0, 20_000);
        let (tables, full) = (index.tables.len(), index.heap());
        assert!((19..=20).contains(&tables), "{tables}");
        for place in 0..19_900 {
            index.remove(hasher(&place), place, hasher);
        }
        check(&index, 19_900, 20_000);
        assert!(index.tables.len() == 1 && index.heap() < full / 50, "{} of {full}", index.heap());
    }

    #[test]
    fn no_table_ever_holds_more_than_a_few_thousand_places() {
        let state = RandomState::new();
        let hasher = |place: &u32| state.hash_one(place);
        let mut index = Index::default();
        for place in 0..300_000 {
            index.insert(hasher(&place), place, hasher);
        }
        let largest = index.tables.iter().map(HashTable::len).max().unwrap();
        assert!(largest < 3 * SPLIT_AT, "{largest}");
    }
}
