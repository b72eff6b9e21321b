//! What is read of a site: the sets of mode private, and listings for people.

use super::SiteSql;
use crate::store::site_rows::SiteSet;
use crate::store::site_tables::SITE_TABLES;

/// A query for the rows of a set in one table.
pub(in crate::store) struct TableQuery {
    /// The columns that are read.
    pub(in crate::store) columns: String,
    /// The table, with its alias.
    pub(in crate::store) table: String,
    /// Another table whose row is looked up by its primary key; empty = none.
    pub(in crate::store) join: String,
    /// The condition of the rows.
    pub(in crate::store) condition: String,
    /// The columns by which the table can be read slice by slice: an index begins with them, and only few
    /// rows have the same values.
    pub(in crate::store) key: Vec<String>,
    /// Whether rows come in the order of the key: of two rows that mean the same the later one counts.
    pub(in crate::store) ordered: bool,
    /// The condition of an index that has all rows of the set and few others, where there is such an index.
    pub(in crate::store) index_condition: Option<String>,
    /// Whether it reads the history, whose indexes the optimizer cannot be trusted with.
    pub(in crate::store) is_history: bool,
}

/// The columns of an index by which hit-and-runs are read.
pub(in crate::store) const HIT_AND_RUN_INDEX: [SiteSql; 2] =
    [SiteSql("{history.hit_and_run}"), SiteSql("{history.user}")];
/// The columns of the primary key of the history.
pub(in crate::store) const HISTORY_KEY: [SiteSql; 2] =
    [SiteSql("{history.user}"), SiteSql("{history.torrent}")];
/// The table of the history.
pub(in crate::store) const HISTORY: SiteSql = SiteSql("{history}");
/// The column of IPv6 addresses, which a database may lack, as `table.column`.
pub(in crate::store) const IP6: SiteSql = SiteSql("{addresses}.{addresses.ip6}");
/// The columns that mode listed needs.
pub(in crate::store) const REGISTERED: [SiteSql; 3] = [
    SiteSql("{torrents}.{torrents.id}"),
    SiteSql("{torrents}.{torrents.info_hash}"),
    SiteSql("{torrents}.{torrents.type}"),
];

/// The columns of a user behind the passkey that make a [`UserAccount`](crate::snapshot::site::UserAccount).
macro_rules! user {
    ($passkey:literal) => {
        concat!(
            $passkey,
            ", u.{users.id}, u.{users.no_download}, u.{users.hidden}, u.{users.up}, u.{users.down}"
        )
    };
}

impl TableQuery {
    fn new(columns: &str, table: &str, key: &[&str]) -> Self {
        let names = |template: &str| SITE_TABLES.expand(template);
        Self {
            columns: names(columns),
            table: names(table),
            join: String::new(),
            condition: String::new(),
            key: key.iter().map(|column| names(column)).collect(),
            ordered: false,
            index_condition: None,
            is_history: false,
        }
    }

    fn join(self, join: &str) -> Self {
        Self { join: SITE_TABLES.expand(join), ..self }
    }

    fn filtered(self, condition: &str) -> Self {
        Self { condition: SITE_TABLES.expand(condition), ..self }
    }

    /// Returns the statement that reads all rows at once.
    pub(in crate::store) fn select_all(&self) -> String {
        let Self { columns, table, join, condition, key, ordered, .. } = self;
        let condition = if condition.is_empty() { "1" } else { condition };
        let order = if *ordered { format!(" ORDER BY {}", key.join(", ")) } else { String::new() };
        format!("SELECT {columns} FROM {table} {join} WHERE {condition}{order}")
    }
}

fn torrents_query(columns: &str) -> TableQuery {
    TableQuery::new(columns, "{torrents}", &["{torrents.id}"]).filtered("{torrents.type} != 'internal'")
}

/// Returns the query for the registered torrents, with the info_hash only.
pub(in crate::store) fn registered_query() -> TableQuery {
    torrents_query("{torrents.info_hash}")
}

