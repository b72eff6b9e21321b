//! The tables, for both backends, in versions that are made one after the other.
//!
//! A statement of a migration can always be run again: it makes what is not there and leaves alone what is.
//! The tables of a site that runs the reference tracker are touched by one statement only, which adds
//! `transfer_ips.ip6`; the reference tracker keeps working on the result.

use super::StoreError;

/// The version of the schema that this program makes and knows.
pub const VERSION: u32 = 4;

/// Whose SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite 3.37 or later (strict tables).
    Sqlite,
    /// MariaDB 10.3.3 or later.
    Mariadb,
}

/// What a database must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequiredTables {
    /// The tables of hayate (modes open and listed).
    Own,
    /// The tables of a site (mode private). Those of hayate may be missing: then an unanswered commit counts
    /// as done, and IPv6 addresses are not kept.
    Site,
}

/// The tables of a site in mode private and the columns that are read or written, in lower case.
pub(super) const SITE: [(&str, &[&str]); 7] = [
    ("approved_clients", &["id", "peer_id", "archived"]),
    ("mod_core", &["mod_option", "mod_setting"]),
    ("torrent_group_freeleech", &["groupid", "type", "downmultiplier", "upmultiplier"]),
    (
        "torrents",
        &[
            "id",
            "groupid",
            "torrenttype",
            "info_hash",
            "leechers",
            "seeders",
            "last_action",
            "snatched",
            "downmultiplier",
            "upmultiplier",
            "status",
        ],
    ),
    (
        "transfer_history",
        &[
            "uid",
            "fid",
            "uploaded",
            "downloaded",
            "seeding",
            "seedtime",
            "activetime",
            "hnr",
            "remaining",
            "active",
            "starttime",
            "last_announce",
            "snatched",
            "snatched_time",
        ],
    ),
    (
        "transfer_ips",
        &["last_announce", "starttime", "uid", "fid", "ip", "client_id", "uploaded", "downloaded", "port"],
    ),
    (
        "users_main",
        &[
            "id",
            "uploaded",
            "downloaded",
            "enabled",
            "torrent_pass",
            "rawup",
            "rawdl",
            "downmultiplier",
            "upmultiplier",
            "disabledownload",
            "trackerhide",
        ],
    ),
];

/// What a migration runs, in this order, without the semicolons.
#[must_use]
pub fn migration_statements(dialect: Dialect) -> Vec<&'static str> {
    let texts = match dialect {
        Dialect::Sqlite => [
            include_str!("schema/sqlite-1.sql"),
            include_str!("schema/sqlite-2.sql"),
            include_str!("schema/sqlite-3.sql"),
            include_str!("schema/sqlite-4.sql"),
        ],
        Dialect::Mariadb => [
            include_str!("schema/mariadb-1.sql"),
            include_str!("schema/mariadb-2.sql"),
            include_str!("schema/mariadb-3.sql"),
            include_str!("schema/mariadb-4.sql"),
        ],
    };
    let split = texts.into_iter().flat_map(|text| text.split(";\n"));
    split.map(str::trim).filter(|statement| !statement.is_empty()).collect()
}

/// What is good for the tables of a site and takes long on large ones, so that only its operator can say
/// when: no migration runs it.
#[must_use]
pub fn proposed_statements(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::Sqlite => &[],
        Dialect::Mariadb => &[PURGE_INDEX, HIT_AND_RUN_INDEX, PASSKEY_INDEX],
    }
}

/// The index by which a purge finds its rows.
const PURGE_INDEX: &str = "ALTER TABLE transfer_history ADD INDEX IF NOT EXISTS active_last_announce \
                           (active, last_announce), ALGORITHM=INPLACE, LOCK=NONE";

/// The index by which hit-and-runs are read.
const HIT_AND_RUN_INDEX: &str = "ALTER TABLE transfer_history ADD INDEX IF NOT EXISTS hnr_uid_fid \
                                 (hnr, uid, fid), ALGORITHM=INPLACE, LOCK=NONE";

/// The index by which a command finds the user of a passkey.
const PASSKEY_INDEX: &str = "ALTER TABLE users_main ADD INDEX IF NOT EXISTS torrent_pass (torrent_pass), \
                             ALGORITHM=INPLACE, LOCK=NONE";

/// Says whether this program knows `version`.
///
/// # Errors
/// When it is newer.
pub fn check_version(version: u32) -> Result<(), StoreError> {
    if version <= VERSION {
        return Ok(());
    }
    Err(StoreError::Unfit(format!(
        "the database has schema version {version}, this program knows up to {VERSION}: it was migrated by \
         a newer hayate"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_make_the_same_tables() {
        let tables = |dialect| -> Vec<&str> {
            let made = migration_statements(dialect).into_iter();
            made.filter_map(|text| text.strip_prefix("CREATE TABLE IF NOT EXISTS ")?.split(' ').next())
                .collect()
        };
        let expected: Vec<_> = SITE.iter().map(|(name, _)| *name).collect();
        for dialect in [Dialect::Sqlite, Dialect::Mariadb] {
            let tables = tables(dialect);
            let own = ["journal", "completed", "schema", "tokens", "deletions", "passkeys", "audit"];
            assert_eq!(tables[7..], own.map(|name| format!("hayate_{name}")));
            let mut site = tables[..7].to_vec();
            site.sort_unstable();
            assert_eq!(site, expected);
        }
    }

    #[test]
    fn no_statement_is_cut_in_two() {
        for statement in [Dialect::Sqlite, Dialect::Mariadb].into_iter().flat_map(migration_statements) {
            let starts = [
                "CREATE TABLE IF NOT EXISTS ",
                "CREATE INDEX IF NOT EXISTS ",
                "ALTER TABLE ",
                "INSERT ",
                "UPDATE hayate_",
            ];
            assert!(starts.iter().any(|start| statement.starts_with(start)), "{statement}");
            assert!(!statement.contains(';'), "{statement}");
        }
    }

    #[test]
    fn a_newer_schema_is_refused() {
        assert!(check_version(VERSION).is_ok());
        let text = check_version(VERSION + 6).unwrap_err().to_string();
        let says = "the database has schema version 10, this program knows up to 4: it was migrated by a";
        assert_eq!(text, format!("{says} newer hayate"));
    }
}
