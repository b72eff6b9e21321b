//! The statements that a server has carried out, by its log of slow ones.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};

use crate::servers::Server;

/// A connection beside those of the store.
pub(crate) fn root(server: &Server) -> Conn {
    Conn::new(OptsBuilder::new().socket(Some(server.socket_path())).user(Some("root"))).unwrap()
}

/// The log of a server.
pub(crate) struct SlowLog(Rc<Server>);

/// The most expensive of the statements since [`SlowLog::begin`].
#[derive(Debug)]
pub(crate) struct Worst {
    pub(crate) statements: u64,
    /// The most rows that one statement read, and which statement it was.
    pub(crate) rows: u64,
    pub(crate) text: String,
    /// The longest duration, in milliseconds, and which statement it was.
    pub(crate) milliseconds: f64,
    pub(crate) longest: String,
    /// The number of statements that took longer than 100 ms.
    pub(crate) slow: u64,
}

impl SlowLog {
    /// Has every statement logged.
    pub(crate) fn on(server: &Rc<Server>) -> Self {
        server.sql(
            "SET GLOBAL log_output = 'TABLE', GLOBAL long_query_time = 0, GLOBAL log_slow_filter = '',
             GLOBAL slow_query_log = 1",
        );
        Self(Rc::clone(server))
    }

    /// Clears the log.
    pub(crate) fn begin(&self) {
        self.0.sql("TRUNCATE mysql.slow_log");
    }

    /// Returns the most expensive statements of all users of the database, except root.
    pub(crate) fn worst(&self) -> Worst {
        let of = "FROM mysql.slow_log WHERE user_host NOT LIKE 'root%'";
        let first = |what: &str, order: &str| {
            let sql = format!("SELECT {what}, LEFT(sql_text, 300) {of} ORDER BY {order} DESC LIMIT 1");
            let line = self.0.sql(&sql);
            line.split_once('\t').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap_or_default()
        };
        let count =
            |condition: &str| self.0.sql(&format!("SELECT count(*) {of} {condition}")).parse().unwrap();
        let (rows, text) = first("rows_examined", "rows_examined");
        let (milliseconds, longest) = first("TIME_TO_SEC(query_time) * 1000", "query_time");
        Worst {
            statements: count(""),
            rows: rows.parse().unwrap_or(0),
            text,
            milliseconds: milliseconds.parse().unwrap_or(0.0),
            longest,
            slow: count("AND query_time > 0.1"),
        }
    }
}

/// Repeatedly checks how many rows are locked by the transaction that holds most locks.
pub(crate) struct Locks {
    most: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Locks {
    pub(crate) fn watch(server: &Server) -> Self {
        let (most, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, over, mut observer) = (Arc::clone(&most), Arc::clone(&ends), root(server));
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let sql = "SELECT IFNULL(MAX(trx_rows_locked), 0) FROM information_schema.innodb_trx";
                let locked = observer.query_first::<u64, _>(sql).unwrap().unwrap();
                seen.fetch_max(locked, Ordering::Relaxed);
                // The server does not update this more often itself.
                thread::sleep(Duration::from_millis(100));
            }
        });
        Self { most, ends, thread }
    }

    pub(crate) fn most(self) -> u64 {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.most.load(Ordering::Relaxed)
    }
}
