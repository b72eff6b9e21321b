//! A table that is read slice by slice in the order of a key, within one transaction: all slices see the
//! table as it was when the first one was read.
//!
//! A slice is two statements. The first finds its last row, counting by the key alone, so that rows outside
//! the condition cost no more than others; the second reads the matching rows up to there. Both are answered
//! in full before the first row is passed on, so the consumer may take its time.

use mysql::prelude::Queryable;
use mysql::{Params, Row, Value};

use super::super::site_sql::sets::TableQuery;
use super::session::MariadbSession;

/// Rows of a slice. A statement reads this many, and perhaps one of another table for each.
const ROWS: usize = 2000;

/// Passes each row to `each`, and `None` whenever an answer has been waited for.
pub(super) fn read_rows(
    session: &mut MariadbSession,
    source: &TableQuery,
    each: &mut dyn FnMut(Option<Row>),
) -> mysql::Result<()> {
    let TableQuery { columns, table, join, condition, key, is_history, .. } = source;
    let fitness = &session.features;
    // Few rows of the history are hit-and-runs: with an index on them the others are not looked at.
    let (index, scope) = match (&fitness.hit_and_run_index, &fitness.row_index) {
        _ if !is_history => (None, None),
        (Some(index), _) => (Some(index), source.index_condition.clone()),
        (None, index) => (index.as_ref(), None),
    };
    // Forced, because the optimizer may take other indexes for equally good.
    let hint = index.map(|name| format!("FORCE INDEX ({name})")).unwrap_or_default();
    let order = key.join(", ");
    let mut from: Option<Vec<Value>> = None;
    loop {
        let behind = from.iter().map(|_| range_condition(key, ">", ">"));
        let mut conditions: Vec<_> = scope.iter().cloned().chain(behind).collect();
        let mut values: Vec<_> = from.iter().flat_map(|from| range_values(from)).collect();
        let sql = format!(
            "SELECT {order} FROM {table} {hint} {} ORDER BY {order} LIMIT 1 OFFSET {}",
            where_clause(&conditions),
            ROWS - 1
        );
        let last: Option<Row> = session.connection.exec_first(sql, sql_params(values.clone()))?;
        let last = last.map(Row::unwrap);
        conditions.extend(last.iter().map(|_| range_condition(key, "<", "<=")));
        values.extend(last.iter().flat_map(|last| range_values(last)));
        if !condition.is_empty() {
            conditions.push(condition.clone());
        }
        let sql = format!(
            "SELECT STRAIGHT_JOIN {columns} FROM {table} {hint} {join} {} ORDER BY {order}",
            where_clause(&conditions)
        );
        let rows: Vec<Row> = session.connection.exec(sql, sql_params(values))?;
        each(None);
        rows.into_iter().for_each(|row| each(Some(row)));
        if last.is_none() {
            return Ok(());
        }
        from = last;
    }
}

/// The condition for rows on one side of a row, in the form that is a range of an index. `last` compares the
/// last column.
fn range_condition(key: &[String], first: &str, last: &str) -> String {
    match key {
        [a, b] => format!("({a} {first} ? OR ({a} = ? AND {b} {last} ?))"),
        _ => format!("{} {last} ?", key.concat()),
    }
}

/// The values for [`range_condition`].
fn range_values(row: &[Value]) -> Vec<Value> {
    match row {
        [a, b] => vec![a.clone(), a.clone(), b.clone()],
        _ => row.to_vec(),
    }
}

fn where_clause(conditions: &[String]) -> String {
    if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) }
}

fn sql_params(values: Vec<Value>) -> Params {
    if values.is_empty() { Params::Empty } else { Params::Positional(values) }
}
