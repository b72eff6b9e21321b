//! The bencoded replies: announce in both forms, scrape, failure (`rules/http.md#announce-reply-keys`).

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hayate_state::actor::PeerList;
use hayate_state::announce::{PEER_V4_LEN, PEER_V6_LEN};
use hayate_state::{Answer, InfoHash, PeerId, Tally};

use super::bencode::{self, Dict};

/// The most octets of an announce reply besides its peers: eight keys with their numbers.
const ANNOUNCE_OVERHEAD: usize = 256;
/// Octets of one entry of a scrape reply, roughly.
const SCRAPE_ENTRY: usize = 96;
/// The most octets of one entry of the list form.
const LIST_ENTRY: usize = 112;
/// Octets of the longest address as text.
const ADDRESS_TEXT_MAX: usize = 45;

/// How the peers of a reply are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyForm {
    /// `peers` and `peers6` as octets (BEP 23, BEP 7).
    Compact,
    /// One list of dictionaries, both families (BEP 3).
    List,
}

/// What an announce reply says about the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyAddress {
    /// The client's address, sent as `external ip` (BEP 24) unless `None`.
    pub external: Option<IpAddr>,
    /// The client came over IPv6, so that `peers6` is there even if empty (`rules/http.md#compact-peers`).
    pub over_v6: bool,
}

/// Writes the reply to an announce. `interval` and `peers` are always in it (see `rules/http.md`).
#[must_use]
pub fn announce(answer: &Answer, peers: &PeerList, form: ReplyForm, address: ReplyAddress) -> Vec<u8> {
    let peers_len = match form {
        ReplyForm::Compact => peers.v4.len() + peers.v6.len(),
        ReplyForm::List => (peers.v4.len() / PEER_V4_LEN + peers.v6.len() / PEER_V6_LEN) * LIST_ENTRY,
    };
    let mut out = Vec::with_capacity(ANNOUNCE_OVERHEAD + peers_len);
    bencode::dict(&mut out, |reply| {
        reply.integer(b"complete", answer.tally.seeders.into());
        reply.integer(b"downloaded", answer.tally.completed.into());
        match address.external {
            Some(IpAddr::V4(v4)) => reply.string(b"external ip", &v4.octets()),
            Some(IpAddr::V6(v6)) => reply.string(b"external ip", &v6.octets()),
            None => {}
        }
        reply.integer(b"incomplete", answer.tally.leechers.into());
        reply.integer(b"interval", answer.interval_seconds.into());
        if answer.min_interval_seconds > 0 {
            reply.integer(b"min interval", answer.min_interval_seconds.into());
        }
        match form {
            ReplyForm::Compact => {
                reply.string(b"peers", &peers.v4);
                if address.over_v6 || !peers.v6.is_empty() {
                    reply.string(b"peers6", &peers.v6);
                }
            }
            ReplyForm::List => reply.list(b"peers", |list| list_peers(list, peers)),
        }
    });
    out
}

/// Writes the reply to a scrape: one entry for each torrent and its tally. The torrents come sorted, none
/// twice. `flags` hold `min_request_interval` unless it is 0 (`rules/http.md#scrape-reply`).
pub fn scrape<'t>(
    entries: impl ExactSizeIterator<Item = (&'t InfoHash, Tally)>,
    min_request_interval_seconds: u32,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(ANNOUNCE_OVERHEAD + entries.len() * SCRAPE_ENTRY);
    bencode::dict(&mut out, |reply| {
        reply.dict(b"files", |files| {
            for (info_hash, tally) in entries {
                files.dict(&info_hash.0, |file| scrape_entry(file, tally));
            }
        });
        if min_request_interval_seconds > 0 {
            reply.dict(b"flags", |flags| {
                flags.integer(b"min_request_interval", min_request_interval_seconds.into());
            });
        }
    });
    out
}

/// Writes a failure. `interval` tells the client when to come again, so that clients slow down; 0 = it
/// is left out (`rules/http.md#failure-reply`).
#[must_use]
pub fn failure(text: &[u8], interval_seconds: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(ANNOUNCE_OVERHEAD);
    bencode::dict(&mut out, |reply| {
        reply.string(b"failure reason", text);
        if interval_seconds > 0 {
            reply.integer(b"interval", interval_seconds.into());
        }
    });
    out
}

fn scrape_entry(file: &mut Dict<'_>, tally: Tally) {
    file.integer(b"complete", tally.seeders.into());
    file.integer(b"downloaded", tally.completed.into());
    if tally.paused > 0 {
        file.integer(b"downloaders", tally.leechers.saturating_sub(tally.paused).into());
    }
    file.integer(b"incomplete", tally.leechers.into());
}

fn list_peers(list: &mut Vec<u8>, peers: &PeerList) {
    let (v4, _) = peers.v4.as_chunks::<PEER_V4_LEN>();
    for (at, [a, b, c, d, port @ ..]) in v4.iter().enumerate() {
        let address = IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d));
        list_peer(list, address, peers.v4_ids.get(at), u16::from_be_bytes(*port));
    }
    let (v6, _) = peers.v6.as_chunks::<PEER_V6_LEN>();
    for (at, peer) in v6.iter().enumerate() {
        let Some((address, port)) = peer.split_first_chunk::<16>() else { continue };
        let port = port.first_chunk().map_or(0, |port| u16::from_be_bytes(*port));
        list_peer(list, IpAddr::V6(Ipv6Addr::from(*address)), peers.v6_ids.get(at), port);
    }
}

