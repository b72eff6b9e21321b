//! A site with millions of rows of history: how long each statement takes, and how many rows it reads and
//! locks. `make soak` runs it; without a number of rows it returns at once.

use std::rc::Rc;

use hayate_state::Clock;
use hayate_state::private::admin::{AdminCommand, UserRef, run_command};
use hayate_state::store::purge::{ROWS_FIRST, next_slice_rows};
use hayate_state::store::record::{TorrentRow, TransferIpRow, TransferRow, UserRow};
use hayate_state::store::{Batch, Channel, PurgeSlice, Record, SiteSet, Store};

use crate::TestDatabase;
use crate::promise::fresh_mariadb;
use crate::servers::Server;
use crate::slow_log::{Locks, SlowLog};

/// The number of rows in `transfer_history`.
const VARIABLE: &str = "HAYATE_HISTORY_ROWS";
/// Rows of history of each user; there are as many torrents and finished downloads as users.
const EACH: u64 = 100;
/// Rows that are inserted at once.
const CHUNK: u64 = 500_000;
/// Rows that one statement may read, and that one transaction may lock.
const MOST: u64 = 10_000;
/// Rows of a batch: the default bound of a channel.
const BATCH: u32 = 5000;

/// A quarter of the history is active, and one row of a thousand is a hit-and-run.
fn fill(database: &TestDatabase, rows: u64) {
    let clock = Clock::start();
    // As in a site's table, without the indexes; what is not measured need not be durable.
    database.sql("ALTER TABLE transfer_history DROP INDEX active_last_announce, DROP INDEX hnr_uid_fid");
    database.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 0");
    for from in (0..rows).step_by(CHUNK.try_into().unwrap()) {
        let to = rows.min(from + CHUNK) - 1;
        database.sql(&format!(
            "INSERT INTO transfer_history (uid, fid, hnr, active, last_announce)
             SELECT 1000 + seq DIV {EACH}, 1000 + seq % {EACH} * {EACH} + seq DIV {EACH} % {EACH},
                 seq % 1000 = 7, seq % 4 = 0, 1000000 + seq * 7919 % {rows} FROM seq_{from}_to_{to}"
        ));
    }
    let numbers = format!("FROM seq_0_to_{}", rows / EACH);
    for sql in [
        "INSERT INTO users_main (ID, Enabled, torrent_pass)
         SELECT 1000 + seq, IF(seq % 3, '1', '2'), LEFT(SHA1(seq), 32)",
        "INSERT INTO torrents (ID, GroupID, TorrentType, info_hash)
         SELECT 1000 + seq, seq, 'music', UNHEX(SHA1(seq))",
        "INSERT INTO hayate_tokens (uid, fid) SELECT 1000 + seq, seq",
        "INSERT INTO hayate_deletions (info_hash, reason, deleted_at) SELECT UNHEX(SHA1(seq)), 'why', seq",
        "INSERT INTO hayate_completed (info_hash, completed, last_completed)
         SELECT UNHEX(SHA1(seq)), seq, 1000000 + seq",
    ] {
        database.sql(&format!("{sql} {numbers}"));
    }
    database.sql("ANALYZE TABLE transfer_history, users_main, torrents, hayate_completed");
    database.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1");
    println!("{rows} rows are made in {:.0} s", clock.uptime().as_secs_f64());
}

/// Measures the work, stage by stage.
struct Stages {
    server: Rc<Server>,
    log: SlowLog,
}

impl Stages {
    fn stage(&self, name: &str, work: impl FnOnce()) {
        self.log.begin();
        let (clock, locks) = (Clock::start(), Locks::watch(&self.server));
        work();
        let (took, locked, worst) = (clock.uptime().as_secs_f64(), locks.most(), self.log.worst());
        println!(
            "{name}: {took:.1} s, {} statements, {} above 100 ms, longest {:.1} ms; most rows read {}, \
             locked {locked}\n    {}",
            worst.statements,
            worst.slow,
            worst.milliseconds,
            worst.rows,
            worst.longest.replace('\n', " ").chars().take(100).collect::<String>()
        );
        assert!(worst.rows <= MOST, "{} rows: {}", worst.rows, worst.text);
        assert!(locked <= MOST, "{locked} rows are locked at once");
    }
}

