//! The keys of the hook `jwt`: a JWK set (RFC 7517), read whole and swapped in one step.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use serde_json::Value;

/// Keys of one set that are looked at.
const KEYS_MAX: usize = 1024;
/// Keys that are skipped by name; further ones silently.
const SKIPPED_MAX: usize = 16;
/// Octets of a set that are read.
pub const JWK_SET_LEN_MAX: usize = 1024 * 1024;

/// A key with which tokens are signed.
pub(super) struct VerificationKey {
    kid: String,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The keys of one URL, renewed from time to time by whoever made it.
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

/// Where keyrings come from.
pub trait KeyringSource {
    /// The keyring of a URL, fetched if it is not there yet, and then every `interval_seconds`.
    ///
    /// # Errors
    /// Why there are no keys.
    fn keyring(&self, url: &str, interval_seconds: u64) -> Result<Arc<Keyring>, String>;

    /// What was not as it should be in the sets that were fetched since this was last called.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Why a set of keys is not one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadJwkSet {
    /// More octets than [`SET_LEN_MAX`].
    #[error("the set is longer than {JWK_SET_LEN_MAX} octets")]
    Long,
    /// No JSON object with a list `keys`.
    #[error("not a JWK set: a JSON object with a list \"keys\" is needed")]
    Syntax,
}

impl Keyring {
    /// Puts the keys of a JWK set in the place of the old ones. A key that cannot be used is skipped. Gives
    /// how many there are, and which were skipped and why.
    ///
    /// # Errors
    /// When it is no such set; then the old keys stay.
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
        // After the keys: whoever sees the new number sees the new keys.
        self.generation.fetch_add(1, Ordering::Release);
        Ok((count, skipped))
    }

    /// A number that grows with every set; tokens that were good by another set are looked at again.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Works with the key of that name.
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