fn list_peer(list: &mut Vec<u8>, address: IpAddr, id: Option<&PeerId>, port: u16) {
    let mut text = [0_u8; ADDRESS_TEXT_MAX];
    let mut free = text.as_mut_slice();
    // No address is longer than the text, so writing cannot fail.
    let _ = write!(free, "{address}");
    let unused = free.len();
    bencode::dict(list, |peer| {
        peer.string(b"ip", text.get(..ADDRESS_TEXT_MAX - unused).unwrap_or_default());
        if let Some(id) = id {
            peer.string(b"peer id", &id.0);
        }
        peer.integer(b"port", port.into());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: ReplyAddress = ReplyAddress { external: None, over_v6: false };

    fn answer() -> Answer {
        let tally = Tally { seeders: 1, completed: 0, leechers: 0, paused: 0 };
        Answer { interval_seconds: 1800, min_interval_seconds: 900, tally }
    }

    fn text(reply: Vec<u8>) -> String {
        reply.escape_ascii().to_string()
    }

    #[test]
    fn a_lone_seeder_gets_the_reply_of_the_spec() {
        let head =
            "d8:completei1e10:downloadedi0e10:incompletei0e8:intervali1800e12:min intervali900e5:peers";
        let none = PeerList::default();
        assert_eq!(text(announce(&answer(), &none, ReplyForm::Compact, NOWHERE)), format!("{head}0:e"));
        assert_eq!(text(announce(&answer(), &none, ReplyForm::List, NOWHERE)), format!("{head}lee"));
    }

    #[test]
    fn the_list_form_is_that_of_the_spec() {
        let id = PeerId(*b"-AZ3034-6wfG2wk6wWLc");
        let peers = PeerList { v4: vec![192, 0, 2, 9, 0x1a, 0xe1], v4_ids: vec![id], ..PeerList::default() };
        let reply = text(announce(&answer(), &peers, ReplyForm::List, NOWHERE));
        let entry = "d2:ip9:192.0.2.97:peer id20:-AZ3034-6wfG2wk6wWLc4:porti6881ee";
        assert!(reply.ends_with(&format!("5:peersl{entry}ee")), "{reply}");
    }

    #[test]
    fn the_list_form_holds_both_families_and_ids_only_where_they_are_kept() {
        let mut v6 = [0; PEER_V6_LEN];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15..].copy_from_slice(&[9, 0, 7]);
        let peers = PeerList { v4: vec![192, 0, 2, 9, 0, 11], v6: v6.to_vec(), ..PeerList::default() };
        let reply = text(announce(&answer(), &peers, ReplyForm::List, NOWHERE));
        let entries = "d2:ip9:192.0.2.94:porti11eed2:ip11:2001:db8::94:porti7ee";
        assert!(reply.ends_with(&format!("5:peersl{entries}ee")), "{reply}");
        assert!(!reply.contains("peers6"));
    }

    #[test]
    fn peers6_is_there_for_v6_clients_and_for_v6_peers() {
        let over_v6 = ReplyAddress { external: Some("2001:db8::7".parse().unwrap()), over_v6: true };
        let reply = text(announce(&answer(), &PeerList::default(), ReplyForm::Compact, over_v6));
        assert!(reply.ends_with("5:peers0:6:peers60:e"), "{reply}");
        assert!(reply.contains("11:external ip16: \\x01\\r\\xb8"), "{reply}");
        let peers = PeerList { v6: vec![7; PEER_V6_LEN], ..PeerList::default() };
        let reply = text(announce(&answer(), &peers, ReplyForm::Compact, NOWHERE));
        assert!(reply.contains("5:peers0:6:peers618:"), "{reply}");
    }

    #[test]
    fn external_ip_is_four_octets_and_min_interval_may_be_absent() {
        let address = ReplyAddress { external: Some("192.0.2.7".parse().unwrap()), over_v6: false };
        let answer = Answer { min_interval_seconds: 0, ..answer() };
        let reply = text(announce(&answer, &PeerList::default(), ReplyForm::Compact, address));
        assert!(reply.contains("11:external ip4:\\xc0\\x00\\x02\\x0710:incomplete"), "{reply}");
        assert!(!reply.contains("min interval"));
    }

    #[test]
    fn a_scrape_is_that_of_the_spec() {
        let tally = Tally { seeders: 1, completed: 7, leechers: 2, paused: 0 };
        let hash = InfoHash([b'H'; 20]);
        let h = "H".repeat(20);
        assert_eq!(
            text(scrape([(&hash, tally)].into_iter(), 900)),
            format!(
                "d5:filesd20:{h}d8:completei1e10:downloadedi7e10:incompletei2eee\
                 5:flagsd20:min_request_intervali900eee"
            )
        );
        let tally = Tally { paused: 1, ..tally };
        assert_eq!(
            text(scrape([(&hash, tally)].into_iter(), 0)),
            format!("d5:filesd20:{h}d8:completei1e10:downloadedi7e11:downloadersi1e10:incompletei2eeee")
        );
    }

    #[test]
    fn a_failure_tells_when_to_come_again() {
        assert_eq!(text(failure(b"invalid port", 900)), "d14:failure reason12:invalid port8:intervali900ee");
    }
}
