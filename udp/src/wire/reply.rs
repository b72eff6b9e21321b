//! Replies, written into the caller's buffer (BEP 15). Every writer of a reply returns its length in octets.

use std::fmt::Display;
use std::io::Write as _;

use hayate_state::Tally;
use hayate_state::announce::{PEER_V4_LEN, PEER_V6_LEN};

use super::TransactionId;
use crate::config::REPLY_MAX;

/// A reply under construction.
pub type Buffer = [u8; REPLY_MAX];

/// Octets of a connect reply, never more: clients compare the length.
pub const CONNECT_LEN: usize = 16;
/// Octets of an announce reply before the peers.
pub const ANNOUNCE_HEAD_LEN: usize = 20;
/// Octets of a scrape reply before the rows.
const SCRAPE_HEAD_LEN: usize = 8;
/// Octets of an error reply before the text.
const ERROR_HEAD_LEN: usize = 8;
/// Octets of one row of a scrape reply.
const SCRAPE_ROW_LEN: usize = 12;
/// Most rows of a scrape reply.
pub const SCRAPE_ROWS_MAX: usize = (REPLY_MAX - SCRAPE_HEAD_LEN) / SCRAPE_ROW_LEN;
/// Most IPv4 peers of an announce reply.
pub const PEERS_V4_MAX: u16 = 202;
/// Most IPv6 peers of an announce reply.
pub const PEERS_V6_MAX: u16 = 67;
/// Most octets of an error text (`rules/udp.md#error-reply`): static ones have up to 72; one of mode private
/// has the reason for which a torrent was deleted.
pub const ERROR_TEXT_MAX: usize = 96;
/// Largest number written: clients read the counts as signed.
pub const COUNT_MAX: u32 = i32::MAX as u32;

const _: () = assert!(PEERS_V4_MAX as usize == (REPLY_MAX - ANNOUNCE_HEAD_LEN) / PEER_V4_LEN);
const _: () = assert!(PEERS_V6_MAX as usize == (REPLY_MAX - ANNOUNCE_HEAD_LEN) / PEER_V6_LEN);
const _: () = assert!(SCRAPE_ROWS_MAX == 102 && SCRAPE_HEAD_LEN + ERROR_TEXT_MAX <= REPLY_MAX);

/// The fields of an announce reply before the peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnounceHead {
    /// The action of the request, 1 or 4: clients expect their own.
    pub action: u32,
    /// As the client sent it.
    pub transaction_id: TransactionId,
    /// Seconds until the next announce; 1 to 2^31 - 1.
    pub interval_seconds: u32,
    /// Leechers come before seeders here, and only here.
    pub leechers: u32,
    /// Peers with nothing left.
    pub seeders: u32,
}

/// Writes a connect reply.
pub fn connect(reply: &mut Buffer, transaction_id: TransactionId, connection_id: [u8; 8]) -> usize {
    put::<0, 4>(reply, 0_u32.to_be_bytes());
    put::<4, 4>(reply, transaction_id);
    put::<8, 8>(reply, connection_id);
    CONNECT_LEN
}

/// Returns the part of the buffer that takes the peers of an announce reply.
pub fn announce_peers(reply: &mut Buffer) -> &mut [u8] {
    reply.get_mut(ANNOUNCE_HEAD_LEN..).unwrap_or_default()
}

/// Writes an announce reply around `peers_len` octets of peers that are in [`announce_peers`] already.
pub fn announce(reply: &mut Buffer, head: AnnounceHead, peers_len: usize) -> usize {
    put::<0, 4>(reply, head.action.to_be_bytes());
    put::<4, 4>(reply, head.transaction_id);
    put::<8, 4>(reply, head.interval_seconds.clamp(1, COUNT_MAX).to_be_bytes());
    put::<12, 4>(reply, count(head.leechers));
    put::<16, 4>(reply, count(head.seeders));
    ANNOUNCE_HEAD_LEN + peers_len
}

/// Iterates over the rows of a scrape reply, to be filled in the order of the request.
pub fn scrape_rows(reply: &mut Buffer) -> impl Iterator<Item = &mut [u8; SCRAPE_ROW_LEN]> {
    reply.get_mut(SCRAPE_HEAD_LEN..).unwrap_or_default().as_chunks_mut().0.iter_mut()
}

