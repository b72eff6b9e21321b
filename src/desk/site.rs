//! Changes of a site (mode private): `/<token>/update?action=..`, as Gazelle's back end asks for them, and
//! `/<token>/explain?user=..&torrent=..`.

use std::sync::{Arc, OnceLock};

use hayate_state::private::Site;
use hayate_state::private::clerk::Errands;
use hayate_state::private::office::{OfficeError, REASON_MAX, Verb, Who};
use hayate_state::snapshot::site::{Group, Multipliers};

use super::query::Parameters;
use super::{Answer, failure};

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

/// Who answers for a site.
pub(super) struct SiteDesk {
    pub(super) grace_seconds: u32,
    pub(super) site: Arc<Site>,
    /// Set when the clerk works.
    pub(super) errands: Arc<OnceLock<Errands>>,
}

impl SiteDesk {
    /// Changes the site; the clerk logs what was done, and writes it to the audit.
    pub(super) fn update(&self, query: &Parameters, source: &str) -> Answer {
        let verb = match query.verb(self.grace_seconds) {
            Ok(verb) => verb,
            Err(text) => return failure(400, text),
        };
        let Some(errands) = self.errands.get() else {
            return failure(503, "the tracker starts; try again");
        };
        match errands.ask(verb, source) {
            Ok(outcome) => (200, format!("success: {}\n", outcome.text)),
            Err(error @ OfficeError::Bad(_)) => failure(400, error),
            Err(error @ (OfficeError::Busy | OfficeError::Store(_))) => failure(503, error),
        }
    }

    pub(super) fn explain(&self, query: &Parameters) -> Answer {
        match (query.number("user"), query.info_hash("torrent")) {
            (Ok(Some(user)), Ok(info_hash)) => (200, self.site.explain(user, &info_hash)),
            (Ok(None), _) => failure(400, "user is missing"),
            (Err(text), _) | (_, Err(text)) => failure(400, text),
        }
    }
}

impl Parameters {
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
                let (up, down) = self.factors()?;
                Verb::UpdateTorrent { info_hash: info_hash()?, up, down }
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

    /// How a new torrent counts.
    fn multipliers(&self) -> Result<Multipliers, String> {
        let (up, down) = self.factors()?;
        Ok(Multipliers { up: up.unwrap_or(1.0), down: down.unwrap_or(1.0) })
    }

    /// What is said of how uploads and downloads count. Gazelle says 1 for freeleech and 2 for what counts
    /// neither way; others may say multipliers.
    fn factors(&self) -> Result<(Option<f64>, Option<f64>), String> {
        let known = match self.number("freetorrent")? {
            None => None,
            Some(0) => Some((1.0, 1.0)),
            Some(1) => Some((1.0, 0.0)),
            Some(2) => Some((0.0, 0.0)),
            Some(_) => return Err("freetorrent is none of 0, 1, 2".to_owned()),
        };
        let (up, down) = (self.factor("up")?, self.factor("down")?);
        Ok((up.or(known.map(|(up, _)| up)), down.or(known.map(|(_, down)| down))))
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

#[cfg(test)]
mod tests {
    use hayate_state::InfoHash;

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
            (
                format!("action=update_torrent&info_hash={raw}&up=2"),
                Verb::UpdateTorrent { info_hash: hash, up: Some(2.0), down: None },
            ),
            (
                format!("action=update_torrent&info_hash={raw}&freetorrent=2&up=3"),
                Verb::UpdateTorrent { info_hash: hash, up: Some(3.0), down: Some(0.0) },
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
