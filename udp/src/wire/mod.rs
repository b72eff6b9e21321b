//! The formats of BEP 15 and BEP 41: [`request`]s are read, [`option`]s behind them, and [`reply`]s are
//! written. Pure: no clock, no socket, no decision.
//!
//! A view borrows the datagram and has checked its length once, in `parse`; after that no getter can fail or
//! panic. A view never reads an octet that did not arrive in this datagram.

pub mod option;
pub mod reply;
pub mod request;

/// The number by which a client tells its requests apart (BEP 15); the reply carries it back.
pub type TransactionId = [u8; 4];

/// The first octets of every connect, instead of a connection id (BEP 15, "protocol_id").
pub const PROTOCOL_ID: [u8; 8] = 0x0000_0417_2710_1980_u64.to_be_bytes();

/// Returns the `N` octets at offset `AT` of a record of `LEN` octets.
fn octets_at<const AT: usize, const N: usize, const LEN: usize>(record: &[u8; LEN]) -> [u8; N] {
    const { assert!(AT + N <= LEN) };
    let mut octets = [0; N];
    octets.copy_from_slice(&record[AT..AT + N]);
    octets
}