fn purge(store: &mut dyn Store, before: i64) -> u64 {
    let (mut from, mut inactive, mut rows) = (None, 0, ROWS_FIRST);
    let clock = Clock::start();
    loop {
        let begin = clock.uptime();
        let swept = store.purge(&PurgeSlice { before, from, rows_max: rows }).unwrap();
        rows = next_slice_rows(rows, clock.uptime() - begin);
        inactive += swept.inactive;
        from = swept.next;
        if from.is_none() {
            return inactive;
        }
    }
}

/// Rows of peers all over the site, of each channel.
fn batches(sequence: u64, users: u32, random: &mut fastrand::Rng) -> [Batch; 4] {
    let mut of = |channel, row: &dyn Fn(u32, u32) -> Record| {
        let mut records: Vec<_> =
            (0..BATCH).map(|_| row(1000 + random.u32(..users), 1000 + random.u32(..users))).collect();
        records.sort_by_key(Record::key);
        records.dedup_by_key(|record| record.key());
        Batch { channel, records, sequence }
    };
    let history = |uid, fid| TransferRow {
        uid,
        fid,
        last_announce: 2_000_000_000,
        active: true,
        ..TransferRow::default()
    };
    [
        of(Channel::Torrents, &|id, _| {
            Record::Torrent(TorrentRow { id, seeders: 7, has_counts: true, ..TorrentRow::default() })
        }),
        of(Channel::Users, &|id, _| Record::User(UserRow { id, uploaded: 11, ..UserRow::default() })),
        of(Channel::TransferHistory, &|uid, fid| Record::Transfer(history(uid, fid))),
        of(Channel::TransferIps, &|uid, fid| {
            Record::TransferIp(TransferIpRow { uid, fid, ..TransferIpRow::default() })
        }),
    ]
}

#[test]
fn a_large_site_is_read_and_purged_without_a_long_statement() {
    let Some(rows) = std::env::var(VARIABLE).ok().and_then(|text| text.parse::<u64>().ok()) else {
        println!("skipped: {VARIABLE} says how many rows");
        return;
    };
    let server = Rc::new(Server::new());
    // The defaults of a server that was not tuned.
    server.sql("SET GLOBAL innodb_buffer_pool_size = 128 << 20, GLOBAL innodb_log_file_size = 96 << 20");
    let database = fresh_mariadb(&server, "site");
    database.sql("UPDATE transfer_history SET active = 0");
    fill(&database, rows);
    let stages = Stages { log: SlowLog::on(&server), server: Rc::clone(&server) };
    let (mut store, mut reader) = (database.backend.open().unwrap(), database.backend.open_reader().unwrap());
    for set in SiteSet::ALL {
        stages.stage(&format!("{set:?} are read"), || {
            let mut rows_read = 0_u64;
            reader.read_rows(set, &mut |row| rows_read += u64::from(row.is_some())).unwrap();
            println!("{rows_read} rows");
        });
    }
    stages.stage("registered torrents are read", || _ = reader.read_registered().unwrap());
    let third = 1_000_000 + i64::try_from(rows / 3).unwrap();
    stages.stage("silent peers are purged without the index", || {
        println!("{} rows", purge(&mut *store, third));
    });
    let clock = Clock::start();
    for proposal in database.backend.proposals() {
        database.sql(proposal);
    }
    println!("the indexes that are proposed are made in {:.0} s", clock.uptime().as_secs_f64());
    drop(store);
    let mut store = database.backend.open().unwrap();
    reader = database.backend.open_reader().unwrap();
    stages.stage("HitAndRuns are read with the index", || {
        _ = reader.read_rows(SiteSet::HitAndRuns, &mut |_| {}).unwrap()
    });
    stages.stage("silent peers are purged with the index", || {
        println!("{} rows", purge(&mut *store, 2 * third - 1_000_000));
    });
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let users = u32::try_from(rows / EACH).unwrap();
    stages.stage("rows of peers all over the site are kept", || {
        for sequence in 1..=5 {
            batches(sequence, users, &mut random).iter().for_each(|batch| _ = store.save(batch).unwrap());
        }
    });
    stages.stage("half of the finished downloads are forgotten", || {
        store.read_completed(users as usize / 2, &mut |_, _| {}).unwrap();
    });
    stages.stage("the site is changed", || {
        for command in [
            AdminCommand::AddUser { id: None, passkey: "new".into() },
            AdminCommand::ChangePasskey { old: "new".into(), new: "newer".into(), grace_seconds: 7 },
            AdminCommand::RemoveUser(UserRef::Passkey("newer".into())),
        ] {
            run_command(&mut *reader, &command, 1_700_000_000, "a test").unwrap();
        }
    });
}
