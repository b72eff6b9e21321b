//! Writes bencode (BEP 3) straight into the reply's octets.
//!
//! A [`Dict`] takes its keys in raw octet order and no key twice. Debug builds assert this; every key is a
//! constant written in order, or an info_hash sorted beforehand.

/// The largest number of digits of a `u64`.
const DIGITS_MAX: usize = 20;

/// Writes a non-negative integer: `i7e`.
#[inline]
pub fn integer(out: &mut Vec<u8>, value: u64) {
    out.push(b'i');
    decimal(out, value);
    out.push(b'e');
}

/// Writes a byte string: `4:spam`.
#[inline]
pub fn string(out: &mut Vec<u8>, octets: &[u8]) {
    decimal(out, octets.len() as u64);
    out.push(b':');
    out.extend_from_slice(octets);
}

/// Writes a list; `fill` writes its items.
pub fn list(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'l');
    fill(out);
    out.push(b'e');
}

/// Writes a dictionary; `fill` adds its entries.
pub fn dict(out: &mut Vec<u8>, fill: impl FnOnce(&mut Dict<'_>)) {
    out.push(b'd');
    let mut dict = Dict { out, last_key: None };
    fill(&mut dict);
    dict.out.push(b'e');
}

/// A dictionary that is being written.
#[derive(Debug)]
pub struct Dict<'w> {
    out: &'w mut Vec<u8>,
    /// Start and length of the last key in `out`.
    last_key: Option<(usize, usize)>,
}

impl Dict<'_> {
    /// Adds an integer.
    #[inline]
    pub fn integer(&mut self, key: &[u8], value: u64) {
        integer(self.begin_entry(key), value);
    }

    /// Adds a byte string.
    #[inline]
    pub fn string(&mut self, key: &[u8], octets: &[u8]) {
        string(self.begin_entry(key), octets);
    }

    /// Adds a list; `fill` writes its items.
    pub fn list(&mut self, key: &[u8], fill: impl FnOnce(&mut Vec<u8>)) {
        list(self.begin_entry(key), fill);
    }

    /// Adds a dictionary; `fill` adds its entries.
    pub fn dict(&mut self, key: &[u8], fill: impl FnOnce(&mut Dict<'_>)) {
        dict(self.begin_entry(key), fill);
    }

    /// Writes the key and returns the buffer, for the value to follow. Inlined, so that a constant key is
    /// copied as a constant.
    #[inline]
    fn begin_entry(&mut self, key: &[u8]) -> &mut Vec<u8> {
        if cfg!(debug_assertions) {
            let last = self.last_key.and_then(|(start, len)| self.out.get(start..start + len));
            assert!(last.is_none_or(|last| last < key), "keys out of order: {}", key.escape_ascii());
        }
        string(self.out, key);
        self.last_key = Some((self.out.len() - key.len(), key.len()));
        self.out
    }
}

#[inline]
fn decimal(out: &mut Vec<u8>, value: u64) {
    match u8::try_from(value) {
        Ok(digit @ ..10) => out.push(b'0' + digit),
        _ => push_digits(out, value),
    }
}

