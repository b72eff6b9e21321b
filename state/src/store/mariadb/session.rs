//! A connection to MariaDB, set up as the store needs it.

use std::collections::HashSet;
use std::io;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mysql::consts::CapabilityFlags;
use mysql::prelude::Queryable;
use mysql::{Conn, DriverError, LocalInfileHandler, OptsBuilder, SslOpts};

use super::super::dsn::{Address, Login, Tls};
use super::super::schema::{self, RequiredTables};
use super::super::site_sql::{SiteSql, purge, sets};
use super::super::site_tables::SITE_TABLES;
use super::super::{Channel, StoreError};
use super::{ConnectionRole, MariadbOpener, store_error};

/// Time limit for one read or write of the socket.
pub(super) const SOCKET_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for a statement that waits for a row; shorter than that of the socket, so that the server
/// reports it.
const ROW_LOCK_SECONDS: u64 = 20;
/// The server ends a session that was idle for this long: that of a machine that is gone must not keep the
/// name of its node for hours. An idle store reconnects when it has something to write.
const IDLE_SECONDS: u64 = 300;
/// How long a new connection waits for the name of its node: an old session takes a moment to end.
const NAME_SECONDS: u64 = 5;
/// Upper limit for the length of a statement, in octets, however long the server allows it to be.
const STATEMENT_OCTETS_MAX: usize = 1 << 20;
/// Characters of `hayate_journal.node`.
const NODE_CHARACTERS_MAX: usize = 64;

/// Where systems keep the certificates they trust: Debian and Fedora, and systems derived from them.
const CA_BUNDLES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
/// The error code for an unknown variable.
const UNKNOWN_VARIABLE: u16 = 1193;

/// The name of the lock that the writer holds.
const LOCK_NAME_SQL: &str = "CONCAT('hayate:', DATABASE(), ':', ?)";

/// A connection that is set up.
#[derive(Debug)]
pub(super) struct MariadbSession {
    pub(super) connection: Conn,
    pub(super) features: DatabaseFeatures,
    /// Maximum length of a statement, in octets.
    pub(super) statement_octets: usize,
}

/// What the database has beyond the required tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DatabaseFeatures {
    /// Whether `hayate_journal` exists.
    pub(super) journal: bool,
    /// Whether `transfer_ips.ip6` exists.
    pub(super) ip6: bool,
    /// The index of `transfer_history` by `active` and `last_announce`, quoted, if there is one.
    pub(super) purge_index: Option<String>,
    /// Its index by `uid` and `fid`, quoted: usually the primary key.
    pub(super) row_index: Option<String>,
    /// Its index by `hnr` and `uid`, quoted, if there is one.
    pub(super) hit_and_run_index: Option<String>,
    required: RequiredTables,
}

impl DatabaseFeatures {
    pub(super) fn warnings(&self) -> Vec<String> {
        let journal = "the database has no table hayate_journal: a commit that is not answered counts as \
                       done; run `hayate migrate`";
        let ip6 = "the database has no column transfer_ips.ip6: IPv6 addresses are not kept; run \
                   `hayate migrate`";
        let purge = "the table transfer_history has no index on (active, last_announce): each purge \
                     of silent peers reads all of it, slowly; `hayate migrate --print` shows a statement \
                     that adds one";
        let own = self.required == RequiredTables::Own;
        let all =
            [(self.journal, journal), (self.ip6 || own, ip6), (self.purge_index.is_some() || own, purge)];
        all.into_iter().filter(|(there, _)| !there).map(|(_, text)| text.to_owned()).collect()
    }
}

