//! A slice of a purge of `transfer_history`: rows are found by a read that locks nothing, and changed by
//! their primary key. The limit is checked again then, because a row may have been written in between.

use std::fmt::Write;

use mysql::prelude::Queryable;

use super::super::purge::{PurgeMark, PurgeProgress, PurgeSlice};
use super::session::MariadbSession;

/// The error code for an unknown index.
const NO_SUCH_INDEX: u16 = 1176;
/// The position before all rows.
const FIRST_MARK: PurgeMark = PurgeMark::Row(i64::MIN, i64::MIN);

/// The rows that a slice has found: those to change, by `uid` and `fid`, and where to continue.
struct FoundRows {
    rows: Vec<(i64, i64)>,
    next: Option<PurgeMark>,
}

/// Does a slice, within a transaction.
pub(super) fn purge_slice(session: &mut MariadbSession, slice: &PurgeSlice) -> mysql::Result<PurgeProgress> {
    let found = match session.features.purge_index.clone() {
        Some(index) => match find_by_index(session, &index, slice) {
            // The index was dropped meanwhile, or the optimizer was told to ignore it.
            Err(mysql::Error::MySqlError(server_error)) if server_error.code == NO_SUCH_INDEX => {
                session.features.purge_index = None;
                FoundRows { rows: Vec::new(), next: Some(FIRST_MARK) }
            }
            found => found?,
        },
        None => find_by_row(session, slice)?,
    };
    let mut inactive = 0;
    if !found.rows.is_empty() {
        let hint = row_hint(session);
        session.connection.query_drop(update_statement(&found.rows, slice.before, &hint))?;
        inactive = session.connection.affected_rows();
    }
    Ok(PurgeProgress { inactive, next: found.next })
}

/// Finds the next active rows by the time of their last announce.
fn find_by_index(session: &mut MariadbSession, index: &str, slice: &PurgeSlice) -> mysql::Result<FoundRows> {
    let (before, most) = (slice.before, slice.rows_max);
    // Rows that became inactive leave traces in the index for a while: they should not be passed again.
    let from = match slice.from {
        Some(PurgeMark::Time(from)) => format!("AND last_announce >= {from}"),
        _ => String::new(),
    };
    let sql = format!(
        "SELECT uid, fid, last_announce FROM transfer_history FORCE INDEX ({index})
         WHERE active = 1 {from} AND last_announce < {before} ORDER BY last_announce LIMIT {most}"
    );
    let rows: Vec<(i64, i64, i64)> = session.connection.query(sql)?;
    let next = rows.last().filter(|_| rows.len() >= most).map(|&(.., time)| PurgeMark::Time(time));
    Ok(FoundRows { rows: rows.into_iter().map(|(uid, fid, _)| (uid, fid)).collect(), next })
}

/// Reads the next rows, active or not: without an index all have to be looked at.
fn find_by_row(session: &mut MariadbSession, slice: &PurgeSlice) -> mysql::Result<FoundRows> {
    let (before, most) = (slice.before, slice.rows_max);
    let behind = match slice.from {
        Some(mark @ PurgeMark::Row(uid, fid)) if mark != FIRST_MARK => {
            format!("WHERE uid > {uid} OR (uid = {uid} AND fid > {fid})")
        }
        _ => String::new(),
    };
    let hint = row_hint(session);
    let sql = format!(
        "SELECT uid, fid, active = 1 AND last_announce < {before} FROM transfer_history {hint}
         {behind} ORDER BY uid, fid LIMIT {most}"
    );
    let rows: Vec<(i64, i64, bool)> = session.connection.query(sql)?;
    let next = rows.last().filter(|_| rows.len() >= most).map(|&(uid, fid, _)| PurgeMark::Row(uid, fid));
    let silent = rows.into_iter().filter(|&(.., silent)| silent);
    Ok(FoundRows { rows: silent.map(|(uid, fid, _)| (uid, fid)).collect(), next })
}

/// Whatever the server believes about the table: it may just have grown.
fn row_hint(session: &MariadbSession) -> String {
    session.features.row_index.as_ref().map(|name| format!("FORCE INDEX ({name})")).unwrap_or_default()
}

/// As in the statements for records, the rows to change come first and are looked up by the primary key.
fn update_statement(rows: &[(i64, i64)], before: i64, hint: &str) -> String {
    let mut text = "UPDATE (SELECT 0 AS uid, 0 AS fid FROM DUAL WHERE 0 UNION ALL VALUES ".to_owned();
    for (at, (uid, fid)) in rows.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}({uid},{fid})", if at > 0 { "," } else { "" });
    }
    let _ = write!(
        text,
        ") AS d STRAIGHT_JOIN transfer_history AS t {hint} ON t.uid = d.uid AND t.fid = d.fid \
         SET t.active = 0 WHERE t.active = 1 AND t.last_announce < {before}"
    );
    text
}
