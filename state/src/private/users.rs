//! Users, found by their passkey.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use super::cow_map::CowMap;
use crate::snapshot::site::{Multipliers, UserAccount};

/// An enabled user, found by their passkey. Only [`Users`] creates one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct User {
    /// The user's id in the database.
    pub id: u32,
    /// Whether the user may only seed, except for torrents on which they have a hit-and-run.
    pub disable_download: bool,
    /// Whether the user's addresses are left out of the records.
    pub tracker_hide: bool,
    /// Multipliers of what the user is credited.
    pub multipliers: Multipliers,
}

/// All enabled users, by a keyed hash of 128 bits of their passkey. A lookup compares such hashes and never a
/// passkey, so that its duration tells nothing about existing passkeys.
#[derive(Clone, Debug)]
pub struct Users {
    keys: [RandomState; 2],
    by_hash: CowMap<u128, User, BuildHasherDefault<PrehashedHasher>>,
}

impl Default for Users {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Users {
    /// Returns an empty set with room for `users`.
    #[must_use]
    pub fn with_capacity(users: usize) -> Self {
        Self { keys: [RandomState::new(), RandomState::new()], by_hash: CowMap::with_capacity(users) }
    }

    /// Adds a user, or replaces and returns the one with this passkey.
    pub fn insert(&mut self, user: &UserAccount) -> Option<User> {
        let known = User {
            id: user.id,
            disable_download: user.disable_download,
            tracker_hide: user.tracker_hide,
            multipliers: user.multipliers,
        };
        self.by_hash.insert(self.hash(&user.passkey), known)
    }

    /// Removes a passkey and returns its user.
    pub fn remove(&mut self, passkey: &[u8]) -> Option<User> {
        self.by_hash.remove(&self.hash(passkey))
    }

    /// Returns the user with this passkey.
    #[must_use]
    pub fn find(&self, passkey: &[u8]) -> Option<User> {
        self.by_hash.get(&self.hash(passkey)).copied()
    }

    /// The number of users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether there are no users.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    fn hash(&self, passkey: &[u8]) -> u128 {
        let [high, low] = &self.keys;
        u128::from(high.hash_one(passkey)) << 64 | u128::from(low.hash_one(passkey))
    }
}

/// A hasher for keys that are keyed hashes already: it passes them on as they are.
#[derive(Debug, Default)]
struct PrehashedHasher(u64);

impl Hasher for PrehashedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|&octet| self.0 = self.0 << 8 | u64::from(octet));
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = (hash >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(passkey: &[u8], id: u32) -> UserAccount {
        let passkey = passkey.into();
        let multipliers = Multipliers { up: 0.5, down: 2.0 };
        UserAccount { passkey, id, disable_download: true, tracker_hide: false, multipliers }
    }

    #[test]
    fn a_user_is_found_by_the_exact_octets_of_their_passkey() {
        let mut users = Users::default();
        for (passkey, id) in [(&b"seven"[..], 7), (b"", 11), (b"\0\xff&%", 13)] {
            assert_eq!(users.insert(&user(passkey, id)), None);
        }
        assert_eq!(users.insert(&user(b"seven", 17)).map(|user| user.id), Some(7));
        for (passkey, id) in [(&b"seven"[..], Some(17)), (b"", Some(11)), (b"\0\xff&%", Some(13))] {
            assert_eq!(users.find(passkey).map(|user| user.id), id);
        }
        for passkey in [&b"Seven"[..], b"seven\0", b"seve", b"\0"] {
            assert_eq!(users.find(passkey), None);
        }
        assert_eq!(users.remove(b"seven").map(|user| user.multipliers.up), Some(0.5));
        assert_eq!((users.find(b"seven"), users.len()), (None, 2));
    }
}
