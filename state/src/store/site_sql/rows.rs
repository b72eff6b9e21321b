//! The statements of the writer: one row each for SQLite, many rows for MariaDB, whose table value
//! constructors in a union and `VALUE(column)` require version 10.3.3.

use std::sync::LazyLock;

use crate::store::record::Record;
use crate::store::site_tables::SITE_TABLES;
use crate::store::sums::{amount, count, sum};

/// The statements for SQLite. Values are numbered in the order of the fields of a row.
pub(in crate::store) struct SqliteRows {
    pub(in crate::store) torrent: String,
    /// For a torrent without counts.
    pub(in crate::store) torrent_unprune: String,
    pub(in crate::store) user: String,
    pub(in crate::store) transfer: String,
    pub(in crate::store) transfer_ip: String,
    pub(in crate::store) snatch: String,
    pub(in crate::store) completed: String,
}

pub(in crate::store) static SQLITE_ROWS: LazyLock<SqliteRows> = LazyLock::new(|| SqliteRows {
    torrent: SITE_TABLES.expand(concat!(
        "UPDATE {torrents} SET ",
        sum!("{torrents.snatched}", "?2", "4294967295"),
        ", {torrents.seeders} = ?3, {torrents.leechers} = ?4,
            {torrents.last_action} = max({torrents.last_action}, ?5),
            {torrents.status} = iif(?6, 0, {torrents.status}) WHERE {torrents.id} = ?1"
    )),
    torrent_unprune: SITE_TABLES.expand(
        "UPDATE {torrents} SET {torrents.status} = iif(?2, 0, {torrents.status}) WHERE {torrents.id} = ?1",
    ),
    user: SITE_TABLES.expand(concat!(
        "UPDATE {users} SET ",
        amount!("{users.uploaded}", "?2"),
        ", ",
        amount!("{users.downloaded}", "?3"),
        ", ",
        amount!("{users.raw_up}", "?4"),
        ", ",
        amount!("{users.raw_down}", "?5"),
        " WHERE {users.id} = ?1"
    )),
    transfer: SITE_TABLES.expand(concat!(
        "INSERT INTO {history} ({history.user}, {history.torrent}, {history.uploaded}, {history.downloaded},
            {history.seeding}, {history.started}, {history.last_announce}, {history.active_time},
            {history.seed_time}, {history.active}, {history.snatched}, {history.remaining})
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
        ON CONFLICT ({history.user}, {history.torrent}) DO UPDATE SET ",
        amount!("{history.uploaded}", "excluded.{history.uploaded}"),
        ", ",
        amount!("{history.downloaded}", "excluded.{history.downloaded}"),
        ", ",
        count!("{history.active_time}", "excluded.{history.active_time}"),
        ", ",
        count!("{history.seed_time}", "excluded.{history.seed_time}"),
        ", ",
        count!("{history.snatched}", "excluded.{history.snatched}"),
        ", {history.seeding} = excluded.{history.seeding},
            {history.last_announce} = excluded.{history.last_announce},
            {history.active} = excluded.{history.active},
            {history.remaining} = excluded.{history.remaining}"
    )),
    transfer_ip: SITE_TABLES.expand(concat!(
        "INSERT INTO {addresses} ({addresses.user}, {addresses.torrent}, {addresses.client}, {addresses.ip},
            {addresses.port}, {addresses.uploaded}, {addresses.downloaded}, {addresses.started},
            {addresses.last_announce}, {addresses.ip6})
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
        ON CONFLICT ({addresses.user}, {addresses.torrent}, {addresses.ip}, {addresses.client})
        DO UPDATE SET ",
        amount!("{addresses.uploaded}", "excluded.{addresses.uploaded}"),
        ", ",
        amount!("{addresses.downloaded}", "excluded.{addresses.downloaded}"),
        ", {addresses.port} = excluded.{addresses.port},
            {addresses.last_announce} = excluded.{addresses.last_announce}"
    )),
    snatch: SITE_TABLES.expand(
        "INSERT INTO {history} ({history.user}, {history.torrent}, {history.snatched_at}, {history.started})
        VALUES (?1, ?2, ?3, ?4) ON CONFLICT ({history.user}, {history.torrent}) DO UPDATE
        SET {history.snatched_at} =
            iif({history.snatched_at} = 0, excluded.{history.snatched_at}, {history.snatched_at})",
    ),
    completed: concat!(
        "INSERT INTO hayate_completed (info_hash, completed, last_completed) VALUES (?1, ?2, ?3)
        ON CONFLICT (info_hash) DO UPDATE SET ",
        sum!("completed", "excluded.completed", "4294967295"),
        ", last_completed = excluded.last_completed"
    )
    .to_owned(),
});