fn push_digits(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; DIGITS_MAX];
    let mut start = DIGITS_MAX;
    for digit in digits.iter_mut().rev() {
        // A remainder of division by ten fits into an octet.
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        start -= 1;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A value read back by a strict reader, which takes canonical bencode only.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) enum Value {
        Integer(u64),
        String(Vec<u8>),
        List(Vec<Value>),
        Dict(BTreeMap<Vec<u8>, Value>),
    }

    impl Value {
        /// Returns the value of a key. Panics if this is not a dictionary.
        pub(crate) fn get(&self, key: &str) -> Option<&Value> {
            match self {
                Self::Dict(entries) => entries.get(key.as_bytes()),
                _ => panic!("not a dictionary: {self:?}"),
            }
        }

        /// Returns the integer of a key. Panics if the value has another type.
        pub(crate) fn integer(&self, key: &str) -> Option<u64> {
            self.get(key).map(|value| match value {
                Self::Integer(value) => *value,
                _ => panic!("not an integer: {value:?}"),
            })
        }

        /// Returns the octets of a key. Panics if the value has another type.
        pub(crate) fn string(&self, key: &str) -> Option<&[u8]> {
            self.get(key).map(|value| match value {
                Self::String(octets) => octets.as_slice(),
                _ => panic!("not a string: {value:?}"),
            })
        }
    }

    /// Decodes exactly one canonical value.
    pub(crate) fn decode_canonical(octets: &[u8]) -> Value {
        let mut rest = octets;
        let value = read_value(&mut rest);
        assert!(rest.is_empty(), "octets after the value: {}", rest.escape_ascii());
        value
    }

    fn read_value(rest: &mut &[u8]) -> Value {
        match rest[0] {
            b'i' => {
                let end = rest.iter().position(|&octet| octet == b'e').unwrap();
                let value = canonical_number(&rest[1..end]);
                *rest = &rest[end + 1..];
                Value::Integer(value)
            }
            b'l' => {
                *rest = &rest[1..];
                let mut items = Vec::new();
                while rest[0] != b'e' {
                    items.push(read_value(rest));
                }
                *rest = &rest[1..];
                Value::List(items)
            }
            b'd' => {
                *rest = &rest[1..];
                let mut entries = BTreeMap::new();
                while rest[0] != b'e' {
                    let key = read_string(rest);
                    assert!(
                        entries.last_key_value().is_none_or(|(last, _)| *last < key),
                        "keys out of order"
                    );
                    let value = read_value(rest);
                    entries.insert(key, value);
                }
                *rest = &rest[1..];
                Value::Dict(entries)
            }
            _ => Value::String(read_string(rest)),
        }
    }

    fn read_string(rest: &mut &[u8]) -> Vec<u8> {
        let colon = rest.iter().position(|&octet| octet == b':').unwrap();
        let len = usize::try_from(canonical_number(&rest[..colon])).unwrap();
        let octets = rest[colon + 1..colon + 1 + len].to_vec();
        *rest = &rest[colon + 1 + len..];
        octets
    }

    fn canonical_number(digits: &[u8]) -> u64 {
        let text = std::str::from_utf8(digits).unwrap();
        let value: u64 = text.parse().unwrap();
        assert_eq!(value.to_string(), text, "not canonical");
        value
    }

    fn write(out: &mut Vec<u8>, value: &Value) {
        match value {
            Value::Integer(number) => integer(out, *number),
            Value::String(octets) => string(out, octets),
            Value::List(items) => list(out, |out| items.iter().for_each(|item| write(out, item))),
            Value::Dict(entries) => dict(out, |d| write_entries(d, entries)),
        }
    }

    fn write_entries(d: &mut Dict<'_>, entries: &BTreeMap<Vec<u8>, Value>) {
        for (key, value) in entries {
            match value {
                Value::Integer(number) => d.integer(key, *number),
                Value::String(octets) => d.string(key, octets),
                Value::List(items) => d.list(key, |out| items.iter().for_each(|item| write(out, item))),
                Value::Dict(entries) => d.dict(key, |d| write_entries(d, entries)),
            }
        }
    }

    fn random_value(random: &mut fastrand::Rng, depth: usize) -> Value {
        match random.usize(..if depth == 0 { 2 } else { 4 }) {
            0 => Value::Integer(random.u64(..) >> random.u32(..64)),
            1 => Value::String(random_octets(random)),
            2 => Value::List((0..random.usize(..5)).map(|_| random_value(random, depth - 1)).collect()),
            _ => Value::Dict(
                (0..random.usize(..5))
                    .map(|_| (random_octets(random), random_value(random, depth - 1)))
                    .collect(),
            ),
        }
    }

    fn random_octets(random: &mut fastrand::Rng) -> Vec<u8> {
        (0..random.usize(..30)).map(|_| random.u8(..)).collect()
    }

    #[test]
    fn what_is_written_is_canonical_and_reads_back() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2000 {
            let value = random_value(&mut random, 4);
            let mut out = Vec::new();
            write(&mut out, &value);
            assert_eq!(decode_canonical(&out), value);
        }
    }

    #[test]
    fn integers_have_no_leading_zeros() {
        for value in [0, 9, 10, 1800, u64::MAX] {
            let mut out = Vec::new();
            integer(&mut out, value);
            assert_eq!(out, format!("i{value}e").as_bytes());
        }
    }

    #[test]
    #[should_panic(expected = "keys out of order")]
    #[cfg(debug_assertions)]
    fn out_of_order_keys_panic_in_debug_builds() {
        dict(&mut Vec::new(), |d| {
            d.integer(b"interval", 1);
            d.integer(b"complete", 1);
        });
    }
}
