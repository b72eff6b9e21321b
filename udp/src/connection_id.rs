//! Connection ids: the proof that a source address is real (BEP 15, "UDP connections / spoofing";
//! `rules/udp.md#connection-id`).
//!
//! An id is the low octet of a bucket number, then 56 bits of HMAC-SHA256 over that number and the source
//! address. It is computed, not remembered: no client can make the tracker keep anything, and all workers and
//! nodes that share the key accept each other's ids.

use std::net::{IpAddr, Ipv4Addr};

use ring::hmac;

use crate::config::UdpConfig;
use crate::wire::PROTOCOL_ID;

/// A lifetime is divided into this many buckets: the more, the less an id outlives it.
const BUCKETS_PER_LIFETIME: u64 = 15;
/// Bucket numbers an id can tell apart by its one octet.
const BUCKETS_MAX: u64 = 256;

/// Proof that a source address received one of our ids less than a lifetime (and one bucket) ago.
#[derive(Clone, Copy, Debug)]
pub struct Verified(());

/// The reason for which an id proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// It was issued to this source too long ago.
    #[error("stale connection id")]
    Stale,
    /// It was never issued to this source, comes from the future, or is older than 256 buckets.
    #[error("forged connection id")]
    Forged,
}

/// Makes and verifies connection ids. Each engine owns one.
#[derive(Debug)]
pub struct ConnectionIds {
    current: Scheme,
    previous: Option<Retired>,
}

impl ConnectionIds {
    /// Makes ids with the key, lifetime and skew of `config`.
    #[must_use]
    pub fn new(config: &UdpConfig) -> Self {
        Self { current: Scheme::new(&config.private_key, config), previous: None }
    }

    /// Takes over a reloaded configuration. Ids issued since the last change stay valid until they expire,
    /// also if the lifetime has changed and not the key; those from before the last change do not.
    pub fn reload(&mut self, config: &UdpConfig) {
        let scheme = Scheme::new(&config.private_key, config);
        if !scheme.is_same_as(&self.current) {
            let retired = std::mem::replace(&mut self.current, scheme);
            self.previous = Some(Retired::new(retired));
        }
    }

    /// Forgets the previous scheme once none of its ids can be valid. Call it once per batch.
    pub fn refresh(&mut self, now_unix: u64) {
        if let Some(previous) = &mut self.previous {
            let until =
                *previous.until.get_or_insert(now_unix.saturating_add(previous.scheme.grace_seconds()));
            if now_unix > until {
                self.previous = None;
            }
        }
    }

    /// Returns the id for a source, valid from now on. Never 0, which clients take for "not connected", and
    /// never the protocol's magic number.
    #[must_use]
    pub fn make(&mut self, now_unix: u64, source: IpAddr) -> [u8; 8] {
        self.current.id(self.current.bucket(now_unix), source)
    }

    /// Checks that `id` was made for `source` within the lifetime.
    ///
    /// # Errors
    /// Fails when the id was not made for `source`, or too long ago.
    pub fn verify(&mut self, now_unix: u64, source: IpAddr, id: [u8; 8]) -> Result<Verified, Unverified> {
        match (self.current.verify(now_unix, source, id), &mut self.previous) {
            (Err(Unverified::Forged), Some(previous)) => previous.scheme.verify(now_unix, source, id),
            (result, _) => result,
        }
    }
}

/// A previous scheme, whose ids are accepted until they expire.
#[derive(Debug)]
struct Retired {
    scheme: Scheme,
    /// Unix seconds after which none of its ids can be valid; unknown until the first batch.
    until: Option<u64>,
}

impl Retired {
    fn new(scheme: Scheme) -> Self {
        Self { scheme, until: None }
    }
}

/// One way of making ids: a key and the length of its buckets.
#[derive(Debug)]
struct Scheme {
    key: hmac::Key,
    /// Tells two schemes apart without keeping the secret in a second place.
    fingerprint: [u8; 32],
    bucket_seconds: u64,
    age_max: u64,
    skew: u64,
    memo: Memo,
}

