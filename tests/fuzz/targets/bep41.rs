//! Any octets as BEP 41 options: no panic, and the joined URL is what a naive reading gives.
#![no_main]

use hayate_udp::wire::option::Options;
use libfuzzer_sys::fuzz_target;

/// Returns the URL by the letter of BEP 41: the data of every whole URLData up to the end or the first
/// overrun.
fn naive(octets: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut url) = (0, None);
    while at < octets.len() {
        match octets[at] {
            0 => break,
            1 => at += 1,
            kind => {
                let Some(&len) = octets.get(at + 1) else { break };
                let Some(data) = octets.get(at + 2..at + 2 + usize::from(len)) else { break };
                if kind == 2 {
                    url.get_or_insert_with(Vec::new).extend(data);
                }
                at += 2 + usize::from(len);
            }
        }
    }
    url
}

fuzz_target!(|input: &[u8]| {
    let mut buffer = vec![0; input.len()];
    let joined = Options::new(input).join(&mut buffer);
    assert_eq!(joined.map(|url| url.octets.to_vec()), naive(input));
    // If the buffer is shorter than the URL, what does not fit is left out.
    let mut small = [0; 16];
    if let Some(url) = Options::new(input).join(&mut small) {
        assert!(naive(input).is_some_and(|whole| whole.starts_with(url.octets)));
    }
});