impl MariadbSession {
    pub(super) fn open(opener: &MariadbOpener) -> Result<Self, StoreError> {
        if opener.node.chars().count() > NODE_CHARACTERS_MAX {
            return Err(StoreError::Unfit(format!(
                "the name of the node is longer than {NODE_CHARACTERS_MAX} characters"
            )));
        }
        let mut connection = connect(&opener.login, Some(SOCKET_TIMEOUT))?;
        let to_store_error = |error| store_error(error, false);
        if opener.role == ConnectionRole::Reader {
            // A set is read in slices, and all of them must show the same moment.
            let sql = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";
            connection.query_drop(sql).map_err(to_store_error)?;
        }
        schema::check_version(read_version(&mut connection).map_err(to_store_error)?)?;
        let columns = read_columns(&mut connection).map_err(to_store_error)?;
        let mut fitness = check_columns(&columns, opener.required)?;
        if opener.required == RequiredTables::Site {
            let indexes = read_indexes(&mut connection).map_err(to_store_error)?;
            fitness.purge_index = index_on(&indexes, purge::INDEX);
            fitness.row_index = index_on(&indexes, sets::HISTORY_KEY);
            fitness.hit_and_run_index = index_on(&indexes, sets::HIT_AND_RUN_INDEX);
        }
        let packet: Option<usize> =
            connection.query_first("SELECT @@max_allowed_packet").map_err(to_store_error)?;
        let statement_octets = packet.unwrap_or(STATEMENT_OCTETS_MAX).min(2 * STATEMENT_OCTETS_MAX) / 2;
        if opener.role == ConnectionRole::Writer {
            take_node_lock(&mut connection, opener)?;
            if fitness.journal {
                insert_journal_rows(&mut connection, &opener.node).map_err(to_store_error)?;
            }
        }
        Ok(Self { connection, features: fitness, statement_octets })
    }
}

/// Connects and sets up what all sessions have in common. No answer may take longer than `socket_timeout`.
pub(super) fn connect(login: &Login, socket_timeout: Option<Duration>) -> Result<Conn, StoreError> {
    let without_tls = DriverError::TlsNotSupported;
    let mut connection = match (login.tls, try_connect(login, socket_timeout, login.tls != Tls::Off)) {
        (Tls::Preferred, Err(mysql::Error::DriverError(error))) if error == without_tls => {
            try_connect(login, socket_timeout, false)
        }
        (_, reached) => reached,
    }
    .map_err(|error| store_error(error, false))?;
    set_session_variables(&mut connection, login).map_err(|error| match error {
        // Trying again does not help if the server refuses what the DSN sets.
        mysql::Error::MySqlError(server_error)
            if server_error.state == "42000" || server_error.code == UNKNOWN_VARIABLE =>
        {
            StoreError::Unfit(format!("the database refuses what the DSN sets: {}", server_error.message))
        }
        error => store_error(error, false),
    })?;
    Ok(connection)
}

