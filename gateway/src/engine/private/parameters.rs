//! From parameters to the announce of a member, strictly: rows 2 to 12 of
//! `rules/private.md#failures`, in their order.

use std::net::IpAddr;

use hayate_state::{Announce, Event, InfoHash, PeerId, Policy};

use super::failure::{FailureDetail, FailureReason};
use super::peer_address;
use crate::engine::bad_request::BadRequest;
use crate::engine::client_address::AddressTrust;
use crate::engine::open_mode::NumWantLimits;
use crate::wire::query::{Escaped, Number, StrictParameters};
use crate::wire::reply::ReplyForm;

/// Octets of a value that is compared with a word; longer ones are no such word.
const WORD_MAX: usize = 16;

/// A whole announce, and how its reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StrictAnnounceQuery {
    pub(super) announce: Announce,
    pub(super) form: ReplyForm,
    /// The list form holds peer ids.
    pub(super) with_ids: bool,
}

/// Reads an announce of a client that was seen at `seen`.
pub(super) fn read_announce(
    parameters: &StrictParameters<'_>,
    seen: Result<IpAddr, BadRequest>,
    trust: &AddressTrust<'_>,
    limits: NumWantLimits,
    policy: &Policy,
) -> Result<StrictAnnounceQuery, FailureReason> {
    let mut info_hashes = parameters.info_hashes();
    let info_hash = info_hashes.next().ok_or(BadRequest::MissingInfoHash)?;
    if info_hashes.next().is_some() {
        return Err(BadRequest::ManyInfoHashes.into());
    }
    let peer_id = read_peer_id(parameters.peer_id)?;
    let port = read_number(parameters.port, BadRequest::MissingPort, BadRequest::InvalidPort)?;
    let port = u16::try_from(port).map_err(|_| BadRequest::InvalidPort)?;
    if policy.refuses_port(port) {
        let refusal = hayate_state::Refusal::WellKnownPort.into();
        return Err(FailureReason { cause: refusal, detail: FailureDetail::Port(port) });
    }
    let uploaded =
        read_number(parameters.uploaded, BadRequest::MissingUploaded, BadRequest::InvalidUploaded)?;
    let downloaded =
        read_number(parameters.downloaded, BadRequest::MissingDownloaded, BadRequest::InvalidDownloaded)?;
    let left = read_number(parameters.left, BadRequest::MissingLeft, BadRequest::InvalidLeft)?;
    let num_want = parameters.num_want.map_or(Ok(limits.default), |wanted| read_num_want(wanted, limits))?;
    let address = peer_address::choose_address(parameters, seen?, trust)?;
    let announce = Announce {
        info_hash,
        peer_id,
        address,
        port,
        uploaded,
        downloaded,
        left,
        event: parameters.event.map_or(Event::None, read_event),
        num_want,
    };
    let list_form = parameters.compact.is_some_and(|value| is_word(value, b"0"));
    let no_peer_id = parameters.no_peer_id.is_some_and(|value| is_word(value, b"1"));
    let form = if list_form { ReplyForm::List } else { ReplyForm::Compact };
    Ok(StrictAnnounceQuery { announce, form, with_ids: list_form && !no_peer_id })
}

/// Reads a scrape: the torrents it names, sorted, none twice.
pub(super) fn read_scrape(parameters: &StrictParameters<'_>) -> Result<Vec<InfoHash>, FailureReason> {
    let mut info_hashes: Vec<_> = parameters.info_hashes().collect();
    if info_hashes.is_empty() {
        return Err(BadRequest::NothingToScrape.into());
    }
    info_hashes.sort_unstable();
    info_hashes.dedup();
    Ok(info_hashes)
}

fn read_peer_id(value: Option<Escaped<'_>>) -> Result<PeerId, BadRequest> {
    let value = value.filter(|value| !value.0.is_empty()).ok_or(BadRequest::MissingPeerId)?;
    value.literal_id().map(PeerId).ok_or(BadRequest::InvalidPeerId)
}

fn read_number(
    value: Option<Escaped<'_>>,
    missing: BadRequest,
    invalid: BadRequest,
) -> Result<u64, BadRequest> {
    value.ok_or(missing)?.literal_number().value().ok_or(invalid)
}

/// A negative number means that the client does not say; one that is too large means the most there is.
fn read_num_want(value: Escaped<'_>, limits: NumWantLimits) -> Result<u16, BadRequest> {
    match value.literal_number() {
        Number::Value(wanted) => {
            Ok(u16::try_from(wanted).map_or(limits.max, |wanted| wanted.min(limits.max)))
        }
        Number::TooLarge => Ok(limits.max),
        Number::Garbage => match value.literal_after_minus() {
            Some(Number::Value(_) | Number::TooLarge) => Ok(limits.default),
            _ => Err(BadRequest::InvalidNumWant),
        },
    }
}

/// In exactly this spelling; everything else is a regular announce.
fn read_event(value: Escaped<'_>) -> Event {
    for (word, event) in [
        (&b"started"[..], Event::Started),
        (b"stopped", Event::Stopped),
        (b"completed", Event::Completed),
        (b"paused", Event::Paused),
    ] {
        if is_word(value, word) {
            return event;
        }
    }
    Event::None
}

fn is_word(value: Escaped<'_>, word: &[u8]) -> bool {
    value.0 == word || value.literal(&mut [0; WORD_MAX]) == Some(word)
}
