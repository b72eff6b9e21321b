//! Token buckets of addresses in bounded memory, to find those that send too many requests. Each IPv4 address
//! has a bucket, and each IPv6 /64 (`rules/swarms.md#rate-limit`). Only for sources that are proven: any host
//! can forge others.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use hashbrown::DefaultHashBuilder;
use parking_lot::Mutex;

use crate::announce::Endpoint;
use crate::clock::Tick;

/// Buckets that share a lock, and for which addresses compete.
const WAYS: usize = 64;
/// The number of an empty bucket: no address and no /64 has it.
const NOBODY: u64 = u64::MAX;

/// The limit, and how many addresses it is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests of one address in a minute, at least 1.
    pub per_minute: u32,
    /// Requests that one address may send at once, at least 1.
    pub burst: u32,
    /// Most addresses that are remembered; rounded up to a multiple of 64.
    pub addresses: usize,
}

/// The bucket of one address.
#[derive(Clone, Copy, Debug)]
struct TokenBucket {
    address: u64,
    /// When it was last filled.
    filled: Tick,
    /// Requests that are admitted before it is empty.
    tokens: f32,
    /// Requests beyond the limit since the address was remembered.
    over_limit: u32,
}

const _: () = assert!(size_of::<TokenBucket>() == 24);

/// The buckets under one lock; an address may have any of them.
type BucketSet = Box<[TokenBucket]>;

/// An address that has sent too many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offender {
    /// The address, for IPv6 the first of its /64.
    pub address: IpAddr,
    /// Requests beyond the limit, as far as they are remembered.
    pub over_limit: u32,
}

/// The buckets of all addresses that were seen lately. Where none is free, the fullest one is reused: its
/// address has sent the fewest requests.
#[derive(Debug)]
pub struct RateLimiter {
    limit: RateLimit,
    sets: Box<[CachePadded<Mutex<BucketSet>>]>,
    hasher: DefaultHashBuilder,
    over_limit: AtomicU64,
}

