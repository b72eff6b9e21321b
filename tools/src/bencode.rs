//! Bencoded values (BEP 3): a strict reader with limits of depth and size, a lenient one, and a writer.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Deepest nesting of values.
pub const DEPTH_MAX: usize = 32;
/// Longest text that is read, in octets.
pub const SIZE_MAX: usize = 4 * 1024 * 1024;

/// A bencoded value with integers of type `N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<N = i64> {
    /// `i7e`
    Integer(N),
    /// `4:spam`
    Octets(Vec<u8>),
    /// `li7ei11ee`
    List(Vec<Self>),
    /// `d4:spami7ee`; the keys are sorted as octets.
    Dictionary(BTreeMap<Vec<u8>, Self>),
}

/// An error in a text, with its offset, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text ends within a value.
    #[error("not bencode: it ends too early, after {0} octets")]
    Short(usize),
    /// No value begins with this octet.
    #[error("not bencode: no value begins like octet {0}")]
    Unexpected(usize),
    /// A number with leading zeros, without digits, minus zero, or too large for its type.
    #[error("not bencode: bad number at octet {0}")]
    Number(usize),
    /// A key that is not larger than the one before it.
    #[error("not bencode: the key at octet {0} is out of order or occurs twice")]
    KeyOrder(usize),
    /// More levels than are read.
    #[error("bencode with more than {max} levels, at octet {at}")]
    Depth {
        /// Where the first level too many begins.
        at: usize,
        /// The number of levels that are read.
        max: usize,
    },
    /// Something follows the value.
    #[error("not bencode: something follows the value at octet {0}")]
    Tail(usize),
    /// More than [`SIZE_MAX`] octets.
    #[error("bencode with more than {SIZE_MAX} octets: {0}")]
    Size(usize),
}

impl Value {
    /// Reads one value that fills the whole text.
    ///
    /// # Errors
    /// Fails when the text is not exactly one bencoded value in its only valid form, or exceeds a limit.
    pub fn decode(text: &[u8]) -> Result<Self, DecodeError> {
        if text.len() > SIZE_MAX {
            return Err(DecodeError::Size(text.len()));
        }
        let mut reader = Reader { text, at: 0, keys: Keys::Sorted, depth_max: DEPTH_MAX };
        let value = reader.value(DEPTH_MAX)?;
        if reader.at == text.len() { Ok(value) } else { Err(DecodeError::Tail(reader.at)) }
    }

    /// Returns the value of a key, if this is a dictionary that has it.
    #[must_use]
    pub fn at(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Dictionary(entries) => entries.get(key.as_bytes()),
            _ => None,
        }
    }

    /// Returns the number, if this is one.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns the octets, if this is a string.
    #[must_use]
    pub fn octets(&self) -> Option<&[u8]> {
        match self {
            Self::Octets(octets) => Some(octets),
            _ => None,
        }
    }
}

impl<N: FromStr> Value<N> {
    /// Reads the value at the beginning of a text of any size, whatever follows it. Keys may be in any order,
    /// and values may be nested up to `depth_max` levels deep.
    ///
    /// # Errors
    /// Fails when the text does not begin with such a value, or a key occurs twice.
    pub fn decode_first(text: &[u8], depth_max: usize) -> Result<Self, DecodeError> {
        Reader { text, at: 0, keys: Keys::InAnyOrder, depth_max }.value(depth_max)
    }
}

impl<N: fmt::Display> Value<N> {
    /// Writes the value in its only valid form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut Vec<u8>) {
        match self {
            Self::Integer(number) => text.extend_from_slice(format!("i{number}e").as_bytes()),
            Self::Octets(octets) => write_octets(octets, text),
            Self::List(values) => {
                text.push(b'l');
                values.iter().for_each(|value| value.write(text));
                text.push(b'e');
            }
            Self::Dictionary(entries) => {
                text.push(b'd');
                for (key, value) in entries {
                    write_octets(key, text);
                    value.write(text);
                }
                text.push(b'e');
            }
        }
    }
}

