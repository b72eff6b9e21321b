//! [`ReplyReader`]: what a server answers, in RESP2. It keeps nothing that was not asked for: what is longer
//! than expected is read and dropped, and no memory is reserved by a length that the server claims.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::super::EntryId;

/// Octets of a line, without its end, at most.
const LINE_MAX: usize = 4096;
/// Octets of an entry, or of a text, that are kept at most; entries of nodes are shorter.
pub(super) const VALUE_MAX: usize = 64 * 1024;

/// Why a reply is of no use.
#[derive(Debug)]
pub(super) enum ReplyError {
    /// The connection failed.
    Io(io::Error),
    /// The server has answered with this error.
    Server(String),
    /// The server has answered what nobody asked.
    Unexpected(&'static str),
}

impl From<io::Error> for ReplyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The first line of a value; the content of bulk strings and arrays follows it.
#[derive(Debug)]
enum ReplyHead {
    Simple(String),
    Integer(i64),
    Bulk(u64),
    Array(u64),
    Nil,
}

/// Reads replies from a connection, in their order.
pub(super) struct ReplyReader<S> {
    stream: BufReader<S>,
}

impl<S: Read> ReplyReader<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream: BufReader::with_capacity(32 * 1024, stream) }
    }

    pub(super) fn stream(&mut self) -> &mut S {
        self.stream.get_mut()
    }

    /// Reads the answer `OK`.
    pub(super) fn ok(&mut self) -> Result<(), ReplyError> {
        match self.head()? {
            ReplyHead::Simple(text) if text == "OK" => Ok(()),
            _ => Err(ReplyError::Unexpected("it answers something other than OK")),
        }
    }

    /// Reads a number that is not negative.
    pub(super) fn number(&mut self) -> Result<u64, ReplyError> {
        let expected = ReplyError::Unexpected("it answers something other than a number");
        match self.head()? {
            ReplyHead::Integer(number) => u64::try_from(number).map_err(|_| expected),
            _ => Err(expected),
        }
    }

    /// Reads the length of an array, whose values are read next; `None` where there is none.
    pub(super) fn array(&mut self) -> Result<Option<u64>, ReplyError> {
        match self.head()? {
            ReplyHead::Array(len) => Ok(Some(len)),
            ReplyHead::Nil => Ok(None),
            _ => Err(ReplyError::Unexpected("it answers something other than an array")),
        }
    }

    /// Reads the head of an array of `len` values, and no other.
    pub(super) fn array_of(&mut self, len: u64) -> Result<(), ReplyError> {
        if self.array()? == Some(len) {
            return Ok(());
        }
        Err(ReplyError::Unexpected("it answers an array of another length"))
    }

    /// Reads a string of [`VALUE_MAX`] octets at most; a longer one is passed over, and `None`.
    pub(super) fn octets(&mut self) -> Result<Option<Vec<u8>>, ReplyError> {
        match self.head()? {
            ReplyHead::Bulk(len) => self.content(len),
            ReplyHead::Simple(text) => Ok(Some(text.into_bytes())),
            _ => Err(ReplyError::Unexpected("it answers something other than a string")),
        }
    }

    /// Reads a string of UTF-8.
    pub(super) fn text(&mut self) -> Result<String, ReplyError> {
        let octets = self.octets()?.ok_or(ReplyError::Unexpected("it answers a very long text"))?;
        String::from_utf8(octets).map_err(|_| ReplyError::Unexpected("it answers a text that is not UTF-8"))
    }

    /// Reads the place of an entry.
    pub(super) fn entry_id(&mut self) -> Result<EntryId, ReplyError> {
        let text = self.text()?;
        let id = text.split_once('-').and_then(|(milliseconds, number)| {
            Some(EntryId { milliseconds: decimal(milliseconds)?, number: decimal(number)? })
        });
        id.ok_or(ReplyError::Unexpected("it answers something other than an entry's id"))
    }

    /// Reads a string with a number that is not negative.
    pub(super) fn decimal_text(&mut self) -> Result<u64, ReplyError> {
        decimal(&self.text()?).ok_or(ReplyError::Unexpected("it answers something other than a number"))
    }

    /// Passes over one value, whatever it is and has in it.
    pub(super) fn skip(&mut self) -> Result<(), ReplyError> {
        let mut left = 1_u64;
        while left > 0 {
            left -= 1;
            match self.head()? {
                ReplyHead::Bulk(len) => self.discard(len)?,
                ReplyHead::Array(len) => left = left.saturating_add(len),
                ReplyHead::Simple(_) | ReplyHead::Integer(_) | ReplyHead::Nil => {}
            }
        }
        Ok(())
    }

    fn head(&mut self) -> Result<ReplyHead, ReplyError> {
        let line = self.line()?;
        let unexpected = ReplyError::Unexpected("it answers something other than RESP2");
        let Some((kind, rest)) = line.split_at_checked(1) else { return Err(unexpected) };
        match kind {
            "+" => Ok(ReplyHead::Simple(rest.to_owned())),
            "-" => Err(ReplyError::Server(rest.to_owned())),
            ":" => rest.parse().map(ReplyHead::Integer).map_err(|_| unexpected),
            "$" | "*" if rest == "-1" => Ok(ReplyHead::Nil),
            "$" => decimal(rest).map(ReplyHead::Bulk).ok_or(unexpected),
            "*" => decimal(rest).map(ReplyHead::Array).ok_or(unexpected),
            _ => Err(unexpected),
        }
    }

    /// Reads up to the end of a line. Errors may have any octets, so what is not UTF-8 is replaced.
    fn line(&mut self) -> Result<String, ReplyError> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_MAX as u64 + 2).read_until(b'\n', &mut line)?;
        if let Some(text) = line.strip_suffix(b"\r\n") {
            return Ok(String::from_utf8_lossy(text).into_owned());
        }
        if line.len() < LINE_MAX + 2 && !line.ends_with(b"\n") {
            return Err(closed().into());
        }
        Err(ReplyError::Unexpected("it answers something other than RESP2"))
    }

    /// Reads the content of a bulk string.
    fn content(&mut self, len: u64) -> Result<Option<Vec<u8>>, ReplyError> {
        if len > VALUE_MAX as u64 {
            self.discard(len)?;
            return Ok(None);
        }
        let mut octets = Vec::new();
        (&mut self.stream).take(len).read_to_end(&mut octets)?;
        if octets.len() as u64 != len {
            return Err(closed().into());
        }
        self.line_end()?;
        Ok(Some(octets))
    }

    fn discard(&mut self, len: u64) -> Result<(), ReplyError> {
        if io::copy(&mut (&mut self.stream).take(len), &mut io::sink())? != len {
            return Err(closed().into());
        }
        self.line_end()
    }

    fn line_end(&mut self) -> Result<(), ReplyError> {
        let mut end = [0; 2];
        self.stream.read_exact(&mut end)?;
        if &end == b"\r\n" {
            return Ok(());
        }
        Err(ReplyError::Unexpected("it answers a string of another length"))
    }
}

