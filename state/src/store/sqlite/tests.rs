//! What only a file can do wrong, and how a purge reads it.

use super::*;

#[test]
fn one_tracker_writes_and_others_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hayate.db");
    let first = Sqlite::open(&path, "").unwrap();
    let second = Sqlite::open(&path, "").unwrap_err();
    assert!(matches!(&second, StoreError::Unfit(_)), "{second:?}");
    assert!(second.to_string().ends_with("hayate.db is used by another hayate"), "{second}");
    let mut reader = Sqlite::open_shared(&path, "").unwrap();
    assert_eq!(reader.read_registered().unwrap(), (vec![], 0));
    let batch = Batch { channel: Channel::Users, records: vec![], sequence: 1 };
    assert!(matches!(reader.save(&batch), Err(StoreError::Unfit(_))));
    drop(first);
    Sqlite::open(&path, "").unwrap();
}

#[test]
fn what_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("missing/hayate.db");
    assert!(matches!(Sqlite::open(&nowhere, ""), Err(StoreError::Unfit(text)) if text.contains("missing")));
    let text_file = folder.path().join("notes.txt");
    std::fs::write(&text_file, "no database at all, but longer than a header of one is\n".repeat(9)).unwrap();
    let error = Sqlite::open(&text_file, "").unwrap_err();
    assert!(matches!(&error, StoreError::Unfit(text) if text.contains("notes.txt: ")), "{error}");
}

#[test]
fn a_newer_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hayate.db");
    let made = Sqlite::open(&path, "").unwrap();
    made.connection.execute("UPDATE hayate_schema SET version = 7", []).unwrap();
    drop(made);
    let error = Sqlite::open(&path, "").unwrap_err();
    assert!(matches!(&error, StoreError::Unfit(text) if text.contains("schema version 7")), "{error}");
}

#[test]
fn a_purge_finds_its_rows_by_the_index_and_changes_them_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&folder.path().join("hayate.db"), "").unwrap();
    let explained = format!("EXPLAIN QUERY PLAN {}", SQLITE_SLICE.text());
    let mut statement = store.connection.prepare(&explained).unwrap();
    let plan = statement.query_map(params![1, 1], |row| row.get::<_, String>(3)).unwrap();
    let plan: Vec<_> = plan.map(Result::unwrap).collect();
    let by_index = "SEARCH transfer_history USING COVERING INDEX transfer_history_active \
                    (active=? AND last_announce<?)";
    let by_number = "SEARCH transfer_history USING INTEGER PRIMARY KEY (rowid=?)";
    assert_eq!(plan, [by_number, "LIST SUBQUERY 1", by_index]);
}

#[test]
fn a_locked_file_is_a_deadlock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hayate.db");
    let mut store = Sqlite::open(&path, "").unwrap();
    store.connection.busy_timeout(Duration::from_millis(1)).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let batch = Batch { channel: Channel::Users, records: vec![], sequence: 1 };
    assert!(matches!(store.save(&batch), Err(StoreError::Deadlock(_))));
    other.execute_batch("ROLLBACK").unwrap();
    assert!(store.save(&batch).is_ok());
}
