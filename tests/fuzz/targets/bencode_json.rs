//! Any octets as bencode and as JSON: no panic; what becomes JSON becomes the same bencode again, in its only
//! valid form.
#![no_main]

use hayate_tools::bencode_json::{DEPTH_MAX, Document, decode, encode};
use libfuzzer_sys::fuzz_target;

fn json_of(bencode: &[u8]) -> Option<Vec<u8>> {
    let mut json = Vec::new();
    decode(bencode, &mut json).ok()?;
    Some(json)
}

fuzz_target!(|input: &[u8]| {
    if let Some(json) = json_of(input) {
        let document = Document::decode_first(input, DEPTH_MAX).expect("it was read a moment ago");
        assert_eq!(encode(&json).expect("our own JSON"), document.encode());
    }
    if let Ok(bencode) = encode(input) {
        let json = json_of(&bencode).expect("our own bencode");
        assert_eq!(encode(&json).expect("our own JSON"), bencode);
    }
});
