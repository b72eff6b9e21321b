//! The rows kept about changes and removed passkeys and torrents, and how long they are kept.

use super::super::anomalies::Claim;
use crate::store::{SqlValue, Store, StoreError, Tables};

/// Rows of one table that are removed at once.
const ROWS_SLICE: usize = 500;

/// Writes a row of the audit.
pub(super) fn write_audit(
    tables: &mut dyn Tables,
    now: i64,
    command: &str,
    target: &str,
    outcome: &str,
    source: &str,
) -> Result<(), StoreError> {
    tables.run_statement(
        "INSERT INTO hayate_audit (at, verb, target, outcome, source) VALUES (?, ?, ?, ?, ?)",
        &[now.into(), command.into(), target.into(), outcome.into(), source.into()],
    )?;
    Ok(())
}

/// Records the claims of users that were not believed.
pub(crate) fn write_claims(store: &mut dyn Store, now: i64, claims: &[Claim]) -> Result<(), StoreError> {
    store.edit(&mut |tables| {
        claims.iter().try_for_each(|claim| {
            write_audit(tables, now, "announce", &claim.to_string(), "not credited", "the tracker")
        })
    })
}

/// Removes rows that expired before `before` (Unix seconds): a slice of each table, the oldest rows of the
/// audit first. Returns their number.
pub(crate) fn remove_old_rows(store: &mut dyn Store, before: i64) -> Result<usize, StoreError> {
    let mut gone = 0;
    let tables = [
        // By its key: there is no index on the time, and later rows have later times.
        (
            "hayate_audit",
            "id",
            format!(
                "SELECT id FROM (SELECT id, at FROM hayate_audit ORDER BY id LIMIT {ROWS_SLICE}) AS oldest
             WHERE at < ?"
            ),
        ),
        (
            "hayate_deletions",
            "info_hash",
            format!(
                "SELECT info_hash FROM hayate_deletions WHERE deleted_at < ?
                 ORDER BY deleted_at LIMIT {ROWS_SLICE}"
            ),
        ),
        (
            "hayate_passkeys",
            "passkey",
            format!(
                "SELECT passkey FROM hayate_passkeys WHERE good_until < ?
                 ORDER BY good_until LIMIT {ROWS_SLICE}"
            ),
        ),
    ];
    for (table, key, old) in &tables {
        store.edit(&mut |tables| {
            let rows = tables.query_rows(old, &[before.into()])?;
            let keys: Vec<SqlValue> = rows.into_iter().flatten().map(|value| key_value(key, value)).collect();
            if keys.is_empty() {
                return Ok(());
            }
            let marks = vec!["?"; keys.len()].join(", ");
            tables.run_statement(&format!("DELETE FROM {table} WHERE {key} IN ({marks})"), &keys)?;
            gone += keys.len();
            Ok(())
        })?;
    }
    Ok(gone)
}

/// Values that are read do not distinguish text from octets, but parameters do.
fn key_value(column: &str, value: SqlValue) -> SqlValue {
    match value {
        SqlValue::Octets(octets) if column == "passkey" => {
            SqlValue::Text(String::from_utf8_lossy(&octets).into_owned())
        }
        other => other,
    }
}
