//! From parameters to the announce of a member, strictly: rows 2 to 12 of
//! `rules/private.md#failures`, in their order.

use std::net::IpAddr;

use hayate_state::{Announce, Event, InfoHash, PeerId, Policy};

use super::failure::{Detail, Failure, Fault};
use super::peer_address;
use crate::engine::client_address::Trust;
use crate::engine::open_mode::Wish;
use crate::engine::refusal::Refusal;
use crate::wire::query::{Escaped, Number, StrictParameters};
use crate::wire::reply::Form;

/// Octets of a value that is compared with a word; longer ones are no such word.
const WORD_MAX: usize = 16;

/// A whole announce, and how its reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) announce: Announce,
    pub(super) form: Form,
    /// The list form holds peer ids.
    pub(super) with_ids: bool,
}

/// Reads an announce of a client that was seen at `seen`.
pub(super) fn announce(
    parameters: &StrictParameters<'_>,
    seen: Result<IpAddr, Refusal>,
    trust: &Trust<'_>,
    wish: Wish,
    policy: &Policy,
) -> Result<Asked, Failure> {
    let mut info_hashes = parameters.info_hashes();
    let info_hash = info_hashes.next().ok_or(Fault::MissingInfoHash)?;
    if info_hashes.next().is_some() {
        return Err(Fault::ManyInfoHashes.into());
    }
    let peer_id = peer_id(parameters.peer_id)?;
    let port = number(parameters.port, Fault::MissingPort, Fault::InvalidPort)?;
    let port = u16::try_from(port).map_err(|_| Fault::InvalidPort)?;
    if policy.refuses_port(port) {
        let refusal = hayate_state::Refusal::WellKnownPort.into();
        return Err(Failure { refusal, detail: Detail::Port(port) });
    }
    let uploaded = number(parameters.uploaded, Fault::MissingUploaded, Fault::InvalidUploaded)?;
    let downloaded = number(parameters.downloaded, Fault::MissingDownloaded, Fault::InvalidDownloaded)?;
    let left = number(parameters.left, Fault::MissingLeft, Fault::InvalidLeft)?;
    let num_want = parameters.num_want.map_or(Ok(wish.default), |wanted| num_want(wanted, wish))?;
    let address = peer_address::client(parameters, seen?, trust)?;
    let announce = Announce {
        info_hash,
        peer_id,
        address,
        port,
        uploaded,
        downloaded,
        left,
        event: parameters.event.map_or(Event::None, event),
        num_want,
    };
    let list_form = parameters.compact.is_some_and(|value| is(value, b"0"));
    let no_peer_id = parameters.no_peer_id.is_some_and(|value| is(value, b"1"));
    let form = if list_form { Form::List } else { Form::Compact };
    Ok(Asked { announce, form, with_ids: list_form && !no_peer_id })
}

/// Reads a scrape: the torrents it names, sorted, none twice.
pub(super) fn scrape(parameters: &StrictParameters<'_>) -> Result<Vec<InfoHash>, Failure> {
    let mut info_hashes: Vec<_> = parameters.info_hashes().collect();
    if info_hashes.is_empty() {
        return Err(Fault::NothingToScrape.into());
    }
    info_hashes.sort_unstable();
    info_hashes.dedup();
    Ok(info_hashes)
}

fn peer_id(value: Option<Escaped<'_>>) -> Result<PeerId, Fault> {
    let value = value.filter(|value| !value.0.is_empty()).ok_or(Fault::MissingPeerId)?;
    value.literal_id().map(PeerId).ok_or(Fault::InvalidPeerId)
}

fn number(value: Option<Escaped<'_>>, missing: Fault, invalid: Fault) -> Result<u64, Fault> {
    value.ok_or(missing)?.literal_number().value().ok_or(invalid)
}

/// A negative number means that the client does not say; one that is too large means the most there is.
fn num_want(value: Escaped<'_>, wish: Wish) -> Result<u16, Fault> {
    match value.literal_number() {
        Number::Value(wanted) => Ok(u16::try_from(wanted).map_or(wish.max, |wanted| wanted.min(wish.max))),
        Number::TooLarge => Ok(wish.max),
        Number::Garbage => match value.literal_sign() {
            Some(Number::Value(_) | Number::TooLarge) => Ok(wish.default),
            _ => Err(Fault::InvalidNumWant),
        },
    }
}

/// In exactly this spelling; everything else is a regular announce.
fn event(value: Escaped<'_>) -> Event {
    for (word, event) in [
        (&b"started"[..], Event::Started),
        (b"stopped", Event::Stopped),
        (b"completed", Event::Completed),
        (b"paused", Event::Paused),
    ] {
        if is(value, word) {
            return event;
        }
    }
    Event::None
}

fn is(value: Escaped<'_>, word: &[u8]) -> bool {
    value.0 == word || value.literal(&mut [0; WORD_MAX]) == Some(word)
}
