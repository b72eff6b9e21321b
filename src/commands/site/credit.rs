//! Exceptions from crediting: freeleech tokens, and freeleech of a site or of groups.

use anyhow::bail;
use clap::{Subcommand, ValueEnum};
use hayate_state::InfoHash;
use hayate_state::private::admin::{self, AdminCommand};
use hayate_state::snapshot::site::Group;
use hayate_state::store::Store;
use hayate_state::store::site_sql::sets::Listing;

use super::{Factors, list_rows, open_store, run_admin_command};
use crate::admin::TorrentName;
use crate::config::Settings;

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

impl Switch {
    pub(crate) fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Tokens of a site.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Give a user a token for a torrent.
    Add {
        /// The user's id.
        user: u32,
        /// The torrent: its info_hash or its id.
        torrent: TorrentName,
    },
    /// List tokens.
    List,
    /// Remove a token.
    Remove {
        /// The user's id.
        user: u32,
        /// The torrent: its info_hash or its id.
        torrent: TorrentName,
    },
}

/// Freeleech of a site.
#[derive(Debug, Subcommand)]
pub(crate) enum FreeleechCommand {
    /// Set or clear freeleech of the whole site.
    Global {
        /// on: no download is credited.
        state: Switch,
    },
    /// Give a group of torrents multipliers; without any, downloads are free and uploads count once.
    Set {
        /// The type of the group.
        type_name: String,
        /// The id of the group.
        group: u32,
        #[command(flatten)]
        factors: Factors,
    },
    /// List groups with multipliers.
    List,
    /// Remove the multipliers of a group.
    Remove {
        /// The type of the group.
        type_name: String,
        /// The id of the group.
        group: u32,
    },
}

/// Runs `hayate token ..` and returns the text to print.
///
/// # Errors
/// Fails when the database cannot be reached or refuses, or has no such torrent.
pub(crate) fn run_token(command: &TokenCommand, settings: &Settings, json: bool) -> anyhow::Result<String> {
    let mut store = open_store(settings)?;
    let admin_command = match command {
        TokenCommand::List => {
            return list_rows(&mut *store, Listing::Tokens, json);
        }
        TokenCommand::Add { user, torrent } => {
            AdminCommand::AddToken(*user, find_info_hash(&mut *store, *torrent)?)
        }
        TokenCommand::Remove { user, torrent } => {
            AdminCommand::RemoveToken(*user, find_info_hash(&mut *store, *torrent)?)
        }
    };
    run_admin_command(&mut *store, &admin_command)
}

/// Runs `hayate freeleech ..` and returns the text to print.
///
/// # Errors
/// Fails when the database cannot be reached or refuses.
pub(crate) fn run_freeleech(
    command: &FreeleechCommand,
    settings: &Settings,
    json: bool,
) -> anyhow::Result<String> {
    let mut store = open_store(settings)?;
    let group = |type_name: &str, id| Group { type_name: type_name.into(), id };
    let admin_command = match command {
        FreeleechCommand::List => {
            return list_rows(&mut *store, Listing::Groups, json);
        }
        FreeleechCommand::Global { state } => AdminCommand::GlobalFreeleech(state.is_on()),
        FreeleechCommand::Set { type_name, group: id, factors } => {
            let free = Factors { up: factors.up, down: factors.down.or(Some(0.0)) };
            AdminCommand::GroupFreeleech(group(type_name, *id), Some(free.or_plain()))
        }
        FreeleechCommand::Remove { type_name, group: id } => {
            AdminCommand::GroupFreeleech(group(type_name, *id), None)
        }
    };
    run_admin_command(&mut *store, &admin_command)
}

/// Returns the info_hash of a torrent, looked up in the database if the torrent is named by its id.
///
/// # Errors
/// Fails when the database cannot be reached, or has no torrent with this id.
pub(super) fn find_info_hash(store: &mut dyn Store, torrent: TorrentName) -> anyhow::Result<InfoHash> {
    let id = match torrent {
        TorrentName::Hash(info_hash) => return Ok(info_hash),
        TorrentName::Id(id) => id,
    };
    let Some(info_hash) = admin::find_info_hash(store, id)? else {
        bail!("missing: torrent {id} is not registered")
    };
    Ok(info_hash)
}
