//! Any octets as cache files of the reference tracker: no panic, and what is read and written back is read
//! alike, unless a type name had to be cut.
#![no_main]

use hayate_state::snapshot::reference::{read_torrents, read_users, write_torrents, write_users};
use hayate_state::snapshot::site::SiteSnapshot;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(torrents) = read_torrents(input) {
        let site = SiteSnapshot { torrents, ..SiteSnapshot::default() };
        let mut written = Vec::new();
        let losses = write_torrents(&mut written, &site).expect("a Vec takes everything");
        let read = read_torrents(&written).expect("what we write is such a file");
        assert!(losses.type_names > 0 || read == site.torrents);
    }
    if let Ok(users) = read_users(input) {
        let mut written = Vec::new();
        write_users(&mut written, &users).expect("a Vec takes everything");
        assert_eq!(read_users(&written), Ok(users));
    }
});
