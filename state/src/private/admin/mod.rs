//! Changes of a site that people and back ends ask for: written once over both stores, each in one
//! transaction together with a row of the audit. All are idempotent: asked for twice, the second time says
//! that it is so already.

mod freeleech;
pub(super) mod records;
mod sql;

use std::sync::Arc;

use crate::ids::InfoHash;
use crate::snapshot::site::{Group, Multipliers, UserAccount};
use crate::store::{RegisteredTorrent, Store, StoreError};
use sql::AdminTransaction;

/// Octets of the longest reason.
pub const REASON_MAX: usize = 64;
/// Octets of the longest passkey: that of its column.
pub const PASSKEY_MAX: usize = 32;
/// Characters of `approved_clients.peer_id`: rows of a site may be longer than what is approved here.
const PREFIX_COLUMN: usize = 42;

/// Who is meant.
#[derive(Clone, Debug, PartialEq)]
pub enum UserRef {
    /// By id.
    Id(u32),
    /// By passkey.
    Passkey(String),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum AdminCommand {
    /// Registers a torrent, or takes up a row that the back end has made.
    AddTorrent {
        /// Its id; `None` = the next one.
        id: Option<u32>,
        /// The torrent.
        info_hash: InfoHash,
        /// Its group.
        group: Group,
        /// Its multipliers.
        multipliers: Multipliers,
    },
    /// Changes a torrent.
    UpdateTorrent(InfoHash, TorrentChange),
    /// Takes a torrent out; whoever announces it is told why.
    DeleteTorrent {
        /// The torrent.
        info_hash: InfoHash,
        /// Printable ASCII of at most [`REASON_MAX`] octets; empty = none.
        reason: String,
    },
    /// Enrolls a user, or enables one.
    AddUser {
        /// His id; `None` = the next one.
        id: Option<u32>,
        /// His passkey.
        passkey: String,
    },
    /// Disables a user; what he has transferred stays.
    RemoveUser(UserRef),
    /// Gives a user another passkey.
    ChangePasskey {
        /// The one he has.
        old: String,
        /// The one he gets.
        new: String,
        /// Seconds for which the old one works as well.
        grace_seconds: u32,
    },
    /// Changes what a user may do and how he is credited.
    UpdateUser {
        /// Who.
        who: UserRef,
        /// May he download?
        can_leech: Option<bool>,
        /// Are his addresses recorded?
        visible: Option<bool>,
        /// Of uploaded octets.
        up: Option<f64>,
        /// Of downloaded octets.
        down: Option<f64>,
    },
    /// What this user downloads of this torrent is not credited.
    AddToken(u32, InfoHash),
    /// It is again.
    RemoveToken(u32, InfoHash),
    /// Approves clients whose `peer_id` begins so.
    AddClient(String),
    /// Approves them no more.
    RemoveClient(String),
    /// Approves others instead: first the old ones, then the new.
    EditClient(String, String),
    /// Tells about a torrent.
    InfoTorrent(InfoHash),
    /// Nothing that is downloaded is credited, or what is as usual.
    GlobalFreeleech(bool),
    /// Multipliers of a torrent group; `None` = it has none any more.
    GroupFreeleech(Group, Option<Multipliers>),
    /// This user has a hit-and-run on this torrent, or has not.
    HitAndRun(u32, InfoHash, bool),
    /// Clients come back after so many seconds. The store does not know of it: it is written down alone.
    AnnounceInterval(u32),
    /// All of these, or none.
    AllOf(Vec<AdminCommand>),
}

/// What of a torrent changes; `None` = it stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TorrentChange {
    /// Multiplier of uploaded octets.
    pub up: Option<f64>,
    /// Multiplier of downloaded octets.
    pub down: Option<f64>,
    /// 0 live, 1 pruned, anything else unavailable.
    pub status: Option<i32>,
    /// Its type.
    pub type_name: Option<String>,
    /// The id of its group.
    pub group: Option<u32>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdminOutcome {
    /// `added`, `changed`, `removed`, `unchanged`, `missing`, `refused` or `info`.
    pub word: &'static str,
    /// One line for people.
    pub text: String,
    /// What a running tracker changes in its memory.
    pub changes: Vec<SiteChange>,
}

/// A change of what the store says.
#[derive(Clone, Debug, PartialEq)]
pub enum SiteChange {
    /// There is such a user.
    PutUser(UserAccount),
    /// Nobody has this passkey.
    DropPasskey(Box<[u8]>),
    /// There is such a torrent.
    PutTorrent(RegisteredTorrent),
    /// There is none, perhaps for a reason.
    DropTorrent(InfoHash, Option<Arc<str>>),
    /// There is such a client.
    PutClient(u32, Box<[u8]>),
    /// There is none.
    DropClient(u32),
    /// User and torrent have a token.
    PutToken(u32, u32),
    /// They have none.
    DropToken(u32, u32),
    /// User and torrent have a hit-and-run.
    PutHitAndRun(u32, u32),
    /// They have none.
    DropHitAndRun(u32, u32),
    /// A group of torrents has multipliers, or none.
    GroupFreeleech(Group, Option<Multipliers>),
    /// Is nothing that is downloaded credited?
    GlobalFreeleech(bool),
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Bad(String),
    /// There is too much to do. What waited too long may happen nevertheless.
    #[error("too much is asked for at once; ask again later")]
    Busy,
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AdminCommand {
    /// The word for it, in the audit.
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
            Self::AllOf(commands) if commands.is_empty() => bad("nothing is asked for".to_owned()),
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

/// Does what is asked for; `source` says who asks, for the audit.
///
/// # Errors
/// When it makes no sense, or the store refuses; then nothing was done.
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
            // Two users who ask for one passkey at the same time do not both get it.
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
        // Its type is none that the site has, its id is another's: to ask again does not help.
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
    /// What became of several.
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
        let told =
            words.iter().filter(|(_, count)| *count > 0).map(|(word, count)| format!("{count} {word}"));
        let text = told.collect::<Vec<_>>().join(", ");
        Self { word, text, changes: outcomes.into_iter().flat_map(|outcome| outcome.changes).collect() }
    }
}
