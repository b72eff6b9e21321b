//! From parameters to the words of the tracker: what makes an announce or a scrape whole, in the order of
//! `rules/http.md#order-of-failures`. Knows no policy but the door's own bounds.

use std::net::IpAddr;

use hayate_state::{Announce, Event, InfoHash, PeerId};

use crate::engine::refusal::Refusal;
use crate::wire::query::{BadEscape, Escaped, NotAnId, Number, Parameters};
use crate::wire::reply::Form;

/// What a client that says nothing readable about `left` is taken to miss: it is a leecher
/// (`rules/http.md#numbers`).
const LEFT_UNKNOWN: u64 = u64::MAX;

/// How many peers a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Peers for a client that does not say.
    pub default: u16,
    /// Peers at most for a client that says.
    pub max: u16,
}

/// A whole announce, and how its reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// For the tracker.
    pub announce: Announce,
    /// Compact unless `compact=0`.
    pub form: Form,
    /// The list form may hold peer ids.
    pub with_ids: bool,
}

/// Reads an announce. `client` is who the client is, which is looked at last, unless its claim cannot be
/// decoded.
///
/// # Errors
/// The first failure, in the order of `rules/http.md#order-of-failures`.
pub fn announce(
    parameters: &Parameters<'_>,
    client: Result<IpAddr, Refusal>,
    wish: Wish,
) -> Result<Asked, Refusal> {
    // Every value is decoded first: a broken escape outranks whatever else is wrong.
    let info_hashes = check_info_hashes(parameters);
    if info_hashes == Err(Refusal::InvalidEscape) || client == Err(Refusal::InvalidEscape) {
        return Err(Refusal::InvalidEscape);
    }
    let peer_id = parameters.peer_id.map(peer_id).transpose()?;
    let left = number(parameters.left)?;
    let downloaded = number(parameters.downloaded)?;
    let uploaded = number(parameters.uploaded)?;
    let num_want = number(parameters.num_want)?;
    let port = number(parameters.port)?;
    let event = parameters.event.map_or(Ok(Event::None), event)?;
    let list_form = is(parameters.compact, b"0")?;
    let no_peer_id = is(parameters.no_peer_id, b"1")?;

    let info_hash = info_hashes?;
    let peer_id = peer_id.ok_or(Refusal::NoPeerId)?.ok_or(Refusal::InvalidPeerId)?;
    let port = port.value().and_then(|port| u16::try_from(port).ok()).ok_or(Refusal::UnreadablePort)?;
    let announce = Announce {
        info_hash,
        peer_id,
        address: client?,
        port,
        uploaded: uploaded.value().unwrap_or(0),
        downloaded: downloaded.value().unwrap_or(0),
        left: left.value().unwrap_or(LEFT_UNKNOWN),
        event,
        num_want: wish.grant(num_want),
    };
    let form = if list_form { Form::List } else { Form::Compact };
    Ok(Asked { announce, form, with_ids: list_form && !no_peer_id })
}

/// Reads a scrape: the first `max` torrents it names, sorted, none twice.
///
/// # Errors
/// When there is none, or any of them is broken.
pub fn scrape(parameters: &Parameters<'_>, max: usize) -> Result<Vec<InfoHash>, Refusal> {
    if parameters.info_hashes().any(|read| read == Err(NotAnId::BadEscape)) {
        return Err(Refusal::InvalidEscape);
    }
    if parameters.info_hashes().any(|read| read.is_err()) {
        return Err(Refusal::InvalidInfoHash);
    }
    let mut info_hashes: Vec<_> = parameters.info_hashes().take(max.max(1)).flatten().collect();
    if info_hashes.is_empty() {
        return Err(Refusal::NoInfoHash);
    }
    info_hashes.sort_unstable();
    info_hashes.dedup();
    Ok(info_hashes)
}

impl Wish {
    /// Peers for a wish. Whoever says nothing, or nothing readable, gets the default, which the most does not
    /// bound (`rules/http.md#numwant`).
    fn grant(self, wish: Number) -> u16 {
        match wish {
            Number::Garbage => self.default,
            Number::TooLarge => self.max,
            Number::Value(wish) => u16::try_from(wish).map_or(self.max, |wish| wish.min(self.max)),
        }
    }
}

impl From<BadEscape> for Refusal {
    fn from(BadEscape: BadEscape) -> Self {
        Self::InvalidEscape
    }
}

fn check_info_hashes(parameters: &Parameters<'_>) -> Result<InfoHash, Refusal> {
    match (parameters.info_hash, parameters.info_hashes_count) {
        (None, _) => Err(Refusal::NoInfoHash),
        (Some(one), 1) => one.id().map(InfoHash).map_err(|error| match error {
            NotAnId::BadEscape => Refusal::InvalidEscape,
            NotAnId::WrongLength => Refusal::InvalidInfoHash,
        }),
        (Some(_), _) => Err(scrape(parameters, 1).err().unwrap_or(Refusal::ManyInfoHashes)),
    }
}

/// `None` if the value has the wrong length.
fn peer_id(value: Escaped<'_>) -> Result<Option<PeerId>, Refusal> {
    match value.id() {
        Ok(id) => Ok(Some(PeerId(id))),
        Err(NotAnId::WrongLength) => Ok(None),
        Err(NotAnId::BadEscape) => Err(Refusal::InvalidEscape),
    }
}

fn number(value: Option<Escaped<'_>>) -> Result<Number, BadEscape> {
    value.map_or(Ok(Number::Garbage), Escaped::number)
}

