//! What a request says: names and values, decoded.

use hayate_state::InfoHash;
use hayate_state::private::path::escape;

/// What a request says, in its order.
pub(super) struct Parameters(Vec<(String, Vec<u8>)>);

impl Parameters {
    pub(super) fn read(query: &[u8]) -> Self {
        let pairs = query.split(|&octet| octet == b'&').map(|pair| {
            let mut parts = pair.splitn(2, |&octet| octet == b'=');
            let mut part = || decode(parts.next().unwrap_or_default());
            (String::from_utf8_lossy(&part()).into_owned(), part())
        });
        Self(pairs.collect())
    }

    /// Of several values the last.
    fn value(&self, name: &str) -> Option<&Vec<u8>> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(super) fn optional(&self, name: &str) -> Result<Option<String>, String> {
        let value = self.value(name).filter(|value| !value.is_empty());
        let text =
            |value: &Vec<u8>| String::from_utf8(value.clone()).map_err(|_| format!("{name} is not UTF-8"));
        value.map(text).transpose()
    }

    pub(super) fn text(&self, name: &str) -> Result<String, String> {
        self.optional(name)?.ok_or_else(|| format!("{name} is missing"))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u32>, String> {
        let read = |text: String| text.parse().map_err(|_| format!("{name} is no number below 2^32"));
        self.optional(name)?.map(read).transpose()
    }

    pub(super) fn factor(&self, name: &str) -> Result<Option<f64>, String> {
        let read = |text: String| text.parse().map_err(|_| format!("{name} is no number"));
        self.optional(name)?.map(read).transpose()
    }

    /// Twenty octets, or forty hexadecimal digits.
    pub(super) fn info_hash(&self, name: &str) -> Result<InfoHash, String> {
        let value = self.value(name).ok_or_else(|| format!("{name} is missing"))?;
        info_hash(name, value)
    }

    /// All of that name, at least one.
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

fn decode(mut octets: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    while let Some((&first, after)) = octets.split_first() {
        let plus = if first == b'+' { b' ' } else { first };
        let (octet, rest) = escape(octets).unwrap_or((plus, after));
        decoded.push(octet);
        octets = rest;
    }
    decoded
}
