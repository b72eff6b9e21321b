//! What each verb does to the tables.

use std::fmt;

use super::{Change, Outcome, TorrentChange, Verb, Who};
use crate::ids::InfoHash;
use crate::snapshot::site::{Group, Multipliers, User};
use crate::store::{Cell, Registered, StoreError, Tables};

/// To a server 'a' is 'A', and blanks at the end are nothing; to a tracker they are not the same.
const EXACT_PASSKEY: &str = "torrent_pass = ? AND hex(torrent_pass) = hex(?)";
const EXACT_CLIENT: &str = "peer_id = ? AND hex(peer_id) = hex(?)";

/// The work within a transaction.
pub(super) struct Work<'t> {
    pub(super) tables: &'t mut dyn Tables,
    pub(super) now: i64,
}

pub(super) type Done = Result<(Outcome, String), StoreError>;

impl Work<'_> {
    /// Gives the outcome, and what was meant, without a secret.
    pub(super) fn carry_out(&mut self, verb: &Verb) -> Done {
        match verb {
            Verb::AddTorrent { id, info_hash, group, multipliers } => {
                self.add_torrent(*id, info_hash, group, *multipliers)
            }
            Verb::UpdateTorrent(info_hash, change) => self.update_torrent(info_hash, change),
            Verb::DeleteTorrent { info_hash, reason } => self.delete_torrent(info_hash, reason),
            Verb::AddUser { id, passkey } => self.add_user(*id, passkey),
            Verb::RemoveUser(who) => self.remove_user(who),
            Verb::ChangePasskey { old, new, grace_seconds } => {
                self.change_passkey(old, new, i64::from(*grace_seconds))
            }
            Verb::UpdateUser { who, can_leech, visible, up, down } => {
                self.update_user(who, [can_leech.map(|may| !may), visible.map(|seen| !seen)], [*up, *down])
            }
            Verb::AddToken(uid, info_hash) => self.token(*uid, info_hash, true),
            Verb::RemoveToken(uid, info_hash) => self.token(*uid, info_hash, false),
            Verb::AddClient(prefix) => self.client(prefix, true),
            Verb::RemoveClient(prefix) => self.client(prefix, false),
            Verb::EditClient(old, new) => {
                let (removed, _) = self.client(old, false)?;
                let (added, _) = self.client(new, true)?;
                let changes = [removed.changes, added.changes].concat();
                let text = format!("{}; {}", removed.text, added.text);
                let word = if changes.is_empty() { "unchanged" } else { "changed" };
                Ok((Outcome { word, text, changes }, format!("{old} {new}")))
            }
            Verb::InfoTorrent(info_hash) => {
                let torrent = self.torrent(info_hash)?;
                let told = torrent.map(|torrent| info(&torrent));
                let word = if told.is_some() { "info" } else { "missing" };
                let text = told.unwrap_or_else(|| format!("torrent {info_hash} is not registered"));
                Ok((Outcome { word, text, changes: Vec::new() }, info_hash.to_string()))
            }
            Verb::GlobalFreeleech(wanted) => self.global_freeleech(*wanted),
            Verb::GroupFreeleech(group, multipliers) => self.group_freeleech(group, *multipliers),
            Verb::HitAndRun(uid, info_hash, wanted) => self.hit_and_run(*uid, info_hash, *wanted),
            Verb::AnnounceInterval(seconds) => {
                let text = format!("changed: clients come back after {seconds} s");
                let target = format!("announce interval {seconds}");
                Ok((Outcome { word: "changed", text, changes: Vec::new() }, target))
            }
            // Whoever calls takes them apart, and they are not nested.
            Verb::Each(_) => Ok((Outcome { word: "unchanged", ..Outcome::default() }, String::new())),
        }
    }

    fn add_torrent(&mut self, id: Option<u32>, hash: &InfoHash, group: &Group, of: Multipliers) -> Done {
        self.tables.change("DELETE FROM hayate_deletions WHERE info_hash = ?", &[hash.0[..].into()])?;
        let word = if self.torrent(hash)?.is_some() {
            "unchanged"
        } else {
            let sql = "INSERT INTO torrents
                (ID, GroupID, TorrentType, info_hash, UpMultiplier, DownMultiplier)
                VALUES (?, ?, ?, ?, ?, ?)";
            let id = id.map_or(Cell::Null, Cell::from);
            let type_name = (*group.type_name).into();
            let values = [id, group.id.into(), type_name, hash.0[..].into(), of.up.into(), of.down.into()];
            self.tables.change(sql, &values)?;
            "added"
        };
        let torrent = self.torrent(hash)?;
        let text = torrent.as_ref().map_or_else(String::new, info);
        let changes = torrent.into_iter().map(Change::PutTorrent).collect();
        Ok((Outcome { word, text: format!("{word}: {text}"), changes }, hash.to_string()))
    }

    fn update_torrent(&mut self, hash: &InfoHash, change: &TorrentChange) -> Done {
        let before = self.torrent(hash)?;
        for (column, value) in [
            ("UpMultiplier", change.up.map(Cell::from)),
            ("DownMultiplier", change.down.map(Cell::from)),
            ("Status", change.status.map(|status| i64::from(status).into())),
            ("TorrentType", change.type_name.as_deref().map(Cell::from)),
            ("GroupID", change.group.map(Cell::from)),
        ] {
            let Some(value) = value else { continue };
            let sql = format!("UPDATE torrents SET {column} = ? WHERE info_hash = ?");
            self.tables.change(&sql, &[value, hash.0[..].into()])?;
        }
        let torrent = self.torrent(hash)?;
        let word = match &torrent {
            None => "missing",
            same if *same == before => "unchanged",
            Some(_) => "changed",
        };
        let text = torrent.as_ref().map_or_else(|| format!("torrent {hash} is not registered"), info);
        // Those of this type are not for the tracker.
        let put = |torrent: Registered| match &*torrent.group.type_name {
            "internal" => Change::DropTorrent(*hash, None),
            _ => Change::PutTorrent(torrent),
        };
        Ok((Outcome { word, text, changes: torrent.into_iter().map(put).collect() }, hash.to_string()))
    }

    fn delete_torrent(&mut self, hash: &InfoHash, reason: &str) -> Done {
        let key = || Cell::from(&hash.0[..]);
        let (gone, _) = self.tables.change("DELETE FROM torrents WHERE info_hash = ?", &[key()])?;
        self.tables.change("DELETE FROM hayate_deletions WHERE info_hash = ?", &[key()])?;
        if !reason.is_empty() {
            let sql = "INSERT INTO hayate_deletions (info_hash, reason, deleted_at) VALUES (?, ?, ?)";
            self.tables.change(sql, &[key(), reason.into(), self.now.into()])?;
        }
        let word = if gone > 0 { "removed" } else { "missing" };
        let why = if reason.is_empty() { String::new() } else { format!(", reason: {reason}") };
        let text = format!("{word}: torrent {hash}{why}");
        let reason = (!reason.is_empty()).then(|| reason.into());
        Ok((Outcome { word, text, changes: vec![Change::DropTorrent(*hash, reason)] }, hash.to_string()))
    }

    fn add_user(&mut self, id: Option<u32>, passkey: &str) -> Done {
        let known = self.user(&id.map_or_else(|| Who::Passkey(passkey.to_owned()), Who::Id))?;
        let has_it = |known: &Known| *known.user.passkey == *passkey.as_bytes();
        if !known.as_ref().is_some_and(|known| known.enabled && has_it(known)) {
            let id = known.as_ref().map(|known| known.user.id).or(id);
            if let Some(other) = self.another_with(passkey, id)? {
                return Ok(taken(other, id));
            }
        }
        let mut changes = Vec::new();
        let (word, id) = match known {
            Some(known) if known.enabled && has_it(&known) => ("unchanged", known.user.id),
            Some(known) => {
                let sql = "UPDATE users_main SET torrent_pass = ?, Enabled = '1' WHERE ID = ?";
                self.tables.change(sql, &[passkey.into(), known.user.id.into()])?;
                if !has_it(&known) {
                    changes.push(self.given_up(&known.user.passkey)?);
                }
                ("changed", known.user.id)
            }
            None => {
                let sql = "INSERT INTO users_main (ID, Enabled, torrent_pass) VALUES (?, '1', ?)";
                let values = [id.map_or(Cell::Null, Cell::from), passkey.into()];
                let (_, made) = self.tables.change(sql, &values)?;
                ("added", id.unwrap_or(u32::try_from(made).unwrap_or(0)))
            }
        };
        let user = self.user(&Who::Id(id))?.filter(|user| user.enabled);
        changes.extend(user.map(|user| Change::PutUser(user.user)));
        Ok((Outcome { word, text: format!("{word}: user {id}"), changes }, format!("user {id}")))
    }

    fn remove_user(&mut self, who: &Who) -> Done {
        let Some(Known { user, enabled }) = self.user(who)? else { return Ok(nobody(who)) };
        // '2' is what sites call disabled; '0' is one that was never enabled.
        let sql = "UPDATE users_main SET Enabled = '2' WHERE ID = ? AND Enabled = '1'";
        self.tables.change(sql, &[user.id.into()])?;
        let retired =
            self.tables.ask("SELECT passkey FROM hayate_passkeys WHERE uid = ?", &[user.id.into()])?;
        self.tables.change("DELETE FROM hayate_passkeys WHERE uid = ?", &[user.id.into()])?;
        let word = if enabled { "removed" } else { "unchanged" };
        let mut changes = vec![self.given_up(&user.passkey)?];
        for row in &retired {
            if let [Cell::Octets(passkey)] = &**row {
                changes.push(self.given_up(passkey)?);
            }
        }
        let text = format!("{word}: user {} is disabled", user.id);
        Ok((Outcome { word, text, changes }, format!("user {}", user.id)))
    }

    fn change_passkey(&mut self, old: &str, new: &str, grace: i64) -> Done {
        let found = self.user(&Who::Passkey(old.to_owned()))?;
        let moved = found.is_some();
        let known = match found {
            Some(known) => Some(known),
            None => self.user(&Who::Passkey(new.to_owned()))?,
        };
        let Some(Known { user, enabled }) = known else {
            return Ok(nobody(&Who::Passkey(String::new())));
        };
        let id = user.id;
        let other = if moved { self.another_with(new, Some(id))? } else { None };
        if let Some(other) =
            other.map_or_else(|| self.another_who_gave_up(old, Some(id)), |id| Ok(Some(id)))?
        {
            return Ok(taken(other, Some(id)));
        }
        let sql = "UPDATE users_main SET torrent_pass = ? WHERE ID = ?";
        self.tables.change(sql, &[new.into(), id.into()])?;
        let (until, begun) = self.retire(old, id, moved, grace)?;
        let mut changes = Vec::new();
        if enabled {
            let now_is = |passkey: &str| User { passkey: passkey.as_bytes().into(), ..user.clone() };
            changes.push(Change::PutUser(now_is(new)));
            changes.push(match self.given_up(old.as_bytes())? {
                Change::DropPasskey(_) if until > self.now => Change::PutUser(now_is(old)),
                change => change,
            });
        }
        let word = if moved || begun { "changed" } else { "unchanged" };
        let rest = (until - self.now).max(0);
        let text = format!("{word}: the passkey of user {id}; the old one works for {rest} s");
        Ok((Outcome { word, text, changes }, format!("user {id}")))
    }

    /// Says until when an old passkey works, and whether that was settled just now. A back end that has
    /// changed the row itself asks with an old passkey that nobody has, so the grace begins when it is first
    /// told of; after that, only when the passkey is given up anew.
    fn retire(&mut self, old: &str, id: u32, moved: bool, grace: i64) -> Result<(i64, bool), StoreError> {
        let sql = "SELECT good_until FROM hayate_passkeys WHERE passkey = ?";
        let known = self.tables.ask(sql, &[old.into()])?;
        if let (Some([Cell::Number(until)]), false) = (known.first().map(Vec::as_slice), moved) {
            return Ok((*until, false));
        }
        self.tables.change("DELETE FROM hayate_passkeys WHERE passkey = ?", &[old.into()])?;
        if grace == 0 {
            return Ok((self.now, false));
        }
        let until = self.now.saturating_add(grace);
        let sql = "INSERT INTO hayate_passkeys (passkey, uid, good_until) VALUES (?, ?, ?)";
        self.tables.change(sql, &[old.into(), id.into(), until.into()])?;
        Ok((until, true))
    }

    /// Another user who has this passkey, enabled or not, or can still come in by it.
    fn another_with(&mut self, passkey: &str, id: Option<u32>) -> Result<Option<u32>, StoreError> {
        let sql = format!(
            "SELECT ID FROM users_main WHERE {EXACT_PASSKEY} AND ID <> ? ORDER BY Enabled = '1' DESC, ID DESC"
        );
        let id_or_none = id.map_or(Cell::Number(-1), Cell::from);
        let rows = self.tables.ask(&sql, &[passkey.into(), passkey.into(), id_or_none])?;
        match rows.first().and_then(|row| row.first()?.id()) {
            Some(other) => Ok(Some(other)),
            None => self.another_who_gave_up(passkey, id),
        }
    }

    /// Another user who had this passkey, and can still come in by it.
    fn another_who_gave_up(&mut self, passkey: &str, id: Option<u32>) -> Result<Option<u32>, StoreError> {
        let sql = "SELECT uid FROM hayate_passkeys WHERE passkey = ? AND good_until > ? AND uid <> ?";
        let id = id.map_or(Cell::Number(-1), Cell::from);
        let rows = self.tables.ask(sql, &[passkey.into(), self.now.into(), id])?;
        Ok(rows.first().and_then(|row| row.first()?.id()))
    }

    /// What a passkey means after somebody has given it up: it may be that of another, too.
    fn given_up(&mut self, passkey: &[u8]) -> Result<Change, StoreError> {
        let owner = self.user(&Who::Passkey(String::from_utf8_lossy(passkey).into_owned()))?;
        let owner = owner.filter(|owner| owner.enabled);
        Ok(owner.map_or_else(|| Change::DropPasskey(passkey.into()), |owner| Change::PutUser(owner.user)))
    }

    fn update_user(&mut self, who: &Who, flags: [Option<bool>; 2], factors: [Option<f64>; 2]) -> Done {
        let Some(Known { user, enabled }) = self.user(who)? else { return Ok(nobody(who)) };
        let flags =
            ["DisableDownload", "TrackerHide"].into_iter().zip(flags.map(|flag| flag.map(Cell::from)));
        let factors =
            ["UpMultiplier", "DownMultiplier"].into_iter().zip(factors.map(|factor| factor.map(Cell::from)));
        for (column, value) in flags.chain(factors) {
            let Some(value) = value else { continue };
            self.tables.change(
                &format!("UPDATE users_main SET {column} = ? WHERE ID = ?"),
                &[value, user.id.into()],
            )?;
        }
        let after = self.user(&Who::Id(user.id))?.map(|known| known.user);
        let word = if after.as_ref() == Some(&user) { "unchanged" } else { "changed" };
        let changes = after.filter(|_| enabled).map(Change::PutUser).into_iter().collect();
        let text = format!("{word}: user {}", user.id);
        Ok((Outcome { word, text, changes }, format!("user {}", user.id)))
    }

    fn token(&mut self, uid: u32, hash: &InfoHash, wanted: bool) -> Done {
        let target = format!("user {uid} torrent {hash}");
        let Some(torrent) = self.torrent(hash)? else { return Ok(is_missing(hash, target)) };
        let key = || [uid.into(), torrent.id.into()];
        let there =
            !self.tables.ask("SELECT uid FROM hayate_tokens WHERE uid = ? AND fid = ?", &key())?.is_empty();
        let word = match (there, wanted) {
            (false, true) => {
                self.tables.change("INSERT INTO hayate_tokens (uid, fid) VALUES (?, ?)", &key())?;
                "added"
            }
            (true, false) => {
                self.tables.change("DELETE FROM hayate_tokens WHERE uid = ? AND fid = ?", &key())?;
                "removed"
            }
            _ => "unchanged",
        };
        let change =
            if wanted { Change::PutToken(uid, torrent.id) } else { Change::DropToken(uid, torrent.id) };
        let text = format!("{word}: token of user {uid} for torrent {}", torrent.id);
        Ok((Outcome { word, text, changes: vec![change] }, target))
    }

    fn client(&mut self, prefix: &str, wanted: bool) -> Done {
        let sql =
            format!("SELECT id, archived FROM approved_clients WHERE {EXACT_CLIENT} ORDER BY archived, id");
        let known = self.tables.ask(&sql, &[prefix.into(), prefix.into()])?;
        let first = known.first().map(|row| (row.first().and_then(Cell::id), row.get(1).cloned()));
        let (word, id) = match (first, wanted) {
            (Some((Some(id), Some(Cell::Number(0)))), true) => ("unchanged", id),
            (Some((Some(id), _)), true) => {
                self.tables.change("UPDATE approved_clients SET archived = 0 WHERE id = ?", &[id.into()])?;
                ("changed", id)
            }
            (_, true) => {
                let sql = "INSERT INTO approved_clients (peer_id, archived) VALUES (?, 0)";
                let (_, id) = self.tables.change(sql, &[prefix.into()])?;
                ("added", u32::try_from(id).unwrap_or(0))
            }
            (Some((Some(id), archived)), false) => {
                let sql = format!("UPDATE approved_clients SET archived = 1 WHERE {EXACT_CLIENT}");
                self.tables.change(&sql, &[prefix.into(), prefix.into()])?;
                (if archived == Some(Cell::Number(0)) { "removed" } else { "unchanged" }, id)
            }
            (_, false) => {
                let text = format!("missing: no client {prefix:?}");
                return Ok((Outcome { word: "missing", text, changes: Vec::new() }, prefix.to_owned()));
            }
        };
        let changes = match (wanted, word) {
            (_, "unchanged") => Vec::new(),
            (true, _) => vec![Change::PutClient(id, prefix.as_bytes().into())],
            (false, _) => known
                .iter()
                .filter_map(|row| row.first().and_then(Cell::id))
                .map(Change::DropClient)
                .collect(),
        };
        Ok((Outcome { word, text: format!("{word}: client {prefix:?}"), changes }, prefix.to_owned()))
    }

    pub(super) fn torrent(&mut self, info_hash: &InfoHash) -> Result<Option<Registered>, StoreError> {
        let rows = self.tables.ask(
            "SELECT ID, GroupID, TorrentType, Snatched, Status, UpMultiplier, DownMultiplier
             FROM torrents WHERE info_hash = ?",
            &[info_hash.0[..].into()],
        )?;
        let read = |row: &[Cell]| match row {
            [id, group, Cell::Octets(type_name), snatched, Cell::Number(status), up, down] => {
                Some(Registered {
                    info_hash: *info_hash,
                    id: id.id()?,
                    group: Group { type_name: String::from_utf8_lossy(type_name).into(), id: group.id()? },
                    snatched: snatched.id()?,
                    status: i32::try_from(*status).ok()?,
                    multipliers: Multipliers { up: factor(up)?, down: factor(down)? },
                })
            }
            _ => None,
        };
        Ok(rows.first().and_then(|row| read(row)))
    }

    fn user(&mut self, who: &Who) -> Result<Option<Known>, StoreError> {
        let (condition, values) = match who {
            Who::Id(id) => ("ID = ?", vec![Cell::from(*id)]),
            Who::Passkey(passkey) => (EXACT_PASSKEY, vec![(&**passkey).into(); 2]),
        };
        let rows = self.tables.ask(
            &format!(
                "SELECT ID, torrent_pass, Enabled, DisableDownload, TrackerHide, UpMultiplier, DownMultiplier
                 FROM users_main WHERE {condition} ORDER BY Enabled = '1' DESC, ID DESC"
            ),
            &values,
        )?;
        let read = |row: &[Cell]| match row {
            [id, Cell::Octets(passkey), Cell::Octets(enabled), disabled, hidden, up, down] => Some(Known {
                user: User {
                    passkey: passkey.as_slice().into(),
                    id: id.id()?,
                    disable_download: *disabled != Cell::Number(0),
                    tracker_hide: *hidden != Cell::Number(0),
                    multipliers: Multipliers { up: factor(up)?, down: factor(down)? },
                },
                enabled: enabled == b"1",
            }),
            _ => None,
        };
        Ok(rows.first().and_then(|row| read(row)))
    }
}