fn is(value: Option<Escaped<'_>>, word: &[u8]) -> Result<bool, BadEscape> {
    value.map_or(Ok(false), |value| value.is(word))
}

/// Unknown events are regular announces (`rules/swarms.md#unknown-events`).
fn event(value: Escaped<'_>) -> Result<Event, BadEscape> {
    for (word, event) in [
        (&b"started"[..], Event::Started),
        (b"stopped", Event::Stopped),
        (b"completed", Event::Completed),
        (b"paused", Event::Paused),
    ] {
        if value.is(word)? {
            return Ok(event);
        }
    }
    Ok(Event::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: Wish = Wish { default: 50, max: 200 };

    fn ask(query: &str) -> Result<Asked, Refusal> {
        announce(&Parameters::read(query.as_bytes()), Ok([192, 0, 2, 7].into()), WISH)
    }

    fn whole(more: &str) -> String {
        format!("info_hash={}&peer_id=-XX0001-%30%300000000001&port=6881{more}", "%61".repeat(20))
    }

    fn asked(more: &str) -> Asked {
        ask(&whole(more)).unwrap()
    }

    #[test]
    fn an_announce_is_read_as_it_is_said() {
        let asked = asked("&uploaded=7&downloaded=11&left=13&event=Started&numwant=17");
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
        assert_eq!((asked.form, asked.with_ids), (Form::Compact, false));
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
            assert_eq!(asked(more).announce.left, left, "{more}");
        }
        let announce = asked("&uploaded=-7&downloaded=x").announce;
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
            assert_eq!(asked(more).announce.num_want, granted, "{more}");
        }
    }

    #[test]
    fn the_default_is_not_bounded_by_the_most() {
        let wish = Wish { default: 13, max: 7 };
        let granted = [Number::Garbage, Number::Value(11), Number::TooLarge].map(|said| wish.grant(said));
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
            assert_eq!(asked(more).announce.event, event, "{more}");
        }
    }

    #[test]
    fn only_compact_0_asks_for_the_list_form() {
        assert_eq!(asked("&compact=2").form, Form::Compact);
        assert_eq!((asked("&compact=0").form, asked("&compact=0").with_ids), (Form::List, true));
        assert!(!asked("&compact=0&no_peer_id=1").with_ids);
    }

    #[test]
    fn the_first_failure_in_the_order_of_the_spec_is_the_answer() {
        let hash = "a".repeat(20);
        for (query, refusal) in [
            ("info_hash=short&left=%zz".to_owned(), Refusal::InvalidEscape),
            (whole("&left=%zz"), Refusal::InvalidEscape),
            (whole("&numwant=7%"), Refusal::InvalidEscape),
            (whole("&event=x%2"), Refusal::InvalidEscape),
            (whole("&compact=%2"), Refusal::InvalidEscape),
            ("info_hash=%0%a".to_owned(), Refusal::InvalidEscape),
            ("info_hash=short".to_owned(), Refusal::InvalidInfoHash),
            ("info_hash=".to_owned(), Refusal::InvalidInfoHash),
            (format!("info_hash={hash}&info_hash=x"), Refusal::InvalidInfoHash),
            (String::new(), Refusal::NoInfoHash),
            ("INFO_HASH=x&peer_id=short".to_owned(), Refusal::NoInfoHash),
            (format!("info_hash={hash}&info_hash={hash}"), Refusal::ManyInfoHashes),
            (format!("info_hash={hash}&port=7"), Refusal::NoPeerId),
            (format!("info_hash={hash}&peer_id=&port=7"), Refusal::InvalidPeerId),
            (format!("info_hash={hash}&peer_id={hash}"), Refusal::UnreadablePort),
            (whole("&port="), Refusal::UnreadablePort),
            (whole("&port=-1"), Refusal::UnreadablePort),
            (whole("&port=65536"), Refusal::UnreadablePort),
        ] {
            assert_eq!(ask(&query), Err(refusal), "{query}");
        }
        assert!(ask(&whole("&key=%zz&supportcrypto=%&ip=%zz&a&=b?")).is_ok());
        assert_eq!(asked("&port=0").announce.port, 0);
    }

    #[test]
    fn a_client_nobody_knows_is_refused_last_and_a_claim_with_a_broken_escape_first() {
        let refused = |query: &str, client| {
            announce(&Parameters::read(query.as_bytes()), Err(client), WISH).unwrap_err()
        };
        assert_eq!(refused(&whole(""), Refusal::UnreadableAddress), Refusal::UnreadableAddress);
        assert_eq!(refused(&whole("&port=x"), Refusal::UnreadableAddress), Refusal::UnreadablePort);
        assert_eq!(refused("info_hash=x", Refusal::InvalidEscape), Refusal::InvalidEscape);
    }

    #[test]
    fn a_scrape_names_the_first_torrents_sorted_and_none_twice() {
        let hash = |letter: &str| format!("info_hash={}&", letter.repeat(20));
        let read = |query: &str| scrape(&Parameters::read(query.as_bytes()), 3);
        let query = [hash("c"), hash("a"), hash("c"), hash("b")].concat();
        assert_eq!(read(&query).unwrap(), [InfoHash([b'a'; 20]), InfoHash([b'c'; 20])]);
        assert_eq!(read(""), Err(Refusal::NoInfoHash));
        assert_eq!(read(&(hash("a") + "info_hash=x")), Err(Refusal::InvalidInfoHash));
        assert_eq!(read(&(hash("a") + "info_hash=x&info_hash=%")), Err(Refusal::InvalidEscape));
        assert!(read(&(hash("a") + "left=%zz")).is_ok());
    }
}