impl Scheme {
    fn new(key: &[u8], config: &UdpConfig) -> Self {
        let lifetime = config.connection_id_lifetime_seconds.max(1);
        let bucket_seconds = lifetime.div_ceil(BUCKETS_PER_LIFETIME);
        let age_max = lifetime.div_ceil(bucket_seconds);
        // Beyond this the octet could not tell an id of the future from one of the past.
        let skew_max = BUCKETS_MAX - 1 - age_max;
        let skew = config.max_clock_skew_seconds.div_ceil(bucket_seconds).min(skew_max);
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(hmac::sign(&key, b"hayate: which key is it").as_ref());
        Self { key, fingerprint, bucket_seconds, age_max, skew, memo: Memo::new() }
    }

    /// Whether both make and accept the same ids.
    fn is_same_as(&self, other: &Self) -> bool {
        let shape = |scheme: &Self| (scheme.fingerprint, scheme.bucket_seconds, scheme.age_max, scheme.skew);
        shape(self) == shape(other)
    }

    /// Returns the seconds after which no id made until now is valid, on any node.
    fn grace_seconds(&self) -> u64 {
        (self.age_max + self.skew + 1) * self.bucket_seconds
    }

    fn bucket(&self, unix: u64) -> u64 {
        unix / self.bucket_seconds
    }

    fn id(&mut self, bucket: u64, source: IpAddr) -> [u8; 8] {
        if let Some(id) = self.memo.id(bucket, source) {
            return id;
        }
        let id = self.compute(bucket, source);
        self.memo.keep(bucket, source, id);
        id
    }

    fn compute(&self, bucket: u64, source: IpAddr) -> [u8; 8] {
        let mut message = [0; 24];
        let (number, address) = message.split_at_mut(8);
        number.copy_from_slice(&bucket.to_be_bytes());
        let address_len = match source.to_canonical() {
            IpAddr::V4(v4) => copy_to_start(address, &v4.octets()),
            IpAddr::V6(v6) => copy_to_start(address, &v6.octets()),
        };
        let tag = hmac::sign(&self.key, message.get(..8 + address_len).unwrap_or_default());
        let mut id = [0; 8];
        let mac = std::iter::once(bucket.to_be_bytes()[7]).chain(tag.as_ref().iter().copied());
        id.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        unreserved(id)
    }

    fn verify(&mut self, now_unix: u64, source: IpAddr, id: [u8; 8]) -> Result<Verified, Unverified> {
        let now = self.bucket(now_unix);
        let latest = now.saturating_add(self.skew);
        // The largest bucket number not above `latest` whose low octet is that of the id.
        let behind = u64::from(latest.to_be_bytes()[7].wrapping_sub(id[0]));
        let bucket = latest.checked_sub(behind).ok_or(Unverified::Forged)?;
        if !equal_in_constant_time(self.id(bucket, source), id) {
            return Err(Unverified::Forged);
        }
        if now.saturating_sub(bucket) > self.age_max { Err(Unverified::Stale) } else { Ok(Verified(())) }
    }
}

/// A cache of ids computed lately. A client connects and announces within a second, and announces all its
/// torrents with one id; without this each of its datagrams costs an HMAC. It changes no answer, and holds
/// [`Memo::PLACES`] ids at most.
#[derive(Debug)]
struct Memo {
    places: Vec<Computed>,
}

/// One id and what it was computed from.
#[derive(Clone, Copy, Debug)]
struct Computed {
    bucket: u64,
    source: IpAddr,
    id: [u8; 8],
}

impl Memo {
    /// Small enough to stay in the processor's nearest cache.
    const PLACES: usize = 256;

