//! From query parameters to an announce or scrape: what makes an announce or a scrape whole, in the order of
//! `rules/http.md#order-of-failures`. Knows no policy but the gateway's own bounds.

use std::net::IpAddr;

use hayate_state::{Announce, Event, InfoHash, PeerId};

use crate::engine::bad_request::BadRequest;
use crate::wire::query::{BadEscape, Escaped, NotAnId, Number, Parameters};
use crate::wire::reply::ReplyForm;

/// What a client that says nothing readable about `left` is taken to miss: it is a leecher
/// (`rules/http.md#numbers`).
const LEFT_UNKNOWN: u64 = u64::MAX;

/// How many peers a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumWantLimits {
    /// Peers for a client that does not say.
    pub default: u16,
    /// Peers at most for a client that says.
    pub max: u16,
}

/// A whole announce, and how its reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnounceQuery {
    /// For the tracker.
    pub announce: Announce,
    /// Compact unless `compact=0`.
    pub form: ReplyForm,
    /// The list form may hold peer ids.
    pub with_ids: bool,
}

/// Reads an announce. `client` is who the client is, which is looked at last, unless its claim cannot be
/// decoded.
///
/// # Errors
/// The first failure, in the order of `rules/http.md#order-of-failures`.
pub fn read_announce(
    parameters: &Parameters<'_>,
    client: Result<IpAddr, BadRequest>,
    limits: NumWantLimits,
) -> Result<AnnounceQuery, BadRequest> {
    // Every value is decoded first: a broken escape outranks whatever else is wrong.
    let info_hashes = read_only_info_hash(parameters);
    if info_hashes == Err(BadRequest::InvalidEscape) || client == Err(BadRequest::InvalidEscape) {
        return Err(BadRequest::InvalidEscape);
    }
    let peer_id = parameters.peer_id.map(read_peer_id).transpose()?;
    let left = read_number(parameters.left)?;
    let downloaded = read_number(parameters.downloaded)?;
    let uploaded = read_number(parameters.uploaded)?;
    let num_want = read_number(parameters.num_want)?;
    let port = read_number(parameters.port)?;
    let event = parameters.event.map_or(Ok(Event::None), read_event)?;
    let list_form = is_word(parameters.compact, b"0")?;
    let no_peer_id = is_word(parameters.no_peer_id, b"1")?;

    let info_hash = info_hashes?;
    let peer_id = peer_id.ok_or(BadRequest::MissingPeerId)?.ok_or(BadRequest::InvalidPeerId)?;
    let port = port.value().and_then(|port| u16::try_from(port).ok()).ok_or(BadRequest::InvalidPort)?;
    let announce = Announce {
        info_hash,
        peer_id,
        address: client?,
        port,
        uploaded: uploaded.value().unwrap_or(0),
        downloaded: downloaded.value().unwrap_or(0),
        left: left.value().unwrap_or(LEFT_UNKNOWN),
        event,
        num_want: limits.bound(num_want),
    };
    let form = if list_form { ReplyForm::List } else { ReplyForm::Compact };
    Ok(AnnounceQuery { announce, form, with_ids: list_form && !no_peer_id })
}

/// Reads a scrape: the first `max` torrents it names, sorted, none twice.
///
/// # Errors
/// When there is none, or any of them is broken.
pub fn read_scrape(parameters: &Parameters<'_>, max: usize) -> Result<Vec<InfoHash>, BadRequest> {
    if parameters.info_hashes().any(|read| read == Err(NotAnId::BadEscape)) {
        return Err(BadRequest::InvalidEscape);
    }
    if parameters.info_hashes().any(|read| read.is_err()) {
        return Err(BadRequest::InvalidInfoHash);
    }
    let mut info_hashes: Vec<_> = parameters.info_hashes().take(max.max(1)).flatten().collect();
    if info_hashes.is_empty() {
        return Err(BadRequest::MissingInfoHash);
    }
    info_hashes.sort_unstable();
    info_hashes.dedup();
    Ok(info_hashes)
}

impl NumWantLimits {
    /// The number of peers to hand out. Whoever says nothing, or nothing readable, gets the default, which the most does not
    /// bound (`rules/http.md#numwant`).
    fn bound(self, wanted: Number) -> u16 {
        match wanted {
            Number::Garbage => self.default,
            Number::TooLarge => self.max,
            Number::Value(wanted) => u16::try_from(wanted).map_or(self.max, |wanted| wanted.min(self.max)),
        }
    }
}

