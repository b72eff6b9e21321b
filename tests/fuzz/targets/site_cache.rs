//! Any octets as blocks of a site, with good checksums: no panic; what is read is read again from what is
//! written, and survives as JSON.
#![no_main]

use hayate_state::snapshot::container::{SnapshotReader, SnapshotWriter};
use hayate_state::snapshot::site::{SiteSnapshot, SiteWriter, read_blocks};
use hayate_tools::cc::{dump_torrents, dump_users, restore_torrents, restore_users};
use libfuzzer_sys::fuzz_target;

fn written(site: &SiteSnapshot) -> Vec<u8> {
    let mut container = SnapshotWriter::new(Vec::new(), 7).expect("a Vec takes everything");
    let mut writer = SiteWriter::new(&mut container);
    site.torrents
        .iter()
        .for_each(|torrent| writer.write_torrent(torrent).expect("what was read can be written"));
    site.users.iter().for_each(|user| writer.write_user(user).expect("what was read can be written"));
    site.unprunes.iter().for_each(|&id| writer.write_unprune(id).expect("a Vec takes everything"));
    writer.finish().expect("a Vec takes everything");
    container.finish().expect("a Vec takes everything")
}

fn read(file: &[u8]) -> Option<SiteSnapshot> {
    Some(read_blocks(SnapshotReader::new(file).ok()?).ok()?.site)
}

fuzz_target!(|input: &[u8]| {
    // As a file, where checksums keep nearly everything out.
    read(input);
    // As a row of blocks: a tag and a length each.
    let mut container = SnapshotWriter::new(Vec::new(), 7).expect("a Vec takes everything");
    let mut rest = input;
    while let Some((&[tag, len], tail)) = rest.split_first_chunk::<2>() {
        let (payload, next) = tail.split_at(usize::from(len).min(tail.len()));
        container.write_block(16 + tag % 4, payload).expect("a good tag and length");
        rest = next;
    }
    let Some(mut site) = read(&container.finish().expect("a Vec takes everything")) else { return };
    assert_eq!(read(&written(&site)).as_ref(), Some(&site));
    site.sort_and_dedup();
    let (mut torrents, mut users) = (Vec::new(), Vec::new());
    dump_torrents(&mut torrents, &site, &mut || ()).expect("a Vec takes everything");
    dump_users(&mut users, &site.users).expect("a Vec takes everything");
    let mut restored = SiteSnapshot::default();
    restore_torrents(torrents.as_slice(), &mut restored, &mut || ()).expect("our own JSON");
    restore_users(users.as_slice(), &mut restored, &mut || ()).expect("our own JSON");
    restored.sort_and_dedup();
    assert_eq!(restored, site);
});
