//! Entries whose octets are a number and a checksum.

use std::time::Duration;

use hayate_state::PeerId;
use hayate_state::cluster::bus::EntryId;
use hayate_state::cluster::codec::{
    EntryBody, EntryCodec, EntryRefusal, Incarnation, ReadEntry, WrittenEntry,
};
use hayate_state::cluster::hello::{Hello, NodeSettings};
use hayate_state::cluster::record::PeerRecord;

use super::shared::Shared;

/// Fewer than in a real entry, so that there are several.
const RECORDS_MAX: usize = 5;

pub(super) struct ToyCodec {
    pub(super) shared: Shared,
    pub(super) node: usize,
    pub(super) incarnation: Incarnation,
    pub(super) seq: u64,
}

impl ToyCodec {
    fn seal(&mut self, sealed_at: Duration, mut body: EntryBody, records: usize) -> WrittenEntry {
        self.seq += 1;
        let mut world = self.shared.lock();
        if let EntryBody::Records { republished, records } = &mut body {
            for record in records {
                // By this a replica notices a record that comes twice.
                world.tags += 1;
                let mut id = [0; 20];
                id[..8].copy_from_slice(&world.tags.to_le_bytes());
                record.peer_id = Some(PeerId(id));
                let record = *record;
                world.trace(&record.key, || {
                    format!("node {} seals {} {record:?} again {republished}", self.node, self.seq)
                });
            }
        }
        let number = world.sealed.len() as u64;
        let incarnation = self.incarnation;
        world.sealed.push(ReadEntry { incarnation, seq: self.seq, sealed_at, body });
        WrittenEntry { seq: self.seq, octets: octets_of(number), records }
    }
}

/// Returns the octets of the entry with a number.
pub(super) fn octets_of(number: u64) -> Vec<u8> {
    [number.to_le_bytes().as_slice(), &checksum(number).to_le_bytes()].concat()
}

/// Returns what a node says about itself, but for its clock.
pub(super) fn toy_hello(node: usize) -> Hello {
    Hello {
        node_id: format!("node{node}"),
        version: "1".to_owned(),
        store: "none".to_owned(),
        newest_format: 1,
        streams: 1,
        settings: NodeSettings {
            mode: "open".to_owned(),
            peer_inactivity_seconds: 3000,
            renew_after_seconds: 0,
            keep_peer_ids: true,
        },
        udp_key_tag: None,
        unix_seconds: 0,
        uptime_seconds: 0,
        leaving: false,
    }
}

fn checksum(number: u64) -> u32 {
    crc32fast::hash(&[number.to_le_bytes(), *b"a secret"].concat())
}

impl EntryCodec for ToyCodec {
    fn seal_records(&mut self, at: Duration, republished: bool, records: &[PeerRecord]) -> WrittenEntry {
        let count = records.len().min(RECORDS_MAX);
        self.seal(at, EntryBody::Records { republished, records: records[..count].to_vec() }, count)
    }

    fn seal_hello(&mut self, at: Duration, leaving: bool) -> WrittenEntry {
        let hello = Hello { leaving, ..self.hello() };
        self.seal(at, EntryBody::Hello(hello), 0)
    }

    fn hello(&self) -> Hello {
        let world = self.shared.lock();
        let clock = world.server.time(world.now) / 1000;
        let unix_seconds = clock.saturating_add_signed(world.clocks_ahead[self.node]);
        Hello { unix_seconds, ..world.hellos[self.node].clone() }
    }

    fn open(&mut self, _: EntryId, octets: &[u8]) -> Result<ReadEntry, EntryRefusal> {
        let (number, sum) = octets.split_first_chunk().ok_or(EntryRefusal::Damaged)?;
        let number = u64::from_le_bytes(*number);
        if sum != checksum(number).to_le_bytes() {
            return Err(EntryRefusal::Sealed);
        }
        Ok(self.shared.lock().sealed[usize::try_from(number).unwrap()].clone())
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }
}
