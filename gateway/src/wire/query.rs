//! The query string, read as octets and without a copy (`rules/http.md#query`). Never via UTF-8: an info_hash
//! is not text.
//!
//! Only `&` separates, the first `=` ends the name, `+` is itself, and percent-escapes are decoded exactly
//! once. Names are case-insensitive; `info_hash` is case-sensitive outside mode private. If a name is
//! repeated, the last value counts, except that every `info_hash` is kept. A broken escape does no harm until
//! the value that holds it is decoded (`rules/http.md#broken-escapes`).

use hayate_state::ids::InfoHash;
use hayate_state::query::{self, decode_escape};

/// Octets of the longest known name, `no_peer_id`.
const NAME_MAX: usize = 10;
/// The largest number of digits that always fit into a `u64`.
const DIGITS_SAFE: usize = 19;
/// The value of every octet as a hexadecimal digit. A table, because digits of hashes are random: branches
/// would be mispredicted.
const HEX: [u8; 256] = hex_values();
/// Not a hexadecimal digit: all bits that no digit sets.
const NO_DIGIT: u8 = 0xf0;

/// A `%` that is not followed by two hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid query escape")]
pub struct BadEscape;

/// The rules by which a request is read and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryRules {
    /// Those of modes open and listed: counters have defaults, and a broken escape in a parameter that is
    /// used is a failure (`rules/http.md#query`).
    Open,
    /// Those of mode private: `port`, `uploaded`, `downloaded` and `left` are required, and a broken escape
    /// stands for itself (`rules/private.md#user-parameters`).
    Private,
}

/// A value as it stands in the query, percent-escapes and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Escaped<'q>(pub &'q [u8]);

/// Why a value is not the identifier it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnId {
    /// It cannot be decoded.
    #[error("invalid query escape")]
    BadEscape,
    /// It is not twenty octets long.
    #[error("not twenty octets")]
    WrongLength,
}

/// What a decimal number turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Digits only, below 2^64.
    Value(u64),
    /// Digits only, 2^64 or more.
    TooLarge,
    /// Empty, signed, or not digits.
    Garbage,
}

impl Number {
    /// The value, if there is one.
    #[must_use]
    pub fn value(self) -> Option<u64> {
        match self {
            Self::Value(value) => Some(value),
            Self::TooLarge | Self::Garbage => None,
        }
    }
}

impl<'q> Escaped<'q> {
    /// The decoded octets; the iterator ends after the first broken escape.
    pub fn octets(self) -> DecodedOctets<'q> {
        DecodedOctets(self.0)
    }

    /// Checks that every escape is whole.
    ///
    /// # Errors
    /// Returns [`BadEscape`] when one is not.
    pub fn check_escapes(self) -> Result<(), BadEscape> {
        self.octets().try_for_each(|octet| octet.map(drop))
    }

    /// The decoded value, written to the front of `buffer`; `None` if it does not fit.
    ///
    /// # Errors
    /// Returns [`BadEscape`] when the value cannot be decoded.
    pub fn decode(self, buffer: &mut [u8]) -> Result<Option<&[u8]>, BadEscape> {
        let mut len = 0;
        for octet in self.octets() {
            let octet = octet?;
            if let Some(slot) = buffer.get_mut(len) {
                *slot = octet;
            }
            len += 1;
        }
        Ok(buffer.get(..len))
    }

    /// The decoded value as an identifier of exactly `N` octets.
    ///
    /// # Errors
    /// Returns [`NotAnId`] when it cannot be decoded or has another length. A broken escape is reported
    /// first, whatever the length.
    pub fn id<const N: usize>(self) -> Result<[u8; N], NotAnId> {
        let mut id = [0; N];
        let mut octets = self.octets();
        for slot in &mut id {
            let octet = octets.next().ok_or(NotAnId::WrongLength)?;
            *slot = octet.map_err(|BadEscape| NotAnId::BadEscape)?;
        }
        match octets.try_fold(0, |more, octet| octet.map(|_| more + 1)) {
            Ok(0) => Ok(id),
            Ok(_) => Err(NotAnId::WrongLength),
            Err(BadEscape) => Err(NotAnId::BadEscape),
        }
    }

    /// The decoded value as an unsigned decimal number, without sign.
    ///
    /// # Errors
    /// Returns [`BadEscape`] when the value cannot be decoded.
    pub fn number(self) -> Result<Number, BadEscape> {
        self.plain_number().map_or_else(|| self.any_number(), |value| Ok(Number::Value(value)))
    }

    /// The fast path: 1 to 19 digits, no escapes.
    fn plain_number(self) -> Option<u64> {
        let digit = |octet: u8| octet.is_ascii_digit().then(|| u64::from(octet - b'0'));
        let read = |number: u64, &octet| Some(number * 10 + digit(octet)?);
        (1..=DIGITS_SAFE).contains(&self.0.len()).then(|| self.0.iter().try_fold(0, read))?
    }

    fn any_number(self) -> Result<Number, BadEscape> {
        let mut number = if self.0.is_empty() { Number::Garbage } else { Number::Value(0) };
        for octet in self.octets() {
            number = match (number, octet?) {
                (Number::Value(value), digit @ b'0'..=b'9') => value
                    .checked_mul(10)
                    .and_then(|tens| tens.checked_add(u64::from(digit - b'0')))
                    .map_or(Number::TooLarge, Number::Value),
                (Number::TooLarge, b'0'..=b'9') => Number::TooLarge,
                _ => Number::Garbage,
            };
        }
        Ok(number)
    }

    /// Whether the decoded value is `word`, in any case.
    ///
    /// # Errors
    /// Returns [`BadEscape`] when the value cannot be decoded.
    pub fn eq_ignore_case(self, word: &[u8]) -> Result<bool, BadEscape> {
        let mut expected = word.iter();
        let mut same = true;
        for octet in self.octets() {
            let octet = octet?;
            same &= expected.next().is_some_and(|letter| letter.eq_ignore_ascii_case(&octet));
        }
        Ok(same && expected.next().is_none())
    }
}

