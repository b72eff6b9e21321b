//! The parameters of a request: names and values, decoded.

use std::fmt;
use std::str::FromStr;

use hayate_state::InfoHash;
use hayate_state::ids::ID_LEN;
use hayate_state::private::admin::PASSKEY_MAX;
use hayate_state::query;

/// A torrent as operators name it: by info_hash or by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TorrentName {
    Hash(InfoHash),
    Id(u32),
}

impl FromStr for TorrentName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        text.parse().map(Self::Hash).map_err(|_| "expected 40 hexadecimal digits, or an id".to_owned())
    }
}

impl fmt::Display for TorrentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash(info_hash) => info_hash.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// The parameters of a request, in the order of its query.
pub(super) struct AdminQuery(Vec<(String, Vec<u8>)>);

impl AdminQuery {
    pub(super) fn parse(query: &[u8]) -> Self {
        let pairs = query::pairs(query).map(|(name, value)| {
            let name = String::from_utf8_lossy(&form_decode(name)).into_owned();
            (name, form_decode(value.unwrap_or_default()))
        });
        Self(pairs.collect())
    }

    /// Returns the last value of this name.
    fn value(&self, name: &str) -> Option<&Vec<u8>> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(super) fn optional(&self, name: &str) -> Result<Option<String>, String> {
        let value = self.value(name).filter(|value| !value.is_empty());
        let text =
            |value: &Vec<u8>| String::from_utf8(value.clone()).map_err(|_| format!("{name} is not UTF-8"));
        value.map(text).transpose()
    }

    pub(super) fn required_text(&self, name: &str) -> Result<String, String> {
        self.optional(name)?.ok_or_else(|| format!("{name} is missing"))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u32>, String> {
        let read = |text: String| text.parse().map_err(|_| format!("{name} is not a number below 2^32"));
        self.optional(name)?.map(read).transpose()
    }

    pub(super) fn multiplier(&self, name: &str) -> Result<Option<f64>, String> {
        let read = |text: String| text.parse().map_err(|_| format!("{name} is not a number"));
        self.optional(name)?.map(read).transpose()
    }

    /// Reads an info_hash of 20 octets or 40 hexadecimal digits.
    pub(super) fn info_hash(&self, name: &str) -> Result<InfoHash, String> {
        let value = self.value(name).ok_or_else(|| format!("{name} is missing"))?;
        info_hash(name, value)
    }

    /// Reads a torrent: 20 octets, 40 hexadecimal digits, or an id.
    pub(super) fn torrent(&self, name: &str) -> Result<TorrentName, String> {
        let value = self.value(name).ok_or_else(|| format!("{name} is missing"))?;
        let id = str::from_utf8(value).ok().filter(|text| text.len() < 20).and_then(|text| text.parse().ok());
        match id {
            Some(id) => Ok(TorrentName::Id(id)),
            None => info_hash(name, value).map(TorrentName::Hash),
        }
    }

    /// Reads several info_hashes from one value, one after the other, as octets or as digits.
    pub(super) fn joined_info_hashes(&self, name: &str) -> Result<Vec<InfoHash>, String> {
        let value = self.value(name).ok_or_else(|| format!("{name} is missing"))?;
        let digits = 2 * ID_LEN;
        let is_hex = value.len().is_multiple_of(digits) && value.iter().all(u8::is_ascii_hexdigit);
        let each = if is_hex { digits } else { ID_LEN };
        value.chunks(each).map(|value| info_hash(name, value)).collect()
    }

    /// Reads several passkeys from one value: 32 characters each, or separated by commas.
    pub(super) fn passkeys(&self, name: &str) -> Result<Vec<String>, String> {
        let text = self.required_text(name)?;
        if text.contains(',') || text.len() < PASSKEY_MAX {
            return Ok(text.split(',').map(str::to_owned).collect());
        }
        if !text.is_ascii() || !text.len().is_multiple_of(PASSKEY_MAX) {
            return Err(format!("{name} has neither passkeys of {PASSKEY_MAX} characters nor commas"));
        }
        let each = text.as_bytes().chunks(PASSKEY_MAX);
        Ok(each.map(|passkey| String::from_utf8_lossy(passkey).into_owned()).collect())
    }

    /// Reads all info_hashes of this name, at least one.
    pub(super) fn info_hashes(&self, name: &str) -> Result<Vec<InfoHash>, String> {
        let values = self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value);
        let info_hashes = values.map(|value| info_hash(name, value)).collect::<Result<Vec<_>, _>>()?;
        if info_hashes.is_empty() { Err(format!("{name} is missing")) } else { Ok(info_hashes) }
    }
}

fn info_hash(name: &str, value: &[u8]) -> Result<InfoHash, String> {
    if let Ok(octets) = value.try_into() {
        return Ok(InfoHash(octets));
    }
    let digits = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    digits.ok_or_else(|| format!("{name} is neither 20 octets nor 40 hexadecimal digits"))
}

/// Decodes escapes, and `+` to a space as forms write it.
fn form_decode(octets: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = octets.iter().map(|&octet| if octet == b'+' { b' ' } else { octet }).collect();
    query::decoded(&spaced).collect()
}