impl RateLimiter {
    /// Makes a limiter that has seen no address.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        let empty = TokenBucket { address: NOBODY, filled: Tick(0), tokens: f32::MAX, over_limit: 0 };
        let sets = (0..limit.addresses.div_ceil(WAYS).max(1))
            .map(|_| CachePadded::new(Mutex::new(vec![empty; WAYS].into_boxed_slice())));
        let sets = sets.collect();
        Self { limit, sets, hasher: DefaultHashBuilder::default(), over_limit: AtomicU64::new(0) }
    }

    /// Returns the limit that the limiter was made with.
    #[must_use]
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Counts one request of an address. Returns whether it is within the limit.
    #[must_use]
    pub fn admits(&self, now: Tick, source: IpAddr) -> bool {
        let address = address_key(source);
        let hash = usize::try_from(self.hasher.hash_one(address) >> 1).unwrap_or_default();
        let Some(set) = self.sets.get(hash % self.sets.len()) else { return true };
        let admitted = self.take_token(now, address, &mut set.lock());
        if !admitted {
            self.over_limit.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    fn take_token(&self, now: Tick, address: u64, buckets: &mut [TokenBucket]) -> bool {
        let known = buckets.iter().position(|bucket| bucket.address == address);
        let place = known.or_else(|| {
            let fullness = |bucket: &TokenBucket| self.tokens(bucket, now);
            let places = buckets.iter().enumerate();
            let fullest = places.max_by(|(_, a), (_, b)| fullness(a).total_cmp(&fullness(b)));
            fullest.map(|(place, _)| place)
        });
        let Some(bucket) = place.and_then(|place| buckets.get_mut(place)) else { return true };
        if known.is_none() {
            *bucket = TokenBucket { address, filled: now, tokens: self.burst(), over_limit: 0 };
        }
        let tokens = self.tokens(bucket, now);
        bucket.filled = now;
        let admitted = tokens >= 1.0;
        bucket.tokens = if admitted { tokens - 1.0 } else { tokens };
        if !admitted {
            bucket.over_limit = bucket.over_limit.saturating_add(1);
        }
        admitted
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds and requests far below 2^24")]
    fn tokens(&self, bucket: &TokenBucket, now: Tick) -> f32 {
        if bucket.address == NOBODY {
            return f32::MAX;
        }
        // Another thread may have read the clock later.
        let passed = now.0.saturating_sub(bucket.filled.0) as f32;
        (bucket.tokens + passed * self.limit.per_minute as f32 / 60.0).min(self.burst())
    }

    #[expect(clippy::cast_precision_loss, reason = "at most a million")]
    fn burst(&self) -> f32 {
        self.limit.burst as f32
    }

    /// Returns the number of requests beyond the limit, of all addresses.
    #[must_use]
    pub fn over_limit_total(&self) -> u64 {
        self.over_limit.load(Ordering::Relaxed)
    }

    /// Returns the addresses with the most requests beyond the limit, at most `most` of them.
    #[must_use]
    pub fn offenders(&self, most: usize) -> Vec<Offender> {
        let worst_first = |all: &mut Vec<(u32, u64)>| {
            all.sort_unstable_by(|a, b| b.cmp(a));
            all.truncate(most);
        };
        let mut all = Vec::new();
        for set in &self.sets {
            let buckets = set.lock();
            let offending = buckets.iter().filter(|bucket| bucket.over_limit > 0);
            all.extend(offending.map(|bucket| (bucket.over_limit, bucket.address)));
            // Truncated on the way: there may be millions.
            if all.len() > 2 * most.max(WAYS) {
                worst_first(&mut all);
            }
        }
        worst_first(&mut all);
        all.into_iter()
            .map(|(over_limit, address)| Offender { address: address_from_key(address), over_limit })
            .collect()
    }
}

/// The upper 32 bits of the key of an IPv4 address; no IPv6 unicast address begins with them.
const V4_MARK: u64 = 0xffff_0000_0000_0000;

fn address_key(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(address) => V4_MARK | u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let mut peer = [0; 18];
            if let Some((host, _)) = peer.split_first_chunk_mut::<16>() {
                *host = address.octets();
            }
            peer.address_key()
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower 32 bits are meant")]
fn address_from_key(key: u64) -> IpAddr {
    if key & V4_MARK == V4_MARK {
        return std::net::Ipv4Addr::from_bits(key as u32).into();
    }
    std::net::Ipv6Addr::from_bits(u128::from(key) << 64).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { per_minute: 60, burst: 7, addresses: 1024 };

    fn admitted(limiter: &RateLimiter, now: u32, source: &str, times: usize) -> usize {
        let source = source.parse().unwrap();
        (0..times).filter(|_| limiter.admits(Tick(now), source)).count()
    }

    #[test]
    fn a_burst_is_served_and_then_the_rate() {
        let limiter = RateLimiter::new(LIMIT);
        assert_eq!(admitted(&limiter, 100, "192.0.2.7", 11), 7);
        assert_eq!(admitted(&limiter, 103, "192.0.2.7", 11), 3);
        assert_eq!(admitted(&limiter, 10_000, "192.0.2.7", 11), 7);
        assert_eq!(admitted(&limiter, 10_000, "192.0.2.8", 11), 7);
        assert_eq!(limiter.over_limit_total(), 4 + 8 + 4 + 4);
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_address() {
        let limiter = RateLimiter::new(LIMIT);
        assert_eq!(admitted(&limiter, 0, "2001:db8::1", 5), 5);
        assert_eq!(admitted(&limiter, 0, "2001:db8::ffff:2", 5), 2);
        assert_eq!(admitted(&limiter, 0, "2001:db8:0:1::1", 5), 5);
    }

    #[test]
    fn memory_is_bounded_and_the_busiest_are_remembered() {
        let limiter = RateLimiter::new(LIMIT);
        assert_eq!(admitted(&limiter, 0, "192.0.2.7", 100), 7);
        for number in 0..100_000_u32 {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
            assert!(limiter.admits(Tick(0), address.into()));
        }
        assert_eq!(limiter.sets.len() * WAYS, 1024);
        assert_eq!(admitted(&limiter, 0, "192.0.2.7", 1), 0, "it was forgotten");
        let offenders = limiter.offenders(7);
        assert_eq!(offenders, [Offender { address: "192.0.2.7".parse().unwrap(), over_limit: 94 }]);
    }
}
