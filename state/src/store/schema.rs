//! The tables, for both backends, in versions that build on one another.
//!
//! A statement of a migration can always be run again: it creates what is missing and leaves alone what
//! exists. The tables of a site that runs the reference tracker are touched by one statement only, which adds
//! `transfer_ips.ip6`; the reference tracker continues to work on the result.

use super::StoreError;

/// The version of the schema that this program creates, and the newest that it knows.
pub const VERSION: u32 = 4;

/// The SQL dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite 3.37 or later (strict tables).
    Sqlite,
    /// MariaDB 10.3.3 or later.
    Mariadb,
}

/// The tables that a database must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequiredTables {
    /// The tables of hayate (modes open and listed).
    Own,
    /// The tables of a site (mode private). Those of hayate may be missing: then an unanswered commit counts
    /// as done, and IPv6 addresses are not kept.
    Site,
}

/// The statements of a migration, in this order, without the semicolons.
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

/// Statements that improve the tables of a site but take long on large ones, so that only its operator can
/// choose the time: no migration runs them.
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

/// Checks that this program knows `version`.
///
/// # Errors
/// Fails when it is newer.
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
    use super::super::site_tables::SITE_TABLES;
    use super::*;

    #[test]
    fn both_dialects_make_the_same_tables() {
        let tables = |dialect| -> Vec<&str> {
            let made = migration_statements(dialect).into_iter();
            made.filter_map(|text| text.strip_prefix("CREATE TABLE IF NOT EXISTS ")?.split(' ').next())
                .collect()
        };
        let expected: Vec<_> = SITE_TABLES.names().collect();
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
