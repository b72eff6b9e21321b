//! What mode private reads: the sets of the fixture, rows that cannot be read, missing tables.

use hayate_state::snapshot::site::{Group, Multipliers, UserAccount};
use hayate_state::store::{Dsn, RegisteredTorrent, SiteRow, SiteSet, Store};
use hayate_state::{Clock, InfoHash};

use crate::{TestDatabase, on_both};

const PLAIN: Multipliers = Multipliers { up: 1.0, down: 1.0 };

/// The rows of a set in the order in which they are read, and the number of those left out.
pub(crate) fn read(store: &mut dyn Store, set: SiteSet) -> (Vec<SiteRow>, u64) {
    let mut rows = Vec::new();
    let skipped = store.read_rows(set, &mut |row| rows.extend(row)).unwrap();
    (rows, skipped)
}

fn is_mariadb(database: &TestDatabase) -> bool {
    matches!(database.backend.dsn(), Dsn::Mariadb(_))
}

fn now() -> u64 {
    Clock::start().now().unix_seconds
}

fn user(id: u32, passkey: &str, restricted: bool, multipliers: Multipliers) -> SiteRow {
    SiteRow::User(UserAccount {
        passkey: passkey.as_bytes().into(),
        id,
        disable_download: restricted,
        tracker_hide: restricted,
        multipliers,
    })
}

fn torrent(hash: &str, id: u32, group: (&str, u32), counts: (u32, i32), multipliers: Multipliers) -> SiteRow {
    SiteRow::Torrent(RegisteredTorrent {
        info_hash: hash.parse().unwrap(),
        id,
        group: Group { type_name: group.0.into(), id: group.1 },
        snatched: counts.0,
        status: counts.1,
        multipliers,
    })
}

/// Passkeys and ids of the users, in their order.
fn passkeys(store: &mut dyn Store) -> Vec<(u32, String)> {
    let (rows, skipped) = read(store, SiteSet::Users);
    assert_eq!(skipped, 0);
    let pair = |row| match row {
        SiteRow::User(user) => (user.id, String::from_utf8(user.passkey.into()).unwrap()),
        other => panic!("{other:?}"),
    };
    rows.into_iter().map(pair).collect()
}

#[test]
fn the_fixture_is_read_with_all_its_fields_and_the_second_time_is_the_same() {
    let own = Multipliers { up: 0.5, down: 2.0 };
    let expected = [
        (
            SiteSet::Users,
            vec![
                user(1, "aLk3vXy9QdT7mWc2ZpRfH5sJb8NeGu41", false, PLAIN),
                user(2, "Bz8rKq4Yt6MvHn2Wc9JxPd7Lf3SgEa50", true, own),
            ],
        ),
        (SiteSet::HitAndRuns, vec![SiteRow::HitAndRun { uid: 2, fid: 2 }]),
        (
            SiteSet::Torrents,
            vec![
                torrent("8a1f3c5e7092b4d6f80a1c2e405264768898aabc", 1, ("anime", 1), (2, 1), PLAIN),
                torrent("2b4d6f8193a5b7c9dbedff11335577990badcafe", 2, ("music", 1), (0, 0), own),
                torrent("4c6e80a2b4c6d8eafc0e20426486a8caecfe1023", 3, ("anime", 2), (0, 0), PLAIN),
            ],
        ),
        (
            SiteSet::GroupMultipliers,
            vec![SiteRow::GroupMultipliers(
                Group { type_name: "anime".into(), id: 2 },
                Multipliers { up: 2.0, down: 0.0 },
            )],
        ),
        (SiteSet::GlobalFreeleech, vec![SiteRow::GlobalFreeleech(0)]),
        (
            SiteSet::Clients,
            vec![SiteRow::Client(1, b"-TR2"[..].into()), SiteRow::Client(3, b"-DE13"[..].into())],
        ),
        (SiteSet::Tokens, vec![]),
        (SiteSet::Deletions, vec![]),
    ];
    on_both(&|database| {
        let mut store = database.backend.open_reader().unwrap();
        for _ in 0..2 {
            for (set, rows) in &expected {
                let (mut found, skipped) = read(&mut *store, *set);
                // Only users have an order.
                found.sort_by_key(|row| match row {
                    SiteRow::Torrent(torrent) => torrent.id,
                    SiteRow::Client(id, _) => *id,
                    _ => 0,
                });
                assert_eq!((&found, skipped), (rows, 0), "{set:?}");
            }
        }
    });
}

