//! Maps in parts that are copied on write: a change copies only the part it falls into, and earlier clones of
//! the map keep what they had.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

/// Parts; a power of two.
const PARTS: usize = 256;

/// A map with shared parts. A clone shares them until one of the two is changed. A set is a `CowMap<K>`. Keys
/// that clients choose need a hasher with a secret, such as the default one.
#[derive(Clone, Debug)]
pub struct CowMap<K, V = (), S = RandomState> {
    build_hasher: S,
    parts: Vec<Arc<CowPart<K, V>>>,
    len: usize,
}

type CowPart<K, V> = HashTable<(K, V)>;

impl<K, V, S: Default> Default for CowMap<K, V, S> {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl<K, V, S: Default> CowMap<K, V, S> {
    /// Returns an empty map with room for `keys`.
    #[must_use]
    pub fn with_capacity(keys: usize) -> Self {
        let part = || Arc::new(CowPart::with_capacity(keys / PARTS));
        Self { build_hasher: S::default(), parts: (0..PARTS).map(|_| part()).collect(), len: 0 }
    }
}

impl<K, V, S> CowMap<K, V, S> {
    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All values, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(|part| part.iter().map(|(_, value)| value))
    }
}

impl<K: Hash + Eq, V, S: BuildHasher> CowMap<K, V, S> {
    /// Returns the value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = self.build_hasher.hash_one(key);
        let found = self.parts.get(part_number(hash))?.find(hash, |(known, _)| known.borrow() == key);
        found.map(|(_, value)| value)
    }

    /// Whether the key is present.
    pub fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }
}

impl<K: Hash + Eq + Clone, V: Clone, S: BuildHasher> CowMap<K, V, S> {
    /// Adds a key, or replaces its value and returns the old one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Self { build_hasher, parts, len } = self;
        let hash = build_hasher.hash_one(&key);
        #[expect(clippy::indexing_slicing, reason = "masked to the parts there are")]
        let part = Arc::make_mut(&mut parts[part_number(hash)]);
        match part.find_mut(hash, |(known, _)| *known == key) {
            Some((_, known)) => Some(std::mem::replace(known, value)),
            None => {
                part.insert_unique(hash, (key, value), |(key, _)| build_hasher.hash_one(key));
                *len += 1;
                None
            }
        }
    }

    /// Removes a key and returns its value.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if !self.contains(key) {
            return None;
        }
        let hash = self.build_hasher.hash_one(key);
        #[expect(clippy::indexing_slicing, reason = "masked to the parts there are")]
        let part = Arc::make_mut(&mut self.parts[part_number(hash)]);
        let entry = part.find_entry(hash, |(known, _)| known.borrow() == key).ok()?;
        let ((_, value), _) = entry.remove();
        self.len -= 1;
        Some(value)
    }
}

impl<K: Hash + Eq + Clone, V: Clone, S: BuildHasher + Default> FromIterator<(K, V)> for CowMap<K, V, S> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        entries.into_iter().for_each(|(key, value)| _ = map.insert(key, value));
        map
    }
}

/// Returns the number of the part for a hash, by bits that the tables themselves make little use of.
fn part_number(hash: u64) -> usize {
    (hash >> 40) as usize & (PARTS - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn what_was_put_is_there_until_it_is_removed() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut map, mut model): (CowMap<u32, u32>, _) = (CowMap::default(), HashMap::new());
        for _ in 0..20_000 {
            let (key, value) = (random.u32(..3000), random.u32(..));
            if random.bool() {
                assert_eq!(map.insert(key, value), model.insert(key, value));
            } else {
                assert_eq!(map.remove(&key), model.remove(&key));
            }
            assert_eq!((map.get(&key), map.len()), (model.get(&key), model.len()));
        }
        let mut values: Vec<_> = map.values().copied().collect();
        let mut expected: Vec<_> = model.into_values().collect();
        values.sort_unstable();
        expected.sort_unstable();
        assert_eq!(values, expected);
    }

    #[test]
    fn a_change_copies_one_part_of_what_others_have() {
        let mut map: CowMap<u32> = (0..5000).map(|key| (key, ())).collect();
        let before = map.clone();
        let copied = |map: &CowMap<u32>| {
            before.parts.iter().zip(&map.parts).filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
        };
        map.remove(&5000);
        assert_eq!((copied(&map), map.len()), (0, 5000), "nothing of that key is there");
        map.insert(5000, ());
        assert_eq!((copied(&map), before.len(), map.len()), (1, 5000, 5001));
        map.remove(&5000);
        assert_eq!((copied(&map), before.contains(&5000), map.len()), (1, false, 5000));
    }
}
