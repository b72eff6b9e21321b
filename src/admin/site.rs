//! Changes of a site (mode private): `/<token>/update?action=..`, as Gazelle's back end asks for them, and
//! `/<token>/explain?user=..&torrent=..`.

use std::sync::{Arc, OnceLock};

use hayate_state::private::Site;
use hayate_state::private::admin::{OfficeError, REASON_MAX, TorrentChange, Verb, Who};
use hayate_state::private::sync::Errands;
use hayate_state::snapshot::site::{Group, Multipliers};
use hayate_state::{Policy, Published};

use super::query::{Parameters, TorrentName};
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
    pub(super) policy: Arc<Published<Policy>>,
}

impl SiteDesk {
    /// Changes the site; the clerk logs what was done, and writes it to the audit.
    pub(super) fn update(&self, query: &Parameters, source: &str) -> Answer {
        let verb = match query.verb(self.grace_seconds) {
            Ok(verb) => verb,
            Err(text) => return failure(400, text),
        };
        if let Verb::AnnounceInterval(seconds) = verb
            && let Err(text) = check_interval(seconds, &self.policy.current())
        {
            return failure(400, text);
        }
        let Some(errands) = self.errands.get() else {
            return failure(503, "the tracker starts; try again");
        };
        let asked = errands.ask(verb.clone(), source);
        if let (Ok(_), Verb::AnnounceInterval(announce_seconds)) = (&asked, verb) {
            // Until the next reload, which takes what the configuration says.
            self.policy.publish(Policy { announce_seconds, ..Policy::clone(&self.policy.current()) });
        }
        match asked {
            Ok(outcome) => (200, format!("success: {}\n", outcome.text)),
            Err(error @ OfficeError::Bad(_)) => failure(400, error),
            Err(error @ (OfficeError::Busy | OfficeError::Store(_))) => failure(503, error),
        }
    }

