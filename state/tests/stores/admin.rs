//! The commands on both stores: what they do, that running one twice is like once, which changes they pass to
//! a running tracker, and what the audit keeps.

use hayate_state::InfoHash;
use hayate_state::private::admin::{
    AdminCommand, AdminError, AdminOutcome, SiteChange, TorrentChange, UserRef, run_command,
};
use hayate_state::snapshot::site::{Group, Multipliers};
use hayate_state::store::{SiteRow, SiteSet, Store};

use crate::site_rows::read;
use crate::{TestDatabase, on_both};

const NOW: u64 = 4_000_000_000;
const PLAIN: &str = "aLk3vXy9QdT7mWc2ZpRfH5sJb8NeGu41";
const HASH: InfoHash = InfoHash([0x5a; 20]);
const FREE: &str = "4c6e80a2b4c6d8eafc0e20426486a8caecfe1023";

/// A site and the administrator who changes it.
struct TestAdmin<'p> {
    database: &'p TestDatabase,
    store: Box<dyn Store>,
}

impl<'p> TestAdmin<'p> {
    fn new(database: &'p TestDatabase) -> Self {
        Self { database, store: database.backend.open_reader().unwrap() }
    }

    fn run_at(&mut self, now: u64, command: &AdminCommand) -> Result<AdminOutcome, AdminError> {
        run_command(&mut *self.store, command, now, "a test")
    }

    fn run(&mut self, command: &AdminCommand) -> AdminOutcome {
        self.run_at(NOW, command).unwrap()
    }

    /// The word of an outcome, and the word when the command is run once more.
    fn run_twice(&mut self, command: &AdminCommand) -> [&'static str; 2] {
        [self.run(command).word, self.run(command).word]
    }

    fn passkeys(&mut self) -> Vec<(u32, String)> {
        let lines = read(&mut *self.store, SiteSet::Users).0.into_iter();
        lines.filter_map(user_of).collect()
    }

    fn sql(&self, sql: &str) -> String {
        self.database.sql(sql)
    }
}

fn user_of(line: SiteRow) -> Option<(u32, String)> {
    match line {
        SiteRow::User(user) => Some((user.id, String::from_utf8(user.passkey.into()).unwrap())),
        _ => None,
    }
}

/// Passkeys that a running tracker learns (with the id of their user) or forgets, in order.
fn passkey_changes(outcome: &AdminOutcome) -> Vec<(Option<u32>, String)> {
    let pair = |change: &SiteChange| match change {
        SiteChange::UpsertUser(user) => (Some(user.id), String::from_utf8_lossy(&user.passkey).into_owned()),
        SiteChange::RemovePasskey(passkey) => (None, String::from_utf8_lossy(passkey).into_owned()),
        other => panic!("{other:?}"),
    };
    outcome.changes.iter().map(pair).collect()
}

fn add_user(id: Option<u32>, passkey: &str) -> AdminCommand {
    AdminCommand::AddUser { id, passkey: passkey.to_owned() }
}

fn change_passkey(old: &str, new: &str, grace_seconds: u32) -> AdminCommand {
    AdminCommand::ChangePasskey { old: old.to_owned(), new: new.to_owned(), grace_seconds }
}

fn add_torrent(id: Option<u32>, info_hash: InfoHash, type_name: &str) -> AdminCommand {
    let group = Group { type_name: type_name.into(), id: 7 };
    AdminCommand::AddTorrent { id, info_hash, group, multipliers: Multipliers { up: 1.0, down: 0.1 } }
}

fn delete_torrent(info_hash: InfoHash, reason: &str) -> AdminCommand {
    AdminCommand::DeleteTorrent { info_hash, reason: reason.to_owned() }
}

fn set_torrent(info_hash: InfoHash, up: Option<f64>, down: Option<f64>) -> AdminCommand {
    AdminCommand::UpdateTorrent(info_hash, TorrentChange { up, down, ..TorrentChange::default() })
}

