//! [`Outbox`]: the records that a shard has to publish, packed, until the link of its stream takes them.

use std::mem;
use std::net::{IpAddr, SocketAddr};

use crate::clock::Tick;
use crate::cluster::record::{PeerKey, PeerRecord, Presence};
use crate::cluster::replica::TimedRecord;
use crate::ids::{InfoHash, PeerId};

const IPV6: u8 = 1;
const SEEDER: u8 = 2;
const PAUSED: u8 = 4;
const GONE: u8 = 8;
const FINISHED: u8 = 16;
const COMPLETED: u8 = 64;
const PEER_ID: u8 = 128;

/// Records in the order in which a shard has changed. Empty where there is no cluster.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    octets: Vec<u8>,
    records: usize,
    since: Option<Tick>,
    dropped_total: u64,
}

impl Outbox {
    /// Appends a record of an announce. When there are `records_max`, only peers that have left or finished
    /// are noted, up to twice as many: all others are found in their swarm later, by the time since which
    /// some are missing.
    pub(crate) fn note(&mut self, records_max: usize, seen: Tick, record: &PeerRecord) {
        if self.records >= records_max {
            let is_lost_otherwise =
                matches!(record.presence, Presence::Gone | Presence::Present { finished: true, .. });
            let is_noted = is_lost_otherwise && self.records < 2 * records_max;
            if record.presence != Presence::Gone && !is_noted {
                self.since = Some(self.since.map_or(seen, |since| since.min(seen)));
            }
            if !is_noted {
                self.dropped_total += u64::from(is_lost_otherwise);
                return;
            }
        }
        self.records += 1;
        pack(seen, record, &mut self.octets);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Since when records of peers in their swarm are missing.
    pub(crate) fn since(&self) -> Option<Tick> {
        self.since
    }

    /// Swaps the packed records with `spare`, which is empty. Returns since when some are missing.
    pub(crate) fn take(&mut self, spare: &mut Vec<u8>) -> Option<Tick> {
        mem::swap(&mut self.octets, spare);
        self.records = 0;
        self.since.take()
    }

    /// Leaves and finished downloads for which there was no room.
    pub(crate) fn dropped_total(&self) -> u64 {
        self.dropped_total
    }

    /// The peers with a record in here.
    pub(crate) fn keys(&self) -> impl Iterator<Item = PeerKey> {
        unpack_all(&self.octets).map(|noted| noted.record.key)
    }
}

/// Returns packed records.
pub(crate) fn unpack_all(mut octets: &[u8]) -> impl Iterator<Item = TimedRecord> {
    std::iter::from_fn(move || unpack(&mut octets))
}

fn pack(seen: Tick, record: &PeerRecord, into: &mut Vec<u8>) {
    let PeerKey { info_hash, peer } = record.key;
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let presence = match record.presence {
        Presence::Gone => GONE,
        Presence::Present { seeder, paused, finished } => {
            flag(seeder, SEEDER) | flag(paused, PAUSED) | flag(finished, FINISHED)
        }
    };
    let flags = flag(peer.is_ipv6(), IPV6)
        | flag(record.completed.is_some(), COMPLETED)
        | flag(record.peer_id.is_some(), PEER_ID);
    into.push(presence | flags);
    into.extend_from_slice(&seen.0.to_le_bytes());
    into.extend_from_slice(&info_hash.0);
    match peer.ip() {
        IpAddr::V4(address) => into.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => into.extend_from_slice(&address.octets()),
    }
    into.extend_from_slice(&peer.port().to_le_bytes());
    if let Some(completed) = record.completed {
        into.extend_from_slice(&completed.to_le_bytes());
    }
    if let Some(id) = record.peer_id {
        into.extend_from_slice(&id.0);
    }
}

fn unpack(from: &mut &[u8]) -> Option<TimedRecord> {
    let [flags] = take(from)?;
    let has = |flag| flags & flag != 0;
    let seen = i64::from(u32::from_le_bytes(take(from)?));
    let info_hash = InfoHash(take(from)?);
    let address = if has(IPV6) { IpAddr::from(take::<16>(from)?) } else { IpAddr::from(take::<4>(from)?) };
    let peer = SocketAddr::new(address, u16::from_le_bytes(take(from)?));
    let completed = if has(COMPLETED) { Some(u32::from_le_bytes(take(from)?)) } else { None };
    let peer_id = if has(PEER_ID) { Some(PeerId(take(from)?)) } else { None };
    let present = Presence::Present { seeder: has(SEEDER), paused: has(PAUSED), finished: has(FINISHED) };
    let presence = if has(GONE) { Presence::Gone } else { present };
    let record =
        PeerRecord { key: PeerKey { info_hash, peer }, age_seconds: 0, presence, completed, peer_id };
    Some(TimedRecord { record, seen })
}

fn take<const LEN: usize>(from: &mut &[u8]) -> Option<[u8; LEN]> {
    let (octets, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(port: u16, presence: Presence) -> PeerRecord {
        let key = PeerKey { info_hash: InfoHash([7; 20]), peer: SocketAddr::from(([192, 0, 2, 1], port)) };
        PeerRecord { key, age_seconds: 0, presence, completed: None, peer_id: None }
    }

    fn present(finished: bool) -> Presence {
        Presence::Present { seeder: true, paused: false, finished }
    }

    fn taken(outbox: &mut Outbox) -> (Option<Tick>, Vec<TimedRecord>) {
        let mut octets = Vec::new();
        let since = outbox.take(&mut octets);
        (since, unpack_all(&octets).collect())
    }

    #[test]
    fn records_come_out_as_they_were_noted() {
        let mut outbox = Outbox::default();
        let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7], 6881));
        let paused = Presence::Present { seeder: false, paused: true, finished: false };
        let with_all = PeerRecord {
            key: PeerKey { peer: v6, ..record(1, Presence::Gone).key },
            completed: Some(u32::MAX),
            peer_id: Some(PeerId([11; 20])),
            ..record(1, paused)
        };
        let noted = [record(7, present(true)), with_all, record(8, Presence::Gone)];
        for (seen, record) in (100..).map(Tick).zip(&noted) {
            outbox.note(10, seen, record);
        }
        let expected = (100..).zip(noted).map(|(seen, record)| TimedRecord { record, seen });
        assert_eq!(outbox.keys().collect::<Vec<_>>(), noted.map(|record| record.key));
        let (since, records) = taken(&mut outbox);
        assert_eq!((since, records), (None, expected.collect()));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_full_outbox_remembers_since_when_and_takes_leaves_and_finished_downloads_longer() {
        let mut outbox = Outbox::default();
        (0..2).for_each(|port| outbox.note(2, Tick(100), &record(port, present(false))));
        outbox.note(2, Tick(103), &record(2, present(false)));
        outbox.note(2, Tick(102), &record(3, present(false)));
        outbox.note(2, Tick(104), &record(4, Presence::Gone));
        outbox.note(2, Tick(105), &record(5, present(true)));
        assert_eq!((outbox.since(), outbox.dropped_total()), (Some(Tick(102)), 0));
        outbox.note(2, Tick(106), &record(6, Presence::Gone));
        outbox.note(2, Tick(101), &record(7, present(true)));
        assert_eq!(outbox.dropped_total(), 2);
        let (since, records) = taken(&mut outbox);
        let ports: Vec<_> = records.iter().map(|noted| noted.record.key.peer.port()).collect();
        assert_eq!((since, ports), (Some(Tick(101)), vec![0, 1, 4, 5]));
        assert_eq!(outbox.since(), None);
    }

    #[test]
    fn an_ipv4_record_takes_31_octets() {
        let mut octets = Vec::new();
        pack(Tick(1), &record(1, present(false)), &mut octets);
        assert_eq!(octets.len(), 31);
    }
}
