//! [`SealedCodec`]: entries that only nodes with the same secret can write or read.
//!
//! | octets | what |
//! |---|---|
//! | 1 | the format, 1 |
//! | 1 | the least format that a reader must know |
//! | 16 | the incarnation of the writer |
//! | 8 | the sequence number, little-endian |
//! | 8 | sealed: milliseconds since 1970 on the server's clock, little-endian |
//! | 1 | sealed: the kind |
//! | .. | sealed: the body |
//! | 16 | the tag |
//!
//! It is sealed by AES-256-GCM. The key is derived from the secret by HKDF-SHA256 for one incarnation and one
//! stream, so the sequence number is the nonce: no key seals two entries with the same number.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use crate::cluster::bus::EntryId;
use crate::cluster::codec::{EntryBody, EntryCodec, EntryRefusal, Incarnation, ReadEntry, WrittenEntry};
use crate::cluster::encoding;
use crate::cluster::hello::{self, Hello};
use crate::cluster::record::PeerRecord;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u8 = 1;
/// Octets of the longest entry that is written: just below a size class of the server's allocator.
pub const ENTRY_MAX: usize = 14_000;
const INCARNATION_LEN: usize = size_of::<Incarnation>();
const HEAD_LEN: usize = 2 + INCARNATION_LEN + 8;
const SEALED_HEAD_LEN: usize = 8 + 1;
const TAG_LEN: usize = 16;
/// Keys of other nodes that are kept. Only an entry that opens adds one.
const KEYS_MAX: usize = 1024;
/// The salt of all keys; changed if the meaning of the octets does.
const SALT: &[u8] = b"hayate cluster 1";

const PEERS: u8 = 1;
const HELLO: u8 = 3;
const REPUBLISHED_PEERS: u8 = 5;

/// The secret of a cluster.
#[derive(Clone)]
pub struct ClusterSecret(Prk);

impl ClusterSecret {
    /// Takes the configured secret, of 16 octets or more.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(Salt::new(HKDF_SHA256, SALT).extract(secret))
    }

    /// Derives a key for a purpose of its own; equal on all nodes. `None` if none can be derived.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Option<[u8; 32]> {
        let mut key = [0; 32];
        self.0.expand(&[purpose.as_bytes()], HKDF_SHA256).ok()?.fill(&mut key).ok()?;
        Some(key)
    }

    fn key(&self, stream_key: &str, incarnation: &Incarnation) -> Option<LessSafeKey> {
        let info = [incarnation.as_slice(), stream_key.as_bytes()];
        let key = UnboundKey::from(self.0.expand(&info, &AES_256_GCM).ok()?);
        Some(LessSafeKey::new(key))
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret")
    }
}

/// Returns the name of a new start of a node; `None` if the system provides no random numbers.
#[must_use]
pub fn new_incarnation() -> Option<Incarnation> {
    let mut incarnation = Incarnation::default();
    SystemRandom::new().fill(&mut incarnation).ok()?;
    Some(incarnation)
}

/// Returns what this node says about itself at that moment, but for [`Hello::leaving`].
pub type HelloSource = Box<dyn Fn() -> Hello + Send>;

/// Writes and reads the entries of one stream.
pub struct SealedCodec {
    secret: ClusterSecret,
    stream_key: String,
    incarnation: Incarnation,
    own_key: LessSafeKey,
    /// Keys of other incarnations.
    keys: HashMap<Incarnation, LessSafeKey>,
    seq: u64,
    hello: HelloSource,
}

impl fmt::Debug for SealedCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedCodec").field("stream_key", &self.stream_key).finish_non_exhaustive()
    }
}

impl SealedCodec {
    /// Makes the codec of one stream. No two codecs of a stream may have the same `incarnation`. Returns
    /// `None` if no key can be derived.
    #[must_use]
    pub fn new(
        secret: &ClusterSecret,
        stream_key: &str,
        incarnation: Incarnation,
        hello: HelloSource,
    ) -> Option<Self> {
        Some(Self {
            own_key: secret.key(stream_key, &incarnation)?,
            secret: secret.clone(),
            stream_key: stream_key.to_owned(),
            incarnation,
            keys: HashMap::new(),
            seq: 0,
            hello,
        })
    }