#[test]
fn users_come_change_and_go() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        assert_eq!(admin.run_twice(&add_user(Some(11), "eleven")), ["added", "unchanged"]);
        assert_eq!(admin.run_twice(&add_user(None, "next")), ["added", "unchanged"]);
        assert!(admin.passkeys().contains(&(12, "next".into())), "{:?}", admin.passkeys());
        let update = AdminCommand::UpdateUser {
            who: UserRef::Id(11),
            can_leech: Some(false),
            visible: Some(false),
            up: Some(0.1),
            down: None,
        };
        assert_eq!(admin.run_twice(&update), ["changed", "unchanged"]);
        let (lines, _) = read(&mut *admin.store, SiteSet::Users);
        let found = lines.iter().any(|line| {
            matches!(line, SiteRow::User(user) if user.id == 11 && user.disable_download && user.tracker_hide
                && user.multipliers == Multipliers { up: 0.1, down: 1.0 })
        });
        assert!(found, "{lines:?}");
        let gone = admin.run(&AdminCommand::RemoveUser(UserRef::Id(11)));
        assert_eq!((gone.word, passkey_changes(&gone)), ("removed", vec![(None, "eleven".into())]));
        assert_eq!(admin.run(&AdminCommand::RemoveUser(UserRef::Id(11))).word, "unchanged");
        assert_eq!(admin.run(&AdminCommand::RemoveUser(UserRef::Id(99))).word, "missing");
        assert_eq!(admin.sql("SELECT count(*) FROM users_main WHERE ID = 11"), "1", "the row stays");
    });
}

#[test]
fn an_old_passkey_works_through_its_grace_and_no_longer() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        let command = change_passkey(PLAIN, "fresh", 60);
        let first = admin.run(&command);
        let both = vec![(Some(1), "fresh".to_owned()), (Some(1), PLAIN.to_owned())];
        assert_eq!((first.word, passkey_changes(&first)), ("changed", both.clone()));
        let mut passkeys = admin.passkeys();
        passkeys.sort();
        assert_eq!(passkeys[..2], [(1, PLAIN.into()), (1, "fresh".into())]);
        let again = admin.run(&command);
        assert_eq!((again.word, passkey_changes(&again)), ("unchanged", both));
        assert_eq!(admin.sql("SELECT good_until FROM hayate_passkeys"), (NOW + 60).to_string());
        // A late repetition does not bring anything back to life.
        let late = admin.run_at(NOW + 61, &command).unwrap();
        assert!(!passkey_changes(&late).contains(&(Some(1), PLAIN.to_owned())), "{late:?}");
        // Back and replaced again: the grace period of a passkey begins when it is given up.
        assert_eq!(admin.run_at(NOW + 100, &change_passkey("fresh", PLAIN, 60)).unwrap().word, "changed");
        assert_eq!(admin.run_at(NOW + 200, &change_passkey(PLAIN, "fresh", 60)).unwrap().word, "changed");
        let until = admin.sql(&format!("SELECT good_until FROM hayate_passkeys WHERE passkey = '{PLAIN}'"));
        assert_eq!(until, (NOW + 260).to_string());
    });
}

#[test]
fn without_a_grace_period_an_old_passkey_stops_working_at_once() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        let command = change_passkey(PLAIN, "fresh", 0);
        let first = admin.run(&command);
        assert_eq!(passkey_changes(&first), [(Some(1), "fresh".to_owned()), (None, PLAIN.to_owned())]);
        assert_eq!((first.word, admin.run(&command).word), ("changed", "unchanged"));
        assert_eq!(admin.passkeys().len(), 2);
        assert_eq!(admin.run(&change_passkey("nobody's", "other", 0)).word, "missing");
    });
}

#[test]
fn a_removed_user_has_no_passkey_left_not_even_a_retired_one() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        admin.run(&change_passkey(PLAIN, "fresh", 60));
        let mut gone = passkey_changes(&admin.run(&AdminCommand::RemoveUser(UserRef::Id(1))));
        gone.sort();
        assert_eq!(gone, [(None, PLAIN.to_owned()), (None, "fresh".to_owned())]);
        assert_eq!(admin.sql("SELECT count(*) FROM hayate_passkeys"), "0");
    });
}

