//! Maps in parts that are copied on write: a change copies only the part it falls into, and earlier clones of
//! the map keep what they had.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

/// Parts; a power of two.
const PARTS: usize = 256;

/// A map with shared parts. A clone shares them until one of the two is changed. A set is a `CowMap<K>`.
#[derive(Clone, Debug)]
pub struct CowMap<K, V = ()> {
    secret: RandomState,
    parts: Vec<Arc<CowPart<K, V>>>,
    len: usize,
}

type CowPart<K, V> = HashTable<(K, V)>;

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self { secret: RandomState::new(), parts: vec![Arc::default(); PARTS], len: 0 }
    }
}

impl<K, V> CowMap<K, V> {
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

impl<K: Hash + Eq, V> CowMap<K, V> {
    /// Returns the value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = self.secret.hash_one(key);
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

impl<K: Hash + Eq + Clone, V: Clone> CowMap<K, V> {
    /// Adds a key, or replaces its value.
    pub fn insert(&mut self, key: K, value: V) {
        let Self { secret, parts, len } = self;
        let hash = secret.hash_one(&key);
        #[expect(clippy::indexing_slicing, reason = "masked to the parts there are")]
        let part = Arc::make_mut(&mut parts[part_number(hash)]);
        match part.find_mut(hash, |(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => {
                part.insert_unique(hash, (key, value), |(key, _)| secret.hash_one(key));
                *len += 1;
            }
        }
    }

    /// Removes a key.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if !self.contains(key) {
            return;
        }
        let hash = self.secret.hash_one(key);
        #[expect(clippy::indexing_slicing, reason = "masked to the parts there are")]
        let part = Arc::make_mut(&mut self.parts[part_number(hash)]);
        if let Ok(entry) = part.find_entry(hash, |(known, _)| known.borrow() == key) {
            entry.remove();
            self.len -= 1;
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> FromIterator<(K, V)> for CowMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut parts = Self::default();
        entries.into_iter().for_each(|(key, value)| parts.insert(key, value));
        parts
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
        let (mut parts, mut model) = (CowMap::default(), HashMap::new());
        for _ in 0..20_000 {
            let (key, value) = (random.u32(..3000), random.u32(..));
            if random.bool() {
                parts.insert(key, value);
                model.insert(key, value);
            } else {
                parts.remove(&key);
                model.remove(&key);
            }
            assert_eq!((parts.get(&key), parts.len()), (model.get(&key), model.len()));
        }
        let mut values: Vec<_> = parts.values().copied().collect();
        let mut expected: Vec<_> = model.into_values().collect();
        values.sort_unstable();
        expected.sort_unstable();
        assert_eq!(values, expected);
    }

    #[test]
    fn a_change_copies_one_part_of_what_others_have() {
        let mut parts: CowMap<u32> = (0..5000).map(|key| (key, ())).collect();
        let before = parts.clone();
        let copied = |parts: &CowMap<u32>| {
            before.parts.iter().zip(&parts.parts).filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
        };
        parts.remove(&5000);
        assert_eq!((copied(&parts), parts.len()), (0, 5000), "nothing of that key is there");
        parts.insert(5000, ());
        assert_eq!((copied(&parts), before.len(), parts.len()), (1, 5000, 5001));
        parts.remove(&5000);
        assert_eq!((copied(&parts), before.contains(&5000), parts.len()), (1, false, 5000));
    }
}
