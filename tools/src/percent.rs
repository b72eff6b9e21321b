//! Percent-encoding (RFC 3986).

/// Appends `octets` to `out`, percent-encoding all but unreserved characters.
pub(crate) fn encode_into(out: &mut Vec<u8>, octets: &[u8]) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' + value - 10 };
    for &octet in octets {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(octet);
        } else {
            out.extend_from_slice(&[b'%', digit(octet >> 4), digit(octet & 15)]);
        }
    }
}

/// Returns `octets` with all but unreserved characters percent-encoded.
pub(crate) fn encode(octets: &[u8]) -> String {
    let mut encoded = Vec::new();
    encode_into(&mut encoded, octets);
    String::from_utf8_lossy(&encoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(encode(b"aZ09-._~ &%+/\xfa\x00"), "aZ09-._~%20%26%25%2B%2F%FA%00");
    }
}