#[test]
fn a_passkey_means_the_enabled_user_who_has_it_to_the_letter() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        // A disabled user who had the passkey later, and one whose passkey differs in case only.
        admin.sql(&format!("INSERT INTO users_main (ID, Enabled, torrent_pass) VALUES (7, '2', '{PLAIN}')"));
        let update = AdminCommand::UpdateUser {
            who: UserRef::Passkey(PLAIN.to_owned()),
            can_leech: Some(false),
            visible: None,
            up: None,
            down: None,
        };
        admin.run(&update);
        assert_eq!(admin.sql("SELECT ID FROM users_main WHERE DisableDownload = 1 ORDER BY ID"), "1\n2");
        // The user is disabled already: whoever has the passkey now keeps it.
        assert_eq!(
            passkey_changes(&admin.run(&AdminCommand::RemoveUser(UserRef::Id(7)))),
            [(Some(1), PLAIN.to_owned())]
        );
        let lower = PLAIN.to_lowercase();
        assert_eq!(admin.run(&AdminCommand::RemoveUser(UserRef::Passkey(lower.clone()))).word, "missing");
        assert_eq!(admin.run(&add_user(None, &lower)).word, "added");
        assert!(admin.passkeys().contains(&(1, PLAIN.into())));
    });
}

/// A passkey belongs to one user: a request for it by another is refused and says whose it is, and nothing
/// changes.
#[test]
fn a_passkey_that_another_has_is_refused() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        admin.run(&add_user(Some(11), "eleven"));
        admin.run(&change_passkey("eleven", "fresh", 60));
        admin.run(&add_user(Some(12), "twelve"));
        admin.run(&AdminCommand::RemoveUser(UserRef::Id(12)));
        let before = (admin.passkeys(), admin.sql("SELECT passkey, uid, good_until FROM hayate_passkeys"));
        for (command, owner) in [
            (add_user(Some(13), PLAIN), 1),
            (add_user(Some(13), "fresh"), 11),
            (add_user(Some(13), "twelve"), 12),
            (add_user(Some(13), "eleven"), 11),
            (add_user(None, "eleven"), 11),
            (add_user(Some(2), PLAIN), 1),
            (change_passkey(PLAIN, "fresh", 60), 11),
            (change_passkey(PLAIN, "eleven", 60), 11),
            (change_passkey(PLAIN, "twelve", 60), 12),
            (change_passkey("eleven", PLAIN, 60), 11),
        ] {
            let error = admin.run_at(NOW, &command).unwrap_err();
            assert!(matches!(error, AdminError::Bad(_)), "{command:?}: {error:?}");
            assert_eq!(error.to_string(), format!("refused: user {owner} has this passkey"), "{command:?}");
        }
        assert_eq!(admin.passkeys(), before.0);
        assert_eq!(admin.sql("SELECT passkey, uid, good_until FROM hayate_passkeys"), before.1);
        let refused = "SELECT count(*) FROM hayate_audit WHERE outcome = 'refused'";
        assert_eq!(admin.sql(refused), "10");
        // A passkey that differs in case, the user's own, and one whose grace period is over.
        assert_eq!(admin.run(&add_user(Some(13), "FRESH")).word, "added");
        assert_eq!(admin.run(&change_passkey("fresh", "eleven", 60)).word, "changed");
        let late = admin.run_at(NOW + 61, &change_passkey(PLAIN, "fresh", 0)).unwrap();
        assert_eq!(late.word, "changed");
    });
}

#[test]
fn a_user_who_gets_another_passkey_has_the_old_one_no_more() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        admin.run(&add_user(Some(11), "eleven"));
        let outcome = admin.run(&add_user(Some(11), "fresh"));
        assert_eq!(passkey_changes(&outcome), [(None, "eleven".to_owned()), (Some(11), "fresh".to_owned())]);
    });
}

