//! `hayate-bencode`: bencode to JSON and back, for people who want to read or make a file or a reply.
//!
//! Nothing is lost on the way: integers may have any size, and a string or key that is not UTF-8, or begins
//! with NUL and `hex:`, is written as [`json::HEX`] and hexadecimal digits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::bencode::{DecodeError, Value};
use crate::json::{self, Container, octets_of, text_of};

/// Deepest nesting of values.
pub const DEPTH_MAX: usize = 128;

/// The text that is printed without a known sub-command.
pub const USAGE: &str = concat!(
    "hayate-bencode ",
    env!("CARGO_PKG_VERSION"),
    ": bencode to JSON and back, from standard input to standard output

Usage: hayate-bencode decode    one bencoded value becomes JSON
       hayate-bencode encode    one JSON value becomes bencode

A string that is not UTF-8 is written in JSON as \"\\u0000hex:\" and hexadecimal digits.
"
);

/// Why a value cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A known sub-command with further arguments.
    #[error("decode and encode take no arguments")]
    Arguments,
    /// The value cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The text is not bencode.
    #[error(transparent)]
    Bencode(#[from] DecodeError),
    /// The text is not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A number with a fraction or an exponent.
    #[error("bencode has whole numbers only, not {0}")]
    Fraction(String),
    /// A `null` that is not the value of a key.
    #[error("bencode has no null; only in an object a null is left out")]
    Null,
    /// More than [`DEPTH_MAX`] levels.
    #[error("JSON with more than {DEPTH_MAX} levels")]
    Depth,
    /// What follows [`json::HEX`] is not hexadecimal.
    #[error("after \\u0000hex: an even number of hexadecimal digits must follow")]
    Hex,
    /// A key that occurs twice in one object.
    #[error("a key occurs twice in one object: {0:?}")]
    DuplicateKey(String),
}

/// A whole number of any size, as bencode writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeNumber(Box<str>);

/// A text that is not a whole number without leading zeros, or minus zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a whole number")]
pub struct NotWhole;

impl FromStr for WholeNumber {
    type Err = NotWhole;

    fn from_str(text: &str) -> Result<Self, NotWhole> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_whole = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        let is_zero_led = digits.starts_with('0') && text != "0";
        if is_whole && !is_zero_led { Ok(Self(text.into())) } else { Err(NotWhole) }
    }
}

impl fmt::Display for WholeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A bencoded value with integers of any size.
pub type Document = Value<WholeNumber>;

/// Runs the sub-command of the arguments; without a known one, prints [`USAGE`].
///
/// # Errors
/// Fails when the value cannot be read, or has no form in the other language.
pub fn run(args: &[String], from: impl Read, to: &mut impl Write) -> Result<(), ConvertError> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["decode"] => decode(&read(from)?, to),
        ["encode"] => Ok(to.write_all(&encode(&read(from)?)?)?),
        ["decode" | "encode", ..] => Err(ConvertError::Arguments),
        _ => Ok(to.write_all(USAGE.as_bytes())?),
    }
}

fn read(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.read_to_end(&mut text)?;
    Ok(text)
}

/// Writes the bencoded value at the beginning of `text` as JSON, with keys in the order of their texts.
///
/// # Errors
/// Fails when `text` does not begin with a bencoded value, or when `to` fails.
pub fn decode(text: &[u8], to: &mut impl Write) -> Result<(), ConvertError> {
    let document = Document::decode_first(text, DEPTH_MAX)?;
    let mut writer = json::Writer::new(to);
    write(&document, &mut writer)?;
    writer.finish()?;
    Ok(())
}

fn write<W: Write>(document: &Document, to: &mut json::Writer<W>) -> io::Result<()> {
    match document {
        Value::Integer(number) => to.literal(number),
        Value::Octets(octets) => to.text(&text_of(octets)),
        Value::List(values) => to.container(Container::List, |to| {
            values.iter().try_for_each(|value| {
                to.item()?;
                write(value, to)
            })
        }),
        Value::Dictionary(entries) => to.container(Container::Object, |to| {
            let entries: BTreeMap<_, _> = entries.iter().map(|(key, value)| (text_of(key), value)).collect();
            entries.iter().try_for_each(|(key, value)| {
                to.key(key)?;
                write(value, to)
            })
        }),
    }
}