fn try_connect(login: &Login, socket_timeout: Option<Duration>, encrypted: bool) -> mysql::Result<Conn> {
    let tls = SslOpts::default()
        .with_danger_accept_invalid_certs(login.tls != Tls::On)
        .with_danger_skip_domain_validation(login.tls != Tls::On)
        .with_root_cert_path(ca_bundle().filter(|_| login.tls == Tls::On));
    let builder = OptsBuilder::new()
        .user(Some(login.user.clone()))
        .pass(Some(login.password.clone()))
        .db_name(Some(login.name.clone()))
        .prefer_socket(false)
        .read_timeout(socket_timeout)
        .write_timeout(socket_timeout)
        .tcp_connect_timeout(Some(login.timeout))
        .tcp_nodelay(true)
        .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS)
        // The server may ask for any file of this machine; it gets none.
        .local_infile_handler(Some(LocalInfileHandler::new(|_, _| {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, "the server asked for a local file"))
        })))
        .ssl_opts(encrypted.then_some(tls));
    let (host, port) = match &login.address {
        Address::Unix(path) => return Conn::new(builder.socket(Some(path.to_string_lossy()))),
        Address::Tcp(host, port) => (host, *port),
    };
    let builder = builder.tcp_port(port);
    if encrypted {
        let name = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        return Conn::new(builder.ip_or_hostname(Some(name)));
    }
    // The client library gives up at the first address of a name that refuses; `localhost` has two.
    let mut refused = mysql::Error::DriverError(DriverError::CouldNotConnect(None));
    for address in (host.as_str(), port).to_socket_addrs()? {
        let ip = address.ip();
        let ip = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        match Conn::new(builder.clone().ip_or_hostname(Some(ip))) {
            Ok(connection) => return Ok(connection),
            Err(server_error @ mysql::Error::MySqlError(_)) => return Err(server_error),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// The certificates that the system trusts, in addition to those of the client library.
fn ca_bundle() -> Option<&'static Path> {
    CA_BUNDLES.iter().map(Path::new).find(|path| path.exists())
}

fn set_session_variables(connection: &mut Conn, login: &Login) -> mysql::Result<()> {
    let collation = login.collation.as_deref();
    let charset_of_collation = collation.and_then(|name| name.split('_').next());
    let collate = collation.map(|name| format!(" COLLATE {name}")).unwrap_or_default();
    let mut charsets = login
        .charsets
        .iter()
        .map(String::as_str)
        .chain(charset_of_collation.filter(|_| login.charsets.is_empty()));
    if let Some(first) = charsets.next() {
        let mut outcome = connection.query_drop(format!("SET NAMES {first}{collate}"));
        for charset in charsets {
            if outcome.is_ok() {
                break;
            }
            outcome = connection.query_drop(format!("SET NAMES {charset}{collate}"));
        }
        outcome?;
    }
    // A site's limits on statements and on updates without a key are not meant for the tracker.
    connection.query_drop(format!(
        "SET SESSION autocommit = 1, wait_timeout = {IDLE_SECONDS}, innodb_lock_wait_timeout = \
         {ROW_LOCK_SECONDS}, max_statement_time = 0, sql_safe_updates = 0"
    ))?;
    for (name, value) in &login.variables {
        connection.query_drop(format!("SET SESSION {name} = {value}"))?;
    }
    // Last, so that nothing overrides it: a number that does not fit is an error.
    connection.query_drop(
        "SET SESSION sql_mode = CONCAT_WS(',', NULLIF(@@SESSION.sql_mode, ''), 'STRICT_ALL_TABLES')",
    )
}

/// Takes the lock on the name of the node, which only one connection can hold.
fn take_node_lock(connection: &mut Conn, opener: &MariadbOpener) -> Result<(), StoreError> {
    let to_store_error = |error| store_error(error, false);
    let former = opener.last_writer.load(Ordering::Relaxed);
    if former != 0 {
        let holder: Option<Option<u32>> = connection
            .exec_first(format!("SELECT IS_USED_LOCK({LOCK_NAME_SQL})"), (&opener.node,))
            .map_err(to_store_error)?;
        if holder.flatten() == Some(former) {
            // The former connection belongs to this process and is no longer used. If it cannot be ended, the
            // name cannot be taken either.
            let _ = connection.query_drop(format!("KILL CONNECTION {former}"));
        }
    }
    let sql = format!("SELECT GET_LOCK({LOCK_NAME_SQL}, {NAME_SECONDS})");
    let got: Option<Option<u32>> = connection.exec_first(sql, (&opener.node,)).map_err(to_store_error)?;
    if got.flatten() != Some(1) {
        let text = format!("another hayate writes to this database as node \"{}\"", opener.node);
        return Err(match former {
            0 => StoreError::Unfit(text),
            _ => StoreError::Lost { text, in_doubt: false },
        });
    }
    opener.last_writer.store(connection.connection_id(), Ordering::Relaxed);
    Ok(())
}

/// Inserts the node's rows, so that there is something to lock. If they exist nothing is written, because
/// that would wait for an unfinished commit.
fn insert_journal_rows(connection: &mut Conn, node: &str) -> mysql::Result<()> {
    let there: HashSet<String> =
        connection.exec("SELECT queue FROM hayate_journal WHERE node = ?", (node,))?.into_iter().collect();
    for channel in Channel::ALL.into_iter().filter(|channel| !there.contains(channel.name())) {
        let sql = "INSERT IGNORE INTO hayate_journal (node, queue, seq) VALUES (?, ?, 0)";
        connection.exec_drop(sql, (node, channel.name()))?;
    }
    Ok(())
}

/// The version of the schema; 0 if it was never migrated.
pub(super) fn read_version(connection: &mut Conn) -> mysql::Result<u32> {
    let there = "SELECT COUNT(*) FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'hayate_schema'";
    if connection.query_first::<u32, _>(there)?.unwrap_or(0) == 0 {
        return Ok(0);
    }
    let version: Option<Option<u32>> = connection.query_first("SELECT MAX(version) FROM hayate_schema")?;
    Ok(version.flatten().unwrap_or(0))
}

/// Returns the columns of all tables, in lower case, as `table.column`.
fn read_columns(connection: &mut Conn) -> mysql::Result<HashSet<String>> {
    let sql = "SELECT LOWER(CONCAT(TABLE_NAME, '.', COLUMN_NAME)) FROM information_schema.COLUMNS
        WHERE TABLE_SCHEMA = DATABASE()";
    Ok(connection.query::<String, _>(sql)?.into_iter().collect())
}

/// Compares the columns that exist with those required.
fn check_columns(
    columns: &HashSet<String>,
    required: RequiredTables,
) -> Result<DatabaseFeatures, StoreError> {
    let journal = ["node", "queue", "seq"].map(|column| format!("hayate_journal.{column}"));
    let journal = journal.iter().all(|column| columns.contains(column));
    let completed = ["info_hash", "completed", "last_completed"];
    let completed = completed.map(|column| format!("hayate_completed.{column}"));
    match required {
        RequiredTables::Own => {
            let registered = sets::REGISTERED.map(|column| column.text().to_lowercase());
            let missing = completed.iter().chain(&registered).find(|column| !columns.contains(*column));
            if let Some(missing) = missing.or((!journal).then_some(&"hayate_journal.seq".to_owned())) {
                return Err(StoreError::Unfit(format!(
                    "the database has no column {missing}: run `hayate migrate`"
                )));
            }
        }
        RequiredTables::Site => {
            let mut needed = SITE_TABLES.required_columns();
            if let Some(missing) = needed.find(|column| !columns.contains(column)) {
                return Err(StoreError::Unfit(format!(
                    "the database has no column {missing}, which mode private needs; `hayate migrate` makes \
                     the tables of an empty database"
                )));
            }
        }
    }
    let ip6 = columns.contains(&sets::IP6.text().to_lowercase());
    Ok(DatabaseFeatures {
        journal,
        ip6,
        purge_index: None,
        row_index: None,
        hit_and_run_index: None,
        required,
    })
}

/// Returns the indexes of the history: the name of each, and its first two columns in lower case.
fn read_indexes(connection: &mut Conn) -> mysql::Result<Vec<(String, String)>> {
    let sql = "SELECT INDEX_NAME, GROUP_CONCAT(LOWER(COLUMN_NAME) ORDER BY SEQ_IN_INDEX)
         FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE()
             AND TABLE_NAME = ? AND SEQ_IN_INDEX <= 2 GROUP BY INDEX_NAME";
    connection.exec(sql, (sets::HISTORY.text(),))
}

/// Returns the quoted name of an index that begins with these columns.
fn index_on(indexes: &[(String, String)], columns: [SiteSql; 2]) -> Option<String> {
    let columns = columns.map(|column| column.text().to_lowercase()).join(",");
    let (name, _) = indexes.iter().find(|(_, begins)| *begins == columns)?;
    Some(format!("`{}`", name.replace('`', "``")))
}

/// Whether the other side closed the connection before a statement was sent.
pub(super) fn is_closed(error: &mysql::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        mysql::Error::IoError(error) => {
            matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        }
        // What a server reports while it closes: killed, shutting down, idle for too long (4031 of MySQL).
        mysql::Error::MySqlError(error) => matches!(error.code, 1053 | 1927 | 4031),
        mysql::Error::CodecError(_) => true,
        _ => false,
    }
}

