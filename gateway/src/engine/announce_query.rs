//! From query parameters to an announce or scrape: what makes an announce or a scrape whole, in the order of
//! `rules/http.md#order-of-failures` and of rows 2 to 12 of `rules/private.md#failures`. Both orders fit one
//! function, because most rows of mode private are no failure in the open modes.

use std::net::IpAddr;

use hayate_state::actor::PeerForm;
use hayate_state::{Announce, Event, InfoHash, PeerId, Policy};

use crate::engine::bad_request::BadRequest;
use crate::engine::failure::{FailureDetail, FailureReason};
use crate::wire::query::{BadEscape, Escaped, NotAnId, Number, Parameters, QueryRules};
use crate::wire::reply::ReplyForm;

/// The value of `left` of a client that says nothing readable about it: the client is a leecher
/// (`rules/http.md#numbers`).
const LEFT_UNKNOWN: u64 = u64::MAX;
/// Octets of a value that is compared with a word, at most; a longer one is no such word.
const WORD_MAX: usize = 16;
/// The events (BEP 3, BEP 21); everything else is a regular announce (`rules/swarms.md#unknown-events`).
const EVENTS: [(&[u8], Event); 4] = [
    (b"started", Event::Started),
    (b"stopped", Event::Stopped),
    (b"completed", Event::Completed),
    (b"paused", Event::Paused),
];

/// Limits of the number of peers that a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumWantLimits {
    /// Peers for a client that does not ask for a number.
    pub default: u16,
    /// The largest number of peers for a client that asks for a number.
    pub max: u16,
}

impl NumWantLimits {
    /// Returns the number of peers to hand out. A client that says nothing, or nothing readable, gets the
    /// default, which `max` does not bound (`rules/http.md#numwant`).
    fn bound(self, wanted: Number) -> u16 {
        match wanted {
            Number::Garbage => self.default,
            Number::TooLarge => self.max,
            Number::Value(wanted) => u16::try_from(wanted).map_or(self.max, |wanted| wanted.min(self.max)),
        }
    }
}

/// A whole announce, and how its reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnounceQuery {
    /// The announce for the tracker.
    pub announce: Announce,
    /// Compact unless `compact=0`.
    pub form: ReplyForm,
    /// Whether the list form may hold peer ids.
    pub with_ids: bool,
}

impl AnnounceQuery {
    /// Reads an announce of `client`. Whether the client is known is looked at last, unless its claim cannot
    /// be decoded.
    ///
    /// # Errors
    /// Returns the first failure, in the order of `rules/http.md#order-of-failures` or of
    /// `rules/private.md#failures`.
    pub(crate) fn read(
        parameters: &Parameters<'_>,
        rules: QueryRules,
        client: Result<IpAddr, FailureReason>,
        limits: NumWantLimits,
        policy: &Policy,
    ) -> Result<Self, FailureReason> {
        let reader = Reader { parameters, rules };
        // Every value is decoded first: where a broken escape is a failure, it outranks whatever else is
        // wrong.
        let info_hash = reader.only_info_hash();
        let client_failure = client.as_ref().err().map(|failure| failure.cause);
        if info_hash == Err(BadRequest::InvalidEscape) || client_failure == Some(BadRequest::InvalidEscape) {
            return Err(BadRequest::InvalidEscape.into());
        }
        let peer_id = reader.peer_id();
        if peer_id == Err(BadRequest::InvalidEscape) {
            return Err(BadRequest::InvalidEscape.into());
        }
        let left = reader.number(parameters.left)?;
        let downloaded = reader.number(parameters.downloaded)?;
        let uploaded = reader.number(parameters.uploaded)?;
        let num_want = reader.number(parameters.num_want)?;
        let port = reader.number(parameters.port)?;
        let event = reader.event()?;
        let list_form = reader.eq_ignore_case(parameters.compact, b"0")?;
        let no_peer_id = reader.eq_ignore_case(parameters.no_peer_id, b"1")?;

        let info_hash = info_hash?;
        let peer_id = peer_id?;
        let port = reader.port(port, policy)?;
        let uploaded =
            reader.octets(uploaded, 0, BadRequest::MissingUploaded, BadRequest::InvalidUploaded)?;
        let downloaded =
            reader.octets(downloaded, 0, BadRequest::MissingDownloaded, BadRequest::InvalidDownloaded)?;
        let left = reader.octets(left, LEFT_UNKNOWN, BadRequest::MissingLeft, BadRequest::InvalidLeft)?;
        let num_want = reader.num_want(num_want, limits)?;
        let address = client?;
        let announce =
            Announce { info_hash, peer_id, address, port, uploaded, downloaded, left, event, num_want };
        let form = if list_form { ReplyForm::List } else { ReplyForm::Compact };
        Ok(Self { announce, form, with_ids: list_form && !no_peer_id })
    }