/// The text before and behind the rows of a statement for MariaDB.
#[derive(PartialEq, Eq)]
pub(in crate::store) struct StatementShape {
    pub(in crate::store) head: String,
    pub(in crate::store) tail: String,
    /// Whether missing rows are counted, and not created.
    pub(in crate::store) counted: bool,
}

/// The statements for MariaDB.
struct MariadbRows {
    torrent: StatementShape,
    user: StatementShape,
    transfer: StatementShape,
    transfer_ip: StatementShape,
    transfer_ip_without_ip6: StatementShape,
    snatch: StatementShape,
    completed: StatementShape,
}

const TRANSFER_IP_TAIL: &str = concat!(
    " ON DUPLICATE KEY UPDATE ",
    amount!("{addresses.uploaded}", "VALUE({addresses.uploaded})"),
    ", ",
    amount!("{addresses.downloaded}", "VALUE({addresses.downloaded})"),
    ", {addresses.port} = VALUE({addresses.port}), \
       {addresses.last_announce} = VALUE({addresses.last_announce})"
);

// The joined rows come first, and are looked up by the primary key: in the other order the whole table would
// be read and locked. The union with an empty row set gives the columns their names.
static MARIADB_ROWS: LazyLock<MariadbRows> = LazyLock::new(|| MariadbRows {
    torrent: StatementShape::updating(
        "UPDATE (SELECT 0 AS id, 0 AS snatched, 0 AS seeders, 0 AS leechers, 0 AS last_action, \
         0 AS unprune, 0 AS counts FROM DUAL WHERE 0 UNION ALL VALUES ",
        concat!(
            ") AS d STRAIGHT_JOIN {torrents} AS t ON t.{torrents.id} = d.id SET ",
            sum!("t.{torrents.snatched}", "(d.counts * d.snatched)", "4294967295"),
            ", t.{torrents.seeders} = IF(d.counts, d.seeders, t.{torrents.seeders}), \
               t.{torrents.leechers} = IF(d.counts, d.leechers, t.{torrents.leechers}), \
               t.{torrents.last_action} = IF(d.counts, GREATEST(t.{torrents.last_action}, d.last_action), \
               t.{torrents.last_action}), \
               t.{torrents.status} = IF(d.unprune, 0, t.{torrents.status})"
        ),
    ),
    user: StatementShape::updating(
        "UPDATE (SELECT 0 AS id, 0 AS up, 0 AS down, 0 AS raw_up, 0 AS raw_down FROM DUAL WHERE 0 \
         UNION ALL VALUES ",
        concat!(
            ") AS d STRAIGHT_JOIN {users} AS u ON u.{users.id} = d.id SET ",
            amount!("u.{users.uploaded}", "d.up"),
            ", ",
            amount!("u.{users.downloaded}", "d.down"),
            ", ",
            amount!("u.{users.raw_up}", "d.raw_up"),
            ", ",
            amount!("u.{users.raw_down}", "d.raw_down")
        ),
    ),
    transfer: StatementShape::inserting(
        "INSERT INTO {history} ({history.user}, {history.torrent}, {history.uploaded}, \
         {history.downloaded}, {history.seeding}, {history.started}, {history.last_announce}, \
         {history.active_time}, {history.seed_time}, {history.active}, {history.snatched}, \
         {history.remaining}) VALUES ",
        concat!(
            " ON DUPLICATE KEY UPDATE ",
            amount!("{history.uploaded}", "VALUE({history.uploaded})"),
            ", ",
            amount!("{history.downloaded}", "VALUE({history.downloaded})"),
            ", ",
            count!("{history.active_time}", "VALUE({history.active_time})"),
            ", ",
            count!("{history.seed_time}", "VALUE({history.seed_time})"),
            ", ",
            count!("{history.snatched}", "VALUE({history.snatched})"),
            ", {history.seeding} = VALUE({history.seeding}), \
               {history.last_announce} = VALUE({history.last_announce}), \
               {history.active} = VALUE({history.active}), \
               {history.remaining} = VALUE({history.remaining})"
        ),
    ),
    transfer_ip: StatementShape::inserting(
        "INSERT INTO {addresses} ({addresses.user}, {addresses.torrent}, {addresses.client}, \
         {addresses.ip}, {addresses.port}, {addresses.uploaded}, {addresses.downloaded}, \
         {addresses.started}, {addresses.last_announce}, {addresses.ip6}) VALUES ",
        TRANSFER_IP_TAIL,
    ),
    transfer_ip_without_ip6: StatementShape::inserting(
        "INSERT INTO {addresses} ({addresses.user}, {addresses.torrent}, {addresses.client}, \
         {addresses.ip}, {addresses.port}, {addresses.uploaded}, {addresses.downloaded}, \
         {addresses.started}, {addresses.last_announce}) VALUES ",
        TRANSFER_IP_TAIL,
    ),
    snatch: StatementShape::inserting(
        "INSERT INTO {history} ({history.user}, {history.torrent}, {history.snatched_at}, \
         {history.started}) VALUES ",
        " ON DUPLICATE KEY UPDATE {history.snatched_at} = \
         IF({history.snatched_at} = 0, VALUE({history.snatched_at}), {history.snatched_at})",
    ),
    completed: StatementShape::inserting(
        "INSERT INTO hayate_completed (info_hash, completed, last_completed) VALUES ",
        concat!(
            " ON DUPLICATE KEY UPDATE ",
            sum!("completed", "VALUE(completed)", "4294967295"),
            ", last_completed = VALUE(last_completed)"
        ),
    ),
});

