//! The statements for records, one row each.

use rusqlite::{Transaction, params};

use super::super::record::{CompletedRow, SnatchRow, TorrentRow, TransferIpRow, TransferRow, UserRow};
use super::super::sums::{amount, count, sum};
use super::super::{COUNT_MAX, signed_amount};

pub(super) fn write_torrent(transaction: &Transaction<'_>, row: &TorrentRow) -> rusqlite::Result<usize> {
    if row.has_counts {
        let sql = concat!(
            "UPDATE torrents SET ",
            sum!("Snatched", "?2", "4294967295"),
            ", Seeders = ?3, Leechers = ?4, last_action = max(last_action, ?5),
            Status = iif(?6, 0, Status) WHERE ID = ?1"
        );
        let values = params![row.id, row.snatched, row.seeders, row.leechers, row.last_action, row.unprune];
        return transaction.prepare_cached(sql)?.execute(values);
    }
    let sql = "UPDATE torrents SET Status = iif(?2, 0, Status) WHERE ID = ?1";
    transaction.prepare_cached(sql)?.execute(params![row.id, row.unprune])
}

pub(super) fn write_user(transaction: &Transaction<'_>, row: &UserRow) -> rusqlite::Result<usize> {
    let sql = concat!(
        "UPDATE users_main SET ",
        amount!("Uploaded", "?2"),
        ", ",
        amount!("Downloaded", "?3"),
        ", ",
        amount!("rawup", "?4"),
        ", ",
        amount!("rawdl", "?5"),
        " WHERE ID = ?1"
    );
    let [up, down, raw_up, raw_down] =
        [row.uploaded, row.downloaded, row.raw_up, row.raw_down].map(signed_amount);
    transaction.prepare_cached(sql)?.execute(params![row.id, up, down, raw_up, raw_down])
}

pub(super) fn write_transfer(transaction: &Transaction<'_>, row: &TransferRow) -> rusqlite::Result<usize> {
    let sql = concat!(
        "INSERT INTO transfer_history (uid, fid, uploaded, downloaded, seeding, starttime,
            last_announce, activetime, seedtime, active, snatched, remaining)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
        ON CONFLICT (uid, fid) DO UPDATE SET ",
        amount!("uploaded", "excluded.uploaded"),
        ", ",
        amount!("downloaded", "excluded.downloaded"),
        ", ",
        count!("activetime", "excluded.activetime"),
        ", ",
        count!("seedtime", "excluded.seedtime"),
        ", ",
        count!("snatched", "excluded.snatched"),
        ", seeding = excluded.seeding, last_announce = excluded.last_announce, active = excluded.active,
            remaining = excluded.remaining"
    );
    let count = |number: i64| number.min(COUNT_MAX);
    transaction.prepare_cached(sql)?.execute(params![
        row.uid,
        row.fid,
        signed_amount(row.raw_up),
        signed_amount(row.raw_down),
        row.seeding,
        row.start_time,
        row.last_announce,
        count(row.active_time),
        count(row.seed_time),
        row.active,
        count(row.snatched.into()),
        row.remaining,
    ])
}

pub(super) fn write_transfer_ip(
    transaction: &Transaction<'_>,
    row: &TransferIpRow,
) -> rusqlite::Result<usize> {
    let sql = concat!(
        "INSERT INTO transfer_ips (uid, fid, client_id, ip, port, uploaded, downloaded, starttime,
            last_announce, ip6)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
        ON CONFLICT (uid, fid, ip, client_id) DO UPDATE SET ",
        amount!("uploaded", "excluded.uploaded"),
        ", ",
        amount!("downloaded", "excluded.downloaded"),
        ", port = excluded.port, last_announce = excluded.last_announce"
    );
    transaction.prepare_cached(sql)?.execute(params![
        row.uid,
        row.fid,
        row.client_id,
        row.ip,
        row.port,
        signed_amount(row.raw_up),
        signed_amount(row.raw_down),
        row.start_time,
        row.last_announce,
        row.ip6,
    ])
}

pub(super) fn write_snatch(transaction: &Transaction<'_>, row: &SnatchRow) -> rusqlite::Result<usize> {
    let sql = "INSERT INTO transfer_history (uid, fid, snatched_time, starttime) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (uid, fid) DO UPDATE
        SET snatched_time = iif(snatched_time = 0, excluded.snatched_time, snatched_time)";
    transaction.prepare_cached(sql)?.execute(params![row.uid, row.fid, row.time, row.start_time])
}

pub(super) fn write_completed(transaction: &Transaction<'_>, row: &CompletedRow) -> rusqlite::Result<usize> {
    let sql = concat!(
        "INSERT INTO hayate_completed (info_hash, completed, last_completed) VALUES (?1, ?2, ?3)
        ON CONFLICT (info_hash) DO UPDATE SET ",
        sum!("completed", "excluded.completed", "4294967295"),
        ", last_completed = excluded.last_completed"
    );
    transaction.prepare_cached(sql)?.execute(params![row.info_hash.0, row.completed, row.last_completed])
}