    pub(super) fn explain(&self, query: &Parameters) -> Answer {
        match (query.number("user"), query.torrent("torrent")) {
            (Ok(Some(user)), Ok(TorrentName::Hash(info_hash))) => (200, self.site.explain(user, &info_hash)),
            (Ok(Some(user)), Ok(TorrentName::Id(id))) => match self.site.torrents.find_id(id) {
                Some(info_hash) => (200, self.site.explain(user, &info_hash)),
                None => failure(400, format!("torrent {id} is not registered")),
            },
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
            "update_torrent" => Verb::UpdateTorrent(info_hash()?, self.torrent_change()?),
            "update_torrents" => {
                let change = self.torrent_change()?;
                let each = |info_hash| Verb::UpdateTorrent(info_hash, change.clone());
                Verb::Each(self.joined_info_hashes("info_hashes")?.into_iter().map(each).collect())
            }
            "delete_torrent" => Verb::DeleteTorrent { info_hash: info_hash()?, reason: self.reason()? },
            "add_user" => Verb::AddUser { id: self.number("id")?, passkey: self.text("passkey")? },
            "remove_user" => Verb::RemoveUser(self.who()?),
            "remove_users" => {
                let each = |passkey| Verb::RemoveUser(Who::Passkey(passkey));
                Verb::Each(self.passkeys("passkeys")?.into_iter().map(each).collect())
            }
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
            "update_announce_interval" => {
                let name = "new_announce_interval";
                Verb::AnnounceInterval(self.number(name)?.ok_or_else(|| format!("{name} is missing"))?)
            }
            "global_freeleech" => Verb::GlobalFreeleech(self.wanted()?),
            "group_freeleech" => Verb::GroupFreeleech(
                Group { type_name: self.text("type")?.into(), id: self.group()? },
                if self.wanted()? { Some(self.multipliers()?) } else { None },
            ),
            "hit_and_run" => Verb::HitAndRun(self.user()?, info_hash()?, self.wanted()?),
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

    /// `on`, which has to be said.
    fn wanted(&self) -> Result<bool, String> {
        self.flag("on")?.ok_or_else(|| "on is missing".to_owned())
    }

    fn group(&self) -> Result<u32, String> {
        self.number("group")?.ok_or_else(|| "group is missing".to_owned())
    }

    fn torrent_change(&self) -> Result<TorrentChange, String> {
        let (up, down) = self.factors()?;
        let status = self.optional("status")?.map(|text| text.parse()).transpose();
        let status = status.map_err(|_| "status is no number of 32 bits".to_owned())?;
        Ok(TorrentChange {
            up,
            down,
            status,
            type_name: self.optional("type")?,
            group: self.number("group")?,
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

/// May clients come back after so many seconds?
fn check_interval(seconds: u32, policy: &Policy) -> Result<(), String> {
    let least = policy.min_announce_seconds.max(1);
    // A peer that comes back in time must not be taken for one that is gone.
    let most = policy.peer_inactivity_seconds.saturating_sub(policy.announce_drift_seconds).saturating_sub(1);
    if (least..=most).contains(&seconds) {
        return Ok(());
    }
    Err(format!("new_announce_interval is {seconds}, expected {least} to {most} (intervals.* say so)"))
}

#[cfg(test)]
mod tests {
    use hayate_state::InfoHash;

    use super::*;

    const PASSKEYS: &str = "passkeys is not passkeys of 32 characters, nor are there commas";

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
                Verb::UpdateTorrent(hash, TorrentChange { up: Some(2.0), ..TorrentChange::default() }),
            ),
            (
                format!("action=update_torrent&info_hash={raw}&freetorrent=2&up=3"),
                Verb::UpdateTorrent(
                    hash,
                    TorrentChange { up: Some(3.0), down: Some(0.0), ..TorrentChange::default() },
                ),
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
    fn verbs_that_gazelle_has_not_are_read_likewise() {
        let (hash, raw) = (InfoHash([b'a'; 20]), "%61".repeat(20));
        for (query, expected) in [
            (
                format!("action=update_torrent&info_hash={raw}&status=-1&type=anime&group=7"),
                Verb::UpdateTorrent(
                    hash,
                    TorrentChange {
                        status: Some(-1),
                        type_name: Some("anime".into()),
                        group: Some(7),
                        ..TorrentChange::default()
                    },
                ),
            ),
            (format!("action=hit_and_run&userid=13&info_hash={raw}&on=1"), Verb::HitAndRun(13, hash, true)),
            ("action=global_freeleech&on=0".to_owned(), Verb::GlobalFreeleech(false)),
            (
                "action=group_freeleech&type=anime&group=7&on=1&freetorrent=1".to_owned(),
                Verb::GroupFreeleech(
                    Group { type_name: "anime".into(), id: 7 },
                    Some(Multipliers { up: 1.0, down: 0.0 }),
                ),
            ),
            (
                "action=update_announce_interval&new_announce_interval=1700".to_owned(),
                Verb::AnnounceInterval(1700),
            ),
        ] {
            assert_eq!(verb(&query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn several_stand_in_one_value_as_gazelle_writes_them() {
        let free = TorrentChange { up: Some(1.0), down: Some(0.0), ..TorrentChange::default() };
        let hashes = [InfoHash([0xa1; 20]), InfoHash([b'7'; 20])];
        let expected = Verb::Each(hashes.map(|hash| Verb::UpdateTorrent(hash, free.clone())).into());
        let raw = hashes.map(|hash| hash.0.map(|octet| format!("%{octet:02X}")).concat()).concat();
        let hex = hashes.map(|hash| hash.to_string()).concat();
        for info_hashes in [raw, hex] {
            let query = format!("action=update_torrents&info_hashes={info_hashes}&freetorrent=1");
            assert_eq!(verb(&query), Ok(expected.clone()), "{query}");
        }
        let (first, second) = ("a".repeat(32), "b".repeat(32));
        let removed = |passkeys: &[&str]| {
            Verb::Each(
                passkeys.iter().map(|passkey| Verb::RemoveUser(Who::Passkey((*passkey).into()))).collect(),
            )
        };
        for (passkeys, expected) in [
            (format!("{first}{second}"), removed(&[&first, &second])),
            (format!("{first},x"), removed(&[&first, "x"])),
            ("x".to_owned(), removed(&["x"])),
        ] {
            assert_eq!(verb(&format!("action=remove_users&passkeys={passkeys}")), Ok(expected));
        }
    }

    #[test]
    fn an_interval_lies_between_those_of_the_configuration() {
        let policy = Policy::default();
        for (seconds, is_good) in [(899, false), (900, true), (3899, true), (3900, false), (0, false)] {
            assert_eq!(check_interval(seconds, &policy).is_ok(), is_good, "{seconds}");
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
            ("action=update_torrents", "info_hashes is missing"),
            (
                "action=update_torrents&info_hashes=abc",
                "info_hashes is neither 20 octets nor 40 hexadecimal digits",
            ),
            ("action=remove_users&passkeys=0123456789012345678901234567890123", PASSKEYS),
            ("action=global_freeleech", "on is missing"),
            (
                "action=hit_and_run&userid=7&info_hash=x",
                "info_hash is neither 20 octets nor 40 hexadecimal digits",
            ),
            ("action=update_announce_interval", "new_announce_interval is missing"),
        ] {
            assert_eq!(verb(query), Err(text.to_owned()), "{query}");
        }
    }
}
