//! Changes of a site (mode private): `/<token>/update?action=..`, as Gazelle's back end sends them, and
//! `/<token>/explain?user=..&torrent=..`.

use std::sync::{Arc, OnceLock};

use hayate_state::private::Site;
use hayate_state::private::admin::{AdminCommand, AdminError, REASON_MAX, TorrentChange, UserRef};
use hayate_state::private::sync::AdminQueue;
use hayate_state::snapshot::site::{Group, Multipliers};
use hayate_state::{Policy, Published};

use super::query::{AdminQuery, TorrentName};
use super::{Answer, failure};

/// Texts of Gazelle's deletion reasons, indexed by the number that Gazelle sends.
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
/// The type of a torrent if the back end does not name one.
const TYPE_DEFAULT: &str = "music";

/// Answers the requests about a site.
pub(super) struct SiteAdmin {
    /// How long an old passkey works after a change.
    pub(super) passkey_grace_seconds: u32,
    pub(super) site: Arc<Site>,
    /// Set once the site sync runs.
    pub(super) admin_queue: Arc<OnceLock<AdminQueue>>,
    pub(super) policy: Arc<Published<Policy>>,
}

impl SiteAdmin {
    /// Changes the site. The site sync logs what was done and writes it to the audit.
    pub(super) fn update(&self, query: &AdminQuery, source: &str) -> Answer {
        let admin_command = match query.admin_command(self.passkey_grace_seconds) {
            Ok(admin_command) => admin_command,
            Err(text) => return failure(400, text),
        };
        if let AdminCommand::AnnounceInterval(seconds) = admin_command
            && let Err(text) = check_interval(seconds, &self.policy.current())
        {
            return failure(400, text);
        }
        let Some(admin_queue) = self.admin_queue.get() else {
            return failure(503, "the tracker is starting; try again");
        };
        let result = admin_queue.run_command(admin_command.clone(), source);
        if let (Ok(_), AdminCommand::AnnounceInterval(announce_seconds)) = (&result, admin_command) {
            // The new interval holds until the next reload restores the configured one.
            self.policy.change(|policy| Policy { announce_seconds, ..policy.clone() });
        }
        match result {
            Ok(outcome) => (200, format!("success: {}\n", outcome.text)),
            Err(error @ AdminError::Bad(_)) => failure(400, error),
            Err(error @ (AdminError::Busy | AdminError::Store(_))) => failure(503, error),
        }
    }

    pub(super) fn explain(&self, query: &AdminQuery) -> Answer {
        match (query.number("user"), query.torrent("torrent")) {
            (Ok(Some(user)), Ok(TorrentName::Hash(info_hash))) => (200, self.site.explain(user, &info_hash)),
            (Ok(Some(user)), Ok(TorrentName::Id(id))) => match self.site.torrents.find_by_id(id) {
                Some(info_hash) => (200, self.site.explain(user, &info_hash)),
                None => failure(400, format!("torrent {id} is not registered")),
            },
            (Ok(None), _) => failure(400, "user is missing"),
            (Err(text), _) | (_, Err(text)) => failure(400, text),
        }
    }
}

