//! The key of the connection ids where none is configured: that of a cluster is derived from its secret, so
//! that ids are valid on every node; otherwise it is made once and kept in a file that only its owner can
//! read, so that ids survive a restart (`rules/udp.md#connection-id-key`). Never logged.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hayate_state::ids::hex_value;
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::Settings;

/// Length of a generated key, in octets.
const KEY_LEN: usize = 32;
/// The salt of the keys that are derived from the secret of a cluster; all nodes must have the same.
const SALT: &[u8] = b"hayate cluster 1";
/// What a derived key is for: no other key of the cluster has these octets as its purpose.
const PURPOSE: &[u8] = b"udp";
/// Mode of the file: only its owner may read it.
const MODE: u32 = 0o600;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("{}: {source}; set udp.private_key, or make state_dir writable", path.display())]
    Unusable { path: PathBuf, source: std::io::Error },
    #[error("{}: no key, 64 hexadecimal digits are expected; without it a new one is made", path.display())]
    NotAKey { path: PathBuf },
    #[error("{}: mode {mode:03o}, expected 600: others must not read or write a key", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the system provides no random numbers")]
    NoRandom,
    #[error("no key can be derived from cluster.secret")]
    NotDerived,
}

/// Reads the key from the file.
///
/// # Errors
/// Fails when the file does not exist, cannot be read, is readable by others, or does not hold a key.
pub(crate) fn read_key(path: &Path) -> Result<Vec<u8>, KeyError> {
    let unusable = |source| KeyError::Unusable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unusable)?;
    let mode = file.metadata().map_err(unusable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Vec::new();
    file.take(1024).read_to_end(&mut text).map_err(unusable)?;
    decode_key(text.trim_ascii()).ok_or_else(|| KeyError::NotAKey { path: path.to_owned() })
}

/// Sets the key of the UDP server, if it is on: the configured one, or in a cluster the one that is derived
/// from its secret, or the one that is kept in its file.
///
/// # Errors
/// Fails when the file is not valid, or a new one cannot be made.
pub(crate) fn provide_key(settings: &mut Settings) -> Result<(), KeyError> {
    if let Some((_, config)) = &mut settings.udp {
        config.private_key = match (&settings.key, &settings.cluster) {
            (Some(key), _) => key.clone(),
            (None, Some(cluster)) => derive_key(&cluster.secret.0)?,
            (None, None) => read_or_make_key(&settings.key_file)?,
        };
    }
    Ok(())
}

/// Derives the key from the secret of a cluster, by HKDF-SHA256 (RFC 5869).
fn derive_key(secret: &[u8]) -> Result<Vec<u8>, KeyError> {
    let mut key = vec![0; KEY_LEN];
    let derived = Salt::new(HKDF_SHA256, SALT).extract(secret);
    let filled = derived.expand(&[PURPOSE], HKDF_SHA256).and_then(|octets| octets.fill(&mut key));
    filled.map_err(|_| KeyError::NotDerived)?;
    Ok(key)
}

/// Reads the key from the file, or makes a new one and keeps it there.
///
/// # Errors
/// Fails when the file is not valid, or a new one cannot be made.
fn read_or_make_key(path: &Path) -> Result<Vec<u8>, KeyError> {
    match read_key(path) {
        Err(KeyError::Unusable { source, .. }) if source.kind() == ErrorKind::NotFound => make_key(path),
        other => other,
    }
}

/// Makes a key and keeps it. It is written to a draft first and then linked, so that the file is never half
/// written, and two processes end up with the same key.
fn make_key(path: &Path) -> Result<Vec<u8>, KeyError> {
    let unusable = |source| KeyError::Unusable { path: path.to_owned(), source };
    let mut key = vec![0; KEY_LEN];
    SystemRandom::new().fill(&mut key).map_err(|_| KeyError::NoRandom)?;
    let draft = path.with_extension(format!("key.{}", std::process::id()));
    let written = write_key(&draft, &key).and_then(|()| std::fs::hard_link(&draft, path));
    // The draft is not needed any more, whether the link was made or not.
    let _ = std::fs::remove_file(&draft);
    match written {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read_key(path),
        Err(error) => Err(unusable(error)),
    }
}

fn write_key(draft: &Path, key: &[u8]) -> std::io::Result<()> {
    // A draft of the same process number was left by a crash.
    let _ = std::fs::remove_file(draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(draft)?;
    let digits: String = key.iter().map(|octet| format!("{octet:02x}")).collect();
    writeln!(file, "{digits}")?;
    file.sync_all()
}

fn decode_key(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.iter().map(|&digit| hex_value(digit)).collect();
    let octet = |pair: &[u8]| pair.iter().fold(0, |value, digit| value << 4 | digit);
    digits.filter(|digits| digits.len() == 2 * KEY_LEN).map(|digits| digits.chunks(2).map(octet).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::test_folder::TestFolder;
    use crate::config::{Environment, Source};
    use crate::daemon::jwk_fetch::NoFetch;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        let folder = TestFolder::new();
        let path = folder.path("udp.key");
        let key = read_or_make_key(&path).unwrap();
        assert_eq!(key.len(), KEY_LEN);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read_or_make_key(&path).unwrap(), key);
        assert_eq!(std::fs::read_dir(folder.path("")).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn the_key_of_a_cluster_follows_from_its_secret() {
        let key = |text: &str| {
            let folder = TestFolder::new();
            let path = folder.write("tracker.json", text);
            let source = Source::new(path.to_str(), Environment::default()).unwrap();
            let mut settings = source.read_settings(&NoFetch).unwrap().1;
            provide_key(&mut settings).unwrap();
            assert!(!folder.path("udp.key").exists(), "no key is made");
            settings.udp.unwrap().1.private_key
        };
        let cluster = |secret: &str, udp: &str| {
            key(&format!(
                r#"{{"udp": {{{udp}}},
                    "cluster": {{"node_id": "a", "secret": "{secret}", "redis": {{"url": "redis://h"}}}}}}"#
            ))
        };
        let derived = cluster("0123456789abcdef", "");
        let digits: String = derived.iter().map(|octet| format!("{octet:02x}")).collect();
        // Computed by another program: HMAC-SHA256 of RFC 5869, salt "hayate cluster 1", info "udp".
        assert_eq!(digits, "6bd0b8e33ab904c7dc67346ab5153b2b496c3820dc15dcdb139d4896e0afeff7");
        assert_eq!(cluster("0123456789abcdef", r#""workers": 7"#), derived);
        assert_ne!(cluster("0123456789abcdeg", ""), derived);
        let configured = cluster("0123456789abcdef", r#""private_key": "a key of its own""#);
        assert_eq!(configured, b"a key of its own");
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_kept() {
        let folder = TestFolder::new();
        for text in [String::new(), "xyz".into(), "0".repeat(63), "g".repeat(64), "0".repeat(66)] {
            let path = folder.write("udp.key", &text);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = read_or_make_key(&path).unwrap_err().to_string();
            assert!(error.contains("udp.key") && error.contains("64 hexadecimal"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = TestFolder::new();
        let path = folder.path("udp.key");
        read_or_make_key(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_key(&path), Err(KeyError::Exposed { mode: 0o644, .. })));
    }

    #[test]
    fn a_folder_that_is_not_there_says_what_to_do() {
        let error = read_or_make_key(&TestFolder::new().path("nowhere/udp.key")).unwrap_err().to_string();
        assert!(error.contains("nowhere/udp.key") && error.contains("state_dir"), "{error}");
    }
}
