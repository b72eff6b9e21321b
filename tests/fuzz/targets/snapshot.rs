//! Any octets as a block of swarms: no panic, the counts stay right, and what was restored is the same after
//! it is written and restored, also as plain values and JSON.
#![no_main]

use std::sync::Arc;

use hayate_state::snapshot::container::{SnapshotReader, SnapshotWriter};
use hayate_state::snapshot::plain;
use hayate_state::snapshot::swarms::{CompletedFrom, Restore, Walk, check_swarms, restore_all, write_swarms};
use hayate_state::{Now, Policy, Swarms};
use hayate_tools::cc::{dump_swarms, restore_swarms};
use libfuzzer_sys::fuzz_target;

fn write_snapshot(swarms: &Arc<Swarms>, now: Now) -> Vec<u8> {
    let mut to = SnapshotWriter::new(Vec::new(), now.unix_seconds.cast_signed()).expect("memory takes all");
    let mut walk = Walk::new(Arc::clone(swarms), now.tick);
    write_swarms(&mut walk, &mut to, || now.tick, || Ok(())).expect("memory takes all");
    to.finish().expect("memory takes all")
}

fn survives_as_plain_values(octets: &[u8]) {
    let mut torrents = Vec::new();
    let result = plain::read_block(7, octets, |torrent| torrents.push(torrent));
    assert_eq!(result.is_ok(), check_swarms(octets).is_ok());
    plain::merge_torrents(&mut torrents);
    let (mut json, mut restored) = (Vec::new(), Vec::new());
    dump_swarms(&mut json, &torrents, &mut || ()).expect("a Vec takes everything");
    restore_swarms(json.as_slice(), &mut restored, &mut || ()).expect("our own JSON");
    plain::merge_torrents(&mut restored);
    assert_eq!(restored, torrents);
    let written_at = plain::written_at(&torrents).unwrap_or(7);
    let mut to = SnapshotWriter::new(Vec::new(), written_at).expect("memory takes all");
    plain::write_torrents(&torrents, written_at, &mut to).expect("what was read can be written");
    let file = to.finish().expect("memory takes all");
    let (mut reader, mut reread) = (SnapshotReader::new(file.as_slice()).expect("a snapshot"), Vec::new());
    while let Some((_, payload)) = reader.next_block().expect("what we write is a snapshot") {
        plain::read_block(written_at, payload, |torrent| reread.push(torrent))
            .expect("what we write is in order");
    }
    plain::merge_torrents(&mut reread);
    assert_eq!(reread, torrents);
}

fuzz_target!(|input: &[u8]| {
    let Some((&flags, octets)) = input.split_first() else { return };
    survives_as_plain_values(octets);
    let policy = Policy { keep_peer_ids: flags & 1 != 0, denied_ports: vec![6881], ..Policy::default() };
    let (now, swarms) = (Now::at(7), Swarms::new(u16::from(flags & 2)));
    let mut first = Restore::new(&swarms, &policy, CompletedFrom::Snapshot);
    let result = first.restore_swarms(now, now.unix_seconds.cast_signed() - i64::from(flags), octets);
    assert_eq!(result.is_ok(), check_swarms(octets).is_ok());
    assert_eq!(u64::from(swarms.peer_counts().total()), first.summary().peers);
    let (file, others) = (write_snapshot(&swarms, now), Swarms::new(u16::from(flags & 2)));
    let mut second = Restore::new(&others, &policy, CompletedFrom::Snapshot);
    let mut reader = SnapshotReader::new(file.as_slice()).expect("what we write is a snapshot");
    restore_all(&mut second, &mut reader, || now, |_| {}).expect("what we write is in order");
    assert_eq!(others.peer_counts(), swarms.peer_counts());
    assert_eq!((others.live(), others.idle()), (swarms.live(), swarms.idle()));
});