    /// Seals a body; `records` of it are records.
    fn seal(
        &mut self,
        sealed_at: Duration,
        kind: u8,
        records: usize,
        write_body: impl FnOnce(&mut Vec<u8>),
    ) -> WrittenEntry {
        self.seq += 1;
        let mut octets = Vec::with_capacity(ENTRY_MAX);
        octets.extend([FORMAT, FORMAT]);
        octets.extend(self.incarnation);
        octets.extend(self.seq.to_le_bytes());
        octets.extend(u64::try_from(sealed_at.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
        octets.push(kind);
        write_body(&mut octets);
        if let Some((head, sealed)) = octets.split_at_mut_checked(HEAD_LEN) {
            let aad = self.aad(head);
            match self.own_key.seal_in_place_separate_tag(nonce(self.seq), aad, sealed) {
                Ok(tag) => octets.extend(tag.as_ref()),
                // For more octets than AES-GCM allows under one nonce, which are 64 GB. Nothing goes out in
                // clear: what is left opens for nobody.
                Err(_) => octets.truncate(HEAD_LEN),
            }
        }
        WrittenEntry { seq: self.seq, octets, records }
    }

    /// What is authenticated and not sealed: the head and the key of the stream.
    fn aad(&self, head: &[u8]) -> Aad<Vec<u8>> {
        Aad::from([head, self.stream_key.as_bytes()].concat())
    }

    fn open_with(&self, key: &LessSafeKey, seq: u64, head: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = sealed.to_vec();
        let len = key.open_in_place(nonce(seq), self.aad(head), &mut sealed).ok()?.len();
        sealed.truncate(len);
        Some(sealed)
    }
}

fn nonce(seq: u64) -> Nonce {
    let mut octets = [0; NONCE_LEN];
    octets.iter_mut().zip(seq.to_le_bytes()).for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(octets)
}

impl EntryCodec for SealedCodec {
    fn seal_records(
        &mut self,
        sealed_at: Duration,
        republished: bool,
        records: &[PeerRecord],
    ) -> WrittenEntry {
        let (mut body, mut before, mut count) = (Vec::with_capacity(ENTRY_MAX), None, 0);
        for record in records {
            let len = body.len();
            encoding::write_record(record, before, &mut body);
            if count > 0 && HEAD_LEN + SEALED_HEAD_LEN + body.len() + TAG_LEN > ENTRY_MAX {
                body.truncate(len);
                break;
            }
            before = Some(&record.key.info_hash);
            count += 1;
        }
        let kind = if republished { REPUBLISHED_PEERS } else { PEERS };
        self.seal(sealed_at, kind, count, |to| to.extend(body))
    }

    fn hello(&self) -> Hello {
        (self.hello)()
    }

    fn seal_hello(&mut self, sealed_at: Duration, leaving: bool) -> WrittenEntry {
        let hello = Hello { leaving, ..self.hello() };
        self.seal(sealed_at, HELLO, 0, |to| hello::write_hello(&hello, to))
    }

    fn open(&mut self, _: EntryId, octets: &[u8]) -> Result<ReadEntry, EntryRefusal> {
        let (head, sealed) = octets.split_at_checked(HEAD_LEN).ok_or(EntryRefusal::Sealed)?;
        let [_, least, rest @ ..] = head else { return Err(EntryRefusal::Sealed) };
        if *least > FORMAT {
            return Err(EntryRefusal::Format);
        }
        let (incarnation, seq) = rest.split_first_chunk().ok_or(EntryRefusal::Sealed)?;
        let seq = u64::from_le_bytes(seq.try_into().map_err(|_| EntryRefusal::Sealed)?);
        let opened = if *incarnation == self.incarnation {
            self.open_with(&self.own_key, seq, head, sealed)
        } else if let Some(key) = self.keys.get(incarnation) {
            self.open_with(key, seq, head, sealed)
        } else {
            let key = self.secret.key(&self.stream_key, incarnation).ok_or(EntryRefusal::Sealed)?;
            let opened = self.open_with(&key, seq, head, sealed);
            if opened.is_some() {
                if self.keys.len() >= KEYS_MAX {
                    self.keys.clear();
                }
                self.keys.insert(*incarnation, key);
            }
            opened
        };
        let opened = opened.ok_or(EntryRefusal::Sealed)?;
        let (milliseconds, body) = opened.split_first_chunk().ok_or(EntryRefusal::Damaged)?;
        let sealed_at = Duration::from_millis(u64::from_le_bytes(*milliseconds));
        let (kind, body) = body.split_first().ok_or(EntryRefusal::Damaged)?;
        let body = match *kind {
            PEERS | REPUBLISHED_PEERS => EntryBody::Records {
                republished: *kind == REPUBLISHED_PEERS,
                records: encoding::read_records(body).ok_or(EntryRefusal::Damaged)?,
            },
            HELLO => EntryBody::Hello(hello::read_hello(body).ok_or(EntryRefusal::Damaged)?),
            _ => EntryBody::Unknown,
        };
        Ok(ReadEntry { incarnation: *incarnation, seq, sealed_at, body })
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::encoding::tests::{RECORD_MAX, random_record};
    use crate::cluster::hello::tests::hello;

    const SEALED_AT: Duration = Duration::from_millis(1_796_045_633_299);
    const ID: EntryId = EntryId { milliseconds: 1_796_045_633_300, number: 0 };

    fn codec(secret: &[u8], stream: &str, incarnation: u8) -> SealedCodec {
        let source = Box::new(|| hello("node"));
        SealedCodec::new(&ClusterSecret::new(secret), stream, [incarnation; 16], source).unwrap()
    }

    fn records(count: usize) -> Vec<PeerRecord> {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        (0..count).map(|_| random_record(&mut random)).collect()
    }

    #[test]
    fn entries_are_read_by_whoever_has_the_secret() {
        let (mut writer, mut reader) =
            (codec(b"a secret of nodes", "h:{0}", 1), codec(b"a secret of nodes", "h:{0}", 2));
        let records = records(100);
        for (seq, republished) in [(1, false), (2, true)] {
            let written = writer.seal_records(SEALED_AT, republished, &records);
            assert_eq!((written.seq, written.records), (seq, 100));
            let body = EntryBody::Records { republished, records: records.clone() };
            let expected = ReadEntry { incarnation: [1; 16], seq, sealed_at: SEALED_AT, body };
            assert_eq!(reader.open(ID, &written.octets), Ok(expected.clone()));
            assert_eq!(writer.open(ID, &written.octets), Ok(expected), "its own, too");
        }
        for leaving in [false, true] {
            let entry = writer.seal_hello(SEALED_AT, leaving);
            let body = EntryBody::Hello(Hello { leaving, ..hello("node") });
            assert_eq!(reader.open(ID, &entry.octets).unwrap().body, body);
        }
    }

    #[test]
    fn an_entry_that_was_changed_or_is_of_others_does_not_open() {
        let mut writer = codec(b"a secret of nodes", "h:{0}", 1);
        let entry = writer.seal_records(SEALED_AT, false, &records(3)).octets;
        let mut reader = codec(b"a secret of nodes", "h:{0}", 2);
        for bit in 0..8 * entry.len() {
            let mut changed = entry.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(reader.open(ID, &changed).is_err(), "bit {bit}");
        }
        for len in 0..entry.len() {
            assert_eq!(reader.open(ID, &entry[..len]), Err(EntryRefusal::Sealed), "{len} octets");
        }
        assert_eq!(codec(b"another secret...", "h:{0}", 2).open(ID, &entry), Err(EntryRefusal::Sealed));
        assert_eq!(codec(b"a secret of nodes", "h:{1}", 2).open(ID, &entry), Err(EntryRefusal::Sealed));
        assert!(reader.open(ID, &entry).is_ok());
        let newer = [&[9, FORMAT + 1][..], &entry[2..]].concat();
        assert_eq!(reader.open(ID, &newer), Err(EntryRefusal::Format));
    }

    #[test]
    fn a_kind_that_is_not_known_is_passed_over_and_a_bad_body_is_damaged() {
        let mut writer = codec(b"a secret of nodes", "h:{0}", 1);
        let mut reader = codec(b"a secret of nodes", "h:{0}", 2);
        let unknown = writer.seal(SEALED_AT, 77, 0, |to| to.extend(b"what comes later")).octets;
        assert_eq!(reader.open(ID, &unknown).unwrap().body, EntryBody::Unknown);
        for kind in [PEERS, HELLO] {
            let bad = writer.seal(SEALED_AT, kind, 0, |to| to.extend([0xff; 3])).octets;
            assert_eq!(reader.open(ID, &bad), Err(EntryRefusal::Damaged));
        }
    }

    #[test]
    fn an_entry_takes_as_many_records_as_fit() {
        let mut writer = codec(b"a secret of nodes", "h:{0}", 1);
        let mut reader = codec(b"a secret of nodes", "h:{0}", 2);
        let records = records(2000);
        let (mut rest, mut entries) = (&records[..], 0);
        while !rest.is_empty() {
            let written = writer.seal_records(SEALED_AT, false, rest);
            assert!(written.octets.len() <= ENTRY_MAX);
            let EntryBody::Records { records, .. } = reader.open(ID, &written.octets).unwrap().body else {
                panic!("records")
            };
            assert_eq!(records, rest[..written.records]);
            rest = &rest[written.records..];
            assert!(rest.is_empty() || written.octets.len() + RECORD_MAX > ENTRY_MAX, "full");
            entries += 1;
        }
        assert!((4..=9).contains(&entries), "{entries}");
    }

    #[test]
    fn no_secret_is_printed() {
        assert_eq!(format!("{:?}", ClusterSecret::new(b"a secret of nodes")), "ClusterSecret");
        assert!(!format!("{:?}", codec(b"a secret of nodes", "h:{0}", 1)).contains("a secret"));
    }
}
