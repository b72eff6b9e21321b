//! JSON as the reference tracker's tools write it: indented with tabs, `<`, `>` and `&` escaped, numbers in
//! their shortest form. It is written piece by piece, so that a document may be larger than memory.
//!
//! Strings of octets that are not UTF-8 are written as [`text_of`] says, and read by [`octets_of`].

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use hayate_state::ids::hex_value;

/// The prefix of a text whose octets follow as hexadecimal digits.
pub const HEX: &str = "\0hex:";

/// A writer of one JSON document. Calls must fit together: within an object each value follows its key,
/// within a list each follows [`Writer::item`].
#[derive(Debug)]
pub struct Writer<W: Write> {
    to: W,
    depth: usize,
    /// Whether the innermost object or list is still empty.
    is_empty: bool,
}

/// A value that holds further values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// `{}`
    Object,
    /// `[]`
    List,
}

impl<W: Write> Writer<W> {
    /// Begins a document.
    pub fn new(to: W) -> Self {
        Self { to, depth: 0, is_empty: true }
    }

    /// Ends the document with a newline.
    ///
    /// # Errors
    /// Fails when the output fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.write_all(b"\n")?;
        Ok(self.to)
    }

    /// Writes an object or list that `fill` fills.
    ///
    /// # Errors
    /// Fails when the output fails, or `fill` does.
    pub fn container(
        &mut self,
        container: Container,
        fill: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        let (open, close) = match container {
            Container::Object => (b"{", b"}"),
            Container::List => (b"[", b"]"),
        };
        self.to.write_all(open)?;
        self.depth += 1;
        self.is_empty = true;
        fill(self)?;
        self.depth -= 1;
        if !self.is_empty {
            self.line()?;
        }
        self.is_empty = false;
        self.to.write_all(close)
    }

    /// Begins a value of a list, which must follow.
    ///
    /// # Errors
    /// Fails when the output fails.
    pub fn item(&mut self) -> io::Result<()> {
        if !self.is_empty {
            self.to.write_all(b",")?;
        }
        self.is_empty = false;
        self.line()
    }

    /// Writes the key of a value of an object.
    ///
    /// # Errors
    /// Fails when the output fails.
    pub fn key(&mut self, key: &str) -> io::Result<()> {
        self.item()?;
        self.text(key)?;
        self.to.write_all(b": ")
    }

    /// Writes a key and an object or list that `fill` fills.
    ///
    /// # Errors
    /// Fails when the output fails, or `fill` does.
    pub fn container_at(
        &mut self,
        key: &str,
        container: Container,
        fill: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        self.key(key)?;
        self.container(container, fill)
    }

    /// Writes a key and a number, or a word without quotes.
    ///
    /// # Errors
    /// Fails when the output fails.
    pub fn literal_at(&mut self, key: &str, value: impl fmt::Display) -> io::Result<()> {
        self.key(key)?;
        self.literal(value)
    }

    /// Writes a key and a string.
    ///
    /// # Errors
    /// Fails when the output fails.
    pub fn text_at(&mut self, key: &str, text: &str) -> io::Result<()> {
        self.key(key)?;
        self.text(text)
    }

    /// Writes a number, or a word without quotes.
    ///
    /// # Errors
    /// Fails when the output fails.
    pub fn literal(&mut self, value: impl fmt::Display) -> io::Result<()> {
        write!(self.to, "{value}")
    }

    /// Writes a string.
    ///
    /// # Errors
    /// Fails when the output fails.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.to.write_all(b"\"")?;
        let mut unescaped_from = 0;
        for (at, letter) in text.char_indices() {
            let Some(escape) = escape_of(letter) else { continue };
            self.to.write_all(text.get(unescaped_from..at).unwrap_or_default().as_bytes())?;
            self.to.write_all(escape.as_bytes())?;
            unescaped_from = at + letter.len_utf8();
        }
        self.to.write_all(text.get(unescaped_from..).unwrap_or_default().as_bytes())?;
        self.to.write_all(b"\"")
    }

    fn line(&mut self) -> io::Result<()> {
        self.to.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| self.to.write_all(b"\t"))
    }
}

fn escape_of(letter: char) -> Option<Cow<'static, str>> {
    Some(match letter {
        '"' => "\\\"".into(),
        '\\' => "\\\\".into(),
        '\n' => "\\n".into(),
        '\r' => "\\r".into(),
        '\t' => "\\t".into(),
        '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
            format!("\\u{:04x}", u32::from(letter)).into()
        }
        _ => return None,
    })
}

