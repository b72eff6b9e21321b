//! Records as octets, that is, the body of an entry before it is sealed. Numbers without a fixed length are
//! LEB128 in the shortest form.
//!
//! A record, of which a body has any number:
//!
//! | octets | what |
//! |---|---|
//! | 1 | flags, see below |
//! | 1 to 5 | age in seconds when the entry was sealed |
//! | 20 | info_hash, unless it is that of the record before |
//! | 6 or 18 | address and port, as on the wire |
//! | 1 to 5 | completed count, if there is one |
//! | 20 | peer id, if there is one |
//!
//! The flags are 1 IPv6, 2 seeder, 4 partial seed, 8 gone, 16 finished now, 32 torrent of the record before,
//! 64 completed count, 128 peer id. Each list of records has one form: what is read is written as the same
//! octets.

use std::net::SocketAddr;

use crate::announce::{Endpoint, PEER_V4_LEN, PEER_V6_LEN, WirePeer};
use crate::cluster::record::{PeerKey, PeerRecord, Presence};
use crate::ids::{InfoHash, PeerId};
use crate::snapshot::entry::is_possible;

const V6: u8 = 1;
const SEEDER: u8 = 2;
const PAUSED: u8 = 4;
const GONE: u8 = 8;
const FINISHED: u8 = 16;
const SAME_TORRENT: u8 = 32;
const WITH_COUNT: u8 = 64;
const WITH_ID: u8 = 128;

/// Appends a record. `before` is the torrent of the record before it in this body; `None` for the first.
pub fn write_record(record: &PeerRecord, before: Option<&InfoHash>, to: &mut Vec<u8>) {
    let PeerRecord { key: PeerKey { info_hash, peer }, age_seconds, presence, completed, peer_id } = record;
    let mut flags = match presence {
        Presence::Gone => GONE,
        Presence::Present { seeder, paused, finished } => {
            flag(*seeder, SEEDER) | flag(*paused && !seeder, PAUSED) | flag(*finished, FINISHED)
        }
    };
    let completed = completed.filter(|completed| *completed > 0);
    flags |= flag(peer.is_ipv6(), V6) | flag(before == Some(info_hash), SAME_TORRENT);
    flags |= flag(completed.is_some(), WITH_COUNT) | flag(peer_id.is_some(), WITH_ID);
    to.push(flags);
    write_number(*age_seconds, to);
    if before != Some(info_hash) {
        to.extend(info_hash.0);
    }
    match WirePeer::from_address(peer.ip(), peer.port()) {
        WirePeer::V4(octets) => to.extend(octets),
        WirePeer::V6(octets) => to.extend(octets),
    }
    completed.into_iter().for_each(|completed| write_number(completed, to));
    to.extend(peer_id.iter().flat_map(|peer_id| peer_id.0));
}

/// Returns the records of a body; `None` if one of them is not as [`write_record`] writes it.
#[must_use]
pub fn read_records(mut body: &[u8]) -> Option<Vec<PeerRecord>> {
    let (mut records, mut before) = (Vec::new(), None);
    while !body.is_empty() {
        let record = read_record(&mut body, before)?;
        before = Some(record.key.info_hash);
        records.push(record);
    }
    Some(records)
}

fn read_record(body: &mut &[u8], before: Option<InfoHash>) -> Option<PeerRecord> {
    let [flags] = take(body)?;
    let presence = match (flags & GONE, flags & (SEEDER | PAUSED | FINISHED)) {
        (0, bits) if bits & (SEEDER | PAUSED) == SEEDER | PAUSED => return None,
        (0, bits) => Presence::Present {
            seeder: bits & SEEDER != 0,
            paused: bits & PAUSED != 0,
            finished: bits & FINISHED != 0,
        },
        (_, 0) => Presence::Gone,
        _ => return None,
    };
    let age_seconds = take_number(body)?;
    let info_hash = match (flags & SAME_TORRENT, before) {
        (0, before) => Some(InfoHash(take(body)?)).filter(|info_hash| before != Some(*info_hash))?,
        (_, before) => before?,
    };
    let peer =
        if flags & V6 == 0 { take_peer::<PEER_V4_LEN>(body)? } else { take_peer::<PEER_V6_LEN>(body)? };
    let completed = match flags & WITH_COUNT {
        0 => None,
        _ => Some(take_number(body)?).filter(|completed| *completed > 0).map(Some)?,
    };
    let peer_id = if flags & WITH_ID == 0 { None } else { Some(PeerId(take(body)?)) };
    Some(PeerRecord { key: PeerKey { info_hash, peer }, age_seconds, presence, completed, peer_id })
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

pub(super) fn take<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = body.split_first_chunk::<N>()?;
    *body = rest;
    Some(*taken)
}

fn take_peer<const LEN: usize>(body: &mut &[u8]) -> Option<SocketAddr>
where
    [u8; LEN]: Endpoint,
{
    let peer = take::<LEN>(body)?;
    is_possible(&peer).then(|| SocketAddr::new(peer.address(), peer.port()))
}

pub(super) fn write_number(mut number: u32, to: &mut Vec<u8>) {
    loop {
        let [group, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return to.push(group & 0x7f);
        }
        to.push(group | 0x80);
    }
}