/// Converts the JSON value at the beginning of `text` to bencode.
///
/// # Errors
/// Fails when `text` does not begin with a JSON value, or bencode has no form for it.
pub fn encode(text: &[u8]) -> Result<Vec<u8>, ConvertError> {
    // Raw values keep every digit of a number, other JSON values do not.
    let raw = <&RawValue>::deserialize(&mut serde_json::Deserializer::from_slice(text))?;
    let document = document(raw, DEPTH_MAX)?.ok_or(ConvertError::Null)?;
    Ok(document.encode())
}

/// Reads a value; returns `None` for a null.
fn document(raw: &RawValue, depth: usize) -> Result<Option<Document>, ConvertError> {
    let text = raw.get();
    if depth == 0 {
        return Err(ConvertError::Depth);
    }
    Ok(Some(match text.as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b't') => Value::Integer(WholeNumber("1".into())),
        Some(b'f') => Value::Integer(WholeNumber("0".into())),
        Some(b'"') => Value::Octets(octets(&serde_json::from_str::<Cow<'_, str>>(text)?)?),
        Some(b'[') => Value::List(list(serde_json::from_str(text)?, depth)?),
        Some(b'{') => Value::Dictionary(dictionary(serde_json::from_str(text)?, depth)?),
        _ => Value::Integer(number(text)?),
    }))
}

fn octets(text: &str) -> Result<Vec<u8>, ConvertError> {
    octets_of(text).map(Cow::into_owned).ok_or(ConvertError::Hex)
}

fn number(text: &str) -> Result<WholeNumber, ConvertError> {
    let text = if text == "-0" { "0" } else { text };
    text.parse().map_err(|NotWhole| ConvertError::Fraction(text.into()))
}

fn list(values: Vec<&RawValue>, depth: usize) -> Result<Vec<Document>, ConvertError> {
    values.into_iter().map(|value| document(value, depth - 1)?.ok_or(ConvertError::Null)).collect()
}

fn dictionary(members: Members<'_>, depth: usize) -> Result<BTreeMap<Vec<u8>, Document>, ConvertError> {
    let mut entries = BTreeMap::new();
    for (key, value) in members.0 {
        let Some(value) = document(value, depth - 1)? else { continue };
        if entries.insert(octets(&key)?, value).is_some() {
            return Err(ConvertError::DuplicateKey(key));
        }
    }
    Ok(entries)
}