    /// The form in which the tracker returns the peers.
    pub(crate) fn peer_form(&self) -> PeerForm {
        if self.with_ids { PeerForm::WithIds } else { PeerForm::Compact }
    }
}

/// Reads a scrape: the torrents it names, sorted, none twice; in the open modes the first `max` of them.
///
/// # Errors
/// Fails when there is no info_hash, or, in the open modes, when any of them is broken.
pub fn read_scrape(
    parameters: &Parameters<'_>,
    rules: QueryRules,
    max: usize,
) -> Result<Vec<InfoHash>, BadRequest> {
    let (max, nothing) = match rules {
        QueryRules::Open => {
            check_info_hashes(parameters)?;
            (max.max(1), BadRequest::MissingInfoHash)
        }
        QueryRules::Private => (usize::MAX, BadRequest::NothingToScrape),
    };
    let mut info_hashes: Vec<_> = parameters.info_hashes(rules).flatten().take(max).collect();
    if info_hashes.is_empty() {
        return Err(nothing);
    }
    info_hashes.sort_unstable();
    info_hashes.dedup();
    Ok(info_hashes)
}

/// Fails when any `info_hash` is broken; a broken escape outranks a wrong length.
fn check_info_hashes(parameters: &Parameters<'_>) -> Result<(), BadRequest> {
    let info_hashes = || parameters.info_hashes(QueryRules::Open);
    if info_hashes().any(|read| read == Err(NotAnId::BadEscape)) {
        return Err(BadRequest::InvalidEscape);
    }
    if info_hashes().any(|read| read.is_err()) {
        return Err(BadRequest::InvalidInfoHash);
    }
    Ok(())
}

/// The parameters of one request and how they are read.
#[derive(Clone, Copy)]
struct Reader<'p, 'q> {
    parameters: &'p Parameters<'q>,
    rules: QueryRules,
}

impl Reader<'_, '_> {
    fn only_info_hash(self) -> Result<InfoHash, BadRequest> {
        match self.rules {
            QueryRules::Open => match (self.parameters.info_hash, self.parameters.info_hashes_count) {
                (None, _) => Err(BadRequest::MissingInfoHash),
                (Some(one), 1) => one.id().map(InfoHash).map_err(|error| match error {
                    NotAnId::BadEscape => BadRequest::InvalidEscape,
                    NotAnId::WrongLength => BadRequest::InvalidInfoHash,
                }),
                (Some(_), _) => check_info_hashes(self.parameters).and(Err(BadRequest::ManyInfoHashes)),
            },
            QueryRules::Private => {
                let mut info_hashes = self.parameters.info_hashes(QueryRules::Private).flatten();
                let info_hash = info_hashes.next().ok_or(BadRequest::MissingInfoHash)?;
                if info_hashes.next().is_some() { Err(BadRequest::ManyInfoHashes) } else { Ok(info_hash) }
            }
        }
    }

    fn peer_id(self) -> Result<PeerId, BadRequest> {
        let value = self.parameters.peer_id.ok_or(BadRequest::MissingPeerId)?;
        match self.rules {
            QueryRules::Open => value.id().map(PeerId).map_err(|error| match error {
                NotAnId::BadEscape => BadRequest::InvalidEscape,
                NotAnId::WrongLength => BadRequest::InvalidPeerId,
            }),
            QueryRules::Private if value.0.is_empty() => Err(BadRequest::MissingPeerId),
            QueryRules::Private => value.id_tolerant().map(PeerId).ok_or(BadRequest::InvalidPeerId),
        }
    }

    fn number(self, value: Option<Escaped<'_>>) -> Result<Option<Number>, BadEscape> {
        let Some(value) = value else { return Ok(None) };
        match self.rules {
            QueryRules::Open => value.number().map(Some),
            QueryRules::Private => Ok(Some(value.number_tolerant())),
        }
    }

    fn port(self, read: Option<Number>, policy: &Policy) -> Result<u16, FailureReason> {
        if self.rules == QueryRules::Private && read.is_none() {
            return Err(BadRequest::MissingPort.into());
        }
        let port = read.and_then(Number::value).and_then(|port| u16::try_from(port).ok());
        let port = port.ok_or(BadRequest::InvalidPort)?;
        // In the open modes the tracker itself refuses it.
        if self.rules == QueryRules::Private && policy.refuses_port(port) {
            let cause = hayate_state::Refusal::WellKnownPort.into();
            return Err(FailureReason { cause, detail: FailureDetail::Port(port) });
        }
        Ok(port)
    }

