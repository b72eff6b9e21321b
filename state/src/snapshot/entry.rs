//! The encoding of one torrent, or some of its peers, in a snapshot. The layout is in
//! [`swarms`](super::swarms).

use crate::address::AddressScope;
use crate::announce::{Endpoint, PEER_V4_LEN, PEER_V6_LEN, WirePeer};
use crate::ids::{ID_LEN, InfoHash, PeerId};
use crate::snapshot::container::SnapshotError;

/// The tag of blocks of swarms.
pub const TAG_SWARMS: u8 = 1;
/// Octets from which on a block is written, because a write is a system call.
pub(super) const BLOCK_OCTETS: usize = 128 << 10;
/// The greatest age that can be encoded, in seconds.
pub(crate) const AGE_MAX: u32 = 0x7fff;
/// Peers of one entry, at most, so that what a slice of a walk adds is bounded: a bucket may hold 65535.
pub(crate) const ENTRY_PEERS_MAX: usize = 8192;
const PAUSED: u16 = 0x8000;
const AGE_LEN: usize = 2;

// Flags in the first octet behind the info_hash. Other bits are never set.
const V4_SEEDERS: u8 = 1;
const V4_LEECHERS: u8 = 2;
const V6_SEEDERS: u8 = 4;
const V6_LEECHERS: u8 = 8;
const WITH_IDS: u8 = 16;
const COMPLETED: u8 = 32;
const ALL_FLAGS: u8 = V4_SEEDERS | V4_LEECHERS | V6_SEEDERS | V6_LEECHERS | WITH_IDS | COMPLETED;

/// Peers of one family and role that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct PendingPeers<const LEN: usize> {
    octets: Vec<[u8; LEN]>,
    /// Age and paused bit, as encoded.
    ages: Vec<[u8; AGE_LEN]>,
    /// As many as there are peers, or none.
    ids: Vec<[u8; ID_LEN]>,
}

impl<const LEN: usize> PendingPeers<LEN> {
    pub(crate) fn push(&mut self, octets: [u8; LEN], age_seconds: u32, paused: bool, id: Option<PeerId>) {
        let age = age_seconds.min(AGE_MAX) as u16 | if paused { PAUSED } else { 0 };
        self.octets.push(octets);
        self.ages.push(age.to_le_bytes());
        self.ids.extend(id.map(|id| id.0));
    }

    /// Returns how many peers go into an entry that has room for `room` more, and reduces `room`.
    fn peers_fitting(&self, room: &mut usize) -> usize {
        let share = self.octets.len().min(*room);
        *room -= share;
        share
    }

    /// Writes the last `count` peers and removes them.
    fn write_last(&mut self, count: usize, with_ids: bool, into: &mut Vec<u8>) {
        let first = self.octets.len() - count;
        into.extend_from_slice(self.octets.get(first..).unwrap_or_default().as_flattened());
        into.extend_from_slice(self.ages.get(first..).unwrap_or_default().as_flattened());
        if with_ids {
            into.extend_from_slice(self.ids.get(first..).unwrap_or_default().as_flattened());
        }
        self.octets.truncate(first);
        self.ages.truncate(first);
        self.ids.truncate(first);
    }
}

/// Peers of one family that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct PendingFamily<const LEN: usize> {
    seeders: PendingPeers<LEN>,
    leechers: PendingPeers<LEN>,
}

impl<const LEN: usize> PendingFamily<LEN> {
    pub(crate) fn for_role(&mut self, seeder: bool) -> &mut PendingPeers<LEN> {
        if seeder { &mut self.seeders } else { &mut self.leechers }
    }

    fn len(&self) -> usize {
        self.seeders.octets.len() + self.leechers.octets.len()
    }

    fn peers_fitting(&self, room: &mut usize) -> (usize, usize) {
        (self.seeders.peers_fitting(room), self.leechers.peers_fitting(room))
    }

    fn write_last(&mut self, (seeders, leechers): (usize, usize), with_ids: bool, into: &mut Vec<u8>) {
        self.seeders.write_last(seeders, with_ids, into);
        self.leechers.write_last(leechers, with_ids, into);
    }
}

/// Peers of one torrent that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct PendingEntry {
    pub(crate) v4: PendingFamily<PEER_V4_LEN>,
    pub(crate) v6: PendingFamily<PEER_V6_LEN>,
    /// Whether every peer has its id; otherwise none does.
    pub(crate) with_ids: bool,
}

impl PendingEntry {
    pub(crate) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Appends one entry with up to `most` of the peers, and removes them.
    pub(crate) fn write_entry(
        &mut self,
        info_hash: &InfoHash,
        completed: u32,
        most: usize,
        into: &mut Vec<u8>,
    ) {
        let mut room = most;
        let (v4, v6) = (self.v4.peers_fitting(&mut room), self.v6.peers_fitting(&mut room));
        let with_ids = self.with_ids && room < most;
        let flag = |flag, is_set| if is_set { flag } else { 0 };
        into.extend_from_slice(&info_hash.0);
        into.push(
            flag(V4_SEEDERS, v4.0 > 0)
                | flag(V4_LEECHERS, v4.1 > 0)
                | flag(V6_SEEDERS, v6.0 > 0)
                | flag(V6_LEECHERS, v6.1 > 0)
                | flag(WITH_IDS, with_ids)
                | flag(COMPLETED, completed > 0),
        );
        for number in [completed as usize, v4.0, v4.1, v6.0, v6.1] {
            if number > 0 {
                put_number(number, into);
            }
        }
        self.v4.write_last(v4, with_ids, into);
        self.v6.write_last(v6, with_ids, into);
    }
}