/// The form for people: strings are escaped, dictionaries and lists look like JSON.
impl<N: fmt::Display> fmt::Display for Value<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Octets(octets) => write!(f, "\"{}\"", octets.escape_ascii()),
            Self::List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Dictionary(entries) => {
                f.write_str("{")?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}\"{}\": {value}", if index == 0 { "" } else { ", " }, key.escape_ascii())?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_octets(octets: &[u8], text: &mut Vec<u8>) {
    text.extend_from_slice(format!("{}:", octets.len()).as_bytes());
    text.extend_from_slice(octets);
}

/// The order in which the keys of a dictionary must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    Sorted,
    InAnyOrder,
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    keys: Keys,
    depth_max: usize,
}

impl<'t> Reader<'t> {
    fn value<N: FromStr>(&mut self, depth: usize) -> Result<Value<N>, DecodeError> {
        match self.peek()? {
            _ if depth == 0 => Err(DecodeError::Depth { at: self.at, max: self.depth_max }),
            b'i' => self.integer(),
            b'0'..=b'9' => Ok(Value::Octets(self.string()?.to_vec())),
            b'l' => self.list(depth),
            b'd' => self.dictionary(depth),
            _ => Err(DecodeError::Unexpected(self.at)),
        }
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        self.text.get(self.at).copied().ok_or(DecodeError::Short(self.at))
    }

    /// Skips `octet` if it is the next one. Returns whether it was.
    fn skip_octet(&mut self, octet: u8) -> Result<bool, DecodeError> {
        let skipped = self.peek()? == octet;
        self.at += usize::from(skipped);
        Ok(skipped)
    }

    fn integer<N: FromStr>(&mut self) -> Result<Value<N>, DecodeError> {
        let start = self.at;
        self.at += 1;
        let minus = self.skip_octet(b'-')?;
        let digits = self.digits(b'e')?;
        if minus && digits == "0" {
            return Err(DecodeError::Number(start));
        }
        let sign = if minus { "-" } else { "" };
        format!("{sign}{digits}").parse().map(Value::Integer).map_err(|_| DecodeError::Number(start))
    }

