//! Any octets as an entry do not open, and neither does a sealed one with an octet changed, cut off or added.
//! Sealed as they are, records arrive as they were, however many there are.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use hayate_state::cluster::bus::EntryId;
use hayate_state::cluster::codec::{EntryBody, EntryCodec, ReadEntry};
use hayate_state::cluster::hello::{Hello, NodeSettings};
use hayate_state::cluster::record::{PeerKey, PeerRecord, Presence};
use hayate_state::cluster::sealed::{ClusterSecret, ENTRY_MAX, SealedCodec};
use hayate_state::{InfoHash, PeerId};
use libfuzzer_sys::fuzz_target;

const ID: EntryId = EntryId { milliseconds: 1_796_045_633_300, number: 0 };
const SEALED_AT: Duration = Duration::from_millis(1_796_045_633_299);

fn hello() -> Hello {
    Hello {
        node_id: "node".to_owned(),
        version: "1".to_owned(),
        store: "none".to_owned(),
        newest_format: 1,
        streams: 4,
        settings: NodeSettings {
            mode: "open".to_owned(),
            peer_inactivity_seconds: 4200,
            renew_after_seconds: 1050,
            keep_peer_ids: false,
        },
        udp_key_tag: None,
        unix_seconds: SEALED_AT.as_secs(),
        uptime_seconds: 7,
        leaving: false,
    }
}

fn codec(incarnation: u8) -> SealedCodec {
    let secret = ClusterSecret::new(b"a secret of nodes");
    SealedCodec::new(&secret, "hayate:{0}", [incarnation; 16], Box::new(hello)).expect("a key")
}

/// Returns a record that a node may publish, whatever the octets.
fn record([flags, age, torrent, host, port, count]: [u8; 6]) -> PeerRecord {
    let port = 1 + u16::from(port);
    let peer = match flags & 1 {
        0 => SocketAddr::from(([45, 128, 19, host], port)),
        _ => SocketAddr::from(([0x2a00, 1, u16::from(host), 0, 0, 0, 0, 1], port)),
    };
    let seeder = flags & 2 != 0;
    let presence = match flags & 12 {
        12 => Presence::Gone,
        bits => Presence::Present { seeder, paused: !seeder && bits == 4, finished: flags & 16 != 0 },
    };
    PeerRecord {
        key: PeerKey { info_hash: InfoHash([torrent % 4; 20]), peer },
        age_seconds: u32::from(age) << (flags & 15),
        presence,
        completed: Some(u32::from(count) << 12).filter(|count| *count > 0),
        peer_id: (flags & 32 != 0).then(|| PeerId([age; 20])),
    }
}

fn does_not_open_changed(reader: &mut SealedCodec, octets: &[u8], at: u16, with: u8) {
    let at = usize::from(at) % octets.len();
    let mut changed = octets.to_vec();
    changed[at] ^= with.max(1);
    assert!(reader.open(ID, &changed).is_err());
    assert!(reader.open(ID, &octets[..at]).is_err());
    assert!(reader.open(ID, &[octets, &[with]].concat()).is_err());
}

fuzz_target!(|input: &[u8]| {
    let (mut writer, mut reader) = (codec(1), codec(2));
    assert!(reader.open(ID, input).is_err());
    let Some((&[low, high, with], rest)) = input.split_first_chunk() else { return };
    let at = u16::from_le_bytes([low, high]);
    let mut records: Vec<PeerRecord> = rest.as_chunks().0.iter().map(|&octets| record(octets)).collect();
    // Enough for several entries, from few octets.
    if with & 1 != 0 {
        records = records.repeat(usize::from(with));
    }
    let (mut left, mut seq) = (&records[..], 0);
    while !left.is_empty() {
        let entry = writer.seal_records(SEALED_AT, with & 2 != 0, left);
        let (taken, others) = left.split_at(entry.records);
        seq += 1;
        assert!(!taken.is_empty() && entry.octets.len() <= ENTRY_MAX);
        let body = EntryBody::Records { republished: with & 2 != 0, records: taken.to_vec() };
        let expected = ReadEntry { incarnation: [1; 16], seq, sealed_at: SEALED_AT, body };
        assert_eq!(reader.open(ID, &entry.octets), Ok(expected));
        does_not_open_changed(&mut reader, &entry.octets, at, with);
        left = others;
    }
    let entry = writer.seal_hello(SEALED_AT, false);
    assert_eq!(reader.open(ID, &entry.octets).map(|read| read.body), Ok(EntryBody::Hello(hello())));
    does_not_open_changed(&mut reader, &entry.octets, at, with);
});