/// One peer of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SavedPeer {
    pub(crate) wire: WirePeer,
    pub(crate) seeder: bool,
    pub(crate) age_seconds: u32,
    pub(crate) paused: bool,
    /// Zeros if it was not kept.
    pub(crate) id: PeerId,
}

/// The peers of one family and role in an entry.
#[derive(Clone, Copy, Debug, Default)]
struct EntryPeers<'a, const LEN: usize> {
    octets: &'a [[u8; LEN]],
    ages: &'a [[u8; AGE_LEN]],
    ids: &'a [[u8; ID_LEN]],
}

impl<'a, const LEN: usize> EntryPeers<'a, LEN>
where
    [u8; LEN]: Endpoint,
{
    fn parse_peers(
        count: usize,
        seeder: bool,
        with_ids: bool,
        from: &mut &'a [u8],
    ) -> Result<Self, SnapshotError> {
        let octets: &[[u8; LEN]] = take_arrays(count, from)?;
        let ages = take_arrays(count, from)?;
        let ids = if with_ids { take_arrays(count, from)? } else { &[] };
        if !octets.iter().all(is_possible) {
            return Err(SnapshotError::Damaged("a peer has an impossible address or port"));
        }
        if seeder && ages.iter().any(|age| u16::from_le_bytes(*age) & PAUSED != 0) {
            return Err(SnapshotError::Damaged("a seeder is a partial seed"));
        }
        Ok(Self { octets, ages, ids })
    }

    fn peers(
        self,
        seeder: bool,
        wire: fn([u8; LEN]) -> WirePeer,
    ) -> impl Iterator<Item = SavedPeer> + use<'a, LEN> {
        let ids = self.ids.iter().map(|id| PeerId(*id)).chain(std::iter::repeat(PeerId::default()));
        self.octets.iter().zip(self.ages).zip(ids).map(move |((octets, age), id)| {
            let age = u16::from_le_bytes(*age);
            let (age_seconds, paused) = (u32::from(age & !PAUSED), age & PAUSED != 0);
            SavedPeer { wire: wire(*octets), seeder, age_seconds, paused, id }
        })
    }
}

/// One entry as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TorrentEntry<'a> {
    pub(crate) info_hash: InfoHash,
    pub(crate) completed: u32,
    /// Whether its peers have ids; otherwise the ids are zeros.
    pub(crate) with_ids: bool,
    v4_seeders: EntryPeers<'a, PEER_V4_LEN>,
    v4_leechers: EntryPeers<'a, PEER_V4_LEN>,
    v6_seeders: EntryPeers<'a, PEER_V6_LEN>,
    v6_leechers: EntryPeers<'a, PEER_V6_LEN>,
}

impl<'a> TorrentEntry<'a> {
    /// Parses the next entry, and moves `from` behind it.
    pub(crate) fn parse_entry(from: &mut &'a [u8]) -> Result<Self, SnapshotError> {
        let info_hash = InfoHash(take_array(from)?);
        let [flags] = take_array(from)?;
        if flags & !ALL_FLAGS != 0 {
            return Err(SnapshotError::Damaged("a torrent has an unknown flag"));
        }
        let mut number = |flag: u8| if flags & flag == 0 { Ok(0) } else { take_number(from) };
        let completed = number(COMPLETED)?;
        let v4 = (number(V4_SEEDERS)? as usize, number(V4_LEECHERS)? as usize);
        let v6 = (number(V6_SEEDERS)? as usize, number(V6_LEECHERS)? as usize);
        let with_ids = flags & WITH_IDS != 0;
        Ok(Self {
            info_hash,
            completed,
            with_ids,
            v4_seeders: EntryPeers::parse_peers(v4.0, true, with_ids, from)?,
            v4_leechers: EntryPeers::parse_peers(v4.1, false, with_ids, from)?,
            v6_seeders: EntryPeers::parse_peers(v6.0, true, with_ids, from)?,
            v6_leechers: EntryPeers::parse_peers(v6.1, false, with_ids, from)?,
        })
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = SavedPeer> + use<'a> {
        let v4 = self.v4_seeders.peers(true, WirePeer::V4).chain(self.v4_leechers.peers(false, WirePeer::V4));
        v4.chain(self.v6_seeders.peers(true, WirePeer::V6)).chain(self.v6_leechers.peers(false, WirePeer::V6))
    }
}

/// Whether a peer with these octets could have announced.
pub(crate) fn is_possible<E: Endpoint>(peer: &E) -> bool {
    let address = peer.address();
    peer.port() != 0 && address == address.to_canonical() && AddressScope::of(address).is_some()
}

