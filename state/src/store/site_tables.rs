//! The tables of a site: what they and their columns are called. All statements about them are in `site_sql`,
//! and name them as this module does: a site with other names is another [`SiteTables`].

/// The names of a site's tables.
#[derive(Debug)]
pub(crate) struct SiteTables(&'static [SiteTable]);

/// One table.
#[derive(Debug)]
struct SiteTable {
    /// Its name in statements.
    name: &'static str,
    /// Its name in the database.
    table: &'static str,
    /// The columns: the name of each in statements, and in the database.
    columns: &'static [(&'static str, &'static str)],
    /// Columns that a database may lack.
    optional: &'static [(&'static str, &'static str)],
}

/// The tables of the reference tracker, which `hayate migrate` makes in an empty database.
pub(crate) static SITE_TABLES: SiteTables = SiteTables(&[
    SiteTable {
        name: "clients",
        table: "approved_clients",
        columns: &[("id", "id"), ("prefix", "peer_id"), ("archived", "archived")],
        optional: &[],
    },
    SiteTable {
        name: "settings",
        table: "mod_core",
        columns: &[("name", "mod_option"), ("value", "mod_setting")],
        optional: &[],
    },
    SiteTable {
        name: "groups",
        table: "torrent_group_freeleech",
        columns: &[("id", "GroupID"), ("type", "Type"), ("down", "DownMultiplier"), ("up", "UpMultiplier")],
        optional: &[],
    },
    SiteTable {
        name: "torrents",
        table: "torrents",
        columns: &[
            ("id", "ID"),
            ("group", "GroupID"),
            ("type", "TorrentType"),
            ("info_hash", "info_hash"),
            ("leechers", "Leechers"),
            ("seeders", "Seeders"),
            ("last_action", "last_action"),
            ("snatched", "Snatched"),
            ("down", "DownMultiplier"),
            ("up", "UpMultiplier"),
            ("status", "Status"),
        ],
        optional: &[],
    },
    SiteTable {
        name: "history",
        table: "transfer_history",
        columns: &[
            ("user", "uid"),
            ("torrent", "fid"),
            ("uploaded", "uploaded"),
            ("downloaded", "downloaded"),
            ("seeding", "seeding"),
            ("seed_time", "seedtime"),
            ("active_time", "activetime"),
            ("hit_and_run", "hnr"),
            ("remaining", "remaining"),
            ("active", "active"),
            ("started", "starttime"),
            ("last_announce", "last_announce"),
            ("snatched", "snatched"),
            ("snatched_at", "snatched_time"),
        ],
        optional: &[],
    },
    SiteTable {
        name: "addresses",
        table: "transfer_ips",
        columns: &[
            ("last_announce", "last_announce"),
            ("started", "starttime"),
            ("user", "uid"),
            ("torrent", "fid"),
            ("ip", "ip"),
            ("client", "client_id"),
            ("uploaded", "uploaded"),
            ("downloaded", "downloaded"),
            ("port", "port"),
        ],
        optional: &[("ip6", "ip6")],
    },
    SiteTable {
        name: "users",
        table: "users_main",
        columns: &[
            ("id", "ID"),
            ("uploaded", "Uploaded"),
            ("downloaded", "Downloaded"),
            ("enabled", "Enabled"),
            ("passkey", "torrent_pass"),
            ("raw_up", "rawup"),
            ("raw_down", "rawdl"),
            ("down", "DownMultiplier"),
            ("up", "UpMultiplier"),
            ("no_download", "DisableDownload"),
            ("hidden", "TrackerHide"),
        ],
        optional: &[],
    },
]);

impl SiteTables {
    /// Returns a statement with the names of this site: `{users}` stands for a table, and `{users.id}` for a
    /// column. A name that no table has stays as it is.
    #[must_use]
    pub(crate) fn expand(&self, template: &str) -> String {
        let mut text = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, (name, behind))) =
            rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            text.push_str(before);
            match self.find_name(name) {
                Some(found) => text.push_str(found),
                None => text.extend(["{", name, "}"]),
            }
            rest = behind;
        }
        text + rest
    }

    /// Returns the columns that a site must have, as `table.column` in lower case.
    pub(crate) fn required_columns(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|site_table| {
            site_table
                .columns
                .iter()
                .map(|(_, column)| format!("{}.{column}", site_table.table).to_lowercase())
        })
    }

    /// Returns the names of the tables in the database.
    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|site_table| site_table.table)
    }

    fn find_name(&self, name: &str) -> Option<&'static str> {
        let (table, column) = match name.split_once('.') {
            Some((table, column)) => (table, Some(column)),
            None => (name, None),
        };
        let site_table = self.0.iter().find(|site_table| site_table.name == table)?;
        let Some(column) = column else { return Some(site_table.table) };
        let mut columns = site_table.columns.iter().chain(site_table.optional);
        columns.find(|(known, _)| *known == column).map(|(_, found)| *found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_and_columns_are_replaced() {
        let expanded = SITE_TABLES.expand("UPDATE {users} AS u SET u.{users.no_download} = ?");
        assert_eq!(expanded, "UPDATE users_main AS u SET u.DisableDownload = ?");
        assert_eq!(SITE_TABLES.expand("{addresses.ip6} {users.name} {"), "ip6 {users.name} {");
    }
}
