//! JWK sets over HTTP and HTTPS, for the hook `jwt`: fetched when a hook first needs them, renewed
//! periodically by a thread each, and kept across reloads (`rules/hooks.md#key-sets`).

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use hayate_state::admission::hooks::jwk::{JWK_SET_LEN_MAX, Keyring, KeyringSource};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

/// Longest time that one fetch may take.
const FETCH_MAX: Duration = Duration::from_secs(10);
/// Time that the thread of a keyring sleeps between two checks whether the keyring is still used.
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// The keyrings in use, by URL.
#[derive(Clone, Debug, Default)]
pub(crate) struct JwkSets(Arc<Mutex<FetchedSets>>);

#[derive(Debug, Default)]
struct FetchedSets {
    by_url: HashMap<String, FetchedSet>,
    /// Warnings that were not logged yet: the first set is fetched before there is a log.
    warnings: Vec<String>,
}

#[derive(Debug)]
struct FetchedSet {
    ring: Weak<Keyring>,
    /// Seconds between two fetches; a reload may change them.
    interval_seconds: Arc<AtomicU64>,
}

/// A source for commands that only read a configuration: every set is empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoFetch;

impl KeyringSource for NoFetch {
    fn keyring(&self, _: &str, _: u64) -> Result<Arc<Keyring>, String> {
        Ok(Arc::default())
    }
}

impl KeyringSource for JwkSets {
    fn keyring(&self, url: &str, interval_seconds: u64) -> Result<Arc<Keyring>, String> {
        let mut sets = self.0.lock().map_err(|_| "a thread has panicked".to_owned())?;
        sets.by_url.retain(|_, set| set.ring.strong_count() > 0);
        if let Some(set) = sets.by_url.get(url)
            && let Some(ring) = set.ring.upgrade()
        {
            set.interval_seconds.store(interval_seconds, Ordering::Relaxed);
            return Ok(ring);
        }
        let ring = Arc::new(Keyring::default());
        let (count, skipped) = renew_keys(&ring, url)?;
        sets.warnings.extend(skipped);
        if count == 0 {
            let text = format!("the JWK set at {} has no key: every token is refused", without_secrets(url));
            sets.warnings.push(text);
        }
        let interval = Arc::new(AtomicU64::new(interval_seconds));
        let (weak, own_url, own_interval) = (Arc::downgrade(&ring), url.to_owned(), Arc::clone(&interval));
        thread::Builder::new()
            .name("jwk".into())
            .spawn(move || renew_until_unused(&weak, &own_url, &own_interval))
            .map_err(|error| error.to_string())?;
        sets.by_url
            .insert(url.to_owned(), FetchedSet { ring: Arc::downgrade(&ring), interval_seconds: interval });
        Ok(ring)
    }

    fn warnings(&self) -> Vec<String> {
        self.0.lock().map(|mut sets| std::mem::take(&mut sets.warnings)).unwrap_or_default()
    }
}

/// Renews the keys until no hook uses them any more. After a failure the old keys stay.
fn renew_until_unused(ring: &Weak<Keyring>, url: &str, interval_seconds: &AtomicU64) {
    let mut slept = 0;
    loop {
        thread::sleep(CHECK_PAUSE);
        slept += CHECK_PAUSE.as_secs();
        let Some(ring) = ring.upgrade() else { return };
        if slept < interval_seconds.load(Ordering::Relaxed) {
            continue;
        }
        slept = 0;
        match renew_keys(&ring, url) {
            Ok((_, skipped)) => skipped.iter().for_each(|text| log::warn!("{text}")),
            Err(error) => {
                log::warn!(
                    "the JWK set at {} is not renewed, the old keys stay: {error}",
                    without_secrets(url)
                );
            }
        }
    }
}

fn renew_keys(ring: &Keyring, url: &str) -> Result<(usize, Vec<String>), String> {
    ring.replace_keys(&fetch_set(url)?).map_err(|error| error.to_string())
}

/// Fetches a set: status 200, at most [`JWK_SET_LEN_MAX`] octets, within [`FETCH_MAX`].
fn fetch_set(url: &str) -> Result<Vec<u8>, String> {
    // The machine's own list of certificate authorities, so that an operator can add one.
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let agent: Agent = Agent::config_builder().timeout_global(Some(FETCH_MAX)).tls_config(tls).build().into();
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    if response.status() != 200 {
        return Err(format!("status {} instead of 200", response.status().as_u16()));
    }
    let mut octets = Vec::new();
    // One octet more, so that a set that is too long is noticed.
    let mut body = response.body_mut().as_reader().take(JWK_SET_LEN_MAX as u64 + 1);
    body.read_to_end(&mut octets).map_err(|error| error.to_string())?;
    Ok(octets)
}

/// Returns the URL without the parts that may hold a secret.
fn without_secrets(url: &str) -> &str {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = url.get(..end).unwrap_or_default();
    let begin = url.rfind('@').map_or(0, |at| at + 1);
    url.get(begin..).unwrap_or_default()
}
