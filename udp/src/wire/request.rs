//! Requests of clients: connect, announce, scrape (BEP 15).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hayate_state::ids::ID_LEN;
use hayate_state::{Announce, Event, InfoHash, PeerId};

use super::option::Options;
use super::{TransactionId, octets_at};

/// Octets with which every request begins: connection id, action, transaction id.
pub const HEAD_LEN: usize = 16;
/// Octets of an announce from its start up to the IP field, the same in both layouts.
const FIXED_LEN: usize = 84;
/// Octets of an announce behind the IP field: key, num_want, port.
const TAIL_LEN: usize = 10;
/// Fewest octets of an announce with a 4-octet IP field (action 1); behind them are the options of BEP 41.
pub const ANNOUNCE_LEN: usize = FIXED_LEN + 4 + TAIL_LEN;
/// Fewest octets of an announce with a 16-octet IP field (action 4, opentracker's layout).
pub const ANNOUNCE_WIDE_LEN: usize = FIXED_LEN + 16 + TAIL_LEN;

const _: () = assert!(ANNOUNCE_LEN == 98 && ANNOUNCE_WIDE_LEN == 110);

/// The error for a datagram of fewer than [`HEAD_LEN`] octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shorter than the head of a request")]
pub struct Short;

/// The error for a request that is too short for its action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shorter than its action needs")]
pub struct Malformed;

/// The action of a request (BEP 15, offset 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// 0: a connection id.
    Connect,
    /// 1: peers of a swarm; the IP field has 4 octets.
    Announce,
    /// 2: the counts of swarms.
    Scrape,
    /// 3: the error reply of a tracker. A client never sends it, and answering it could make a loop.
    ErrorReply,
    /// 4: an announce whose IP field has 16 octets, as opentracker once had it.
    AnnounceWide,
    /// Anything else.
    Unknown,
}

/// The beginning of every request.
#[derive(Clone, Copy, Debug)]
pub struct Head<'p> {
    octets: &'p [u8; HEAD_LEN],
    datagram: &'p [u8],
}

impl<'p> Head<'p> {
    /// Reads the beginning of a datagram.
    ///
    /// # Errors
    /// Fails when it has fewer than [`HEAD_LEN`] octets.
    pub fn parse(datagram: &'p [u8]) -> Result<Self, Short> {
        let octets = datagram.first_chunk().ok_or(Short)?;
        Ok(Self { octets, datagram })
    }

    /// Returns the connection id, or in a connect the [`PROTOCOL_ID`](super::PROTOCOL_ID).
    #[must_use]
    pub fn connection_id(self) -> [u8; 8] {
        octets_at::<0, 8, _>(self.octets)
    }

    /// Returns the action.
    #[must_use]
    pub fn action(self) -> Action {
        match u32::from_be_bytes(octets_at::<8, 4, _>(self.octets)) {
            0 => Action::Connect,
            1 => Action::Announce,
            2 => Action::Scrape,
            3 => Action::ErrorReply,
            4 => Action::AnnounceWide,
            _ => Action::Unknown,
        }
    }

    /// Returns the transaction id, which the reply carries back.
    #[must_use]
    pub fn transaction_id(self) -> TransactionId {
        octets_at::<12, 4, _>(self.octets)
    }

    /// Reads the datagram as an announce with a 4-octet IP field (action 1).
    ///
    /// # Errors
    /// Fails when it has fewer than [`ANNOUNCE_LEN`] octets.
    pub fn announce(self) -> Result<AnnounceView<'p>, Malformed> {
        AnnounceView::parse(self.datagram, |claim: [u8; 4]| Ipv4Addr::from(claim).into())
    }

    /// Reads the datagram as an announce with a 16-octet IP field (action 4).
    ///
    /// # Errors
    /// Fails when it has fewer than [`ANNOUNCE_WIDE_LEN`] octets.
    pub fn announce_wide(self) -> Result<AnnounceView<'p>, Malformed> {
        AnnounceView::parse(self.datagram, |claim: [u8; 16]| Ipv6Addr::from(claim).to_canonical())
    }

    /// Reads the datagram as a scrape.
    ///
    /// # Errors
    /// Fails when it holds no whole info_hash.
    pub fn scrape(self) -> Result<ScrapeView<'p>, Malformed> {
        let (hashes, _broken_tail) = self.datagram.get(HEAD_LEN..).unwrap_or_default().as_chunks();
        if hashes.is_empty() { Err(Malformed) } else { Ok(ScrapeView { hashes }) }
    }
}

