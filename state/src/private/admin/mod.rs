//! Changes of a site that people and back ends request: written once for both stores, each in one transaction
//! together with a row of the audit. All are idempotent: a repeated command reports that nothing changed.
//!
//! | module | what is in it |
//! |---|---|
//! | `sql` | what each command does to the tables |
//! | `freeleech` | the same for freeleech and hit-and-runs |
//! | `records` | rows of the audit and of claims, and how long they are kept |

mod freeleech;
pub(super) mod records;
mod sql;

use std::sync::Arc;

use crate::ids::InfoHash;
use crate::snapshot::site::{Group, Multipliers, UserAccount};
use crate::store::site_sql::edits;
use crate::store::{RegisteredTorrent, SqlValue, Store, StoreError};
use sql::AdminTransaction;

/// Octets of the longest reason.
pub const REASON_MAX: usize = 64;
/// Octets of the longest passkey: that of its column.
pub const PASSKEY_MAX: usize = 32;
/// Characters of `approved_clients.peer_id`; the rows of a site may be longer than what is approved here.
const PREFIX_COLUMN: usize = 42;

/// A reference to a user.
#[derive(Clone, Debug, PartialEq)]
pub enum UserRef {
    /// By id.
    Id(u32),
    /// By passkey.
    Passkey(String),
}

/// A change of a site, or a question about it.
#[derive(Clone, Debug, PartialEq)]
pub enum AdminCommand {
    /// Registers a torrent, or takes over a row that the back end has inserted.
    AddTorrent {
        /// Its id; `None` = the next one.
        id: Option<u32>,
        /// Its info_hash.
        info_hash: InfoHash,
        /// Its group.
        group: Group,
        /// Its multipliers.
        multipliers: Multipliers,
    },
    /// Changes a torrent.
    UpdateTorrent(InfoHash, TorrentChange),
    /// Removes a torrent. Clients that still announce it get the reason.
    DeleteTorrent {
        /// Its info_hash.
        info_hash: InfoHash,
        /// Printable ASCII of at most [`REASON_MAX`] octets; empty = none.
        reason: String,
    },
    /// Adds a user, or enables one.
    AddUser {
        /// Their id; `None` = the next one.
        id: Option<u32>,
        /// Their passkey.
        passkey: String,
    },
    /// Disables a user; their totals stay.
    RemoveUser(UserRef),
    /// Gives a user another passkey.
    ChangePasskey {
        /// The current passkey.
        old: String,
        /// The new passkey.
        new: String,
        /// Seconds for which the old passkey continues to work.
        grace_seconds: u32,
    },
    /// Changes what a user may do and how they are credited.
    UpdateUser {
        /// The user.
        who: UserRef,
        /// Whether the user may download.
        can_leech: Option<bool>,
        /// Whether the user's addresses are recorded.
        visible: Option<bool>,
        /// Multiplier of uploaded octets.
        up: Option<f64>,
        /// Multiplier of downloaded octets.
        down: Option<f64>,
    },
    /// Adds a freeleech token: what this user downloads of this torrent is not credited.
    AddToken(u32, InfoHash),
    /// Removes the freeleech token: downloads are credited again.
    RemoveToken(u32, InfoHash),
    /// Approves clients whose `peer_id` begins with this prefix.
    AddClient(String),
    /// Withdraws the approval of a prefix.
    RemoveClient(String),
    /// Replaces an approved prefix: first the old one, then the new one.
    EditClient(String, String),
    /// Describes a torrent.
    InfoTorrent(InfoHash),
    /// Switches global freeleech, during which no download is credited, on or off.
    GlobalFreeleech(bool),
    /// Sets the multipliers of a torrent group; `None` removes them.
    GroupFreeleech(Group, Option<Multipliers>),
    /// Sets or clears a user's hit-and-run on a torrent.
    HitAndRun(u32, InfoHash, bool),
    /// Sets the announce interval, in seconds. The store does not hold it: only the audit notes it.
    AnnounceInterval(u32),
    /// Runs all of these commands, or none.
    AllOf(Vec<AdminCommand>),
}

/// A change of a torrent; `None` = unchanged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TorrentChange {
    /// Multiplier of uploaded octets.
    pub up: Option<f64>,
    /// Multiplier of downloaded octets.
    pub down: Option<f64>,
    /// 0 live, 1 pruned, anything else unavailable.
    pub status: Option<i32>,
    /// Torrent type.
    pub type_name: Option<String>,
    /// Id of the group.
    pub group: Option<u32>,
}

