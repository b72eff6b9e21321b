//! The passkey of a user over UDP: it is in the path of the announce URL, which clients send as an option
//! (BEP 41, `rules/private.md#udp`).

use hayate_state::private::passkey_path;
use hayate_state::query::split_target;

use crate::wire::option::Options;

/// Octets of the longest path that is read where it comes in several pieces or has to be decoded.
const PATH_MAX: usize = 1024;

/// Runs `work` on the passkey of an announce; `None` if there is none, because the path is missing, not
/// whole, or not that of an announce.
pub(crate) fn with_passkey<T>(options: Options<'_>, work: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
    let mut pieces = options;
    let first = pieces.next()?;
    if pieces.next().is_none() && !pieces.overrun() {
        return with_passkey_of_url(first, work);
    }
    let mut buffer = [0; PATH_MAX];
    let url = options.join(&mut buffer).filter(|url| url.whole)?;
    with_passkey_of_url(url.octets, work)
}

fn with_passkey_of_url<T>(url: &[u8], work: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
    let (path, _) = split_target(url);
    if passkey_path::is_plain(path) {
        return with_passkey_of_path(path, &mut [], work);
    }
    with_passkey_of_path(path, &mut [0; PATH_MAX], work)
}

fn with_passkey_of_path<T>(
    path: &[u8],
    buffer: &mut [u8],
    work: impl FnOnce(&[u8]) -> Option<T>,
) -> Option<T> {
    let parsed = passkey_path::parse_path(path, buffer);
    if parsed.leaf != b"announce" {
        return None;
    }
    work(parsed.passkey?)
}
