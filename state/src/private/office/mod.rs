//! Changes of a site that people and back ends ask for: written once over both stores, each in one
//! transaction together with a row of the audit. All are idempotent: asked for twice, the second time says
//! that it is so already.

mod work;

use std::sync::Arc;

use crate::ids::InfoHash;
use crate::snapshot::site::{Group, Multipliers, User};
use crate::store::{Registered, Store, StoreError};
use work::Work;

/// Octets of the longest reason.
pub const REASON_MAX: usize = 64;
/// Octets of the longest passkey: that of its column.
pub const PASSKEY_MAX: usize = 32;
/// Characters of `approved_clients.peer_id`: rows of a site may be longer than what is approved here.
const PREFIX_COLUMN: usize = 42;

/// Who is meant.
#[derive(Clone, Debug, PartialEq)]
pub enum Who {
    /// By id.
    Id(u32),
    /// By passkey.
    Passkey(String),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
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
    /// Changes multipliers of a torrent.
    UpdateTorrent {
        /// The torrent.
        info_hash: InfoHash,
        /// Of uploaded octets; `None` = as it is.
        up: Option<f64>,
        /// Of downloaded octets; `None` = as it is.
        down: Option<f64>,
    },
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
    RemoveUser(Who),
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
        who: Who,
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
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// `added`, `changed`, `removed`, `unchanged`, `missing` or `info`.
    pub word: &'static str,
    /// One line for people.
    pub text: String,
    /// What a running tracker changes in its memory.
    pub changes: Vec<Change>,
}

/// A change of what the store says.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// There is such a user.
    PutUser(User),
    /// Nobody has this passkey.
    DropPasskey(Box<[u8]>),
    /// There is such a torrent.
    PutTorrent(Registered),
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
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum OfficeError {
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

impl Verb {
    /// The word for it, in the audit.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::AddTorrent { .. } => "add_torrent",
            Self::UpdateTorrent { .. } => "update_torrent",
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
        }
    }

    fn check(&self) -> Result<(), OfficeError> {
        let bad = |text: String| Err(OfficeError::Bad(text));
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
            Self::UpdateUser { up, down, .. } | Self::UpdateTorrent { up, down, .. }
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
pub fn carry_out(
    store: &mut dyn Store,
    verb: &Verb,
    now_unix: u64,
    source: &str,
) -> Result<Outcome, OfficeError> {
    verb.check()?;
    let now = i64::try_from(now_unix).unwrap_or(i64::MAX);
    let mut outcome = Outcome::default();
    let kept = store.edit(&mut |tables| {
        let (done, target) = Work { tables, now }.carry_out(verb)?;
        outcome = done;
        if !matches!(verb, Verb::InfoTorrent(_)) {
            tables.change(
                "INSERT INTO hayate_audit (at, verb, target, outcome, source) VALUES (?, ?, ?, ?, ?)",
                &[now.into(), verb.name().into(), (&*target).into(), outcome.word.into(), source.into()],
            )?;
        }
        Ok(())
    });
    kept.map_err(|error| match error {
        // Its type is none that the site has, its id is another's: to ask again does not help.
        StoreError::BadRow { text, .. } => OfficeError::Bad(format!("the database refuses a value: {text}")),
        error => error.into(),
    })?;
    log::info!("{} by {source}: {}", verb.name(), outcome.text);
    Ok(outcome)
}