#[test]
fn several_are_changed_at_once_or_none() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        let free: InfoHash = FREE.parse().unwrap();
        let half = TorrentChange { down: Some(0.5), ..TorrentChange::default() };
        let each = |hashes: &[InfoHash]| {
            AdminCommand::AllOf(
                hashes.iter().map(|hash| AdminCommand::UpdateTorrent(*hash, half.clone())).collect(),
            )
        };
        let outcome = admin.run(&each(&[free, HASH, free]));
        assert_eq!((outcome.word, &*outcome.text), ("changed", "1 changed, 1 unchanged, 1 missing"));
        assert_eq!(outcome.changes.len(), 2);
        assert_eq!(admin.run_twice(&each(&[free, free])), ["unchanged"; 2]);
        assert_eq!(admin.run_twice(&each(&[HASH, HASH])), ["missing"; 2]);
        assert_eq!(admin.sql("SELECT DownMultiplier FROM torrents WHERE ID = 3"), "0.5");
        let remove = |passkey: &str| AdminCommand::RemoveUser(UserRef::Passkey(passkey.to_owned()));
        let outcome = admin.run(&AdminCommand::AllOf(vec![remove(PLAIN), remove("nobody's")]));
        assert_eq!((outcome.word, passkey_changes(&outcome)), ("removed", vec![(None, PLAIN.to_owned())]));
        let audit = "SELECT verb, outcome FROM hayate_audit ORDER BY id DESC LIMIT 2";
        assert_eq!(admin.sql(audit), "remove_user\tmissing\nremove_user\tremoved");
        // One command that the database refuses takes all of them back.
        let bad = TorrentChange { group: Some(u32::MAX), up: Some(3.0), ..TorrentChange::default() };
        let commands = [(free, TorrentChange { up: Some(7.0), ..half.clone() }), (free, bad)];
        let command = AdminCommand::AllOf(
            commands.map(|(hash, change)| AdminCommand::UpdateTorrent(hash, change)).into(),
        );
        assert!(matches!(admin.run_at(NOW, &command), Err(AdminError::Bad(_))));
        assert_eq!(admin.sql("SELECT UpMultiplier FROM torrents WHERE ID = 3"), "1");
        assert!(matches!(admin.run_at(NOW, &AdminCommand::AllOf(Vec::new())), Err(AdminError::Bad(_))));
    });
}

#[test]
fn a_torrent_moves_and_is_pruned() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        let free: InfoHash = FREE.parse().unwrap();
        let change = TorrentChange {
            status: Some(-2),
            type_name: Some("music".into()),
            group: Some(9),
            ..TorrentChange::default()
        };
        assert_eq!(admin.run_twice(&AdminCommand::UpdateTorrent(free, change)), ["changed", "unchanged"]);
        let row = "SELECT Status, TorrentType, GroupID, UpMultiplier, Snatched FROM torrents WHERE ID = 3";
        assert_eq!(admin.sql(row), "-2\tmusic\t9\t1\t0");
        let change = TorrentChange { status: Some(0), ..TorrentChange::default() };
        let outcome = admin.run(&AdminCommand::UpdateTorrent(free, change));
        let live =
            |change: &SiteChange| matches!(change, SiteChange::UpsertTorrent(torrent) if torrent.status == 0);
        assert!(outcome.changes.iter().all(live) && outcome.changes.len() == 1, "{outcome:?}");
    });
}