#[test]
fn multipliers_are_their_shortest_decimal_form_without_the_sign() {
    on_both(&|database| {
        database.sql("UPDATE users_main SET UpMultiplier = 0.1, DownMultiplier = -0.3 WHERE ID = 1");
        database.sql("UPDATE torrents SET UpMultiplier = -2, DownMultiplier = 0.7 WHERE ID = 3");
        let mut store = database.backend.open_reader().unwrap();
        let users = read(&mut *store, SiteSet::Users).0;
        let factors = |row: &SiteRow| match row {
            SiteRow::User(user) => (user.multipliers.up, user.multipliers.down),
            SiteRow::Torrent(torrent) => (torrent.multipliers.up, torrent.multipliers.down),
            other => panic!("{other:?}"),
        };
        assert_eq!(factors(&users[0]), (0.1, 0.3));
        let torrents = read(&mut *store, SiteSet::Torrents).0;
        assert!(torrents.iter().any(|torrent| factors(torrent) == (2.0, 0.7)), "{torrents:?}");
    });
}

#[test]
fn a_row_that_cannot_be_read_is_skipped_and_counted() {
    on_both(&|database| {
        if is_mariadb(database) {
            database.sql(
                "ALTER TABLE torrents MODIFY TorrentType varchar(40) NULL, MODIFY UpMultiplier float NULL",
            );
            database.sql("ALTER TABLE approved_clients MODIFY peer_id varchar(42) NULL");
        } else {
            // The tables of other sites may lack the strictness of these: the same tables without it.
            database.sql("ALTER TABLE torrents RENAME TO strict_torrents");
            database.sql("CREATE TABLE torrents AS SELECT * FROM strict_torrents");
            database.sql("ALTER TABLE approved_clients RENAME TO strict_clients");
            database.sql("CREATE TABLE approved_clients AS SELECT * FROM strict_clients");
        }
        let long = "a type of more than the eight octets of old, in plain text"[..40].to_owned();
        database.sql(&format!(
            "INSERT INTO torrents (ID, GroupID, TorrentType, info_hash, Leechers, Seeders, last_action, \
             Snatched, DownMultiplier, UpMultiplier, Status) VALUES \
             (11, 1, 'anime', X'AA', 0, 0, 0, 0, 1, 1, 0), \
             (12, 1, 'anime', X'{}', 0, 0, 0, 0, 1, NULL, 0), \
             (13, -1, 'anime', X'{}', 0, 0, 0, 0, 1, 1, 0), \
             (14, 1, NULL, X'{}', 0, 0, 0, 0, 1, 1, 0), \
             (15, 1, 'internal', X'BB', 0, 0, 0, 0, 1, 1, 0), \
             (16, 70000, '{long}', X'{}', 0, 0, 0, 4294967295, 1, 1, -7)",
            "12".repeat(20),
            "13".repeat(20),
            "14".repeat(20),
            "16".repeat(20),
        ));
        database.sql(
            "INSERT INTO approved_clients (id, peer_id, archived) VALUES (70000, NULL, 0), (80000, 'XY', 0)",
        );
        let mut store = database.backend.open_reader().unwrap();
        let (torrents, skipped) = read(&mut *store, SiteSet::Torrents);
        // 14 has no type, so it does not count as other than internal, and is not read at all.
        assert_eq!((torrents.len(), skipped), (4, 3));
        let wide = torrent(&"16".repeat(20), 16, (&long, 70_000), (u32::MAX, -7), PLAIN);
        assert!(torrents.contains(&wide), "{torrents:?}");
        let (clients, skipped) = read(&mut *store, SiteSet::Clients);
        assert_eq!((clients.len(), skipped), (3, 1));
        assert!(clients.contains(&SiteRow::Client(80_000, b"XY"[..].into())));
        assert!(
            !clients.iter().any(|client| matches!(client, SiteRow::Client(_, prefix) if prefix.is_empty()))
        );
    });
}