/// The outcome of a command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdminOutcome {
    /// `added`, `changed`, `removed`, `unchanged`, `missing`, `refused` or `info`.
    pub word: &'static str,
    /// One line for people.
    pub text: String,
    /// The changes that a running tracker applies to its memory.
    pub changes: Vec<SiteChange>,
}

/// A change of the site data, for the memory of a tracker.
#[derive(Clone, Debug, PartialEq)]
pub enum SiteChange {
    /// Adds or replaces a user.
    UpsertUser(UserAccount),
    /// Removes a passkey.
    RemovePasskey(Box<[u8]>),
    /// Adds or replaces a torrent.
    UpsertTorrent(RegisteredTorrent),
    /// Removes a torrent, with the reason if there is one.
    RemoveTorrent(InfoHash, Option<Arc<str>>),
    /// Adds or replaces an approved client.
    UpsertClient(u32, Box<[u8]>),
    /// Removes an approved client.
    RemoveClient(u32),
    /// Adds a token of a user for a torrent.
    AddToken(u32, u32),
    /// Removes a token.
    RemoveToken(u32, u32),
    /// Adds a hit-and-run of a user on a torrent.
    AddHitAndRun(u32, u32),
    /// Removes a hit-and-run.
    RemoveHitAndRun(u32, u32),
    /// Sets the multipliers of a torrent group, or removes them.
    GroupMultipliers(Group, Option<Multipliers>),
    /// Switches global freeleech on or off.
    GlobalFreeleech(bool),
}

