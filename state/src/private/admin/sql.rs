//! What each command does to the tables.

use std::fmt;

use super::{AdminCommand, AdminOutcome, SiteChange, TorrentChange, UserRef};
use crate::ids::InfoHash;
use crate::snapshot::site::{Group, Multipliers, UserAccount};
use crate::store::site_sql::edits;
use crate::store::{RegisteredTorrent, SqlValue, StoreError, Tables};

/// The transaction of one command, with the time and the tables.
pub(super) struct AdminTransaction<'t> {
    pub(super) tables: &'t mut dyn Tables,
    pub(super) now: i64,
}

pub(super) type CommandResult = Result<(AdminOutcome, String), StoreError>;

impl AdminTransaction<'_> {
    /// Runs a command; returns its outcome, and its target without any secret.
    pub(super) fn run_command(&mut self, command: &AdminCommand) -> CommandResult {
        match command {
            AdminCommand::AddTorrent { id, info_hash, group, multipliers } => {
                self.add_torrent(*id, info_hash, group, *multipliers)
            }
            AdminCommand::UpdateTorrent(info_hash, change) => self.update_torrent(info_hash, change),
            AdminCommand::DeleteTorrent { info_hash, reason } => self.delete_torrent(info_hash, reason),
            AdminCommand::AddUser { id, passkey } => self.add_user(*id, passkey),
            AdminCommand::RemoveUser(who) => self.remove_user(who),
            AdminCommand::ChangePasskey { old, new, grace_seconds } => {
                self.change_passkey(old, new, i64::from(*grace_seconds))
            }
            AdminCommand::UpdateUser { who, can_leech, visible, up, down } => {
                self.update_user(who, [can_leech.map(|may| !may), visible.map(|seen| !seen)], [*up, *down])
            }
            AdminCommand::AddToken(uid, info_hash) => self.set_token(*uid, info_hash, true),
            AdminCommand::RemoveToken(uid, info_hash) => self.set_token(*uid, info_hash, false),
            AdminCommand::AddClient(prefix) => self.set_client(prefix, true),
            AdminCommand::RemoveClient(prefix) => self.set_client(prefix, false),
            AdminCommand::EditClient(old, new) => {
                let (removed, _) = self.set_client(old, false)?;
                let (added, _) = self.set_client(new, true)?;
                let changes = [removed.changes, added.changes].concat();
                let text = format!("{}; {}", removed.text, added.text);
                let word = if changes.is_empty() { "unchanged" } else { "changed" };
                Ok((AdminOutcome { word, text, changes }, format!("{old} {new}")))
            }
            AdminCommand::InfoTorrent(info_hash) => {
                let torrent = self.find_torrent(info_hash)?;
                let description = torrent.map(|torrent| describe_torrent(&torrent));
                let word = if description.is_some() { "info" } else { "missing" };
                let text = description.unwrap_or_else(|| format!("torrent {info_hash} is not registered"));
                Ok((AdminOutcome { word, text, changes: Vec::new() }, info_hash.to_string()))
            }
            AdminCommand::GlobalFreeleech(wanted) => self.global_freeleech(*wanted),
            AdminCommand::GroupFreeleech(group, multipliers) => self.group_freeleech(group, *multipliers),
            AdminCommand::HitAndRun(uid, info_hash, wanted) => self.hit_and_run(*uid, info_hash, *wanted),
            AdminCommand::AnnounceInterval(seconds) => {
                let text = format!("changed: clients come back after {seconds} s");
                let target = format!("announce interval {seconds}");
                Ok((AdminOutcome { word: "changed", text, changes: Vec::new() }, target))
            }
            // The caller takes them apart, and they are not nested.
            AdminCommand::AllOf(_) => {
                Ok((AdminOutcome { word: "unchanged", ..AdminOutcome::default() }, String::new()))
            }
        }
    }

    fn add_torrent(
        &mut self,
        id: Option<u32>,
        hash: &InfoHash,
        group: &Group,
        of: Multipliers,
    ) -> CommandResult {
        self.tables
            .run_statement("DELETE FROM hayate_deletions WHERE info_hash = ?", &[hash.0[..].into()])?;
        let word = if self.find_torrent(hash)?.is_some() {
            "unchanged"
        } else {
            let id = id.map_or(SqlValue::Null, SqlValue::from);
            let type_name = (*group.type_name).into();
            let values = [id, group.id.into(), type_name, hash.0[..].into(), of.up.into(), of.down.into()];
            self.tables.run_statement(&edits::ADD_TORRENT.text(), &values)?;
            "added"
        };
        let torrent = self.find_torrent(hash)?;
        let text = torrent.as_ref().map_or_else(String::new, describe_torrent);
        let changes = torrent.into_iter().map(SiteChange::UpsertTorrent).collect();
        Ok((AdminOutcome { word, text: format!("{word}: {text}"), changes }, hash.to_string()))
    }

    fn update_torrent(&mut self, hash: &InfoHash, change: &TorrentChange) -> CommandResult {
        let before = self.find_torrent(hash)?;
        for (sql, value) in [
            (edits::SET_TORRENT_UP, change.up.map(SqlValue::from)),
            (edits::SET_TORRENT_DOWN, change.down.map(SqlValue::from)),
            (edits::SET_TORRENT_STATUS, change.status.map(|status| i64::from(status).into())),
            (edits::SET_TORRENT_TYPE, change.type_name.as_deref().map(SqlValue::from)),
            (edits::SET_TORRENT_GROUP, change.group.map(SqlValue::from)),
        ] {
            let Some(value) = value else { continue };
            self.tables.run_statement(&sql.text(), &[value, hash.0[..].into()])?;
        }
        let torrent = self.find_torrent(hash)?;
        let word = match &torrent {
            None => "missing",
            same if *same == before => "unchanged",
            Some(_) => "changed",
        };
        let text =
            torrent.as_ref().map_or_else(|| format!("torrent {hash} is not registered"), describe_torrent);
        // Torrents of this type are not for the tracker.
        let put = |torrent: RegisteredTorrent| match &*torrent.group.type_name {
            "internal" => SiteChange::RemoveTorrent(*hash, None),
            _ => SiteChange::UpsertTorrent(torrent),
        };
        Ok((AdminOutcome { word, text, changes: torrent.into_iter().map(put).collect() }, hash.to_string()))
    }

    fn delete_torrent(&mut self, hash: &InfoHash, reason: &str) -> CommandResult {
        let key = || SqlValue::from(&hash.0[..]);
        let (gone, _) = self.tables.run_statement(&edits::DELETE_TORRENT.text(), &[key()])?;
        self.tables.run_statement("DELETE FROM hayate_deletions WHERE info_hash = ?", &[key()])?;
        if !reason.is_empty() {
            let sql = "INSERT INTO hayate_deletions (info_hash, reason, deleted_at) VALUES (?, ?, ?)";
            self.tables.run_statement(sql, &[key(), reason.into(), self.now.into()])?;
        }
        let word = if gone > 0 { "removed" } else { "missing" };
        let why = if reason.is_empty() { String::new() } else { format!(", reason: {reason}") };
        let text = format!("{word}: torrent {hash}{why}");
        let reason = (!reason.is_empty()).then(|| reason.into());
        Ok((
            AdminOutcome { word, text, changes: vec![SiteChange::RemoveTorrent(*hash, reason)] },
            hash.to_string(),
        ))
    }

    fn add_user(&mut self, id: Option<u32>, passkey: &str) -> CommandResult {
        let known = self.find_user(&id.map_or_else(|| UserRef::Passkey(passkey.to_owned()), UserRef::Id))?;
        let has_it = |known: &FoundUser| *known.user.passkey == *passkey.as_bytes();
        if !known.as_ref().is_some_and(|known| known.enabled && has_it(known)) {
            let id = known.as_ref().map(|known| known.user.id).or(id);
            if let Some(other) = self.other_user_with_passkey(passkey, id)? {
                return Ok(passkey_taken(other, id));
            }
        }
        let mut changes = Vec::new();
        let (word, id) = match known {
            Some(known) if known.enabled && has_it(&known) => ("unchanged", known.user.id),
            Some(known) => {
                self.tables
                    .run_statement(&edits::ENABLE_USER.text(), &[passkey.into(), known.user.id.into()])?;
                if !has_it(&known) {
                    changes.push(self.passkey_change(&known.user.passkey)?);
                }
                ("changed", known.user.id)
            }
            None => {
                let values = [id.map_or(SqlValue::Null, SqlValue::from), passkey.into()];
                let (_, made) = self.tables.run_statement(&edits::ADD_USER.text(), &values)?;
                ("added", id.unwrap_or(u32::try_from(made).unwrap_or(0)))
            }
        };
        let user = self.find_user(&UserRef::Id(id))?.filter(|user| user.enabled);
        changes.extend(user.map(|user| SiteChange::UpsertUser(user.user)));
        Ok((AdminOutcome { word, text: format!("{word}: user {id}"), changes }, format!("user {id}")))
    }

    fn remove_user(&mut self, who: &UserRef) -> CommandResult {
        let Some(FoundUser { user, enabled }) = self.find_user(who)? else { return Ok(missing_user(who)) };
        self.tables.run_statement(&edits::DISABLE_USER.text(), &[user.id.into()])?;
        let retired =
            self.tables.query_rows("SELECT passkey FROM hayate_passkeys WHERE uid = ?", &[user.id.into()])?;
        self.tables.run_statement("DELETE FROM hayate_passkeys WHERE uid = ?", &[user.id.into()])?;
        let word = if enabled { "removed" } else { "unchanged" };
        let mut changes = vec![self.passkey_change(&user.passkey)?];
        for row in &retired {
            if let [SqlValue::Octets(passkey)] = &**row {
                changes.push(self.passkey_change(passkey)?);
            }
        }
        let text = format!("{word}: user {} is disabled", user.id);
        Ok((AdminOutcome { word, text, changes }, format!("user {}", user.id)))
    }

    fn change_passkey(&mut self, old: &str, new: &str, grace: i64) -> CommandResult {
        let found = self.find_user(&UserRef::Passkey(old.to_owned()))?;
        let moved = found.is_some();
        let known = match found {
            Some(known) => Some(known),
            None => self.find_user(&UserRef::Passkey(new.to_owned()))?,
        };
        let Some(FoundUser { user, enabled }) = known else {
            return Ok(missing_user(&UserRef::Passkey(String::new())));
        };
        let id = user.id;
        let other = if moved { self.other_user_with_passkey(new, Some(id))? } else { None };
        if let Some(other) =
            other.map_or_else(|| self.former_owner_of_passkey(old, Some(id)), |id| Ok(Some(id)))?
        {
            return Ok(passkey_taken(other, Some(id)));
        }
        self.tables.run_statement(&edits::SET_PASSKEY.text(), &[new.into(), id.into()])?;
        let (until, begun) = self.retire_passkey(old, id, moved, grace)?;
        let mut changes = Vec::new();
        if enabled {
            let now_is = |passkey: &str| UserAccount { passkey: passkey.as_bytes().into(), ..user.clone() };
            changes.push(SiteChange::UpsertUser(now_is(new)));
            changes.push(match self.passkey_change(old.as_bytes())? {
                SiteChange::RemovePasskey(_) if until > self.now => SiteChange::UpsertUser(now_is(old)),
                change => change,
            });
        }
        let word = if moved || begun { "changed" } else { "unchanged" };
        let rest = (until - self.now).max(0);
        let text = format!("{word}: the passkey of user {id}; the old one works for {rest} s");
        Ok((AdminOutcome { word, text, changes }, format!("user {id}")))
    }

    /// Returns how long an old passkey still works, and whether that was decided just now. A back end that
    /// has changed the row itself names an old passkey that no user has any more, so the grace period begins
    /// when it is first mentioned; after that, only when the passkey is given up again.
    fn retire_passkey(
        &mut self,
        old: &str,
        id: u32,
        moved: bool,
        grace: i64,
    ) -> Result<(i64, bool), StoreError> {
        let sql = "SELECT good_until FROM hayate_passkeys WHERE passkey = ?";
        let known = self.tables.query_rows(sql, &[old.into()])?;
        if let (Some([SqlValue::Number(until)]), false) = (known.first().map(Vec::as_slice), moved) {
            return Ok((*until, false));
        }
        self.tables.run_statement("DELETE FROM hayate_passkeys WHERE passkey = ?", &[old.into()])?;
        if grace == 0 {
            return Ok((self.now, false));
        }
        let until = self.now.saturating_add(grace);
        let sql = "INSERT INTO hayate_passkeys (passkey, uid, good_until) VALUES (?, ?, ?)";
        self.tables.run_statement(sql, &[old.into(), id.into(), until.into()])?;
        Ok((until, true))
    }

    /// Another user who has this passkey, enabled or not, or for whom it still works.
    fn other_user_with_passkey(&mut self, passkey: &str, id: Option<u32>) -> Result<Option<u32>, StoreError> {
        let sql = edits::OTHER_USER_WITH_PASSKEY.text();
        let id_or_none = id.map_or(SqlValue::Number(-1), SqlValue::from);
        let rows = self.tables.query_rows(&sql, &[passkey.into(), passkey.into(), id_or_none])?;
        match rows.first().and_then(|row| row.first()?.id()) {
            Some(other) => Ok(Some(other)),
            None => self.former_owner_of_passkey(passkey, id),
        }
    }

    /// Another user who had this passkey, and for whom it still works.
    fn former_owner_of_passkey(&mut self, passkey: &str, id: Option<u32>) -> Result<Option<u32>, StoreError> {
        let sql = "SELECT uid FROM hayate_passkeys WHERE passkey = ? AND good_until > ? AND uid <> ?";
        let id = id.map_or(SqlValue::Number(-1), SqlValue::from);
        let rows = self.tables.query_rows(sql, &[passkey.into(), self.now.into(), id])?;
        Ok(rows.first().and_then(|row| row.first()?.id()))
    }

    /// The change for a passkey that a user has given up: it may belong to another user, too.
    fn passkey_change(&mut self, passkey: &[u8]) -> Result<SiteChange, StoreError> {
        let owner = self.find_user(&UserRef::Passkey(String::from_utf8_lossy(passkey).into_owned()))?;
        let owner = owner.filter(|owner| owner.enabled);
        Ok(owner.map_or_else(
            || SiteChange::RemovePasskey(passkey.into()),
            |owner| SiteChange::UpsertUser(owner.user),
        ))
    }

    fn update_user(
        &mut self,
        who: &UserRef,
        flags: [Option<bool>; 2],
        factors: [Option<f64>; 2],
    ) -> CommandResult {
        let Some(FoundUser { user, enabled }) = self.find_user(who)? else { return Ok(missing_user(who)) };
        let flags = [edits::SET_NO_DOWNLOAD, edits::SET_HIDDEN]
            .into_iter()
            .zip(flags.map(|flag| flag.map(SqlValue::from)));
        let factors = [edits::SET_USER_UP, edits::SET_USER_DOWN]
            .into_iter()
            .zip(factors.map(|factor| factor.map(SqlValue::from)));
        for (sql, value) in flags.chain(factors) {
            let Some(value) = value else { continue };
            self.tables.run_statement(&sql.text(), &[value, user.id.into()])?;
        }
        let after = self.find_user(&UserRef::Id(user.id))?.map(|known| known.user);
        let word = if after.as_ref() == Some(&user) { "unchanged" } else { "changed" };
        let changes = after.filter(|_| enabled).map(SiteChange::UpsertUser).into_iter().collect();
        let text = format!("{word}: user {}", user.id);
        Ok((AdminOutcome { word, text, changes }, format!("user {}", user.id)))
    }

    fn set_token(&mut self, uid: u32, hash: &InfoHash, wanted: bool) -> CommandResult {
        let target = format!("user {uid} torrent {hash}");
        let Some(torrent) = self.find_torrent(hash)? else { return Ok(missing_torrent(hash, target)) };
        let key = || [uid.into(), torrent.id.into()];
        let there = !self
            .tables
            .query_rows("SELECT uid FROM hayate_tokens WHERE uid = ? AND fid = ?", &key())?
            .is_empty();
        let word = match (there, wanted) {
            (false, true) => {
                self.tables.run_statement("INSERT INTO hayate_tokens (uid, fid) VALUES (?, ?)", &key())?;
                "added"
            }
            (true, false) => {
                self.tables.run_statement("DELETE FROM hayate_tokens WHERE uid = ? AND fid = ?", &key())?;
                "removed"
            }
            _ => "unchanged",
        };
        let change = if wanted {
            SiteChange::AddToken(uid, torrent.id)
        } else {
            SiteChange::RemoveToken(uid, torrent.id)
        };
        let text = format!("{word}: token of user {uid} for torrent {}", torrent.id);
        Ok((AdminOutcome { word, text, changes: vec![change] }, target))
    }

    fn set_client(&mut self, prefix: &str, wanted: bool) -> CommandResult {
        let sql = edits::FIND_CLIENTS.text();
        let known = self.tables.query_rows(&sql, &[prefix.into(), prefix.into()])?;
        let first = known.first().map(|row| (row.first().and_then(SqlValue::id), row.get(1).cloned()));
        let (word, id) = match (first, wanted) {
            (Some((Some(id), Some(SqlValue::Number(0)))), true) => ("unchanged", id),
            (Some((Some(id), _)), true) => {
                self.tables.run_statement(&edits::APPROVE_CLIENT.text(), &[id.into()])?;
                ("changed", id)
            }
            (_, true) => {
                let (_, id) = self.tables.run_statement(&edits::ADD_CLIENT.text(), &[prefix.into()])?;
                ("added", u32::try_from(id).unwrap_or(0))
            }
            (Some((Some(id), archived)), false) => {
                let sql = edits::ARCHIVE_CLIENT.text();
                self.tables.run_statement(&sql, &[prefix.into(), prefix.into()])?;
                (if archived == Some(SqlValue::Number(0)) { "removed" } else { "unchanged" }, id)
            }
            (_, false) => {
                let text = format!("missing: no client {prefix:?}");
                return Ok((AdminOutcome { word: "missing", text, changes: Vec::new() }, prefix.to_owned()));
            }
        };
        let changes = match (wanted, word) {
            (_, "unchanged") => Vec::new(),
            (true, _) => vec![SiteChange::UpsertClient(id, prefix.as_bytes().into())],
            (false, _) => known
                .iter()
                .filter_map(|row| row.first().and_then(SqlValue::id))
                .map(SiteChange::RemoveClient)
                .collect(),
        };
        Ok((AdminOutcome { word, text: format!("{word}: client {prefix:?}"), changes }, prefix.to_owned()))
    }

    pub(super) fn find_torrent(
        &mut self,
        info_hash: &InfoHash,
    ) -> Result<Option<RegisteredTorrent>, StoreError> {
        let rows = self.tables.query_rows(&edits::FIND_TORRENT.text(), &[info_hash.0[..].into()])?;
        let read = |row: &[SqlValue]| match row {
            [id, group, SqlValue::Octets(type_name), snatched, SqlValue::Number(status), up, down] => {
                Some(RegisteredTorrent {
                    info_hash: *info_hash,
                    id: id.id()?,
                    group: Group { type_name: String::from_utf8_lossy(type_name).into(), id: group.id()? },
                    snatched: snatched.id()?,
                    status: i32::try_from(*status).ok()?,
                    multipliers: Multipliers { up: multiplier_value(up)?, down: multiplier_value(down)? },
                })
            }
            _ => None,
        };
        Ok(rows.first().and_then(|row| read(row)))
    }

    fn find_user(&mut self, who: &UserRef) -> Result<Option<FoundUser>, StoreError> {
        let (sql, values) = match who {
            UserRef::Id(id) => (edits::FIND_USER_BY_ID, vec![SqlValue::from(*id)]),
            UserRef::Passkey(passkey) => (edits::FIND_USER_BY_PASSKEY, vec![(&**passkey).into(); 2]),
        };
        let rows = self.tables.query_rows(&sql.text(), &values)?;
        let read = |row: &[SqlValue]| match row {
            [id, SqlValue::Octets(passkey), SqlValue::Octets(enabled), disabled, hidden, up, down] => {
                Some(FoundUser {
                    user: UserAccount {
                        passkey: passkey.as_slice().into(),
                        id: id.id()?,
                        disable_download: *disabled != SqlValue::Number(0),
                        tracker_hide: *hidden != SqlValue::Number(0),
                        multipliers: Multipliers { up: multiplier_value(up)?, down: multiplier_value(down)? },
                    },
                    enabled: enabled == b"1",
                })
            }
            _ => None,
        };
        Ok(rows.first().and_then(|row| read(row)))
    }
}