pub(super) fn take_number(body: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u64;
    for at in 0..5 {
        let [octet] = take(body)?;
        number |= u64::from(octet & 0x7f) << (7 * at);
        if octet & 0x80 == 0 {
            // The shortest form has no empty group at its end.
            let is_shortest = octet != 0 || at == 0;
            return u32::try_from(number).ok().filter(|_| is_shortest);
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ids::ID_LEN;

    /// Octets of the longest record.
    pub(in crate::cluster) const RECORD_MAX: usize = 1 + 5 + ID_LEN + PEER_V6_LEN + 5 + ID_LEN;

    pub(crate) fn random_record(random: &mut fastrand::Rng) -> PeerRecord {
        let peer = match random.bool() {
            true => SocketAddr::from(([45, 128, random.u8(..), random.u8(1..)], random.u16(1..))),
            false => SocketAddr::from(([0x2a00, 1, random.u16(..), 0, 0, 0, 0, 1], random.u16(1..))),
        };
        let seeder = random.bool();
        let presence = match random.u8(..4) {
            0 => Presence::Gone,
            _ => Presence::Present { seeder, paused: !seeder && random.bool(), finished: random.bool() },
        };
        PeerRecord {
            key: PeerKey { info_hash: InfoHash([random.u8(..3); ID_LEN]), peer },
            age_seconds: random.u32(..) >> random.u8(..32),
            presence,
            completed: Some(random.u32(..) >> random.u8(..32)).filter(|&count| count > 0 && random.bool()),
            peer_id: random.bool().then(|| PeerId([random.u8(..); ID_LEN])),
        }
    }

    fn written(records: &[PeerRecord]) -> Vec<u8> {
        let (mut body, mut before) = (Vec::new(), None);
        for record in records {
            write_record(record, before, &mut body);
            before = Some(&record.key.info_hash);
        }
        body
    }

    #[test]
    fn records_are_written_as_the_layout_says() {
        let key = |peer: &str| PeerKey { info_hash: InfoHash([0xab; ID_LEN]), peer: peer.parse().unwrap() };
        let seeder = PeerRecord {
            key: key("45.128.19.54:6881"),
            age_seconds: 300,
            presence: Presence::Present { seeder: true, paused: false, finished: true },
            completed: Some(7),
            peer_id: None,
        };
        let gone = PeerRecord {
            key: key("[2a00::7]:80"),
            age_seconds: 0,
            presence: Presence::Gone,
            completed: None,
            peer_id: Some(PeerId(*b"-XX0001-abcdefghijkl")),
        };
        let expected = [
            &[SEEDER | FINISHED | WITH_COUNT, 0xac, 0x02][..],
            &[0xab; 20],
            &[45, 128, 19, 54, 0x1a, 0xe1, 7],
            &[V6 | GONE | SAME_TORRENT | WITH_ID, 0],
            &[0x2a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 80],
            b"-XX0001-abcdefghijkl",
        ]
        .concat();
        assert_eq!(written(&[seeder, gone]), expected);
        assert_eq!(read_records(&expected), Some(vec![seeder, gone]));
    }

    #[test]
    fn an_ipv4_record_takes_28_to_30_octets_and_an_ipv6_record_12_more() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..1000 {
            let record = PeerRecord { completed: None, peer_id: None, ..random_record(&mut random) };
            let record = PeerRecord { age_seconds: record.age_seconds % 0x8000, ..record };
            let len = written(&[record]).len();
            let shortest = if record.key.peer.is_ipv6() { 40 } else { 28 };
            assert!((shortest..=shortest + 2).contains(&len), "{len}: {record:?}");
            let with_id = PeerRecord { peer_id: Some(PeerId([7; ID_LEN])), ..record };
            assert_eq!(written(&[with_id]).len(), len + ID_LEN);
        }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_reads_as_the_same() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2000 {
            let records: Vec<_> = (0..random.usize(..9)).map(|_| random_record(&mut random)).collect();
            let mut body = written(&records);
            assert!(body.len() <= records.len() * RECORD_MAX);
            assert_eq!(read_records(&body).as_deref(), Some(&records[..]));
            if body.is_empty() {
                continue;
            }
            let at = random.usize(..body.len());
            match random.u8(..3) {
                0 => body[at] ^= 1 << random.u8(..8),
                1 => body.truncate(at),
                _ => body.insert(at, random.u8(..)),
            }
            if let Some(read) = read_records(&body) {
                assert_eq!(written(&read), body, "there is one way to write records");
            }
        }
    }

    #[test]
    fn what_no_node_writes_is_refused() {
        let good = [&[SEEDER, 0][..], &[7; 20], &[45, 128, 19, 54, 0x1a, 0xe1]].concat();
        assert!(read_records(&good).is_some());
        let with = |at: usize, octet: u8| {
            let mut bad = good.clone();
            bad[at] = octet;
            bad
        };
        for (bad, why) in [
            (with(0, GONE | SEEDER), "gone, and a seeder"),
            (with(0, SEEDER | PAUSED), "a partial seed that has everything"),
            (with(0, SAME_TORRENT), "no record before"),
            (with(0, SEEDER | WITH_COUNT), "no count"),
            (with(22, 0), "an address that no peer has"),
            ([&good[..26], &[0, 0]].concat(), "port 0"),
            ([&good[..], &[0]].concat(), "an octet more"),
            ([&[SEEDER, 0x80, 0][..], &good[2..]].concat(), "a longer form of 0"),
            ([&[SEEDER, 0xff, 0xff, 0xff, 0xff, 0x7f][..], &good[2..]].concat(), "an age of 35 bits"),
        ] {
            assert_eq!(read_records(&bad), None, "{why}");
        }
    }
}
