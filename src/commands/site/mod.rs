//! A site's users, torrents and clients, for sites that have no back end of their own: `hayate user`,
//! `torrent` and `client`; [`credit`] has `token` and `freeleech`. These commands work on the database,
//! whether a tracker runs or not.

pub(crate) mod credit;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use hayate_state::private::admin::{self, AdminCommand, TorrentChange, UserRef};
use hayate_state::snapshot::site::{Group, Multipliers};
use hayate_state::store::site_sql::sets::Listing;
use hayate_state::store::{Backend, RequiredTables, SqlValue, Store};
use hayate_state::{Clock, InfoHash};
use ring::rand::{SecureRandom, SystemRandom};

use self::credit::{Switch, find_info_hash};
use crate::admin::TorrentName;
use crate::config::Settings;

/// Rows of a table that are read in one query.
const ROWS_PER_SLICE: usize = 2000;
/// Characters of a generated passkey.
const PASSKEY_LEN: usize = 32;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Users of a site.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user, or enable one again, and print id and passkey.
    Add {
        /// The id [default: the next one].
        #[arg(long)]
        id: Option<u32>,
        /// The passkey, up to 32 letters and digits [default: 32 random ones].
        #[arg(long)]
        passkey: Option<String>,
    },
    /// List users.
    List,
    /// Change a user; only the options given are changed.
    Set {
        /// The id.
        id: u32,
        /// Whether the user may download.
        #[arg(long, value_name = "BOOL")]
        download: Option<bool>,
        /// Whether the user's addresses are kept out of the records.
        #[arg(long, value_name = "BOOL")]
        hidden: Option<bool>,
        #[command(flatten)]
        factors: Factors,
    },
    /// Disable a user; the totals of their transfers stay.
    Remove {
        /// The id.
        id: u32,
    },
    /// Set or clear a user's hit-and-run on a torrent.
    HitAndRun {
        /// The user's id.
        id: u32,
        /// The torrent: its info_hash or its id.
        torrent: TorrentName,
        /// on: the user has a hit-and-run on it.
        state: Switch,
    },
}

/// Registered torrents of a site.
#[derive(Debug, Subcommand)]
pub(crate) enum TorrentCommand {
    /// Register a torrent.
    Add {
        /// The info_hash, 40 hexadecimal digits.
        info_hash: InfoHash,
        /// The id [default: the next one].
        #[arg(long)]
        id: Option<u32>,
        /// Its type, one of those of the table in MariaDB.
        #[arg(long = "type", default_value = "music")]
        type_name: String,
        /// Its group.
        #[arg(long, default_value_t = 0)]
        group: u32,
        #[command(flatten)]
        factors: Factors,
    },
    /// List torrents.
    List,
    /// Change a torrent; only the options given are changed.
    Set {
        /// The info_hash.
        info_hash: InfoHash,
        /// 0 = live, 1 = pruned until it is seeded again, anything else = unavailable.
        #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
        status: Option<i32>,
        /// Its type.
        #[arg(long = "type", value_name = "TYPE")]
        type_name: Option<String>,
        /// Its group.
        #[arg(long, value_name = "ID")]
        group: Option<u32>,
        #[command(flatten)]
        factors: Factors,
    },
    /// Remove a torrent.
    Remove {
        /// The info_hash.
        info_hash: InfoHash,
        /// The reason, which clients that announce the torrent get.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// Approved clients of a site.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Approve clients whose peer_id begins with this prefix.
    Add {
        /// Up to 20 characters, such as -TR40.
        #[arg(allow_hyphen_values = true)]
        prefix: String,
    },
    /// List clients.
    List,
    /// Replace an approved prefix by another.
    Set {
        /// The prefix that is approved now.
        #[arg(allow_hyphen_values = true)]
        old: String,
        /// The prefix to approve instead.
        #[arg(allow_hyphen_values = true)]
        new: String,
    },
    /// Stop approving clients with this prefix.
    Remove {
        /// The prefix.
        #[arg(allow_hyphen_values = true)]
        prefix: String,
    },
}

/// How octets are credited.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Factors {
    /// Multiplier of uploaded octets.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    up: Option<f64>,
    /// Multiplier of downloaded octets.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    down: Option<f64>,
}