    fn new() -> Self {
        // No clock reaches this bucket.
        let nothing = Computed { bucket: u64::MAX, source: IpAddr::V4(Ipv4Addr::UNSPECIFIED), id: [0; 8] };
        Self { places: vec![nothing; Self::PLACES] }
    }

    fn id(&self, bucket: u64, source: IpAddr) -> Option<[u8; 8]> {
        let computed = self.places.get(Self::place(bucket, source))?;
        (computed.bucket == bucket && computed.source == source).then_some(computed.id)
    }

    fn keep(&mut self, bucket: u64, source: IpAddr, id: [u8; 8]) {
        if let Some(computed) = self.places.get_mut(Self::place(bucket, source)) {
            *computed = Computed { bucket, source, id };
        }
    }

    /// Returns the place of an id. Addresses chosen to meet in one place cost an HMAC each, and do no more
    /// harm.
    fn place(bucket: u64, source: IpAddr) -> usize {
        let address = match source {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => {
                let octets = v6.octets();
                let (halves, _) = octets.as_chunks();
                halves.iter().fold(0, |sum: u64, half| sum.rotate_left(32) ^ u64::from_be_bytes(*half))
            }
        };
        let mixed = (address ^ bucket.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        usize::from(mixed.to_be_bytes()[0])
    }
}

const _: () = assert!(Memo::PLACES == u8::MAX as usize + 1);

/// Copies `from` to the beginning of `to`; returns the octets copied.
fn copy_to_start(to: &mut [u8], from: &[u8]) -> usize {
    to.iter_mut().zip(from).map(|(to, from)| *to = *from).count()
}

/// Replaces the two ids that must not be issued by their neighbours. Making and verifying both call it, so
/// that the neighbour verifies; one chance in 2^56 and a single bit cost nothing.
fn unreserved(id: [u8; 8]) -> [u8; 8] {
    match u64::from_be_bytes(id) {
        number @ (0 | PROTOCOL_NUMBER) => (number ^ 1).to_be_bytes(),
        _ => id,
    }
}

const PROTOCOL_NUMBER: u64 = u64::from_be_bytes(PROTOCOL_ID);

/// Whether two ids are equal. One comparison of whole words: its time does not tell which octet differs.
fn equal_in_constant_time(a: [u8; 8], b: [u8; 8]) -> bool {
    std::hint::black_box(u64::from_ne_bytes(a) ^ u64::from_ne_bytes(b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn config(key: &str) -> UdpConfig {
        UdpConfig { max_clock_skew_seconds: 0, ..UdpConfig::with_key(key) }
    }

    fn connection_ids(key: &str) -> ConnectionIds {
        ConnectionIds::new(&config(key))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ids_are_those_of_the_rules() {
        for (key, source, unix, expected) in [
            ("test-key-0123456789", "127.0.0.1", NOW, 0x2031_ae30_babc_0e39_u64),
            ("test-key-0123456789", "::1", NOW, 0x2065_15a1_4b5f_a770),
            ("test-key-0123456789", "192.0.2.7", NOW, 0x2031_587d_0963_897a),
            ("test-key-0123456789", "192.0.2.7", NOW + 119, 0x2e43_b6bf_b5c1_12c1),
            ("test-key-0123456789", "2001:db8::7", NOW, 0x2014_c33f_15d2_7464),
            ("another-key-for-the-test", "192.0.2.7", 0, 0x00a4_89db_62d1_bd25),
            ("test-key-0123456789", "::ffff:192.0.2.7", NOW, 0x2031_587d_0963_897a),
        ] {
            let id = connection_ids(key).make(unix, address(source));
            assert_eq!(u64::from_be_bytes(id), expected, "{key} {source} {unix}");
        }
    }

    #[test]
    fn an_id_lives_its_lifetime_and_at_most_one_bucket_more() {
        let (mut ids, source) = (connection_ids("k"), address("192.0.2.7"));
        for offset in 0..16 {
            let made = NOW + offset;
            let id = ids.make(made, source);
            for age in 0..=120 {
                assert!(ids.verify(made + age, source, id).is_ok(), "{offset} {age}");
            }
            for age in 128..2000 {
                assert_eq!(ids.verify(made + age, source, id).unwrap_err(), Unverified::Stale, "{age}");
            }
        }
    }

    #[test]
    fn an_id_lives_alike_in_every_bucket_whatever_the_lifetime() {
        let source = address("2001:db8::7");
        for (lifetime, bucket_seconds) in [(60, 4), (61, 5), (120, 8), (7199, 480), (7200, 480)] {
            let mut ids =
                ConnectionIds::new(&UdpConfig { connection_id_lifetime_seconds: lifetime, ..config("k") });
            // As many buckets as the octet tells apart, so that it wraps once in the life of some id.
            for bucket in 0..BUCKETS_MAX {
                let start = (NOW / bucket_seconds + bucket) * bucket_seconds;
                let id = ids.make(start, source);
                let last = start + bucket_seconds - 1;
                assert_eq!(ids.make(last, source), id, "{lifetime} {bucket}");
                assert_ne!(ids.make(last + 1, source), id, "{lifetime} {bucket}");
                assert!(ids.verify(last + lifetime, source, id).is_ok(), "{lifetime} {bucket}");
                // Rounded up to buckets, and one more for an id made early in its own.
                let stale = start + (lifetime.div_ceil(bucket_seconds) + 1) * bucket_seconds;
                assert!(ids.verify(stale - 1, source, id).is_ok(), "{lifetime} {bucket}");
                let told_apart = start + BUCKETS_MAX * bucket_seconds;
                for (now, expected) in [
                    (stale, Unverified::Stale),
                    (told_apart - 1, Unverified::Stale),
                    (told_apart, Unverified::Forged),
                    (start - 1, Unverified::Forged),
                ] {
                    assert_eq!(ids.verify(now, source, id).unwrap_err(), expected, "{lifetime} {bucket}");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_makes_ids_wait_for_it_or_for_the_skew() {
        let (source, back) = (address("192.0.2.7"), NOW - NOW % 8 - 16);
        let (mut strict, mut lenient) = (
            connection_ids("k"),
            ConnectionIds::new(&UdpConfig { max_clock_skew_seconds: 16, ..config("k") }),
        );
        let id = strict.make(NOW, source);
        assert_eq!(lenient.make(NOW, source), id);
        assert_eq!(strict.verify(back, source, id).unwrap_err(), Unverified::Forged);
        assert!(lenient.verify(back, source, id).is_ok());
        let new = strict.make(back, source);
        assert!(strict.verify(back, source, new).is_ok() && strict.verify(NOW, source, new).is_ok());
        assert!(strict.verify(NOW, source, id).is_ok(), "the clock is right again");
    }

    #[test]
    fn an_id_is_good_for_one_address_only() {
        let mut ids = connection_ids("k");
        let id = ids.make(NOW, address("192.0.2.7"));
        assert!(ids.verify(NOW, address("::ffff:192.0.2.7"), id).is_ok());
        for other in ["192.0.2.8", "2001:db8::7", "::192.0.2.7"] {
            assert_eq!(ids.verify(NOW, address(other), id).unwrap_err(), Unverified::Forged, "{other}");
        }
    }

    #[test]
    fn no_bit_of_an_id_can_be_changed() {
        let (mut ids, source) = (connection_ids("k"), address("2001:db8::7"));
        let id = u64::from_be_bytes(ids.make(NOW, source));
        for bit in 0..64 {
            let changed = (id ^ 1 << bit).to_be_bytes();
            assert_eq!(ids.verify(NOW, source, changed).unwrap_err(), Unverified::Forged, "bit {bit}");
        }
    }

    #[test]
    fn an_id_of_the_future_needs_skew_and_skew_is_rounded_up_to_buckets() {
        let source = address("192.0.2.7");
        let start = NOW - NOW % 8;
        let ahead = connection_ids("k").make(start + 16, source);
        for (skew, good) in [(0, false), (8, false), (9, true), (16, true)] {
            let mut ids = ConnectionIds::new(&UdpConfig { max_clock_skew_seconds: skew, ..config("k") });
            assert_eq!(ids.verify(start, source, ahead).is_ok(), good, "{skew}");
            let old = ids.make(start, source);
            assert!(ids.verify(start + 128, source, old).is_err(), "skew does not prolong a life");
        }
    }

    #[test]
    fn a_skew_beyond_what_an_octet_tells_does_not_break_ids() {
        let source = address("192.0.2.7");
        let mut ids = ConnectionIds::new(&UdpConfig { max_clock_skew_seconds: 1 << 40, ..config("k") });
        let id = ids.make(NOW, source);
        assert!(ids.verify(NOW + 120, source, id).is_ok());
        assert!(ids.verify(NOW + 128, source, id).is_err());
    }

    #[test]
    fn the_previous_key_is_good_for_one_lifetime_after_the_reload() {
        let source = address("192.0.2.7");
        let mut ids = connection_ids("old");
        let id = ids.make(NOW, source);
        ids.reload(&config("new"));
        ids.refresh(NOW);
        assert!(ids.verify(NOW + 120, source, id).is_ok());
        assert_ne!(ids.make(NOW, source), id);
        ids.reload(&config("new"));
        assert!(ids.verify(NOW + 120, source, id).is_ok(), "a reload that changes nothing keeps both");
        ids.refresh(NOW + 129);
        let leaked = connection_ids("old").make(NOW + 129, source);
        assert_eq!(ids.verify(NOW + 129, source, leaked).unwrap_err(), Unverified::Forged);
    }

    #[test]
    fn what_was_computed_before_a_reload_is_not_issued_after_it() {
        let source = address("192.0.2.7");
        let (mut ids, longer) =
            (connection_ids("old"), UdpConfig { connection_id_lifetime_seconds: 7200, ..config("new") });
        let _old = ids.make(NOW, source);
        for changed in [config("new"), longer] {
            ids.reload(&changed);
            let expected = ConnectionIds::new(&changed).make(NOW, source);
            assert_eq!(ids.make(NOW, source), expected);
            assert_eq!(ids.make(NOW, source), expected, "from memory");
        }
    }

    #[test]
    fn a_new_lifetime_does_not_void_ids() {
        let source = address("192.0.2.7");
        let mut ids = connection_ids("k");
        let id = ids.make(NOW, source);
        ids.reload(&UdpConfig { connection_id_lifetime_seconds: 7200, ..config("k") });
        assert!(ids.verify(NOW + 60, source, id).is_ok());
    }

    #[test]
    fn what_was_computed_lately_changes_no_answer() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut old = connection_ids("k");
        for _ in 0..20_000 {
            let now = NOW + random.u64(..40);
            let source = match random.bool() {
                true => Ipv4Addr::from_bits(random.u32(..300)).into(),
                false => std::net::Ipv6Addr::from_bits(u128::from(random.u16(..300)) << 64).into(),
            };
            assert_eq!(old.make(now, source), connection_ids("k").current.compute(now / 8, source));
        }
    }

    #[test]
    fn zero_and_the_protocol_number_are_never_issued() {
        assert_eq!(unreserved([0; 8]), [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(u64::from_be_bytes(unreserved(PROTOCOL_ID)), 0x0000_0417_2710_1981);
        assert_eq!(unreserved([7; 8]), [7; 8]);
    }

    #[test]
    fn the_first_seconds_of_1970_do_not_underflow() {
        let mut ids = connection_ids("k");
        assert_eq!(ids.verify(0, address("::1"), [0xff; 8]).unwrap_err(), Unverified::Forged);
    }
}
