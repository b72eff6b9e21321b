//! Changes of a site over HTTP, on `metrics.addr`: `/<token>/update?action=..`, as Gazelle's back end asks
//! for them, and `/<token>/explain?user=..&torrent=..`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use hayate_gateway::pages::Admin;
use hayate_state::private::Site;
use hayate_state::private::clerk::Errands;
use hayate_state::private::office::{OfficeError, Verb, Who};
use hayate_state::private::path::escape;
use hayate_state::snapshot::site::{Group, Multipliers};
use hayate_state::{InfoHash, private::office::REASON_MAX};
use ring::digest::{SHA256, digest};

use crate::config::settings::Token;

/// Why Gazelle's back end deletes a torrent, by its numbers.
const REASONS: [&str; 21] = [
    "Dupe",
    "Trump",
    "Bad File Names",
    "Bad Folder Names",
    "Bad Tags",
    "Bad Formats",
    "Discs Missing",
    "Discography",
    "Edited Log",
    "Inaccurate Bitrate",
    "Low Bitrate",
    "Mutt Rip",
    "Bad Source",
    "Encode Errors",
    "Banned",
    "Tracks Missing",
    "Transcode",
    "Cassette",
    "Unsplit Album",
    "User Compilation",
    "User Request",
];
/// What a site has where the back end does not say.
const TYPE_DEFAULT: &str = "music";

/// Who answers.
pub(crate) struct Desk {
    /// Compared instead of the token, so that the time it takes tells nothing about it.
    token: [u8; 32],
    grace_seconds: u32,
    site: Arc<Site>,
    /// Set when the clerk works.
    errands: Arc<OnceLock<Errands>>,
}

impl Desk {
    pub(crate) fn new(
        token: &Token,
        grace_seconds: u32,
        site: Arc<Site>,
        errands: Arc<OnceLock<Errands>>,
    ) -> Self {
        Self { token: sum(&token.0), grace_seconds, site, errands }
    }

    fn update(&self, query: &[u8], source: &str) -> (u16, String) {
        let verb = match Parameters::read(query).verb(self.grace_seconds) {
            Ok(verb) => verb,
            Err(text) => return (400, format!("failure: {text}\n")),
        };
        let Some(errands) = self.errands.get() else {
            return (503, "failure: the tracker starts; try again\n".to_owned());
        };
        match errands.ask(verb, source) {
            Ok(outcome) => (200, format!("success: {}\n", outcome.text)),
            Err(error @ OfficeError::Bad(_)) => (400, format!("failure: {error}\n")),
            Err(error @ OfficeError::Store(_)) => (503, format!("failure: {error}\n")),
        }
    }

    fn explain(&self, query: &[u8]) -> (u16, String) {
        let parameters = Parameters::read(query);
        match (parameters.number("user"), parameters.info_hash("torrent")) {
            (Ok(Some(user)), Ok(info_hash)) => (200, self.site.explain(user, &info_hash)),
            (Ok(None), _) => (400, "failure: user is missing\n".to_owned()),
            (Err(text), _) | (_, Err(text)) => (400, format!("failure: {text}\n")),
        }
    }
}

impl Admin for Desk {
    fn answer(&self, path: &[u8], query: &[u8], source: &str) -> Option<(u16, String)> {
        let mut parts = path.strip_prefix(b"/")?.splitn(2, |&octet| octet == b'/');
        let (token, rest) = (parts.next()?, parts.next()?);
        if sum(token) != self.token {
            return None;
        }
        match rest {
            b"update" => Some(self.update(query, source)),
            b"explain" => Some(self.explain(query)),
            _ => None,
        }
    }
}

fn sum(octets: &[u8]) -> [u8; 32] {
    digest(&SHA256, octets).as_ref().try_into().unwrap_or_default()
}

/// What a request says, decoded.
struct Parameters(BTreeMap<String, Vec<u8>>);