    /// A count of octets, or `default` where an unreadable one is no failure.
    fn octets(
        self,
        read: Option<Number>,
        default: u64,
        missing: BadRequest,
        invalid: BadRequest,
    ) -> Result<u64, BadRequest> {
        match self.rules {
            QueryRules::Open => Ok(read.and_then(Number::value).unwrap_or(default)),
            QueryRules::Private => read.ok_or(missing)?.value().ok_or(invalid),
        }
    }

    /// A negative number means that the client does not say.
    fn num_want(self, read: Option<Number>, limits: NumWantLimits) -> Result<u16, BadRequest> {
        if (self.rules, read) == (QueryRules::Private, Some(Number::Garbage)) {
            let negated = self.parameters.num_want.and_then(Escaped::negated_number);
            if !matches!(negated, Some(Number::Value(_) | Number::TooLarge)) {
                return Err(BadRequest::InvalidNumWant);
            }
        }
        Ok(limits.bound(read.unwrap_or(Number::Garbage)))
    }

    fn event(self) -> Result<Event, BadEscape> {
        let value = self.parameters.event;
        if value.is_some() {
            for (word, event) in EVENTS {
                if self.eq_ignore_case(value, word)? {
                    return Ok(event);
                }
            }
        }
        Ok(Event::None)
    }

    /// Whether the value is `word`: in the open modes in any case, in mode private in exactly this spelling.
    fn eq_ignore_case(self, value: Option<Escaped<'_>>, word: &[u8]) -> Result<bool, BadEscape> {
        let Some(value) = value else { return Ok(false) };
        match self.rules {
            QueryRules::Open => value.eq_ignore_case(word),
            QueryRules::Private => {
                Ok(value.0 == word || value.decode_tolerant(&mut [0; WORD_MAX]) == Some(word))
            }
        }
    }
}

