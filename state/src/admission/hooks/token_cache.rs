//! Tokens whose signature was good, remembered so that it is not checked with every announce
//! (`rules/hooks.md#verified-tokens`).

use std::collections::HashMap;

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};

use crate::ids::InfoHash;

/// Parts of the table, each with a lock of its own.
const SHARDS: usize = 16;
/// Tokens in one half of a shard.
const HALF: usize = 2048;

/// What a good token says that does not change while its keys stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// The torrent it is for.
    pub(super) info_hash: InfoHash,
    /// Good before this moment, in seconds since 1970.
    pub(super) expires: Option<u64>,
    /// Good from this moment on.
    pub(super) begins: Option<u64>,
    /// The set of keys it was checked with.
    pub(super) generation: u64,
}

/// A table of at most [`SHARDS`] times twice [`HALF`] tokens; the oldest half of a shard goes first.
#[derive(Debug, Default)]
pub(super) struct VerifiedTokens([Mutex<Shard>; SHARDS]);

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<[u8; 32], Token>,
    old: HashMap<[u8; 32], Token>,
}

/// Names a token in the table without keeping it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum([u8; 32]);

impl Sum {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(digest(&SHA256, token).as_ref().try_into().unwrap_or_default())
    }
}

impl VerifiedTokens {
    pub(super) fn find(&self, sum: Sum) -> Option<Token> {
        let shard = self.shard(sum)?.lock();
        shard.young.get(&sum.0).or_else(|| shard.old.get(&sum.0)).copied()
    }

    pub(super) fn add(&self, sum: Sum, token: Token) {
        let Some(shard) = self.shard(sum) else { return };
        let mut shard = shard.lock();
        if shard.young.len() >= HALF {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(sum.0, token);
    }

    fn shard(&self, sum: Sum) -> Option<&Mutex<Shard>> {
        let [first, ..] = sum.0;
        self.0.get(usize::from(first) % SHARDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_bounded_and_keeps_the_newest() {
        let table = VerifiedTokens::default();
        let token = Token { info_hash: InfoHash([7; 20]), expires: None, begins: None, generation: 1 };
        for number in 0..10 * SHARDS * HALF {
            table.add(Sum::of(&number.to_be_bytes()), token);
        }
        let held = table.0.iter().map(|shard| {
            let shard = shard.lock();
            shard.young.len() + shard.old.len()
        });
        let held: usize = held.sum();
        assert!(held <= 2 * SHARDS * HALF);
        let newest = Sum::of(&(10 * SHARDS * HALF - 1).to_be_bytes());
        assert_eq!(table.find(newest), Some(token));
    }
}