#[test]
fn freeleech_and_hit_and_runs_come_and_go() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        let global = "SELECT mod_setting FROM mod_core WHERE mod_option = 'global_freeleech'";
        assert_eq!(admin.run_twice(&AdminCommand::GlobalFreeleech(true)), ["changed", "unchanged"]);
        assert_eq!(admin.sql(global), "1");
        assert_eq!(
            admin.run(&AdminCommand::GlobalFreeleech(false)).changes,
            [SiteChange::GlobalFreeleech(false)]
        );
        admin.sql("DELETE FROM mod_core");
        assert_eq!(admin.run_twice(&AdminCommand::GlobalFreeleech(true)), ["added", "unchanged"]);
        let group = |id| Group { type_name: "anime".into(), id };
        let tenth = Multipliers { up: 3.0, down: 0.1 };
        let set = |id, multipliers| AdminCommand::GroupFreeleech(group(id), multipliers);
        assert_eq!(admin.run_twice(&set(2, Some(tenth))), ["changed", "unchanged"]);
        assert_eq!(admin.run_twice(&set(5, Some(tenth))), ["added", "unchanged"]);
        let (mut lines, _) = read(&mut *admin.store, SiteSet::GroupMultipliers);
        lines.sort_by_key(|line| format!("{line:?}"));
        assert_eq!(lines, [2, 5].map(|id| SiteRow::GroupMultipliers(group(id), tenth)));
        let gone = admin.run(&set(5, None));
        assert_eq!(
            (gone.word, gone.changes),
            ("removed", vec![SiteChange::GroupMultipliers(group(5), None)])
        );
        assert_eq!(admin.run_twice(&set(5, None)), ["unchanged"; 2]);
        let nonsense = Multipliers { up: f64::NAN, down: 1.0 };
        assert!(matches!(admin.run_at(NOW, &set(5, Some(nonsense))), Err(AdminError::Bad(_))));
        let free: InfoHash = FREE.parse().unwrap();
        let flag = |uid, wanted| AdminCommand::HitAndRun(uid, free, wanted);
        assert_eq!(admin.run_twice(&flag(1, false)), ["unchanged"; 2]);
        assert_eq!(admin.run(&flag(1, true)).changes, [SiteChange::AddHitAndRun(1, 3)]);
        assert_eq!(admin.run_twice(&flag(1, true)), ["unchanged"; 2]);
        let known = read(&mut *admin.store, SiteSet::HitAndRuns).0;
        assert!(known.contains(&SiteRow::HitAndRun { uid: 1, fid: 3 }), "{known:?}");
        assert_eq!(admin.run(&flag(1, false)).changes, [SiteChange::RemoveHitAndRun(1, 3)]);
        assert_eq!(admin.run_twice(&AdminCommand::HitAndRun(1, HASH, true)), ["missing"; 2]);
    });
}

#[test]
fn torrents_come_change_and_go_for_a_reason() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        assert_eq!(admin.run_twice(&add_torrent(Some(70), HASH, "anime")), ["added", "unchanged"]);
        let (lines, _) = read(&mut *admin.store, SiteSet::Torrents);
        let expected = Multipliers { up: 1.0, down: 0.1 };
        let found = lines.iter().find_map(|line| match line {
            SiteRow::Torrent(torrent) if torrent.id == 70 => Some(torrent.clone()),
            _ => None,
        });
        let found = found.unwrap();
        assert_eq!((found.info_hash, found.group.id, found.multipliers), (HASH, 7, expected));
        // Fields that are not named stay.
        assert_eq!(admin.run_twice(&set_torrent(HASH, Some(2.0), None)), ["changed", "unchanged"]);
        let factors = "SELECT UpMultiplier, DownMultiplier FROM torrents WHERE ID = 70";
        assert_eq!(admin.sql(factors), "2\t0.1");
        assert_eq!(admin.run(&AdminCommand::InfoTorrent(HASH)).word, "info");
        let gone = admin.run(&delete_torrent(HASH, "Dupe"));
        let drop = SiteChange::RemoveTorrent(HASH, Some("Dupe".into()));
        assert_eq!((gone.word, gone.changes), ("removed", vec![drop]));
        assert_eq!(admin.run(&delete_torrent(HASH, "Dupe")).word, "missing");
        let deletion = SiteRow::Deletion(HASH, "Dupe".into());
        assert_eq!(read(&mut *admin.store, SiteSet::Deletions).0, [deletion]);
        assert_eq!(admin.run(&set_torrent(HASH, Some(2.0), None)).word, "missing");
        assert_eq!(admin.run(&AdminCommand::InfoTorrent(HASH)).word, "missing");
        assert_eq!(admin.run(&add_torrent(None, HASH, "music")).word, "added");
        assert_eq!(read(&mut *admin.store, SiteSet::Deletions).0, []);
    });
}

#[test]
fn tokens_come_and_go() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        let free: InfoHash = FREE.parse().unwrap();
        assert_eq!(admin.run(&AdminCommand::AddToken(1, free)).changes, [SiteChange::AddToken(1, 3)]);
        assert_eq!(admin.run_twice(&AdminCommand::AddToken(1, free)), ["unchanged"; 2]);
        assert_eq!(read(&mut *admin.store, SiteSet::Tokens).0, [SiteRow::Token { uid: 1, fid: 3 }]);
        assert_eq!(admin.run_twice(&AdminCommand::RemoveToken(1, free)), ["removed", "unchanged"]);
        assert_eq!(admin.run(&AdminCommand::AddToken(1, HASH)).word, "missing");
    });
}

