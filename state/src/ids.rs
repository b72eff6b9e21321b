//! `info_hash` and `peer_id`: twenty octets each (BEP 3).

use std::fmt;
use std::str::FromStr;

/// Octets of an [`InfoHash`] and of a [`PeerId`] (BEP 3).
pub const ID_LEN: usize = 20;
/// Digits of an `info_hash` of BitTorrent v2.
const LONG_DIGITS: usize = 64;

/// Names one torrent: SHA-1 of its info dictionary (BEP 3), or the first 20 octets of the SHA-256 (BEP 52).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct InfoHash(pub [u8; ID_LEN]);

/// Names one client session, chosen by the client (BEP 3, BEP 20). Any octets are valid.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PeerId(pub [u8; ID_LEN]);

/// Names a kind of client: the octets behind the `-` of a `peer_id` (BEP 20), or its first six.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub [u8; 6]);

impl PeerId {
    /// Returns the kind of client that the id claims.
    #[must_use]
    pub fn client(&self) -> ClientId {
        let [dash, first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _] = self.0;
        if dash == b'-' {
            return ClientId(first);
        }
        let [client @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _] = self.0;
        ClientId(client)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error for a text that is not 40 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an info_hash: 40 hexadecimal digits are needed")]
pub struct NotAnInfoHash;

impl InfoHash {
    /// Reads 40 hexadecimal digits, or the 64 of BitTorrent v2, of which the first 40 count: clients announce
    /// those (BEP 52). The flag is true if there were 64.
    #[must_use]
    pub fn from_hex_digits(text: &str) -> Option<(Self, bool)> {
        let is_long = text.len() == LONG_DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let digits = if is_long { text.get(..2 * ID_LEN)? } else { text };
        Some((digits.parse().ok()?, is_long))
    }
}

impl FromStr for InfoHash {
    type Err = NotAnInfoHash;

    fn from_str(text: &str) -> Result<Self, NotAnInfoHash> {
        let mut octets = [0; ID_LEN];
        let digits = text.as_bytes();
        if digits.len() != 2 * ID_LEN {
            return Err(NotAnInfoHash);
        }
        for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
            *octet = pair
                .iter()
                .try_fold(0, |value, &digit| Some(value << 4 | hex_value(digit)?))
                .ok_or(NotAnInfoHash)?;
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl serde::Serialize for InfoHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for InfoHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// Returns the value of one hexadecimal digit, upper or lower case.
#[must_use]
pub fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_in_either_case_and_written_in_lower() {
        let text = "0123456789abcdefABCDEF0123456789aBcDeF00";
        let hash: InfoHash = text.parse().unwrap();
        assert_eq!(hash.to_string(), text.to_lowercase());
    }

    /// `rules/hooks.md#client-ids`.
    #[test]
    fn clients_are_named_by_their_first_octets() {
        for (peer_id, client) in [
            (b"-AZ3034-6wfG2wk6wWLc", "AZ3034"),
            (b"-A~0010-a9mn9DFkj39J", "A~0010"),
            (b"T03A0----f089kjsdf6e", "T03A0-"),
            (b"M4-4-0--9aa757Efd5Bl", "M4-4-0"),
            (b"exbc0JdSklm834kj9Udf", "exbc0J"),
            (b"-ML2.7.2-kgjjfkd9762", "ML2.7."),
            (b"Q1-10-0-Yoiumn39BDfO", "Q1-10-"),
            (b"346------SDFknl33408", "346---"),
        ] {
            assert_eq!(PeerId(*peer_id).client().to_string(), client);
        }
    }

    #[test]
    fn wrong_lengths_and_digits_are_refused() {
        for text in ["", "00", &"0".repeat(39), &"0".repeat(41), &"g".repeat(40), &"é".repeat(20)] {
            assert_eq!(text.parse::<InfoHash>(), Err(NotAnInfoHash), "{text}");
        }
    }
}
