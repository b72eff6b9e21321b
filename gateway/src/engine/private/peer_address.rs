//! The address at which a user's peer can be reached (`rules/private.md#user-address`).

use std::net::IpAddr;

use hayate_state::address::AddressClass;

use crate::engine::bad_request::BadRequest;
use crate::engine::client_address::AddressTrust;
use crate::engine::failure::{FailureDetail, FailureReason};
use crate::wire::query::{Escaped, Parameters};

/// Octets of the longest address as text.
const TEXT_MAX: usize = 45;

/// Reads one entry of a proxy's header: an address that a client can have, and nothing else.
pub(crate) fn parse_proxy_entry(text: &[u8]) -> Option<IpAddr> {
    let address = parse_address(text)?;
    AddressClass::of(address).may_be_claimed().then_some(address)
}

/// Returns the address that a client claims, if it may claim one and the claim is usable; else the address at
/// which it was seen.
///
/// Fails when `ip` and `ipv4` name different IPv4 addresses.
pub(crate) fn choose_address(
    parameters: &Parameters<'_>,
    seen: IpAddr,
    trust: &AddressTrust<'_>,
) -> Result<IpAddr, FailureReason> {
    // Most clients claim nothing.
    if parameters.ip.is_none() && parameters.ipv4.is_none() || !trust.may_claim(seen) {
        return Ok(seen);
    }
    let usable = |claim: Option<Escaped<'_>>| {
        let mut buffer = [0; TEXT_MAX];
        parse_address(claim?.decode_tolerant(&mut buffer)?)
            .filter(|address| AddressClass::of(*address).is_useful_claim())
    };
    let ip = usable(parameters.ip);
    let Some(ipv4) = usable(parameters.ipv4).filter(IpAddr::is_ipv4) else { return Ok(ip.unwrap_or(seen)) };
    match ip.filter(IpAddr::is_ipv4) {
        Some(ip) if ip != ipv4 => {
            let mut buffer = [0; TEXT_MAX];
            let text = parameters.ip.and_then(|ip| ip.decode_tolerant(&mut buffer)).unwrap_or_default();
            Err(FailureReason {
                cause: BadRequest::ContradictingAddress,
                detail: FailureDetail::Ip(text.to_vec()),
            })
        }
        _ => Ok(ipv4),
    }
}

/// Reads an address without port, brackets, zone or leading zeros; an IPv4-mapped one is returned as IPv4.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    str::from_utf8(text).ok()?.parse().ok().map(|address: IpAddr| address.to_canonical())
}
