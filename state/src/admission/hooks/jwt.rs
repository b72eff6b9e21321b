//! `jwt` (`rules/hooks.md#jwt`): announces need a token (RFC 7519) for their torrent, signed by a key
//! of a JWK set. Scrapes need none.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::jwk::{Keyring, VerificationKey};
use super::token_cache::{TokenDigest, VerifiedToken, VerifiedTokens};
use super::{AnnounceVisit, Hook, HookError, HookInputs, Verdict, parse_options};
use crate::admission::rate_limit::{RateLimit, RateLimiter};
use crate::announce::Refusal;

/// Seconds by which the clocks of issuer and tracker may differ.
const LEEWAY_SECONDS: u64 = 30;
/// Seconds between two readings of the keys, by default.
const UPDATE_SECONDS: u64 = 300;
/// Signatures that are checked for one address: a client that starts with many torrents has a token for each.
const CHECK_LIMIT: RateLimit = RateLimit { per_minute: 1200, burst: 400, addresses: 16384 };
/// The parameter with the token.
const PARAMETER: &str = "jwt";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtOptions {
    issuer: Option<String>,
    audience: Option<String>,
    jwk_set_url: Option<String>,
    #[serde(default)]
    jwk_set_update_interval: Value,
    #[serde(default)]
    require_exp: bool,
}

#[derive(Debug)]
struct JwtHook {
    issuer: String,
    audience: String,
    require_exp: bool,
    keyring: Arc<Keyring>,
    verified: VerifiedTokens,
    checks: RateLimiter,
}

/// The claims of a token.
#[derive(Deserialize)]
struct JwtClaims {
    iss: String,
    aud: Audience,
    infohash: String,
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

/// Builds `jwt`; its keys are fetched before.
pub(super) fn build(from: &Map<String, Value>, inputs: HookInputs<'_>) -> Result<Box<dyn Hook>, HookError> {
    let read: JwtOptions = parse_options(from)?;
    let needed = |name: &str, value: Option<String>| {
        let value = value.filter(|value| !value.is_empty());
        value.ok_or_else(|| HookError::Options(format!("{name} is required")))
    };
    let (issuer, audience) = (needed("issuer", read.issuer)?, needed("audience", read.audience)?);
    let url = needed("jwk_set_url", read.jwk_set_url)?;
    let interval_seconds = parse_update_seconds(&read.jwk_set_update_interval)?;
    let keyring = inputs
        .keyrings
        .keyring(&url, interval_seconds)
        .map_err(|cause| HookError::Options(format!("failed to fetch initial JWK Set: {cause}")))?;
    Ok(Box::new(JwtHook {
        issuer,
        audience,
        require_exp: read.require_exp,
        keyring,
        verified: VerifiedTokens::default(),
        checks: RateLimiter::new(CHECK_LIMIT),
    }))
}

/// Reads seconds, as a number or as a text such as "5m".
fn parse_update_seconds(value: &Value) -> Result<u64, HookError> {
    let bad = || {
        let text = "jwk_set_update_interval: expected whole seconds or a text such as \"5m\", at least 1s";
        HookError::Options(text.to_owned())
    };
    let seconds = match value {
        Value::Null => 0,
        Value::Number(number) => number.as_u64().ok_or_else(bad)?,
        Value::String(text) => match text.parse::<jiff::SignedDuration>() {
            Ok(duration) if duration.is_zero() => 0,
            Ok(duration) => u64::try_from(duration.as_secs()).ok().filter(|&s| s >= 1).ok_or_else(bad)?,
            Err(_) => return Err(bad()),
        },
        _ => return Err(bad()),
    };
    Ok(if seconds == 0 { UPDATE_SECONDS } else { seconds })
}

impl Hook for JwtHook {
    fn announce(&self, visit: &mut AnnounceVisit<'_>) -> Verdict {
        let token = visit.url.parameter(PARAMETER).ok_or(Refusal::MissingJwt)?;
        if token.is_empty() {
            return Err(Refusal::MissingJwt);
        }
        let digest = TokenDigest::of_token(&token);
        let generation = self.keyring.generation();
        let known = self.verified.find(digest).filter(|token| token.generation == generation);
        let good = match known {
            Some(good) => good,
            None => {
                if !self.checks.admits(visit.now.tick, visit.url.source) {
                    return Err(Refusal::InvalidJwt);
                }
                let good = self.check_token(&token, generation).ok_or(Refusal::InvalidJwt)?;
                self.verified.insert(digest, good);
                good
            }
        };
        let now = visit.now.unix_seconds;
        let timely = good.expires.is_none_or(|expires| now < expires.saturating_add(LEEWAY_SECONDS))
            && good.begins.is_none_or(|begins| now.saturating_add(LEEWAY_SECONDS) >= begins);
        if timely && good.info_hash == visit.announce.info_hash { Ok(()) } else { Err(Refusal::InvalidJwt) }
    }
}

impl JwtHook {
    /// Checks everything but time and torrent, which each announce is compared with.
    fn check_token(&self, token: &[u8], generation: u64) -> Option<VerifiedToken> {
        let token = str::from_utf8(token).ok()?;
        let header = decode_header(token).ok()?;
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256) {
            return None;
        }
        let claims = self.keyring.with_key(&header.kid?, |key| decode_claims(token, key))??;
        // Compared as text: the claim `infohash` is lower-case hexadecimal.
        let info_hash = claims
            .infohash
            .parse()
            .ok()
            .filter(|hash: &crate::InfoHash| hash.to_string() == claims.infohash)?;
        let good = claims.iss == self.issuer
            && claims.aud.contains(&self.audience)
            && (claims.exp.is_some() || !self.require_exp);
        good.then_some(VerifiedToken {
            info_hash,
            expires: claims.exp.map(claim_seconds),
            begins: claims.nbf.map(claim_seconds),
            generation,
        })
    }
}

/// Returns the claims of a token whose signature is that of the key, by the key's own algorithm.
fn decode_claims(token: &str, key: &VerificationKey) -> Option<JwtClaims> {
    let mut validation = Validation::new(key.algorithm);
    validation.required_spec_claims.clear();
    // The hook checks these itself: the time by its own argument, and anew for each announce.
    validation.validate_exp = false;
    validation.validate_aud = false;
    decode(token, &key.key, &validation).ok().map(|data| data.claims)
}

/// Returns the whole seconds of a date in a claim, which may have a fraction (RFC 7519, 2).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn claim_seconds(date: f64) -> u64 {
    date as u64
}