/// MembersVisitor members of an object, in their order.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'t> Deserialize<'t> for Members<'t> {
    fn deserialize<D: serde::Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'t> Visitor<'t> for MembersVisitor {
            type Value = Members<'t>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &[u8]) -> Result<String, String> {
        let mut json = Vec::new();
        run(&["decode".into()], text, &mut json).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(json).unwrap())
    }

    fn encoded(text: &str) -> Result<String, String> {
        let mut bencode = Vec::new();
        run(&["encode".into()], text.as_bytes(), &mut bencode).map_err(|error| error.to_string())?;
        Ok(bencode.escape_ascii().to_string())
    }

    #[test]
    fn bencode_becomes_json() {
        for (bencode, json) in [
            (&b"i7e"[..], "7"),
            (b"i-123456789012345678901234567890e", "-123456789012345678901234567890"),
            (b"le", "[]"),
            (b"de", "{}"),
            (b"0:", "\"\""),
            (b"4:<&>x", "\"\\u003c\\u0026\\u003ex\""),
            (b"2:\xff\x0a", "\"\\u0000hex:ff0a\""),
            (b"6:\0hex:a", "\"\\u0000hex:006865783a61\""),
            (b"d1:bi1e1:ali2eleee and more", "{\n\t\"a\": [\n\t\t2,\n\t\t[]\n\t],\n\t\"b\": 1\n}"),
            (b"d1:ai1e1:\xffi2ee", "{\n\t\"\\u0000hex:ff\": 2,\n\t\"a\": 1\n}"),
        ] {
            assert_eq!(decoded(bencode), Ok(format!("{json}\n")));
        }
    }

    #[test]
    fn json_becomes_bencode() {
        for (json, bencode) in [
            ("{\"b\":1}", "d1:bi1ee"),
            (" [true, false, -0, -7]", "li1ei0ei0ei-7ee"),
            ("123456789012345678901234567890", "i123456789012345678901234567890e"),
            ("{\"b\": {}, \"a\": null, \"\": [], \"B\": \"x\"} ignored", "d0:le1:B1:x1:bdee"),
            ("\"\\u0000hex:fF0a\"", "2:\\xff\\n"),
            ("{\"\\u0000hex:ff\": \"\\u003c\\ud83c\\udf0a\"}", "d1:\\xff5:<\\xf0\\x9f\\x8c\\x8ae"),
        ] {
            assert_eq!(encoded(json), Ok(bencode.into()), "{json}");
        }
    }

    #[test]
    fn a_value_without_a_form_in_the_other_language_is_an_error() {
        let not_json = |text: &str| encoded(text).is_err_and(|error| error.starts_with("not JSON: "));
        for text in ["", "{", "[1,]", "{\"a\":}", "'a'", "{a:1}", "nul", "\"\\ud800\"", "01"] {
            assert!(not_json(text), "{text}");
        }
        for (json, error) in [
            ("1.5", "bencode has whole numbers only, not 1.5"),
            ("[1.0]", "bencode has whole numbers only, not 1.0"),
            ("1e3", "bencode has whole numbers only, not 1e3"),
            ("null", "bencode has no null; only in an object a null is left out"),
            ("[null]", "bencode has no null; only in an object a null is left out"),
            ("{\"a\":1,\"a\":2}", "a key occurs twice in one object: \"a\""),
            ("\"\\u0000hex:f\"", "after \\u0000hex: an even number of hexadecimal digits must follow"),
        ] {
            assert_eq!(encoded(json), Err(error.into()), "{json}");
        }
        for (bencode, error) in [
            (&b""[..], "not bencode: it ends too early, after 0 octets"),
            (b"i07e", "not bencode: bad number at octet 1"),
            (b"d1:ai1e1:ai2ee", "not bencode: the key at octet 7 is out of order or occurs twice"),
        ] {
            assert_eq!(decoded(bencode), Err(error.into()));
        }
    }

    #[test]
    fn depth_has_a_limit_in_both_directions() {
        let nested = |depth: usize, open: &str, close: &str| open.repeat(depth) + &close.repeat(depth);
        let bencode = nested(DEPTH_MAX, "l", "e");
        let json = decoded(bencode.as_bytes()).unwrap();
        assert_eq!(encoded(&json), Ok(bencode));
        for depth in [DEPTH_MAX + 1, 100_000] {
            let error = decoded(nested(depth, "l", "e").as_bytes()).unwrap_err();
            assert_eq!(error, "bencode with more than 128 levels, at octet 128");
            assert_eq!(encoded(&nested(depth, "[", "]")), Err("JSON with more than 128 levels".into()));
        }
    }

    #[test]
    fn without_a_known_command_usage_is_printed() {
        for args in [&[][..], &["x".into()], &["--help".into(), "decode".into()]] {
            let mut text = Vec::new();
            run(args, io::empty(), &mut text).unwrap();
            assert_eq!(text, USAGE.as_bytes());
        }
        let more = run(&["decode".into(), "x".into()], io::empty(), &mut Vec::new());
        assert!(matches!(more, Err(ConvertError::Arguments)));
    }

    /// Makes a document with every kind of value, and octets that are hard to write as text.
    fn random_document(random: &mut fastrand::Rng, depth: usize) -> Document {
        let octets = |random: &mut fastrand::Rng| -> Vec<u8> {
            let hard: [&[u8]; 5] = [b"\0hex:", b"\xff", "ü<>&\"\\".as_bytes(), b"\n\x7f", b"a"];
            (0..random.usize(..4)).flat_map(|_| hard[random.usize(..hard.len())]).copied().collect()
        };
        match random.u8(..if depth == 0 { 2 } else { 4 }) {
            0 => {
                let digits: String = (0..random.usize(..50)).map(|_| random.digit(10)).collect();
                let sign = if random.bool() { "-" } else { "" };
                Value::Integer(format!("{sign}7{digits}").parse().unwrap())
            }
            1 => Value::Octets(octets(random)),
            2 => Value::List((0..random.usize(..5)).map(|_| random_document(random, depth - 1)).collect()),
            _ => {
                let count = random.usize(..5);
                let entry = |_| (octets(random), random_document(random, depth - 1));
                Value::Dictionary((0..count).map(entry).collect())
            }
        }
    }

    #[test]
    fn every_document_survives_both_ways() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..5000 {
            let bencode = random_document(&mut random, 5).encode();
            let json = decoded(&bencode).unwrap();
            assert_eq!(encode(json.as_bytes()).unwrap(), bencode, "{json}");
            // And other readers take it for JSON.
            serde_json::from_str::<serde::de::IgnoredAny>(&json).unwrap();
        }
    }
}