impl StatementShape {
    fn updating(head: &str, tail: &str) -> Self {
        Self { head: SITE_TABLES.expand(head), tail: SITE_TABLES.expand(tail), counted: true }
    }

    fn inserting(head: &str, tail: &str) -> Self {
        Self { counted: false, ..Self::updating(head, tail) }
    }

    /// Returns the statement for a record; `None` for what is no row. `ip6`: whether the table of addresses
    /// has a column for IPv6.
    pub(in crate::store) fn of_record(record: &Record, ip6: bool) -> Option<&'static Self> {
        let shapes = &*MARIADB_ROWS;
        Some(match record {
            Record::Torrent(_) => &shapes.torrent,
            Record::User(_) => &shapes.user,
            Record::Transfer(_) => &shapes.transfer,
            Record::TransferIp(_) if ip6 => &shapes.transfer_ip,
            Record::TransferIp(_) => &shapes.transfer_ip_without_ip6,
            Record::Snatch(_) => &shapes.snatch,
            Record::Completed(_) => &shapes.completed,
            Record::Purge { .. } => return None,
        })
    }
}

/// Passes the name and text of every statement to `each`.
#[cfg(test)]
pub(super) fn name_all(each: &mut dyn FnMut(&str, &str)) {
    let sqlite = &*SQLITE_ROWS;
    each("SQLite torrent", &sqlite.torrent);
    each("SQLite torrent, unprune", &sqlite.torrent_unprune);
    each("SQLite user", &sqlite.user);
    each("SQLite transfer", &sqlite.transfer);
    each("SQLite transfer_ip", &sqlite.transfer_ip);
    each("SQLite snatch", &sqlite.snatch);
    each("SQLite completed", &sqlite.completed);
    let mariadb = &*MARIADB_ROWS;
    for (name, StatementShape { head, tail, .. }) in [
        ("MariaDB torrent", &mariadb.torrent),
        ("MariaDB user", &mariadb.user),
        ("MariaDB transfer", &mariadb.transfer),
        ("MariaDB transfer_ip", &mariadb.transfer_ip),
        ("MariaDB transfer_ip, without ip6", &mariadb.transfer_ip_without_ip6),
        ("MariaDB snatch", &mariadb.snatch),
        ("MariaDB completed", &mariadb.completed),
    ] {
        each(name, &format!("{head}ROWS{tail}"));
    }
}