/// A user, and whether they are enabled.
struct FoundUser {
    user: UserAccount,
    enabled: bool,
}

/// The outcome when the requested passkey belongs to another user.
fn passkey_taken(other: u32, id: Option<u32>) -> (AdminOutcome, String) {
    let text = format!("refused: user {other} has this passkey");
    let target = id.map_or_else(|| "a new user".to_owned(), |id| format!("user {id}"));
    (
        AdminOutcome { word: "refused", text, changes: Vec::new() },
        format!("{target}, passkey of user {other}"),
    )
}

pub(super) fn missing_torrent(hash: &InfoHash, target: String) -> (AdminOutcome, String) {
    let text = format!("missing: torrent {hash} is not registered");
    (AdminOutcome { word: "missing", text, changes: Vec::new() }, target)
}

pub(super) fn multiplier_value(value: &SqlValue) -> Option<f64> {
    match value {
        SqlValue::Real(factor) => Some(factor.abs()),
        _ => None,
    }
}

fn missing_user(who: &UserRef) -> (AdminOutcome, String) {
    let who = match who {
        UserRef::Id(id) => format!("user {id}"),
        UserRef::Passkey(_) => "a user with this passkey".to_owned(),
    };
    let outcome = AdminOutcome { word: "missing", text: format!("missing: {who}"), changes: Vec::new() };
    (outcome, who)
}

fn describe_torrent(torrent: &RegisteredTorrent) -> String {
    struct TorrentLine<'t>(&'t RegisteredTorrent);
    impl fmt::Display for TorrentLine<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let RegisteredTorrent { info_hash, id, group, snatched, status, multipliers } = self.0;
            let (type_name, group) = (&group.type_name, group.id);
            let Multipliers { up, down } = multipliers;
            write!(
                f,
                "torrent {id} {info_hash}, type {type_name}, group {group}, snatched {snatched}, status \
                 {status}, multipliers up {up} down {down}"
            )
        }
    }
    TorrentLine(torrent).to_string()
}