/// Why a command had no effect.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The command makes no sense.
    #[error("{0}")]
    Bad(String),
    /// Too many commands wait. One that waited too long may still be carried out.
    #[error("too many commands wait; try again later")]
    Busy,
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AdminCommand {
    /// The name of the command in the audit.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::AddTorrent { .. } => "add_torrent",
            Self::UpdateTorrent(..) => "update_torrent",
            Self::DeleteTorrent { .. } => "delete_torrent",
            Self::AddUser { .. } => "add_user",
            Self::RemoveUser(_) => "remove_user",
            Self::ChangePasskey { .. } => "change_passkey",
            Self::UpdateUser { .. } => "update_user",
            Self::AddToken(..) => "add_token",
            Self::RemoveToken(..) => "remove_token",
            Self::AddClient(_) => "add_whitelist",
            Self::RemoveClient(_) => "remove_whitelist",
            Self::EditClient(..) => "edit_whitelist",
            Self::InfoTorrent(_) => "info_torrent",
            Self::GlobalFreeleech(_) => "global_freeleech",
            Self::GroupFreeleech(..) => "group_freeleech",
            Self::HitAndRun(..) => "hit_and_run",
            Self::AnnounceInterval(_) => "update_announce_interval",
            Self::AllOf(commands) => commands.first().map_or("nothing", Self::name),
        }
    }

    fn check_values(&self) -> Result<(), AdminError> {
        let bad = |text: String| Err(AdminError::Bad(text));
        match self {
            Self::AddUser { passkey, .. } | Self::ChangePasskey { new: passkey, .. }
                if passkey.is_empty()
                    || passkey.len() > PASSKEY_MAX
                    || !passkey.bytes().all(|octet| octet.is_ascii_alphanumeric()) =>
            {
                bad(format!("a passkey is 1 to {PASSKEY_MAX} letters and digits"))
            }
            Self::ChangePasskey { old, new, .. } if old == new => {
                bad("the old passkey and the new one are the same".to_owned())
            }
            Self::DeleteTorrent { reason, .. }
                if reason.len() > REASON_MAX || !reason.bytes().all(|octet| (32..127).contains(&octet)) =>
            {
                bad(format!("a reason is at most {REASON_MAX} characters of printable ASCII"))
            }
            Self::AddClient(prefix) | Self::EditClient(_, prefix)
                if prefix.is_empty() || prefix.len() > crate::ids::ID_LEN =>
            {
                bad("a peer_id prefix is 1 to 20 characters".to_owned())
            }
            Self::RemoveClient(prefix) | Self::EditClient(prefix, _)
                if prefix.chars().count() > PREFIX_COLUMN =>
            {
                bad(format!("a peer_id prefix that is approved has at most {PREFIX_COLUMN} characters"))
            }
            Self::AddTorrent { multipliers: Multipliers { up, down }, .. }
                if !up.is_finite() || !down.is_finite() || *up < 0.0 || *down < 0.0 =>
            {
                bad(format!("a multiplier is a number of at least 0, not {up} or {down}"))
            }
            Self::GroupFreeleech(_, Some(Multipliers { up, down }))
                if !up.is_finite() || !down.is_finite() || *up < 0.0 || *down < 0.0 =>
            {
                bad(format!("a multiplier is a number of at least 0, not {up} or {down}"))
            }
            Self::AllOf(commands) if commands.is_empty() => bad("no command is given".to_owned()),
            Self::AllOf(commands) => commands.iter().try_for_each(Self::check_values),
            Self::UpdateUser { up, down, .. } | Self::UpdateTorrent(_, TorrentChange { up, down, .. })
                if up.iter().chain(down).any(|factor| !factor.is_finite() || *factor < 0.0) =>
            {
                bad("a multiplier is a number of at least 0".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Returns the info_hash of a torrent that the store knows by this id.
///
/// # Errors
/// Fails when the store does.
pub fn find_info_hash(store: &mut dyn Store, id: u32) -> Result<Option<InfoHash>, StoreError> {
    let mut found = None;
    store.edit(&mut |tables| {
        let rows = tables.query_rows(&edits::FIND_INFO_HASH.text(), &[id.into()])?;
        found = rows.into_iter().flatten().find_map(|cell| match cell {
            SqlValue::Octets(octets) => octets.try_into().ok().map(InfoHash),
            _ => None,
        });
        Ok(())
    })?;
    Ok(found)
}

/// Runs a command; `source` says who requests it, for the audit.
///
/// # Errors
/// Fails when the command makes no sense, or the store refuses; then nothing was done.
pub fn run_command(
    store: &mut dyn Store,
    command: &AdminCommand,
    now_unix: u64,
    source: &str,
) -> Result<AdminOutcome, AdminError> {
    command.check_values()?;
    let now = i64::try_from(now_unix).unwrap_or(i64::MAX);
    let mut outcome = AdminOutcome::default();
    let commands = match command {
        AdminCommand::AllOf(commands) => commands.as_slice(),
        one => std::slice::from_ref(one),
    };
    let changes = commands.iter().any(|command| !matches!(command, AdminCommand::InfoTorrent(_)));
    let kept = store.edit(&mut |tables| {
        if changes {
            // So that two users who request the same passkey at the same time do not both get it.
            tables.lock_edits()?;
        }
        let mut outcomes = Vec::new();
        for command in commands {
            let (done, target) = AdminTransaction { tables: &mut *tables, now }.run_command(command)?;
            if !matches!(command, AdminCommand::InfoTorrent(_)) {
                records::write_audit(tables, now, command.name(), &target, done.word, source)?;
            }
            outcomes.push(done);
        }
        outcome = AdminOutcome::from_all(std::mem::take(&mut outcomes));
        Ok(())
    });
    kept.map_err(|error| match error {
        // For example a type that the site does not have, or an id that is taken: trying again does not help.
        StoreError::BadRow { text, .. } => AdminError::Bad(format!("the database refuses a value: {text}")),
        error => error.into(),
    })?;
    log::info!("{} by {source}: {}", command.name(), outcome.text);
    if outcome.word == "refused" {
        return Err(AdminError::Bad(outcome.text));
    }
    Ok(outcome)
}

impl AdminOutcome {
    /// The combined outcome of several commands.
    fn from_all(mut outcomes: Vec<Self>) -> Self {
        if outcomes.len() == 1 {
            return outcomes.remove(0);
        }
        let mut word = "unchanged";
        if let Some(done) = outcomes.iter().find(|outcome| !["unchanged", "missing"].contains(&outcome.word))
        {
            word = done.word;
        } else if outcomes.iter().all(|outcome| outcome.word == "missing") {
            word = "missing";
        }
        let count = |word: &str| outcomes.iter().filter(|outcome| outcome.word == word).count();
        let words = ["added", "changed", "removed", "unchanged", "missing"].map(|word| (word, count(word)));
        let counts =
            words.iter().filter(|(_, count)| *count > 0).map(|(word, count)| format!("{count} {word}"));
        let text = counts.collect::<Vec<_>>().join(", ");
        Self { word, text, changes: outcomes.into_iter().flat_map(|outcome| outcome.changes).collect() }
    }
}