/// The text of an error; one that is not the server's own lacks the words that the client library adds.
pub(super) fn error_text(error: &mysql::Error) -> String {
    match error {
        mysql::Error::IoError(error) if error.kind() == io::ErrorKind::WouldBlock => {
            format!("the database did not answer within {} s", SOCKET_TIMEOUT.as_secs())
        }
        mysql::Error::IoError(error) => error.to_string(),
        mysql::Error::DriverError(error) => error.to_string(),
        mysql::Error::CodecError(error) => error.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> HashSet<String> {
        SITE_TABLES.required_columns().collect()
    }

    #[test]
    fn a_site_may_be_without_hayates_tables_but_not_without_its_own() {
        let mut columns = site();
        let fitness = check_columns(&columns, RequiredTables::Site).unwrap();
        assert!(!fitness.journal && !fitness.ip6);
        assert_eq!(fitness.warnings().len(), 3);
        columns.remove("users_main.rawup");
        let error = check_columns(&columns, RequiredTables::Site).unwrap_err().to_string();
        assert!(error.starts_with("the database has no column users_main.rawup, "), "{error}");
    }

    #[test]
    fn open_and_listed_mode_need_our_tables() {
        let mut columns = site();
        let needs = |columns: &HashSet<String>| {
            check_columns(columns, RequiredTables::Own).map_err(|error| error.to_string())
        };
        let says = "the database has no column hayate_completed.info_hash: run `hayate migrate`";
        assert_eq!(needs(&columns), Err(says.to_owned()));
        columns.extend(
            ["info_hash", "completed", "last_completed"].map(|name| format!("hayate_completed.{name}")),
        );
        let says = "the database has no column hayate_journal.seq: run `hayate migrate`";
        assert_eq!(needs(&columns), Err(says.to_owned()));
        columns.extend(["node", "queue", "seq"].map(|name| format!("hayate_journal.{name}")));
        assert_eq!(needs(&columns).unwrap().warnings(), [""; 0]);
    }
}