impl From<BadEscape> for BadRequest {
    fn from(BadEscape: BadEscape) -> Self {
        Self::InvalidEscape
    }
}

fn read_only_info_hash(parameters: &Parameters<'_>) -> Result<InfoHash, BadRequest> {
    match (parameters.info_hash, parameters.info_hashes_count) {
        (None, _) => Err(BadRequest::MissingInfoHash),
        (Some(one), 1) => one.id().map(InfoHash).map_err(|error| match error {
            NotAnId::BadEscape => BadRequest::InvalidEscape,
            NotAnId::WrongLength => BadRequest::InvalidInfoHash,
        }),
        (Some(_), _) => Err(read_scrape(parameters, 1).err().unwrap_or(BadRequest::ManyInfoHashes)),
    }
}

/// `None` if the value has the wrong length.
fn read_peer_id(value: Escaped<'_>) -> Result<Option<PeerId>, BadRequest> {
    match value.id() {
        Ok(id) => Ok(Some(PeerId(id))),
        Err(NotAnId::WrongLength) => Ok(None),
        Err(NotAnId::BadEscape) => Err(BadRequest::InvalidEscape),
    }
}

fn read_number(value: Option<Escaped<'_>>) -> Result<Number, BadEscape> {
    value.map_or(Ok(Number::Garbage), Escaped::number)
}

fn is_word(value: Option<Escaped<'_>>, word: &[u8]) -> Result<bool, BadEscape> {
    value.map_or(Ok(false), |value| value.is_word(word))
}

/// Unknown events are regular announces (`rules/swarms.md#unknown-events`).
fn read_event(value: Escaped<'_>) -> Result<Event, BadEscape> {
    for (word, event) in [
        (&b"started"[..], Event::Started),
        (b"stopped", Event::Stopped),
        (b"completed", Event::Completed),
        (b"paused", Event::Paused),
    ] {
        if value.is_word(word)? {
            return Ok(event);
        }
    }
    Ok(Event::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: NumWantLimits = NumWantLimits { default: 50, max: 200 };

    fn read(query: &str) -> Result<AnnounceQuery, BadRequest> {
        read_announce(&Parameters::parse(query.as_bytes()), Ok([192, 0, 2, 7].into()), LIMITS)
    }

    fn whole(more: &str) -> String {
        format!("info_hash={}&peer_id=-XX0001-%30%300000000001&port=6881{more}", "%61".repeat(20))
    }

    fn read_whole(more: &str) -> AnnounceQuery {
        read(&whole(more)).unwrap()
    }

    #[test]
    fn an_announce_is_read_as_it_is_said() {
        let asked = read_whole("&uploaded=7&downloaded=11&left=13&event=Started&numwant=17");
        assert_eq!(
            asked.announce,
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
        assert_eq!((asked.form, asked.with_ids), (ReplyForm::Compact, false));
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
        let refused = |query: &str, client| {
            read_announce(&Parameters::parse(query.as_bytes()), Err(client), LIMITS).unwrap_err()
        };
        assert_eq!(refused(&whole(""), BadRequest::UnreadableAddress), BadRequest::UnreadableAddress);
        assert_eq!(refused(&whole("&port=x"), BadRequest::UnreadableAddress), BadRequest::InvalidPort);
        assert_eq!(refused("info_hash=x", BadRequest::InvalidEscape), BadRequest::InvalidEscape);
    }

    #[test]
    fn a_scrape_names_the_first_torrents_sorted_and_none_twice() {
        let hash = |letter: &str| format!("info_hash={}&", letter.repeat(20));
        let read = |query: &str| read_scrape(&Parameters::parse(query.as_bytes()), 3);
        let query = [hash("c"), hash("a"), hash("c"), hash("b")].concat();
        assert_eq!(read(&query).unwrap(), [InfoHash([b'a'; 20]), InfoHash([b'c'; 20])]);
        assert_eq!(read(""), Err(BadRequest::MissingInfoHash));
        assert_eq!(read(&(hash("a") + "info_hash=x")), Err(BadRequest::InvalidInfoHash));
        assert_eq!(read(&(hash("a") + "info_hash=x&info_hash=%")), Err(BadRequest::InvalidEscape));
        assert!(read(&(hash("a") + "left=%zz")).is_ok());
    }
}