/// A view of an announce.
#[derive(Clone, Copy, Debug)]
pub struct AnnounceView<'p> {
    fixed: &'p [u8; FIXED_LEN],
    claim: IpAddr,
    tail: &'p [u8; TAIL_LEN],
    options: &'p [u8],
}

impl<'p> AnnounceView<'p> {
    fn parse<const N: usize>(
        datagram: &'p [u8],
        address: impl FnOnce([u8; N]) -> IpAddr,
    ) -> Result<Self, Malformed> {
        let (fixed, rest) = datagram.split_first_chunk().ok_or(Malformed)?;
        let (claim, rest) = rest.split_first_chunk().ok_or(Malformed)?;
        let (tail, options) = rest.split_first_chunk().ok_or(Malformed)?;
        Ok(Self { fixed, claim: address(*claim), tail, options })
    }

    /// The torrent (offset 16). Any octets are valid.
    #[must_use]
    pub fn info_hash(self) -> InfoHash {
        InfoHash(octets_at::<16, ID_LEN, _>(self.fixed))
    }

    /// The client's session (offset 36). Any octets are valid.
    #[must_use]
    pub fn peer_id(self) -> PeerId {
        PeerId(octets_at::<36, ID_LEN, _>(self.fixed))
    }

    /// Octets downloaded (offset 56).
    #[must_use]
    pub fn downloaded(self) -> u64 {
        u64::from_be_bytes(octets_at::<56, 8, _>(self.fixed))
    }

    /// Octets still missing (offset 64); 0 means seeder, and clients that do not know say 2^64 - 1.
    #[must_use]
    pub fn left(self) -> u64 {
        u64::from_be_bytes(octets_at::<64, 8, _>(self.fixed))
    }

    /// Octets uploaded (offset 72).
    #[must_use]
    pub fn uploaded(self) -> u64 {
        u64::from_be_bytes(octets_at::<72, 8, _>(self.fixed))
    }

    /// The event (offset 80, the whole 32 bits). libtorrent sends 4 for a partial seed (BEP 21); all other
    /// numbers are a regular announce.
    #[must_use]
    pub fn event(self) -> Event {
        match u32::from_be_bytes(octets_at::<80, 4, _>(self.fixed)) {
            1 => Event::Completed,
            2 => Event::Started,
            3 => Event::Stopped,
            4 => Event::Paused,
            _ => Event::None,
        }
    }

    /// The address the client claims to have (offset 84), an IPv4-mapped one as IPv4; `None` where it claims
    /// none.
    #[must_use]
    pub fn claimed_address(self) -> Option<IpAddr> {
        (!self.claim.is_unspecified()).then_some(self.claim)
    }

    /// The number by which a client identifies itself when its address changes (offset 88); it decides
    /// nothing here.
    #[must_use]
    pub fn key(self) -> u32 {
        u32::from_be_bytes(octets_at::<0, 4, _>(self.tail))
    }

    /// Peers the client would like, at most `cap`; a negative number means "you choose", and then `cap` does
    /// not bind (offset 92).
    #[must_use]
    pub fn num_want(self, default: u16, cap: u16) -> u16 {
        let wanted = i32::from_be_bytes(octets_at::<4, 4, _>(self.tail));
        if wanted < 0 { default } else { u16::try_from(wanted).map_or(cap, |wanted| wanted.min(cap)) }
    }

    /// The port the peer listens on (offset 96).
    #[must_use]
    pub fn port(self) -> u16 {
        u16::from_be_bytes(octets_at::<8, 2, _>(self.tail))
    }

    /// The options behind the fixed part (BEP 41).
    #[must_use]
    pub fn options(self) -> Options<'p> {
        Options::new(self.options)
    }

    /// Returns the announce as the tracker takes it, for a peer at `address` that gets at most `num_want`
    /// peers.
    #[must_use]
    pub fn to_announce(self, address: IpAddr, num_want: u16) -> Announce {
        Announce {
            info_hash: self.info_hash(),
            peer_id: self.peer_id(),
            address,
            port: self.port(),
            uploaded: self.uploaded(),
            downloaded: self.downloaded(),
            left: self.left(),
            event: self.event(),
            num_want,
        }
    }
}

/// A view of a scrape of at least one torrent. A broken last info_hash is left out.
#[derive(Clone, Copy, Debug)]
pub struct ScrapeView<'p> {
    hashes: &'p [[u8; ID_LEN]],
}