impl Factors {
    fn or_plain(self) -> Multipliers {
        Multipliers { up: self.up.unwrap_or(1.0), down: self.down.unwrap_or(1.0) }
    }
}

/// Runs `hayate user ..` and returns the text to print.
///
/// # Errors
/// Fails when the database cannot be reached or refuses, or has no such user.
pub(crate) fn run_user(command: &UserCommand, settings: &Settings, json: bool) -> anyhow::Result<String> {
    let mut store = open_store(settings)?;
    let admin_command = match command {
        UserCommand::List => return list_rows(&mut *store, Listing::Users, json),
        UserCommand::Add { id, passkey } => {
            let passkey = passkey.clone().map_or_else(new_passkey, Ok)?;
            let outcome =
                run_admin_command(&mut *store, &AdminCommand::AddUser { id: *id, passkey: passkey.clone() })?;
            return Ok(format!("{outcome}passkey {passkey}\n"));
        }
        UserCommand::Set { id, download, hidden, factors } => AdminCommand::UpdateUser {
            who: UserRef::Id(*id),
            can_leech: *download,
            visible: hidden.map(|hidden| !hidden),
            up: factors.up,
            down: factors.down,
        },
        UserCommand::Remove { id } => AdminCommand::RemoveUser(UserRef::Id(*id)),
        UserCommand::HitAndRun { id, torrent, state } => {
            AdminCommand::HitAndRun(*id, find_info_hash(&mut *store, *torrent)?, state.is_on())
        }
    };
    run_admin_command(&mut *store, &admin_command)
}

/// Runs `hayate torrent ..` and returns the text to print.
///
/// # Errors
/// Fails when the database cannot be reached or refuses, or has no such torrent.
pub(crate) fn run_torrent(
    command: &TorrentCommand,
    settings: &Settings,
    json: bool,
) -> anyhow::Result<String> {
    let mut store = open_store(settings)?;
    let admin_command = match command {
        TorrentCommand::List => return list_rows(&mut *store, Listing::Torrents, json),
        TorrentCommand::Add { info_hash, id, type_name, group, factors } => AdminCommand::AddTorrent {
            id: *id,
            info_hash: *info_hash,
            group: Group { type_name: type_name.as_str().into(), id: *group },
            multipliers: factors.or_plain(),
        },
        TorrentCommand::Set { info_hash, status, type_name, group, factors } => {
            let Factors { up, down } = *factors;
            let (status, type_name, group) = (*status, type_name.clone(), *group);
            AdminCommand::UpdateTorrent(*info_hash, TorrentChange { up, down, status, type_name, group })
        }
        TorrentCommand::Remove { info_hash, reason } => {
            AdminCommand::DeleteTorrent { info_hash: *info_hash, reason: reason.clone() }
        }
    };
    run_admin_command(&mut *store, &admin_command)
}

/// Runs `hayate client ..` and returns the text to print.
///
/// # Errors
/// Fails when the database cannot be reached or refuses, or has no such client.
pub(crate) fn run_client(command: &ClientCommand, settings: &Settings, json: bool) -> anyhow::Result<String> {
    let mut store = open_store(settings)?;
    let admin_command = match command {
        ClientCommand::List => return list_rows(&mut *store, Listing::Clients, json),
        ClientCommand::Add { prefix } => AdminCommand::AddClient(prefix.clone()),
        ClientCommand::Set { old, new } => AdminCommand::EditClient(old.clone(), new.clone()),
        ClientCommand::Remove { prefix } => AdminCommand::RemoveClient(prefix.clone()),
    };
    run_admin_command(&mut *store, &admin_command)
}

fn open_store(settings: &Settings) -> anyhow::Result<Box<dyn Store>> {
    let Some(dsn) = settings.storage.dsn.clone() else {
        bail!("database.dsn is empty: there is no database")
    };
    let backend = Backend::new(dsn, "", RequiredTables::Site);
    backend.open_reader().with_context(|| format!("opening {}; was `hayate migrate` run?", backend.dsn()))
}