impl Parameters {
    fn read(query: &[u8]) -> Self {
        let pairs = query.split(|&octet| octet == b'&').map(|pair| {
            let mut parts = pair.splitn(2, |&octet| octet == b'=');
            let mut part = || decode(parts.next().unwrap_or_default());
            (String::from_utf8_lossy(&part()).into_owned(), part())
        });
        Self(pairs.collect())
    }

    fn verb(&self, grace_seconds: u32) -> Result<Verb, String> {
        let info_hash = || self.info_hash("info_hash");
        Ok(match &*self.text("action")? {
            "add_torrent" => Verb::AddTorrent {
                id: self.number("id")?,
                info_hash: info_hash()?,
                group: Group {
                    type_name: self.optional("type")?.unwrap_or_else(|| TYPE_DEFAULT.to_owned()).into(),
                    id: self.number("group")?.unwrap_or(0),
                },
                multipliers: self.multipliers()?,
            },
            "update_torrent" => {
                let Multipliers { up, down } = self.multipliers()?;
                Verb::UpdateTorrent { info_hash: info_hash()?, up: Some(up), down: Some(down) }
            }
            "delete_torrent" => Verb::DeleteTorrent { info_hash: info_hash()?, reason: self.reason()? },
            "add_user" => Verb::AddUser { id: self.number("id")?, passkey: self.text("passkey")? },
            "remove_user" => Verb::RemoveUser(self.who()?),
            "change_passkey" => Verb::ChangePasskey {
                old: self.text("oldpasskey")?,
                new: self.text("newpasskey")?,
                grace_seconds,
            },
            "update_user" => Verb::UpdateUser {
                who: self.who()?,
                can_leech: self.flag("can_leech")?,
                visible: self.flag("visible")?,
                up: self.factor("up")?,
                down: self.factor("down")?,
            },
            "add_token" => Verb::AddToken(self.user()?, info_hash()?),
            "remove_token" => Verb::RemoveToken(self.user()?, info_hash()?),
            "add_whitelist" => Verb::AddClient(self.text("peer_id")?),
            "remove_whitelist" => Verb::RemoveClient(self.text("peer_id")?),
            "edit_whitelist" => Verb::EditClient(self.text("old_peer_id")?, self.text("new_peer_id")?),
            "info_torrent" => Verb::InfoTorrent(info_hash()?),
            _ => return Err("action is none that is known".to_owned()),
        })
    }

    fn optional(&self, name: &str) -> Result<Option<String>, String> {
        let value = self.0.get(name).filter(|value| !value.is_empty());
        let text =
            |value: &Vec<u8>| String::from_utf8(value.clone()).map_err(|_| format!("{name} is not UTF-8"));
        value.map(text).transpose()
    }

    fn text(&self, name: &str) -> Result<String, String> {
        self.optional(name)?.ok_or_else(|| format!("{name} is missing"))
    }

    fn number(&self, name: &str) -> Result<Option<u32>, String> {
        let read = |text: String| text.parse().map_err(|_| format!("{name} is no number below 2^32"));
        self.optional(name)?.map(read).transpose()
    }

    fn factor(&self, name: &str) -> Result<Option<f64>, String> {
        let read = |text: String| text.parse().map_err(|_| format!("{name} is no number"));
        self.optional(name)?.map(read).transpose()
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        Ok(match self.optional(name)?.as_deref() {
            None => None,
            Some("0") => Some(false),
            Some("1") => Some(true),
            Some(_) => return Err(format!("{name} is neither 0 nor 1")),
        })
    }

    fn user(&self) -> Result<u32, String> {
        self.number("userid")?.ok_or_else(|| "userid is missing".to_owned())
    }

    fn who(&self) -> Result<Who, String> {
        match self.number("id")? {
            Some(id) => Ok(Who::Id(id)),
            None => self.text("passkey").map(Who::Passkey),
        }
    }

    /// Twenty octets, or forty hexadecimal digits.
    fn info_hash(&self, name: &str) -> Result<InfoHash, String> {
        let value = self.0.get(name).ok_or_else(|| format!("{name} is missing"))?;
        if let Ok(octets) = value.as_slice().try_into() {
            return Ok(InfoHash(octets));
        }
        let digits = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        digits.ok_or_else(|| format!("{name} is neither 20 octets nor 40 hexadecimal digits"))
    }