/// Writes one row of a scrape reply: seeders, completed, leechers.
pub fn scrape_row(row: &mut [u8; SCRAPE_ROW_LEN], tally: Tally) {
    let [seeders, completed, leechers] = [tally.seeders, tally.completed, tally.leechers].map(count);
    for (to, from) in row.chunks_exact_mut(4).zip([seeders, completed, leechers]) {
        to.copy_from_slice(&from);
    }
}

/// Writes a scrape reply around `rows` rows that are in [`scrape_rows`] already.
pub fn scrape(reply: &mut Buffer, transaction_id: TransactionId, rows: usize) -> usize {
    put::<0, 4>(reply, 2_u32.to_be_bytes());
    put::<4, 4>(reply, transaction_id);
    SCRAPE_HEAD_LEN + rows.min(SCRAPE_ROWS_MAX) * SCRAPE_ROW_LEN
}

/// Writes an error reply; `text` is cut at [`ERROR_TEXT_MAX`] octets and gets no NUL.
pub fn error(reply: &mut Buffer, transaction_id: TransactionId, text: &dyn Display) -> usize {
    put::<0, 4>(reply, 3_u32.to_be_bytes());
    put::<4, 4>(reply, transaction_id);
    let mut free = reply.get_mut(ERROR_HEAD_LEN..ERROR_HEAD_LEN + ERROR_TEXT_MAX).unwrap_or_default();
    // What does not fit is cut.
    let _ = write!(free, "{text}");
    ERROR_HEAD_LEN + ERROR_TEXT_MAX - free.len()
}

fn count(number: u32) -> [u8; 4] {
    number.min(COUNT_MAX).to_be_bytes()
}

#[expect(clippy::indexing_slicing, reason = "the assertion proves at compile time that AT + N <= REPLY_MAX")]
fn put<const AT: usize, const N: usize>(reply: &mut Buffer, octets: [u8; N]) {
    const { assert!(AT + N <= REPLY_MAX) };
    reply[AT..AT + N].copy_from_slice(&octets);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = [0x12, 0x34, 0x56, 0x78];

    fn hex(octets: &[u8]) -> String {
        octets.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    #[test]
    fn replies_are_those_of_the_specification() {
        let mut reply = [0xee; REPLY_MAX];
        let len = connect(&mut reply, ID, [0x20, 0x31, 0xae, 0x30, 0xba, 0xbc, 0x0e, 0x39]);
        assert_eq!(hex(&reply[..len]), "00000000123456782031ae30babc0e39");

        announce_peers(&mut reply)[..6].copy_from_slice(&[192, 0, 2, 9, 0x1a, 0xe1]);
        let head =
            AnnounceHead { action: 1, transaction_id: ID, interval_seconds: 1800, leechers: 7, seeders: 11 };
        let len = announce(&mut reply, head, 6);
        assert_eq!(hex(&reply[..len]), "000000011234567800000708000000070000000bc00002091ae1");

        let tally = Tally { seeders: 1, completed: 7, leechers: 2, paused: 13 };
        scrape_row(scrape_rows(&mut reply).next().unwrap(), tally);
        let len = scrape(&mut reply, ID, 1);
        assert_eq!(hex(&reply[..len]), "0000000212345678000000010000000700000002");

        let len = error(&mut reply, ID, &"unknown action ID");
        assert_eq!(hex(&reply[..len]), "0000000312345678756e6b6e6f776e20616374696f6e204944");
    }

    #[test]
    fn numbers_stay_within_what_clients_can_read() {
        let mut reply = [0; REPLY_MAX];
        let head = AnnounceHead {
            action: 4,
            transaction_id: ID,
            interval_seconds: 0,
            leechers: u32::MAX,
            seeders: 7,
        };
        let len = announce(&mut reply, head, 0);
        assert_eq!(hex(&reply[..len]), "0000000412345678000000017fffffff00000007");
        let tally = Tally { seeders: u32::MAX, completed: 7, leechers: 1 << 31, paused: 0 };
        let mut row = [0; SCRAPE_ROW_LEN];
        scrape_row(&mut row, tally);
        assert_eq!(hex(&row), "7fffffff000000077fffffff");
    }

    #[test]
    fn no_reply_is_longer_than_its_buffer() {
        let mut reply = [0; REPLY_MAX];
        assert_eq!(scrape_rows(&mut reply).count(), SCRAPE_ROWS_MAX);
        assert_eq!(scrape(&mut reply, ID, SCRAPE_ROWS_MAX), REPLY_MAX);
        assert_eq!(error(&mut reply, ID, &"x".repeat(2000)), 8 + ERROR_TEXT_MAX);
    }
}