/// Takes octets off the front.
pub(crate) fn take_array<const LEN: usize>(from: &mut &[u8]) -> Result<[u8; LEN], SnapshotError> {
    let (octets, rest) = from.split_first_chunk().ok_or(SnapshotError::Damaged(TOO_SHORT))?;
    *from = rest;
    Ok(*octets)
}

const TOO_SHORT: &str = "a torrent ends too early";

fn take_arrays<'a, const LEN: usize>(
    count: usize,
    from: &mut &'a [u8],
) -> Result<&'a [[u8; LEN]], SnapshotError> {
    let len = count.checked_mul(LEN);
    let (octets, rest) =
        len.and_then(|len| from.split_at_checked(len)).ok_or(SnapshotError::Damaged(TOO_SHORT))?;
    *from = rest;
    Ok(octets.as_chunks().0)
}

/// Appends a number: seven bits per octet, lowest first; the highest bit says that more follow.
#[expect(clippy::cast_possible_truncation, reason = "masked to seven bits")]
fn put_number(mut number: usize, into: &mut Vec<u8>) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

/// Takes a number other than 0 off the front.
fn take_number(from: &mut &[u8]) -> Result<u32, SnapshotError> {
    let mut number = 0;
    for shift in (0..35).step_by(7) {
        let [octet] = take_array(from)?;
        number |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            let number = u32::try_from(number).ok().filter(|number| *number > 0);
            return number.ok_or(SnapshotError::Damaged(BAD_NUMBER));
        }
    }
    Err(SnapshotError::Damaged(BAD_NUMBER))
}

const BAD_NUMBER: &str = "a count of a torrent is 0 or too large";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_read_as_they_were_written() {
        for number in [1, 127, 128, 16_383, 16_384, 1 << 21, 1 << 28, u32::MAX] {
            let mut octets = Vec::new();
            put_number(number as usize, &mut octets);
            let mut from = octets.as_slice();
            assert_eq!(take_number(&mut from).unwrap(), number);
            assert!(from.is_empty());
        }
        for bad in [&[0][..], &[], &[0x80], &[0xff, 0xff, 0xff, 0xff, 0x10], &[0x80; 6]] {
            assert!(take_number(&mut &*bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_entry_takes_as_many_peers_as_it_may_and_the_next_the_others() {
        let mut batch = PendingEntry { with_ids: true, ..PendingEntry::default() };
        for number in 1..=7 {
            batch.v4.seeders.push([192, 0, 2, number, 1, 1], 11, false, Some(PeerId([number; ID_LEN])));
            batch.v4.leechers.push([192, 0, 3, number, 1, 1], 40_000, true, Some(PeerId([number; ID_LEN])));
            batch.v6.leechers.push([0x20; 18], 13, false, Some(PeerId([number; ID_LEN])));
        }
        let (mut octets, hash) = (Vec::new(), InfoHash([9; ID_LEN]));
        batch.write_entry(&hash, 300, 10, &mut octets);
        assert_eq!(batch.len(), 11);
        batch.write_entry(&hash, 0, 100, &mut octets);
        assert_eq!(batch.len(), 0);
        let mut from = octets.as_slice();
        let (first, second) =
            (TorrentEntry::parse_entry(&mut from).unwrap(), TorrentEntry::parse_entry(&mut from).unwrap());
        assert!(from.is_empty());
        assert_eq!((first.info_hash, first.completed, second.completed), (hash, 300, 0));
        assert_eq!((first.peers().count(), second.peers().count()), (10, 11));
        let paused: Vec<_> = first.peers().chain(second.peers()).filter(|peer| peer.paused).collect();
        assert_eq!(paused.len(), 7);
        for peer in paused {
            assert_eq!((peer.seeder, peer.age_seconds), (false, AGE_MAX));
            let WirePeer::V4([192, 0, 3, number, ..]) = peer.wire else { panic!("{peer:?}") };
            assert_eq!(peer.id, PeerId([number; ID_LEN]));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let entry = |octets: [u8; 6], age: u16| {
            let mut entry = vec![9; ID_LEN];
            entry.extend([V4_SEEDERS, 1]);
            entry.extend(octets);
            entry.extend(age.to_le_bytes());
            entry
        };
        let good = entry([192, 0, 2, 7, 1, 1], 11);
        assert!(TorrentEntry::parse_entry(&mut good.as_slice()).is_ok());
        for len in 0..good.len() {
            assert!(TorrentEntry::parse_entry(&mut &good[..len]).is_err(), "{len} octets");
        }
        let unknown = [&[9; ID_LEN][..], &[64]].concat();
        let port = entry([192, 0, 2, 7, 0, 0], 11);
        let address = entry([224, 0, 0, 7, 1, 1], 11);
        let paused = entry([192, 0, 2, 7, 1, 1], PAUSED);
        let mapped = [&[9; ID_LEN][..], &[V6_SEEDERS, 1], &[0; 10], &[255, 255, 192, 0, 2, 7, 1, 1, 0, 0]];
        for bad in [unknown, port, address, paused, mapped.concat()] {
            assert!(TorrentEntry::parse_entry(&mut bad.as_slice()).is_err(), "{bad:?}");
        }
    }
}
