//! Puts records of mode private at a fixed rate into real queues in front of a real database, and reports
//! whether the database keeps up.
//!
//! `cargo run --release -p hayate-state --example records -- DSN [RATE [SECONDS [BOUND]]]`: RATE records a
//! second (50000) for SECONDS (30), with queues of BOUND rows (their defaults). Users 1 to 500 and torrents 1
//! to 2000 must exist, because their rows are only updated. Each announce of a random user and torrent is
//! four records, as in mode private: of the torrent, of the user, of the transfer, and of the transfer by
//! address. Prints one line a second, and one line of JSON at the end.

use std::sync::Arc;
use std::time::Duration;

use hayate_state::store::record::{TorrentRow, TransferIpRow, TransferRow, UserRow};
use hayate_state::store::{
    Backend, Bounds, Channel, Dsn, OpenedStore, Queues, Record, RequiredTables, SpillPaths, WriterSettings,
};
use hayate_state::{Board, Clock, Published};

const USERS: u32 = 500;
const TORRENTS: u32 = 2000;
/// Records of one announce.
const RECORDS: u64 = 4;
/// Time between two bursts of the load.
const BURST_PERIOD: Duration = Duration::from_millis(1);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize, default: u64| words.get(place).map_or(Ok(default), |word| word.parse());
    let dsn: Dsn = words.first().ok_or("usage: records DSN [RATE [SECONDS [BOUND]]]")?.parse()?;
    let (rate, seconds, bound) = (number(1, 50_000)?, number(2, 30)?, number(3, 0)?);
    let backend = Backend::new(dsn, "", RequiredTables::Own);
    backend.migrate()?;
    let (clock, board) = (Clock::start(), Board::default());
    let queues = Arc::new(Queues::accounting(clock, &bounds(usize::try_from(bound)?)));
    let folder = tempfile::tempdir()?;
    let paths = SpillPaths {
        spill_dir: folder.path().join("spill"),
        dead_letter: folder.path().join("dead-letter.jsonl"),
    };
    let settings = Published::new(WriterSettings::default());
    let opened = OpenedStore::new(&queues, clock, &settings, &paths, Box::new(move || backend.open()))?;
    let recorder = opened.start()?;
    recorder.register_metrics(&board);
    let waiting = |queues: &Queues| {
        let rows = Channel::ALL.iter().map(|&channel| queues.rows(channel)).sum::<usize>();
        let lag = Channel::ALL.iter().map(|&channel| queues.lag(channel)).max();
        (rows, lag.unwrap_or_default().as_secs_f64())
    };
    let (mut put, mut random, mut lags) = (0, fastrand::Rng::new(), Vec::new());
    let start = clock.uptime();
    let elapsed = || clock.uptime() - start;
    for second in 1..=seconds {
        while elapsed() < Duration::from_secs(second) {
            let due = rate * u64::try_from(elapsed().as_millis())? / 1000;
            while put < due {
                announce(&queues, &mut random);
                put += RECORDS;
            }
            std::thread::sleep(BURST_PERIOD);
        }
        let ((rows, lag), spilled) = (waiting(&queues), metric(&board, "spill_rows"));
        println!("{second} s: {put} records, {rows} rows in memory, {spilled} on the disk, lag {lag:.2} s");
        lags.push(lag);
    }
    let written = metric(&board, "rows_written_total");
    let stopping = elapsed();
    recorder.stop();
    let rest = (elapsed() - stopping).as_secs_f64();
    let quarter = lags.len() / 4;
    let mean = |lags: &[f64]| lags.iter().sum::<f64>() / lags.len().max(1) as f64;
    let (early, late) = (
        mean(lags.get(quarter..2 * quarter).unwrap_or_default()),
        mean(lags.get(3 * quarter..).unwrap_or_default()),
    );
    println!(
        "{{\"records_per_second\": {}, \"rows_written_per_second\": {}, \"lag_early\": {early:.2}, \
         \"lag_late\": {late:.2}, \"stop_seconds\": {rest:.2}}}",
        put / seconds,
        written / seconds,
    );
    Ok(())
}

fn bounds(rows: usize) -> Bounds {
    if rows == 0 {
        return Bounds::default();
    }
    Bounds { torrents: rows, users: rows, transfer_history: rows, transfer_ips: rows, ..Bounds::default() }
}

fn announce(queues: &Queues, random: &mut fastrand::Rng) {
    let (uid, fid) = (random.u32(1..=USERS), random.u32(1..=TORRENTS));
    let (raw_up, raw_down) = (random.u64(..1 << 24), random.u64(..1 << 24));
    let (start_time, last_announce) = (1_700_000_000, 1_700_001_800);
    queues.put(Record::Torrent(TorrentRow {
        id: fid,
        seeders: 7,
        leechers: 11,
        has_counts: true,
        ..Default::default()
    }));
    queues.put(Record::User(UserRow { id: uid, uploaded: raw_up, downloaded: raw_down, raw_up, raw_down }));
    let transfer =
        TransferRow { uid, fid, raw_up, raw_down, start_time, last_announce, ..Default::default() };
    queues.put(Record::Transfer(TransferRow { active_time: 1800, active: true, remaining: 13, ..transfer }));
    let ip = TransferIpRow { uid, fid, client_id: 1, ip: uid, raw_up, raw_down, ..Default::default() };
    queues.put(Record::TransferIp(TransferIpRow { port: 6881, start_time, last_announce, ..ip }));
}

/// Returns a metric of the recorder, summed over the channels.
fn metric(board: &Board, name: &str) -> u64 {
    board.read_series().iter().filter(|reading| reading.name == name).map(|reading| reading.value).sum()
}