fn run_admin_command(store: &mut dyn Store, admin_command: &AdminCommand) -> anyhow::Result<String> {
    let now = Clock::start().now().unix_seconds;
    let outcome = admin::run_command(store, admin_command, now, "command line")?;
    if outcome.word == "missing" {
        bail!("{}", outcome.text);
    }
    Ok(format!(
        "{}\na running tracker sees it at its next reload (intervals.database_reload)\n",
        outcome.text
    ))
}

fn list_rows(store: &mut dyn Store, listing: Listing, json: bool) -> anyhow::Result<String> {
    let (columns, mut rows) = (listing.columns(), Vec::new());
    // In slices: no statement reads much of a large table.
    store.edit(&mut |tables| {
        let mut from: Vec<SqlValue> = Vec::new();
        loop {
            let end = listing.slice_end(!from.is_empty(), ROWS_PER_SLICE);
            let to: Vec<SqlValue> = tables.query_rows(&end, &from)?.concat();
            let slice = listing.slice(!from.is_empty(), !to.is_empty());
            rows.extend(tables.query_rows(&slice, &[from.as_slice(), &to].concat())?);
            if to.is_empty() {
                return Ok(());
            }
            from = to;
        }
    })?;
    let mut text = if json { String::new() } else { columns.join("\t") + "\n" };
    for row in rows {
        let cells = columns.iter().zip(row.iter().map(cell_json));
        if json {
            let object: serde_json::Map<_, _> = cells.map(|(name, cell)| (name.clone(), cell)).collect();
            text += &format!("{}\n", serde_json::Value::Object(object));
        } else {
            let plain =
                |cell: serde_json::Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
            text += &(cells.map(|(_, cell)| plain(cell)).collect::<Vec<_>>().join("\t") + "\n");
        }
    }
    Ok(text)
}

fn cell_json(cell: &SqlValue) -> serde_json::Value {
    match cell {
        SqlValue::Null => serde_json::Value::Null,
        SqlValue::Number(number) => (*number).into(),
        SqlValue::Real(number) => (*number).into(),
        SqlValue::Text(text) => text.as_str().into(),
        SqlValue::Octets(octets) => match (<[u8; 20]>::try_from(octets.as_slice()), str::from_utf8(octets)) {
            (Ok(hash), _) => InfoHash(hash).to_string().into(),
            (_, Ok(text)) => text.into(),
            _ => octets.escape_ascii().to_string().into(),
        },
    }
}

/// Returns a random passkey; each is as likely as any other.
fn new_passkey() -> anyhow::Result<String> {
    let mut passkey = String::new();
    while passkey.len() < PASSKEY_LEN {
        let mut octets = [0; 2 * PASSKEY_LEN];
        if SystemRandom::new().fill(&mut octets).is_err() {
            bail!("the system provides no random numbers");
        }
        // Two of the 64 values have no letter, and are skipped.
        let letters = octets.iter().filter_map(|octet| ALPHABET.get(usize::from(octet & 63)));
        passkey.extend(letters.take(PASSKEY_LEN - passkey.len()).map(|&letter| char::from(letter)));
    }
    Ok(passkey)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_folder::TestFolder;

    #[test]
    fn a_long_table_is_listed_slice_by_slice_and_in_order() {
        let folder = TestFolder::new();
        let dsn = format!("sqlite:{}", folder.path("site.db").display());
        let mut store = Backend::new(dsn.parse().unwrap(), "", RequiredTables::Site).open().unwrap();
        let rows = 2 * ROWS_PER_SLICE + 7;
        // Three torrents each, so that slices do not end with a user.
        let fill = format!(
            "INSERT INTO hayate_tokens WITH RECURSIVE n (seq) AS
                 (SELECT 0 UNION ALL SELECT seq + 1 FROM n WHERE seq < {rows} - 1)
             SELECT 10000 + seq / 3, 10000 + seq FROM n"
        );
        store.edit(&mut |tables| tables.run_statement(&fill, &[]).map(drop)).unwrap();
        let text = list_rows(&mut *store, Listing::Tokens, false).unwrap();
        let expected = (0..rows).map(|seq| format!("{}\t{}", 10_000 + seq / 3, 10_000 + seq));
        assert!(text.lines().skip(1).eq(expected));
    }
}