    fn string(&mut self) -> Result<&'t [u8], DecodeError> {
        let start = self.at;
        let length: usize = self.digits(b':')?.parse().map_err(|_| DecodeError::Number(start))?;
        let end = self.at.checked_add(length).ok_or(DecodeError::Number(start))?;
        let octets = self.text.get(self.at..end).ok_or(DecodeError::Short(self.text.len()))?;
        self.at = end;
        Ok(octets)
    }

    /// Reads digits without a leading zero, and the octet that ends them.
    fn digits(&mut self, end: u8) -> Result<&'t str, DecodeError> {
        let start = self.at;
        while self.peek()?.is_ascii_digit() {
            self.at += 1;
        }
        let digits = self.text.get(start..self.at).and_then(|digits| std::str::from_utf8(digits).ok());
        let good = |digits: &&str| !digits.is_empty() && (*digits == "0" || !digits.starts_with('0'));
        let digits = digits.filter(good).ok_or(DecodeError::Number(start))?;
        if self.skip_octet(end)? { Ok(digits) } else { Err(DecodeError::Number(start)) }
    }

    fn list<N: FromStr>(&mut self, depth: usize) -> Result<Value<N>, DecodeError> {
        self.at += 1;
        let mut values = Vec::new();
        while !self.skip_octet(b'e')? {
            values.push(self.value(depth - 1)?);
        }
        Ok(Value::List(values))
    }

    fn dictionary<N: FromStr>(&mut self, depth: usize) -> Result<Value<N>, DecodeError> {
        self.at += 1;
        let mut entries = BTreeMap::new();
        while !self.skip_octet(b'e')? {
            let start = self.at;
            if !self.peek()?.is_ascii_digit() {
                return Err(DecodeError::Unexpected(start));
            }
            let key = self.string()?.to_vec();
            let is_good = match self.keys {
                Keys::Sorted => entries.last_key_value().is_none_or(|(last, _)| *last < key),
                Keys::InAnyOrder => !entries.contains_key(&key),
            };
            if !is_good {
                return Err(DecodeError::KeyOrder(start));
            }
            let value = self.value(depth - 1)?;
            entries.insert(key, value);
        }
        Ok(Value::Dictionary(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_they_were_read() {
        for text in [
            "i0e",
            "i-7e",
            "i9223372036854775807e",
            "i-9223372036854775808e",
            "0:",
            "4:spam",
            "le",
            "li7e4:spamlee",
            "de",
            "d0:i1e1:ai2e2:aad1:bleee",
        ] {
            let value = Value::decode(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(value.encode(), text.as_bytes());
        }
    }

    #[test]
    fn other_forms_are_refused() {
        use DecodeError::*;
        for (text, error) in [
            ("", Short(0)),
            ("i7", Short(2)),
            ("4:spa", Short(5)),
            ("l", Short(1)),
            ("x", Unexpected(0)),
            ("e", Unexpected(0)),
            ("di7ei7ee", Unexpected(1)),
            ("i07e", Number(1)),
            ("ie", Number(1)),
            ("i-0e", Number(0)),
            ("i+7e", Number(1)),
            ("i9223372036854775808e", Number(0)),
            ("04:spam", Number(0)),
            ("99999999999999999999999:x", Number(0)),
            ("18446744073709551615:x", Number(0)),
            ("d1:bi1e1:ai2ee", KeyOrder(7)),
            ("d1:ai1e1:ai2ee", KeyOrder(7)),
            ("i7ei7e", Tail(3)),
        ] {
            assert_eq!(Value::decode(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn the_lenient_reader_takes_keys_in_any_order_and_ignores_what_follows() {
        let value = Value::<i64>::decode_first(b"d1:bi7e1:ai11eei13e", 2);
        assert_eq!(value.map(|value| value.encode()), Ok(b"d1:ai11e1:bi7ee".to_vec()));
        let decode = |text: &[u8]| Value::<i64>::decode_first(text, 2);
        assert_eq!(decode(b"d1:bi7e1:ai11e1:bi7ee"), Err(DecodeError::KeyOrder(14)));
        assert_eq!(decode(b"llleee"), Err(DecodeError::Depth { at: 2, max: 2 }));
        assert_eq!(decode(b""), Err(DecodeError::Short(0)));
    }

    #[test]
    fn depth_and_size_have_limits() {
        let nested = |depth: usize| "l".repeat(depth) + &"e".repeat(depth);
        let too_deep = DecodeError::Depth { at: DEPTH_MAX, max: DEPTH_MAX };
        assert!(Value::decode(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(Value::decode(nested(DEPTH_MAX + 1).as_bytes()), Err(too_deep));
        let endless = "l".repeat(SIZE_MAX);
        assert_eq!(Value::decode(endless.as_bytes()), Err(too_deep));
        assert_eq!(Value::decode(&vec![b'l'; SIZE_MAX + 1]), Err(DecodeError::Size(SIZE_MAX + 1)));
    }

    #[test]
    fn random_octets_never_panic_and_what_is_read_is_written_back() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let alphabet = b"ilde0123456789:-a";
        for _ in 0..200_000 {
            let text: Vec<u8> =
                (0..random.usize(..12)).map(|_| alphabet[random.usize(..alphabet.len())]).collect();
            if let Ok(value) = Value::decode(&text) {
                assert_eq!(value.encode(), text);
            }
        }
    }

    #[test]
    fn values_are_printed_for_people() {
        let value = Value::decode(b"d1:ali7e2:\xff\x41ee").unwrap();
        assert_eq!(value.to_string(), "{\"a\": [7, \"\\xffA\"]}");
        assert_eq!(value.at("a").and_then(|list| list.at("b")), None);
    }
}
