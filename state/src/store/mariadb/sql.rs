//! Records as statements for many rows.
//!
//! Values are written as numbers and as `X'hex'`, never as text: nothing a client sends can be taken for SQL.

use std::fmt::Write;

use super::super::record::{
    CompletedRow, Record, SnatchRow, TorrentRow, TransferIpRow, TransferRow, UserRow,
};
use super::super::site_sql::rows::StatementShape;
use super::super::{COUNT_MAX, signed_amount};

/// Rows of one statement: few enough that it is short even if each has to be fetched from a disk.
const ROWS_MAX: u64 = 200;

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) text: String,
    /// The number of rows it should match, if missing ones are to be counted.
    pub(super) targets: Option<u64>,
}

/// Returns the statements that write `records`, in their order. None is much longer than `octets_max`.
pub(super) fn build_statements(records: &[Record], ip6: bool, octets_max: usize) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut open: Option<(&StatementShape, u64, String)> = None;
    for record in records {
        let Some(shape) = StatementShape::of_record(record, ip6) else { continue };
        let full = |(of, rows, text): &(&StatementShape, u64, String)| {
            *of != shape || *rows >= ROWS_MAX || text.len() + shape.tail.len() >= octets_max
        };
        if let Some(done) = open.take_if(|open| full(open)) {
            statements.push(close_statement(done));
        }
        let (_, rows, text) = open.get_or_insert_with(|| (shape, 0, shape.head.clone()));
        if *rows > 0 {
            text.push(',');
        }
        *rows += 1;
        write_row(text, record, ip6);
    }
    statements.extend(open.map(close_statement));
    statements
}

fn close_statement((shape, rows, mut text): (&StatementShape, u64, String)) -> Statement {
    text.push_str(&shape.tail);
    Statement { text, targets: shape.counted.then_some(rows) }
}

fn write_row(text: &mut String, record: &Record, ip6: bool) {
    // Writing to a string cannot fail.
    let _ = match record {
        Record::Torrent(row) => write_torrent(text, row),
        Record::User(row) => write_user(text, row),
        Record::Transfer(row) => write_transfer(text, row),
        Record::TransferIp(row) => write_transfer_ip(text, row, ip6),
        Record::Snatch(SnatchRow { uid, fid, time, start_time }) => {
            write!(text, "({uid},{fid},{time},{start_time})")
        }
        Record::Completed(CompletedRow { info_hash, completed, last_completed }) => {
            write!(text, "(X'{info_hash}',{completed},{last_completed})")
        }
        Record::Purge { .. } => Ok(()),
    };
}

fn write_torrent(text: &mut String, row: &TorrentRow) -> std::fmt::Result {
    let TorrentRow { id, snatched, seeders, leechers, last_action, unprune, has_counts: counts } = row;
    let (unprune, counts) = (u8::from(*unprune), u8::from(*counts));
    write!(text, "({id},{snatched},{seeders},{leechers},{last_action},{unprune},{counts})")
}

fn write_user(text: &mut String, row: &UserRow) -> std::fmt::Result {
    let UserRow { id, uploaded, downloaded, raw_up, raw_down } = *row;
    let [up, down, raw_up, raw_down] = [uploaded, downloaded, raw_up, raw_down].map(signed_amount);
    write!(text, "({id},{up},{down},{raw_up},{raw_down})")
}

fn write_transfer(text: &mut String, row: &TransferRow) -> std::fmt::Result {
    let TransferRow { uid, fid, start_time, last_announce, .. } = row;
    let (up, down) = (signed_amount(row.raw_up), signed_amount(row.raw_down));
    let [active_time, seed_time, snatched] =
        [row.active_time, row.seed_time, row.snatched.into()].map(|number| number.min(COUNT_MAX));
    let (seeding, active) = (u8::from(row.seeding), u8::from(row.active));
    write!(text, "({uid},{fid},{up},{down},{seeding},{start_time},{last_announce},")?;
    write!(text, "{active_time},{seed_time},{active},{snatched},{})", row.remaining)
}

fn write_transfer_ip(text: &mut String, row: &TransferIpRow, ip6: bool) -> std::fmt::Result {
    let TransferIpRow { uid, fid, client_id, ip, port, .. } = row;
    let (up, down) = (signed_amount(row.raw_up), signed_amount(row.raw_down));
    write!(text, "({uid},{fid},{client_id},{ip},{port},{up},{down},")?;
    write!(text, "{},{}", row.start_time, row.last_announce)?;
    match row.ip6.filter(|_| ip6) {
        Some(octets) => write!(text, ",X'{:032x}')", u128::from_be_bytes(octets)),
        None if ip6 => text.write_str(",NULL)"),
        None => text.write_char(')'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_of(id: u32) -> Record {
        Record::User(UserRow { id, uploaded: 3, ..UserRow::default() })
    }

    #[test]
    fn rows_are_cut_by_number_and_by_octets() {
        let records: Vec<_> = (1..=4500).map(user_of).collect();
        let targets = |octets| -> Vec<u64> {
            build_statements(&records, true, octets)
                .iter()
                .filter_map(|statement| statement.targets)
                .collect()
        };
        assert_eq!(targets(1 << 20), [[200; 22].as_slice(), &[100]].concat());
        assert_eq!(targets(0), [1; 4500]);
        let short = build_statements(&records, true, 4096);
        assert!(short.iter().all(|statement| statement.text.len() < 4096 + 100));
        assert_eq!(short.iter().filter_map(|statement| statement.targets).sum::<u64>(), 4500);
    }

    #[test]
    fn a_purge_is_no_row() {
        let row = Record::Transfer(TransferRow { uid: 3, fid: 5, ..TransferRow::default() });
        let texts = build_statements(&[row, Record::Purge { before: 7 }], true, 4096);
        assert_eq!(texts.len(), 1);
        assert!(texts[0].text.contains("(3,5,0,0,0,0,0,0,0,0,0,0)"), "{}", texts[0].text);
    }

    #[test]
    fn addresses_are_hexadecimal_and_left_out_where_there_is_no_column() {
        let mut row = TransferIpRow { uid: 3, fid: 5, client_id: 7, ip: 11, ..TransferIpRow::default() };
        let of = |row, ip6| build_statements(&[Record::TransferIp(row)], ip6, 4096).remove(0).text;
        assert!(of(row, true).contains("(3,5,7,11,0,0,0,0,0,NULL)"));
        row.ip6 = Some([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert!(of(row, true).contains("(3,5,7,11,0,0,0,0,0,X'20010db8000000000000000000000001')"));
        let without = of(row, false);
        assert!(without.contains("(3,5,7,11,0,0,0,0,0)") && !without.contains("ip6"), "{without}");
    }
}