/// A finite number, shown in the shortest form that reads back as the same number, without an exponent from
/// 10^-6 up to below 10^21.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Float(pub f64);

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        if size == 0.0 || (1e-6..1e21).contains(&size) {
            return write!(f, "{}", self.0);
        }
        let text = format!("{:e}", self.0);
        f.write_str(&if size < 1.0 { text } else { text.replace('e', "e+") })
    }
}

/// Returns octets as text. Octets that are not UTF-8, or begin with [`HEX`] themselves, become [`HEX`] and
/// two digits for each octet: so every string of octets has a text of its own.
#[must_use]
pub fn text_of(octets: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(octets) {
        Ok(text) if !text.starts_with(HEX) => text.into(),
        _ => format!("{HEX}{}", hex(octets)).into(),
    }
}

/// Returns octets as lower-case hexadecimal digits.
#[must_use]
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Returns the octets from which [`text_of`] made a text, or `None` if no valid digits follow [`HEX`].
#[must_use]
pub fn octets_of(text: &str) -> Option<Cow<'_, [u8]>> {
    match text.strip_prefix(HEX) {
        Some(digits) => Some(unhex(digits)?.into()),
        None => Some(text.as_bytes().into()),
    }
}

/// Returns the octets of hexadecimal digits in either case, or `None` if their number is odd or one is
/// invalid.
#[must_use]
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(hex_value(*high)? << 4 | hex_value(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_lists_are_indented_with_tabs_and_empty_ones_are_closed_at_once() {
        let mut writer = Writer::new(Vec::new());
        writer
            .container(Container::Object, |writer| {
                writer.container_at("a", Container::List, |writer| {
                    writer.item()?;
                    writer.literal(7)?;
                    writer.item()?;
                    writer.container(Container::List, |_| Ok(()))
                })?;
                writer.container_at("b", Container::Object, |_| Ok(()))?;
                writer.literal_at("c", true)?;
                writer.text_at("d", "x")
            })
            .unwrap();
        let text = "{\n\t\"a\": [\n\t\t7,\n\t\t[]\n\t],\n\t\"b\": {},\n\t\"c\": true,\n\t\"d\": \"x\"\n}\n";
        assert_eq!(String::from_utf8(writer.finish().unwrap()).unwrap(), text);
    }

    #[test]
    fn strings_are_escaped_and_read_back() {
        let mut writer = Writer::new(Vec::new());
        let text = "<a href=\"&\">\\ \n\r\t\0\u{1f}\u{7f}\u{2028}\u{2029}ü🌊";
        writer.text(text).unwrap();
        let written = String::from_utf8(writer.finish().unwrap()).unwrap();
        let expected =
            "\"\\u003ca href=\\\"\\u0026\\\"\\u003e\\\\ \\n\\r\\t\\u0000\\u001f\u{7f}\\u2028\\u2029ü🌊\"\n";
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
    }

    #[test]
    fn numbers_are_written_in_their_shortest_form() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.5, "0.5"),
            (0.1, "0.1"),
            (-2.25, "-2.25"),
            (f64::from(0.1_f32), "0.10000000149011612"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (1e-6, "0.000001"),
            (9.5e-7, "9.5e-7"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(Float(number).to_string(), text);
            assert_eq!(serde_json::from_str::<f64>(text).unwrap().to_bits(), number.to_bits(), "{text}");
        }
    }

    #[test]
    fn every_string_of_octets_has_a_text_of_its_own() {
        for (octets, text) in [
            (&b""[..], ""),
            (b"spam", "spam"),
            (b"\0", "\0"),
            (b"\0hex", "\0hex"),
            (b"\0hex:", "\0hex:006865783a"),
            (b"\xff\x0a", "\0hex:ff0a"),
            ("ü".as_bytes(), "ü"),
        ] {
            assert_eq!(text_of(octets), text);
            assert_eq!(octets_of(text).as_deref(), Some(octets));
        }
        assert_eq!(octets_of("\0hex:FF").as_deref(), Some(&[0xff][..]));
        for text in ["\0hex:f", "\0hex:fg", "\0hex:é"] {
            assert_eq!(octets_of(text), None, "{text}");
        }
    }
}