/// In mode private a broken escape stands for itself (`rules/private.md#user-parameters`).
impl<'q> Escaped<'q> {
    /// The decoded value, written to the front of `buffer`; `None` if it does not fit. Broken escapes are
    /// kept as they are.
    pub fn decode_tolerant(self, buffer: &mut [u8]) -> Option<&[u8]> {
        let mut len = 0;
        for octet in query::decoded(self.0) {
            *buffer.get_mut(len)? = octet;
            len += 1;
        }
        buffer.get(..len)
    }

    /// The decoded value as an identifier of exactly `N` octets. Broken escapes are kept as they are.
    #[must_use]
    pub fn id_tolerant<const N: usize>(self) -> Option<[u8; N]> {
        match self.id() {
            Ok(id) => Some(id),
            Err(NotAnId::WrongLength) => None,
            Err(NotAnId::BadEscape) => self.decode_tolerant(&mut [0; N])?.try_into().ok(),
        }
    }

    /// The decoded value as an unsigned decimal number, without sign; garbage if an escape is broken.
    #[must_use]
    pub fn number_tolerant(self) -> Number {
        self.number().unwrap_or(Number::Garbage)
    }

    /// The number after a leading minus; `None` if there is no minus.
    #[must_use]
    pub fn negated_number(self) -> Option<Number> {
        let rest = match decode_escape(self.0) {
            Some((b'-', rest)) => rest,
            _ => self.0.strip_prefix(b"-")?,
        };
        Some(Escaped(rest).number_tolerant())
    }
}

/// The decoded octets of a value, up to its first broken escape; see [`Escaped::octets`].
#[derive(Clone, Debug)]
pub struct DecodedOctets<'q>(&'q [u8]);

impl Iterator for DecodedOctets<'_> {
    type Item = Result<u8, BadEscape>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        if first != b'%' {
            return Some(Ok(first));
        }
        if let [high, low, after @ ..] = rest {
            let (high, low) = (hex_of(*high), hex_of(*low));
            if (high | low) & NO_DIGIT == 0 {
                self.0 = after;
                return Some(Ok(high << 4 | low));
            }
        }
        self.0 = &[];
        Some(Err(BadEscape))
    }
}

fn hex_of(octet: u8) -> u8 {
    HEX.get(usize::from(octet)).copied().unwrap_or(NO_DIGIT)
}

#[expect(clippy::indexing_slicing, reason = "an octet is an index into a table of 256")]
const fn hex_values() -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    let (mut digits, mut value) = (b"0123456789abcdef".as_slice(), 0);
    while let [digit, rest @ ..] = digits {
        values[*digit as usize] = value;
        values[digit.to_ascii_uppercase() as usize] = value;
        (digits, value) = (rest, value + 1);
    }
    values
}