/// Returns the queries for a set, in this order; `now` is the expression for Unix seconds in this database.
pub(in crate::store) fn set_queries(set: SiteSet, now: &str) -> Vec<TableQuery> {
    let source = match set {
        SiteSet::Users => {
            // Replaced passkeys come first: a passkey that a user has now belongs to that user.
            let retired = TableQuery::new(user!("p.passkey"), "hayate_passkeys AS p", &["p.passkey"])
                .join("JOIN {users} AS u ON u.{users.id} = p.uid")
                .filtered(&format!("u.{{users.enabled}} = '1' AND p.good_until > {now}"));
            let users = TableQuery::new(user!("u.{users.passkey}"), "{users} AS u", &["u.{users.id}"]);
            return vec![retired, TableQuery { ordered: true, ..users.filtered("u.{users.enabled} = '1'") }];
        }
        SiteSet::HitAndRuns => {
            let key = ["h.{history.user}", "h.{history.torrent}"];
            let all = TableQuery::new("h.{history.user}, h.{history.torrent}", "{history} AS h", &key)
                .join("JOIN {users} AS u ON u.{users.id} = h.{history.user}")
                .filtered("h.{history.hit_and_run} = 1 AND u.{users.enabled} = '1'");
            let index_condition = Some(SITE_TABLES.expand("h.{history.hit_and_run} = 1"));
            TableQuery { index_condition, is_history: true, ..all }
        }
        SiteSet::Torrents => torrents_query(
            "{torrents.info_hash}, {torrents.id}, {torrents.type}, {torrents.group}, {torrents.snatched}, \
             {torrents.status}, {torrents.up}, {torrents.down}",
        ),
        SiteSet::GroupMultipliers => TableQuery::new(
            "{groups.type}, {groups.id}, {groups.up}, {groups.down}",
            "{groups}",
            &["{groups.id}"],
        ),
        SiteSet::GlobalFreeleech => TableQuery::new("{settings.value}", "{settings}", &["{settings.name}"])
            .filtered("{settings.name} = 'global_freeleech'"),
        SiteSet::Clients => TableQuery::new("{clients.id}, {clients.prefix}", "{clients}", &["{clients.id}"])
            .filtered("{clients.archived} = 0"),
        SiteSet::Tokens => TableQuery::new("uid, fid", "hayate_tokens", &["uid", "fid"]),
        SiteSet::Deletions => TableQuery::new("info_hash, reason", "hayate_deletions", &["info_hash"]),
        SiteSet::Counts => torrents_query("{torrents.info_hash}, {torrents.seeders}, {torrents.leechers}"),
    };
    vec![source]
}

/// What the command line lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// All users.
    Users,
    /// All torrents.
    Torrents,
    /// All client prefixes, archived ones too.
    Clients,
    /// hayate's own: freeleech tokens.
    Tokens,
    /// The multipliers of torrent groups.
    Groups,
}

impl Listing {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Users, Self::Torrents, Self::Clients, Self::Tokens, Self::Groups];

    /// Returns the names of the columns in the database, in the order of a row.
    #[must_use]
    pub fn columns(self) -> Vec<String> {
        let columns: &[&str] = match self {
            Self::Users => &[
                "{users.id}",
                "{users.enabled}",
                "{users.uploaded}",
                "{users.downloaded}",
                "{users.up}",
                "{users.down}",
                "{users.no_download}",
                "{users.hidden}",
            ],
            Self::Torrents => &[
                "{torrents.id}",
                "{torrents.info_hash}",
                "{torrents.type}",
                "{torrents.group}",
                "{torrents.seeders}",
                "{torrents.leechers}",
                "{torrents.snatched}",
                "{torrents.up}",
                "{torrents.down}",
                "{torrents.status}",
            ],
            Self::Clients => &["{clients.id}", "{clients.prefix}", "{clients.archived}"],
            Self::Tokens => &["uid", "fid"],
            Self::Groups => &["{groups.type}", "{groups.id}", "{groups.up}", "{groups.down}"],
        };
        columns.iter().map(|column| SITE_TABLES.expand(column)).collect()
    }

    /// Returns the statement for the rows behind `from`, but not behind `until`, in order. Values: the two.
    #[must_use]
    pub fn slice(self, behind: bool, until: bool) -> String {
        let until = if until { format!("AND {} <= ?", self.key()) } else { String::new() };
        format!("{} WHERE {} {until} ORDER BY {}", self.select(), self.behind(behind), self.order())
    }

    /// Returns the statement for the key of the last row of a slice of `rows` rows. Value: the key of the
    /// last row before, if there is one.
    #[must_use]
    pub fn slice_end(self, behind: bool, rows: usize) -> String {
        let (key, table, behind) = (self.key(), self.table(), self.behind(behind));
        format!("SELECT {key} FROM {table} WHERE {behind} ORDER BY {key} LIMIT 1 OFFSET {}", rows - 1)
    }

    fn behind(self, behind: bool) -> String {
        if behind { format!("{} > ?", self.key()) } else { "1 = 1".to_owned() }
    }

    pub(super) fn select(self) -> String {
        format!("SELECT {} FROM {}", self.columns().join(", "), self.table())
    }

    fn table(self) -> String {
        SITE_TABLES.expand(match self {
            Self::Users => "{users}",
            Self::Torrents => "{torrents}",
            Self::Clients => "{clients}",
            Self::Tokens => "hayate_tokens",
            Self::Groups => "{groups}",
        })
    }

    /// The columns by which rows are sorted.
    pub(super) fn order(self) -> String {
        SITE_TABLES.expand(match self {
            Self::Users => "{users.id}",
            Self::Torrents => "{torrents.id}",
            Self::Clients => "{clients.id}",
            Self::Tokens => "uid, fid",
            Self::Groups => "{groups.id}, {groups.type}",
        })
    }

    /// The first of these columns, which few rows have in common: a slice ends with one of its values.
    fn key(self) -> String {
        let order = self.order();
        order.split(',').next().unwrap_or(&order).to_owned()
    }
}
