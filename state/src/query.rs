//! URLs as octets: the one splitter of targets and query strings, and percent-escapes. Whoever reads a query
//! decides what a name without a value, a repeated name or a broken escape means.

use crate::ids::hex_value;

/// Splits a request target at its first `?` into path and query.
#[must_use]
pub fn split_target(target: &[u8]) -> (&[u8], &[u8]) {
    match target.iter().position(|&octet| octet == b'?') {
        Some(at) => (target.get(..at).unwrap_or_default(), target.get(at + 1..).unwrap_or_default()),
        None => (target, &[]),
    }
}

/// Iterates over the names and values of a query, still escaped. `&` separates the pairs, the first `=` ends
/// the name; without an `=` there is a name alone.
pub fn pairs(query: &[u8]) -> impl DoubleEndedIterator<Item = (&[u8], Option<&[u8]>)> {
    query.split(|&octet| octet == b'&').map(|pair| match pair.iter().position(|&octet| octet == b'=') {
        Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at + 1..)),
        None => (pair, None),
    })
}

/// Iterates over the octets with their percent-escapes decoded. A `%` without two hexadecimal digits stands
/// for itself.
pub fn decoded(octets: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        let (octet, left) = decode_escape(rest).unwrap_or((first, after));
        rest = left;
        Some(octet)
    })
}

/// Decodes the percent-escape at the beginning of `octets`. Returns its octet and what follows it; `None` if
/// there is no escape.
#[must_use]
pub fn decode_escape(octets: &[u8]) -> Option<(u8, &[u8])> {
    match octets {
        [b'%', high, low, rest @ ..] => Some((hex_value(*high)? << 4 | hex_value(*low)?, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_split_at_its_first_question_mark() {
        for (target, parts) in [
            ("/a?b=c", ("/a", "b=c")),
            ("/a", ("/a", "")),
            ("/a?", ("/a", "")),
            ("?b?c", ("", "b?c")),
            ("", ("", "")),
        ] {
            assert_eq!(split_target(target.as_bytes()), (parts.0.as_bytes(), parts.1.as_bytes()), "{target}");
        }
    }

    #[test]
    fn pairs_are_split_at_the_first_equals_sign() {
        let of = |query: &'static str| pairs(query.as_bytes()).collect::<Vec<_>>();
        assert_eq!(of("a=b=c&d"), [(&b"a"[..], Some(&b"b=c"[..])), (b"d", None)]);
        assert_eq!(of("=a&"), [(&b""[..], Some(&b"a"[..])), (b"", None)]);
        assert_eq!(of(""), [(&b""[..], None)]);
    }

    #[test]
    fn whole_escapes_are_decoded_and_broken_ones_stay() {
        for (octets, expected) in
            [("%41%2fb", "A/b"), ("%4", "%4"), ("%zz%41", "%zzA"), ("%%41", "%A"), ("", "")]
        {
            assert_eq!(decoded(octets.as_bytes()).collect::<Vec<_>>(), expected.as_bytes(), "{octets}");
        }
    }
}
