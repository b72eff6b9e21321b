//! `client approval` and `torrent approval` (`rules/hooks.md#client-approval`): lists of clients or torrents
//! that may, or may not, announce or be announced.

use std::collections::HashSet;
use std::hash::Hash;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{AnnounceVisit, Hook, HookError, HookInputs, Verdict, parse_options};
use crate::announce::Refusal;
use crate::ids::{ClientId, InfoHash};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApprovalOptions {
    #[serde(default)]
    whitelist: Vec<String>,
    #[serde(default)]
    blacklist: Vec<String>,
}

/// A list, and what it means to be on it.
#[derive(Debug)]
enum ApprovalList<T> {
    Nothing,
    Only(HashSet<T>),
    Never(HashSet<T>),
}

impl<T: Eq + Hash> ApprovalList<T> {
    fn parse(
        from: &Map<String, Value>,
        read: fn(&str, &str) -> Result<T, String>,
    ) -> Result<Self, HookError> {
        let ApprovalOptions { whitelist, blacklist } = parse_options(from)?;
        let set = |name, list: &[String]| -> Result<HashSet<T>, HookError> {
            list.iter().map(|entry| read(name, entry)).collect::<Result<_, _>>().map_err(HookError::Options)
        };
        match (whitelist.is_empty(), blacklist.is_empty()) {
            (true, true) => Ok(Self::Nothing),
            (false, true) => Ok(Self::Only(set("whitelist", &whitelist)?)),
            (true, false) => Ok(Self::Never(set("blacklist", &blacklist)?)),
            (false, false) => {
                Err(HookError::Options("using both whitelist and blacklist is invalid".to_owned()))
            }
        }
    }

    fn admits(&self, item: &T) -> bool {
        match self {
            Self::Nothing => true,
            Self::Only(list) => list.contains(item),
            Self::Never(list) => !list.contains(item),
        }
    }
}

#[derive(Debug)]
struct ClientApproval(ApprovalList<ClientId>);

/// Builds `client approval`.
pub(super) fn build_client_approval(
    options: &Map<String, Value>,
    _: HookInputs<'_>,
) -> Result<Box<dyn Hook>, HookError> {
    let list = ApprovalList::parse(options, |_, entry| {
        let id = entry.as_bytes().try_into().map_err(|_| format!("client ID {entry} must be 6 bytes"))?;
        Ok(ClientId(id))
    })?;
    Ok(Box::new(ClientApproval(list)))
}

impl Hook for ClientApproval {
    fn announce(&self, visit: &mut AnnounceVisit<'_>) -> Verdict {
        let client = visit.announce.peer_id.client();
        if self.0.admits(&client) { Ok(()) } else { Err(Refusal::UnapprovedClient) }
    }
}

#[derive(Debug)]
struct TorrentApproval(ApprovalList<InfoHash>);

/// Builds `torrent approval`.
pub(super) fn build_torrent_approval(
    options: &Map<String, Value>,
    _: HookInputs<'_>,
) -> Result<Box<dyn Hook>, HookError> {
    let list = ApprovalList::parse(options, |list, entry| {
        if !entry.bytes().all(|digit| digit.is_ascii_hexdigit()) || !entry.len().is_multiple_of(2) {
            return Err(format!("{list} : invalid hash {entry}"));
        }
        entry.parse().map_err(|_| format!("{list} : hash {entry} is not 20 bytes"))
    })?;
    Ok(Box::new(TorrentApproval(list)))
}

impl Hook for TorrentApproval {
    fn announce(&self, visit: &mut AnnounceVisit<'_>) -> Verdict {
        let info_hash = &visit.announce.info_hash;
        if self.0.admits(info_hash) { Ok(()) } else { Err(Refusal::UnapprovedTorrent) }
    }
}