impl AdminQuery {
    fn admin_command(&self, grace_seconds: u32) -> Result<AdminCommand, String> {
        let info_hash = || self.info_hash("info_hash");
        Ok(match &*self.required_text("action")? {
            "add_torrent" => AdminCommand::AddTorrent {
                id: self.number("id")?,
                info_hash: info_hash()?,
                group: Group {
                    type_name: self.optional("type")?.unwrap_or_else(|| TYPE_DEFAULT.to_owned()).into(),
                    id: self.number("group")?.unwrap_or(0),
                },
                multipliers: self.multipliers()?,
            },
            "update_torrent" => AdminCommand::UpdateTorrent(info_hash()?, self.torrent_change()?),
            "update_torrents" => {
                let change = self.torrent_change()?;
                let each = |info_hash| AdminCommand::UpdateTorrent(info_hash, change.clone());
                AdminCommand::AllOf(self.joined_info_hashes("info_hashes")?.into_iter().map(each).collect())
            }
            "delete_torrent" => {
                AdminCommand::DeleteTorrent { info_hash: info_hash()?, reason: self.reason()? }
            }
            "add_user" => {
                AdminCommand::AddUser { id: self.number("id")?, passkey: self.required_text("passkey")? }
            }
            "remove_user" => AdminCommand::RemoveUser(self.user_or_passkey()?),
            "remove_users" => {
                let each = |passkey| AdminCommand::RemoveUser(UserRef::Passkey(passkey));
                AdminCommand::AllOf(self.passkeys("passkeys")?.into_iter().map(each).collect())
            }
            "change_passkey" => AdminCommand::ChangePasskey {
                old: self.required_text("oldpasskey")?,
                new: self.required_text("newpasskey")?,
                grace_seconds,
            },
            "update_user" => AdminCommand::UpdateUser {
                who: self.user_or_passkey()?,
                can_leech: self.flag("can_leech")?,
                visible: self.flag("visible")?,
                up: self.multiplier("up")?,
                down: self.multiplier("down")?,
            },
            "add_token" => AdminCommand::AddToken(self.required_number("userid")?, info_hash()?),
            "remove_token" => AdminCommand::RemoveToken(self.required_number("userid")?, info_hash()?),
            "add_whitelist" => AdminCommand::AddClient(self.required_text("peer_id")?),
            "remove_whitelist" => AdminCommand::RemoveClient(self.required_text("peer_id")?),
            "edit_whitelist" => AdminCommand::EditClient(
                self.required_text("old_peer_id")?,
                self.required_text("new_peer_id")?,
            ),
            "update_announce_interval" => {
                let name = "new_announce_interval";
                AdminCommand::AnnounceInterval(self.required_number(name)?)
            }
            "global_freeleech" => AdminCommand::GlobalFreeleech(self.required_flag("on")?),
            "group_freeleech" => AdminCommand::GroupFreeleech(
                Group { type_name: self.required_text("type")?.into(), id: self.required_number("group")? },
                if self.required_flag("on")? { Some(self.multipliers()?) } else { None },
            ),
            "hit_and_run" => AdminCommand::HitAndRun(
                self.required_number("userid")?,
                info_hash()?,
                self.required_flag("on")?,
            ),
            "info_torrent" => AdminCommand::InfoTorrent(info_hash()?),
            _ => return Err("action is unknown".to_owned()),
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

    fn required_flag(&self, name: &str) -> Result<bool, String> {
        self.flag(name)?.ok_or_else(|| format!("{name} is missing"))
    }

    fn required_number(&self, name: &str) -> Result<u32, String> {
        self.number(name)?.ok_or_else(|| format!("{name} is missing"))
    }

    fn torrent_change(&self) -> Result<TorrentChange, String> {
        let (up, down) = self.given_multipliers()?;
        let status = self.optional("status")?.map(|text| text.parse()).transpose();
        let status = status.map_err(|_| "status is not a number of 32 bits".to_owned())?;
        Ok(TorrentChange {
            up,
            down,
            status,
            type_name: self.optional("type")?,
            group: self.number("group")?,
        })
    }

    fn user_or_passkey(&self) -> Result<UserRef, String> {
        match self.number("id")? {
            Some(id) => Ok(UserRef::Id(id)),
            None => self.required_text("passkey").map(UserRef::Passkey),
        }
    }

    /// Reads both multipliers; one that is not given is 1.
    fn multipliers(&self) -> Result<Multipliers, String> {
        let (up, down) = self.given_multipliers()?;
        Ok(Multipliers { up: up.unwrap_or(1.0), down: down.unwrap_or(1.0) })
    }

    /// Reads the multipliers that are given. `freetorrent` is 1 for freeleech, and 2 if neither direction
    /// counts; `up` and `down` take precedence.
    fn given_multipliers(&self) -> Result<(Option<f64>, Option<f64>), String> {
        let preset = match self.number("freetorrent")? {
            None => None,
            Some(0) => Some((1.0, 1.0)),
            Some(1) => Some((1.0, 0.0)),
            Some(2) => Some((0.0, 0.0)),
            Some(_) => return Err("freetorrent is not 0, 1 or 2".to_owned()),
        };
        let (up, down) = (self.multiplier("up")?, self.multiplier("down")?);
        Ok((up.or(preset.map(|(up, _)| up)), down.or(preset.map(|(_, down)| down))))
    }

    /// Reads the reason: a text, or one of Gazelle's numbers, of which -1 is none.
    fn reason(&self) -> Result<String, String> {
        let Some(reason) = self.optional("reason")? else { return Ok(String::new()) };
        if reason.len() > REASON_MAX {
            return Err(format!("reason is longer than {REASON_MAX} characters"));
        }
        if reason == "-1" {
            return Ok(String::new());
        }
        let listed_reason = reason.parse().ok().and_then(|number: usize| REASONS.get(number));
        Ok(listed_reason.map_or(reason, |listed_reason| (*listed_reason).to_owned()))
    }
}

/// Checks that an announce interval of this number of seconds is allowed.
fn check_interval(seconds: u32, policy: &Policy) -> Result<(), String> {
    let least = policy.min_announce_seconds.max(1);
    // A peer that comes back in time must not have been removed as inactive.
    let most = policy.peer_inactivity_seconds.saturating_sub(policy.announce_drift_seconds).saturating_sub(1);
    if (least..=most).contains(&seconds) {
        return Ok(());
    }
    Err(format!("new_announce_interval is {seconds}, expected {least} to {most} (see intervals.*)"))
}

#[cfg(test)]
mod tests {
    use hayate_state::InfoHash;

    use super::*;

    const BAD_PASSKEYS: &str = "passkeys has neither passkeys of 32 characters nor commas";

    fn admin_command(query: &str) -> Result<AdminCommand, String> {
        AdminQuery::parse(query.as_bytes()).admin_command(7)
    }

    #[test]
    fn gazelle_actions_are_parsed() {
        let hash = InfoHash([b'a'; 20]);
        let (raw, hex) = ("%61".repeat(20), "61".repeat(20));
        for (query, expected) in [
            (
                format!("action=add_torrent&info_hash={raw}&id=11&freetorrent=1"),
                AdminCommand::AddTorrent {
                    id: Some(11),
                    info_hash: hash,
                    group: Group { type_name: "music".into(), id: 0 },
                    multipliers: Multipliers { up: 1.0, down: 0.0 },
                },
            ),
            (
                format!("action=delete_torrent&info_hash={hex}&reason=1"),
                AdminCommand::DeleteTorrent { info_hash: hash, reason: "Trump".to_owned() },
            ),
            (
                format!("action=delete_torrent&info_hash={hex}&reason=-1"),
                AdminCommand::DeleteTorrent { info_hash: hash, reason: String::new() },
            ),
            (
                format!("action=delete_torrent&info_hash={hex}&reason=Bad+rip%21"),
                AdminCommand::DeleteTorrent { info_hash: hash, reason: "Bad rip!".to_owned() },
            ),
            (
                "action=change_passkey&oldpasskey=x&newpasskey=y".to_owned(),
                AdminCommand::ChangePasskey { old: "x".into(), new: "y".into(), grace_seconds: 7 },
            ),
            (
                "action=update_user&passkey=x&can_leech=0".to_owned(),
                AdminCommand::UpdateUser {
                    who: UserRef::Passkey("x".into()),
                    can_leech: Some(false),
                    visible: None,
                    up: None,
                    down: None,
                },
            ),
            (
                format!("action=update_torrent&info_hash={raw}&up=2"),
                AdminCommand::UpdateTorrent(
                    hash,
                    TorrentChange { up: Some(2.0), ..TorrentChange::default() },
                ),
            ),
            (
                format!("action=update_torrent&info_hash={raw}&freetorrent=2&up=3"),
                AdminCommand::UpdateTorrent(
                    hash,
                    TorrentChange { up: Some(3.0), down: Some(0.0), ..TorrentChange::default() },
                ),
            ),
            (format!("action=add_token&userid=13&info_hash={raw}"), AdminCommand::AddToken(13, hash)),
            (
                "action=edit_whitelist&old_peer_id=-TR2&new_peer_id=-TR3".to_owned(),
                AdminCommand::EditClient("-TR2".into(), "-TR3".into()),
            ),
        ] {
            assert_eq!(admin_command(&query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn actions_beyond_gazelle_are_parsed() {
        let (hash, raw) = (InfoHash([b'a'; 20]), "%61".repeat(20));
        for (query, expected) in [
            (
                format!("action=update_torrent&info_hash={raw}&status=-1&type=anime&group=7"),
                AdminCommand::UpdateTorrent(
                    hash,
                    TorrentChange {
                        status: Some(-1),
                        type_name: Some("anime".into()),
                        group: Some(7),
                        ..TorrentChange::default()
                    },
                ),
            ),
            (
                format!("action=hit_and_run&userid=13&info_hash={raw}&on=1"),
                AdminCommand::HitAndRun(13, hash, true),
            ),
            ("action=global_freeleech&on=0".to_owned(), AdminCommand::GlobalFreeleech(false)),
            (
                "action=group_freeleech&type=anime&group=7&on=1&freetorrent=1".to_owned(),
                AdminCommand::GroupFreeleech(
                    Group { type_name: "anime".into(), id: 7 },
                    Some(Multipliers { up: 1.0, down: 0.0 }),
                ),
            ),
            (
                "action=update_announce_interval&new_announce_interval=1700".to_owned(),
                AdminCommand::AnnounceInterval(1700),
            ),
        ] {
            assert_eq!(admin_command(&query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn joined_info_hashes_and_passkeys_are_split() {
        let free = TorrentChange { up: Some(1.0), down: Some(0.0), ..TorrentChange::default() };
        let hashes = [InfoHash([0xa1; 20]), InfoHash([b'7'; 20])];
        let expected =
            AdminCommand::AllOf(hashes.map(|hash| AdminCommand::UpdateTorrent(hash, free.clone())).into());
        let raw = hashes.map(|hash| hash.0.map(|octet| format!("%{octet:02X}")).concat()).concat();
        let hex = hashes.map(|hash| hash.to_string()).concat();
        for info_hashes in [raw, hex] {
            let query = format!("action=update_torrents&info_hashes={info_hashes}&freetorrent=1");
            assert_eq!(admin_command(&query), Ok(expected.clone()), "{query}");
        }
        let (first, second) = ("a".repeat(32), "b".repeat(32));
        let removed = |passkeys: &[&str]| {
            AdminCommand::AllOf(
                passkeys
                    .iter()
                    .map(|passkey| AdminCommand::RemoveUser(UserRef::Passkey((*passkey).into())))
                    .collect(),
            )
        };
        for (passkeys, expected) in [
            (format!("{first}{second}"), removed(&[&first, &second])),
            (format!("{first},x"), removed(&[&first, "x"])),
            ("x".to_owned(), removed(&["x"])),
        ] {
            assert_eq!(admin_command(&format!("action=remove_users&passkeys={passkeys}")), Ok(expected));
        }
    }

    #[test]
    fn an_announce_interval_stays_between_the_minimum_and_peer_expiry() {
        let policy = Policy::default();
        for (seconds, is_good) in [(899, false), (900, true), (3899, true), (3900, false), (0, false)] {
            assert_eq!(check_interval(seconds, &policy).is_ok(), is_good, "{seconds}");
        }
    }

    #[test]
    fn errors_name_the_bad_parameter() {
        for (query, text) in [
            ("", "action is missing"),
            ("action=fly", "action is unknown"),
            ("action=add_torrent", "info_hash is missing"),
            ("action=add_torrent&info_hash=7", "info_hash is neither 20 octets nor 40 hexadecimal digits"),
            ("action=add_user&id=-1&passkey=x", "id is not a number below 2^32"),
            ("action=add_user", "passkey is missing"),
            ("action=add_user&passkey=%ff", "passkey is not UTF-8"),
            ("action=update_user&id=7&can_leech=maybe", "can_leech is neither 0 nor 1"),
            ("action=update_user&id=7&up=x", "up is not a number"),
            ("action=add_token&info_hash=x", "userid is missing"),
            ("action=update_torrents", "info_hashes is missing"),
            (
                "action=update_torrents&info_hashes=abc",
                "info_hashes is neither 20 octets nor 40 hexadecimal digits",
            ),
            ("action=remove_users&passkeys=0123456789012345678901234567890123", BAD_PASSKEYS),
            ("action=global_freeleech", "on is missing"),
            (
                "action=hit_and_run&userid=7&info_hash=x",
                "info_hash is neither 20 octets nor 40 hexadecimal digits",
            ),
            ("action=update_announce_interval", "new_announce_interval is missing"),
        ] {
            assert_eq!(admin_command(query), Err(text.to_owned()), "{query}");
        }
    }
}