/// Everything an announce or a scrape may say, undecoded. What is absent is `None`; unknown names are left
/// out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters<'q> {
    /// The whole query, for [`Parameters::info_hashes`].
    query: &'q [u8],
    /// The number of values called `info_hash`, by the rules of modes open and listed.
    pub info_hashes_count: usize,
    /// The first `info_hash` (BEP 3), by the rules of modes open and listed. For both sets of rules there is
    /// [`Parameters::info_hashes`].
    pub info_hash: Option<Escaped<'q>>,
    /// `peer_id` (BEP 3).
    pub peer_id: Option<Escaped<'q>>,
    /// `port` (BEP 3).
    pub port: Option<Escaped<'q>>,
    /// `uploaded`, in octets (BEP 3).
    pub uploaded: Option<Escaped<'q>>,
    /// `downloaded`, in octets (BEP 3).
    pub downloaded: Option<Escaped<'q>>,
    /// `left`, in octets (BEP 3).
    pub left: Option<Escaped<'q>>,
    /// `event` (BEP 3, BEP 21).
    pub event: Option<Escaped<'q>>,
    /// `numwant`.
    pub num_want: Option<Escaped<'q>>,
    /// `compact` (BEP 23).
    pub compact: Option<Escaped<'q>>,
    /// `no_peer_id`: in no BEP, a common extension.
    pub no_peer_id: Option<Escaped<'q>>,
    /// `ip` (BEP 3).
    pub ip: Option<Escaped<'q>>,
    /// `ipv4` (BEP 7).
    pub ipv4: Option<Escaped<'q>>,
    /// `ipv6` (BEP 7).
    pub ipv6: Option<Escaped<'q>>,
}

impl<'q> Parameters<'q> {
    /// Reads a query, the octets after the first `?`. Every query can be read.
    #[must_use]
    pub fn parse(query: &'q [u8]) -> Self {
        let mut parameters = Self { query, ..Self::default() };
        for (name, value) in split_pairs(query) {
            if let Some(slot) = parameters.slot(name) {
                *slot = Some(value);
            } else if is_open_info_hash(name) {
                parameters.info_hashes_count += 1;
                parameters.info_hash.get_or_insert(value);
            } else if name.iter().any(|octet| *octet == b'%' || octet.is_ascii_uppercase()) {
                parameters.keep_oddly_named(name, value);
            }
        }
        parameters
    }

    /// Every `info_hash`, in the order of the query; in mode private only those of twenty octets.
    pub fn info_hashes(
        &self,
        rules: QueryRules,
    ) -> impl Iterator<Item = Result<InfoHash, NotAnId>> + use<'q> {
        split_pairs(self.query).filter_map(move |(name, value)| match rules {
            QueryRules::Open => is_open_info_hash(name).then(|| value.id().map(InfoHash)),
            QueryRules::Private if is_private_info_hash(name) => value.id_tolerant().map(InfoHash).map(Ok),
            QueryRules::Private => None,
        })
    }

    /// Keeps a value whose name has escapes or capitals, which no client sends.
    fn keep_oddly_named(&mut self, name: &[u8], value: Escaped<'q>) {
        let mut buffer = [0; NAME_MAX];
        let Ok(Some(len)) = Escaped(name).decode(&mut buffer).map(|name| name.map(<[u8]>::len)) else {
            return;
        };
        buffer.make_ascii_lowercase();
        if let Some(slot) = buffer.get(..len).and_then(|name| self.slot(name)) {
            *slot = Some(value);
        }
    }

    fn slot(&mut self, name: &[u8]) -> Option<&mut Option<Escaped<'q>>> {
        Some(match name {
            b"peer_id" => &mut self.peer_id,
            b"port" => &mut self.port,
            b"uploaded" => &mut self.uploaded,
            b"downloaded" => &mut self.downloaded,
            b"left" => &mut self.left,
            b"event" => &mut self.event,
            b"numwant" => &mut self.num_want,
            b"compact" => &mut self.compact,
            b"no_peer_id" => &mut self.no_peer_id,
            b"ip" => &mut self.ip,
            b"ipv4" => &mut self.ipv4,
            b"ipv6" => &mut self.ipv6,
            _ => return None,
        })
    }
}

const INFO_HASH: &[u8] = b"info_hash";

/// Whether the name is `info_hash` in modes open and listed. It may be percent-escaped, and is
/// case-sensitive.
fn is_open_info_hash(name: &[u8]) -> bool {
    let hidden = || Escaped(name).octets().eq(INFO_HASH.iter().map(|&octet| Ok(octet)));
    name == INFO_HASH || name.contains(&b'%') && hidden()
}

/// Whether the name is `info_hash` in mode private: case-insensitive, broken escapes kept as they are.
fn is_private_info_hash(name: &[u8]) -> bool {
    let matches = |name: &[u8]| name.eq_ignore_ascii_case(INFO_HASH);
    name == INFO_HASH || Escaped(name).decode_tolerant(&mut [0; INFO_HASH.len()]).is_some_and(matches)
}