impl From<BadEscape> for FailureReason {
    fn from(BadEscape: BadEscape) -> Self {
        BadRequest::InvalidEscape.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: NumWantLimits = NumWantLimits { default: 50, max: 200 };

    fn read(query: &str) -> Result<AnnounceQuery, BadRequest> {
        read_of(query, Ok([192, 0, 2, 7].into()))
    }

    fn read_of(query: &str, client: Result<IpAddr, BadRequest>) -> Result<AnnounceQuery, BadRequest> {
        let (parameters, client) = (Parameters::parse(query.as_bytes()), client.map_err(FailureReason::from));
        AnnounceQuery::read(&parameters, QueryRules::Open, client, LIMITS, &Policy::default())
            .map_err(|failure| failure.cause)
    }

    fn whole(more: &str) -> String {
        format!("info_hash={}&peer_id=-XX0001-%30%300000000001&port=6881{more}", "%61".repeat(20))
    }

    fn read_whole(more: &str) -> AnnounceQuery {
        read(&whole(more)).unwrap()
    }

    #[test]
    fn an_announce_is_read_as_it_is_said() {
        let query = read_whole("&uploaded=7&downloaded=11&left=13&event=Started&numwant=17");
        assert_eq!(
            query.announce,
            Announce {
                info_hash: InfoHash([b'a'; 20]),
                peer_id: PeerId(*b"-XX0001-000000000001"),
                address: [192, 0, 2, 7].into(),
                port: 6881,
                uploaded: 7,
                downloaded: 11,
                left: 13,
                event: Event::Started,
                num_want: 17,
            }
        );
        assert_eq!((query.form, query.with_ids), (ReplyForm::Compact, false));
    }

    #[test]
    fn missing_or_garbled_numbers_mean_a_leecher_without_traffic() {
        for (more, left) in [
            ("", u64::MAX),
            ("&left=", u64::MAX),
            ("&left=-1", u64::MAX),
            ("&left=abc", u64::MAX),
            ("&left=18446744073709551616", u64::MAX),
            ("&left=18446744073709551615", u64::MAX),
            ("&left=9223372036854775807", i64::MAX as u64),
            ("&left=000", 0),
        ] {
            assert_eq!(read_whole(more).announce.left, left, "{more}");
        }
        let announce = read_whole("&uploaded=-7&downloaded=x").announce;
        assert_eq!((announce.uploaded, announce.downloaded), (0, 0));
    }

    #[test]
    fn num_want_is_a_wish() {
        for (more, granted) in [
            ("", 50),
            ("&numwant=", 50),
            ("&numwant=-1", 50),
            ("&numwant=abc", 50),
            ("&numwant=0", 0),
            ("&numwant=7", 7),
            ("&numwant=201", 200),
            ("&numwant=70000", 200),
            ("&numwant=99999999999999999999", 200),
        ] {
            assert_eq!(read_whole(more).announce.num_want, granted, "{more}");
        }
    }

    #[test]
    fn the_default_is_not_bounded_by_the_most() {
        let limits = NumWantLimits { default: 13, max: 7 };
        let granted =
            [Number::Garbage, Number::Value(11), Number::TooLarge].map(|wanted| limits.bound(wanted));
        assert_eq!(granted, [13, 7, 7]);
    }

    #[test]
    fn events_are_words_in_any_case_and_unknown_ones_are_none() {
        for (more, event) in [
            ("&event=", Event::None),
            ("&event=empty", Event::None),
            ("&event=none", Event::None),
            ("&event=bogus", Event::None),
            ("&event=STOPPED", Event::Stopped),
            ("&event=%63ompleted", Event::Completed),
            ("&event=paused", Event::Paused),
        ] {
            assert_eq!(read_whole(more).announce.event, event, "{more}");
        }
    }

    #[test]
    fn only_compact_0_asks_for_the_list_form() {
        assert_eq!(read_whole("&compact=2").form, ReplyForm::Compact);
        assert_eq!(
            (read_whole("&compact=0").form, read_whole("&compact=0").with_ids),
            (ReplyForm::List, true)
        );
        assert!(!read_whole("&compact=0&no_peer_id=1").with_ids);
    }

    #[test]
    fn the_first_failure_in_the_order_of_the_spec_is_the_answer() {
        let hash = "a".repeat(20);
        for (query, refusal) in [
            ("info_hash=short&left=%zz".to_owned(), BadRequest::InvalidEscape),
            (whole("&left=%zz"), BadRequest::InvalidEscape),
            (whole("&numwant=7%"), BadRequest::InvalidEscape),
            (whole("&event=x%2"), BadRequest::InvalidEscape),
            (whole("&compact=%2"), BadRequest::InvalidEscape),
            ("info_hash=%0%a".to_owned(), BadRequest::InvalidEscape),
            ("info_hash=short".to_owned(), BadRequest::InvalidInfoHash),
            ("info_hash=".to_owned(), BadRequest::InvalidInfoHash),
            (format!("info_hash={hash}&info_hash=x"), BadRequest::InvalidInfoHash),
            (String::new(), BadRequest::MissingInfoHash),
            ("INFO_HASH=x&peer_id=short".to_owned(), BadRequest::MissingInfoHash),
            (format!("info_hash={hash}&info_hash={hash}"), BadRequest::ManyInfoHashes),
            (format!("info_hash={hash}&port=7"), BadRequest::MissingPeerId),
            (format!("info_hash={hash}&peer_id=&port=7"), BadRequest::InvalidPeerId),
            (format!("info_hash={hash}&peer_id={hash}"), BadRequest::InvalidPort),
            (whole("&port="), BadRequest::InvalidPort),
            (whole("&port=-1"), BadRequest::InvalidPort),
            (whole("&port=65536"), BadRequest::InvalidPort),
        ] {
            assert_eq!(read(&query), Err(refusal), "{query}");
        }
        assert!(read(&whole("&key=%zz&supportcrypto=%&ip=%zz&a&=b?")).is_ok());
        assert_eq!(read_whole("&port=0").announce.port, 0);
    }

    #[test]
    fn a_client_nobody_knows_is_refused_last_and_a_claim_with_a_broken_escape_first() {
        let refused = |query: &str, client| read_of(query, Err(client)).unwrap_err();
        assert_eq!(refused(&whole(""), BadRequest::UnreadableAddress), BadRequest::UnreadableAddress);
        assert_eq!(refused(&whole("&port=x"), BadRequest::UnreadableAddress), BadRequest::InvalidPort);
        assert_eq!(refused("info_hash=x", BadRequest::InvalidEscape), BadRequest::InvalidEscape);
    }

    #[test]
    fn a_scrape_names_the_first_torrents_sorted_and_none_twice() {
        let hash = |letter: &str| format!("info_hash={}&", letter.repeat(20));
        let read = |query: &str| read_scrape(&Parameters::parse(query.as_bytes()), QueryRules::Open, 3);
        let query = [hash("c"), hash("a"), hash("c"), hash("b")].concat();
        assert_eq!(read(&query).unwrap(), [InfoHash([b'a'; 20]), InfoHash([b'c'; 20])]);
        assert_eq!(read(""), Err(BadRequest::MissingInfoHash));
        assert_eq!(read(&(hash("a") + "info_hash=x")), Err(BadRequest::InvalidInfoHash));
        assert_eq!(read(&(hash("a") + "info_hash=x&info_hash=%")), Err(BadRequest::InvalidEscape));
        assert!(read(&(hash("a") + "left=%zz")).is_ok());
    }
}
