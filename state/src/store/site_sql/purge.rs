//! Silent peers become inactive in the history, a slice at a time.

use std::fmt::Write;

use super::SiteSql;
use crate::store::site_tables::SITE_TABLES;

/// SQLite: a slice. Values: the limit of the last announce, and the most rows.
pub(in crate::store) const SQLITE_SLICE: SiteSql = SiteSql(
    "UPDATE {history} SET {history.active} = 0 WHERE rowid IN
    (SELECT rowid FROM {history} WHERE {history.active} = 1 AND {history.last_announce} < ?1 LIMIT ?2)",
);

/// The columns of an index by which a purge finds its rows.
pub(in crate::store) const INDEX: [SiteSql; 2] =
    [SiteSql("{history.active}"), SiteSql("{history.last_announce}")];

/// Returns the statement that finds active rows by the time of their last announce.
pub(in crate::store) fn find_by_index(index: &str, from: Option<i64>, before: i64, most: usize) -> String {
    // Rows that became inactive leave traces in the index for a while: they should not be passed again.
    let from = from.map(|from| format!("AND {{history.last_announce}} >= {from}")).unwrap_or_default();
    SITE_TABLES.expand(&format!(
        "SELECT {{history.user}}, {{history.torrent}}, {{history.last_announce}} FROM {{history}} \
         FORCE INDEX ({index}) WHERE {{history.active}} = 1 {from} AND {{history.last_announce}} < {before} \
         ORDER BY {{history.last_announce}} LIMIT {most}"
    ))
}

/// Returns the statement that reads the next rows behind `from`, active or not, in the order of their key.
pub(in crate::store) fn find_by_row(
    hint: &str,
    from: Option<(i64, i64)>,
    before: i64,
    most: usize,
) -> String {
    let behind = from.map(|(user, torrent)| {
        format!(
            "WHERE {{history.user}} > {user} \
             OR ({{history.user}} = {user} AND {{history.torrent}} > {torrent})"
        )
    });
    SITE_TABLES.expand(&format!(
        "SELECT {{history.user}}, {{history.torrent}}, \
         {{history.active}} = 1 AND {{history.last_announce}} < {before} FROM {{history}} {hint} {} \
         ORDER BY {{history.user}}, {{history.torrent}} LIMIT {most}",
        behind.unwrap_or_default()
    ))
}

/// Returns the statement that makes rows inactive. As in the statements for records, the rows to change come
/// first and are looked up by the primary key.
pub(in crate::store) fn make_inactive(rows: &[(i64, i64)], before: i64, hint: &str) -> String {
    let mut text = "UPDATE (SELECT 0 AS uid, 0 AS fid FROM DUAL WHERE 0 UNION ALL VALUES ".to_owned();
    for (at, (uid, fid)) in rows.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}({uid},{fid})", if at > 0 { "," } else { "" });
    }
    let _ = write!(
        text,
        ") AS d STRAIGHT_JOIN {{history}} AS t {hint} \
         ON t.{{history.user}} = d.uid AND t.{{history.torrent}} = d.fid \
         SET t.{{history.active}} = 0 \
         WHERE t.{{history.active}} = 1 AND t.{{history.last_announce}} < {before}"
    );
    SITE_TABLES.expand(&text)
}

/// Returns an example of every statement.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (&'static str, String)> {
    [
        ("SQLite", SQLITE_SLICE.text()),
        ("by index, first", find_by_index("`i`", None, 7, 1000)),
        ("by index, next", find_by_index("`i`", Some(5), 7, 1000)),
        ("by row, first", find_by_row("FORCE INDEX (`i`)", None, 7, 1000)),
        ("by row, next", find_by_row("", Some((3, 5)), 7, 1000)),
        ("inactive", make_inactive(&[(3, 5), (11, 13)], 7, "FORCE INDEX (`i`)")),
    ]
    .into_iter()
}
