//! Tokens with a good signature, remembered so that it is not checked for every announce
//! (`rules/hooks.md#verified-tokens`).

use std::collections::HashMap;

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};

use crate::ids::InfoHash;

/// Parts of the table, each with a lock of its own.
const TOKEN_SHARDS: usize = 16;
/// Tokens in one half of a shard.
const HALF_LEN: usize = 2048;

/// The claims of a good token, which do not change while its keys stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VerifiedToken {
    /// The torrent it is for.
    pub(super) info_hash: InfoHash,
    /// It is good before this moment, in seconds since 1970.
    pub(super) expires: Option<u64>,
    /// It is good from this moment on, in seconds since 1970.
    pub(super) begins: Option<u64>,
    /// The number of the set of keys that it was checked with.
    pub(super) generation: u64,
}

/// A table of at most [`TOKEN_SHARDS`] times twice [`HALF_LEN`] tokens; the older half of a full shard is
/// dropped.
#[derive(Debug, Default)]
pub(super) struct VerifiedTokens([Mutex<TokenShard>; TOKEN_SHARDS]);

#[derive(Debug, Default)]
struct TokenShard {
    young: HashMap<[u8; 32], VerifiedToken>,
    old: HashMap<[u8; 32], VerifiedToken>,
}

/// Names a token in the table without keeping it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of_token(token: &[u8]) -> Self {
        Self(digest(&SHA256, token).as_ref().try_into().unwrap_or_default())
    }
}

impl VerifiedTokens {
    pub(super) fn find(&self, digest: TokenDigest) -> Option<VerifiedToken> {
        let shard = self.shard(digest)?.lock();
        shard.young.get(&digest.0).or_else(|| shard.old.get(&digest.0)).copied()
    }

    pub(super) fn insert(&self, digest: TokenDigest, token: VerifiedToken) {
        let Some(shard) = self.shard(digest) else { return };
        let mut shard = shard.lock();
        if shard.young.len() >= HALF_LEN {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(digest.0, token);
    }

    fn shard(&self, digest: TokenDigest) -> Option<&Mutex<TokenShard>> {
        let [first, ..] = digest.0;
        self.0.get(usize::from(first) % TOKEN_SHARDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_bounded_and_keeps_the_newest() {
        let table = VerifiedTokens::default();
        let token =
            VerifiedToken { info_hash: InfoHash([7; 20]), expires: None, begins: None, generation: 1 };
        for number in 0..10 * TOKEN_SHARDS * HALF_LEN {
            table.insert(TokenDigest::of_token(&number.to_be_bytes()), token);
        }
        let held = table.0.iter().map(|shard| {
            let shard = shard.lock();
            shard.young.len() + shard.old.len()
        });
        let held: usize = held.sum();
        assert!(held <= 2 * TOKEN_SHARDS * HALF_LEN);
        let newest = TokenDigest::of_token(&(10 * TOKEN_SHARDS * HALF_LEN - 1).to_be_bytes());
        assert_eq!(table.find(newest), Some(token));
    }
}