impl<'p> ScrapeView<'p> {
    /// Iterates over the torrents in it, in order, with duplicates.
    pub fn info_hashes(self) -> impl Iterator<Item = InfoHash> + Clone + use<'p> {
        self.hashes.iter().map(|octets| InfoHash(*octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An announce whose octets are all different where it matters: every field shows when it is read
    /// elsewhere.
    fn announce(claim: &[u8]) -> Vec<u8> {
        let mut packet: Vec<u8> = (0..84).collect();
        packet.extend_from_slice(claim);
        packet.extend_from_slice(&[0xa0, 0xa1, 0xa2, 0xa3, 0, 0, 0, 7, 0x1a, 0xe1]);
        packet
    }

    #[test]
    fn every_field_is_where_bep_15_has_it() {
        let packet = announce(&[192, 0, 2, 7]);
        let head = Head::parse(&packet).unwrap();
        assert_eq!(head.connection_id(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(head.transaction_id(), [12, 13, 14, 15]);
        let view = head.announce().unwrap();
        assert_eq!(view.info_hash().0[..], packet[16..36]);
        assert_eq!(view.peer_id().0[..], packet[36..56]);
        assert_eq!(view.downloaded(), 0x3839_3a3b_3c3d_3e3f);
        assert_eq!(view.left(), 0x4041_4243_4445_4647);
        assert_eq!(view.uploaded(), 0x4849_4a4b_4c4d_4e4f);
        assert_eq!(view.event(), Event::None);
        assert_eq!(view.claimed_address(), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(view.key(), 0xa0a1_a2a3);
        assert_eq!(view.num_want(50, 200), 7);
        assert_eq!(view.port(), 6881);
    }

    #[test]
    fn action_4_has_twelve_octets_more_of_address() {
        let packet = announce(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(packet.len(), ANNOUNCE_WIDE_LEN);
        let view = Head::parse(&packet).unwrap().announce_wide().unwrap();
        assert_eq!(view.claimed_address(), Some("2001:db8::7".parse().unwrap()));
        assert_eq!((view.key(), view.port()), (0xa0a1_a2a3, 6881));
        let mapped = announce(&"::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets());
        let view = Head::parse(&mapped).unwrap().announce_wide().unwrap();
        assert_eq!(view.claimed_address(), Some("192.0.2.7".parse().unwrap()));
    }

    #[test]
    fn an_address_of_zeros_is_no_claim() {
        assert_eq!(Head::parse(&announce(&[0; 4])).unwrap().announce().unwrap().claimed_address(), None);
        assert_eq!(
            Head::parse(&announce(&[0; 16])).unwrap().announce_wide().unwrap().claimed_address(),
            None
        );
    }

    #[test]
    fn each_action_needs_its_length() {
        let packet = announce(&[0; 16]);
        for len in 0..=packet.len() {
            let head = Head::parse(&packet[..len]);
            assert_eq!(head.is_ok(), len >= HEAD_LEN, "{len}");
            let Ok(head) = head else { continue };
            assert_eq!(head.announce().is_ok(), len >= ANNOUNCE_LEN, "{len}");
            assert_eq!(head.announce_wide().is_ok(), len >= ANNOUNCE_WIDE_LEN, "{len}");
            assert_eq!(head.scrape().map_or(0, |view| view.info_hashes().count()), (len - 16) / 20, "{len}");
        }
    }

    #[test]
    fn event_is_read_as_a_whole_word() {
        for (number, event) in [
            (0_u32, Event::None),
            (1, Event::Completed),
            (2, Event::Started),
            (3, Event::Stopped),
            (4, Event::Paused),
            (5, Event::None),
            (0x0100_0003, Event::None),
            (u32::MAX, Event::None),
        ] {
            let mut packet = announce(&[0; 4]);
            packet[80..84].copy_from_slice(&number.to_be_bytes());
            assert_eq!(Head::parse(&packet).unwrap().announce().unwrap().event(), event, "{number:#x}");
        }
    }

    #[test]
    fn num_want_is_signed_and_capped() {
        for (wish, expected) in
            [(-1, 50), (i32::MIN, 50), (0, 0), (1, 1), (199, 199), (201, 200), (65_536, 200)]
        {
            let mut packet = announce(&[0; 4]);
            packet[92..96].copy_from_slice(&i32::to_be_bytes(wish));
            assert_eq!(
                Head::parse(&packet).unwrap().announce().unwrap().num_want(50, 200),
                expected,
                "{wish}"
            );
        }
    }
}
