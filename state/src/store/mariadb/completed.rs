//! Finished downloads of torrents: the latest are read, older ones are forgotten, both slice by slice.

use std::fmt::Write;

use mysql::prelude::{FromRow, Queryable};

use super::session::MariadbSession;
use crate::ids::{ID_LEN, InfoHash};

/// Rows that are read at once: the index lists them, but each has to be fetched from elsewhere.
const READ_ROWS: usize = 500;
/// Rows that are removed at once.
const FORGET_ROWS: usize = 500;

/// The position of a row in the order of the index: its `last_completed` and its `info_hash`.
pub(super) type CompletedPos = (u32, InfoHash);

/// The position behind all rows.
const LAST_POS: CompletedPos = (u32::MAX, InfoHash([u8::MAX; ID_LEN]));

/// Passes the latest `most` to `each`, latest first. Returns the last of them if there may be older ones.
pub(super) fn read_latest(
    session: &mut MariadbSession,
    most: usize,
    each: &mut dyn FnMut(InfoHash, u32),
) -> mysql::Result<Option<CompletedPos>> {
    let (mut shown, mut last) = (0, None);
    while shown < most {
        let rows = READ_ROWS.min(most - shown);
        let older = last.map(|last| format!("WHERE {}", range_condition(last, "<"))).unwrap_or_default();
        let sql = format!(
            "SELECT info_hash, completed, last_completed FROM hayate_completed FORCE INDEX (last_completed)
             {older} ORDER BY last_completed DESC, info_hash DESC LIMIT {rows}"
        );
        let found: Vec<(Vec<u8>, u32, u32)> = query_all(session, &sql)?;
        for (hash, completed, time) in &found {
            let hash = hash_of(hash);
            each(hash, *completed);
            last = Some((*time, hash));
        }
        if found.len() < rows {
            return Ok(None);
        }
        shown += rows;
    }
    Ok(last.or(Some(LAST_POS)))
}

/// Removes the oldest rows behind `from` that are older than `than`, within a transaction. Returns the last
/// of them if there may be more.
pub(super) fn forget_older(
    session: &mut MariadbSession,
    than: CompletedPos,
    from: Option<CompletedPos>,
) -> mysql::Result<Option<CompletedPos>> {
    // Removed rows leave traces in the index for a while: they should not be passed again.
    let behind = from.map(|from| range_condition(from, ">")).unwrap_or_else(|| "1".to_owned());
    let older = range_condition(than, "<");
    let sql = format!(
        "SELECT info_hash, last_completed FROM hayate_completed FORCE INDEX (last_completed)
         WHERE {behind} AND {older} ORDER BY last_completed, info_hash LIMIT {FORGET_ROWS}"
    );
    let found: Vec<(Vec<u8>, u32)> = query_all(session, &sql)?;
    let Some((last, time)) = found.last() else { return Ok(None) };
    // As in the statements for records, the rows to remove come first and are looked up by the primary key:
    // even if the server takes the table for a small one, as it does for a while after many rows were added.
    let mut sql = "DELETE t FROM (SELECT X'' AS info_hash FROM DUAL WHERE 0 UNION ALL VALUES ".to_owned();
    for (at, (hash, _)) in found.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(sql, "{}(X'{}')", if at > 0 { "," } else { "" }, hash_of(hash));
    }
    let _ = write!(
        sql,
        ") AS d STRAIGHT_JOIN hayate_completed AS t FORCE INDEX (PRIMARY) ON t.info_hash = d.info_hash \
         WHERE {}",
        older.replace("last_completed", "t.last_completed").replace("info_hash", "t.info_hash")
    );
    session.connection.query_drop(sql)?;
    Ok((found.len() == FORGET_ROWS).then_some((*time, hash_of(last))))
}

fn query_all<T: FromRow>(session: &mut MariadbSession, sql: &str) -> mysql::Result<Vec<T>> {
    session.connection.query_iter(sql)?.map(|row| Ok(mysql::from_row_opt(row?)?)).collect()
}

/// The column has exactly this many octets.
fn hash_of(octets: &[u8]) -> InfoHash {
    InfoHash(octets.try_into().unwrap_or_default())
}

/// The condition for rows on one side of a position.
fn range_condition((time, hash): CompletedPos, side: &str) -> String {
    format!("(last_completed {side} {time} OR (last_completed = {time} AND info_hash {side} X'{hash}'))")
}
