//! Octets of BEP 15 and BEP 41.

use hayate_state::Event;

use crate::load::plan::{Announce, Kind};

/// The constant that a connect has in place of a connection id.
const PROTOCOL: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
/// Types of BEP 41 options: the end of all, a filler, and path and query.
const END_OF_OPTIONS: u8 = 0;
const NOP: u8 = 1;
const URL_DATA: u8 = 2;
/// Octets of a path that one option holds.
const URL_DATA_MAX: usize = 255;

/// Writes a connect, 16 octets.
pub fn connect(out: &mut Vec<u8>, transaction: u32) {
    head(out, PROTOCOL, CONNECT, transaction);
}

/// Writes an announce, 98 octets and the options.
pub fn announce(
    out: &mut Vec<u8>,
    connection_id: u64,
    transaction: u32,
    announce: &Announce,
    options: &[u8],
) {
    head(out, connection_id, ANNOUNCE, transaction);
    out.extend_from_slice(&announce.info_hash);
    out.extend_from_slice(&announce.peer_id);
    out.extend_from_slice(&announce.transferred.to_be_bytes());
    out.extend_from_slice(&announce.left.to_be_bytes());
    out.extend_from_slice(&announce.transferred.to_be_bytes());
    let event: u32 = match announce.event {
        Event::None | Event::Paused => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
    };
    out.extend_from_slice(&event.to_be_bytes());
    let address = 0_u32;
    out.extend_from_slice(&address.to_be_bytes());
    out.extend_from_slice(&announce.key.to_be_bytes());
    out.extend_from_slice(&announce.num_want.to_be_bytes());
    out.extend_from_slice(&announce.port.to_be_bytes());
    out.extend_from_slice(options);
}

/// Writes the head of a scrape, 16 octets; the info_hashes follow.
pub fn scrape(out: &mut Vec<u8>, connection_id: u64, transaction: u32) {
    head(out, connection_id, SCRAPE, transaction);
}

fn head(out: &mut Vec<u8>, connection_id: u64, action: u32, transaction: u32) {
    out.extend_from_slice(&connection_id.to_be_bytes());
    out.extend_from_slice(&action.to_be_bytes());
    out.extend_from_slice(&transaction.to_be_bytes());
}

/// Returns paths and queries as BEP 41 options, the ending option included. All are equally long, so that
/// announces with different ones can be sent in one burst.
#[must_use]
pub fn options(paths: &[String]) -> Vec<Vec<u8>> {
    let encode = |path: &String| {
        let mut octets = Vec::new();
        for part in path.as_bytes().chunks(URL_DATA_MAX) {
            octets.push(URL_DATA);
            octets.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
            octets.extend_from_slice(part);
        }
        octets
    };
    let mut all: Vec<_> = paths.iter().map(encode).collect();
    let longest = all.iter().map(Vec::len).max().unwrap_or(0);
    for octets in &mut all {
        octets.resize(longest, NOP);
        octets.push(END_OF_OPTIONS);
    }
    all
}

/// The head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpReply {
    /// The transaction id of the request that it answers.
    pub transaction: u32,
    /// The kind of reply.
    pub kind: ReplyKind,
}

/// The kind of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// The connection id.
    Connected(u64),
    /// Peers.
    Announced,
    /// Counts of swarms.
    Scraped,
    /// An error, or a reply that is too short or of an unknown kind.
    Error,
}

impl ReplyKind {
    /// Whether the reply is of the kind that such a request must get.
    #[must_use]
    pub fn answers(self, kind: Kind) -> bool {
        matches!(
            (self, kind),
            (Self::Connected(_), Kind::Connect)
                | (Self::Announced, Kind::Announce)
                | (Self::Scraped, Kind::Scrape)
        )
    }
}

/// Octets of a reply that [`read_reply`] needs at most.
pub const REPLY_HEAD: usize = 20;

/// Reads a reply from its first octets, up to [`REPLY_HEAD`]; `None` if it names no transaction.
#[must_use]
pub fn read_reply(reply: &[u8]) -> Option<UdpReply> {
    let (action, rest) = reply.split_first_chunk()?;
    let (transaction, rest) = rest.split_first_chunk()?;
    let kind = match (u32::from_be_bytes(*action), rest.first_chunk()) {
        (CONNECT, Some(id)) => ReplyKind::Connected(u64::from_be_bytes(*id)),
        (ANNOUNCE, _) if reply.len() >= REPLY_HEAD => ReplyKind::Announced,
        (SCRAPE, _) => ReplyKind::Scraped,
        _ => ReplyKind::Error,
    };
    Some(UdpReply { transaction: u32::from_be_bytes(*transaction), kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_octets_of_bep_15() {
        let mut out = Vec::new();
        connect(&mut out, 0x0102_0304);
        assert_eq!(out, [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4]);
        out.clear();
        scrape(&mut out, 7, 9);
        assert_eq!(out, [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 9]);
    }

    #[test]
    fn an_announce_has_every_field_at_its_place() {
        let stopped = Announce {
            info_hash: [0xaa; 20],
            peer_id: [0xbb; 20],
            key: 0x0506_0708,
            port: 0x1a0b,
            left: 11,
            transferred: 0,
            event: Event::Stopped,
            num_want: -1,
        };
        let mut out = Vec::new();
        announce(&mut out, 7, 9, &stopped, &[0xcc]);
        let expected = [
            &[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 9][..],
            &[0xaa; 20],
            &[0xbb; 20],
            &[0; 8],
            &[0, 0, 0, 0, 0, 0, 0, 11],
            &[0; 8],
            &[0, 0, 0, 3],
            &[0; 4],
            &[5, 6, 7, 8],
            &[0xff; 4],
            &[0x1a, 0x0b],
            &[0xcc],
        ]
        .concat();
        assert_eq!((out.len(), out), (99, expected));
    }

    #[test]
    fn paths_become_options_of_one_length_that_end() {
        let all = options(&["/ab".into(), "/".into()]);
        assert_eq!(all, [b"\x02\x03/ab\x00", b"\x02\x01/\x01\x01\x00"]);
        let long = options(&["x".repeat(300)]);
        assert_eq!((long[0].len(), &long[0][..2], &long[0][257..259]), (305, &[2, 255][..], &[2, 45][..]));
    }

    #[test]
    fn heads_of_replies_are_read() {
        let reply = |action: u8, len: usize| {
            let mut octets = vec![0, 0, 0, action, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 7];
            octets.resize(len, 0);
            read_reply(&octets).map(|reply| (reply.transaction, reply.kind))
        };
        assert_eq!(reply(0, 16), Some((0x0102_0304, ReplyKind::Connected(7))));
        assert_eq!(reply(1, 20), Some((0x0102_0304, ReplyKind::Announced)));
        assert_eq!(reply(2, 8), Some((0x0102_0304, ReplyKind::Scraped)));
        for (action, len) in [(0, 15), (1, 19), (3, 8), (4, 20)] {
            assert_eq!(reply(action, len), Some((0x0102_0304, ReplyKind::Error)), "{action} {len}");
        }
        assert_eq!(reply(1, 7), None);
    }
}
