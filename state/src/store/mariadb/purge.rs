//! A slice of a purge of the history: rows are found by a read that locks nothing, and changed by
//! their primary key. The limit is checked again then, because a row may have been written in between.

use mysql::prelude::Queryable;

use super::super::purge::{PurgeMark, PurgeProgress, PurgeSlice};
use super::super::site_sql::purge as sql;
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
        session.connection.query_drop(sql::make_inactive(&found.rows, slice.before, &hint))?;
        inactive = session.connection.affected_rows();
    }
    Ok(PurgeProgress { inactive, next: found.next })
}

/// Finds the next active rows by the time of their last announce.
fn find_by_index(session: &mut MariadbSession, index: &str, slice: &PurgeSlice) -> mysql::Result<FoundRows> {
    let (before, most) = (slice.before, slice.rows_max);
    let from = match slice.from {
        Some(PurgeMark::Time(from)) => Some(from),
        _ => None,
    };
    let sql = sql::find_by_index(index, from, before, most);
    let rows: Vec<(i64, i64, i64)> = session.connection.query(sql)?;
    let next = rows.last().filter(|_| rows.len() >= most).map(|&(.., time)| PurgeMark::Time(time));
    Ok(FoundRows { rows: rows.into_iter().map(|(uid, fid, _)| (uid, fid)).collect(), next })
}

/// Reads the next rows, active or not: without an index all have to be looked at.
fn find_by_row(session: &mut MariadbSession, slice: &PurgeSlice) -> mysql::Result<FoundRows> {
    let (before, most) = (slice.before, slice.rows_max);
    let from = match slice.from {
        Some(mark @ PurgeMark::Row(uid, fid)) if mark != FIRST_MARK => Some((uid, fid)),
        _ => None,
    };
    let sql = sql::find_by_row(&row_hint(session), from, before, most);
    let rows: Vec<(i64, i64, bool)> = session.connection.query(sql)?;
    let next = rows.last().filter(|_| rows.len() >= most).map(|&(uid, fid, _)| PurgeMark::Row(uid, fid));
    let silent = rows.into_iter().filter(|&(.., silent)| silent);
    Ok(FoundRows { rows: silent.map(|(uid, fid, _)| (uid, fid)).collect(), next })
}

/// Whatever the server believes about the table: it may just have grown.
fn row_hint(session: &MariadbSession) -> String {
    session.features.row_index.as_ref().map(|name| format!("FORCE INDEX ({name})")).unwrap_or_default()
}