    /// Gazelle says 1 for freeleech and 2 for what counts neither way; others may say multipliers.
    fn multipliers(&self) -> Result<Multipliers, String> {
        let (up, down) = match self.number("freetorrent")? {
            None | Some(0) => (1.0, 1.0),
            Some(1) => (1.0, 0.0),
            Some(2) => (0.0, 0.0),
            Some(_) => return Err("freetorrent is none of 0, 1, 2".to_owned()),
        };
        Ok(Multipliers { up: self.factor("up")?.unwrap_or(up), down: self.factor("down")?.unwrap_or(down) })
    }

    /// A text, or a number of Gazelle's.
    fn reason(&self) -> Result<String, String> {
        let Some(reason) = self.optional("reason")? else { return Ok(String::new()) };
        if reason.len() > REASON_MAX {
            return Err(format!("reason is longer than {REASON_MAX} characters"));
        }
        let known = reason.parse().ok().and_then(|number: usize| REASONS.get(number));
        Ok(known.map_or(reason, |known| (*known).to_owned()))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn verb(query: &str) -> Result<Verb, String> {
        Parameters::read(query.as_bytes()).verb(7)
    }

    #[test]
    fn verbs_are_read_as_gazelle_says_them() {
        let hash = InfoHash([b'a'; 20]);
        let (raw, hex) = ("%61".repeat(20), "61".repeat(20));
        for (query, expected) in [
            (
                format!("action=add_torrent&info_hash={raw}&id=11&freetorrent=1"),
                Verb::AddTorrent {
                    id: Some(11),
                    info_hash: hash,
                    group: Group { type_name: "music".into(), id: 0 },
                    multipliers: Multipliers { up: 1.0, down: 0.0 },
                },
            ),
            (
                format!("action=delete_torrent&info_hash={hex}&reason=1"),
                Verb::DeleteTorrent { info_hash: hash, reason: "Trump".to_owned() },
            ),
            (
                format!("action=delete_torrent&info_hash={hex}&reason=Bad+rip%21"),
                Verb::DeleteTorrent { info_hash: hash, reason: "Bad rip!".to_owned() },
            ),
            (
                "action=change_passkey&oldpasskey=x&newpasskey=y".to_owned(),
                Verb::ChangePasskey { old: "x".into(), new: "y".into(), grace_seconds: 7 },
            ),
            (
                "action=update_user&passkey=x&can_leech=0".to_owned(),
                Verb::UpdateUser {
                    who: Who::Passkey("x".into()),
                    can_leech: Some(false),
                    visible: None,
                    up: None,
                    down: None,
                },
            ),
            (format!("action=add_token&userid=13&info_hash={raw}"), Verb::AddToken(13, hash)),
            (
                "action=edit_whitelist&old_peer_id=-TR2&new_peer_id=-TR3".to_owned(),
                Verb::EditClient("-TR2".into(), "-TR3".into()),
            ),
        ] {
            assert_eq!(verb(&query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, text) in [
            ("", "action is missing"),
            ("action=fly", "action is none that is known"),
            ("action=add_torrent", "info_hash is missing"),
            ("action=add_torrent&info_hash=7", "info_hash is neither 20 octets nor 40 hexadecimal digits"),
            ("action=add_user&id=-1&passkey=x", "id is no number below 2^32"),
            ("action=add_user", "passkey is missing"),
            ("action=add_user&passkey=%ff", "passkey is not UTF-8"),
            ("action=update_user&id=7&can_leech=maybe", "can_leech is neither 0 nor 1"),
            ("action=update_user&id=7&up=x", "up is no number"),
            ("action=add_token&info_hash=x", "userid is missing"),
        ] {
            assert_eq!(verb(query), Err(text.to_owned()), "{query}");
        }
    }
}
