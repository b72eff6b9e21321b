//! [`KeyedHash`]: hashes of keys that clients choose, under a secret, so that no client can choose colliding
//! keys.

use std::hash::{BuildHasher, RandomState};

use ring::hmac;

use crate::address::AddressScope;
use crate::announce::Endpoint;
use crate::ids::{ID_LEN, InfoHash};

/// Words of eight octets in the longest key: an info_hash, or an IPv6 peer.
const WORDS_MAX: usize = ID_LEN.div_ceil(8);

/// A multilinear hash with secret factors: each word is multiplied by a factor of its own, and the products
/// are added. For any two keys of one length the chance of a collision, over all secrets, is that of two
/// random numbers. That is all that a table needs, at a tenth of the cost of SipHash.
#[derive(Debug)]
pub(crate) struct KeyedHash {
    own: Factors,
    /// `announce.peers_per_address`: where it is set, the peers of one public address share a hash, so that
    /// they can be counted.
    peers_per_address: u16,
    /// In a cluster: what chooses the shard of a torrent, equal on all nodes.
    shards: Option<Box<Factors>>,
}

/// The bits of a hash that name a shard.
const SHARD_BITS: u64 = 0xffff << 40;

/// The secret of one hash.
#[derive(Debug)]
struct Factors {
    offset: u128,
    factors: [u128; WORDS_MAX],
}

impl KeyedHash {
    pub(crate) fn new(peers_per_address: u16) -> Self {
        // The standard library's source of secrets for its own maps.
        let state = RandomState::new();
        let secret =
            |n: usize| u128::from(state.hash_one(2 * n)) << 64 | u128::from(state.hash_one(2 * n + 1));
        let own = Factors { offset: secret(WORDS_MAX), factors: std::array::from_fn(secret) };
        Self { own, peers_per_address, shards: None }
    }

    /// Makes a hash by which all nodes with this key put a torrent into the same shard. All else is hashed
    /// under a secret of this process.
    pub(crate) fn with_cluster_key(peers_per_address: u16, key: &[u8; 32]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let secret = |n: usize| {
            let tag = hmac::sign(&key, &[u8::try_from(n).unwrap_or(u8::MAX)]);
            u128::from_le_bytes(tag.as_ref().first_chunk().copied().unwrap_or_default())
        };
        let shards = Factors { offset: secret(WORDS_MAX), factors: std::array::from_fn(secret) };
        Self { shards: Some(Box::new(shards)), ..Self::new(peers_per_address) }
    }

    pub(crate) fn info_hash(&self, info_hash: &InfoHash) -> u64 {
        let hash = self.hash_octets(&info_hash.0);
        match &self.shards {
            None => hash,
            Some(shards) => (hash & !SHARD_BITS) | (shards.hash_octets(&info_hash.0) & SHARD_BITS),
        }
    }

    /// Returns the hash of a user (mode private).
    pub(crate) fn user(&self, user: u32) -> u64 {
        self.hash_octets(&user.to_ne_bytes())
    }

    pub(crate) fn peer<const LEN: usize>(&self, peer: &[u8; LEN]) -> u64
    where
        [u8; LEN]: Endpoint,
    {
        if self.peers_limit(peer).is_some() {
            self.hash_octets(&peer.address_key().to_ne_bytes())
        } else {
            self.hash_octets(peer)
        }
    }

    /// Returns the limit of peers at the address of `peer`; `None` for private and loopback addresses.
    pub(crate) fn peers_limit<E: Endpoint>(&self, peer: &E) -> Option<usize> {
        let public = || AddressScope::of(peer.address()) == Some(AddressScope::Public);
        (self.peers_per_address > 0 && public()).then_some(usize::from(self.peers_per_address))
    }

    #[inline]
    fn hash_octets<const LEN: usize>(&self, octets: &[u8; LEN]) -> u64 {
        self.own.hash_octets(octets)
    }
}

impl Factors {
    #[inline]
    fn hash_octets<const LEN: usize>(&self, octets: &[u8; LEN]) -> u64 {
        const { assert!(LEN.div_ceil(8) <= WORDS_MAX) };
        let words = octets.chunks(8).map(|part| {
            let mut word = [0; 8];
            word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            u128::from(u64::from_le_bytes(word))
        });
        let products = words.zip(&self.factors).map(|(word, factor)| factor.wrapping_mul(word));
        (products.fold(self.offset, u128::wrapping_add) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_in_one_bit_spread_over_all_bits() {
        let hasher = KeyedHash::new(0);
        let zero = hasher.hash_octets(&[0; ID_LEN]);
        let mut seen = [0_u32; 64];
        for bit in 0..8 * ID_LEN {
            let mut octets = [0; ID_LEN];
            octets[bit / 8] = 1 << (bit % 8);
            let differs = hasher.hash_octets(&octets) ^ zero;
            seen.iter_mut().enumerate().for_each(|(n, count)| *count += (differs >> n & 1) as u32);
        }
        // 160 fair coins: fewer than 40 heads come once in 10^11 tries.
        assert!(seen.iter().all(|count| (40..=120).contains(count)), "{seen:?}");
    }

    #[test]
    fn two_trackers_hash_differently() {
        assert_ne!(
            KeyedHash::new(0).info_hash(&InfoHash([7; ID_LEN])),
            KeyedHash::new(0).info_hash(&InfoHash([7; ID_LEN]))
        );
    }

    #[test]
    fn nodes_with_one_key_choose_the_same_shards_and_hash_differently_otherwise() {
        let [one, two] = [7; 2].map(|octet| KeyedHash::with_cluster_key(0, &[octet; 32]));
        let other = KeyedHash::with_cluster_key(0, &[8; 32]);
        let hashes = |hasher: &KeyedHash| [1, 2, 3, 4].map(|n| hasher.info_hash(&InfoHash([n; ID_LEN])));
        let shards = |hasher: &KeyedHash| hashes(hasher).map(|hash| hash & SHARD_BITS);
        assert_eq!(shards(&one), shards(&two));
        assert_ne!(shards(&one), shards(&other));
        assert_ne!(hashes(&one), hashes(&two));
    }

    #[test]
    fn consecutive_keys_fill_few_buckets_twice_over() {
        let hasher = KeyedHash::new(0);
        let mut buckets = vec![0_u32; 1024];
        for number in 0..16 * 1024_u32 {
            let [a, b, c, d] = number.to_be_bytes();
            buckets[(hasher.hash_octets(&[10, a, b, c, d, 7]) % 1024) as usize] += 1;
        }
        let largest = *buckets.iter().max().unwrap();
        assert!(largest < 64, "{largest} where 16 are expected");
    }
}
