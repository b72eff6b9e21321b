//! Any octets as bencode: no panic; a value is written as it was read; the reader reads what the gateway's
//! writer writes.
#![no_main]

use hayate_gateway::wire::bencode;
use hayate_tools::bencode::Value;
use libfuzzer_sys::fuzz_target;

/// Writes `input` through the gateway's writer: a dictionary of lists, integers and strings.
fn write(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    bencode::dict(&mut out, |dict| {
        dict.integer(b"a", input.iter().fold(0, |sum, &octet| sum << 8 | u64::from(octet)) >> 1);
        dict.list(b"b", |list| input.chunks(7).for_each(|chunk| bencode::string(list, chunk)));
        dict.dict(b"c", |inner| inner.string(b"", input));
        dict.string(b"d", input);
    });
    out
}

fuzz_target!(|input: &[u8]| {
    if let Ok(value) = Value::decode(input) {
        assert_eq!(value.encode(), input);
    }
    let written = write(input);
    let value = Value::decode(&written).expect("what we write is bencode");
    assert_eq!(value.at("d").and_then(Value::octets), Some(input));
    assert_eq!(value.encode(), written);
});
