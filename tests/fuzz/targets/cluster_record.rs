//! Any octets as the body of an entry: no panic, and what is read is written as the same octets.
#![no_main]

use hayate_state::cluster::encoding::{read_records, write_record};
use hayate_state::cluster::hello::{read_hello, write_hello};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(records) = read_records(input) {
        let (mut written, mut before) = (Vec::new(), None);
        for record in &records {
            assert_ne!(record.key.peer.port(), 0);
            write_record(record, before, &mut written);
            before = Some(&record.key.info_hash);
        }
        assert_eq!(written, input);
    }
    if let Some(hello) = read_hello(input) {
        let mut written = Vec::new();
        write_hello(&hello, &mut written);
        assert_eq!(written, input);
    }
});
