//! Records as statements, one row each.

use rusqlite::{Transaction, params};

use super::super::record::{CompletedRow, SnatchRow, TorrentRow, TransferIpRow, TransferRow, UserRow};
use super::super::site_sql::rows::SQLITE_ROWS;
use super::super::{COUNT_MAX, signed_amount};

pub(super) fn write_torrent(transaction: &Transaction<'_>, row: &TorrentRow) -> rusqlite::Result<usize> {
    if row.has_counts {
        let values = params![row.id, row.snatched, row.seeders, row.leechers, row.last_action, row.unprune];
        return transaction.prepare_cached(&SQLITE_ROWS.torrent)?.execute(values);
    }
    transaction.prepare_cached(&SQLITE_ROWS.torrent_unprune)?.execute(params![row.id, row.unprune])
}

pub(super) fn write_user(transaction: &Transaction<'_>, row: &UserRow) -> rusqlite::Result<usize> {
    let [up, down, raw_up, raw_down] =
        [row.uploaded, row.downloaded, row.raw_up, row.raw_down].map(signed_amount);
    transaction.prepare_cached(&SQLITE_ROWS.user)?.execute(params![row.id, up, down, raw_up, raw_down])
}

pub(super) fn write_transfer(transaction: &Transaction<'_>, row: &TransferRow) -> rusqlite::Result<usize> {
    let count = |number: i64| number.min(COUNT_MAX);
    transaction.prepare_cached(&SQLITE_ROWS.transfer)?.execute(params![
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
    transaction.prepare_cached(&SQLITE_ROWS.transfer_ip)?.execute(params![
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
    transaction.prepare_cached(&SQLITE_ROWS.snatch)?.execute(params![
        row.uid,
        row.fid,
        row.time,
        row.start_time
    ])
}

pub(super) fn write_completed(transaction: &Transaction<'_>, row: &CompletedRow) -> rusqlite::Result<usize> {
    transaction.prepare_cached(&SQLITE_ROWS.completed)?.execute(params![
        row.info_hash.0,
        row.completed,
        row.last_completed
    ])
}