impl<S: Read + Write> ReplyReader<S> {
    /// Sends requests, whose replies are read next.
    pub(super) fn send(&mut self, requests: &Requests) -> Result<(), ReplyError> {
        self.stream().write_all(&requests.0)?;
        self.stream().flush()?;
        Ok(())
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it has closed the connection")
}

/// Reads a number as servers write it: digits alone.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Commands, as octets to send.
#[derive(Debug, Default)]
pub(super) struct Requests(Vec<u8>);

impl Requests {
    /// Adds a command.
    pub(super) fn add(&mut self, parts: &[&[u8]]) {
        self.0.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
        for part in parts {
            self.0.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            self.0.extend_from_slice(part);
            self.0.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(octets: &[u8]) -> ReplyReader<&[u8]> {
        ReplyReader::new(octets)
    }

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut requests = Requests::default();
        requests.add(&[b"XADD", b"k\r\n"]);
        assert_eq!(requests.0, b"*2\r\n$4\r\nXADD\r\n$3\r\nk\r\n\r\n");
    }

    #[test]
    fn values_are_read_in_their_order() {
        let mut reader = reader(b"+OK\r\n:7\r\n$2\r\nab\r\n*-1\r\n*2\r\n$5\r\n11-13\r\n$-1\r\n+rest\r\n");
        reader.ok().unwrap();
        assert_eq!(reader.number().unwrap(), 7);
        assert_eq!(reader.octets().unwrap().unwrap(), b"ab");
        assert_eq!(reader.array().unwrap(), None);
        reader.array_of(2).unwrap();
        assert_eq!(reader.entry_id().unwrap(), EntryId { milliseconds: 11, number: 13 });
        reader.skip().unwrap();
        assert_eq!(reader.text().unwrap(), "rest");
        assert!(matches!(reader.skip(), Err(ReplyError::Io(_))));
    }

    #[test]
    fn a_nested_value_is_passed_over() {
        let mut reader = reader(b"*3\r\n*2\r\n:1\r\n$1\r\nx\r\n*0\r\n$-1\r\n+OK\r\n");
        reader.skip().unwrap();
        reader.ok().unwrap();
    }

    #[test]
    fn a_long_string_is_passed_over() {
        let mut octets = format!("${}\r\n", VALUE_MAX + 1).into_bytes();
        octets.resize(octets.len() + VALUE_MAX + 1, b'x');
        octets.extend_from_slice(b"\r\n+OK\r\n");
        let mut reader = reader(&octets);
        assert_eq!(reader.octets().unwrap(), None);
        reader.ok().unwrap();
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        let long_line = [b'+'].repeat(LINE_MAX * 2);
        let cases: [&[u8]; 12] = [
            b"",
            b"\r\n",
            b"?\r\n",
            b"+OK\n",
            b"$",
            b"$-2\r\n",
            b"$+2\r\nab\r\n",
            b"$2\r\nabc\r\n",
            b"$18446744073709551615\r\nab",
            b"*18446744073709551616\r\n",
            b"\xff\xfe\r\n",
            &long_line,
        ];
        for case in cases {
            assert!(reader(case).skip().is_err(), "{case:?}");
        }
    }

    #[test]
    fn lengths_that_are_only_claimed_reserve_nothing() {
        for claim in ["$60000\r\n", "$9223372036854775807\r\n", "*18446744073709551615\r\n"] {
            assert!(matches!(reader(claim.as_bytes()).skip(), Err(ReplyError::Io(_))), "{claim}");
        }
        assert!(matches!(reader(b"$60000\r\nab").octets(), Err(ReplyError::Io(_))));
    }

    #[test]
    fn an_entry_id_has_two_numbers() {
        for text in ["+1\r\n", "+1-\r\n", "+-1\r\n", "+1--1\r\n", "+a-1\r\n", "+1-18446744073709551616\r\n"] {
            assert!(reader(text.as_bytes()).entry_id().is_err(), "{text}");
        }
    }
}
