//! All statements about the tables of a site, for both stores, with the names that `site_tables` gives them.
//! Those about hayate's own tables alone are where they are used.
//!
//! | module | what is in it |
//! |---|---|
//! | `rows` | the writer: a row for SQLite, many rows for MariaDB |
//! | `sets` | what mode private reads, set by set, and what a listing reads |
//! | `purge` | silent peers become inactive |
//! | `edits` | changes that people and back ends make |

pub(crate) mod edits;
pub(super) mod purge;
pub(super) mod rows;
pub mod sets;

use super::site_tables::SITE_TABLES;

/// A statement with names in braces; see [`SiteTables::expand`](super::site_tables::SiteTables::expand).
#[derive(Clone, Copy, Debug)]
pub(crate) struct SiteSql(pub(crate) &'static str);

impl SiteSql {
    /// Returns the statement with the names of the site.
    pub(crate) fn text(self) -> String {
        SITE_TABLES.expand(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;

    use super::super::site_rows::SiteSet;
    use super::*;

    /// Returns every statement by its name.
    fn all_statements() -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        rows::name_all(&mut |name, text| _ = all.insert(format!("row, {name}"), text.to_owned()));
        for set in SiteSet::ALL {
            for (at, source) in sets::set_queries(set, "NOW").iter().enumerate() {
                all.insert(format!("set, {} {at}", set.name()), source.select_all());
            }
        }
        all.insert("set, registered".to_owned(), sets::registered_query().select_all());
        for listing in sets::Listing::ALL {
            let text = format!("{} ORDER BY {}", listing.select(), listing.order());
            all.insert(format!("listing, {listing:?}"), text);
        }
        all.extend(purge::all().map(|(name, text)| (format!("purge, {name}"), text)));
        all.extend(edits::ALL.iter().map(|(name, sql)| (format!("edit, {name}"), sql.text())));
        all
    }

    /// Every statement as the database gets it: a change of one is seen in the file. With
    /// `HAYATE_WRITE_STATEMENTS` set the file is written anew.
    #[test]
    fn statements_are_those_of_the_file() {
        let mut text = String::new();
        for (name, statement) in all_statements() {
            assert!(!statement.contains('{'), "{name}: {statement}");
            let words: Vec<_> = statement.split_whitespace().collect();
            writeln!(text, "{name}\n    {}\n", words.join(" ")).unwrap();
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/site_sql/statements.txt");
        if std::env::var_os("HAYATE_WRITE_STATEMENTS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
    }
}