#[test]
fn of_two_users_with_one_passkey_the_higher_id_comes_last() {
    on_both(&|database| {
        database.sql(
            "INSERT INTO users_main (ID, Enabled, torrent_pass) VALUES (9, '1', 'same'), (7, '1', 'same')",
        );
        let users = passkeys(&mut *database.backend.open_reader().unwrap());
        assert_eq!(users.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 7, 9]);
    });
}

#[test]
fn a_retired_passkey_is_good_until_its_time_and_only_for_an_enabled_user() {
    on_both(&|database| {
        let (past, future) = (now() - 7, now() + 1000);
        database.sql(&format!(
            "INSERT INTO hayate_passkeys (passkey, uid, good_until) VALUES
             ('old', 1, {future}), ('gone', 1, {past}), ('disabled', 3, {future}),
             ('Bz8rKq4Yt6MvHn2Wc9JxPd7Lf3SgEa50', 1, {future}), ('nobody', 99, {future})"
        ));
        let users = passkeys(&mut *database.backend.open_reader().unwrap());
        assert!(users.contains(&(1, "old".into())));
        assert!(!users.iter().any(|(_, passkey)| ["gone", "disabled", "nobody"].contains(&&**passkey)));
        // The present user of a passkey comes behind a former one.
        let last = users.iter().rfind(|(_, passkey)| passkey.starts_with("Bz8"));
        assert_eq!(last.unwrap().0, 2);
    });
}

#[test]
fn hit_and_runs_of_users_who_are_not_enabled_are_left_out() {
    on_both(&|database| {
        database.sql("INSERT INTO transfer_history (uid, fid, hnr) VALUES (3, 3, 1), (99, 3, 1), (1, 3, 1)");
        let (mut rows, skipped) = read(&mut *database.backend.open_reader().unwrap(), SiteSet::HitAndRuns);
        rows.sort_by_key(|row| matches!(row, SiteRow::HitAndRun { uid: 2, .. }));
        let expected = [(1, 3), (2, 2)].map(|(uid, fid)| SiteRow::HitAndRun { uid, fid });
        assert_eq!((rows, skipped), (expected.to_vec(), 0));
    });
}

#[test]
fn hayates_own_sets_are_read_and_empty_where_there_are_no_tables_for_them() {
    on_both(&|database| {
        database.sql("INSERT INTO hayate_tokens (uid, fid) VALUES (1, 3)");
        let hash = "ab".repeat(20);
        database.sql(&format!("INSERT INTO hayate_deletions VALUES (X'{hash}', 'Dupe', 5)"));
        let mut store = database.backend.open_reader().unwrap();
        assert_eq!(read(&mut *store, SiteSet::Tokens), (vec![SiteRow::Token { uid: 1, fid: 3 }], 0));
        let deletion = SiteRow::Deletion(InfoHash([0xab; 20]), "Dupe".into());
        assert_eq!(read(&mut *store, SiteSet::Deletions), (vec![deletion], 0));
        if !is_mariadb(database) {
            // A file is migrated when it is opened.
            return;
        }
        database.sql("DROP TABLE hayate_tokens, hayate_deletions, hayate_passkeys, hayate_audit");
        for set in [SiteSet::Tokens, SiteSet::Deletions] {
            assert_eq!(read(&mut *store, set), (vec![], 0));
        }
        assert_eq!(passkeys(&mut *store).len(), 2);
        // But a table of the site must exist.
        database.sql("DROP TABLE mod_core");
        assert!(store.read_rows(SiteSet::GlobalFreeleech, &mut |_| {}).is_err());
    });
}

#[test]
fn a_database_of_the_first_schema_gets_what_it_lacks() {
    on_both(&|database| {
        database.sql("DROP TABLE hayate_tokens");
        database.sql("DROP TABLE hayate_deletions");
        database.sql("DROP TABLE hayate_passkeys");
        database.sql("DROP TABLE hayate_audit");
        database.sql("UPDATE hayate_schema SET version = 1");
        database.backend.migrate().unwrap();
        assert_eq!(database.sql("SELECT version FROM hayate_schema"), "4");
        assert_eq!(database.sql("SELECT count(*) FROM hayate_audit"), "0");
        assert_eq!(database.sql("SELECT count(*) FROM users_main"), "3");
        assert_eq!(passkeys(&mut *database.backend.open_reader().unwrap()).len(), 2);
    });
}