/// Name and value of every pair; a segment without `=` names nothing and is left out (`rules/http.md#query`).
fn split_pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], Escaped<'_>)> {
    query::pairs(query).filter_map(|(name, value)| Some((name, Escaped(value?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(value: &[u8]) -> Result<Vec<u8>, BadEscape> {
        Escaped(value).octets().collect()
    }

    #[test]
    fn escapes_are_decoded_once_and_plus_is_itself() {
        assert_eq!(decoded(b"a+b%20c%2B%2b").unwrap(), b"a+b c++");
        assert_eq!(decoded(b"%2541").unwrap(), b"%41");
        assert_eq!(decoded(b"%00()!*'~.-_").unwrap(), b"\0()!*'~.-_");
        assert_eq!(decoded(b"\xfe\xff").unwrap(), b"\xfe\xff");
    }

    #[test]
    fn broken_escapes_are_errors_wherever_they_stand() {
        for value in [&b"%"[..], b"%0", b"%0%a", b"abc%zz", b"1%g0", b"%%20"] {
            assert_eq!(decoded(value), Err(BadEscape), "{}", value.escape_ascii());
            assert_eq!(Escaped(value).check_escapes(), Err(BadEscape));
            assert_eq!(Escaped(value).number(), Err(BadEscape));
            assert_eq!(Escaped(value).eq_ignore_case(b"abcde"), Err(BadEscape));
            assert_eq!(Escaped(value).id::<20>(), Err(NotAnId::BadEscape));
        }
    }

    #[test]
    fn the_table_holds_every_hexadecimal_digit_and_nothing_else() {
        for octet in 0..=u8::MAX {
            assert_eq!(hex_of(octet), hayate_state::ids::hex_value(octet).unwrap_or(NO_DIGIT), "{octet}");
        }
    }

    #[test]
    fn an_id_has_exactly_its_length() {
        assert_eq!(Escaped(b"a%62c").id::<3>(), Ok(*b"abc"));
        for value in [&b""[..], b"ab", b"abcd", b"abcdefgh"] {
            assert_eq!(Escaped(value).id::<3>(), Err(NotAnId::WrongLength));
        }
        assert_eq!(Escaped(b"abcd%4").id::<3>(), Err(NotAnId::BadEscape));
    }

    #[test]
    fn numbers_are_digits_only() {
        for (value, number) in [
            (&b"0"[..], Number::Value(0)),
            (b"%30", Number::Value(0)),
            (b"0007", Number::Value(7)),
            (b"18446744073709551615", Number::Value(u64::MAX)),
            (b"18446744073709551616", Number::TooLarge),
            (b"99999999999999999999999", Number::TooLarge),
            (b"99999999999999999999999x", Number::Garbage),
            (b"", Number::Garbage),
            (b"-1", Number::Garbage),
            (b"+1", Number::Garbage),
            (b" 1", Number::Garbage),
            (b"abc", Number::Garbage),
        ] {
            assert_eq!(Escaped(value).number(), Ok(number), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn words_are_compared_in_any_case_and_whole() {
        assert_eq!(Escaped(b"StaRt%65d").eq_ignore_case(b"started"), Ok(true));
        for other in [&b""[..], b"start", b"startedx", b"stbrted"] {
            assert_eq!(Escaped(other).eq_ignore_case(b"started"), Ok(false));
        }
    }

    #[test]
    fn names_ignore_case_but_for_info_hash() {
        let hash = "x".repeat(20);
        let query = format!("PORT=7&pEEr%5fid=b&INFO_HASH={hash}&Info_Hash={hash}&info%5Fhash={hash}");
        let parameters = Parameters::parse(query.as_bytes());
        assert_eq!(parameters.port, Some(Escaped(b"7")));
        assert_eq!(parameters.peer_id, Some(Escaped(b"b")));
        assert_eq!(parameters.info_hashes_count, 1);
        assert_eq!(parameters.info_hashes(QueryRules::Open).collect::<Vec<_>>(), [Ok(InfoHash([b'x'; 20]))]);
    }

    #[test]
    fn the_last_value_wins_and_odd_segments_do_no_harm() {
        let parameters = Parameters::parse(b"&&flag&=y&port=1;left=2&port=3=4&left&%zz=1&po%zzrt=9&");
        assert_eq!(parameters.port, Some(Escaped(b"3=4")));
        assert_eq!(parameters.left, None);
    }

    #[test]
    fn all_info_hashes_are_collected() {
        let query = format!("info_hash={}&info_hash=short&info_hash=%9&x=%9", "%41".repeat(20));
        let parameters = Parameters::parse(query.as_bytes());
        assert_eq!(parameters.info_hashes_count, 3);
        assert_eq!(
            parameters.info_hashes(QueryRules::Open).collect::<Vec<_>>(),
            [Ok(InfoHash([b'A'; 20])), Err(NotAnId::WrongLength), Err(NotAnId::BadEscape)]
        );
    }
}