#[test]
fn clients_come_and_go_to_the_letter() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        let (add, remove) = (
            |text: &str| AdminCommand::AddClient(text.into()),
            |text: &str| AdminCommand::RemoveClient(text.into()),
        );
        assert_eq!(admin.run_twice(&add("-qB42")), ["changed", "unchanged"], "it was archived");
        assert_eq!(admin.run_twice(&add("-tr2")), ["added", "unchanged"], "-TR2 is another");
        assert_eq!(admin.run_twice(&remove("-TR2")), ["removed", "unchanged"]);
        assert_eq!(admin.sql("SELECT archived FROM approved_clients ORDER BY id"), "1\n0\n0\n0");
        assert_eq!(admin.run_twice(&remove("ZZ")), ["missing"; 2]);
        let edit = AdminCommand::EditClient("-tr2".into(), "-TR3".into());
        assert_eq!(admin.run_twice(&edit), ["changed", "unchanged"]);
    });
}

#[test]
fn the_audit_says_who_did_what_and_keeps_no_passkey() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        admin.run(&add_user(Some(11), "SecretOne"));
        admin.run(&change_passkey("SecretOne", "SecretTwo", 60));
        admin.run(&AdminCommand::RemoveUser(UserRef::Passkey("SecretTwo".into())));
        admin.run(&AdminCommand::RemoveUser(UserRef::Passkey("SecretThree".into())));
        admin.run(&delete_torrent(HASH, ""));
        admin.run(&AdminCommand::InfoTorrent(HASH));
        let rows = admin.sql("SELECT at, verb, target, outcome, source FROM hayate_audit ORDER BY id");
        let row =
            |command: &str, target: &str, word: &str| format!("{NOW}\t{command}\t{target}\t{word}\ta test");
        let expected = [
            row("add_user", "user 11", "added"),
            row("change_passkey", "user 11", "changed"),
            row("remove_user", "user 11", "removed"),
            row("remove_user", "a user with this passkey", "missing"),
            row("delete_torrent", &HASH.to_string(), "missing"),
        ];
        assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
    });
}

#[test]
fn what_makes_no_sense_is_named_and_leaves_no_trace() {
    on_both(&|database| {
        let mut admin = TestAdmin::new(database);
        let taken = add_torrent(Some(1), HASH, "anime");
        let commands = [
            (add_user(None, "no blanks"), "letters and digits"),
            (add_user(None, &"x".repeat(33)), "letters and digits"),
            (change_passkey(PLAIN, PLAIN, 0), "the same"),
            (delete_torrent(HASH, "caf\u{e9}"), "printable ASCII"),
            (delete_torrent(HASH, &"x".repeat(65)), "64"),
            (AdminCommand::AddClient(String::new()), "prefix"),
            (AdminCommand::RemoveClient("x".repeat(300)), "prefix"),
            (AdminCommand::EditClient("x".repeat(300), "XY".into()), "prefix"),
            (set_torrent(HASH, Some(f64::NAN), None), "multiplier"),
            (taken, "the database refuses"),
        ];
        for (command, words) in commands {
            let error = admin.run_at(NOW, &command).unwrap_err();
            assert!(matches!(error, AdminError::Bad(_)), "{command:?}: {error:?}");
            assert!(error.to_string().contains(words), "{command:?}: {error}");
        }
        if database.backend.dsn().to_string().starts_with("sqlite") {
            assert_eq!(admin.run(&add_torrent(None, HASH, "tapes")).word, "added");
        } else {
            let error = admin.run_at(NOW, &add_torrent(None, HASH, "tapes")).unwrap_err();
            assert!(matches!(error, AdminError::Bad(_)), "{error:?}");
            assert!(error.to_string().contains("TorrentType"), "{error}");
            assert_eq!(admin.sql("SELECT count(*) FROM hayate_audit"), "0");
            assert_eq!(admin.run(&add_torrent(None, HASH, "music")).word, "added");
        }
    });
}