/// A user, and whether he is enabled.
struct Known {
    user: User,
    enabled: bool,
}

/// A passkey that one user asks for is another's.
fn taken(other: u32, id: Option<u32>) -> (Outcome, String) {
    let text = format!("refused: user {other} has this passkey");
    let target = id.map_or_else(|| "a new user".to_owned(), |id| format!("user {id}"));
    (Outcome { word: "refused", text, changes: Vec::new() }, format!("{target}, passkey of user {other}"))
}

pub(super) fn is_missing(hash: &InfoHash, target: String) -> (Outcome, String) {
    let text = format!("missing: torrent {hash} is not registered");
    (Outcome { word: "missing", text, changes: Vec::new() }, target)
}

pub(super) fn factor(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Real(factor) => Some(factor.abs()),
        _ => None,
    }
}

fn nobody(who: &Who) -> (Outcome, String) {
    let who = match who {
        Who::Id(id) => format!("user {id}"),
        Who::Passkey(_) => "a user with this passkey".to_owned(),
    };
    let outcome = Outcome { word: "missing", text: format!("missing: {who}"), changes: Vec::new() };
    (outcome, who)
}

fn info(torrent: &Registered) -> String {
    struct Shown<'t>(&'t Registered);
    impl fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Registered { info_hash, id, group, snatched, status, multipliers } = self.0;
            let (type_name, group) = (&group.type_name, group.id);
            let Multipliers { up, down } = multipliers;
            write!(
                f,
                "torrent {id} {info_hash}, type {type_name}, group {group}, snatched {snatched}, status \
                 {status}, multipliers up {up} down {down}"
            )
        }
    }
    Shown(torrent).to_string()
}
