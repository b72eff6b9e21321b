//! The keys of the hook `jwt`: a JWK set (RFC 7517), read whole and replaced in one step.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use serde_json::Value;

/// Keys of one set that are looked at.
const KEYS_MAX: usize = 1024;
/// Skipped keys that are reported; further ones are skipped silently.
const SKIPPED_MAX: usize = 16;
/// Octets of the longest set that is read.
pub const JWK_SET_LEN_MAX: usize = 1024 * 1024;

/// A key that verifies signatures of tokens.
pub(super) struct VerificationKey {
    kid: String,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The keys of one URL, shared by the hooks that verify with them and the [`KeyringSource`] that renews them.
#[derive(Default)]
pub struct Keyring {
    keys: RwLock<Arc<Vec<VerificationKey>>>,
    generation: AtomicU64,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("keys", &self.keys.read().len()).finish_non_exhaustive()
    }
}

/// A source of keyrings, by URL.
pub trait KeyringSource {
    /// Returns the keyring of a URL, fetched if it is not there yet, and then every `interval_seconds`.
    ///
    /// # Errors
    /// Fails with the reason when there are no keys.
    fn keyring(&self, url: &str, interval_seconds: u64) -> Result<Arc<Keyring>, String>;

    /// Returns what was wrong with the sets that were fetched since the last call.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The reason for which a text is not a JWK set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadJwkSet {
    /// It has more octets than [`JWK_SET_LEN_MAX`].
    #[error("the set is longer than {JWK_SET_LEN_MAX} octets")]
    Long,
    /// It is not a JSON object with a list `keys`.
    #[error("not a JWK set: a JSON object with a list \"keys\" is needed")]
    Syntax,
}

impl Keyring {
    /// Replaces the keys by those of a JWK set. A key that cannot be used is skipped. Returns the number of
    /// keys, and which were skipped and why.
    ///
    /// # Errors
    /// Fails when `set` is not a JWK set; the old keys stay then.
    pub fn replace_keys(&self, set: &[u8]) -> Result<(usize, Vec<String>), BadJwkSet> {
        if set.len() > JWK_SET_LEN_MAX {
            return Err(BadJwkSet::Long);
        }
        let set: Value = serde_json::from_slice(set).map_err(|_| BadJwkSet::Syntax)?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or(BadJwkSet::Syntax)?;
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (at, value) in listed.iter().enumerate() {
            let read =
                if at < KEYS_MAX { parse_key(value) } else { Err(format!("the first {KEYS_MAX} are read")) };
            match read {
                Ok(key) => keys.push(key),
                Err(text) if skipped.len() < SKIPPED_MAX => {
                    skipped.push(format!("key {} of a JWK set is skipped: {text}", at + 1));
                }
                Err(_) => {}
            }
        }
        let count = keys.len();
        *self.keys.write() = Arc::new(keys);
        // After the keys: a reader that sees the new number sees the new keys.
        self.generation.fetch_add(1, Ordering::Release);
        Ok((count, skipped))
    }

    /// Returns the number of the current set, which grows with every set: tokens that were verified with
    /// another set are verified again.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Runs `work` on the key with this id; `None` where there is none.
    pub(super) fn with_key<T>(&self, kid: &str, work: impl FnOnce(&VerificationKey) -> T) -> Option<T> {
        let keys = Arc::clone(&self.keys.read());
        keys.iter().find(|key| key.kid == kid).map(work)
    }
}

fn parse_key(value: &Value) -> Result<VerificationKey, String> {
    let jwk: Jwk = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        _ => return Err("only RSA keys and P-256 keys are used".to_owned()),
    };
    match (jwk.common.key_algorithm, algorithm) {
        (None, _)
        | (Some(KeyAlgorithm::RS256), Algorithm::RS256)
        | (Some(KeyAlgorithm::ES256), Algorithm::ES256) => {}
        (Some(other), _) => return Err(format!("it is for {other}, only RS256 and ES256 are used")),
    }
    let kid = jwk.common.key_id.clone().ok_or("it has no kid")?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
    Ok(VerificationKey { kid, algorithm, key })
}
